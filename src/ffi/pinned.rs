// SPDX-License-Identifier: GPL-2.0

//! Pinned pages of user memory, and the account that they are on.

use super::abi;
use crate::span::Span;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::{
        code::EOPNOTSUPP,
        to_result, //
    },
    mm::{
        virt::flags,
        Mm,
        MmWithUser, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        }, //
    }, //
};

/// Pinned pages of user memory, charged to its owner.
///
/// # Invariants
///
/// The first `pinned` of `pages` are pages that `pin_user_pages_fast()` pinned; the others are null.
pub(crate) struct Pages {
    pages: KVVec<*mut bindings::page>,
    pinned: usize,
    /// Dropped last: what is pinned is charged.
    charge: Charge,
}

// SAFETY: The pages do not change once pinned and may be released by any process.
unsafe impl Send for Pages {}
// SAFETY: As above.
unsafe impl Sync for Pages {}

impl Pages {
    /// Pins the pages of `span` in the current process, for reading and writing.
    pub(crate) fn pin(span: Span) -> Result<Self> {
        let task = kernel::current!();
        let mm = task.mm().ok_or(EFAULT)?;
        check_mapped(mm, span)?;

        let count = span.len() / PAGE_SIZE;
        // The most that the allocator takes without a warning, which is memory for a terabyte.
        if count > i32::MAX as usize / core::mem::size_of::<*mut bindings::page>() {
            return Err(ENOMEM);
        }
        let charge = Charge::new(mm, count)?;
        let mut this = Self {
            pages: KVVec::from_elem(core::ptr::null_mut(), count, GFP_KERNEL_ACCOUNT)?,
            pinned: 0,
            charge,
        };
        while this.pinned < count {
            // SAFETY: There is room for `count - pinned` pointers at that place.
            let got = unsafe {
                bindings::pin_user_pages_fast(
                    span.start() + this.pinned * PAGE_SIZE,
                    (count - this.pinned) as i32,
                    bindings::FOLL_WRITE | bindings::FOLL_LONGTERM,
                    this.pages.as_mut_ptr().add(this.pinned),
                )
            };
            to_result(got)?;
            if got == 0 {
                return Err(EFAULT);
            }
            // INVARIANT: That many more were pinned.
            this.pinned += got as usize;
        }
        // Before that nobody can know.
        let beside = this.folio_pages().saturating_sub(count);
        this.charge.grow(beside)?;
        Ok(this)
    }

    /// Pages of all folios that pinned pages are part of: they stay in memory as a whole. Each counts once, if its pages are side by
    /// side in the span.
    fn folio_pages(&self) -> usize {
        // SAFETY: By the type invariants these are pages and pinned, so their folios stay what they are.
        unsafe { abi::netgpu_folio_pages(self.pages.as_ptr().cast_mut().cast(), self.pinned) }
    }

    /// The pages of the span, in order.
    pub(super) fn as_slice(&self) -> &[*mut bindings::page] {
        &self.pages
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. All users of the pages hold `self`.
        unsafe {
            bindings::unpin_user_pages_dirty_lock(self.pages.as_mut_ptr(), self.pinned, true)
        };
    }
}

/// Whether the span is mapped and can be pinned, before anything is spent on it: pinning reports files that cannot be pinned for
/// long like addresses that are not mapped.
fn check_mapped(mm: &MmWithUser, span: Span) -> Result {
    let guard = mm.mmap_read_lock();
    let mut addr = span.start();
    while addr < span.start() + span.len() {
        let vma = guard.vma_lookup(addr).ok_or(EFAULT)?;
        if vma.flags() & flags::WRITE == 0 {
            return Err(EFAULT);
        }
        // As gup decides: pages that a file system writes back cannot stay writable for ever.
        let shared = vma.flags() & (flags::SHARED | flags::HUGETLB) == flags::SHARED;
        // SAFETY: The vma is valid under the lock that `guard` holds, and keeps its file.
        let file = NonNull::new(unsafe { (*vma.as_ptr()).vm_file });
        // SAFETY: As above.
        if shared && file.is_some_and(|file| unsafe { written_back(file) }) {
            return Err(EOPNOTSUPP);
        }
        addr = vma.end();
    }
    Ok(())
}

/// Whether a file system writes the pages of `file` back.
///
/// # Safety
///
/// `file` is an open file.
unsafe fn written_back(file: NonNull<bindings::file>) -> bool {
    // SAFETY: By this function's requirements.
    unsafe { abi::netgpu_mapping_can_writeback((*file.as_ptr()).f_mapping.cast()) }
}

/// Pages on the accounts of a user, for RLIMIT_MEMLOCK, and of a process, for its statistics. As io_uring keeps them.
///
/// # Invariants
///
/// `user` is a reference to a user on whose locked memory `pages` are; none if the limit does not apply. `pages` are on
/// the pinned memory of `mm`.
struct Charge {
    user: Option<NonNull<bindings::user_struct>>,
    mm: ARef<Mm>,
    pages: i64,
}

impl Charge {
    fn new(mm: &MmWithUser, pages: usize) -> Result<Self> {
        let pages = i64::try_from(pages)?;
        // SAFETY: No requirements.
        let unlimited = unsafe { bindings::capable(bindings::CAP_IPC_LOCK as i32) };
        let user = if unlimited {
            None
        } else {
            Some(Self::charge_user(pages)?)
        };
        let mm: ARef<Mm> = ARef::from(&**mm);
        pinned_vm(&mm).add(pages, Relaxed);
        // INVARIANT: Charged just now.
        Ok(Self { user, mm, pages })
    }

    /// Charges as many pages more.
    fn grow(&mut self, pages: usize) -> Result {
        let pages = i64::try_from(pages)?;
        if let Some(user) = self.user {
            // SAFETY: By the type invariants we hold the user.
            unsafe { lock(user, pages) }?;
        }
        pinned_vm(&self.mm).add(pages, Relaxed);
        // INVARIANT: Charged just now.
        self.pages += pages;
        Ok(())
    }

    /// Charges the current user, if the limit of the current process allows.
    fn charge_user(pages: i64) -> Result<NonNull<bindings::user_struct>> {
        let task = kernel::current!().as_ptr();
        // SAFETY: The current task's credentials change by its own doing only.
        let user = NonNull::new(unsafe { (*(*task).cred).user }).ok_or(EPERM)?;
        // SAFETY: The credentials hold the user, so the count is not zero.
        unsafe {
            lock(user, pages)?;
            bindings::refcount_inc(&raw mut (*user.as_ptr()).__count);
        }
        Ok(user)
    }
}

/// Counts `pages` more as locked by `user`, if the limit of the current process allows.
///
/// # Safety
///
/// `user` is a user that is held.
unsafe fn lock(user: NonNull<bindings::user_struct>, pages: i64) -> Result {
    let task = kernel::current!().as_ptr();
    // SAFETY: The signal structure of the current task stays, and other threads change a limit as a whole.
    let limit = unsafe {
        (&raw const (*(*task).signal).rlim[bindings::RLIMIT_MEMLOCK as usize].rlim_cur)
            .read_volatile()
    };
    let limit = i64::try_from(limit / PAGE_SIZE)?;
    // SAFETY: By this function's requirements.
    let locked = unsafe { locked_vm(user) };
    let mut old = locked.load(Relaxed);
    loop {
        let new = old.checked_add(pages).ok_or(ENOMEM)?;
        if new > limit {
            return Err(ENOMEM);
        }
        match locked.cmpxchg(old, new, Relaxed) {
            Ok(_) => return Ok(()),
            Err(now) => old = now,
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(user) = self.user {
            // SAFETY: By the type invariants we hold the user.
            unsafe { locked_vm(user) }.add(-self.pages, Relaxed);
            // SAFETY: As above; the reference goes.
            unsafe { bindings::free_uid(user.as_ptr()) };
        }
        pinned_vm(&self.mm).add(-self.pages, Relaxed);
    }
}

/// Pages that count as locked by `user`.
///
/// # Safety
///
/// `user` is a user that is held for `'a`.
unsafe fn locked_vm<'a>(user: NonNull<bindings::user_struct>) -> &'a Atomic<i64> {
    // SAFETY: The user is there by this function's requirements, and the kernel too uses the field by atomics only.
    unsafe { Atomic::from_ptr((&raw mut (*user.as_ptr()).locked_vm.counter).cast()) }
}

/// Pages that count as pinned by `mm`.
fn pinned_vm(mm: &Mm) -> &Atomic<i64> {
    // SAFETY: The structure is there as long as `mm`, and the kernel too uses the field by atomics only.
    unsafe { Atomic::from_ptr((&raw mut (*mm.as_raw()).__bindgen_anon_1.pinned_vm.counter).cast()) }
}
