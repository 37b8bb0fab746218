// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The writing side of a ring.

use super::{
    Memory,
    STALLED, //
};

/// The ring has no room for another entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Full;

/// The one producer of a ring.
///
/// # Invariants
///
/// `next - consumed`, wrapping, is at most `memory.entries()`, and so is `next - published`.
pub(crate) struct Producer<M: Memory> {
    memory: M,
    /// Index of the next entry to write. Ours alone; the shared copy is never read back.
    next: u32,
    /// What the shared producer index says.
    published: u32,
    /// The last believable consumer index.
    consumed: u32,
}

impl<M: Memory> Producer<M> {
    /// Makes the producer of a ring whose words are all zero.
    pub(crate) fn new(memory: M) -> Self {
        // INVARIANT: All differences are zero.
        Self {
            memory,
            next: 0,
            published: 0,
            consumed: 0,
        }
    }

    /// Makes the producer of an empty ring whose indices are at `index`, for tests of the wrap.
    #[cfg(test)]
    pub(crate) fn starting_at(memory: M, index: u32) -> Self {
        // INVARIANT: All differences are zero.
        Self {
            memory,
            next: index,
            published: index,
            consumed: index,
        }
    }

    /// The memory that the ring lies in.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Number of entries that can be pushed now, by the consumer's latest word.
    pub(crate) fn room(&mut self) -> u32 {
        let consumed = self.memory.load_consumer();
        match super::used(self.next, consumed, self.memory.entries()) {
            Some(used) => {
                // INVARIANT: `used()` has checked the distance.
                self.consumed = consumed;
                self.memory.entries() - used
            }
            None => 0,
        }
    }

    /// Number of published entries that the consumer has not released, by its latest word; all that
    /// were ever possible if that word cannot be true.
    pub(crate) fn unread(&self) -> u32 {
        let entries = self.memory.entries();
        super::used(self.published, self.memory.load_consumer(), entries).unwrap_or(entries)
    }

    /// Whether [`Self::push`] would fail.
    pub(crate) fn is_full(&mut self) -> bool {
        self.next.wrapping_sub(self.consumed) == self.memory.entries() && self.room() == 0
    }

    /// Writes `entry` into the next slot; the consumer sees it after [`Self::publish`].
    pub(crate) fn push(&mut self, entry: M::Entry) -> Result<(), Full> {
        if self.is_full() {
            return Err(Full);
        }
        self.memory.write(self.next, entry);
        // INVARIANT: There was room by `consumed`, and `published` is never behind `consumed`.
        self.next = self.next.wrapping_add(1);
        Ok(())
    }

    /// Pushes those of `entries` that there is room for; returns how many.
    pub(crate) fn extend(&mut self, entries: impl ExactSizeIterator<Item = M::Entry>) -> usize {
        let used = self.next.wrapping_sub(self.consumed);
        let mut room = (self.memory.entries() - used) as usize;
        if room < entries.len() {
            room = self.room() as usize;
        }
        let mut count = 0;
        for entry in entries.take(room) {
            self.memory.write(self.next.wrapping_add(count), entry);
            count += 1;
        }
        // INVARIANT: There was room for as many.
        self.next = self.next.wrapping_add(count);
        count as usize
    }

    /// Writes `entry` in place of the one that was pushed last, which the consumer has not seen.
    pub(crate) fn amend(&mut self, entry: M::Entry) {
        if self.next != self.published {
            self.memory.write(self.next.wrapping_sub(1), entry);
        }
    }

    /// Shows the consumer everything that was pushed. Returns whether there was anything new.
    pub(crate) fn publish(&mut self) -> bool {
        let new = self.next != self.published;
        if new {
            self.memory.store_producer(self.next);
            self.published = self.next;
        }
        new
    }

    /// Says that more waits than has room, and looks again.
    ///
    /// Returns `true` if the consumer will see the flag after its next release. Returns `false` if
    /// it has made room of at least `wanted` entries meanwhile and may have missed the flag: push on.
    pub(crate) fn stall(&mut self, wanted: u32) -> bool {
        self.memory.store_flags(STALLED);
        // Pairs with the barrier in `Consumer::release()`: either we see its index, or it our flag.
        self.memory.full_barrier();
        if self.room() < wanted {
            return true;
        }
        self.memory.store_flags(0);
        false
    }

    /// Takes the word of [`Self::stall`] back: delivery has resumed.
    pub(crate) fn resume(&mut self) {
        self.memory.store_flags(0);
    }
}
