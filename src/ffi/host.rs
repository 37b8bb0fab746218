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

/// Most pages of a segment, two GiB: whole buffers of any size.
const MAX_SEGMENT: usize = (1 << 31) / PAGE_SIZE;

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
        let segments = c_uint::try_from(runs(pages).count())?;
        let sgt = Opaque::zeroed();
        // SAFETY: The function clears the table before it fills it, and leaves nothing in it to be freed when it fails.
        to_result(unsafe {
            bindings::sg_alloc_table(sgt.get(), segments, bindings::GFP_KERNEL_ACCOUNT)
        })?;
        // INVARIANT: Made by the call above and of the pages below, and not mapped.
        let this = Self {
            dma: device.dma(),
            sgt,
            mapped: Atomic::new(false),
        };
        // SAFETY: By the type invariants it is a table, and nobody else has it yet.
        let mut segment = unsafe { (*this.sgt.get()).sgl };
        for run in runs(pages) {
            // SAFETY: The pages do not change, so there are as many runs as were counted, each with a segment, of which this run's is the
            // next. `runs()` gives a run a page at least and `MAX_SEGMENT` at most, so that its bytes fit. Behind the last segment comes
            // null, which nobody uses.
            unsafe {
                let len = (run.len() * PAGE_SIZE) as c_uint;
                abi::netgpu_sg_set_page(segment.cast(), run[0].cast(), len);
                segment = bindings::sg_next(segment);
            }
        }
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

/// `pages` in runs that lie side by side in physical memory and fit into a segment.
///
/// `sg_alloc_table_from_pages()` merges likewise and keeps those of different devices apart. There are none here: what is pinned for long
/// and not for peer-to-peer DMA is the system's memory, however it was made a program's. That function takes 60 instructions a page,
/// and this 10.
fn runs(mut pages: &[*mut bindings::page]) -> impl Iterator<Item = &[*mut bindings::page]> {
    core::iter::from_fn(move || {
        let most = pages.len().min(MAX_SEGMENT);
        if most == 0 {
            return None;
        }
        // SAFETY: There are that many pages, and one at least. Only where they are is looked at.
        let len = unsafe { abi::netgpu_neighbour_pages(pages.as_ptr().cast_mut().cast(), most) };
        let (run, rest) = pages.split_at_checked(len)?;
        pages = rest;
        Some(run)
    })
}

const BIDIRECTIONAL: bindings::dma_data_direction = bindings::dma_data_direction::DMA_BIDIRECTIONAL;

#[kunit_tests(netgpu_host)]
mod tests {
    use super::*;

    /// Where the descriptor of a page is, or would be: with a virtual memory map, as 64 bits have it, nobody looks into it to know the
    /// place of the page.
    fn page(number: usize) -> *mut bindings::page {
        core::ptr::null_mut::<bindings::page>().wrapping_add(number)
    }

    #[test]
    fn pages_side_by_side_are_a_run() {
        let pages = [5, 6, 7, 9, 8, 7, 8].map(page);
        assert!(runs(&pages).map(|run| run.len()).eq([3, 1, 1, 2]));
        assert!(runs(&pages).flatten().eq(&pages));
        assert!(runs(&[]).next().is_none());
    }

    #[test]
    fn no_run_is_longer_than_a_segment() -> Result {
        let mut pages = KVVec::with_capacity(MAX_SEGMENT + 2, GFP_KERNEL)?;
        for number in 0..MAX_SEGMENT + 2 {
            pages.push(page(number), GFP_KERNEL)?;
        }
        assert!(runs(&pages).map(|run| run.len()).eq([MAX_SEGMENT, 2]));
        Ok(())
    }
}
