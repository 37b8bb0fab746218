// SPDX-License-Identifier: GPL-2.0

//! Counters that the data path adds to and user space reads.

use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};

/// A counter. Reading one while it moves gives a value that it had.
pub(crate) struct Counter(Atomic<u64>);

impl Counter {
    /// Adds `n`.
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The sum so far.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}
