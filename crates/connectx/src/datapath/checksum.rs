// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Internet checksum (RFC 1071) in pieces.

/// A one's-complement sum of 16-bit words, not yet folded.
///
/// Sums of pieces add up to the sum of the whole. A piece that starts at an odd
/// byte of the whole counts with its bytes exchanged, see [`Sum::at`].
///
/// Words are added up as little-endian ones, or as wider ones: the carries of one's-complement go round, so only
/// the order of the bytes in the folded sum differs (RFC 1071, 2 (B)), and [`Sum::fold`] puts them right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, an odd last byte padded with zero.
    #[inline(always)]
    pub fn of(bytes: &[u8]) -> Self {
        let (words, mut rest) = bytes.as_chunks::<8>();
        let halves = |word: u64| (word & 0xffff_ffff) + (word >> 32);
        let mut sum: u64 = words
            .iter()
            .map(|&word| halves(u64::from_le_bytes(word)))
            .sum();
        if let [a, b, c, d, more @ ..] = rest {
            sum += u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
            rest = more;
        }
        if let [a, b, more @ ..] = rest {
            sum += u64::from(u16::from_le_bytes([*a, *b]));
            rest = more;
        }
        if let [last] = rest {
            sum += u64::from(*last);
        }
        Self(sum)
    }

    /// The sum of one value.
    pub fn word(value: u16) -> Self {
        Self(u64::from(value.to_be()))
    }

    /// What takes `value` out of a sum that it is in.
    #[inline]
    pub fn without(value: u16) -> Self {
        Self::word(!value)
    }

    /// The sum of a piece, given that of its bytes as little-endian words of any width.
    pub fn from_little_endian(words: u64) -> Self {
        Self((words >> 32) + (words & 0xffff_ffff))
    }

    /// This piece as part of a whole in which it starts at byte `offset`.
    #[inline(always)]
    pub fn at(self, offset: usize) -> Self {
        if offset.is_multiple_of(2) {
            self
        } else {
            Self(u64::from(fold(self.0).swap_bytes()))
        }
    }

    /// The sum of two pieces.
    #[expect(
        clippy::should_implement_trait,
        reason = "`a.add(b).add(c)` reads in order"
    )]
    pub fn add(self, other: Self) -> Self {
        // A piece has little more than 32 bits to begin with; nobody adds up so many that 64 are too few.
        Self(self.0 + other.0)
    }

    /// The 16-bit sum of big-endian words, carries added back, not inverted.
    #[inline]
    pub fn fold(self) -> u16 {
        fold(self.0).to_be()
    }
}

/// Adds the carries back until 16 bits are left.
#[inline]
fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    // Less than 2^33, then less than 2^18, then less than 2^16 + 4.
    sum = (sum >> 32) + (sum >> 16 & 0xffff) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071() {
        assert_eq!(
            Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(),
            0xddf2
        );
    }

    #[test]
    fn an_ipv4_header_with_its_checksum_sums_to_all_ones() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(Sum::of(&header).fold(), 0xffff);
    }

    #[test]
    fn carries_of_wide_sums_go_round() {
        assert_eq!(fold(u64::MAX), 0xffff);
        assert_eq!(fold(0x1_0000_0000), 1);
        assert_eq!(fold(0xffff_ffff_0001_0000), 1);
    }

    proptest! {
        #[test]
        fn a_word_can_be_taken_out(mut bytes in prop::collection::vec(any::<u8>(), 4..60), at in 0usize..29) {
            let at = 2 * (at % (bytes.len() / 2));
            let whole = Sum::of(&bytes);
            let word = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].fill(0);
            prop_assume!(bytes.iter().any(|&byte| byte != 0));
            prop_assert_eq!(whole.add(Sum::without(word)).fold(), Sum::of(&bytes).fold());
        }

        #[test]
        fn pieces_add_up(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let cut = cut.min(bytes.len());
            let (a, b) = bytes.split_at(cut);
            // One's complement has two zeros; only all-zero bytes give the positive one.
            prop_assert_eq!(Sum::of(a).add(Sum::of(b).at(cut)).fold(), Sum::of(&bytes).fold());
        }

        #[test]
        fn byte_order_does_not_matter(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let words = bytes.chunks(8).map(|c| {
                let mut word = [0; 8];
                word[..c.len()].copy_from_slice(c);
                let word = u64::from_le_bytes(word);
                (word & 0xffff_ffff) + (word >> 32)
            }).sum();
            prop_assert_eq!(Sum::from_little_endian(words).fold(), Sum::of(&bytes).fold());
        }
    }
}
