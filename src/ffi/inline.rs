// SPDX-License-Identifier: GPL-2.0

//! Atomic operations for each packet. Those of the kernel crate are calls, unless the compiler of C has made them part of Rust code.
//! These are in line: on x86-64 `core` has the same instructions for them as the kernel, which order memory in the same way.

use core::sync::atomic::{
    AtomicU32,
    AtomicU64,
    Ordering, //
};
use kernel::sync::atomic::{
    Atomic,
    AtomicType, //
};

const _: () = assert!(cfg!(CONFIG_X86_64));

/// As `Atomic::load` with `Relaxed`.
#[inline(always)]
pub(crate) fn peek<T: AtomicType>(atomic: &Atomic<T>) -> T {
    // SAFETY: The value is there, valid, and changes as a whole: `Atomic` is of types that the CPU loads in one access, and lets
    // nobody write it in another way.
    unsafe { atomic.as_ptr().read_volatile() }
}

#[inline(always)]
fn core32(atomic: &Atomic<u32>) -> &AtomicU32 {
    // SAFETY: The value is there as long as `atomic`, aligned, and accessed atomically only.
    unsafe { AtomicU32::from_ptr(atomic.as_ptr()) }
}

/// As `Atomic::load` with `Acquire`.
#[inline(always)]
pub(crate) fn load_acquire(atomic: &Atomic<u32>) -> u32 {
    core32(atomic).load(Ordering::Acquire)
}

/// As `Atomic::store` with `Release`.
#[inline(always)]
pub(crate) fn store_release(atomic: &Atomic<u32>, value: u32) {
    core32(atomic).store(value, Ordering::Release);
}

/// As `Atomic::add` with `Relaxed`.
#[inline(always)]
pub(crate) fn add(atomic: &Atomic<u32>, n: u32) {
    core32(atomic).fetch_add(n, Ordering::Relaxed);
}

/// As `Atomic::add` with `Relaxed` and `-n`.
#[inline(always)]
pub(crate) fn sub(atomic: &Atomic<u32>, n: u32) {
    core32(atomic).fetch_sub(n, Ordering::Relaxed);
}

#[inline(always)]
fn core64(atomic: &Atomic<u64>) -> &AtomicU64 {
    // SAFETY: As in `core32()`.
    unsafe { AtomicU64::from_ptr(atomic.as_ptr()) }
}

/// As `Atomic::cmpxchg` with `Full`.
#[inline(always)]
pub(crate) fn cmpxchg(atomic: &Atomic<u64>, old: u64, new: u64) -> Result<u64, u64> {
    core64(atomic).compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed)
}

/// Another reference, from one that is there: as `refcount_inc()`.
#[inline(always)]
pub(crate) fn increment(count: &Atomic<u64>) {
    core64(count).fetch_add(1, Ordering::Relaxed);
}

/// Another reference, if there is one: as `refcount_inc_not_zero()`.
pub(crate) fn increment_not_zero(count: &Atomic<u64>) -> bool {
    let more = |count: u64| (count != 0).then_some(count + 1);
    core64(count)
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}

/// A reference less. Whether it was the last one, and then all that was done with the others is seen: as `refcount_dec_and_test()`.
#[inline(always)]
pub(crate) fn decrement(count: &Atomic<u64>) -> bool {
    core64(count).fetch_sub(1, Ordering::AcqRel) == 1
}
