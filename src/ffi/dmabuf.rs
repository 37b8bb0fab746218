// SPDX-License-Identifier: GPL-2.0

//! dma-bufs: memory of other devices, mapped for ours.
//!
//! # Taking back
//!
//! An exporter that wants its memory back calls [`invalidate`] under the dma-buf's reservation lock. To stop the device there
//! would take the lock of the network device, under which others sleep, and take that of the dma-buf. So the callback does what
//! needs no lock, leaves a fence, for which the exporter waits before it uses the memory, and queues the rest as work:
//! [`Context::withdraw`].

use super::{
    abi,
    device::Device,
    loan::Loan, //
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        code::{
            EACCES,
            EIO, //
        },
        from_err_ptr,
        to_result, //
    },
    ffi::{
        c_char,
        c_long,
        c_ulong, //
    },
    prelude::*,
    scatterlist::SGTable,
    sync::Arc,
    types::Opaque, //
};

/// A dma-buf.
///
/// # Invariants
///
/// Holds a reference to the dma-buf.
pub(crate) struct DmaBuf(NonNull<abi::dma_buf>);

// SAFETY: References to dma-bufs belong to no thread.
unsafe impl Send for DmaBuf {}
// SAFETY: As above; what changes of a dma-buf is behind locks of its own.
unsafe impl Sync for DmaBuf {}

impl DmaBuf {
    /// Looks up `fd` in the current process.
    pub(crate) fn get(fd: i32) -> Result<Self> {
        // SAFETY: No requirements.
        let raw = from_err_ptr(unsafe { abi::dma_buf_get(fd) })?;
        // INVARIANT: Taken by the call above.
        let this = Self(NonNull::new(raw).ok_or(EBADF)?);
        // SAFETY: By the type invariants; a dma-buf has its file, whose mode does not change.
        let mode = unsafe { (*(*this.as_raw()).file.cast::<bindings::file>()).f_mode };
        if mode & FMODE_WRITE == 0 {
            return Err(EACCES);
        }
        Ok(this)
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        // SAFETY: By the type invariants; the size does not change.
        unsafe { (*self.as_raw()).size }
    }

    fn as_raw(&self) -> *mut abi::dma_buf {
        self.0.as_ptr()
    }

    /// Takes the reservation lock.
    fn lock(&self) -> ResvLock<'_> {
        let resv = self.resv();
        // SAFETY: By the type invariants.
        let _ = unsafe { bindings::dma_resv_lock(resv.cast(), core::ptr::null_mut()) };
        // INVARIANT: Without an acquire context the lock is always had.
        ResvLock(self)
    }

    fn resv(&self) -> *mut abi::dma_resv {
        // SAFETY: By the type invariants; the field does not change.
        unsafe { (*self.as_raw()).resv }
    }
}

impl Drop for DmaBuf {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::dma_buf_put(self.as_raw()) };
    }
}

const FMODE_WRITE: bindings::fmode_t = abi::NETGPU_FMODE_WRITE as bindings::fmode_t;

/// The reservation lock of a dma-buf, held.
///
/// # Invariants
///
/// The lock is held by the current task.
struct ResvLock<'a>(&'a DmaBuf);

impl Drop for ResvLock<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::dma_resv_unlock(self.0.resv().cast()) };
    }
}

/// What an exporter waits for: that a device does not use the memory.
///
/// # Invariants
///
/// Holds a reference to a fence that was initialised with [`FENCE_OPS`].
struct Fence(NonNull<abi::dma_fence>);

impl Fence {
    fn new() -> Result<Self> {
        let fence = KBox::new(Opaque::<abi::dma_fence>::zeroed(), GFP_KERNEL_ACCOUNT)?;
        let raw = NonNull::from(KBox::leak(fence)).cast::<abi::dma_fence>();
        // SAFETY: Nobody else knows it yet. The operations may go with the module: once it is signalled, which it is while the
        // context lives and with it the module, or if nobody else ever saw it, they are not needed any more.
        unsafe {
            abi::dma_fence_init(
                raw.as_ptr(),
                &FENCE_OPS,
                core::ptr::null_mut(),
                abi::dma_fence_context_alloc(1),
                1,
            )
        };
        // INVARIANT: Initialised just now, with one reference. What frees it is kfree(), which is right for a `KBox`.
        Ok(Self(raw))
    }

    /// Lets who waits go on.
    fn signal(&self) {
        // SAFETY: By the type invariants.
        unsafe { abi::dma_fence_signal(self.0.as_ptr()) };
    }

    /// Shows the fence to who wants the memory.
    ///
    /// # Safety
    ///
    /// The reservation lock `resv` is held.
    unsafe fn show(&self, resv: *mut abi::dma_resv) {
        // SAFETY: By this function's requirements.
        if unsafe { abi::dma_resv_reserve_fences(resv, 1) } == 0 {
            // SAFETY: As above, and there is room.
            unsafe {
                abi::dma_resv_add_fence(
                    resv,
                    self.0.as_ptr(),
                    abi::dma_resv_usage_DMA_RESV_USAGE_BOOKKEEP,
                )
            };
        } else {
            // No memory for a note of a few bytes: wait here.
            // SAFETY: By the type invariants.
            unsafe { abi::dma_fence_wait_timeout(self.0.as_ptr(), false, c_long::MAX) };
        }
    }
}

impl Drop for Fence {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_dma_fence_put(self.0.as_ptr()) };
    }
}

/// Neither `release` nor `wait`: so the fence lets go of these when it is signalled.
static FENCE_OPS: abi::dma_fence_ops = abi::dma_fence_ops {
    get_driver_name: Some(fence_name),
    get_timeline_name: Some(fence_name),
    enable_signaling: None,
    signaled: None,
    wait: None,
    release: None,
    set_deadline: None,
};

/// # Safety
///
/// None.
unsafe extern "C" fn fence_name(_fence: *mut abi::dma_fence) -> *const c_char {
    c"netgpu".as_char_ptr()
}

/// A dma-buf as memory of a device: attached and mapped for its DMA.
///
/// # Invariants
///
/// `attach` is the attachment that `inner` is told about. `cpu` maps all of the dma-buf for the CPU, as long as `inner` has a table.
pub(super) struct Import {
    inner: Pin<KBox<Inner>>,
    attach: NonNull<abi::dma_buf_attachment>,
    cpu: Option<abi::iosys_map>,
}

// SAFETY: What changes is atomic or behind the reservation lock.
unsafe impl Send for Import {}
// SAFETY: As above.
unsafe impl Sync for Import {}

/// What the callback sees.
struct Inner {
    dmabuf: Arc<DmaBuf>,
    /// The exporter ends it under the reservation lock.
    loan: Loan,
    fence: Fence,
    /// What mapping and pinning the dma-buf gave, until that is undone. Written under the reservation lock.
    table: UnsafeCell<Option<NonNull<abi::sg_table>>>,
}

impl Inner {
    /// # Safety
    ///
    /// The reservation lock is held, or else nobody maps or unmaps meanwhile.
    unsafe fn table(&self) -> Option<NonNull<abi::sg_table>> {
        // SAFETY: By this function's requirements nobody writes it.
        unsafe { *self.table.get() }
    }

    /// Writes the above; returns what it was.
    ///
    /// # Safety
    ///
    /// The reservation lock is held.
    unsafe fn set_table(
        &self,
        table: Option<NonNull<abi::sg_table>>,
    ) -> Option<NonNull<abi::sg_table>> {
        // SAFETY: By this function's requirements nobody else writes it, and who reads without the lock knows that we do not.
        unsafe { self.table.get().replace(table) }
    }
}

impl Import {
    /// Attaches `dmabuf` to `device` and maps it. The exporter's wish to have it back ends `loan`.
    ///
    /// # Safety
    ///
    /// The context of `loan` owns `device` and will own the result.
    pub(super) unsafe fn new(dmabuf: &Arc<DmaBuf>, device: &Device, loan: Loan) -> Result<Self> {
        let inner = KBox::pin(
            Inner {
                dmabuf: dmabuf.clone(),
                loan,
                fence: Fence::new()?,
                table: UnsafeCell::new(None),
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: Dma-buf and device are there. `inner` is pinned and outlives the attachment.
        let attach = from_err_ptr(unsafe {
            abi::dma_buf_dynamic_attach(
                dmabuf.as_raw(),
                device.dma(),
                &ATTACH_OPS,
                (&raw const *inner).cast_mut().cast(),
            )
        })?;
        // INVARIANT: Attached by the call above; there is no table yet.
        let mut this = Self {
            inner,
            attach: NonNull::new(attach).ok_or(ENOMEM)?,
            cpu: None,
        };
        this.map()?;
        Ok(this)
    }

    fn map(&mut self) -> Result {
        let (dmabuf, attach) = (&self.inner.dmabuf, self.attach.as_ptr());
        let _lock = dmabuf.lock();
        // SAFETY: Attached, and locked; here and below.
        to_result(unsafe { abi::dma_buf_pin(attach) })?;
        // SAFETY: As above.
        let table = from_err_ptr(unsafe { abi::dma_buf_map_attachment(attach, BIDIRECTIONAL) })
            // SAFETY: As above; pinned just now.
            .inspect_err(|_| unsafe { abi::dma_buf_unpin(attach) })?;
        // SAFETY: Locked.
        unsafe { self.inner.set_table(NonNull::new(table)) };
        let mut cpu = abi::iosys_map::default();
        // SAFETY: As above.
        if unsafe { abi::dma_buf_vmap(dmabuf.as_raw(), &mut cpu) } == 0 {
            // INVARIANT: Mapped just now.
            self.cpu = Some(cpu);
        }
        // The exporter may be moving the memory to where it is now.
        // SAFETY: As above.
        let left = unsafe {
            abi::dma_resv_wait_timeout(
                dmabuf.resv(),
                abi::dma_resv_usage_DMA_RESV_USAGE_KERNEL,
                true,
                c_ulong::MAX / 2,
            )
        };
        if left < 0 {
            return Err(EINTR);
        }
        Ok(())
    }

    /// Calls `f` with the bus address and the length of each segment of the `len` bytes from `offset` on, in order.
    ///
    /// Without the reservation lock: the exporter may hold it already, and wait until our owner, who finds that the loan has
    /// ended, drops us.
    pub(super) fn segments(
        &mut self,
        offset: usize,
        len: usize,
        mut f: impl FnMut(bindings::dma_addr_t, usize) -> Result,
    ) -> Result {
        // SAFETY: Nobody else has a reference to `self`, which is what maps and unmaps.
        let table = unsafe { self.inner.table() }.ok_or(ENODEV)?;
        // SAFETY: It is a table, which the exporter keeps as it is until it is unmapped.
        let table = unsafe { SGTable::from_raw(table.as_ptr().cast()) };
        let (mut skip, mut left) = (offset, len);
        for segment in table.iter() {
            let len = segment.dma_len() as usize;
            let from = skip.min(len);
            skip -= from;
            let len = (len - from).min(left);
            if len > 0 {
                f(segment.dma_address() + from as bindings::dma_addr_t, len)?;
                left -= len;
            }
        }
        if left == 0 {
            Ok(())
        } else {
            Err(EIO)
        }
    }

    pub(super) fn loan(&self) -> &Loan {
        &self.inner.loan
    }

    /// Lets an exporter that wants the memory back have it.
    ///
    /// # Safety
    ///
    /// The device does not use the memory, and never will.
    pub(super) unsafe fn release(&self) {
        self.inner.fence.signal();
    }

    /// Ends the mapping, if that has not been done. Sleeps.
    ///
    /// # Safety
    ///
    /// The device does not use the memory, and a grace period has passed since the loan ended, or nobody else knows of `self`.
    pub(super) unsafe fn unmap(&self) {
        // First, as who waits for the fence may hold the lock.
        // SAFETY: By this function's requirements.
        unsafe { self.release() };
        let dmabuf = &self.inner.dmabuf;
        let _lock = dmabuf.lock();
        // SAFETY: Locked.
        let Some(table) = (unsafe { self.inner.set_table(None) }) else {
            return;
        };
        // SAFETY: By the type invariants and this function's requirements: nobody uses either.
        unsafe {
            if let Some(mut cpu) = self.cpu {
                abi::dma_buf_vunmap(dmabuf.as_raw(), &mut cpu);
            }
            abi::dma_buf_unmap_attachment(self.attach.as_ptr(), table.as_ptr(), BIDIRECTIONAL);
            abi::dma_buf_unpin(self.attach.as_ptr());
        }
    }

    /// Whether the CPU can write the memory.
    pub(super) fn is_writable(&self) -> bool {
        self.cpu.is_some()
    }

    /// Copies `data` to `offset`. Any context. Nothing, where the CPU cannot write.
    ///
    /// # Safety
    ///
    /// The range lies in the dma-buf. No grace period passes between a look at the loan that found it live and the return.
    pub(super) unsafe fn write(&self, offset: usize, data: &[u8]) {
        if let Some(cpu) = self.cpu {
            // SAFETY: By the type invariants, as the table stays until a grace period after the loan has ended. The range is the
            // caller's duty.
            unsafe {
                abi::netgpu_iosys_map_memcpy_to(&cpu, offset, data.as_ptr().cast(), data.len())
            };
        }
    }
}

impl Drop for Import {
    fn drop(&mut self) {
        // SAFETY: Nobody else knows of `self` any longer: who uses the memory holds the context, which holds `self`.
        unsafe { self.unmap() };
        // SAFETY: Attached in `new()`; no callback is running or comes after this.
        unsafe { abi::dma_buf_detach(self.inner.dmabuf.as_raw(), self.attach.as_ptr()) };
    }
}

const BIDIRECTIONAL: abi::dma_data_direction = abi::dma_data_direction_DMA_BIDIRECTIONAL;

static ATTACH_OPS: abi::dma_buf_attach_ops = abi::dma_buf_attach_ops {
    allow_peer2peer: true,
    invalidate_mappings: Some(invalidate),
};

/// The exporter wants the memory back. Process context, under the reservation lock.
///
/// # Safety
///
/// `attach` is attached by [`Import::new`].
unsafe extern "C" fn invalidate(attach: *mut abi::dma_buf_attachment) {
    // SAFETY: By this function's requirements; what is attached is detached before it is freed.
    let inner = unsafe { &*(*attach).importer_priv.cast::<Inner>() };
    // SAFETY: The reservation lock is held.
    let mapped = unsafe { inner.table() }.is_some();
    if mapped {
        // Also where the loan has ended already, as with its device: who uses the memory may not be done yet.
        // SAFETY: The context ends all mappings before it is freed, and this one has not been ended.
        unsafe { inner.loan.recall() };
        // SAFETY: The reservation lock is held.
        unsafe { inner.fence.show(inner.dmabuf.resv()) };
    }
}
