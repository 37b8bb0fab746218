// SPDX-License-Identifier: GPL-2.0

//! A spin lock that process context and softirqs can share.

use super::abi;
use kernel::{
    bindings,
    sync::lock, //
};

/// A spin lock that disables softirqs on its CPU while it is held.
pub(crate) type BhLock<T> = lock::Lock<T, BhLockBackend>;

/// The kernel's `spinlock_t`, locked by `spin_lock_bh()`.
pub(crate) struct BhLockBackend;

/// Makes the initialiser of a [`BhLock`] with a lock class of its own.
macro_rules! new_bh_lock {
    ($inner:expr, $name:literal) => {
        $crate::ffi::lock::BhLock::new(
            $inner,
            kernel::optional_name!($name),
            kernel::static_lock_class!(),
        )
    };
}
pub(crate) use new_bh_lock;

// SAFETY: `spinlock_t` ensures mutual exclusion. `relock` is the default, which calls `lock`.
unsafe impl lock::Backend for BhLockBackend {
    type State = bindings::spinlock_t;
    type GuardState = ();

    unsafe fn init(
        ptr: *mut Self::State,
        name: *const kernel::ffi::c_char,
        key: *mut bindings::lock_class_key,
    ) {
        // SAFETY: The caller ensures that `ptr` is valid for writes, and that `name` and `key` live.
        unsafe { bindings::__spin_lock_init(ptr, name, key) }
    }

    unsafe fn lock(ptr: *mut Self::State) -> Self::GuardState {
        // SAFETY: The caller ensures that `ptr` is an initialised lock.
        unsafe { abi::netgpu_spin_lock_bh(ptr.cast()) }
    }

    unsafe fn try_lock(_ptr: *mut Self::State) -> Option<Self::GuardState> {
        None
    }

    unsafe fn unlock(ptr: *mut Self::State, _guard_state: &Self::GuardState) {
        // SAFETY: The caller ensures that `ptr` is a lock that it owns.
        unsafe { abi::netgpu_spin_unlock_bh(ptr.cast()) }
    }

    unsafe fn assert_is_held(ptr: *mut Self::State) {
        // SAFETY: The caller ensures that `ptr` is an initialised lock.
        unsafe { bindings::spin_assert_is_held(ptr) }
    }
}
