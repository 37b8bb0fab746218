// SPDX-License-Identifier: GPL-2.0

//! The memory of rings: allocated here, shared with user space by mmap.

use super::{
    inline::{
        load_acquire,
        peek,
        store_release, //
    },
    uapi::{
        Ring,
        RING_ENTRIES, //
    }, //
};
use crate::ring::Memory;
use core::{
    marker::PhantomData,
    mem::{
        offset_of,
        size_of, //
    },
    ptr::NonNull, //
};
use kernel::{
    bindings,
    mm::virt::{
        flags,
        VmaNew, //
    },
    page::{
        page_align,
        BorrowedPage,
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        barrier,
        Arc, //
    },
    transmute::{
        AsBytes,
        FromBytes, //
    }, //
};

/// A page of ring memory.
#[repr(C, align(4096))]
struct RingPage([u8; PAGE_SIZE]);

/// Zeroed pages that user space maps. They go when the last of kernel and mappings lets go of them.
///
/// # Invariants
///
/// `base` is the start of `len` bytes in whole pages of vmalloc memory, owned by `pages`, to which no
/// reference is ever made after construction: user space may change them at any time.
pub(crate) struct RingMemory {
    base: NonNull<u8>,
    len: usize,
    /// Only here to be freed.
    _pages: VVec<RingPage>,
}

// SAFETY: The memory is reached through raw pointers by atomic and volatile accesses only.
unsafe impl Send for RingMemory {}
// SAFETY: As above.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// Allocates memory for a ring of `entries` entries of type `E`.
    pub(crate) fn new<E>(entries: u32) -> Result<Arc<Self>> {
        let len = (entries as usize)
            .checked_mul(size_of::<E>())
            .and_then(|n| n.checked_add(RING_ENTRIES as usize))
            .and_then(page_align)
            .ok_or(EINVAL)?;
        // Never a page as a value: that would stand on the stack first.
        let mut pages = VVec::with_capacity(len / PAGE_SIZE, GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
        let base = NonNull::new(pages.spare_capacity_mut().as_mut_ptr()).ok_or(ENOMEM)?;
        let base = base.cast();
        // INVARIANT: `pages` is vmalloc memory of that length, and is never touched again.
        Ok(Arc::new(
            Self {
                base,
                len,
                _pages: pages,
            },
            GFP_KERNEL_ACCOUNT,
        )?)
    }

    /// Bytes that user space maps.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Maps all of it into `vma`, which must ask for exactly that, shared.
    pub(crate) fn mmap(&self, vma: &VmaNew) -> Result {
        if vma.end() - vma.start() != self.len || vma.flags() & flags::SHARED == 0 {
            return Err(EINVAL);
        }
        vma.try_clear_mayexec()?;
        vma.set_dontexpand();
        vma.set_dontcopy();
        let vma_pages = vma.set_mixedmap();
        for offset in (0..self.len).step_by(PAGE_SIZE) {
            // SAFETY: By the type invariants this is an address in vmalloc memory.
            let page = unsafe { bindings::vmalloc_to_page(self.base.as_ptr().add(offset).cast()) };
            let page = NonNull::new(page).ok_or(EFAULT)?;
            // SAFETY: The page belongs to `self`, which outlives the borrow.
            let page = unsafe { BorrowedPage::from_raw(page) };
            vma_pages.vm_insert_page(vma.start() + offset, &page)?;
        }
        Ok(())
    }
}

/// Where in the file a mapping starts, in bytes.
pub(crate) fn mmap_offset(vma: &VmaNew) -> u64 {
    // SAFETY: The vma is being set up, so nobody changes the field.
    let pages = unsafe { (*vma.as_ptr()).vm_pgoff };
    (pages as u64) << PAGE_SHIFT
}

/// A ring of entries `E` in [`RingMemory`].
///
/// # Invariants
///
/// `entries` is a power of two, and the header and that many `E` at [`RING_ENTRIES`] fit in `memory`.
pub(crate) struct Mapping<E> {
    memory: Arc<RingMemory>,
    entries: u32,
    _entry: PhantomData<E>,
}

// SAFETY: A `Mapping` holds no `E`.
unsafe impl<E> Send for Mapping<E> {}
// SAFETY: As above.
unsafe impl<E> Sync for Mapping<E> {}

impl<E: Copy + FromBytes + AsBytes> Mapping<E> {
    /// Allocates a ring of `entries` entries.
    pub(crate) fn new(entries: u32) -> Result<Self> {
        if !entries.is_power_of_two() {
            return Err(EINVAL);
        }
        let memory = RingMemory::new::<E>(entries)?;
        // INVARIANT: Checked above, and `RingMemory::new()` allocates as much.
        Ok(Self {
            memory,
            entries,
            _entry: PhantomData,
        })
    }

    /// The memory, for mapping it.
    pub(crate) fn memory(&self) -> &Arc<RingMemory> {
        &self.memory
    }

    /// Another handle to the same ring.
    pub(crate) fn share(&self) -> Self {
        // INVARIANT: As `self`.
        Self {
            memory: self.memory.clone(),
            entries: self.entries,
            _entry: PhantomData,
        }
    }

    /// A word of the header.
    fn word(&self, offset: usize) -> &Atomic<u32> {
        // SAFETY: Callers pass offsets of `u32` fields of the header, which by the type invariants lies in
        // memory that lives as long as `self`. Kernel and user space access the words atomically; what
        // user space does otherwise is as if another CPU did it.
        unsafe { Atomic::from_ptr(self.memory.base.as_ptr().add(offset).cast()) }
    }

    /// The slot of an index.
    fn slot(&self, index: u32) -> *mut E {
        let slot = (index & (self.entries - 1)) as usize;
        // SAFETY: By the type invariants `entries` entries fit, and the mask keeps `slot` below that.
        unsafe {
            self.memory
                .base
                .as_ptr()
                .add(RING_ENTRIES as usize)
                .cast::<E>()
                .add(slot)
        }
    }
}

impl<E: Copy + FromBytes + AsBytes> Memory for Mapping<E> {
    type Entry = E;

    fn entries(&self) -> u32 {
        self.entries
    }

    fn load_producer(&self) -> u32 {
        load_acquire(self.word(offset_of!(Ring, producer)))
    }

    fn store_producer(&self, index: u32) {
        store_release(self.word(offset_of!(Ring, producer)), index);
    }

    fn load_consumer(&self) -> u32 {
        load_acquire(self.word(offset_of!(Ring, consumer)))
    }

    fn store_consumer(&self, index: u32) {
        store_release(self.word(offset_of!(Ring, consumer)), index);
    }

    fn load_flags(&self) -> u32 {
        peek(self.word(offset_of!(Ring, flags)))
    }

    fn store_flags(&self, flags: u32) {
        self.word(offset_of!(Ring, flags)).store(flags, Relaxed);
    }

    fn full_barrier(&self) {
        barrier::smp_mb(barrier::Full);
    }

    fn read(&self, index: u32) -> E {
        // SAFETY: `slot()` is aligned and inside the mapping; any bytes are an `E`. The copy is made once.
        unsafe { self.slot(index).read_volatile() }
    }

    fn write(&self, index: u32, entry: E) {
        // SAFETY: `slot()` is aligned and inside the mapping.
        unsafe { self.slot(index).write_volatile(entry) }
    }
}

#[kunit_tests(netgpu_ring)]
mod tests {
    use super::*;
    use crate::ring::{
        is_empty,
        Consumer,
        Producer, //
    };

    type Pair = (Producer<Mapping<u64>>, Consumer<Mapping<u64>>);

    fn pair(entries: u32) -> Result<Pair> {
        let ring = Mapping::new(entries)?;
        Ok((Producer::new(ring.share()), Consumer::new(ring)))
    }

    #[test]
    fn fills_empties_and_wraps() -> Result {
        let (mut producer, mut consumer) = pair(16)?;
        for lap in 0..5u64 {
            assert!(is_empty(producer.memory()));
            assert_eq!(producer.room(), 16);
            for i in 0..16 {
                assert!(producer.push(lap * 100 + i).is_ok());
            }
            assert!(producer.push(0).is_err());
            assert_eq!(consumer.pop(), None);
            assert!(producer.publish());
            assert!(!producer.publish());
            assert_eq!(producer.unread(), 16);
            for i in 0..16 {
                assert_eq!(consumer.pop(), Some(lap * 100 + i));
            }
            assert_eq!(consumer.pop(), None);
            assert_eq!(producer.room(), 0);
            assert!(!consumer.release());
        }
        Ok(())
    }

    #[test]
    fn the_last_entry_can_be_amended_until_it_is_published() -> Result {
        let (mut producer, mut consumer) = pair(16)?;
        for entry in [1, 2] {
            assert!(producer.push(entry).is_ok());
        }
        producer.amend(3);
        producer.publish();
        producer.amend(4);
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(consumer.pop(), Some(3));
        Ok(())
    }

    #[test]
    fn what_was_popped_last_can_be_put_back() -> Result {
        let (mut producer, mut consumer) = pair(16)?;
        for entry in 0..16 {
            assert!(producer.push(entry).is_ok());
        }
        producer.publish();
        assert_eq!(consumer.pop(), Some(0));
        consumer.release();
        assert_eq!(consumer.pop(), Some(1));
        consumer.unpop();
        assert_eq!(consumer.pop(), Some(1));
        consumer.unpop();
        // As if the producer had got that place back: then there were more than fit.
        consumer.memory().store_producer(18);
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(consumer.available(), 16);
        consumer.unpop();
        assert_eq!(consumer.pop(), Some(2));
        Ok(())
    }

    #[test]
    fn a_false_producer_index_reads_as_empty() -> Result {
        let (_, mut consumer) = pair(16)?;
        for claim in [17, 1 << 31, u32::MAX] {
            consumer.memory().store_producer(claim);
            assert_eq!(consumer.available(), 0);
            assert_eq!(consumer.pop(), None);
        }
        consumer.memory().store_producer(1);
        assert_eq!(consumer.pop(), Some(0));
        Ok(())
    }

    #[test]
    fn a_false_consumer_index_reads_as_full() -> Result {
        let (mut producer, _) = pair(16)?;
        assert!(producer.push(7).is_ok());
        for claim in [2, 1 << 31, u32::MAX - 16] {
            producer.memory().store_consumer(claim);
            assert_eq!(producer.room(), 0);
            assert_eq!(producer.unread(), 16);
        }
        // What it believed before still holds: fifteen more fit, and then none.
        for _ in 0..15 {
            assert!(producer.push(7).is_ok());
        }
        assert!(producer.push(7).is_err());
        Ok(())
    }

    #[test]
    fn stalling_shows_and_room_made_meanwhile_is_seen() -> Result {
        let (mut producer, mut consumer) = pair(16)?;
        while producer.push(1).is_ok() {}
        producer.publish();
        assert!(producer.stall(1));
        assert_eq!(consumer.pop(), Some(1));
        assert!(consumer.release());
        assert!(!producer.stall(1));
        assert!(!consumer.release());
        Ok(())
    }

    #[test]
    fn sizes_must_be_powers_of_two() {
        for entries in [0, 3, 17, u32::MAX] {
            assert!(Mapping::<u64>::new(entries).is_err());
        }
    }
}
