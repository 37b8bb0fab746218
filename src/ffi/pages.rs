// SPDX-License-Identifier: GPL-2.0

//! Pages as network memory of a device.
//!
//! A buffer's references are counted in its net_iov: one for each fragment of a received packet, one for each count of user
//! space, one for the free list or the socket that copies into it.

use super::{
    abi,
    device::Device,
    late::Late,
    patched::patched,
    uapi::BUFFER_SIZE, //
};
use crate::{
    area::Region,
    attach::Attachment,
    buffers::{
        Buffers,
        Shares, //
    },
    context::Context, //
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    container_of,
    error::{
        code::EIO,
        to_result, //
    },
    ffi::{
        c_uint,
        c_ulong,
        c_void, //
    },
    page::PAGE_SIZE,
    prelude::*,
    scatterlist::SGTable,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    types::Opaque, //
};

const _: () = assert!(PAGE_SIZE == BUFFER_SIZE as usize);

/// What became of a buffer after a reference was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Others hold it, or it went back to the pool it belongs to.
    InUse,
    /// It is in the cache of the pool that asks.
    Pooled,
    /// It was the last reference and no pool owns the buffer: it is the caller's.
    Free,
}

/// The page pool that asks for buffers.
///
/// # Invariants
///
/// Holds the pool whose alloc op is running, with room in its cache for as many buffers as were asked.
pub(crate) struct Pool(NonNull<abi::page_pool>);

impl Pool {
    /// # Safety
    ///
    /// As the invariants say, for as long as the result lives.
    pub(super) unsafe fn new(pool: NonNull<abi::page_pool>) -> Self {
        // INVARIANT: By this function's requirements.
        Self(pool)
    }

    /// Moves a buffer into the cache.
    ///
    /// # Safety
    ///
    /// The buffer belongs to this pool, and nothing refers to it.
    unsafe fn place(&self, netmem: abi::netmem_ref) {
        // SAFETY: By the type invariants nobody else uses the cache while the alloc op runs.
        let cache = unsafe { &mut (*self.0.as_ptr()).alloc };
        // There is room by the type invariants.
        if let Some(place) = cache.cache.get_mut(cache.count as usize) {
            *place = netmem;
            cache.count += 1;
        }
    }

    /// Takes a buffer out of the cache.
    pub(super) fn take(&mut self) -> Option<abi::netmem_ref> {
        // SAFETY: By the type invariants nobody else uses the cache while the alloc op runs.
        let cache = unsafe { &mut (*self.0.as_ptr()).alloc };
        let count = cache.count.checked_sub(1)?;
        let netmem = cache.cache.get(count as usize).copied()?;
        cache.count = count;
        Some(netmem)
    }
}

/// What Linux knows a buffer by.
type Niov = Opaque<abi::net_iov>;

/// Marks references of the stack that are to a net_iov, not to a page.
const NET_IOV: abi::netmem_ref = abi::NET_IOV as abi::netmem_ref;

/// The stack's reference to `niov`.
fn netmem_of(niov: *mut abi::net_iov) -> abi::netmem_ref {
    niov.expose_provenance() | NET_IOV
}

/// The net_iov that `netmem` refers to, if it is one.
pub(super) fn niov_of(netmem: abi::netmem_ref) -> Option<*mut abi::net_iov> {
    (netmem & NET_IOV != 0).then(|| core::ptr::with_exposed_provenance_mut(netmem & !NET_IOV))
}

/// Nothing is to be synced with the device: [`Inner::add`] refuses memory for which that would matter.
const DMA_ATTRS: c_ulong = bindings::DMA_ATTR_SKIP_CPU_SYNC as c_ulong;

/// The pages of a region as buffers of a device: mapped for its DMA, a net_iov each.
pub(crate) struct Map(KBox<Inner>);

/// # Invariants
///
/// - `area.niovs` is `niovs`, one for each page of `region` and all initialised, if `self` has left [`Map::new`].
/// - `context` is the context that owns `attachment`, which owns `self`.
/// - `sgt` is a table of the pages of `region`; while `mapped` it is mapped for `dma`, which is there as long as the context.
struct Inner {
    area: Opaque<abi::net_iov_area>,
    niovs: KVVec<Niov>,
    context: *mut c_void,
    attachment: *mut Attachment,
    dma: *mut abi::device,
    /// The device that may send; compared only. Null: none may.
    tx_dev: Atomic<*mut abi::net_device>,
    sgt: Opaque<bindings::sg_table>,
    mapped: Atomic<bool>,
    region: Arc<Region>,
}

// SAFETY: Buffers are reference counted by atomics; unmapping is excluded by the context's state lock. The rest does not
// change, and what the pointers name is `Send` and `Sync`.
unsafe impl Send for Inner {}
// SAFETY: As above.
unsafe impl Sync for Inner {}

impl Inner {
    /// The pages as a table for the DMA layer.
    fn table(region: &Region) -> Result<Opaque<bindings::sg_table>> {
        let pages = region.pages.as_slice();
        let sgt = Opaque::zeroed();
        // SAFETY: The pages are valid by the invariants of `Pages`, and the function does not write to the array.
        to_result(unsafe {
            bindings::sg_alloc_table_from_pages_segment(
                sgt.get(),
                pages.as_ptr().cast_mut(),
                region.span.buffers(),
                0,
                region.span.len(),
                c_uint::MAX,
                bindings::GFP_KERNEL_ACCOUNT,
            )
        })?;
        Ok(sgt)
    }

    /// Maps the table and cuts its DMA segments into buffers. `EIO`: only bounce buffers would reach the memory.
    fn map(&mut self) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe {
            bindings::dma_map_sgtable(
                self.dma.cast(),
                self.sgt.get(),
                bindings::dma_data_direction::DMA_BIDIRECTIONAL,
                DMA_ATTRS,
            )
        })
        .map_err(|_| EIO)?;
        // INVARIANT: Mapped just now.
        self.mapped.store(true, Relaxed);

        // SAFETY: By the type invariants; the table does not change any more.
        for segment in unsafe { SGTable::from_raw(self.sgt.get()) }.iter() {
            for offset in (0..segment.dma_len()).step_by(PAGE_SIZE) {
                self.add(segment.dma_address() + offset)?;
            }
        }
        let area = self.area.get();
        // SAFETY: Nobody else knows the area yet.
        unsafe {
            (*area).niovs = self.niovs.as_mut_ptr().cast();
            (*area).num_niovs = self.niovs.len();
        }
        // INVARIANT: Of as many pages as the table was made of.
        if self.niovs.len() == self.region.span.buffers() as usize {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    /// Adds the net_iov of the next page, which the device reaches at `dma`.
    fn add(&mut self, dma: bindings::dma_addr_t) -> Result {
        // SAFETY: By the type invariants.
        if unsafe { abi::netgpu_dma_need_sync(self.dma, dma) } {
            return Err(EIO);
        }
        let niov = Niov::new(abi::net_iov {
            desc: abi::netmem_desc {
                pp_ref_count: abi::atomic_long_t { counter: 1 },
                ..Default::default()
            },
            type_: abi::net_iov_type_NET_IOV_PROVIDER,
            owner: self.area.get(),
        });
        // SAFETY: Nobody else knows the net_iov yet.
        if unsafe { patched!(net_mp_niov_set_dma_addr(niov.get(), dma)) } {
            return Err(EIO);
        }
        // There is room for one for each page.
        self.niovs.push_within_capacity(niov).map_err(|_| EIO)
    }

    /// Ends the DMA mapping, if that has not been done. Sleeps.
    ///
    /// # Safety
    ///
    /// The device no longer uses the memory. Callers exclude one another.
    unsafe fn unmap(&self) {
        if self.mapped.load(Relaxed) {
            // SAFETY: By the type invariants and this function's requirements.
            unsafe {
                bindings::dma_unmap_sgtable(
                    self.dma.cast(),
                    self.sgt.get(),
                    bindings::dma_data_direction::DMA_BIDIRECTIONAL,
                    DMA_ATTRS,
                )
            };
        }
        self.mapped.store(false, Relaxed);
    }

    /// Whose net_iov `niov` is; [`None`]: not one of ours.
    ///
    /// # Safety
    ///
    /// `niov` is a net_iov that somebody holds for `'a`.
    unsafe fn of<'a>(niov: *const abi::net_iov) -> Option<&'a Self> {
        // SAFETY: By this function's requirements; neither field changes.
        let (kind, area) = unsafe { ((*niov).type_, (*niov).owner) };
        if kind != abi::net_iov_type_NET_IOV_PROVIDER {
            return None;
        }
        // SAFETY: A net_iov has an area, which has operations if the net_iov is a provider's.
        let ops = unsafe { (*area).ops };
        if !core::ptr::eq(ops, &AREA_OPS) {
            return None;
        }
        // SAFETY: Our operations are on areas that are part of an `Inner` only. It is there because the context is: pools
        // hold their queue, fragments that are sent hold the context.
        Some(unsafe { &*container_of!(area.cast::<Opaque<_>>(), Self, area) })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: Nobody else refers to the map, nor to any buffer: see `of()`.
        unsafe { self.unmap() };
        // SAFETY: By the type invariants.
        unsafe { bindings::sg_free_table(self.sgt.get()) };
    }
}

impl Map {
    /// Maps `region` for `device`, as part of `attachment`, which is part of `context`.
    ///
    /// # Safety
    ///
    /// `attachment` points to the attachment that will own the map.
    unsafe fn new(
        device: &Device,
        region: Arc<Region>,
        context: &Late<Context>,
        attachment: *mut Attachment,
    ) -> Result<Self> {
        // INVARIANT: By this function's requirements; not mapped yet.
        let mut inner = KBox::new(
            Inner {
                area: Opaque::new(abi::net_iov_area {
                    ops: &AREA_OPS,
                    ..Default::default()
                }),
                niovs: KVVec::with_capacity(region.span.buffers() as usize, GFP_KERNEL_ACCOUNT)?,
                context: context.as_raw(),
                attachment,
                dma: device.dma(),
                tx_dev: Atomic::new(device.identity().cast_mut()),
                sgt: Inner::table(&region)?,
                mapped: Atomic::new(false),
                region,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        inner.map()?;
        Ok(Self(inner))
    }

    /// Maps `region` for `device` and makes an attachment of `context` of it.
    ///
    /// The context keeps the attachment for as long as it lives once it has let anyone find it: buffers refer to their
    /// attachment, and what holds a buffer holds the context.
    pub(crate) fn attach(
        device: &Device,
        region: Arc<Region>,
        context: &Late<Context>,
        shares: Arc<Shares>,
    ) -> Result<Arc<Attachment>> {
        Arc::pin_init(
            try_pin_init!(&this in Attachment {
                // SAFETY: `this` is where the attachment will be.
                map: unsafe { Map::new(device, region.clone(), context, this.as_ptr()) }?,
                buffers <- Buffers::new(region.span.buffers()),
                shares,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The region that is mapped.
    pub(crate) fn region(&self) -> &Region {
        &self.0.region
    }

    /// Nothing of the map may be sent from here on.
    pub(crate) fn revoke(&self) {
        self.0.tx_dev.store(core::ptr::null_mut(), Relaxed);
    }

    /// Ends the DMA mapping, as the device goes away. Sleeps.
    ///
    /// # Safety
    ///
    /// The device no longer uses the memory. Callers exclude one another.
    pub(crate) unsafe fn unmap(&self) {
        // SAFETY: By this function's requirements.
        unsafe { self.0.unmap() };
    }

    /// The net_iov of a buffer.
    fn niov(&self, index: u32) -> Option<*mut abi::net_iov> {
        self.0.niovs.get(index as usize).map(Niov::get)
    }

    /// A buffer as the stack refers to it.
    pub(super) fn netmem(&self, index: u32) -> Option<abi::netmem_ref> {
        self.niov(index).map(netmem_of)
    }

    /// Takes a reference to a buffer of which another exists.
    pub(crate) fn get(&self, index: u32) {
        if let Some(netmem) = self.netmem(index) {
            // SAFETY: By the type invariants it is a net_iov.
            unsafe { abi::netgpu_page_pool_ref_netmem(netmem) };
        }
    }

    /// Drops a reference to a buffer, on behalf of `pool` or of nobody.
    pub(crate) fn put(&self, index: u32, pool: Option<&Pool>) -> Put {
        let Some(niov) = self.niov(index) else {
            return Put::InUse;
        };
        let netmem = netmem_of(niov);
        // SAFETY: By the type invariants it is a net_iov.
        if !unsafe { abi::netgpu_page_pool_unref_and_test(netmem) } {
            return Put::InUse;
        }
        // SAFETY: As above. That was the last reference: the field is ours, or of a pool whose last buffer this is not yet.
        let home = unsafe { (*niov).desc.pp };
        match pool {
            _ if home.is_null() => Put::Free,
            Some(pool) if home == pool.0.as_ptr() => {
                // SAFETY: It is at home there, and the last reference is gone.
                unsafe { pool.place(netmem) };
                Put::Pooled
            }
            _ => {
                // SAFETY: A pool is there until it has got all its buffers back.
                unsafe { abi::page_pool_put_unrefed_netmem(home, netmem, c_uint::MAX, false) };
                Put::InUse
            }
        }
    }

    /// Moves a buffer that is the caller's into the cache of `pool`.
    pub(crate) fn give(&self, index: u32, pool: &Pool) {
        if let Some(niov) = self.niov(index) {
            // SAFETY: By the invariants of both types; nothing refers to the buffer, as it is the caller's.
            unsafe {
                patched!(net_mp_niov_set_page_pool(pool.0.as_ptr(), niov));
                pool.place(netmem_of(niov));
            }
        }
    }

    /// Copies `data` to `offset` of a buffer that the caller holds.
    pub(crate) fn write(&self, index: u32, offset: u32, data: &[u8]) -> Result {
        let pages = self.0.region.pages.as_slice();
        let page = pages.get(index as usize).ok_or(EINVAL)?;
        let end = (offset as usize).checked_add(data.len()).ok_or(EINVAL)?;
        if end > PAGE_SIZE {
            return Err(EINVAL);
        }
        // SAFETY: The page is pinned by the invariants of `Pages`; the range is checked.
        unsafe {
            abi::netgpu_memcpy_to_page(
                page.cast(),
                offset as usize,
                data.as_ptr().cast(),
                data.len(),
            )
        };
        Ok(())
    }
}

/// A buffer of ours.
pub(super) struct Buffer<'a> {
    map: &'a Inner,
    pub(super) index: u32,
}

impl<'a> Buffer<'a> {
    /// The buffer that is `niov`, if it is one of ours.
    ///
    /// # Safety
    ///
    /// `niov` is a net_iov that somebody holds for `'a`.
    pub(super) unsafe fn of(niov: *const abi::net_iov) -> Option<Self> {
        // SAFETY: By this function's requirements.
        let map = unsafe { Inner::of(niov) }?;
        // SAFETY: By the type invariants both point into the array.
        let index = unsafe { niov.offset_from(map.niovs.as_ptr().cast()) } as u32;
        Some(Self { map, index })
    }

    /// Its attachment.
    pub(super) fn attachment(&self) -> &'a Attachment {
        // SAFETY: By the type invariants of `Inner`: the attachment owns the map, and is there as long as that.
        unsafe { &*self.map.attachment }
    }

    /// Its attachment, if that is of `context`.
    pub(super) fn attachment_of(&self, context: &Late<Context>) -> Option<&'a Attachment> {
        (self.map.context == context.as_raw()).then(|| self.attachment())
    }
}

/// What the stack does with fragments that are not of a receive pool: each holds the context.
static AREA_OPS: abi::net_iov_area_ops = abi::net_iov_area_ops {
    get: Some(niov_get),
    put: Some(niov_put),
    tx_dev: Some(niov_tx_dev),
};

/// Another fragment refers to the buffer. Any context.
///
/// # Safety
///
/// `niov` is one of ours, and the caller holds it.
unsafe extern "C" fn niov_get(niov: *mut abi::net_iov) {
    // SAFETY: By this function's requirements.
    if let Some(map) = unsafe { Inner::of(niov) } {
        // SAFETY: By the type invariants; who holds the buffer holds the context.
        let context = unsafe { Late::<Context>::borrow(map.context) };
        let _ = (*context).clone().into_raw();
    }
}

/// A fragment refers to the buffer no longer. Any context.
///
/// # Safety
///
/// `niov` is one of ours; gives up a reference of [`niov_get`].
unsafe extern "C" fn niov_put(niov: *mut abi::net_iov) {
    // SAFETY: By this function's requirements.
    if let Some(map) = unsafe { Inner::of(niov) } {
        // SAFETY: By the type invariants, and by this function's requirements.
        drop(unsafe { Late::<Context>::from_raw(map.context) });
    }
}

/// The device that may send the buffer. Any context.
///
/// # Safety
///
/// `niov` is one of ours, and the caller holds it.
unsafe extern "C" fn niov_tx_dev(niov: *const abi::net_iov) -> *const abi::net_device {
    // SAFETY: By this function's requirements.
    let map = unsafe { Inner::of(niov) };
    // SAFETY: The field is there, and changes as a whole. Not `load()`, which is a call: this runs for each fragment that is sent.
    map.map_or(core::ptr::null(), |map| unsafe {
        map.tx_dev.as_ptr().read_volatile()
    })
}
