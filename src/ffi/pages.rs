// SPDX-License-Identifier: GPL-2.0

//! Memory as network memory of a device.
//!
//! A buffer's references are counted in its net_iov: one for each fragment of a received packet, one for each count of user
//! space, one for the free list or the socket that copies into it. A packet that was given a head of its own while it had a clone is not among
//! them: the clone has the reference, and the packet one to the context, as those have that are sent.

use super::{
    abi,
    device::Device,
    dmabuf::Import,
    gpu::GpuMap,
    host::HostMap,
    late::Late,
    loan::Loan,
    patched::patched,
    uapi::BUFFER_SIZE, //
};
use crate::{
    area::{
        Memory,
        Region, //
    },
    attach::Attachment,
    buffers::{
        Buffers,
        Shares, //
    },
    context::Context,
    queue::Queue,
    span::BufferSize,
    stats::RegionStats, //
};
use core::{
    ptr::NonNull,
    sync::atomic::{
        AtomicI64,
        Ordering, //
    }, //
};
use kernel::{
    bindings,
    container_of,
    error::code::{
        EIO,
        ENXIO, //
    },
    ffi::{
        c_uint,
        c_void, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    },
    types::Opaque, //
};

// A buffer consists of pages.
const _: () = assert!(BUFFER_SIZE as usize % PAGE_SIZE == 0);

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
pub(super) fn netmem_of(niov: *mut abi::net_iov) -> abi::netmem_ref {
    niov.expose_provenance() | NET_IOV
}

/// The net_iov that `netmem` refers to, if it is one.
pub(super) fn niov_of(netmem: abi::netmem_ref) -> Option<*mut abi::net_iov> {
    (netmem & NET_IOV != 0).then(|| core::ptr::with_exposed_provenance_mut(netmem & !NET_IOV))
}

/// The count of a net_iov's references.
///
/// # Safety
///
/// `niov` is a net_iov that is there for `'a`.
#[inline(always)]
unsafe fn references<'a>(niov: *mut abi::net_iov) -> &'a AtomicI64 {
    // SAFETY: By this function's requirements; whoever accesses the count does it atomically.
    unsafe { AtomicI64::from_ptr(&raw mut (*niov).desc.pp_ref_count.counter) }
}

/// Drops `dropped` references of a net_iov. Returns whether they were the last. As page_pool_unref_netmem(), which would be a call.
///
/// # Safety
///
/// `niov` is a net_iov; the caller gives up so many references, of one at least.
#[inline(always)]
unsafe fn unref_and_test(niov: *mut abi::net_iov, dropped: u32) -> bool {
    // SAFETY: By this function's requirements.
    let count = unsafe { references(niov) };
    let dropped = i64::from(dropped);
    // Who has the last ones has the net_iov alone, and is to find one again whose count is one.
    let last = count.load(Ordering::Relaxed) == dropped
        || count.fetch_sub(dropped, Ordering::SeqCst) == dropped;
    if last && count.load(Ordering::Relaxed) != 1 {
        count.store(1, Ordering::Relaxed);
    }
    last
}

/// The memory of a region, mapped for a device.
enum Mapped {
    Host(HostMap),
    DmaBuf(Import),
    Gpu(GpuMap),
}

impl Mapped {
    /// Maps `region` for `device`. `EIO`: only bounce buffers would reach the memory.
    ///
    /// # Safety
    ///
    /// `region` and `device` outlive the result, as part of `attachment`, which is part of `context`.
    unsafe fn new(
        region: &Region,
        device: &Device,
        context: &Late<Context>,
        attachment: *const Attachment,
    ) -> Result<Self> {
        Ok(match &region.memory {
            // SAFETY: By this function's requirements.
            Memory::Host(pages) => Self::Host(unsafe { HostMap::new(pages, device) }?),
            Memory::DmaBuf(dmabuf, _) => {
                let loan = Loan::new(context, attachment)?;
                // SAFETY: By this function's requirements.
                Self::DmaBuf(unsafe { Import::new(dmabuf, device, loan) }?)
            }
            Memory::Gpu(pages) => {
                let loan = Loan::new(context, attachment)?;
                // SAFETY: By this function's requirements.
                Self::Gpu(unsafe { GpuMap::new(pages, device, loan) }?)
            }
        })
    }

    /// The terms, if others may take the memory back.
    fn loan(&self) -> Option<&Loan> {
        match self {
            Self::Host(_) => None,
            Self::DmaBuf(import) => Some(import.loan()),
            Self::Gpu(map) => Some(map.loan()),
        }
    }

    /// Calls `f` with the bus address and the length of each segment of `region`, in order.
    fn segments(
        &mut self,
        region: &Region,
        f: impl FnMut(bindings::dma_addr_t, usize) -> Result,
    ) -> Result {
        match (self, &region.memory) {
            (Self::DmaBuf(import), Memory::DmaBuf(_, offset)) => {
                import.segments(*offset, region.span.len(), f)
            }
            (Self::Host(map), Memory::Host(_)) => map.segments(f),
            (Self::Gpu(map), Memory::Gpu(_)) => map.segments(f),
            _ => Err(EINVAL),
        }
    }

    /// Ends the mapping, if that has not been done. Sleeps.
    ///
    /// # Safety
    ///
    /// The device does not use the memory, and a grace period has passed since it was not to be used any more. Callers exclude one another.
    unsafe fn unmap(&self) {
        match self {
            // SAFETY: By this function's requirements.
            Self::Host(map) => unsafe { map.unmap() },
            // SAFETY: By this function's requirements.
            Self::DmaBuf(import) => unsafe { import.unmap() },
            // SAFETY: By this function's requirements.
            Self::Gpu(map) => unsafe { map.unmap() },
        }
    }
}

/// A region as buffers of a device: mapped for its DMA, a net_iov each.
pub(crate) struct Map(KBox<Inner>);

/// # Invariants
///
/// - `area.niovs` is `niovs`, one for each buffer of `size` of `region` and all initialised, if `self` has left [`Map::new`].
/// - `context` is the context that owns `attachment`, which owns `self`.
/// - `dma`, which `region` is mapped for, is there as long as the context.
struct Inner {
    area: Opaque<abi::net_iov_area>,
    niovs: KVVec<Niov>,
    context: *mut c_void,
    attachment: *mut Attachment,
    dma: *mut abi::device,
    /// The device that may send; compared only. Null: none may.
    tx_dev: Atomic<*mut abi::net_device>,
    /// Dropped before what it is made of.
    mapped: Mapped,
    region: Arc<Region>,
    size: BufferSize,
}

// SAFETY: Buffers are reference counted by atomics; unmapping is excluded by the context's state lock or by that of a dma-buf. The
// rest does not change, and what the pointers name is `Send` and `Sync`.
unsafe impl Send for Inner {}
// SAFETY: As above.
unsafe impl Sync for Inner {}

impl Inner {
    /// Cuts the memory into buffers. `EIO`: only bounce buffers would reach it, or it is in pieces that are no whole buffers.
    fn cut(&mut self) -> Result {
        let Self {
            mapped,
            region,
            niovs,
            area,
            dma,
            size,
            ..
        } = self;
        let area = area.get();
        let mut cut = |(start, len): (bindings::dma_addr_t, usize)| {
            let step = size.bytes() as usize;
            if (start | len as bindings::dma_addr_t) % step as bindings::dma_addr_t != 0 {
                return Err(EIO);
            }
            (0..len)
                .step_by(step)
                .try_for_each(|offset| add(niovs, area, start + offset as bindings::dma_addr_t))
        };
        // Segments that lie behind each other, which a buffer may be part of several of.
        let mut run = (0, 0);
        mapped.segments(region, |addr, len| {
            // Whatever maps memory bounces a segment as a whole.
            // SAFETY: `dma` is a device that is there, by the type invariants.
            if unsafe { abi::netgpu_dma_need_sync(*dma, addr) } {
                return Err(EIO);
            }
            if run.0 + run.1 as bindings::dma_addr_t == addr {
                run.1 += len;
                return Ok(());
            }
            cut(core::mem::replace(&mut run, (addr, len)))
        })?;
        cut(run)?;
        let area = self.area.get();
        // SAFETY: Nobody else knows the area yet.
        unsafe {
            (*area).niovs = self.niovs.as_mut_ptr().cast();
            (*area).num_niovs = self.niovs.len();
        }
        // INVARIANT: One for each.
        if self.niovs.len() == self.region.span.buffers(self.size) as usize {
            Ok(())
        } else {
            Err(EIO)
        }
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

/// Adds the net_iov of the next buffer to those of `area`. The device reaches it at `addr`.
fn add(
    niovs: &mut KVVec<Niov>,
    area: *mut abi::net_iov_area,
    addr: bindings::dma_addr_t,
) -> Result {
    let niov = Niov::new(abi::net_iov {
        desc: abi::netmem_desc {
            // As net_mp_niov_set_dma_addr() does where there is room for a whole address, which is a call for each.
            dma_addr: addr.try_into()?,
            pp_ref_count: abi::atomic_long_t { counter: 1 },
            ..Default::default()
        },
        type_: abi::net_iov_type_NET_IOV_PROVIDER,
        owner: area,
    });
    // There is room for one for each buffer.
    niovs.push_within_capacity(niov).map_err(|_| EIO)
}

impl Map {
    /// Maps `region` for `device` in buffers of `size`, as part of `attachment`, which is part of `context`.
    ///
    /// # Safety
    ///
    /// `attachment` points to the attachment that will own the map.
    unsafe fn new(
        device: &Device,
        region: Arc<Region>,
        size: BufferSize,
        context: &Late<Context>,
        attachment: *mut Attachment,
    ) -> Result<Self> {
        let count = region.span.buffers(size) as usize;
        // More than that the kernel allocates for nobody, and says so in its log.
        if count > i32::MAX as usize / size_of::<Niov>() {
            return Err(ENOMEM);
        }
        // INVARIANT: By this function's requirements.
        let mut inner = KBox::new(
            Inner {
                area: Opaque::new(abi::net_iov_area {
                    ops: &AREA_OPS,
                    ..Default::default()
                }),
                niovs: KVVec::with_capacity(count, GFP_KERNEL_ACCOUNT)?,
                context: context.as_raw(),
                attachment,
                dma: device.dma(),
                tx_dev: Atomic::new(device.identity().cast_mut()),
                // SAFETY: By this function's requirements; the region is held below.
                mapped: unsafe { Mapped::new(&region, device, context, attachment) }?,
                region,
                size,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        inner.cut()?;
        Ok(Self(inner))
    }

    /// Maps `region` for `device` in buffers of `size`, and makes an attachment of `context` of it.
    ///
    /// The context keeps the attachment for as long as it lives once it has let anyone find it: buffers refer to their
    /// attachment, and what holds a buffer holds the context.
    pub(crate) fn attach(
        device: &Device,
        region: Arc<Region>,
        size: BufferSize,
        context: &Late<Context>,
        shares: Arc<Shares>,
    ) -> Result<Arc<Attachment>> {
        Arc::pin_init(
            try_pin_init!(&this in Attachment {
                // SAFETY: `this` is where the attachment will be.
                map: unsafe { Map::new(device, region.clone(), size, context, this.as_ptr()) }?,
                buffers <- Buffers::new(region.span.buffers(size), map.is_writable()),
                shares,
                stats: RegionStats::new()?,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The region that is mapped.
    pub(crate) fn region(&self) -> &Region {
        &self.0.region
    }

    /// The size of the buffers.
    #[inline(always)]
    pub(crate) fn size(&self) -> BufferSize {
        self.0.size
    }

    /// Nothing of the map may be sent from here on, nor used in any way if it is a loan.
    pub(crate) fn revoke(&self) {
        self.0.tx_dev.store(core::ptr::null_mut(), Relaxed);
        if let Some(loan) = self.0.mapped.loan() {
            loan.end();
        }
    }

    /// Whether nobody has asked for the memory back.
    pub(crate) fn is_live(&self) -> bool {
        self.0.mapped.loan().is_none_or(Loan::is_live)
    }

    /// Whether the CPU can write the memory.
    pub(crate) fn is_writable(&self) -> bool {
        match &self.0.mapped {
            Mapped::Host(_) | Mapped::Gpu(_) => true,
            Mapped::DmaBuf(import) => import.is_writable(),
        }
    }

    /// Whether fragments that are on their way out refer to memory on loan. Those of host memory are not counted.
    pub(crate) fn is_sent(&self) -> bool {
        self.0.mapped.loan().is_some_and(Loan::is_sent)
    }

    /// Tells who wants the memory back that the device does not use it.
    ///
    /// # Safety
    ///
    /// That is so, and stays so.
    pub(crate) unsafe fn release(&self) {
        if let Mapped::DmaBuf(import) = &self.0.mapped {
            // SAFETY: By this function's requirements.
            unsafe { import.release() };
        }
    }

    /// Ends the DMA mapping, if that has not been done. Sleeps.
    ///
    /// # Safety
    ///
    /// The device no longer uses the memory, and a grace period has passed since [`Self::revoke`]. Callers that unmap host memory
    /// exclude one another.
    pub(crate) unsafe fn unmap(&self) {
        // SAFETY: By this function's requirements.
        unsafe { self.0.mapped.unmap() };
    }

    /// The net_iov of a buffer.
    fn niov(&self, index: u32) -> Option<*mut abi::net_iov> {
        self.0.niovs.get(index as usize).map(Niov::get)
    }

    /// The net_iovs of the buffers from `index` on.
    pub(super) fn niovs(&self, index: u32) -> impl Iterator<Item = *mut abi::net_iov> + '_ {
        let niovs = self.0.niovs.get(index as usize..).unwrap_or_default();
        niovs.iter().map(Niov::get)
    }

    /// Whether others may take the memory back.
    pub(super) fn is_lent(&self) -> bool {
        self.0.mapped.loan().is_some()
    }

    /// Number of the buffer that is `niov`, if it is one of the map's.
    ///
    /// # Safety
    ///
    /// `niov` is a net_iov that somebody holds.
    #[inline(always)]
    pub(super) unsafe fn index_of(&self, niov: *const abi::net_iov) -> Option<u32> {
        // SAFETY: By this function's requirements; the field does not change.
        if unsafe { (*niov).owner } != self.0.area.get() {
            return None;
        }
        // SAFETY: By the type invariants both point into the array.
        Some(unsafe { niov.offset_from(self.0.niovs.as_ptr().cast()) } as u32)
    }

    /// Takes `count` references to a buffer of which another exists.
    #[inline(always)]
    pub(crate) fn get(&self, index: u32, count: u32) {
        if let Some(niov) = self.niov(index) {
            // As page_pool_ref_netmem(), which would be a call.
            // SAFETY: By the type invariants it is a net_iov.
            unsafe { references(niov) }.fetch_add(count.into(), Ordering::Relaxed);
        }
    }

    /// Drops `count` references to a buffer, of one at least, on behalf of `pool` or of nobody.
    pub(crate) fn put(&self, index: u32, count: u32, pool: Option<&Pool>) -> Put {
        let Some(niov) = self.niov(index) else {
            return Put::InUse;
        };
        let netmem = netmem_of(niov);
        // SAFETY: By the type invariants it is a net_iov.
        if !unsafe { unref_and_test(niov, count) } {
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
        let size = self.size().bytes() as usize;
        let (index, offset) = (index as usize, offset as usize);
        let end = offset.checked_add(data.len()).ok_or(EINVAL)?;
        if index >= self.0.niovs.len() || end > size {
            return Err(EINVAL);
        }
        let _guard = rcu::read_lock();
        if !self.is_live() || !self.is_writable() {
            return Err(ENXIO);
        }
        let mut at = index * size + offset;
        let mut data = data;
        while !data.is_empty() {
            let (page, rest) = data.split_at(data.len().min(PAGE_SIZE - at % PAGE_SIZE));
            self.write_page(at, page)?;
            at += page.len();
            data = rest;
        }
        Ok(())
    }

    /// Copies `data` to `at` of the region. The caller holds RCU since it has found the memory live; the range is in the region, and in
    /// one page of that.
    fn write_page(&self, at: usize, data: &[u8]) -> Result {
        match (&self.0.mapped, &self.0.region.memory) {
            (Mapped::DmaBuf(import), Memory::DmaBuf(_, start)) => {
                // SAFETY: The region lies in the dma-buf, and the range in the region. RCU is held since the look.
                unsafe { import.write(start + at, data) };
            }
            (Mapped::Gpu(map), _) => {
                // SAFETY: As above: the map is of all of the region.
                unsafe { map.write(at, data) };
            }
            (_, Memory::Host(pages)) => {
                let page = pages.as_slice().get(at / PAGE_SIZE).ok_or(EINVAL)?;
                // SAFETY: The page is pinned by the invariants of `Pages`, and the range is in it.
                unsafe {
                    abi::netgpu_memcpy_to_page(
                        page.cast(),
                        at % PAGE_SIZE,
                        data.as_ptr().cast(),
                        data.len(),
                    )
                };
            }
            _ => return Err(EINVAL),
        }
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

    /// Whether it is a buffer of `map`.
    pub(super) fn is_of(&self, map: &Map) -> bool {
        core::ptr::eq(self.map, &*map.0)
    }

    /// Its attachment, if that is of `context`.
    pub(super) fn attachment_of(&self, context: &Late<Context>) -> Option<&'a Attachment> {
        (self.map.context == context.as_raw()).then(|| self.attachment())
    }
}

/// The queue that the NIC filled a buffer for; [`None`]: it was not received.
///
/// # Safety
///
/// `niov` is a buffer of ours, and a packet that is there for `'a` has a reference to it.
#[inline(always)]
pub(super) unsafe fn queue_of<'a>(niov: *const abi::net_iov) -> Option<&'a Queue> {
    // SAFETY: By this function's requirements. A pool, which is of a queue of ours, and the queue, which that holds, are there until
    // the last reference to the buffer is gone.
    unsafe {
        let pool = (&raw const (*niov).desc.pp).read_volatile();
        pool.as_ref().map(|pool| &*pool.mp_priv.cast::<Queue>())
    }
}

/// What the stack does with fragments that have no reference of a receive pool, unless their send holds the memory for them: each holds
/// the context, and is counted if the memory can be taken back.
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
        if let Some(loan) = map.mapped.loan() {
            loan.get();
        }
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
        if let Some(loan) = map.mapped.loan() {
            loan.put();
        }
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
