// SPDX-License-Identifier: MIT OR Apache-2.0
//! Striding receive queues: the part of the context that only they have, their entries, and what
//! their completions say more (`struct mlx5_ifc_wq_bits`, `struct mlx5e_rx_wqe_ll`, `struct mlx5_cqe64`).

use super::Fields;
use super::event::Cqe;
use super::op::Refusal;
use super::wqe::{Data, SEGMENT};

/// Bytes of an entry: a segment that leads to the next one, and a data segment.
pub const ENTRY: usize = 2 * SEGMENT;
/// Smallest reservation, as a power of two (capability `shampo_log_min_reservation_size`).
pub const LOG_MIN_RESERVATION: u32 = 12;
/// Largest reservation (capability `shampo_log_max_reservation_size`).
pub const LOG_MAX_RESERVATION: u32 = 16;
/// Largest header entry (capability `shampo_log_max_headers_entry_size`).
pub const LOG_MAX_HEADER_ENTRY: u32 = 8;

/// Smallest stride, as a power of two (`MLX5_MPWQE_LOG_STRIDE_SZ_BASE`).
const LOG_STRIDE_BASE: u32 = 6;
/// What the number of strides is counted from (`MLX5_MPWQE_LOG_NUM_STRIDES_BASE`).
const LOG_STRIDES_BASE: i32 = 9;
/// A completion has 15 bits for strides.
const LOG_MAX_STRIDES: i32 = 14;
/// Smallest header entry.
const LOG_HEADER_ENTRY_BASE: u32 = 6;

/// Geometry of a striding queue's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StridingContext {
    /// Bytes in a stride, as a power of two.
    pub log_stride: u32,
    /// Strides in an entry, as a power of two.
    pub log_strides: u32,
    /// Header split, if it is on.
    pub split: Option<SplitContext>,
}

/// Header split and merging of payloads (SHAMPO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitContext {
    /// Key of the header buffer, which starts at its address zero.
    pub key: u32,
    /// Bytes of a header entry, as a power of two.
    pub log_entry: u32,
    /// Header entries, as a power of two.
    pub log_entries: u32,
    /// Bytes that one series of merged payloads can have, as a power of two.
    pub log_reservation: u32,
    /// Packets that it can have, as a power of two.
    pub log_packets: u32,
    /// Where a payload that continues nothing starts: at a multiple of this, a power of two.
    pub log_alignment: u32,
    /// Payloads of one stream that follow on each other are merged.
    pub merge: bool,
}

impl StridingContext {
    /// Reads the part of `wq` and, for header split, of `rqc`, which contains it.
    pub fn decode(rqc: Fields<'_>) -> Result<Self, Refusal> {
        let wq = rqc.from(super::ctx::WQ_AT);
        // Four bits, signed.
        let strides = ((wq.bits(0x24, 11, 8) as i32) << 28 >> 28) + LOG_STRIDES_BASE;
        let log_stride = wq.bits(0x24, 2, 0) + LOG_STRIDE_BASE;
        if strides > LOG_MAX_STRIDES {
            return Err(Refusal::param(
                "striding receive queue: too many strides an entry",
            ));
        }
        Ok(Self {
            log_stride,
            log_strides: strides as u32,
            split: wq
                .bit(0x3c, 31)
                .then(|| SplitContext::decode(rqc, wq, log_stride))
                .transpose()?,
        })
    }
}

impl SplitContext {
    fn decode(rqc: Fields<'_>, wq: Fields<'_>, log_stride: u32) -> Result<Self, Refusal> {
        let split = Self {
            key: wq.u32(0x38),
            log_entry: wq.bits(0x3c, 9, 8) + LOG_HEADER_ENTRY_BASE,
            log_entries: wq.bits(0x3c, 3, 0),
            log_reservation: wq.bits(0x3c, 26, 24) + LOG_MIN_RESERVATION,
            log_packets: wq.bits(0x3c, 18, 16),
            log_alignment: match rqc.bits(0x24, 25, 24) {
                0 => 0,
                1 => log_stride,
                2 => 12,
                _ => return Err(Refusal::param("header split: no such alignment")),
            },
            merge: match rqc.bits(0x24, 17, 16) {
                0 => false,
                1 | 2 => true,
                _ => return Err(Refusal::param("header split: no such match criteria")),
            },
        };
        if split.log_entry > LOG_MAX_HEADER_ENTRY || split.log_reservation > LOG_MAX_RESERVATION {
            return Err(Refusal::param(
                "header split: header entry or reservation larger than the capabilities say",
            ));
        }
        Ok(split)
    }
}

/// Which entry comes after `entry` (`struct mlx5_wqe_srq_next_seg`).
pub fn next(entry: &[u8; ENTRY]) -> u16 {
    Fields(entry).u16(2)
}

/// The memory of `entry`.
pub fn data(entry: &[u8; ENTRY]) -> Data {
    Data::decode(&entry[SEGMENT..])
}

/// What a completion of a striding queue says about place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Strides {
    /// The entry.
    pub entry: u16,
    /// The packet's first stride.
    pub first: u16,
    /// Strides that the packet takes, and no other has taken.
    pub taken: u16,
    /// Header split.
    pub split: Option<Split>,
}

/// What a completion of a queue with header split says more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Bytes in the header entry; zero: the packet is not split.
    pub header_size: u8,
    /// The header entry.
    pub header_index: u16,
    /// Where in the entry the payload starts.
    pub data_offset: u32,
    /// The payload continues that of the packet before.
    pub matches: bool,
    /// No payload will continue this one.
    pub flush: bool,
}

impl Strides {
    /// Puts it into the completion of a packet.
    pub fn encode(&self, cqe: &mut Cqe) {
        let mut fields = super::FieldsMut(&mut cqe.0);
        fields.set_u16(0x02, self.entry);
        fields.set_bits(0x2c, 30, 16, u32::from(self.taken));
        fields.set_u16(0x3c, self.first);
        if let Some(split) = &self.split {
            let flags = u8::from(split.matches) << 1 | u8::from(split.flush) << 2;
            fields.set_bytes(0x04, &[flags, split.header_size]);
            fields.set_u16(0x06, split.header_index);
            fields.set_u32(0x08, split.data_offset);
        }
    }

    /// The completion of no packet: the rest of an entry is not used.
    pub fn filler(&self) -> Cqe {
        const FILLER: u32 = 1;
        let mut cqe = Cqe::received(0, &super::event::RxInfo::default());
        self.encode(&mut cqe);
        super::FieldsMut(&mut cqe.0).set_bits(0x2c, 31, 31, FILLER);
        cqe
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bits::FieldsMut;
    use crate::bits::event::RxInfo;

    #[test]
    fn the_number_of_strides_is_signed_and_counts_from_512() {
        let decode = |raw| {
            let mut bytes = [0u8; 0xf0];
            FieldsMut(&mut bytes).set_bits(0x54, 11, 8, raw);
            FieldsMut(&mut bytes).set_bits(0x54, 2, 0, 5);
            StridingContext::decode(Fields(&bytes))
        };
        assert_eq!(decode(0).unwrap().log_strides, 9);
        assert_eq!(decode(0).unwrap().log_stride, 11);
        assert_eq!(decode(0xe).unwrap().log_strides, 7);
        assert_eq!(decode(0xa).unwrap().log_strides, 3);
        assert_eq!(decode(5).unwrap().log_strides, 14);
        assert!(decode(7).is_err());
    }

    /// The values that the driver asks for at an MTU of 1500.
    #[test]
    fn header_split() {
        let mut bytes = [0u8; 0xf0];
        let mut fields = FieldsMut(&mut bytes);
        fields.set_bits(0x24, 25, 24, 1);
        fields.set_bits(0x24, 17, 16, 1);
        fields.set_bits(0x54, 11, 8, 1);
        fields.set_bits(0x54, 2, 0, 2);
        fields.set_u32(0x68, 0x1300);
        fields.set_u32(0x6c, 1 << 31 | 4 << 24 | 6 << 16 | 2 << 8 | 11);
        let split = StridingContext::decode(Fields(&bytes)).unwrap().split;
        let expected = SplitContext {
            key: 0x1300,
            log_entry: 8,
            log_entries: 11,
            log_reservation: 16,
            log_packets: 6,
            log_alignment: 8,
            merge: true,
        };
        assert_eq!(split, Some(expected));
        FieldsMut(&mut bytes).set_bits(0x6c, 9, 8, 3);
        assert!(StridingContext::decode(Fields(&bytes)).is_err(), "entry");
    }

    #[test]
    fn completions_lie_where_the_driver_reads_them() {
        let strides = Strides {
            entry: 0x102,
            first: 9,
            taken: 3,
            split: Some(Split {
                header_size: 66,
                header_index: 0x405,
                data_offset: 0x1_0203,
                matches: true,
                flush: true,
            }),
        };
        let info = RxInfo {
            length: 1514,
            ..RxInfo::default()
        };
        let mut cqe = Cqe::received(0, &info);
        strides.encode(&mut cqe);
        assert_eq!(cqe.0[0x02..0x0c], [1, 2, 6, 66, 4, 5, 0, 1, 2, 3]);
        assert_eq!(Fields(&cqe.0).u32(0x2c), 3 << 16 | 1514);
        assert_eq!(Fields(&cqe.0).u16(0x3c), 9);
        let filler = Strides {
            taken: 0x7fff,
            ..Strides::default()
        };
        assert_eq!(Fields(&filler.filler().0).u32(0x2c), 0xffff_0000);
        assert_eq!(filler.filler().0[0x3f] >> 4, 2, "opcode");
    }
}
