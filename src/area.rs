// SPDX-License-Identifier: GPL-2.0

//! Memory areas: sets of pinned spans, the regions, independent of any device.
//!
//! A region is held by its area and by every attachment; its pages are released with the last of them. The
//! lock of an area is held for bookkeeping only, never while user memory is touched.

use crate::{
    ffi::pinned::Pages,
    span::Span, //
};
use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

/// Most regions that an area can have.
const MAX_REGIONS: usize = 1024;

/// A pinned span of memory.
pub(crate) struct Region {
    /// Its addresses.
    pub(crate) span: Span,
    /// Its pages.
    pub(crate) pages: Pages,
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

    /// Pins `span` and adds it. Returns the region's number, counted from one.
    pub(crate) fn add(&self, span: Span) -> Result<u32> {
        // Before memory is pinned for nothing, and again when it counts.
        check(&self.regions.lock(), span)?;
        let region = Arc::new(
            Region {
                span,
                pages: Pages::pin(span)?,
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
            // Releasing pages takes time.
            drop(regions);
            drop(region);
        }
    }

    /// The region with number `index`.
    pub(crate) fn get(&self, index: u32) -> Result<Arc<Region>> {
        let at = (index as usize).checked_sub(1).ok_or(ENOENT)?;
        self.regions.lock().get(at).cloned().ok_or(ENOENT)
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
