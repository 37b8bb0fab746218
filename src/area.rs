// SPDX-License-Identifier: GPL-2.0

//! Memory areas: sets of spans of memory, the regions, independent of any device.
//!
//! A region is held by its area and by every attachment; its memory is released with the last of them. The
//! lock of an area is held for bookkeeping only, never while user memory is touched.

use crate::{
    ffi::{
        dmabuf::DmaBuf,
        gpu::GpuPages,
        pinned::Pages, //
    },
    nospec,
    span::Span, //
};
use kernel::{
    error::code::ERANGE,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// Most regions that an area can have.
const MAX_REGIONS: usize = 1024;

/// What a region is made of.
pub(crate) enum Memory {
    /// Pinned pages.
    Host(Pages),
    /// A dma-buf, from an offset on.
    DmaBuf(Arc<DmaBuf>, usize),
    /// Pages of a GPU.
    Gpu(GpuPages),
}

/// Where a region is to come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// What the current process has at the span's addresses.
    Host,
    /// The dma-buf with this descriptor, from an offset on.
    DmaBuf {
        /// The descriptor.
        fd: i32,
        /// The offset.
        offset: usize,
    },
    /// What CUDA has at the span's addresses.
    Gpu,
}

impl Source {
    fn memory(self, span: Span) -> Result<Memory> {
        match self {
            Self::Host => Ok(Memory::Host(Pages::pin(span)?)),
            Self::Gpu => Ok(Memory::Gpu(GpuPages::pin(span)?)),
            Self::DmaBuf { fd, offset } => {
                let dmabuf = DmaBuf::get(fd)?;
                let end = offset.checked_add(span.len()).ok_or(EINVAL)?;
                if end > dmabuf.len() {
                    return Err(ERANGE);
                }
                Ok(Memory::DmaBuf(
                    Arc::new(dmabuf, GFP_KERNEL_ACCOUNT)?,
                    offset,
                ))
            }
        }
    }
}

/// A span of memory.
pub(crate) struct Region {
    /// Its addresses.
    pub(crate) span: Span,
    /// Its memory. A dma-buf has all of the span, and so have pages of a GPU.
    pub(crate) memory: Memory,
}

/// A memory area.
#[pin_data]
pub(crate) struct Area {
    #[pin]
    regions: Mutex<KVec<Arc<Region>>>,
}

impl Area {
    /// An area without regions.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            regions <- new_mutex!(KVec::new(), "netgpu::Area::regions"),
        })
    }

    /// Adds the memory of `source` at `span`. Returns the region's number, counted from one.
    pub(crate) fn add(&self, span: Span, source: Source) -> Result<u32> {
        // Before memory is pinned for nothing, and again when it counts.
        check(&self.regions.lock(), span)?;
        let region = Arc::new(
            Region {
                span,
                memory: source.memory(span)?,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut regions = self.regions.lock();
        check(&regions, span)?;
        regions.push(region, GFP_KERNEL_ACCOUNT)?;
        Ok(regions.len() as u32)
    }

    /// Undoes an [`Self::add`] that returned `index`, if nothing was added since.
    pub(crate) fn undo(&self, index: u32) {
        let mut regions = self.regions.lock();
        if regions.len() as u32 == index {
            let region = regions.pop();
            // Releasing memory takes time.
            drop(regions);
            drop(region);
        }
    }

    /// The region with number `index`.
    pub(crate) fn get(&self, index: u32) -> Result<Arc<Region>> {
        let at = (index as usize).checked_sub(1).ok_or(ENOENT)?;
        let regions = self.regions.lock();
        nospec::get(&regions, at).cloned().ok_or(ENOENT)
    }
}

fn check(regions: &KVec<Arc<Region>>, span: Span) -> Result {
    if regions.iter().any(|region| region.span.overlaps(&span)) {
        return Err(EEXIST);
    }
    if regions.len() >= MAX_REGIONS {
        return Err(ENOSPC);
    }
    Ok(())
}
