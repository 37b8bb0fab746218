// SPDX-License-Identifier: GPL-2.0 OR MIT OR Apache-2.0

//! The rings that user space and kernel share: one producer, one consumer, free-running indices.
//!
//! `include/uapi/linux/netgpu.h` defines the layout and the protocol; this is its algorithm, for both
//! sides. It needs `core` only and reaches shared memory through [`Memory`] alone, so one source serves
//! the kernel module, the user library and models of concurrency on the host.
//!
//! # Trust
//!
//! The peer may write anything at any time. Each side therefore keeps its own index in a private copy
//! that it never reads back, takes the peer's index as a claim that is checked against the ring's size,
//! and copies an entry once before anyone looks at it. A claim that cannot be true reads as "nothing to
//! do": a ring without room, or without entries.

// Each user of this source is one of the two peers and needs its half only.
#![allow(dead_code, unused_imports)]

mod consumer;
mod producer;

pub(crate) use consumer::Consumer;
pub(crate) use producer::{
    Full,
    Producer, //
};

/// `NETGPU_RING_STALLED`: the producer has more to deliver than had room.
pub(crate) const STALLED: u32 = 1;

/// The memory of one ring.
///
/// An implementation is a handle to memory that the peer changes concurrently; no method hands out a
/// reference into it. Words are accessed whole (no tearing).
pub(crate) trait Memory {
    /// One entry: plain data of which every bit pattern is a value.
    type Entry: Copy;

    /// Number of entries, a power of two; the same answer on every call, whatever the peer does.
    fn entries(&self) -> u32;

    /// Loads the producer's index with acquire semantics.
    fn load_producer(&self) -> u32;

    /// Stores the producer's index with release semantics.
    fn store_producer(&self, index: u32);

    /// Loads the consumer's index with acquire semantics.
    fn load_consumer(&self) -> u32;

    /// Stores the consumer's index with release semantics.
    fn store_consumer(&self, index: u32);

    /// Loads the flags, without ordering.
    fn load_flags(&self) -> u32;

    /// Stores the flags, without ordering.
    fn store_flags(&self, flags: u32);

    /// Orders all earlier accesses before all later ones (store to load included).
    fn full_barrier(&self);

    /// Copies the entry in slot `index % entries` out, once.
    fn read(&self, index: u32) -> Self::Entry;

    /// Copies `entry` into slot `index % entries`.
    fn write(&self, index: u32, entry: Self::Entry);
}

/// Whether the ring holds no entry, by what both sides say in shared memory.
///
/// Needs no lock and neither side's private state, and is as true as what the peers wrote: good for
/// poll, not for deciding what may be touched.
pub(crate) fn is_empty<M: Memory>(memory: &M) -> bool {
    memory.load_producer() == memory.load_consumer()
}

/// Number of entries between `consumer` and `producer`, or [`None`] if a ring of `entries` cannot hold
/// that many: then the index that came from the peer is wrong.
fn used(producer: u32, consumer: u32, entries: u32) -> Option<u32> {
    let used = producer.wrapping_sub(consumer);
    (used <= entries).then_some(used)
}
