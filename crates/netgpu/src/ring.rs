// SPDX-License-Identifier: MIT OR Apache-2.0
//! User space's side of the rings: the shared algorithm on mapped memory.
//!
//! The algorithm is the one source that the kernel module compiles too.

#[path = "../../../src/ring/mod.rs"]
mod algorithm;

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::mem::{align_of, offset_of, size_of};
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::sys::{
    self, Device, Mapping, netgpu_completion, netgpu_fill_entry, netgpu_ring, netgpu_rx_entry,
};

pub(crate) use algorithm::{Consumer, Full, Producer};

// The kernel has no use for these two, so they are here.
impl<M: algorithm::Memory> fmt::Debug for Consumer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Consumer({} entries)", self.memory().entries())
    }
}

impl<M: algorithm::Memory> fmt::Debug for Producer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Producer({} entries)", self.memory().entries())
    }
}

/// What a ring carries.
///
/// # Safety
///
/// Every bit pattern is a value, there is no padding, and the alignment is at most eight.
pub(crate) unsafe trait Entry: Copy {}

// SAFETY: One integer of eight bytes.
unsafe impl Entry for netgpu_fill_entry {}
// SAFETY: Two integers of eight bytes.
unsafe impl Entry for netgpu_rx_entry {}
// SAFETY: Two integers of four bytes.
unsafe impl Entry for netgpu_completion {}

/// A mapped ring.
///
/// # Invariants
///
/// `entries` is a power of two, and `mapping` holds a ring head and that many entries of type `E` behind it, as the
/// header of the user API lays them out. The kernel may change any of it at any time.
#[derive(Debug)]
pub(crate) struct Mapped<E: Entry> {
    mapping: Mapping,
    entries: u32,
    entry: PhantomData<E>,
}

impl<E: Entry> Mapped<E> {
    /// Maps a ring of `entries` entries from what the kernel said of it.
    pub(crate) fn new(device: &Device, offset: u64, len: u64, entries: u32) -> io::Result<Self> {
        const { assert!(align_of::<E>() <= sys::NETGPU_RING_ENTRIES as usize) };
        let needed = sys::NETGPU_RING_ENTRIES as usize + entries as usize * size_of::<E>();
        let mapping = device.map(offset, len)?;
        if mapping.len() < needed || !entries.is_power_of_two() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the kernel's ring of {len} bytes does not hold {entries} entries"),
            ));
        }
        // INVARIANT: Just checked.
        Ok(Self {
            mapping,
            entries,
            entry: PhantomData,
        })
    }

    /// A ring in memory of the process, mapped once for either side.
    #[cfg(test)]
    pub(crate) fn fake(entries: u32) -> (Self, Self) {
        let len = sys::NETGPU_RING_ENTRIES as usize + entries as usize * size_of::<E>();
        let memory = sys::Device::of_memory(len as u64);
        let side = || Self {
            mapping: memory.map(0, len as u64).expect("there is so much memory"),
            entries,
            entry: PhantomData,
        };
        (side(), side())
    }

    /// The word at `offset` in the ring's head.
    fn word(&self, offset: usize) -> &AtomicU32 {
        debug_assert!(offset < size_of::<netgpu_ring>());
        // SAFETY: The head is mapped as long as `self` lives and page-aligned, by the type invariant and mmap(2), and
        // `offset` is that of one of its words. Both sides access words as atomics only.
        unsafe { AtomicU32::from_ptr(self.mapping.start().as_ptr().add(offset).cast()) }
    }

    /// The slot of `index`.
    fn slot(&self, index: u32) -> *mut E {
        let slot = (index & (self.entries - 1)) as usize;
        self.mapping
            .start()
            .as_ptr()
            .wrapping_add(sys::NETGPU_RING_ENTRIES as usize + slot * size_of::<E>())
            .cast()
    }
}

impl<E: Entry> algorithm::Memory for Mapped<E> {
    type Entry = E;

    fn entries(&self) -> u32 {
        self.entries
    }

    fn load_producer(&self) -> u32 {
        self.word(offset_of!(netgpu_ring, producer))
            .load(Ordering::Acquire)
    }

    fn store_producer(&self, index: u32) {
        self.word(offset_of!(netgpu_ring, producer))
            .store(index, Ordering::Release);
    }

    fn load_consumer(&self) -> u32 {
        self.word(offset_of!(netgpu_ring, consumer))
            .load(Ordering::Acquire)
    }

    fn store_consumer(&self, index: u32) {
        self.word(offset_of!(netgpu_ring, consumer))
            .store(index, Ordering::Release);
    }

    fn load_flags(&self) -> u32 {
        self.word(offset_of!(netgpu_ring, flags))
            .load(Ordering::Relaxed)
    }

    fn store_flags(&self, flags: u32) {
        self.word(offset_of!(netgpu_ring, flags))
            .store(flags, Ordering::Relaxed);
    }

    fn full_barrier(&self) {
        fence(Ordering::SeqCst);
    }

    fn read(&self, index: u32) -> E {
        // SAFETY: The slot is inside the mapping by the type invariant, and aligned: the mapping is to a page, the
        // entries start at 128 and `E` is aligned to eight at most. Any bytes are an `E`, whoever wrote them.
        unsafe { self.slot(index).read_volatile() }
    }

    fn write(&self, index: u32, entry: E) {
        // SAFETY: As for `read()`; the mapping is writable, and no reference into it exists.
        unsafe { self.slot(index).write_volatile(entry) }
    }
}

/// The rx ring of a socket.
#[derive(Debug)]
pub(crate) struct Deliveries {
    ring: Consumer<Mapped<netgpu_rx_entry>>,
    /// Entries popped whose slots were not released.
    unreleased: u32,
    entries: u32,
}

/// Bytes that the kernel has handed to user space: a claim, until someone finds the region that they lie in.
///
/// There is one value for each entry of an rx ring, and no other way to make one.
#[derive(Debug)]
pub struct Delivery(netgpu_rx_entry);

impl Delivery {
    /// Address of the first byte, in the address range of a region.
    #[inline]
    pub fn address(&self) -> u64 {
        self.0.addr
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a delivery is never empty")]
    #[inline]
    pub fn len(&self) -> u64 {
        self.0.len
    }
}

impl Deliveries {
    pub(crate) fn new(ring: Mapped<netgpu_rx_entry>) -> Self {
        let entries = ring.entries;
        Self {
            ring: Consumer::new(ring),
            unreleased: 0,
            entries,
        }
    }

    /// Takes the next delivery off the ring.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        let entry = self.ring.pop()?;
        self.unreleased += 1;
        Some(Delivery(entry))
    }

    /// Whether so many slots wait for their release that the producer may want them: a quarter of the ring.
    #[inline]
    pub(crate) fn should_release(&self) -> bool {
        self.unreleased >= self.entries / 4
    }

    /// Gives the slots of popped entries back. Returns whether the kernel had stalled: it is to be called.
    pub(crate) fn release(&mut self) -> bool {
        self.unreleased = 0;
        self.ring.release()
    }
}
