// SPDX-License-Identifier: MIT OR Apache-2.0
//! Doorbells: writes to a UAR page.

use std::sync::atomic::Ordering;

use tracing::debug;

use super::link::Cable;
use crate::bits::Fields;
use crate::bits::iseg::{
    LOG_BF_REG_SIZE, UAR_CQ_ARM, UAR_EQ_ARM, UAR_EQ_UPDATE, UAR_SEND, UAR_SIZE,
};
use crate::obj::eq::COUNTER;

/// A doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// Tell when completion queue `cqn` goes beyond `consumer`.
    ArmCq {
        /// Queue.
        cqn: u32,
        /// Completions that the driver has seen.
        consumer: u32,
    },
    /// Events of queue `eqn` up to `consumer` have been seen.
    Eq {
        /// Queue.
        eqn: u32,
        /// Events that the driver has seen.
        consumer: u32,
        /// Tell when there are more.
        arm: bool,
    },
    /// Send queue `sqn` has new entries.
    Send {
        /// Queue.
        sqn: u32,
    },
}

impl Doorbell {
    /// Reads a write of `data` at `offset` of the UAR space. Anything but a doorbell is nothing.
    pub fn decode(offset: u64, data: &[u8]) -> Option<Self> {
        let fields = Fields(data);
        match (offset % UAR_SIZE, data.len()) {
            (UAR_CQ_ARM, 8) => Some(Self::ArmCq {
                cqn: fields.bits(4, 23, 0),
                consumer: fields.bits(0, 23, 0),
            }),
            (at @ (UAR_EQ_ARM | UAR_EQ_UPDATE), 4) => Some(Self::Eq {
                eqn: fields.bits(0, 31, 24),
                consumer: fields.u32(0) & COUNTER,
                arm: at == UAR_EQ_ARM,
            }),
            (at @ UAR_SEND.., 8..) if at % (1 << LOG_BF_REG_SIZE) == 0 => Some(Self::Send {
                sqn: fields.bits(4, 31, 8),
            }),
            _ => None,
        }
    }

    /// Acts on a doorbell of port `me`. One for a queue that does not exist is ignored.
    pub fn act(self, cable: &Cable, me: usize) {
        let port = &cable.ports.read()[me];
        match self {
            Self::ArmCq { cqn, consumer } => {
                if let Some(cq) = port.hca.cqs.get(cqn) {
                    cq.arm(port, consumer);
                }
            }
            Self::Eq { eqn, consumer, arm } => {
                if let Some(eq) = port.hca.eqs.get(eqn) {
                    eq.consumed(&port.bus, consumer, arm);
                }
            }
            Self::Send { sqn } => match port.hca.sqs.get(sqn) {
                Some(sq) => {
                    if !sq.scheduled.swap(true, Ordering::SeqCst) {
                        cable.bells[me].ring(sqn);
                    }
                }
                None => debug!(sqn, "doorbell of no queue"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doorbells_are_told_by_their_place_in_the_page() {
        let arm = [0x10, 0, 0x12, 0x34, 0, 0, 0, 7];
        assert_eq!(
            Doorbell::decode(0x11_020, &arm),
            Some(Doorbell::ArmCq {
                cqn: 7,
                consumer: 0x1234
            })
        );
        let eq = [5, 0, 0x12, 0x34];
        assert_eq!(
            Doorbell::decode(0x10_040, &eq),
            Some(Doorbell::Eq {
                eqn: 5,
                consumer: 0x1234,
                arm: true
            })
        );
        let send = [0, 0, 1, 0x0a, 0, 0, 0x42, 4];
        assert_eq!(
            Doorbell::decode(0x10_800, &send),
            Some(Doorbell::Send { sqn: 0x42 })
        );
        assert_eq!(
            Doorbell::decode(0x10_a00, &send),
            Some(Doorbell::Send { sqn: 0x42 })
        );
    }

    #[test]
    fn other_writes_are_nothing() {
        for (offset, length) in [
            (0x10_000, 8),
            (0x10_020, 4),
            (0x10_040, 8),
            (0x10_804, 8),
            (0x10_800, 4),
        ] {
            assert_eq!(
                Doorbell::decode(offset, &vec![0; length]),
                None,
                "{offset:#x}"
            );
        }
    }
}
