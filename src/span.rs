// SPDX-License-Identifier: GPL-2.0

//! Spans of user addresses, and lookups among them.

use crate::{
    ffi::uapi::{
        BUFFER_SHIFT,
        BUFFER_SIZE, //
    },
    nospec, //
};
use kernel::prelude::*;

/// Addresses of one or more whole buffers.
///
/// # Invariants
///
/// `start` and `end` are multiples of the buffer size, `start < end`, and there are at most [`u32::MAX`]
/// buffers between.
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
        if len >> BUFFER_SHIFT > u32::MAX as usize {
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

    /// Number of buffers.
    pub(crate) fn buffers(&self) -> u32 {
        (self.len() >> BUFFER_SHIFT) as u32
    }

    /// Whether some address is in both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// Number of the buffer that `addr` lies in. Safe to use as an index even while the CPU speculates.
    #[inline(always)]
    pub(crate) fn buffer(&self, addr: usize) -> Option<u32> {
        let offset = addr.checked_sub(self.start)?;
        let index = offset >> BUFFER_SHIFT;
        let count = self.buffers() as usize;
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

    /// What belongs to the span that `addr` lies in, and the number of its buffer there.
    pub(crate) fn find(&self, addr: usize) -> Option<(&T, u32)> {
        let next = self.entries.partition_point(|(span, _)| span.start <= addr);
        let (span, value) = self.entries.get(next.checked_sub(1)?)?;
        Some((value, span.buffer(addr)?))
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
            (0x2000, Some((&'a', 0))),
            (0x2fff, Some((&'a', 0))),
            (0x3000, None),
            (0x7fff, None),
            (0x8000, Some((&'b', 0))),
            (0x9fff, Some((&'b', 1))),
            (0xa000, Some((&'c', 0))),
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
