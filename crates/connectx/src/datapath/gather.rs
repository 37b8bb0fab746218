// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists of memory pieces, read or written one after the other.

use super::checksum::Sum;
use crate::mem::{Slice, copy_and_sum};

/// A place in a list of pieces.
#[derive(Clone, Copy)]
pub struct Cursor<'a, 'm> {
    pieces: &'a [Slice<'m>],
    /// Bytes of the first piece that are behind.
    skip: usize,
}

impl<'a, 'm> Cursor<'a, 'm> {
    /// The start of `pieces`.
    pub fn new(pieces: &'a [Slice<'m>]) -> Self {
        Self { pieces, skip: 0 }
    }

    /// What is left of the first piece, at most `length` bytes. Nothing at the end of the list.
    fn front(&self, length: usize) -> Option<Slice<'m>> {
        self.pieces
            .first()
            .map(|piece| piece.part(self.skip, length))
    }

    /// Moves on by up to the end of the first piece.
    fn step(&mut self, length: usize) {
        self.skip += length;
        if let [first, rest @ ..] = self.pieces
            && self.skip >= first.len()
        {
            self.skip -= first.len();
            self.pieces = rest;
        }
    }

    /// Moves on by `length` bytes, at most to the end.
    #[inline(always)]
    pub fn advance(&mut self, mut length: usize) {
        while length > 0 {
            let Some(piece) = self.front(length) else {
                return;
            };
            self.step(piece.len());
            length -= piece.len();
        }
    }

    /// Reads into `to` until that is full or the list ends.
    #[inline(always)]
    pub fn read(&mut self, mut to: &mut [u8]) {
        while !to.is_empty() {
            let Some(piece) = self.front(to.len()) else {
                return;
            };
            let (now, later) = to.split_at_mut(piece.len());
            piece.read(now);
            self.step(now.len());
            to = later;
        }
    }

    /// Writes `from` until that or the list ends.
    #[inline(always)]
    pub fn write(&mut self, mut from: &[u8]) {
        while !from.is_empty() {
            let Some(piece) = self.front(from.len()) else {
                return;
            };
            let (now, later) = from.split_at(piece.len());
            piece.write(now);
            self.step(now.len());
            from = later;
        }
    }

    /// Copies `length` bytes from this list to `to` and adds them up, until one of the lists ends.
    #[inline(always)]
    pub fn transfer(&mut self, to: &mut Cursor<'_, '_>, length: usize) -> Sum {
        let mut sum = Sum::default();
        let mut done = 0;
        while done < length {
            let (Some(source), Some(target)) = (self.front(length - done), to.front(length - done))
            else {
                break;
            };
            let (copied, piece) = copy_and_sum(source, target);
            sum = sum.add(piece.at(done));
            self.step(copied);
            to.step(copied);
            done += copied;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::tests::memory;
    use crate::mem::{Access, GuestMemory};
    use proptest::prelude::*;

    /// Pieces of the given lengths from `at` on, with gaps.
    fn pieces<'m>(memory: &'m GuestMemory, mut at: u64, lengths: &[usize]) -> Vec<Slice<'m>> {
        let mut pieces = Vec::new();
        for &length in lengths {
            memory
                .slices(at, length, Access::Write, &mut pieces)
                .unwrap();
            at += length as u64 + 3;
        }
        pieces
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_whatever_the_pieces(
            from in prop::collection::vec(1usize..90, 1..6),
            to in prop::collection::vec(1usize..90, 1..6),
            skip in 0usize..40, wanted in 0usize..300,
        ) {
            let memory = memory(0x2000);
            let (source, target) = (pieces(&memory, 0, &from), pieces(&memory, 0x1000, &to));
            let total: usize = from.iter().sum();
            let bytes: Vec<u8> = (0..total).map(|i| (i * 7 + 1) as u8).collect();
            Cursor::new(&source).write(&bytes);

            let skip = skip.min(total);
            let length = wanted.min(total - skip).min(to.iter().sum());
            let mut cursor = Cursor::new(&source);
            cursor.advance(skip);
            let sum = cursor.transfer(&mut Cursor::new(&target), wanted);

            let mut back = vec![0; length];
            Cursor::new(&target).read(&mut back);
            prop_assert_eq!(&back, &bytes[skip..skip + length]);
            prop_assert_eq!(sum.fold(), Sum::of(&back).fold());
        }
    }

    #[test]
    fn the_end_of_a_list_ends_everything() {
        let memory = memory(0x1000);
        let list = pieces(&memory, 0, &[4]);
        let mut cursor = Cursor::new(&list);
        cursor.advance(10);
        let mut bytes = [9; 2];
        cursor.read(&mut bytes);
        assert_eq!(bytes, [9, 9]);
        cursor.write(&[1]);
        assert_eq!(cursor.transfer(&mut Cursor::new(&list), 3), Sum::default());
    }
}
