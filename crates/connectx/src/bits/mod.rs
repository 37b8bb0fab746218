// SPDX-License-Identifier: MIT OR Apache-2.0
//! Wire layouts: what the driver and the device write to each other.
//!
//! Everything is big-endian. A field is named by the byte offset of its 32-bit
//! word and its highest and lowest bit there, the way `mlx5_ifc.h` of Linux
//! counts once its running bit offsets are divided by 32. The structures carry
//! the names of `include/linux/mlx5/mlx5_ifc.h` and `include/linux/mlx5/device.h`.

pub mod ctx;
pub mod event;
pub mod iseg;
pub mod op;
pub mod striding;
pub mod umr;
pub mod wqe;

/// Big-endian fields of a received message.
///
/// A field past the end of the message reads as zero, as if the sender knew an
/// older and shorter layout: no length that a guest chooses can be a fault here.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The 16-bit word at byte `at`.
    pub fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    /// The 32-bit word at byte `at`.
    pub fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    /// The 64-bit word at byte `at`.
    pub fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    /// Bits `high..=low` of the 32-bit word at byte `at`.
    pub fn bits(self, at: usize, high: u32, low: u32) -> u32 {
        (self.u32(at) >> low) & mask(high, low)
    }

    /// Bit `bit` of the 32-bit word at byte `at`.
    pub fn bit(self, at: usize, bit: u32) -> bool {
        self.bits(at, bit, bit) != 0
    }

    /// `N` bytes from byte `at`.
    pub fn array<const N: usize>(self, at: usize) -> [u8; N] {
        match self.0.get(at..at.saturating_add(N)) {
            Some(bytes) => std::array::from_fn(|i| bytes[i]),
            None => [0; N],
        }
    }

    /// The fields from byte `at` on.
    pub fn from(self, at: usize) -> Fields<'a> {
        Fields(self.0.get(at..).unwrap_or_default())
    }

    /// How many bytes there are.
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether there are no bytes at all.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// Big-endian fields of a message under construction.
///
/// What lies past the end of the message is not sent: an answer is cut to the
/// length that the driver asked for.
#[derive(Debug)]
pub struct FieldsMut<'a>(pub &'a mut [u8]);

impl FieldsMut<'_> {
    /// Sets the 16-bit word at byte `at`.
    pub fn set_u16(&mut self, at: usize, value: u16) {
        self.set_bytes(at, &value.to_be_bytes());
    }

    /// Sets the 32-bit word at byte `at`.
    pub fn set_u32(&mut self, at: usize, value: u32) {
        self.set_bytes(at, &value.to_be_bytes());
    }

    /// Sets the 64-bit word at byte `at`.
    pub fn set_u64(&mut self, at: usize, value: u64) {
        self.set_bytes(at, &value.to_be_bytes());
    }

    /// Sets bits `high..=low` of the 32-bit word at byte `at` and leaves the others.
    pub fn set_bits(&mut self, at: usize, high: u32, low: u32, value: u32) {
        let mask = mask(high, low);
        let old = Fields(self.0).u32(at);
        self.set_u32(at, (old & !(mask << low)) | ((value & mask) << low));
    }

    /// Copies `bytes` to byte `at`.
    pub fn set_bytes(&mut self, at: usize, bytes: &[u8]) {
        if let Some(to) = self.0.get_mut(at..at.saturating_add(bytes.len())) {
            to.copy_from_slice(bytes);
        }
    }
}

/// `high - low + 1` ones.
const fn mask(high: u32, low: u32) -> u32 {
    u32::MAX >> (31 - (high - low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_big_endian_and_counted_from_the_top_bit() {
        let bytes = [0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xf0];
        let fields = Fields(&bytes);
        assert_eq!(fields.u16(2), 0x5678);
        assert_eq!(fields.u64(0), 0x1234_5678_9abc_def0);
        assert_eq!(fields.bits(0, 31, 16), 0x1234);
        assert_eq!(fields.bits(4, 23, 0), 0xbc_def0);
        assert_eq!(fields.bits(0, 31, 0), 0x1234_5678);
        assert!(fields.bit(0, 3));
        assert!(!fields.bit(0, 31));
    }

    #[test]
    fn a_field_past_the_end_is_zero_and_cannot_be_set() {
        let mut bytes = [0xff; 6];
        assert_eq!(Fields(&bytes).u32(4), 0);
        assert_eq!(Fields(&bytes).u64(usize::MAX), 0);
        FieldsMut(&mut bytes).set_u32(4, 1);
        assert_eq!(bytes, [0xff; 6]);
    }

    #[test]
    fn setting_bits_leaves_the_neighbours() {
        let mut bytes = [0xff; 4];
        FieldsMut(&mut bytes).set_bits(0, 23, 16, 0x12);
        assert_eq!(bytes, [0xff, 0x12, 0xff, 0xff]);
        assert_eq!(Fields(&bytes).bits(0, 23, 16), 0x12);
    }
}
