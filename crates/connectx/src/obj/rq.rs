// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive queues: cyclic, an entry is a list of places that one packet is scattered over.

use parking_lot::Mutex;
use tracing::error;

use super::port::Port;
use super::ring::Ring;
use crate::bits::ctx::QueueState;
use crate::bits::event::{Cqe, Syndrome};
use crate::bits::wqe::{Data, SEGMENT, TERMINATOR_KEY};
use crate::mem::{Access, Fault, Slice};

/// The most bytes an entry can have.
const MAX_STRIDE: usize = 512;

/// A receive queue.
#[derive(Debug)]
pub struct Rq {
    /// Its number.
    pub number: u32,
    /// Its completion queue.
    pub cqn: u32,
    /// Protection domain of the memory that its entries name.
    pub pd: u32,
    /// Counter set; zero for none.
    pub counters: u32,
    /// VLAN tags stay in the packet.
    pub keep_vlan: bool,
    /// Bus address of the producer counter. There is no other doorbell.
    pub record: u64,
    /// Its entries.
    pub ring: Ring,
    /// How far it is.
    pub state: Mutex<RqState>,
}

/// The changing part of a receive queue.
#[derive(Debug)]
pub struct RqState {
    /// State as the driver sees it.
    pub state: QueueState,
    /// The entry that is next.
    pub consumer: u16,
    /// Entries posted, as far as was looked.
    pub producer: u16,
    /// It has had no buffers for so long that nobody waits for it any more. A queue that never
    /// had one starts this way.
    pub starved: bool,
}

impl RqState {
    /// An empty queue in `state`.
    pub fn new(state: QueueState) -> Self {
        Self {
            state,
            consumer: 0,
            producer: 0,
            starved: true,
        }
    }

    /// Moves the queue to `state`. A queue that is reset, or leaves reset, is empty.
    pub fn change(&mut self, state: QueueState) {
        if state == QueueState::Reset || self.state == QueueState::Reset {
            *self = Self::new(state);
        }
        self.state = state;
    }
}

/// Whether a receive queue can take a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// It has an entry.
    Entry,
    /// It will have one soon.
    Wait,
    /// It has none, and the packet is to be dropped.
    Drop,
}

/// What became of an entry whose places were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scatter {
    /// The places hold the packet.
    Fits,
    /// They are too small for it.
    TooSmall,
    /// The entry is broken; the queue has stopped.
    Broken,
}

impl Rq {
    /// Whether the queue can take a packet now.
    pub fn room(&self, port: &Port, state: &mut RqState) -> Room {
        if state.state != QueueState::Ready {
            return Room::Drop;
        }
        if state.consumer == state.producer {
            match port.bus.memory.load(self.record) {
                Ok(record) => state.producer = record as u16,
                Err(fault) => {
                    error!(rqn = self.number, %fault, "doorbell record cannot be read");
                    return Room::Drop;
                }
            }
            let posted = state.producer.wrapping_sub(state.consumer);
            if u32::from(posted) > self.ring.size() {
                error!(
                    rqn = self.number,
                    posted, "more entries posted than the ring has"
                );
                self.fail(port, state, Syndrome::LocalOperation);
                return Room::Drop;
            }
        }
        if state.consumer != state.producer {
            state.starved = false;
            Room::Entry
        } else if state.starved {
            Room::Drop
        } else {
            Room::Wait
        }
    }

    /// Appends the places for a packet of `length` bytes, from the next entry. Does not consume it.
    pub fn scatter<'p>(
        &self,
        port: &'p Port,
        state: &mut RqState,
        length: usize,
        places: &mut Vec<Slice<'p>>,
    ) -> Scatter {
        match self.try_scatter(port, state, length, places) {
            Ok(true) => Scatter::Fits,
            Ok(false) => Scatter::TooSmall,
            Err(reason) => {
                error!(
                    rqn = self.number,
                    entry = state.consumer,
                    reason,
                    "receive entry broken"
                );
                self.fail(port, state, Syndrome::LocalProtection);
                Scatter::Broken
            }
        }
    }

    fn try_scatter<'p>(
        &self,
        port: &'p Port,
        state: &RqState,
        mut length: usize,
        places: &mut Vec<Slice<'p>>,
    ) -> Result<bool, String> {
        let reason = |fault: Fault| fault.to_string();
        let mut entry = [0; MAX_STRIDE];
        let entry = &mut entry[..self.ring.stride().min(MAX_STRIDE)];
        let address = self.ring.address(u32::from(state.consumer));
        port.bus.memory.read(address, entry).map_err(reason)?;
        for segment in entry.chunks_exact(SEGMENT) {
            let data = Data::decode(segment);
            if data.length == 0 || data.key == TERMINATOR_KEY || length == 0 {
                break;
            }
            if !port.hca.allows(data.key, self.pd, Access::Write) {
                return Err(format!("memory key {:#x} does not allow writing", data.key));
            }
            let here = length.min(data.length as usize);
            let memory = &port.bus.memory;
            memory
                .slices(data.address, here, Access::Write, places)
                .map_err(reason)?;
            length -= here;
        }
        Ok(length == 0)
    }

    /// Stops the queue with an error completion for the next entry.
    pub fn fail(&self, port: &Port, state: &mut RqState, syndrome: Syndrome) {
        state.state = QueueState::Error;
        if let Some(cq) = port.hca.cqs.get(self.cqn)
            && cq.push(
                port,
                Cqe::receive_error(self.number, state.consumer, syndrome),
            )
        {
            cq.notify(port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;
    use crate::obj::mkey::Mkey;
    use crate::obj::port::tests::port;

    const RECORD: u64 = 0x3000;

    /// A ready queue of four entries of four segments at 0x1000.
    fn setup() -> (Port, Rq, u32) {
        let mut port = port(0x10000);
        let mkey = Mkey {
            pd: 5,
            variant: 0,
            read: true,
            write: true,
        };
        let key = port.hca.mkeys.insert(mkey).unwrap() << 8;
        let list = 0x1000u64.to_be_bytes();
        let rq = Rq {
            number: 1,
            cqn: 0,
            pd: 5,
            counters: 0,
            keep_vlan: false,
            record: RECORD,
            ring: Ring::new(Fields(&list), 0, 2, 6).unwrap(),
            state: Mutex::new(RqState::new(QueueState::Ready)),
        };
        (port, rq, key)
    }

    fn post(port: &Port, entry: u64, segments: &[(u32, u32, u64)]) {
        for (i, &(length, key, address)) in segments.iter().enumerate() {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&length.to_be_bytes());
            bytes[4..8].copy_from_slice(&key.to_be_bytes());
            bytes[8..].copy_from_slice(&address.to_be_bytes());
            port.bus
                .memory
                .write(0x1000 + entry * 64 + i as u64 * 16, &bytes)
                .unwrap();
        }
    }

    fn lengths(places: &[Slice<'_>]) -> Vec<usize> {
        places.iter().map(|place| place.len()).collect()
    }

    #[test]
    fn a_queue_waits_only_after_it_has_had_buffers() {
        let (port, rq, _) = setup();
        let mut state = rq.state.lock();
        assert_eq!(rq.room(&port, &mut state), Room::Drop);
        port.bus.memory.write(RECORD, &1u32.to_be_bytes()).unwrap();
        assert_eq!(rq.room(&port, &mut state), Room::Entry);
        state.consumer = 1;
        assert_eq!(rq.room(&port, &mut state), Room::Wait);
        state.starved = true;
        assert_eq!(rq.room(&port, &mut state), Room::Drop);
        port.bus.memory.write(RECORD, &2u32.to_be_bytes()).unwrap();
        assert_eq!(rq.room(&port, &mut state), Room::Entry);
        assert!(!state.starved);
    }

    #[test]
    fn a_record_beyond_the_ring_stops_the_queue() {
        let (port, rq, _) = setup();
        let mut state = rq.state.lock();
        port.bus.memory.write(RECORD, &5u32.to_be_bytes()).unwrap();
        assert_eq!(rq.room(&port, &mut state), Room::Drop);
        assert_eq!(state.state, QueueState::Error);
    }

    #[test]
    fn segments_are_filled_in_order() {
        let (port, rq, key) = setup();
        let mut state = rq.state.lock();
        let (header, data) = (0x8000_0000 | 114, 4096);
        post(
            &port,
            0,
            &[
                (header, key, 0x4000),
                (data, key, 0x5000),
                (data, key, 0x8000),
                (0, 0x100, 0),
            ],
        );
        let mut places = Vec::new();
        assert_eq!(
            rq.scatter(&port, &mut state, 100, &mut places),
            Scatter::Fits
        );
        assert_eq!(lengths(&places), [100]);
        places.clear();
        assert_eq!(
            rq.scatter(&port, &mut state, 114 + 4096 + 1, &mut places),
            Scatter::Fits
        );
        assert_eq!(lengths(&places), [114, 4096, 1]);
        places.clear();
        let over = 114 + 2 * 4096 + 1;
        assert_eq!(
            rq.scatter(&port, &mut state, over, &mut places),
            Scatter::TooSmall
        );
    }

    #[test]
    fn a_foreign_key_or_a_hole_stops_the_queue() {
        let (port, rq, key) = setup();
        for (key, address) in [(key + 1, 0x4000), (0x4200, 0x4000), (key, 0x10_0000)] {
            let mut state = RqState::new(QueueState::Ready);
            post(&port, 0, &[(2048, key, address)]);
            let mut places = Vec::new();
            assert_eq!(
                rq.scatter(&port, &mut state, 64, &mut places),
                Scatter::Broken
            );
            assert_eq!(state.state, QueueState::Error);
        }
    }
}
