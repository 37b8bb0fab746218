// SPDX-License-Identifier: MIT OR Apache-2.0
//! The frame check sequence of Ethernet: CRC-32 (IEEE 802.3, 3.2.9).

/// What each byte does to the remainder.
const TABLE: [u32; 256] = {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut remainder, mut bit) = (byte as u32, 0);
        while bit < 8 {
            let low = remainder & 1;
            remainder >>= 1;
            if low != 0 {
                remainder ^= POLYNOMIAL;
            }
            bit += 1;
        }
        table[byte] = remainder;
        byte += 1;
    }
    table
};

/// The four bytes that follow `frame` on the cable.
pub fn fcs(frame: &[u8]) -> [u8; 4] {
    let remainder = frame.iter().fold(u32::MAX, |remainder, byte| {
        TABLE[usize::from(remainder as u8 ^ byte)] ^ remainder >> 8
    });
    (!remainder).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_crc_32() {
        assert_eq!(fcs(b"123456789"), 0xcbf4_3926u32.to_le_bytes());
    }

    /// As receivers check it.
    #[test]
    fn a_frame_with_its_fcs_leaves_the_magic_remainder() {
        let mut frame = vec![0x5a; 60];
        frame.extend(fcs(&frame));
        assert_eq!(fcs(&frame), (!0xdebb_20e3u32).to_le_bytes());
    }
}
