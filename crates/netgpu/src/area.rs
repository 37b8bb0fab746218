// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory areas and their regions: pinned spans of memory, independent of any device.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Command, Error};
use crate::memory::HostMemory;
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
    /// Bytes of a receive buffer, of which regions are multiples.
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
    /// [`Error::Refused`], most often because RLIMIT_MEMLOCK does not allow as much pinned memory.
    pub fn add(&self, memory: HostMemory) -> Result<Region, Error> {
        let mut argument = sys::netgpu_add_region {
            addr: memory.start().as_ptr().expose_provenance() as u64,
            len: memory.len() as u64,
            type_: sys::NETGPU_REGION_HOST,
            ..Default::default()
        };
        let added = self.shared.device.add_region(&mut argument);
        added.map_err(|error| {
            Error::refused(Command::AddRegion, format!("{} bytes", memory.len()), error)
        })?;

        let buffers = memory.len() / self.shared.buffer_size;
        let shared = RegionShared {
            free: Mutex::new(Extents::new(buffers)),
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
/// Its bytes are reached through [`Span`]s, each of which owns a part. Cloning makes another handle to the same
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
    memory: HostMemory,
    index: u32,
    area: Arc<AreaShared>,
}

impl Region {
    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.shared.memory.len()
    }

    /// Takes `len` contiguous bytes of the region, rounded up to whole buffers; [`None`] when so much is not free in
    /// one piece. They are free again when the span is dropped.
    pub fn take(&self, len: usize) -> Option<Span> {
        let buffers = len.div_ceil(self.shared.area.buffer_size);
        let first = self.shared.free().take(buffers)?;
        Some(Span::new(self.shared.clone(), first, buffers))
    }
}

impl RegionShared {
    pub(crate) fn free(&self) -> std::sync::MutexGuard<'_, Extents> {
        // What is under the lock is whole between its methods, none of which panics half-way.
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory(&self) -> &HostMemory {
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
