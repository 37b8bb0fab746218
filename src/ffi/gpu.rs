// SPDX-License-Identifier: GPL-2.0

//! Memory of GPUs that another module pins and maps for us: see `shim/gpu.h`.
//!
//! # Taking back
//!
//! The memory may go while we have it. [`revoked`] then waits until [`Context::withdraw`](crate::context::Context::withdraw) has
//! ended every mapping of it. The GPU's driver may hold locks of its own meanwhile, which its functions take too: so no lock that
//! the withdrawal needs is held while they are called, except to end a mapping, which is safe: the module's functions must not wait
//! for its own call of [`revoked`] to undo a mapping.

use super::{
    abi,
    device::Device,
    loan::Loan, //
};
use crate::span::Span;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::{
        code::{
            EBUSY,
            ENXIO, //
        },
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_void, //
    },
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Completion,
        Mutex, //
    }, //
};

/// Bytes of a page of a GPU.
pub(crate) const GPU_PAGE_SIZE: usize = 1 << abi::NETGPU_GPU_PAGE_SHIFT;

kernel::sync::global_lock! {
    // SAFETY: `start()` is called when the module is loaded, before anything else here.
    unsafe(uninit) static PROVIDER: Mutex<Option<Provider>> = None;
}

/// For module init.
pub(crate) fn start() {
    // SAFETY: Called once.
    unsafe { PROVIDER.init() };
}

/// A module that gives us memory of GPUs.
///
/// # Invariants
///
/// It is registered, or somebody holds the module: so the operations are there.
#[derive(Clone, Copy)]
struct Provider(NonNull<abi::netgpu_gpu_ops>);

// SAFETY: The operations may be called by anyone.
unsafe impl Send for Provider {}
// SAFETY: As above.
unsafe impl Sync for Provider {}

impl Provider {
    fn ops(&self) -> &abi::netgpu_gpu_ops {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }

    fn registered() -> Option<Held> {
        let registered = PROVIDER.lock();
        let provider = (*registered)?;
        // SAFETY: It is registered as long as we have the lock, so its module is there.
        let held = unsafe { bindings::try_module_get(provider.ops().owner.cast()) };
        drop(registered);
        if !held {
            return None;
        }
        // INVARIANT: Taken just now.
        Some(Held(provider))
    }
}

/// A provider whose module is held.
///
/// # Invariants
///
/// Holds a reference to the module.
struct Held(Provider);

impl Held {
    /// The provider; its module is loaded if need be. `ENXIO`: there is none.
    fn get() -> Result<Self> {
        Provider::registered()
            .or_else(|| {
                // SAFETY: Process context: user space is asking.
                let _ = unsafe { abi::netgpu_request_gpu_module() };
                Provider::registered()
            })
            .ok_or(ENXIO)
    }

    fn ops(&self) -> &abi::netgpu_gpu_ops {
        self.0.ops()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::module_put(self.ops().owner.cast()) };
    }
}

/// # Safety
///
/// `ops` stays until [`netgpu_gpu_unregister`], and as long as its module is held.
#[no_mangle]
unsafe extern "C" fn netgpu_gpu_register(ops: *const abi::netgpu_gpu_ops) -> c_int {
    from_result(|| {
        let mut provider = PROVIDER.lock();
        if provider.is_some() {
            return Err(EBUSY);
        }
        // INVARIANT: By this function's requirements.
        *provider = Some(Provider(NonNull::new(ops.cast_mut()).ok_or(EINVAL)?));
        Ok(0)
    })
}

/// # Safety
///
/// Called by the module that is registered.
#[no_mangle]
unsafe extern "C" fn netgpu_gpu_unregister() {
    *PROVIDER.lock() = None;
}

/// Pinned memory of a GPU.
///
/// # Invariants
///
/// `raw` is what `held` pinned, with `users` as its data.
pub(crate) struct GpuPages {
    held: Held,
    raw: *mut c_void,
    users: Arc<Users>,
    count: u32,
}

// SAFETY: The provider's functions may be called by anyone.
unsafe impl Send for GpuPages {}
// SAFETY: As above.
unsafe impl Sync for GpuPages {}

/// Who has mapped the memory.
#[pin_data]
struct Users {
    #[pin]
    state: Mutex<State>,
}

struct State {
    gone: bool,
    /// Each is of a context that somebody holds.
    borrowers: KVec<Arc<Borrower>>,
}

/// Somebody who has mapped the memory, or is about to.
#[pin_data]
struct Borrower {
    loan: Loan,
    /// There is no mapping, nor will there be one.
    #[pin]
    done: Completion,
}

impl GpuPages {
    /// Pins the memory of the current process at `span`, whole pages of the GPU. `ENXIO`: there is no driver to ask.
    pub(crate) fn pin(span: Span) -> Result<Self> {
        if span.start() % GPU_PAGE_SIZE != 0 || span.len() % GPU_PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        let held = Held::get()?;
        let users = Arc::pin_init(
            pin_init!(Users {
                state <- new_mutex!(State {
                    gone: false,
                    borrowers: KVec::new(),
                }, "netgpu::GpuPages::users"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let mut raw = core::ptr::null_mut();
        let pin = held.ops().pin.ok_or(ENXIO)?;
        // SAFETY: `users` stays until the memory is unpinned. The rest is as the interface has it.
        to_result(unsafe {
            pin(
                span.start() as u64,
                span.len() as u64,
                Some(revoked),
                Arc::as_ptr(&users).cast_mut().cast(),
                &mut raw,
            )
        })?;
        // INVARIANT: Pinned just now.
        Ok(Self {
            held,
            raw,
            users,
            count: u32::try_from(span.len() / GPU_PAGE_SIZE)?,
        })
    }
}

impl Drop for GpuPages {
    fn drop(&mut self) {
        if let Some(unpin) = self.held.ops().unpin {
            // SAFETY: By the type invariants; mappings hold the region, and with it `self`.
            unsafe { unpin(self.raw) };
        }
    }
}

/// The memory goes: waits until nobody has it mapped. Process context.
///
/// # Safety
///
/// `users` is the data of memory that is pinned.
unsafe extern "C" fn revoked(users: *mut c_void) {
    // SAFETY: By this function's requirements.
    let users = unsafe { &*users.cast::<Users>().cast_const() };
    let mut state = users.state.lock();
    state.gone = true;
    let borrowers = core::mem::take(&mut state.borrowers);
    for borrower in &borrowers {
        // SAFETY: It was listed, and is not taken off the list without the lock, which its context does before it is freed.
        unsafe { borrower.loan.recall() };
    }
    drop(state);
    for borrower in &borrowers {
        borrower.done.wait_for_completion();
    }
}

/// Memory of a GPU, mapped for a device. Its owner keeps memory and device.
///
/// # Invariants
///
/// - `pages` is there as long as `self`.
/// - `mapping` is what the provider mapped of it, if anything.
/// - `cpu` maps `pages` for the CPU while there is a mapping.
pub(super) struct GpuMap {
    pages: *const GpuPages,
    borrower: Arc<Borrower>,
    mapping: Pin<KBox<Mutex<Option<*mut c_void>>>>,
    /// Pieces that follow one another without a gap, and where each begins.
    cpu: KVec<(usize, *mut c_void)>,
}

// SAFETY: `GpuPages` is `Send` and `Sync`; the mappings may be used by anyone.
unsafe impl Send for GpuMap {}
// SAFETY: As above.
unsafe impl Sync for GpuMap {}

impl GpuMap {
    /// Maps `pages` for `device`. That the memory goes ends `loan`.
    ///
    /// # Safety
    ///
    /// `pages` and `device` outlive the result. The context of `loan` owns `device` and will own the result.
    pub(super) unsafe fn new(pages: &GpuPages, device: &Device, loan: Loan) -> Result<Self> {
        let borrower = Arc::pin_init(
            pin_init!(Borrower {
                loan,
                done <- Completion::new(),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        // INVARIANT: Nothing is mapped yet.
        let mut this = Self {
            pages,
            borrower: borrower.clone(),
            mapping: KBox::pin_init(
                new_mutex!(None, "netgpu::GpuMap::mapping"),
                GFP_KERNEL_ACCOUNT,
            )?,
            cpu: KVec::new(),
        };
        {
            let mut state = pages.users.state.lock();
            if state.gone {
                return Err(ENODEV);
            }
            state.borrowers.push(borrower, GFP_KERNEL_ACCOUNT)?;
        }
        let mut mapping = core::ptr::null_mut();
        let map = pages.held.ops().map.ok_or(ENXIO)?;
        // SAFETY: By the type invariants of `GpuPages` and this function's requirements.
        to_result(unsafe { map(pages.raw, device.dma(), &mut mapping) })?;
        // INVARIANT: Mapped just now.
        *this.mapping.lock() = Some(mapping);
        this.map_cpu(pages)?;
        Ok(this)
    }

    /// Maps the memory for the CPU.
    fn map_cpu(&mut self, pages: &GpuPages) -> Result {
        let physical = pages.held.ops().physical.ok_or(ENXIO)?;
        let size = GPU_PAGE_SIZE as bindings::phys_addr_t;
        // SAFETY: By the type invariants of `GpuPages`; called for pages that there are.
        let at = |index| unsafe { physical(pages.raw, index) };
        let mut first = 0;
        while first < pages.count {
            let start = at(first);
            let mut next = first + 1;
            while next < pages.count
                && at(next) == start + bindings::phys_addr_t::from(next - first) * size
            {
                next += 1;
            }
            let len = (next - first) as usize * GPU_PAGE_SIZE;
            // SAFETY: It is memory of a device, which is there as long as it is pinned.
            let base = unsafe { abi::netgpu_ioremap_wc(start, len) };
            if base.is_null() {
                return Err(ENOMEM);
            }
            let piece = (first as usize * GPU_PAGE_SIZE, base);
            if self.cpu.push(piece, GFP_KERNEL_ACCOUNT).is_err() {
                // SAFETY: Mapped just now.
                unsafe { abi::netgpu_iounmap(base) };
                return Err(ENOMEM);
            }
            first = next;
        }
        Ok(())
    }

    fn pages(&self) -> &GpuPages {
        // SAFETY: By the type invariants.
        unsafe { &*self.pages }
    }

    pub(super) fn loan(&self) -> &Loan {
        &self.borrower.loan
    }

    /// Calls `f` with the bus address and the length of each page, in order.
    pub(super) fn segments(
        &self,
        mut f: impl FnMut(bindings::dma_addr_t, usize) -> Result,
    ) -> Result {
        let mapping = self.mapping.lock();
        let raw = (*mapping).ok_or(ENODEV)?;
        let address = self.pages().held.ops().address.ok_or(ENXIO)?;
        for index in 0..self.pages().count {
            // SAFETY: By the type invariants.
            f(unsafe { address(raw, index) }, GPU_PAGE_SIZE)?;
        }
        Ok(())
    }

    /// Copies `data` to `offset`. Any context.
    ///
    /// # Safety
    ///
    /// The range lies in one page of the memory. No grace period passes between a look at the loan that found it live and the return.
    pub(super) unsafe fn write(&self, offset: usize, data: &[u8]) {
        let after = self.cpu.partition_point(|&(start, _)| start <= offset);
        if let Some(&(start, base)) = after.checked_sub(1).and_then(|at| self.cpu.get(at)) {
            // SAFETY: By the type invariants the piece is mapped, and stays until a grace period after the loan has ended. A page
            // lies in one piece.
            unsafe {
                abi::netgpu_memcpy_toio(
                    base.byte_add(offset - start),
                    data.as_ptr().cast(),
                    data.len(),
                )
            };
        }
    }

    /// Ends the mapping, if that has not been done. Sleeps.
    ///
    /// # Safety
    ///
    /// The device does not use the memory, and a grace period has passed since the loan ended, or nobody else knows of `self`.
    pub(super) unsafe fn unmap(&self) {
        let pages = self.pages();
        {
            let mut state = pages.users.state.lock();
            // Nobody is recalled any more whose context may go.
            state
                .borrowers
                .retain(|borrower| !Arc::ptr_eq(borrower, &self.borrower));
        }
        let mut mapping = self.mapping.lock();
        if let (Some(raw), Some(unmap)) = (mapping.take(), pages.held.ops().unmap) {
            for &(_, base) in &self.cpu {
                // SAFETY: By the type invariants, and nobody uses it by this function's requirements.
                unsafe { abi::netgpu_iounmap(base) };
            }
            // SAFETY: As above.
            unsafe { unmap(pages.raw, raw) };
        }
        self.borrower.done.complete_all();
    }
}

impl Drop for GpuMap {
    fn drop(&mut self) {
        // SAFETY: Nobody else knows of `self` any longer: who uses the memory holds the context, which holds `self`.
        unsafe { self.unmap() };
    }
}
