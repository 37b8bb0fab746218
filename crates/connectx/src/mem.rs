// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guest memory, and all the unsafe code of the crate.
//!
//! The guest's memory is files that the virtual machine monitor shares with us.
//! Each file is mapped once, whole; an ordered list translates the addresses that
//! the device uses on the bus to places in the files. Without an IOMMU in the
//! guest that list has a handful of entries, with one it has an entry a page.
//!
//! Nothing here hands out a reference to guest memory: the guest may write it at
//! any time. Bytes are copied out, copied in, or copied from one place to the
//! other ([`copy`], [`copy_and_sum`]); single words are accessed atomically.
//!
//! A [`Slice`] borrows the [`GuestMemory`] that it was translated by. Unmapping
//! takes that memory by `&mut`, so it waits until nobody is using a slice.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use memmap2::{MmapOptions, MmapRaw};

use crate::datapath::checksum::Sum;

/// What the device wants to do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read it.
    Read,
    /// Write it.
    Write,
}

/// An access that the guest's mappings do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing is mapped there.
    #[error("bus address {0:#x} is not mapped")]
    Unmapped(u64),
    /// The mapping does not allow it.
    #[error("bus address {0:#x} may not be used this way")]
    Forbidden(u64),
    /// A word is not on its natural boundary.
    #[error("bus address {0:#x} is not aligned")]
    Misaligned(u64),
}

/// A file of the monitor, mapped whole and shared.
struct MappedFile {
    map: MmapRaw,
}

/// One mapping of the guest.
struct Span {
    address: u64,
    length: u64,
    /// # Invariants
    /// `offset + length` is inside `file`.
    file: Arc<MappedFile>,
    offset: u64,
    readable: bool,
    writable: bool,
}

impl Span {
    fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.address) < self.length
    }
}

/// The bus address space of one device.
#[derive(Default)]
pub struct GuestMemory {
    /// Ordered by bus address. Spans do not overlap.
    spans: Vec<Span>,
    /// The span that was used last: the next address is most often in it, too.
    last: AtomicUsize,
    /// By device and inode number, so that thousands of page mappings of one file share one `mmap`.
    files: HashMap<(u64, u64), Weak<MappedFile>>,
}

/// A contiguous piece of guest memory.
///
/// # Invariants
/// `start` points to `length` bytes of a `MappedFile` that stays mapped, readable and writable,
/// for `'m`. The guest may change the bytes at any time.
#[derive(Clone, Copy)]
pub struct Slice<'m> {
    start: NonNull<u8>,
    length: usize,
    memory: PhantomData<&'m GuestMemory>,
}

impl GuestMemory {
    /// Makes `length` bytes of `file` from `offset` on available at bus address `address`.
    ///
    /// A mapping that overlaps others replaces them.
    pub fn map(
        &mut self,
        file: &File,
        offset: u64,
        address: u64,
        length: u64,
        readable: bool,
        writable: bool,
    ) -> io::Result<()> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        address
            .checked_add(length)
            .ok_or_else(|| invalid("mapping past the end of the bus"))?;
        let end = offset
            .checked_add(length)
            .ok_or_else(|| invalid("offset overflows"))?;
        let file = self.file(file)?;
        if end > file.map.len() as u64 {
            return Err(invalid("mapping past the end of its file"));
        }
        self.unmap(address, length);
        if length > 0 {
            let at = self.spans.partition_point(|span| span.address < address);
            // INVARIANT: `end` is inside the file by the check above.
            self.spans.insert(
                at,
                Span {
                    address,
                    length,
                    file,
                    offset,
                    readable,
                    writable,
                },
            );
        }
        Ok(())
    }

    /// Takes back every mapping that touches the `length` bytes at `address`.
    ///
    /// The protocol unmaps what it has mapped, whole; a part takes the rest with
    /// it, which can only fail loudly and never reach memory that is given away.
    pub fn unmap(&mut self, address: u64, length: u64) {
        let end = address.saturating_add(length);
        let first = self
            .spans
            .partition_point(|span| span.address + span.length <= address);
        let behind = self.spans.partition_point(|span| span.address < end);
        self.spans.drain(first..behind);
        self.files.retain(|_, file| file.strong_count() > 0);
    }

    /// Takes back every mapping.
    pub fn clear(&mut self) {
        self.spans.clear();
        self.files.clear();
    }

    /// The mapping of `file`, made if there is none yet.
    fn file(&mut self, file: &File) -> io::Result<Arc<MappedFile>> {
        let metadata = file.metadata()?;
        let key = (metadata.dev(), metadata.ino());
        if let Some(mapped) = self.files.get(&key).and_then(Weak::upgrade) {
            return Ok(mapped);
        }
        let length = usize::try_from(metadata.len()).map_err(io::Error::other)?;
        let map = MmapOptions::new().len(length).map_raw(file)?;
        let mapped = Arc::new(MappedFile { map });
        self.files.insert(key, Arc::downgrade(&mapped));
        Ok(mapped)
    }

    /// The mapping that has `address`.
    #[inline(always)]
    fn span(&self, address: u64) -> Option<&Span> {
        let last = self.spans.get(self.last.load(Ordering::Relaxed));
        match last.filter(|span| span.contains(address)) {
            None => self.find(address),
            found => found,
        }
    }

    /// The mapping that has `address` and is not the last one.
    #[cold]
    fn find(&self, address: u64) -> Option<&Span> {
        let behind = self.spans.partition_point(|span| span.address <= address);
        let at = behind.checked_sub(1)?;
        let span = self.spans.get(at).filter(|span| span.contains(address))?;
        self.last.store(at, Ordering::Relaxed);
        Some(span)
    }

    /// The longest contiguous piece at `address`, at most `length` bytes.
    #[inline(always)]
    fn slice(&self, address: u64, length: usize, access: Access) -> Result<Slice<'_>, Fault> {
        let span = self.span(address).ok_or(Fault::Unmapped(address))?;
        let skip = address - span.address;
        let allowed = match access {
            Access::Read => span.readable,
            Access::Write => span.writable,
        };
        if !allowed {
            return Err(Fault::Forbidden(address));
        }
        let length = length.min(usize::try_from(span.length - skip).unwrap_or(usize::MAX));
        // SAFETY: `span` contains `address`, so `skip < span.length`, and by the invariant of `Span` the place is inside the mapping.
        let start = unsafe {
            span.file
                .map
                .as_mut_ptr()
                .add((span.offset + skip) as usize)
        };
        let start = NonNull::new(start).ok_or(Fault::Unmapped(address))?;
        // INVARIANT: `length` bytes follow by the invariant of `Span`; the span, and with it the
        // mapped file, lives as long as the borrow of `self`. `map_raw` maps for reading and writing.
        Ok(Slice {
            start,
            length,
            memory: PhantomData,
        })
    }

    /// Appends the pieces that make up `length` bytes at `address`.
    #[inline]
    pub fn slices<'m>(
        &'m self,
        mut address: u64,
        mut length: usize,
        access: Access,
        pieces: &mut Vec<Slice<'m>>,
    ) -> Result<(), Fault> {
        while length > 0 {
            let piece = self.slice(address, length, access)?;
            pieces.push(piece);
            length -= piece.length;
            address = address.wrapping_add(piece.length as u64);
        }
        Ok(())
    }

    /// Copies guest memory at `address` to `to`.
    pub fn read(&self, mut address: u64, mut to: &mut [u8]) -> Result<(), Fault> {
        while !to.is_empty() {
            let piece = self.slice(address, to.len(), Access::Read)?;
            let (now, later) = to.split_at_mut(piece.length);
            piece.read(now);
            address = address.wrapping_add(piece.length as u64);
            to = later;
        }
        Ok(())
    }

    /// Copies `from` to guest memory at `address`.
    pub fn write(&self, mut address: u64, mut from: &[u8]) -> Result<(), Fault> {
        while !from.is_empty() {
            let piece = self.slice(address, from.len(), Access::Write)?;
            let (now, later) = from.split_at(piece.length);
            piece.write(now);
            address = address.wrapping_add(piece.length as u64);
            from = later;
        }
        Ok(())
    }

    /// The piece that all of `length` bytes at `address` are, which are in one page.
    #[inline]
    pub fn piece(&self, address: u64, length: usize, access: Access) -> Result<Slice<'_>, Fault> {
        let piece = self.slice(address, length, access)?;
        if piece.length < length {
            return Err(Fault::Misaligned(address));
        }
        Ok(piece)
    }

    /// The big-endian word at `address`. What the guest wrote before it is seen by later reads.
    pub fn load(&self, address: u64) -> Result<u32, Fault> {
        let word = self.slice(address, 4, Access::Read)?.word(address)?;
        Ok(u32::from_be(word.load(Ordering::Acquire)))
    }

    /// Writes a queue entry so that its last word, which holds the owner bit, is seen last.
    pub fn publish(&self, address: u64, entry: &[u8; 64]) -> Result<(), Fault> {
        let words = entry.as_chunks::<8>().0;
        self.publish_words(
            address,
            std::array::from_fn(|i| u64::from_le_bytes(words[i])),
        )
    }

    /// The same for an entry that is given as little-endian words.
    #[inline(always)]
    pub fn publish_words(&self, address: u64, entry: [u64; 8]) -> Result<(), Fault> {
        let place = self.piece(address, 64, Access::Write)?;
        let owner = place.part(60, 4).word(address.wrapping_add(60))?;
        let [body @ .., last] = entry;
        place.write_words(&body);
        place.part(56, 4).write(&(last as u32).to_le_bytes());
        owner.store((last >> 32) as u32, Ordering::Release);
        Ok(())
    }
}

impl<'m> Slice<'m> {
    /// Bytes in the piece.
    #[expect(
        clippy::len_without_is_empty,
        reason = "pieces of no bytes are never made"
    )]
    pub fn len(self) -> usize {
        self.length
    }

    /// The piece without its first `skip` bytes, at most `length` long. `skip` is at most its length.
    #[inline(always)]
    pub fn part(self, skip: usize, length: usize) -> Slice<'m> {
        let skip = skip.min(self.length);
        // SAFETY: `skip` is at most `length`, so the result is inside or one past the piece.
        let start = unsafe { self.start.add(skip) };
        // INVARIANT: a part of a valid piece.
        Slice {
            start,
            length: length.min(self.length - skip),
            memory: PhantomData,
        }
    }

    /// Says that the piece is soon used. Finding out where its pages are takes the processor longer than fetching what is in
    /// them, and it does so for several at a time.
    pub fn prefetch(self) {
        let mut page = 0;
        while page < self.length {
            prefetch(self.start.as_ptr().wrapping_add(page));
            page += PAGE;
        }
    }

    /// Says that the line behind the piece is soon used: of a queue most often the next entry. It may be anything else.
    #[inline(always)]
    pub fn prefetch_behind(self) {
        prefetch(self.start.as_ptr().wrapping_add(self.length));
    }

    /// The piece as the 32-bit word at bus address `address`.
    fn word(self, address: u64) -> Result<&'m AtomicU32, Fault> {
        if self.length < 4 || !self.start.as_ptr().addr().is_multiple_of(4) {
            return Err(Fault::Misaligned(address));
        }
        // SAFETY: four aligned bytes that stay mapped for `'m`, by the type invariant. Guest memory is
        // never behind a reference, so all accesses of this process to this word are atomic or raw;
        // those of the guest are the hardware's.
        Ok(unsafe { AtomicU32::from_ptr(self.start.as_ptr().cast()) })
    }

    /// The piece's `N` bytes from byte `at` on, if it has them. To copy a fixed length takes no call.
    #[inline(always)]
    pub fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        let piece = self.part(at, N);
        (piece.length == N).then(|| {
            let mut bytes = [0; N];
            piece.read(&mut bytes);
            bytes
        })
    }

    /// Overwrites the start of the piece with little-endian words, if it is long enough for them.
    #[inline(always)]
    fn write_words<const N: usize>(self, words: &[u64; N]) {
        if self.length < 8 * N {
            return;
        }
        let to = self.start.as_ptr().cast::<u64>();
        for (i, word) in words.iter().enumerate() {
            // SAFETY: `i` is less than `N`, and the piece has `N` words; the access is an unaligned one.
            unsafe { to.add(i).write_unaligned(word.to_le()) };
        }
    }

    /// Copies the piece's first `to.len()` bytes, or all of it if it is shorter.
    #[inline]
    pub fn read(self, to: &mut [u8]) {
        let length = to.len().min(self.length);
        // SAFETY: the piece has `length` bytes by the type invariant, `to` has them too. They do not
        // overlap: no reference of this process points into guest memory. A guest that writes at the
        // same time gets whatever mix of bytes it deserves; every value of a byte is valid.
        unsafe {
            self.start
                .as_ptr()
                .copy_to_nonoverlapping(to.as_mut_ptr(), length)
        };
    }

    /// Overwrites the piece's first `from.len()` bytes, or all of it if it is shorter.
    #[inline]
    pub fn write(self, from: &[u8]) {
        let length = from.len().min(self.length);
        // SAFETY: as in `read`.
        unsafe {
            self.start
                .as_ptr()
                .copy_from_nonoverlapping(from.as_ptr(), length)
        };
    }
}

/// Bytes that the processor fetches at a time.
pub const LINE: usize = 64;
/// Bytes that it looks up at a time.
const PAGE: usize = 4096;
/// How far ahead of a copy memory is fetched: a copy takes no longer for them than the memory does for the first.
const AHEAD: usize = 8 * LINE;

/// Says that the line at `place` is soon used. It may be any place.
fn prefetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a hint is no access; one for a place that is not mapped does nothing.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(place.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

/// Copies the first bytes of `from` to `to`, as many as both have, and returns how many.
pub fn copy(from: Slice<'_>, to: Slice<'_>) -> usize {
    let length = from.length.min(to.length);
    // SAFETY: both pieces have `length` bytes by the type invariant; a guest may make them overlap,
    // which `copy` (memmove) allows.
    unsafe { from.start.as_ptr().copy_to(to.start.as_ptr(), length) };
    length
}

/// Like [`copy`], and adds up what it copied in the same pass.
pub fn copy_and_sum(from: Slice<'_>, to: Slice<'_>) -> (usize, Sum) {
    let length = from.length.min(to.length);
    let (source, target) = (from.start.as_ptr(), to.start.as_ptr());
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2; both pieces have `length` bytes by the type invariant.
        return (length, unsafe { copy_and_sum_avx2(source, target, length) });
    }
    // SAFETY: both pieces have `length` bytes by the type invariant.
    (length, unsafe {
        copy_and_sum_blocks(source, target, length)
    })
}

/// [`copy_and_sum_blocks`] as the compiler makes it for a processor with AVX2.
///
/// # Safety
/// The processor must have AVX2; otherwise as for [`copy_and_sum_blocks`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn copy_and_sum_avx2(source: *const u8, target: *mut u8, length: usize) -> Sum {
    // SAFETY: the caller's promise.
    unsafe { copy_and_sum_blocks(source, target, length) }
}

/// Copies `length` bytes and adds them up, forward and block by block: that is what a guest gets that makes both overlap.
///
/// # Safety
/// `source` must be valid for reads and `target` for writes of `length` bytes. Others may change them at any time.
#[inline(always)]
unsafe fn copy_and_sum_blocks(mut source: *const u8, mut target: *mut u8, length: usize) -> Sum {
    const BLOCK: usize = LINE;
    // Adding the halves of 64-bit words to 64-bit sums leaves room for 2^31 carries.
    let mut sums = [0u64; BLOCK / 8];
    let mut add = |block: [u64; BLOCK / 8]| {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum += (word & 0xffff_ffff) + (word >> 32);
        }
    };
    for _ in 0..length / BLOCK {
        // Processors look ahead by themselves where they read, but not where they write.
        prefetch(target.wrapping_add(AHEAD));
        // SAFETY: `length / BLOCK` blocks are inside both pieces; the accesses are unaligned ones, and
        // any bytes are valid words.
        let block = unsafe {
            let block = source.cast::<[u64; BLOCK / 8]>().read_unaligned();
            target.cast::<[u64; BLOCK / 8]>().write_unaligned(block);
            source = source.add(BLOCK);
            target = target.add(BLOCK);
            block
        };
        add(block);
    }
    // The rest word by word: what went through a buffer would have to wait there until all that was written is in the cache.
    let rest = length % BLOCK;
    let mut tail = 0u64;
    for _ in 0..rest / 8 {
        // SAFETY: as above, for a word.
        let word = unsafe {
            let word = source.cast::<u64>().read_unaligned();
            target.cast::<u64>().write_unaligned(word);
            source = source.add(8);
            target = target.add(8);
            word
        };
        tail += (word & 0xffff_ffff) + (word >> 32);
    }
    for i in 0..rest % 8 {
        // SAFETY: as above, for a byte.
        let byte = unsafe {
            let byte = source.add(i).read();
            target.add(i).write(byte);
            byte
        };
        tail += u64::from(byte) << (8 * (i % 2));
    }
    Sum::from_little_endian(sums.iter().sum::<u64>() + tail)
}

#[cfg(not(target_endian = "little"))]
compile_error!("copy_and_sum adds up words of the host as little-endian ones");

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `size` bytes of memory in a file, at bus address zero.
    pub(crate) fn memory(size: u64) -> GuestMemory {
        let mut memory = GuestMemory::default();
        memory.map(&file(size), 0, 0, size, true, true).unwrap();
        memory
    }

    fn file(size: u64) -> File {
        let path = std::env::temp_dir().join(format!(
            "connectx-mem-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(size).unwrap();
        file
    }

    #[test]
    fn an_access_may_span_mappings_but_not_a_hole() {
        let file = file(0x4000);
        let mut memory = GuestMemory::default();
        // Two pages that are neighbours on the bus and exchanged in the file.
        memory
            .map(&file, 0x1000, 0x10_0000, 0x1000, true, true)
            .unwrap();
        memory
            .map(&file, 0x0000, 0x10_1000, 0x1000, true, true)
            .unwrap();
        memory.write(0x10_0ffe, &[1, 2, 3, 4]).unwrap();
        let mut back = [0; 4];
        memory.read(0x10_0ffe, &mut back).unwrap();
        assert_eq!(back, [1, 2, 3, 4]);
        let mut pieces = Vec::new();
        memory
            .slices(0x10_0ffe, 4, Access::Read, &mut pieces)
            .unwrap();
        assert_eq!(pieces.iter().map(|p| p.len()).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(
            memory.read(0x10_1ffe, &mut back),
            Err(Fault::Unmapped(0x10_2000))
        );
        assert_eq!(
            memory.read(0xf_ffff, &mut back),
            Err(Fault::Unmapped(0xf_ffff))
        );
        assert_eq!(
            memory.read(u64::MAX, &mut back),
            Err(Fault::Unmapped(u64::MAX))
        );
    }

    #[test]
    fn read_only_memory_is_not_written() {
        let mut memory = GuestMemory::default();
        memory
            .map(&file(0x1000), 0, 0, 0x1000, true, false)
            .unwrap();
        assert_eq!(memory.write(8, &[1]), Err(Fault::Forbidden(8)));
        assert_eq!(memory.publish(64, &[0; 64]), Err(Fault::Forbidden(64)));
        assert_eq!(memory.load(8), Ok(0));
    }

    #[test]
    fn an_unmap_takes_every_mapping_it_touches() {
        let file = file(0x3000);
        let mut memory = GuestMemory::default();
        for page in 0..3 {
            memory
                .map(&file, page << 12, page << 12, 0x1000, true, true)
                .unwrap();
        }
        memory.unmap(0x1000, 0x1000);
        assert_eq!(memory.load(0x0ffc), Ok(0));
        assert_eq!(memory.load(0x1000), Err(Fault::Unmapped(0x1000)));
        assert_eq!(memory.load(0x2000), Ok(0));
        memory.unmap(0, u64::MAX);
        assert_eq!(memory.load(0x2000), Err(Fault::Unmapped(0x2000)));
    }

    #[test]
    fn impossible_mappings_are_refused() {
        let mut memory = GuestMemory::default();
        let file = file(0x1000);
        assert!(
            memory.map(&file, 0, 0, 0x2000, true, true).is_err(),
            "past the file"
        );
        assert!(
            memory.map(&file, 0, u64::MAX, 0x1000, true, true).is_err(),
            "past the bus"
        );
        assert!(
            memory.map(&file, u64::MAX, 0, 0x1000, true, true).is_err(),
            "offset"
        );
    }

    #[test]
    fn words_must_be_aligned() {
        let memory = memory(0x1000);
        memory.write(0x10, &[0x12, 0x34, 0x56, 0x78]).unwrap();
        assert_eq!(memory.load(0x10), Ok(0x1234_5678));
        assert_eq!(memory.load(0x11), Err(Fault::Misaligned(0x11)));
        assert_eq!(memory.load(0xffe), Err(Fault::Misaligned(0xffe)));
    }

    proptest! {
        #[test]
        fn copying_sums_what_it_copies(bytes in prop::collection::vec(any::<u8>(), 1..600),
                                       from in 0u64..8, to in 0u64..8) {
            let memory = memory(0x2000);
            memory.write(from, &bytes).unwrap();
            let (mut a, mut b) = (Vec::new(), Vec::new());
            memory.slices(from, bytes.len(), Access::Read, &mut a).unwrap();
            memory.slices(0x1000 + to, bytes.len(), Access::Write, &mut b).unwrap();
            let (length, sum) = copy_and_sum(a[0], b[0]);
            prop_assert_eq!(length, bytes.len());
            prop_assert_eq!(sum.fold(), Sum::of(&bytes).fold());
            let mut back = vec![0; bytes.len()];
            memory.read(0x1000 + to, &mut back).unwrap();
            prop_assert_eq!(back, bytes);
        }
    }
}
