// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory areas and their regions: pinned spans of memory, independent of any device.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::error::{Command, Error};
#[cfg(feature = "cuda")]
use crate::memory::CudaMemory;
use crate::memory::{DmaBufMemory, HostMemory, Memory};
use crate::span::{Extents, Span};
use crate::sys::{self, Device};

/// A set of pinned spans of memory, the regions, that any number of contexts can attach.
///
/// Cloning makes another handle to the same area.
#[derive(Debug, Clone)]
pub struct MemoryArea {
    shared: Arc<AreaShared>,
}

#[derive(Debug)]
struct AreaShared {
    device: Device,
    /// Bytes of the smallest receive buffer, of which regions and spans are multiples.
    buffer_size: usize,
}

impl MemoryArea {
    /// Opens an area without regions.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] without the kernel module or access to it, [`Error::Version`] when it is another version's.
    pub fn new() -> Result<Self, Error> {
        let (device, info) = open_device()?;
        let shared = AreaShared {
            device,
            buffer_size: info.buffer_size as usize,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Pins `memory` as a region of this area.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`], most often because RLIMIT_MEMLOCK does not allow as much pinned memory. No two regions of a process
    /// overlap, of whatever area.
    pub fn add(&self, memory: HostMemory) -> Result<Region, Error> {
        let argument = sys::netgpu_add_region {
            type_: sys::NETGPU_REGION_HOST,
            ..Default::default()
        };
        self.add_memory(Memory::Host(memory), argument)
    }

    /// Adds a part of a dma-buf as a region of this area.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when `memory` is no part of a dma-buf.
    pub fn add_dma_buf(&self, memory: DmaBufMemory) -> Result<Region, Error> {
        let argument = sys::netgpu_add_region {
            type_: sys::NETGPU_REGION_DMABUF,
            dmabuf_fd: memory.fd(),
            dmabuf_offset: memory.offset(),
            ..Default::default()
        };
        self.add_memory(Memory::DmaBuf(memory), argument)
    }

    /// Adds memory of a GPU as a region of this area: as dma-buf where the GPU can export one, else through NVIDIA's
    /// peer-to-peer interface.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`]; [`Error::Refused`] most often because NVIDIA's kernel driver is its closed flavour.
    #[cfg(feature = "cuda")]
    pub fn add_cuda(&self, memory: netgpu_cuda::GpuMemory) -> Result<Region, Error> {
        // Open until the kernel has it.
        let fd = match memory.export() {
            Ok(fd) => Some(fd),
            Err(netgpu_cuda::Error::NoDmaBuf { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let argument = match &fd {
            Some(fd) => sys::netgpu_add_region {
                type_: sys::NETGPU_REGION_DMABUF,
                dmabuf_fd: fd.as_raw_fd(),
                ..Default::default()
            },
            None => sys::netgpu_add_region {
                type_: sys::NETGPU_REGION_CUDA,
                ..Default::default()
            },
        };
        self.add_memory(Memory::Cuda(CudaMemory::new(memory)), argument)
    }

    /// Adds `memory`; `argument` says in which way.
    fn add_memory(
        &self,
        memory: Memory,
        mut argument: sys::netgpu_add_region,
    ) -> Result<Region, Error> {
        argument.addr = memory.start() as u64;
        argument.len = memory.len() as u64;
        let command = if memory.is_gpu() {
            Command::AddGpuRegion
        } else {
            Command::AddRegion
        };
        let refused = |error| Error::refused(command, format!("{} bytes", memory.len()), error);
        let claim =
            Claim::new(memory.start(), memory.len()).ok_or_else(|| refused(Errno::EXIST.into()))?;
        self.shared
            .device
            .add_region(&mut argument)
            .map_err(refused)?;

        let buffers = memory.len() / self.shared.buffer_size;
        let shared = RegionShared {
            free: Mutex::new(Extents::new(buffers)),
            _claim: claim,
            memory,
            index: argument.index,
            area: self.shared.clone(),
        };
        Ok(Region {
            shared: Arc::new(shared),
        })
    }
}

/// A pinned span of memory.
///
/// Its bytes are reached through [`Span`]s, each of which owns a part; those that are not the CPU's by copies alone. Cloning makes another handle to the same
/// region. The memory is unmapped when all handles, spans, and attachments of the region are gone.
#[derive(Debug, Clone)]
pub struct Region {
    pub(crate) shared: Arc<RegionShared>,
}

/// # Invariants
///
/// A buffer of `memory` is free in `free`, or part of exactly one [`Span`], or was given to the kernel as part of one.
#[derive(Debug)]
pub(crate) struct RegionShared {
    free: Mutex<Extents>,
    // Given up before the memory: after that, others can have the addresses.
    _claim: Claim,
    memory: Memory,
    index: u32,
    area: Arc<AreaShared>,
}

/// The addresses of all regions of this process: start and end. The kernel compares those of one area only.
static CLAIMED: Mutex<BTreeMap<usize, usize>> = Mutex::new(BTreeMap::new());

/// Addresses that are one region's alone in this process.
#[derive(Debug)]
struct Claim {
    start: usize,
}

impl Claim {
    /// [`None`] when a part of it is claimed already.
    fn new(start: usize, len: usize) -> Option<Self> {
        // Nothing is refused by the kernel; two claims never start at one address.
        let end = start.checked_add(len.max(1))?;
        let mut claimed = claimed();
        let before = claimed.range(..end).next_back();
        if before.is_some_and(|(_, &before)| before > start) {
            return None;
        }
        claimed.insert(start, end);
        Some(Self { start })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        claimed().remove(&self.start);
    }
}

fn claimed() -> std::sync::MutexGuard<'static, BTreeMap<usize, usize>> {
    // What is under the lock is whole at every step.
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Region {
    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.shared.memory.len()
    }

    /// The address that stands for the first byte, in [`raw`](crate::raw) too.
    pub fn address(&self) -> usize {
        self.shared.memory.start()
    }

    /// Whether the CPU reaches the bytes: else spans and pieces of the region panic when they are used as slices.
    pub fn is_host(&self) -> bool {
        self.shared.memory.host().is_some()
    }

    /// The GPU whose memory it is, if it is one's.
    #[cfg(feature = "cuda")]
    pub fn gpu(&self) -> Option<netgpu_cuda::Gpu> {
        match self.shared.memory() {
            Memory::Cuda(memory) => Some(memory.gpu.clone()),
            _ => None,
        }
    }

    /// Takes `len` contiguous bytes of the region, rounded up to whole buffers of the smallest size, from the lowest place where so many
    /// are free; [`None`] when there is none. They are free again when the span is dropped.
    pub fn take(&self, len: usize) -> Option<Span> {
        let buffers = len.div_ceil(self.shared.area.buffer_size);
        let first = self.shared.free().take(buffers)?;
        Some(Span::new(self.shared.clone(), first, buffers))
    }
}

impl RegionShared {
    /// A region of so many buffers that no kernel knows.
    #[cfg(test)]
    pub(crate) fn fake(buffers: usize) -> Arc<Self> {
        let buffer_size = 4096;
        let memory = HostMemory::new(buffers * buffer_size, crate::Backing::Anonymous)
            .expect("there is so much memory");
        let start = memory.start().as_ptr().expose_provenance();
        Arc::new(Self {
            free: Mutex::new(Extents::new(buffers)),
            _claim: Claim::new(start, memory.len()).expect("it is new"),
            memory: Memory::Host(memory),
            index: 1,
            area: Arc::new(AreaShared {
                device: Device::fake(),
                buffer_size,
            }),
        })
    }

    pub(crate) fn free(&self) -> std::sync::MutexGuard<'_, Extents> {
        // What is under the lock is whole between its methods, none of which panics half-way.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    pub(crate) fn buffer_size(&self) -> usize {
        self.area.buffer_size
    }

    /// Number of the region in its area.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    pub(crate) fn area_fd(&self) -> RawFd {
        self.area.device.as_raw_fd()
    }
}

/// Opens the device and makes sure that it speaks our version of the interface.
pub(crate) fn open_device() -> Result<(Device, sys::netgpu_info), Error> {
    let device = Device::open().map_err(|source| Error::Device { source })?;
    let info = device
        .info()
        .map_err(|error| Error::refused(Command::Info, sys::DEVICE, error))?;
    if info.version != sys::NETGPU_API_VERSION {
        return Err(Error::Version {
            kernel: info.version,
            library: sys::NETGPU_API_VERSION,
        });
    }
    Ok((device, info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_do_not_overlap() {
        // Addresses that no memory of a process has, so that other tests are out of the way.
        let base = usize::MAX - 0x10000;
        let middle = Claim::new(base + 0x4000, 0x4000).expect("nobody has it");
        for (start, len) in [
            (0x4000, 0x4000),
            (0x5000, 0x1000),
            (0x3000, 0x1001),
            (0x7fff, 1),
            (0x1000, 0xa000),
            (0x4000, 0),
        ] {
            let overlaps = Claim::new(base + start, len);
            assert!(overlaps.is_none(), "{len:#x} bytes at {start:#x}");
        }
        let below = Claim::new(base + 0x3000, 0x1000).expect("it ends where the other begins");
        let above = Claim::new(base + 0x8000, 0x1000).expect("it begins where the other ends");
        assert!(Claim::new(base, 0x8000).is_none());
        drop((below, middle, above));
        assert!(Claim::new(base, 0xa000).is_some());
        assert!(Claim::new(usize::MAX, 2).is_none());
    }
}
