// SPDX-License-Identifier: MIT OR Apache-2.0
//! Work queue entries (`include/linux/mlx5/qp.h`).

use super::Fields;

/// Bytes in a basic block of a send queue, its unit of addressing.
pub const BASIC_BLOCK: usize = 64;
/// Bytes in a data segment, the unit of a send entry's length.
pub const SEGMENT: usize = 16;
/// The most bytes that a send entry can have: 6 bits of length.
pub const MAX_SEND: usize = 63 * SEGMENT;
/// The key of a scatter list's end (capability `terminate_scatter_list_mkey` zero).
pub const TERMINATOR_KEY: u32 = 0x100;

/// Operations of a send entry (`MLX5_OPCODE_*`) that the device knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOp {
    /// Nothing, but it may ask for a completion.
    Nop,
    /// One packet.
    Send,
    /// One header and a payload that is cut into packets.
    LargeSend,
    /// A change of a memory key.
    Umr,
}

impl TryFrom<u8> for SendOp {
    type Error = u8;

    fn try_from(opcode: u8) -> Result<Self, u8> {
        match opcode {
            0x00 => Ok(Self::Nop),
            0x0a => Ok(Self::Send),
            0x0e => Ok(Self::LargeSend),
            0x25 => Ok(Self::Umr),
            other => Err(other),
        }
    }
}

/// Control segment (`struct mlx5_wqe_ctrl_seg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// Raw operation code.
    pub opcode: u8,
    /// Length of the entry in units of [`SEGMENT`].
    pub segments: u8,
    /// A completion is wanted.
    pub completion: bool,
}

impl Control {
    /// Reads the control segment at the start of an entry.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Self {
        let fields = Fields(bytes);
        Self {
            opcode: fields.array::<4>(0)[3],
            segments: (fields.u32(4) & 0x3f) as u8,
            // 2 asks for a completion, 3 for a completion and an event.
            completion: fields.bits(8, 3, 2) >= 2,
        }
    }

    /// How many basic blocks the entry takes. A length of zero takes one all the
    /// same: the queue must move on.
    pub fn blocks(self) -> u16 {
        u16::from(self.segments)
            .div_ceil((BASIC_BLOCK / SEGMENT) as u16)
            .max(1)
    }
}

/// Ethernet segment (`struct mlx5_wqe_eth_seg`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Fill in the IPv4 header checksum.
    pub l3_checksum: bool,
    /// Fill in the TCP or UDP checksum.
    pub l4_checksum: bool,
    /// Fill in the IPv4 header checksum of the packet in the tunnel.
    pub inner_l3_checksum: bool,
    /// Fill in the TCP or UDP checksum of the packet in the tunnel.
    pub inner_l4_checksum: bool,
    /// Payload bytes of each packet of a [`SendOp::LargeSend`].
    pub mss: u16,
    /// Bytes of the packet that stand in the entry itself, from [`Self::INLINE`] on.
    pub inline: u16,
}

impl Ethernet {
    /// Where the segment starts in an entry.
    pub const AT: usize = 0x10;
    /// Where inline bytes start in an entry.
    pub const INLINE: usize = 0x1e;

    /// Reads the Ethernet segment of an entry.
    pub fn decode(entry: &[u8]) -> Self {
        let fields = Fields(entry).from(Self::AT);
        let flags = fields.array::<1>(4)[0];
        Self {
            l3_checksum: flags & 0x40 != 0,
            l4_checksum: flags & 0x80 != 0,
            inner_l3_checksum: flags & 0x10 != 0,
            inner_l4_checksum: flags & 0x20 != 0,
            mss: fields.u16(6),
            inline: fields.u16(0xc),
        }
    }

    /// Where the data segments start: two inline bytes are in this segment, the
    /// others fill whole ones.
    pub fn data_at(self) -> usize {
        let rest = usize::from(self.inline).saturating_sub(2);
        Self::AT + SEGMENT + rest.next_multiple_of(SEGMENT)
    }
}

/// Data segment (`struct mlx5_wqe_data_seg`), of a send or of a receive entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data {
    /// Bytes. Bit 31 of the field is a flag and not part of it.
    pub length: u32,
    /// Memory key.
    pub key: u32,
    /// Address under that key.
    pub address: u64,
}

impl Data {
    /// Reads a data segment.
    pub fn decode(bytes: &[u8]) -> Self {
        let fields = Fields(bytes);
        Self {
            length: fields.bits(0, 30, 0),
            key: fields.u32(4),
            address: fields.u64(8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_ethernet_segments() {
        let mut wqe = [0u8; 0x40];
        wqe[..12].copy_from_slice(&[0, 0x12, 0x34, 0x0e, 0, 0, 7, 0x14, 0, 0, 0, 0x08]);
        wqe[0x14] = 0xc0;
        wqe[0x16..0x18].copy_from_slice(&1448u16.to_be_bytes());
        wqe[0x1c..0x1e].copy_from_slice(&66u16.to_be_bytes());
        let control = Control::decode(&wqe);
        assert_eq!(
            control,
            Control {
                opcode: 0x0e,
                segments: 20,
                completion: true
            }
        );
        assert_eq!(control.blocks(), 5);
        let eth = Ethernet::decode(&wqe);
        assert!(eth.l3_checksum && eth.l4_checksum);
        assert!(!eth.inner_l3_checksum && !eth.inner_l4_checksum);
        assert_eq!((eth.mss, eth.inline), (1448, 66));
        assert_eq!(eth.data_at(), 0x20 + 64);
    }

    #[test]
    fn inline_bytes_fill_whole_segments() {
        let at = |inline| {
            Ethernet {
                l3_checksum: false,
                l4_checksum: false,
                inner_l3_checksum: false,
                inner_l4_checksum: false,
                mss: 0,
                inline,
            }
            .data_at()
        };
        assert_eq!(
            [at(0), at(2), at(3), at(18), at(19)],
            [0x20, 0x20, 0x30, 0x30, 0x40]
        );
    }

    #[test]
    fn the_flag_in_a_byte_count_is_no_length() {
        let mut bytes = [0u8; 16];
        bytes[..4].copy_from_slice(&0x8000_0600u32.to_be_bytes());
        assert_eq!(Data::decode(&bytes).length, 0x600);
    }

    #[test]
    fn an_entry_without_length_takes_one_block() {
        assert_eq!(Control::decode(&[0; 16]).blocks(), 1);
        assert_eq!(SendOp::try_from(0x29), Err(0x29));
    }
}
