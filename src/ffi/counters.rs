// SPDX-License-Identifier: GPL-2.0

//! Counters that cost the data path little: neither an atomic operation nor a cache line that CPUs fight for.

use super::abi;
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_void,
    prelude::*, //
};

/// A counter whose adders exclude one another, mostly by a lock that they hold anyway: where they do not, counts are lost. Anybody
/// may read it.
#[derive(Default)]
pub(crate) struct Counter(UnsafeCell<u64>);

// SAFETY: The cell is accessed as a whole word, volatile, only; that two of those do not meet, or what comes of it, is as the type
// says.
unsafe impl Sync for Counter {}

impl Counter {
    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        // SAFETY: The cell is there as long as `self`.
        unsafe { self.0.get().write_volatile(self.get().wrapping_add(n)) };
    }

    /// The sum so far.
    pub(crate) fn get(&self) -> u64 {
        // SAFETY: The cell is there as long as `self`.
        unsafe { self.0.get().read_volatile() }
    }
}

/// `N` counters, of each CPU its own. Anybody may add at any time, in any context.
///
/// # Invariants
///
/// Holds memory for `N` counters of each CPU.
pub(crate) struct PerCpu<const N: usize>(NonNull<c_void>);

// SAFETY: Each CPU adds to its own counters, in one instruction.
unsafe impl<const N: usize> Send for PerCpu<N> {}
// SAFETY: As above.
unsafe impl<const N: usize> Sync for PerCpu<N> {}

impl<const N: usize> PerCpu<N> {
    /// Counters that begin at zero.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: No requirements.
        let counters = unsafe { abi::netgpu_counters_alloc(N as u32) };
        // INVARIANT: Allocated just now.
        NonNull::new(counters).map(Self).ok_or(ENOMEM)
    }

    /// Adds `n` to a counter.
    pub(crate) fn add(&self, counter: usize, n: u64) {
        if counter < N && n != 0 {
            // SAFETY: By the type invariants there is that counter.
            unsafe { abi::netgpu_counters_add(self.0.as_ptr(), counter as u32, n) };
        }
    }

    /// The sum so far of a counter over all CPUs.
    pub(crate) fn sum(&self, counter: usize) -> u64 {
        if counter >= N {
            return 0;
        }
        // SAFETY: By the type invariants there is that counter.
        unsafe { abi::netgpu_counters_sum(self.0.as_ptr(), counter as u32) }
    }
}

impl<const N: usize> Drop for PerCpu<N> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, and nobody uses it any more.
        unsafe { abi::netgpu_counters_free(self.0.as_ptr()) };
    }
}

#[kunit_tests(netgpu_counters)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_cpus_are_summed() -> Result {
        let counters = PerCpu::<2>::new()?;
        counters.add(0, 3);
        counters.add(1, 5);
        counters.add(0, 4);
        counters.add(2, 9);
        assert_eq!([0, 1, 2].map(|i| counters.sum(i)), [7, 5, 0]);
        Ok(())
    }
}
