// SPDX-License-Identifier: GPL-2.0

//! A value that is read without locks and replaced as a whole.

use core::ptr::{
    null_mut,
    NonNull, //
};
use kernel::{
    bindings,
    ffi::c_ulong,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        rcu, //
    }, //
};

/// A value for [`Rcu`].
pub(crate) struct Version<T> {
    value: T,
    /// Once it was replaced: the grace period after which nobody reads it, as `get_state_synchronize_rcu()`
    /// returned it.
    grace: Atomic<c_ulong>,
}

impl<T> Version<T> {
    /// Allocates it.
    pub(crate) fn new(value: T) -> Result<KBox<Self>> {
        let grace = Atomic::new(0);
        Ok(KBox::new(Self { value, grace }, GFP_KERNEL_ACCOUNT)?)
    }
}

/// A boxed `T` that readers see under RCU.
///
/// # Invariants
///
/// `current` comes from `KBox::into_raw()`, and `replaced` does or is null; they are different, and each
/// owns its box. Who reads `replaced` has begun before its grace period does.
pub(crate) struct Rcu<T> {
    current: Atomic<*mut Version<T>>,
    /// What `current` was before. Freed when it is replaced again, so that nobody waits for its readers: they
    /// have ended by then, if that is not at once.
    replaced: Atomic<*mut Version<T>>,
}

// SAFETY: `Rcu` owns its two `T` and hands out `&T` only.
unsafe impl<T: Send + Sync> Send for Rcu<T> {}
// SAFETY: As above; a `T` may be dropped by another task than the one that gave it away.
unsafe impl<T: Send + Sync> Sync for Rcu<T> {}

impl<T> Rcu<T> {
    /// Starts with `value`.
    pub(crate) fn new(value: KBox<Version<T>>) -> Self {
        // INVARIANT: As required.
        Self {
            current: Atomic::new(KBox::into_raw(value)),
            replaced: Atomic::new(null_mut()),
        }
    }

    /// The current value, for as long as the guard lives.
    pub(crate) fn read<'a>(&'a self, _guard: &'a rcu::Guard) -> &'a T {
        // SAFETY: By the type invariants the box is valid while an RCU read side section that began
        // before it was replaced lasts, and `self` is borrowed, so not dropped.
        unsafe { &(*self.current.load(Acquire)).value }
    }

    /// Replaces the value. The old one, and what it refers to, stays until the new one is replaced. Sleeps when there was
    /// a replacement just before.
    pub(crate) fn replace(&self, value: KBox<Version<T>>) {
        let old = self.current.xchg(KBox::into_raw(value), Release);
        // No grace period is asked for: there will be one before anybody cares.
        // SAFETY: May be called anywhere.
        let grace = unsafe { bindings::get_state_synchronize_rcu() };
        // SAFETY: By the type invariants `old` owned its box, which `xchg()` has made ours but for readers.
        unsafe { (*old).grace.store(grace, Relaxed) };
        // INVARIANT: As above. `grace` begins after `old` was `current`: `get_state_synchronize_rcu()` begins
        // with a full barrier.
        self.free(self.replaced.xchg(old, Full));
    }

    /// Frees `old`, which was `replaced` until an `xchg()` of the caller's.
    fn free(&self, old: *mut Version<T>) {
        let Some(old) = NonNull::new(old) else {
            return;
        };
        // SAFETY: By the type invariants `old` owned its box, which is ours now but for readers.
        let grace = unsafe { old.as_ref() }.grace.load(Relaxed);
        // Expedited: somebody waits who registers memory. As synchronize_net()
        // does for who changes a device.
        // SAFETY: `grace` comes from `get_state_synchronize_rcu()`; may be called wherever one may sleep.
        unsafe { bindings::cond_synchronize_rcu_expedited(grace) };
        // SAFETY: As above, and by the type invariants the readers have ended.
        drop(unsafe { KBox::from_raw(old.as_ptr()) });
    }
}

impl<T> Drop for Rcu<T> {
    fn drop(&mut self) {
        for ptr in [*self.current.get_mut(), *self.replaced.get_mut()] {
            if let Some(ptr) = NonNull::new(ptr) {
                // SAFETY: By the type invariants; readers borrow `self`, so there are none.
                drop(unsafe { KBox::from_raw(ptr.as_ptr()) });
            }
        }
    }
}

#[kunit_tests(netgpu_rcu)]
mod tests {
    use super::*;
    use kernel::sync::Arc;

    /// Tells `log` its number when it goes.
    struct Noisy(u32, Arc<Atomic<u32>>);

    impl Drop for Noisy {
        fn drop(&mut self) {
            self.1.store(self.0, Relaxed);
        }
    }

    #[test]
    fn a_value_stays_until_its_successor_is_replaced() -> Result {
        let log = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let noisy = |number| Version::new(Noisy(number, log.clone()));
        let rcu = Rcu::new(noisy(1)?);
        rcu.replace(noisy(2)?);
        assert_eq!(rcu.read(&rcu::read_lock()).0, 2);
        assert_eq!(log.load(Relaxed), 0);
        rcu.replace(noisy(3)?);
        assert_eq!(log.load(Relaxed), 1);
        assert_eq!(rcu.read(&rcu::read_lock()).0, 3);
        Ok(())
    }

    #[test]
    fn all_go_with_it() -> Result {
        let log = Arc::new(Atomic::new(0), GFP_KERNEL)?;
        let noisy = || Version::new(log.clone());
        let rcu = Rcu::new(noisy()?);
        rcu.replace(noisy()?);
        drop(rcu);
        assert!(Arc::into_unique_or_drop(log).is_some());
        Ok(())
    }
}
