// SPDX-License-Identifier: GPL-2.0

//! A value that is read without locks and replaced as a whole.

use core::ptr::NonNull;
use kernel::{
    bindings,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Release, //
        },
        rcu, //
    }, //
};

/// A boxed `T` that readers see under RCU.
///
/// # Invariants
///
/// `ptr` comes from `KBox::into_raw()`. The box is freed only after a grace period in which `ptr` no
/// longer named it, or when `self` is dropped.
pub(crate) struct Rcu<T> {
    ptr: Atomic<*mut T>,
}

// SAFETY: `Rcu` owns its `T` and hands out `&T` only.
unsafe impl<T: Send + Sync> Send for Rcu<T> {}
// SAFETY: As above.
unsafe impl<T: Send + Sync> Sync for Rcu<T> {}

impl<T> Rcu<T> {
    /// Starts with `value`.
    pub(crate) fn new(value: KBox<T>) -> Self {
        // INVARIANT: As required.
        Self {
            ptr: Atomic::new(KBox::into_raw(value)),
        }
    }

    /// The current value, for as long as the guard lives.
    pub(crate) fn read<'a>(&'a self, _guard: &'a rcu::Guard) -> &'a T {
        // SAFETY: By the type invariants the box is valid while an RCU read side section that began
        // before it was replaced lasts, and `self` is borrowed, so not dropped.
        unsafe { &*self.ptr.load(Acquire) }
    }

    /// Replaces the value and frees the old one when nobody reads it any longer. Sleeps. Callers exclude
    /// one another.
    pub(crate) fn replace(&self, value: KBox<T>) {
        let old = self.ptr.xchg(KBox::into_raw(value), Release);
        // Who registers memory waits for this. As synchronize_net() does for who changes a device.
        // SAFETY: May be called wherever one may sleep.
        unsafe { bindings::synchronize_rcu_expedited() };
        // SAFETY: By the type invariants `old` comes from `KBox::into_raw()`; `xchg()` made it ours alone
        // but for readers, for whom we have waited.
        drop(unsafe { KBox::from_raw(old) });
    }
}

impl<T> Drop for Rcu<T> {
    fn drop(&mut self) {
        if let Some(ptr) = NonNull::new(*self.ptr.get_mut()) {
            // SAFETY: By the type invariants; readers borrow `self`, so there are none.
            drop(unsafe { KBox::from_raw(ptr.as_ptr()) });
        }
    }
}
