// SPDX-License-Identifier: GPL-2.0

//! Pinned pages, mapped for a device.

use super::{
    abi,
    device::Device,
    pinned::Pages, //
};
use kernel::{
    bindings,
    error::{
        code::EIO,
        to_result, //
    },
    ffi::{
        c_uint,
        c_ulong, //
    },
    page::PAGE_SIZE,
    prelude::*,
    scatterlist::SGTable,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};

/// Device and CPU see the same bytes at any time, or the pages are not mapped: nobody syncs them. So they may be mapped as often
/// as contexts like, too, which the DMA API's debugging otherwise takes for a leak.
const DMA_ATTRS: c_ulong =
    (bindings::DMA_ATTR_SKIP_CPU_SYNC | bindings::DMA_ATTR_REQUIRE_COHERENT) as c_ulong;

/// Most bytes of a segment: whole buffers of any size.
const MAX_SEGMENT: c_uint = 1 << 31;

/// A DMA mapping of pages. Its owner keeps pages and device.
///
/// # Invariants
///
/// `sgt` is a table of the pages, and while `mapped` it is mapped for `dma`.
pub(super) struct HostMap {
    dma: *mut abi::device,
    sgt: Opaque<bindings::sg_table>,
    mapped: Atomic<bool>,
}

impl HostMap {
    /// Maps `pages` for `device`.
    ///
    /// # Safety
    ///
    /// Both outlive the result.
    pub(super) unsafe fn new(pages: &Pages, device: &Device) -> Result<Self> {
        let pages = pages.as_slice();
        let sgt = Opaque::zeroed();
        // SAFETY: The pages are valid by the invariants of `Pages`, and the function does not write to the array.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                sgt.get(),
                pages.as_ptr().cast_mut(),
                c_uint::try_from(pages.len())?,
                0,
                pages.len() * PAGE_SIZE,
                MAX_SEGMENT,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })?;
        // INVARIANT: Made by the call above, and not mapped.
        let this = Self {
            dma: device.dma(),
            sgt,
            mapped: Atomic::new(false),
        };
        // SAFETY: By the type invariants.
        to_result(unsafe {
            bindings::dma_map_sgtable(this.dma.cast(), this.sgt.get(), BIDIRECTIONAL, DMA_ATTRS)
        })
        .map_err(|_| EIO)?;
        // INVARIANT: Mapped just now.
        this.mapped.store(true, Relaxed);
        Ok(this)
    }

    /// Calls `f` with the bus address and the length of each segment, in order.
    pub(super) fn segments(
        &self,
        mut f: impl FnMut(bindings::dma_addr_t, usize) -> Result,
    ) -> Result {
        // SAFETY: By the type invariants; the table does not change any more.
        for segment in unsafe { SGTable::from_raw(self.sgt.get()) }.iter() {
            f(segment.dma_address(), segment.dma_len() as usize)?;
        }
        Ok(())
    }

    /// Ends the mapping, if that has not been done.
    ///
    /// # Safety
    ///
    /// The device does not use the memory. Callers exclude one another.
    pub(super) unsafe fn unmap(&self) {
        if self.mapped.load(Relaxed) {
            // SAFETY: By the type invariants and this function's requirements.
            unsafe {
                bindings::dma_unmap_sgtable(
                    self.dma.cast(),
                    self.sgt.get(),
                    BIDIRECTIONAL,
                    DMA_ATTRS,
                )
            };
            self.mapped.store(false, Relaxed);
        }
    }
}

impl Drop for HostMap {
    fn drop(&mut self) {
        // SAFETY: Who uses the memory holds the context, which holds `self`; so nobody does.
        unsafe { self.unmap() };
        // SAFETY: By the type invariants.
        unsafe { bindings::sg_free_table(self.sgt.get()) };
    }
}

const BIDIRECTIONAL: bindings::dma_data_direction = bindings::dma_data_direction::DMA_BIDIRECTIONAL;
