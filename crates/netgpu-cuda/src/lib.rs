// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory of NVIDIA GPUs, as netgpu needs it: memory that a NIC may read and write while the CUDA program runs.
//!
//! The CUDA driver (`libcuda.so.1`) is loaded at run time. A program that uses this crate starts without it, and
//! [`Gpu::open`] then says what is missing.
//!
//! ```no_run
//! # fn main() -> Result<(), netgpu_cuda::Error> {
//! let gpu = netgpu_cuda::Gpu::open(0)?;
//! let mut memory = gpu.allocate(1 << 20)?;
//! memory.write(0, b"hello")?;
//! let dma_buf: std::os::fd::OwnedFd = memory.export()?;
//! # Ok(())
//! # }
//! ```

mod driver;

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use driver::{Allocation, Context};

/// Lengths of GPU memory are rounded up to a multiple of this many bytes.
///
/// The driver cuts smaller allocations out of blocks of this size, and devices are given memory in pages of 64 KiB: a
/// NIC would then reach memory next to ours.
pub const GRANULE: usize = 2 << 20;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The CUDA driver's library is not there.
    #[error(
        "there is no CUDA driver here: libcuda.so.1 cannot be loaded; install NVIDIA's driver, or use host memory"
    )]
    NoDriver,

    /// The CUDA driver lacks a function.
    #[error(
        "the CUDA driver here has no function {function}; install a newer one (11.7 or later)",
        function = .0
    )]
    OldDriver(&'static str),

    /// There is no GPU of this number.
    #[error(
        "there is no GPU {ordinal} here: the CUDA driver knows {count}; `nvidia-smi -L` lists them"
    )]
    NoGpu {
        /// The number.
        ordinal: u32,
        /// How many there are.
        count: u32,
    },

    /// The GPU's memory cannot be exported to other devices.
    #[error(
        "{gpu} cannot export memory as dma-buf; this needs the open flavour of NVIDIA's kernel modules"
    )]
    NoDmaBuf {
        /// Name of the GPU.
        gpu: String,
    },

    /// A length is zero or too large.
    #[error("cannot allocate {len} bytes of GPU memory: the length is zero or too large", len = .0)]
    Length(usize),

    /// Bytes outside the memory were asked for.
    #[error("{len} bytes at {offset} do not lie in GPU memory of {size} bytes")]
    Range {
        /// First byte.
        offset: usize,
        /// Number of bytes.
        len: usize,
        /// Bytes there are.
        size: usize,
    },

    /// The CUDA driver refused a call.
    #[error("{call}: {text} (CUDA error {code})")]
    Cuda {
        /// Name of the driver's function.
        call: &'static str,
        /// The driver's error, a `CUresult`.
        code: u32,
        /// The driver's text for it.
        text: String,
    },
}

impl Error {
    /// The errno that says as much as that can.
    pub fn errno(&self) -> i32 {
        // Of cuda.h.
        const INVALID_VALUE: u32 = 1;
        const OUT_OF_MEMORY: u32 = 2;
        match self {
            Self::NoDriver | Self::NoGpu { .. } => libc::ENODEV,
            Self::OldDriver(_) => libc::ENOSYS,
            Self::NoDmaBuf { .. } => libc::EOPNOTSUPP,
            Self::Length(_) | Self::Range { .. } => libc::EINVAL,
            Self::Cuda { code, .. } => match *code {
                INVALID_VALUE => libc::EINVAL,
                OUT_OF_MEMORY => libc::ENOMEM,
                _ => libc::EIO,
            },
        }
    }
}

/// A GPU, opened through its primary context, which CUDA's runtime API uses as well.
///
/// Cloning makes another handle to the same.
#[derive(Debug, Clone)]
pub struct Gpu {
    context: Arc<Context>,
}

impl Gpu {
    /// Opens the GPU with number `ordinal`, counted from zero as CUDA does (`CUDA_VISIBLE_DEVICES` applies).
    ///
    /// # Errors
    ///
    /// [`Error::NoDriver`], [`Error::OldDriver`] and [`Error::NoGpu`] when something is missing, [`Error::Cuda`] when the
    /// driver does not start.
    pub fn open(ordinal: u32) -> Result<Self, Error> {
        Ok(Self {
            context: Arc::new(Context::open(ordinal)?),
        })
    }

    /// Opens the calling thread's current GPU, as cudaSetDevice() or the driver API has it, or else the first.
    ///
    /// # Errors
    ///
    /// As [`Gpu::open`].
    pub fn current() -> Result<Self, Error> {
        Self::open(Context::current()?.unwrap_or(0))
    }

    /// Its number, as CUDA counts.
    pub fn ordinal(&self) -> u32 {
        self.context.ordinal()
    }

    /// Waits until the GPU has done what it was given in its primary context, by whatever thread and stream.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`], also when something that it was given failed.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.context.synchronize()
    }

    /// The GPU's name, for example "NVIDIA H100 80GB HBM3".
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`].
    pub fn name(&self) -> Result<String, Error> {
        self.context.name()
    }

    /// The newest version of CUDA that the driver knows.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`].
    pub fn cuda_version(&self) -> Result<CudaVersion, Error> {
        let version = self.context.version()?;
        Ok(CudaVersion {
            major: version / 1000,
            minor: version % 1000 / 10,
        })
    }

    /// Whether [`GpuMemory::export`] can work.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`].
    pub fn has_dma_buf(&self) -> Result<bool, Error> {
        self.context.has_dma_buf()
    }

    /// Allocates at least `len` bytes: rounded up to a multiple of [`GRANULE`]. Its content is undefined.
    ///
    /// Copies of CUDA that touch the memory end before the call that started them returns (`CU_POINTER_ATTRIBUTE_SYNC_MEMOPS`):
    /// else they could overtake what another device does to it.
    ///
    /// # Errors
    ///
    /// [`Error::Length`]; [`Error::Cuda`] most often when the GPU has not so much memory free.
    pub fn allocate(&self, len: usize) -> Result<GpuMemory, Error> {
        let len = round_up(len).ok_or(Error::Length(len))?;
        Ok(GpuMemory {
            allocation: Allocation::new(self.context.clone(), len)?,
        })
    }
}

fn round_up(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(GRANULE)
        .filter(|&len| len != 0)
}

/// A version of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// The 13 of 13.0.
    pub major: u32,
    /// The 0 of 13.0.
    pub minor: u32,
}

impl fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A span of GPU memory, freed when dropped. A dma-buf that was exported from it keeps the memory alive by itself.
#[derive(Debug)]
pub struct GpuMemory {
    allocation: Allocation,
}

impl GpuMemory {
    /// Takes memory that the caller has allocated with CUDA, and frees. What [`Gpu::allocate`] says of
    /// copies holds for it too, from now on.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`] when `address` is no memory of a GPU; [`Error::NoDriver`], [`Error::OldDriver`].
    ///
    /// # Safety
    ///
    /// If `address` is memory of a GPU, the `len` bytes there are of one allocation now, and whenever the result is read, written
    /// or exported; and nobody writes to them meanwhile.
    pub unsafe fn from_raw(address: u64, len: usize) -> Result<Self, Error> {
        let gpu = Gpu::open(Context::owner(address)?)?;
        // SAFETY: By the caller's promise; the driver says that the memory is this GPU's.
        let allocation = unsafe { Allocation::of_another(gpu.context, address, len) }?;
        Ok(Self { allocation })
    }

    /// Address of the first byte on the GPU, a `CUdeviceptr`. The CPU cannot use it.
    pub fn address(&self) -> u64 {
        self.allocation.address()
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> usize {
        self.allocation.len()
    }

    /// The GPU that has it.
    pub fn gpu(&self) -> Gpu {
        Gpu {
            context: self.allocation.context().clone(),
        }
    }

    /// Whether copies that touch the memory end before their call returns. [`Gpu::allocate`] has asked for it.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`].
    pub fn is_synchronous(&self) -> Result<bool, Error> {
        self.allocation.is_synchronous()
    }

    /// Copies `data` to `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Range`] when it does not fit; [`Error::Cuda`].
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Error> {
        self.check(offset, data.len())?;
        self.allocation.write(offset, data)
    }

    /// Fills `data` with a copy of what is at `offset`.
    ///
    /// # Errors
    ///
    /// [`Error::Range`] when there is not so much; [`Error::Cuda`].
    pub fn read(&self, offset: usize, data: &mut [u8]) -> Result<(), Error> {
        self.check(offset, data.len())?;
        self.allocation.read(offset, data)
    }

    /// Exports all of the memory as a dma-buf, which other devices can import.
    ///
    /// # Errors
    ///
    /// [`Error::NoDmaBuf`] when this GPU with this driver cannot; [`Error::Cuda`].
    pub fn export(&self) -> Result<OwnedFd, Error> {
        self.allocation.export()
    }

    fn check(&self, offset: usize, len: usize) -> Result<(), Error> {
        let size = self.len();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::Range { offset, len, size }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_whole_granules() {
        assert_eq!(round_up(1), Some(GRANULE));
        assert_eq!(round_up(GRANULE), Some(GRANULE));
        assert_eq!(round_up(GRANULE + 1), Some(2 * GRANULE));
        assert_eq!(round_up(0), None);
        assert_eq!(round_up(usize::MAX), None);
    }

    #[test]
    fn what_is_missing_is_said() {
        let text = Error::NoDriver.to_string();
        assert!(text.contains("libcuda.so.1") && text.contains("install"));
        let text = Error::NoGpu {
            ordinal: 3,
            count: 1,
        }
        .to_string();
        assert!(text.contains("no GPU 3") && text.contains("nvidia-smi"));
    }
}
