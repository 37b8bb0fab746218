// SPDX-License-Identifier: GPL-2.0

//! Spans of user addresses, and lookups among them.

use crate::{
    ffi::uapi::{
        BUFFER_SIZE,
        MAX_BUFFER_SIZE, //
    },
    nospec, //
};
use kernel::prelude::*;

/// The size of a context's buffers.
///
/// # Invariants
///
/// `1 << shift` is from [`BUFFER_SIZE`] to [`MAX_BUFFER_SIZE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BufferSize {
    shift: u32,
}

impl BufferSize {
    /// All that there are, added up.
    pub(crate) const ALL: u32 = MAX_BUFFER_SIZE | (MAX_BUFFER_SIZE - BUFFER_SIZE);

    /// Buffers of so many bytes. `EINVAL`: that is none of the sizes.
    pub(crate) fn new(bytes: u32) -> Result<Self> {
        if !bytes.is_power_of_two() || bytes & Self::ALL == 0 {
            return Err(EINVAL);
        }
        // INVARIANT: Checked just now.
        Ok(Self {
            shift: bytes.trailing_zeros(),
        })
    }

    /// In bytes.
    #[inline(always)]
    pub(crate) fn bytes(self) -> u32 {
        1 << self.shift
    }

    /// Its logarithm.
    #[inline(always)]
    pub(crate) fn shift(self) -> u32 {
        self.shift
    }
}

/// Addresses of one or more whole buffers of the smallest size.
///
/// # Invariants
///
/// `start` and `end` are multiples of [`BUFFER_SIZE`], `start < end`, and there are at most [`u32::MAX`] buffers of that size between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: usize,
    end: usize,
}

impl Span {
    /// Checks the span of `len` bytes at `addr`.
    pub(crate) fn new(addr: u64, len: u64) -> Result<Self> {
        let start = usize::try_from(addr)?;
        let len = usize::try_from(len)?;
        let end = start.checked_add(len).ok_or(EINVAL)?;
        let whole = (start | len) % BUFFER_SIZE as usize == 0;
        if !whole || start == 0 || len == 0 {
            return Err(EINVAL);
        }
        if len / BUFFER_SIZE as usize > u32::MAX as usize {
            return Err(ENOMEM);
        }
        // INVARIANT: Checked just now.
        Ok(Self { start, end })
    }

    /// First address.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.end - self.start
    }

    /// First address behind it.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Whether it consists of whole buffers of `size`.
    pub(crate) fn is_whole(&self, size: BufferSize) -> bool {
        (self.start | self.end) % size.bytes() as usize == 0
    }

    /// Number of whole buffers of `size`.
    #[inline(always)]
    pub(crate) fn buffers(&self, size: BufferSize) -> u32 {
        (self.len() >> size.shift()) as u32
    }

    /// Whether some address is in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Number of the buffer of `size` that `addr` lies in. Safe to use as an index even while the CPU speculates.
    #[inline(always)]
    pub(crate) fn buffer(&self, addr: usize, size: BufferSize) -> Option<u32> {
        let offset = addr.checked_sub(self.start)?;
        let index = offset >> size.shift();
        let count = self.buffers(size) as usize;
        if index >= count {
            return None;
        }
        Some(nospec::index(index, count) as u32)
    }
}

/// Spans that do not overlap, in order, each with what belongs to it.
pub(crate) struct SpanMap<T> {
    entries: KVec<(Span, T)>,
}

impl<T: Clone> SpanMap<T> {
    /// The empty map.
    pub(crate) fn new() -> Self {
        Self {
            entries: KVec::new(),
        }
    }

    /// Whether `span` overlaps a span of the map.
    pub(crate) fn overlaps(&self, span: &Span) -> bool {
        self.entries.iter().any(|(other, _)| other.overlaps(span))
    }

    /// A copy of the map that has `value` at `span` as well; `EEXIST` if that overlaps another span.
    pub(crate) fn with(&self, span: Span, value: T) -> Result<Self> {
        if self.overlaps(&span) {
            return Err(EEXIST);
        }
        let mut entries = KVec::with_capacity(self.entries.len() + 1, GFP_KERNEL_ACCOUNT)?;
        let mut new = Some((span, value));
        for entry in &self.entries {
            if entry.0.start > span.start {
                if let Some(new) = new.take() {
                    entries.push(new, GFP_KERNEL_ACCOUNT)?;
                }
            }
            entries.push(entry.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        if let Some(new) = new {
            entries.push(new, GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self { entries })
    }

    /// A copy of the map that has only what `keep` says.
    pub(crate) fn filter(&self, keep: impl Fn(&T) -> bool) -> Result<Self> {
        let mut entries = KVec::with_capacity(self.entries.len(), GFP_KERNEL_ACCOUNT)?;
        for entry in self.entries.iter().filter(|(_, value)| keep(value)) {
            entries.push(entry.clone(), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self { entries })
    }

    /// What belongs to the span that `addr` lies in.
    pub(crate) fn find(&self, addr: usize) -> Option<&T> {
        let next = self.entries.partition_point(|(span, _)| span.start <= addr);
        let (span, value) = self.entries.get(next.checked_sub(1)?)?;
        (addr < span.end).then_some(value)
    }

    /// Everything that belongs to some span, in order of addresses.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> + Clone {
        self.entries.iter().map(|(_, value)| value)
    }
}

#[kunit_tests(netgpu_span)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_whole_buffers() {
        assert!(Span::new(0x1000, 0x1000).is_ok());
        assert_eq!(Span::new(0x1000, 1 << 45), Err(ENOMEM));
        for (addr, len) in [
            (0x1000, 0),
            (0, 0x1000),
            (0x1001, 0x1000),
            (0x1000, 0x1001),
            (0x1000, 0xfff),
            (u64::MAX - 0xfff, 0x1000),
            (0x1000, u64::MAX - 0xfff),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(Span::new(addr, len), Err(EINVAL));
        }
    }

    #[test]
    fn buffers_are_of_a_few_sizes() -> Result {
        assert_eq!(BufferSize::ALL, 0x3f000);
        for (bytes, shift) in [(0x1000, 12), (0x10000, 16), (0x20000, 17)] {
            let size = BufferSize::new(bytes)?;
            assert_eq!((size.bytes(), size.shift()), (bytes, shift));
        }
        for bytes in [0, 1, 0x800, 0x3000, 0x40000, u32::MAX] {
            assert_eq!(BufferSize::new(bytes), Err(EINVAL));
        }
        Ok(())
    }

    #[test]
    fn an_address_lies_in_a_buffer() -> Result {
        let small = BufferSize::new(0x1000)?;
        let large = BufferSize::new(0x4000)?;
        let span = Span::new(0x8000, 0x8000)?;
        assert_eq!((span.buffers(small), span.buffers(large)), (8, 2));
        for (addr, in_small, in_large) in [
            (0x7fff, None, None),
            (0x8000, Some(0), Some(0)),
            (0xbfff, Some(3), Some(0)),
            (0xc000, Some(4), Some(1)),
            (0xffff, Some(7), Some(1)),
            (0x10000, None, None),
        ] {
            assert_eq!(span.buffer(addr, small), in_small);
            assert_eq!(span.buffer(addr, large), in_large);
        }
        assert!(span.is_whole(large));
        for (addr, len) in [(0x9000, 0x8000), (0x8000, 0x7000), (0x9000, 0x7000)] {
            let span = Span::new(addr, len)?;
            assert!(span.is_whole(small) && !span.is_whole(large));
        }
        Ok(())
    }

    #[test]
    fn overlaps_at_the_edges() -> Result {
        let span = Span::new(0x4000, 0x2000)?;
        for (addr, len, overlaps) in [
            (0x2000, 0x2000, false),
            (0x2000, 0x3000, true),
            (0x5000, 0x1000, true),
            (0x6000, 0x1000, false),
            (0x1000, 0x9000, true),
            (0x4000, 0x2000, true),
        ] {
            assert_eq!(span.overlaps(&Span::new(addr, len)?), overlaps);
            assert_eq!(Span::new(addr, len)?.overlaps(&span), overlaps);
        }
        Ok(())
    }

    #[test]
    fn finds_what_an_address_lies_in() -> Result {
        let map = SpanMap::new()
            .with(Span::new(0x8000, 0x2000)?, 'b')?
            .with(Span::new(0x2000, 0x1000)?, 'a')?
            .with(Span::new(0xa000, 0x1000)?, 'c')?;
        for (addr, found) in [
            (0, None),
            (0x1fff, None),
            (0x2000, Some(&'a')),
            (0x2fff, Some(&'a')),
            (0x3000, None),
            (0x7fff, None),
            (0x8000, Some(&'b')),
            (0x9fff, Some(&'b')),
            (0xa000, Some(&'c')),
            (0xb000, None),
            (usize::MAX, None),
        ] {
            assert_eq!(map.find(addr), found);
        }
        assert!(map.with(Span::new(0x9000, 0x1000)?, 'd').is_err());
        assert!(map.values().eq(['a', 'b', 'c'].iter()));
        let map = map.filter(|&value| value != 'b')?;
        assert!(map.values().eq(['a', 'c'].iter()));
        assert_eq!(map.find(0x8000), None);
        Ok(())
    }
}
