// SPDX-License-Identifier: GPL-2.0

//! Loads for each packet. Those of the kernel crate are calls, unless the compiler of C has made them part of Rust code.

use kernel::sync::atomic::{
    Atomic,
    AtomicType, //
};

/// As `Atomic::load` with `Relaxed`.
#[inline(always)]
pub(crate) fn peek<T: AtomicType>(atomic: &Atomic<T>) -> T {
    // SAFETY: The value is there, valid, and changes as a whole: `Atomic` is of types that the CPU loads in one access, and lets
    // nobody write it in another way.
    unsafe { atomic.as_ptr().read_volatile() }
}
