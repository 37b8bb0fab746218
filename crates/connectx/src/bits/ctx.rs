// SPDX-License-Identifier: MIT OR Apache-2.0
//! Object contexts of the create and modify commands (`mlx5_ifc.h`, `struct mlx5_ifc_*c_bits`).

use std::time::Duration;

use super::Fields;
use super::op::{Refusal, Status};
use super::striding::{self, StridingContext};

/// Guest pages are this large in every address list: `log_page_size` is zero.
pub const PAGE: usize = 4096;
/// The smallest page of a memory key, as a power of two: as large as the smallest frame of AF_XDP, `XDP_UMEM_MIN_CHUNK_SIZE`.
pub const MIN_LOG_KEY_PAGE: u32 = 11;

/// Event queue context (`eqc`).
#[derive(Clone, Copy, Debug)]
pub struct EqContext {
    /// Entries, as a power of two.
    pub log_size: u32,
    /// MSI-X vector.
    pub vector: u16,
}

impl EqContext {
    /// Reads an `eqc`.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        if fields.bits(0x18, 28, 24) != 0 || fields.bits(0x08, 11, 6) != 0 {
            return Err(Refusal::param(
                "event queue: only 4 KiB pages without offset",
            ));
        }
        Ok(Self {
            log_size: fields.bits(0x0c, 28, 24),
            vector: fields.bits(0x14, 11, 0) as u16,
        })
    }
}

/// When the timer of an event queue entry about completions starts (`MLX5_CQ_PERIOD_MODE_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeriodMode {
    /// With the entry before.
    #[default]
    FromEvent,
    /// With the last completion.
    FromCompletion,
}

/// How long completions may wait until the driver is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moderation {
    /// Longest wait; none at all if zero.
    pub period: Duration,
    /// That many do not wait; any number may, if zero.
    pub count: u32,
    /// Since when they wait.
    pub mode: PeriodMode,
}

impl Moderation {
    /// Reads the moderation of a `cqc`.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        Ok(Self {
            period: Duration::from_micros(fields.bits(0x10, 27, 16).into()),
            count: fields.bits(0x10, 15, 0),
            mode: match fields.bits(0, 16, 15) {
                0 => PeriodMode::FromEvent,
                1 => PeriodMode::FromCompletion,
                _ => return Err(Refusal::param("completion queue: no such period mode")),
            },
        })
    }
}

/// Completion queue context (`cqc`).
#[derive(Clone, Copy, Debug)]
pub struct CqContext {
    /// Entries, as a power of two.
    pub log_size: u32,
    /// Event queue that is told about completions.
    pub eqn: u32,
    /// Address of the doorbell record.
    pub doorbell: u64,
    /// When the driver is told.
    pub moderation: Moderation,
}

impl CqContext {
    /// Reads a `cqc`.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        if fields.bits(0x18, 28, 24) != 0 || fields.bits(0x08, 11, 6) != 0 {
            return Err(Refusal::param(
                "completion queue: only 4 KiB pages without offset",
            ));
        }
        if fields.bits(0, 23, 21) != 0 || fields.bit(0, 14) {
            return Err(Refusal::param(
                "completion queue: only plain 64-byte entries",
            ));
        }
        Ok(Self {
            log_size: fields.bits(0x0c, 28, 24),
            eqn: fields.u32(0x14),
            doorbell: fields.u64(0x38),
            moderation: Moderation::decode(fields)?,
        })
    }
}

/// State of a send or receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum QueueState {
    /// Created, or emptied by the driver.
    Reset = 0,
    /// At work.
    Ready = 1,
    /// Stopped by an error.
    Error = 3,
}

impl TryFrom<u32> for QueueState {
    type Error = Refusal;

    fn try_from(value: u32) -> Result<Self, Refusal> {
        match value {
            0 => Ok(Self::Reset),
            1 => Ok(Self::Ready),
            3 => Ok(Self::Error),
            _ => Err(Refusal::param("no such queue state")),
        }
    }
}

impl QueueState {
    /// Whether a queue may be moved from `self` to `to`.
    pub fn check_change(self, to: Self) -> Result<(), Refusal> {
        match (self, to) {
            (Self::Reset, Self::Ready) | (_, Self::Reset | Self::Error) => Ok(()),
            (from, to) if from == to => Ok(()),
            _ => Err(Refusal::new(
                Status::BadResourceState,
                "queue state change: only reset to ready, any to reset or error",
            )),
        }
    }
}

/// Types of work queues (`MLX5_WQ_TYPE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkQueueType {
    /// A ring.
    Cyclic,
    /// A linked list of receive entries, each for many packets.
    Striding,
}

/// Work queue part of a queue context (`wq`).
#[derive(Clone, Copy, Debug)]
pub struct WorkQueue {
    /// Type.
    pub kind: WorkQueueType,
    /// Entries, as a power of two.
    pub log_size: u32,
    /// Bytes from one entry to the next, as a power of two.
    pub log_stride: u32,
    /// Protection domain of the memory that entries name.
    pub pd: u32,
    /// Address of the doorbell record.
    pub doorbell: u64,
}

impl WorkQueue {
    /// Reads a `wq` of entries between `strides.start()` and `strides.end()` bytes (powers of two).
    pub fn decode(
        fields: Fields<'_>,
        strides: std::ops::RangeInclusive<u32>,
    ) -> Result<Self, Refusal> {
        let kind = match fields.bits(0, 31, 28) {
            1 => WorkQueueType::Cyclic,
            2 => WorkQueueType::Striding,
            _ => {
                return Err(Refusal::param(
                    "work queue: only cyclic, or a striding linked list",
                ));
            }
        };
        if fields.bits(0x20, 12, 8) != 0 || fields.bits(0x04, 20, 16) != 0 {
            return Err(Refusal::param(
                "work queue: only 4 KiB pages without offset",
            ));
        }
        let wq = Self {
            kind,
            log_size: fields.bits(0x20, 4, 0),
            log_stride: fields.bits(0x20, 19, 16),
            pd: fields.bits(0x08, 23, 0),
            doorbell: fields.u64(0x10),
        };
        if !strides.contains(&wq.log_stride) {
            return Err(Refusal::param("work queue: stride out of range"));
        }
        // The counters of a queue have 16 bits; one more entry and full looks like empty.
        if wq.log_size > 15 {
            return Err(Refusal::param("work queue: more than 2^15 entries"));
        }
        Ok(wq)
    }
}

/// Where the work queue part starts in `sqc` and `rqc`.
pub(super) const WQ_AT: usize = 0x30;

/// Send queue context (`sqc`).
#[derive(Clone, Copy, Debug)]
pub struct SqContext {
    /// State to create the queue in, or to move it to.
    pub state: QueueState,
    /// Completion queue.
    pub cqn: u32,
    /// The queue may change memory keys (`reg_umr`).
    pub umr: bool,
    /// Ring. Its entries are [`super::wqe::BASIC_BLOCK`] bytes.
    pub wq: WorkQueue,
}

impl SqContext {
    /// Reads the `sqc` of a create command.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        let wq = WorkQueue::decode(fields.from(WQ_AT), 6..=6)?;
        if wq.kind != WorkQueueType::Cyclic {
            return Err(Refusal::param("send queue: only the cyclic type"));
        }
        Ok(Self {
            state: Self::state(fields)?,
            cqn: fields.bits(0x08, 23, 0),
            umr: fields.bit(0, 19),
            wq,
        })
    }

    /// Reads the state alone, as a modify command carries it.
    pub fn state(fields: Fields<'_>) -> Result<QueueState, Refusal> {
        QueueState::try_from(fields.bits(0, 23, 20))
    }
}

/// Receive queue context (`rqc`).
#[derive(Clone, Copy, Debug)]
pub struct RqContext {
    /// State to create the queue in.
    pub state: QueueState,
    /// VLAN strip disable: leave tags in the packet.
    pub keep_vlan: bool,
    /// The FCS is stored behind the packet.
    pub keep_fcs: bool,
    /// Completion queue.
    pub cqn: u32,
    /// Counter set for packets without a buffer; zero for none.
    pub counters: u32,
    /// Ring. An entry is a list of data segments, or [`striding::ENTRY`] bytes.
    pub wq: WorkQueue,
    /// What more there is to know of a striding queue.
    pub striding: Option<StridingContext>,
}

impl RqContext {
    /// Reads the `rqc` of a create command.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        if fields.bits(0, 27, 24) != 0 {
            return Err(Refusal::param(
                "receive queue: only entries of its own, no RMP",
            ));
        }
        let wq = WorkQueue::decode(fields.from(WQ_AT), 4..=9)?;
        let striding = match wq.kind {
            WorkQueueType::Striding if 1 << wq.log_stride != striding::ENTRY => {
                return Err(Refusal::param(
                    "striding receive queue: only entries of one data segment",
                ));
            }
            WorkQueueType::Striding => Some(StridingContext::decode(fields)?),
            WorkQueueType::Cyclic if fields.from(WQ_AT).bit(0x3c, 31) => {
                return Err(Refusal::param(
                    "receive queue: header split only in a striding queue",
                ));
            }
            WorkQueueType::Cyclic => None,
        };
        Ok(Self {
            state: SqContext::state(fields)?,
            keep_vlan: Self::keep_vlan(fields),
            keep_fcs: Self::keep_fcs(fields),
            cqn: fields.bits(0x08, 23, 0),
            counters: Self::counters(fields),
            wq,
            striding,
        })
    }

    /// Reads the VLAN strip disable bit alone.
    pub fn keep_vlan(fields: Fields<'_>) -> bool {
        fields.bit(0, 28)
    }

    /// Reads the bit that wants the FCS (`scatter_fcs`) alone.
    pub fn keep_fcs(fields: Fields<'_>) -> bool {
        fields.bit(0, 29)
    }

    /// Reads the counter set alone.
    pub fn counters(fields: Fields<'_>) -> u32 {
        fields.bits(0x0c, 31, 24)
    }
}

/// Hash functions of a TIR (`MLX5_RX_HASH_FN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HashFunction {
    /// Do not spread.
    None,
    /// Exclusive or of all bytes, inverted.
    InvertedXor8,
    /// Toeplitz.
    Toeplitz,
}

/// The hash part of a transport interface receive context (`tirc`).
#[derive(Clone, Copy, Debug)]
pub struct HashContext {
    /// Function.
    pub function: HashFunction,
    /// Both directions of a flow get the same hash.
    pub symmetric: bool,
    /// Toeplitz key.
    pub key: [u8; 40],
    /// Which header fields go in: bits 0 source address, 1 destination address,
    /// 2 source port, 3 destination port, 4 security parameter index of IPsec.
    pub fields: u32,
}

impl HashContext {
    /// Reads the hash part of a `tirc`.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        let selector = fields.bits(0x50, 29, 0);
        if selector & !0x1f != 0 {
            return Err(Refusal::param(
                "TIR: hash over addresses, ports and SPI only",
            ));
        }
        Ok(Self {
            function: match fields.bits(0x24, 31, 28) {
                0 => HashFunction::None,
                1 => HashFunction::InvertedXor8,
                2 => HashFunction::Toeplitz,
                _ => return Err(Refusal::param("TIR: no such hash function")),
            },
            symmetric: fields.bit(0x20, 31),
            key: fields.array(0x28),
            fields: selector,
        })
    }
}

/// What of a transport interface receive context is about large receive offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LroContext {
    /// Segments over IPv4 are merged.
    pub ipv4: bool,
    /// Those over IPv6.
    pub ipv6: bool,
    /// The most bytes behind the IP header of a merged packet.
    pub max_ip_payload: usize,
    /// How long a merged packet waits for another segment.
    pub timeout: Duration,
}

impl LroContext {
    /// Reads that part of a `tirc`.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        let mask = fields.bits(0x10, 11, 8);
        if mask & !3 != 0 {
            return Err(Refusal::param("TIR: merging over IPv4 and IPv6 only"));
        }
        Ok(Self {
            ipv4: mask & 1 != 0,
            ipv6: mask & 2 != 0,
            max_ip_payload: (fields.bits(0x10, 7, 0) as usize) << 8,
            timeout: Duration::from_micros(fields.bits(0x10, 27, 12).into()),
        })
    }
}

/// Where a TIR sends packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TirTarget {
    /// To one receive queue.
    Direct(u32),
    /// To an indirection table.
    Indirect(u32),
}

/// Transport interface receive context (`tirc`).
#[derive(Clone, Copy, Debug)]
pub struct TirContext {
    /// Receive queue or table.
    pub target: TirTarget,
    /// Hash.
    pub hash: HashContext,
    /// Large receive offload.
    pub lro: LroContext,
}

impl TirContext {
    /// Reads a `tirc`.
    pub fn decode(fields: Fields<'_>) -> Result<Self, Refusal> {
        let target = match fields.bits(0x04, 31, 28) {
            0 => TirTarget::Direct(fields.bits(0x1c, 23, 0)),
            1 => TirTarget::Indirect(fields.bits(0x20, 23, 0)),
            _ => return Err(Refusal::param("TIR: direct or indirect only")),
        };
        Ok(Self {
            target,
            hash: HashContext::decode(fields)?,
            lro: LroContext::decode(fields)?,
        })
    }
}

/// Memory key context (`mkc`).
#[derive(Clone, Debug)]
pub struct MkeyContext {
    /// Protection domain.
    pub pd: u32,
    /// Low byte of the key, chosen by the driver.
    pub variant: u8,
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
    /// The key may be changed by UMR.
    pub umr: bool,
    /// The addresses under the key; nothing: the whole bus address space.
    pub pages: Option<MkeyPages>,
}

/// Addresses that are translated by page.
#[derive(Clone, Debug)]
pub struct MkeyPages {
    /// The key is not in use yet.
    pub free: bool,
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Bytes in a page, as a power of two.
    pub log_page: u32,
    /// Translations.
    pub table: Vec<u64>,
}

impl MkeyContext {
    /// Reads an `mkc`, and the translations that follow it at `table`.
    pub fn decode(fields: Fields<'_>, table: Fields<'_>) -> Result<Self, Refusal> {
        const PHYSICAL: u32 = 0;
        const MTT: u32 = 1;
        let pages = match fields.bits(0, 28, 26) << 2 | fields.bits(0, 9, 8) {
            PHYSICAL if fields.bit(0, 30) || !fields.bit(0x0c, 31) => {
                return Err(Refusal::param(
                    "memory key of physical addresses: only all of them (length64), ready at once",
                ));
            }
            PHYSICAL => None,
            MTT => Some(MkeyPages::decode(fields, table)?),
            _ => {
                return Err(Refusal::param(
                    "memory key: only physical addresses or translated by page",
                ));
            }
        };
        Ok(Self {
            pd: fields.bits(0x0c, 23, 0),
            variant: fields.bits(0x04, 7, 0) as u8,
            read: fields.bit(0, 10),
            write: fields.bit(0, 11),
            umr: fields.bit(0, 15),
            pages,
        })
    }
}

impl MkeyPages {
    fn decode(fields: Fields<'_>, table: Fields<'_>) -> Result<Self, Refusal> {
        // Two translations an octoword; a page is at most the whole address space.
        let entries = 2 * fields.u32(0x34) as usize;
        let log_page = fields.bits(0x38, 5, 0);
        if !(MIN_LOG_KEY_PAGE..=31).contains(&log_page) {
            return Err(Refusal::param("memory key: page size out of range"));
        }
        if table.len() / 8 < entries {
            return Err(Refusal::new(
                Status::BadInputLength,
                "memory key: fewer translations than it has",
            ));
        }
        Ok(Self {
            free: fields.bit(0, 30),
            start: fields.u64(0x10),
            length: fields.u64(0x18),
            log_page,
            table: (0..entries).map(|i| table.u64(8 * i)).collect(),
        })
    }
}

/// The list of page addresses at `at`, long enough for `bytes` bytes.
pub fn page_list(input: Fields<'_>, at: usize, bytes: usize) -> Result<Box<[u64]>, Refusal> {
    let pages = bytes.div_ceil(PAGE);
    if input.len() < at.saturating_add(pages.saturating_mul(8)) {
        return Err(Refusal::new(
            Status::BadInputLength,
            "page list shorter than its queue",
        ));
    }
    let list: Box<[u64]> = (0..pages).map(|i| input.u64(at + 8 * i)).collect();
    if list.iter().any(|page| page % PAGE as u64 != 0) {
        return Err(Refusal::param(
            "page list: an address is not on a page boundary",
        ));
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::FieldsMut;

    #[test]
    fn a_receive_queue_context() {
        let mut bytes = [0u8; 0xf0];
        let mut fields = FieldsMut(&mut bytes);
        fields.set_bits(0x00, 28, 28, 1);
        fields.set_bits(0x00, 29, 29, 1);
        fields.set_bits(0x08, 23, 0, 0x17);
        fields.set_bits(0x0c, 31, 24, 2);
        fields.set_bits(0x30, 31, 28, 1);
        fields.set_u64(0x40, 0x1000_0040);
        fields.set_bits(0x50, 19, 16, 6);
        fields.set_bits(0x50, 4, 0, 10);
        let rq = RqContext::decode(Fields(&bytes)).unwrap();
        assert!(rq.keep_vlan && rq.keep_fcs);
        assert_eq!(
            (rq.cqn, rq.counters, rq.state),
            (0x17, 2, QueueState::Reset)
        );
        assert_eq!(
            (rq.wq.log_size, rq.wq.log_stride, rq.wq.doorbell),
            (10, 6, 0x1000_0040)
        );
        FieldsMut(&mut bytes).set_bits(0x30, 31, 28, 2);
        assert!(RqContext::decode(Fields(&bytes)).is_err(), "entries of 64");
        FieldsMut(&mut bytes).set_bits(0x50, 19, 16, 5);
        let rq = RqContext::decode(Fields(&bytes)).unwrap();
        assert!(rq.striding.is_some());
        FieldsMut(&mut bytes).set_bits(0x30, 31, 28, 3);
        assert!(
            RqContext::decode(Fields(&bytes)).is_err(),
            "cyclic striding"
        );
    }

    /// As the driver makes the key of a striding queue with pages of 32 KiB.
    #[test]
    fn a_key_that_is_translated_by_page() {
        let mut bytes = [0u8; 0x40];
        let mut fields = FieldsMut(&mut bytes);
        fields.set_u32(0x00, 1 << 30 | 1 << 15 | 3 << 10 | 1 << 8);
        fields.set_u32(0x0c, 5);
        fields.set_u64(0x18, 4 << 15);
        fields.set_u32(0x34, 2);
        fields.set_u32(0x38, 15);
        let table: Vec<u8> = (1..=4u64).flat_map(|i| (i << 15).to_be_bytes()).collect();
        let key = MkeyContext::decode(Fields(&bytes), Fields(&table)).unwrap();
        assert!(key.read && key.write && key.umr);
        let pages = key.pages.unwrap();
        assert!(pages.free);
        assert_eq!((pages.length, pages.log_page), (0x2_0000, 15));
        assert_eq!(pages.table, [0x8000, 0x1_0000, 0x1_8000, 0x2_0000]);
        let short = MkeyContext::decode(Fields(&bytes), Fields(&table[..24]));
        assert_eq!(short.unwrap_err().status, Status::BadInputLength);
        for (log_page, valid) in [(10, false), (11, true), (31, true), (32, false)] {
            FieldsMut(&mut bytes).set_u32(0x38, log_page);
            let key = MkeyContext::decode(Fields(&bytes), Fields(&table));
            assert_eq!(key.is_ok(), valid, "{log_page}");
        }
        FieldsMut(&mut bytes).set_bits(0x00, 9, 8, 3);
        assert!(
            MkeyContext::decode(Fields(&bytes), Fields(&table)).is_err(),
            "KSM"
        );
    }

    /// As the driver asks for it.
    #[test]
    fn large_receive_offload() {
        let mut bytes = [0u8; 0xf0];
        FieldsMut(&mut bytes).set_u32(0x10, 32 << 12 | 3 << 8 | 0xff);
        let lro = LroContext::decode(Fields(&bytes)).unwrap();
        assert!(lro.ipv4 && lro.ipv6);
        assert_eq!(lro.max_ip_payload, 65280);
        assert_eq!(lro.timeout, Duration::from_micros(32));
        FieldsMut(&mut bytes).set_bits(0x10, 11, 8, 4);
        assert!(LroContext::decode(Fields(&bytes)).is_err());
    }

    #[test]
    fn a_page_list_must_be_complete_and_aligned() {
        let mut bytes = vec![0u8; 0x110 + 16];
        FieldsMut(&mut bytes).set_u64(0x118, 0x5000);
        assert_eq!(
            *page_list(Fields(&bytes), 0x110, 4097).unwrap(),
            [0, 0x5000]
        );
        assert_eq!(page_list(Fields(&bytes), 0x110, 64).unwrap().len(), 1);
        assert_eq!(
            page_list(Fields(&bytes), 0x110, 8193).unwrap_err().status,
            Status::BadInputLength
        );
        FieldsMut(&mut bytes).set_u64(0x118, 0x5008);
        assert!(page_list(Fields(&bytes), 0x110, 8192).is_err());
    }

    #[test]
    fn queue_states_change_as_on_hardware() {
        use QueueState::*;
        assert!(Reset.check_change(Ready).is_ok());
        assert!(Error.check_change(Reset).is_ok());
        assert!(Ready.check_change(Ready).is_ok());
        assert!(Error.check_change(Ready).is_err());
    }
}
