// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The reading side of a ring.

use super::{
    Memory,
    STALLED, //
};

/// The one consumer of a ring.
///
/// # Invariants
///
/// `produced - next`, wrapping, is at most `memory.entries()`.
pub(crate) struct Consumer<M: Memory> {
    memory: M,
    /// Index of the next entry to read. Ours alone; the shared copy is never read back.
    next: u32,
    /// The last believable producer index.
    produced: u32,
}

impl<M: Memory> Consumer<M> {
    /// Makes the consumer of a ring whose words are all zero.
    pub(crate) fn new(memory: M) -> Self {
        // INVARIANT: The difference is zero.
        Self {
            memory,
            next: 0,
            produced: 0,
        }
    }

    /// Makes the consumer of an empty ring whose indices are at `index`, for tests of the wrap.
    #[cfg(test)]
    pub(crate) fn starting_at(memory: M, index: u32) -> Self {
        // INVARIANT: The difference is zero.
        Self {
            memory,
            next: index,
            produced: index,
        }
    }

    /// The memory that the ring lies in.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Number of entries that can be popped now, by the producer's latest word.
    pub(crate) fn available(&mut self) -> u32 {
        let produced = self.memory.load_producer();
        match super::used(produced, self.next, self.memory.entries()) {
            Some(used) => {
                // INVARIANT: `used()` has checked the distance.
                self.produced = produced;
                used
            }
            None => 0,
        }
    }

    /// Copies the next entry out. Its slot stays ours until [`Self::release`].
    pub(crate) fn pop(&mut self) -> Option<M::Entry> {
        if self.next == self.produced && self.available() == 0 {
            return None;
        }
        let entry = self.memory.read(self.next);
        // INVARIANT: `next` was behind `produced`.
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Puts the entry that was popped last back, which was not released.
    pub(crate) fn unpop(&mut self) {
        let next = self.next.wrapping_sub(1);
        // Else the producer has lied about how many there are.
        if super::used(self.produced, next, self.memory.entries()).is_some() {
            // INVARIANT: It was just checked.
            self.next = next;
        }
    }

    /// Gives the slots of all popped entries back to the producer.
    ///
    /// Returns whether the producer had stalled: it is to be told that there is room again.
    pub(crate) fn release(&mut self) -> bool {
        self.memory.store_consumer(self.next);
        // Pairs with the barrier in `Producer::stall()`: either it sees our index, or we its flag.
        self.memory.full_barrier();
        self.memory.load_flags() & STALLED != 0
    }
}
