// SPDX-License-Identifier: MIT OR Apache-2.0
//! Entries of event queues and completion queues (`struct mlx5_eqe`, `struct mlx5_cqe64`).

use super::FieldsMut;

/// Bytes in an event or completion queue entry.
pub const ENTRY: usize = 64;

/// Event types (`enum mlx5_event`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EventType {
    /// A completion queue has new entries.
    Completion = 0x00,
    /// A completion queue has overrun.
    CqError = 0x04,
    /// The link went up or down.
    PortChange = 0x09,
    /// Commands have finished.
    Command = 0x0a,
    /// A plug has come or gone.
    PortModule = 0x16,
}

/// Sub-types of [`EventType::PortChange`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PortChange {
    /// The link is down.
    Down = 1,
    /// The link is up.
    Active = 4,
}

/// An event, without its owner bit.
#[derive(Clone, Copy, Debug)]
pub struct Eqe(pub [u8; ENTRY]);

impl Eqe {
    fn new(kind: EventType) -> Self {
        let mut bytes = [0; ENTRY];
        bytes[0x01] = kind as u8;
        Self(bytes)
    }

    /// Completion queue `cqn` has something to poll.
    pub fn completion(cqn: u32) -> Self {
        let mut eqe = Self::new(EventType::Completion);
        FieldsMut(&mut eqe.0).set_u32(0x38, cqn);
        eqe
    }

    /// Completion queue `cqn` has overrun and is dead.
    pub fn cq_error(cqn: u32) -> Self {
        const SYNDROME_OVERRUN: u8 = 1;
        let mut eqe = Self::new(EventType::CqError);
        FieldsMut(&mut eqe.0).set_u32(0x20, cqn);
        eqe.0[0x2b] = SYNDROME_OVERRUN;
        eqe
    }

    /// The link of port 1, the only one a function has, changed.
    pub fn port_change(change: PortChange) -> Self {
        let mut eqe = Self::new(EventType::PortChange);
        eqe.0[0x03] = change as u8;
        eqe.0[0x28] = 1 << 4;
        eqe
    }

    /// The plug of port 1 is in, or no longer.
    pub fn port_module(plugged: bool) -> Self {
        const PLUGGED: u8 = 1;
        const UNPLUGGED: u8 = 2;
        let mut eqe = Self::new(EventType::PortModule);
        eqe.0[0x23] = if plugged { PLUGGED } else { UNPLUGGED };
        eqe
    }

    /// The commands in the slots of `slots` have finished.
    pub fn command(slots: u32) -> Self {
        let mut eqe = Self::new(EventType::Command);
        FieldsMut(&mut eqe.0).set_u32(0x20, slots);
        eqe
    }
}

/// Opcodes of completion queue entries (`MLX5_CQE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum CqeOpcode {
    Request = 0x0,
    Receive = 0x2,
    RequestError = 0xd,
    ReceiveError = 0xe,
}

/// Why a queue entry failed (`MLX5_CQE_SYNDROME_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Syndrome {
    /// A length is impossible.
    LocalLength = 0x01,
    /// The entry is malformed or its operation is not supported.
    LocalOperation = 0x02,
    /// Memory that the entry names may not be used or is not there.
    LocalProtection = 0x04,
    /// The queue was in error state before this entry was looked at.
    Flush = 0x05,
}

/// What a receiver learns about segments that were merged into one packet (LRO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// How many they are.
    pub segments: u8,
    /// The last one has PSH.
    pub push: bool,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// TCP window.
    pub window: u16,
    /// TCP acknowledgement number.
    pub acknowledgement: u32,
}

/// What a receiver learns about a packet besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RxInfo {
    /// Bytes stored.
    pub length: u32,
    /// RSS hash, if `hash_type` is not zero.
    pub hash: u32,
    /// What went into the hash: bits 3:2 1 IPv4, 2 IPv6; bits 7:6 1 TCP, 2 UDP.
    pub hash_type: u8,
    /// Folded one's-complement sum of everything behind the Ethernet header; of merged segments that of the payload.
    pub checksum: u16,
    /// The frame's addresses were looked at and are fine.
    pub l2_ok: bool,
    /// The IP header is intact.
    pub l3_ok: bool,
    /// The TCP or UDP checksum is right.
    pub l4_ok: bool,
    /// 0 none, 1 TCP, 2 UDP (`CQE_L4_HDR_TYPE_*`).
    pub l4_type: u8,
    /// Tag control information of a VLAN tag that was taken off.
    pub vlan: Option<u16>,
    /// Flow tag of the rule that chose the queue.
    pub flow_tag: u32,
    /// Segments that it was merged from.
    pub merged: Option<Merged>,
}

/// A completion, without its owner bit.
#[derive(Clone, Copy, Debug)]
pub struct Cqe(pub [u8; ENTRY]);

/// A field of a little-endian word: `value` at byte `at` of it.
fn field(at: u32, value: u64) -> u64 {
    value << (8 * at)
}

impl Cqe {
    fn new(opcode: CqeOpcode, qpn: u32, counter: u16) -> Self {
        let mut words = [0; ENTRY / 8];
        words[7] = Self::last(opcode, qpn, counter);
        Self::of_words(words)
    }

    /// The last word: queue or flow tag, counter, opcode.
    fn last(opcode: CqeOpcode, qpn: u32, counter: u16) -> u64 {
        field(0, (qpn & 0xff_ffff).to_be().into())
            | field(4, counter.to_be().into())
            | field(7, (opcode as u64) << 4)
    }

    /// The entry whose bytes are `words`, little-endian.
    #[inline]
    fn of_words(words: [u64; ENTRY / 8]) -> Self {
        let mut bytes = [0; ENTRY];
        for (to, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *to = word.to_le_bytes();
        }
        Self(bytes)
    }

    /// The entry with the card's time `time` and owner bit `owner`, as little-endian words. An error has no time: the syndrome
    /// stands there.
    #[inline]
    pub fn stamped(&self, time: u64, owner: u8) -> [u64; ENTRY / 8] {
        let bytes = self.0.as_chunks::<8>().0;
        let mut words = std::array::from_fn(|i| u64::from_le_bytes(bytes[i]));
        if !self.is_error() {
            words[6] = time.to_be();
        }
        words[7] |= field(7, owner.into());
        words
    }

    /// Everything up to the entry that starts at `counter` has been sent.
    pub fn sent(sqn: u32, counter: u16) -> Self {
        Self::new(CqeOpcode::Request, sqn, counter)
    }

    /// Receive entry `counter` holds a packet.
    #[inline]
    pub fn received(counter: u16, info: &RxInfo) -> Self {
        let ok = u8::from(info.l2_ok) | u8::from(info.l3_ok) << 1 | u8::from(info.l4_ok) << 2;
        let kind = u8::from(info.vlan.is_some()) | info.l4_type << 4;
        let mut words = [
            0,
            field(4, info.hash.to_be().into()),
            field(0, info.hash_type.into()) | field(4, info.checksum.to_be().into()),
            field(4, ok.into())
                | field(5, kind.into())
                | field(6, info.vlan.unwrap_or(0).to_be().into()),
            0,
            field(4, info.length.to_be().into()),
            0,
            Self::last(CqeOpcode::Receive, info.flow_tag, counter),
        ];
        if let Some(merged) = &info.merged {
            words[0] = field(4, u64::from(merged.push) << 6)
                | field(5, merged.ttl.into())
                | field(6, merged.window.to_be().into());
            words[1] |= field(0, merged.acknowledgement.to_be().into());
            words[4] = field(0, merged.segments.into());
        }
        Self::of_words(words)
    }

    fn is_error(&self) -> bool {
        const ERRORS: [CqeOpcode; 2] = [CqeOpcode::RequestError, CqeOpcode::ReceiveError];
        ERRORS.iter().any(|&error| self.0[0x3f] >> 4 == error as u8)
    }

    /// Send entry `counter`, whose operation was `opcode`, failed.
    pub fn send_error(sqn: u32, counter: u16, opcode: u8, syndrome: Syndrome) -> Self {
        let word = u32::from(opcode) << 24 | sqn & 0xff_ffff;
        Self::error(CqeOpcode::RequestError, word, counter, syndrome)
    }

    /// Receive entry `counter` of queue `rqn` failed.
    pub fn receive_error(rqn: u32, counter: u16, syndrome: Syndrome) -> Self {
        Self::error(CqeOpcode::ReceiveError, rqn & 0xff_ffff, counter, syndrome)
    }

    fn error(opcode: CqeOpcode, word: u32, counter: u16, syndrome: Syndrome) -> Self {
        let mut cqe = Self::new(opcode, 0, counter);
        FieldsMut(&mut cqe.0).set_u32(0x38, word);
        cqe.0[0x37] = syndrome as u8;
        cqe
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;

    #[test]
    fn events_lie_where_the_driver_reads_them() {
        assert_eq!(
            Eqe::completion(0x123456).0[0x38..0x3c],
            [0, 0x12, 0x34, 0x56]
        );
        assert_eq!(Eqe::command(0x8000_0001).0[0x20..0x24], [0x80, 0, 0, 1]);
        let port = Eqe::port_change(PortChange::Active);
        assert_eq!((port.0[1], port.0[3], port.0[0x28]), (0x09, 4, 0x10));
        let module = Eqe::port_module(false);
        assert_eq!((module.0[1], module.0[0x21], module.0[0x23]), (0x16, 0, 2));
    }

    #[test]
    fn a_receive_completion_keeps_segment_count_and_metadata_zero() {
        let cqe = Cqe::received(
            7,
            &RxInfo {
                length: 1514,
                hash: 0xdead_beef,
                hash_type: 0x44,
                checksum: 0x1234,
                l3_ok: true,
                l4_ok: true,
                l4_type: 1,
                vlan: Some(5),
                ..RxInfo::default()
            },
        );
        let fields = Fields(&cqe.0);
        assert_eq!(fields.u32(0x20), 0, "lro_num_seg and srqn");
        assert_eq!(fields.u32(0x2c), 1514);
        assert_eq!(fields.u16(0x14), 0x1234);
        assert_eq!(fields.u16(0x3c), 7);
        assert_eq!(cqe.0[0x1c], 0b110);
        assert_eq!(cqe.0[0x1d], 0x11);
        assert_eq!(cqe.0[0x3f], 0x20);
    }

    #[test]
    fn a_completion_of_merged_segments() {
        let merged = Merged {
            segments: 3,
            push: true,
            ttl: 64,
            window: 0x1234,
            acknowledgement: 0x5678_9abc,
        };
        let info = RxInfo {
            merged: Some(merged),
            ..RxInfo::default()
        };
        let cqe = Cqe::received(0, &info);
        let expected = [0x40, 64, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc];
        assert_eq!(cqe.0[0x04..0x0c], expected);
        assert_eq!(Fields(&cqe.0).u32(0x20), 3 << 24);
    }

    #[test]
    fn an_error_completion_names_operation_queue_and_reason() {
        let cqe = Cqe::send_error(0x42, 9, 0x0e, Syndrome::LocalProtection);
        assert_eq!(cqe.0[0x37..0x3e], [4, 0x0e, 0, 0, 0x42, 0, 9]);
        assert_eq!(cqe.0[0x3f], 0xd0);
        assert_eq!(Cqe::of_words(cqe.stamped(u64::MAX, 0)).0, cqe.0);
        let sent = Cqe::sent(0x42, 9).stamped(0x0102_0304_0506_0708, 1);
        let sent = Cqe::of_words(sent).0;
        assert_eq!(sent[0x30..0x38], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(sent[0x38..], [0, 0, 0, 0x42, 0, 9, 0, 1]);
    }
}
