// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that is registered: `64M` of the host, or `cuda:64M` of a GPU.

use std::fmt;

use anyhow::{Result, bail};
use netgpu::{Backing, HostMemory, MemoryArea, Region};

use netgpu_bench::Size;

/// Memory on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Host(Size),
    /// Of the first GPU.
    Cuda(Size),
}

impl Memory {
    /// For clap. Without a size of its own, a GPU's memory has `size`.
    pub(crate) fn parse(text: &str, size: Size) -> Result<Self, String> {
        match text.strip_prefix("cuda") {
            Some("") => Ok(Self::Cuda(size)),
            Some(rest) => match rest.strip_prefix(':') {
                Some(size) => Size::parse(size).map(Self::Cuda),
                None => Err(format!("{text:?} is neither SIZE nor cuda:SIZE")),
            },
            None => Size::parse(text).map(Self::Host),
        }
    }

    /// Whether it is the CPU's.
    pub(crate) fn is_host(self) -> bool {
        matches!(self, Self::Host(_))
    }

    /// Makes a region of an area of its own.
    pub(crate) fn register(self, huge: bool) -> Result<Region> {
        let area = MemoryArea::new()?;
        Ok(match self {
            Self::Host(size) => {
                let backing = if huge {
                    Backing::Huge2M
                } else {
                    Backing::Anonymous
                };
                area.add(HostMemory::new(size.0, backing)?)?
            }
            Self::Cuda(_) if huge => bail!("--huge is for memory of the host"),
            Self::Cuda(size) => {
                let gpu = netgpu_cuda::Gpu::open(0)?;
                area.add_cuda(gpu.allocate(size.0)?)?
            }
        })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(size) => write!(f, "{size}"),
            Self::Cuda(size) => write!(f, "cuda:{size}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_of_the_host_or_of_a_gpu() {
        let size = Size::mebibytes(16);
        let parse = |text| Memory::parse(text, size);
        assert_eq!(parse("64M"), Ok(Memory::Host(Size::mebibytes(64))));
        assert_eq!(parse("cuda"), Ok(Memory::Cuda(size)));
        assert_eq!(parse("cuda:64M"), Ok(Memory::Cuda(Size::mebibytes(64))));
        assert!(parse("cuda64M").is_err());
        assert!(parse("cuda:").is_err());
        assert!(parse("rocm").is_err());
    }
}
