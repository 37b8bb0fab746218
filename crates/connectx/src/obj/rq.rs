// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive queues. In a cyclic one an entry is a list of places that one packet is scattered over; for
//! the other kind see [`super::striding`].

use parking_lot::Mutex;
use tracing::error;

use super::cq::{Completions, Cq};
use super::lro::Sessions;
use super::mkey::{KeyFault, Mkey};
use super::port::Port;
use super::ring::Ring;
use super::striding::{Fill, Landing, NoLanding, Shape, Striding};
use crate::bits::ctx::QueueState;
use crate::bits::event::{Cqe, RxInfo, Syndrome};
use crate::bits::striding::Strides;
use crate::bits::wqe::{Data, SEGMENT, TERMINATOR_KEY};
use crate::mem::{Access, Slice};

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
    /// The FCS is stored behind the packet, and belongs to it.
    pub keep_fcs: bool,
    /// Bus address of the producer counter. There is no other doorbell.
    pub record: u64,
    /// Its entries.
    pub ring: Ring,
    /// What they are, if the queue is a striding one.
    pub striding: Option<Striding>,
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
    /// The entry in use, of a striding queue.
    pub fill: Fill,
    /// Packets that are not whole yet (LRO).
    pub sessions: Sessions,
}

impl RqState {
    /// An empty queue in `state`.
    pub fn new(state: QueueState) -> Self {
        Self {
            state,
            consumer: 0,
            producer: 0,
            starved: true,
            fill: Fill::default(),
            sessions: Sessions::default(),
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
enum Room {
    /// It has an entry.
    Entry,
    /// It will have one soon.
    Wait,
    /// It has none, and the packet is to be dropped.
    Drop,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Over a whole entry.
    Entry,
    /// Into some strides of one.
    Strides(Landing),
}

/// Why there is no place for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// There will be one soon.
    Wait,
    /// The queue has no entry, and the packet is to be dropped.
    Starved,
    /// An entry is too small or broken, and the packet is to be dropped.
    Discard,
}

impl Rq {
    /// Finds the place for a packet, and its pieces. The packet counts as received only after [`Self::received`].
    #[inline(always)]
    pub fn place<'p>(
        &self,
        port: &'p Port,
        cq: &'p Cq,
        state: &mut RqState,
        shape: &Shape,
        places: &mut Vec<Slice<'p>>,
        completions: &mut Completions<'p>,
    ) -> Result<Place, NoPlace> {
        loop {
            places.clear();
            match self.room(port, cq, state, completions) {
                Room::Entry => {}
                Room::Wait => return Err(NoPlace::Wait),
                Room::Drop => return Err(NoPlace::Starved),
            }
            let Some(striding) = &self.striding else {
                let reason = match self.scatter(port, state, shape.length, places) {
                    Ok(true) => return Ok(Place::Entry),
                    Ok(false) => return Err(NoPlace::Discard),
                    Err(reason) => reason,
                };
                let entry = state.consumer;
                error!(rqn = self.number, entry, reason, "receive entry broken");
                self.fail(port, cq, state, Syndrome::LocalProtection, completions);
                return Err(NoPlace::Discard);
            };
            let failure = match striding.lay(port, self.pd, &state.fill, shape, places) {
                Ok(landing) => return Ok(Place::Strides(landing)),
                Err(NoLanding::TooSmall) => return Err(NoPlace::Discard),
                Err(NoLanding::Full) => {
                    if let Some(rest) = striding.close(&mut state.fill) {
                        completions.push(port, cq, rest.filler());
                    }
                    state.consumer = state.consumer.wrapping_add(1);
                    continue;
                }
                Err(NoLanding::Closed) => match striding.open(port, &self.ring, &mut state.fill) {
                    Ok(()) => continue,
                    Err(failure) => failure,
                },
                Err(NoLanding::Broken(reason)) => (Syndrome::LocalProtection, reason),
            };
            let (syndrome, reason) = failure;
            error!(rqn = self.number, reason, "receive entry broken");
            self.fail(port, cq, state, syndrome, completions);
            return Err(NoPlace::Discard);
        }
    }

    /// A packet has been stored in `place`.
    #[inline(always)]
    pub fn received<'p>(
        &self,
        port: &'p Port,
        cq: &'p Cq,
        state: &mut RqState,
        place: &Place,
        info: &RxInfo,
        completions: &mut Completions<'p>,
    ) {
        let counter = state.consumer;
        let completion = completions.push(port, cq, Cqe::received(counter, info));
        let used_up = match (place, &self.striding) {
            (Place::Strides(landing), Some(striding)) => {
                let intact = info.l3_ok && info.l4_ok;
                let (strides, used_up) = striding.commit(&mut state.fill, landing, intact);
                strides.encode(completion);
                used_up
            }
            _ => true,
        };
        state.consumer = counter.wrapping_add(u16::from(used_up));
    }

    /// Whether the queue can take a packet now.
    #[inline(always)]
    fn room<'p>(
        &self,
        port: &'p Port,
        cq: &'p Cq,
        state: &mut RqState,
        completions: &mut Completions<'p>,
    ) -> Room {
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
                self.fail(port, cq, state, Syndrome::LocalOperation, completions);
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

    /// Appends the places for a packet of `length` bytes, from the next entry; returns whether they are large enough for
    /// it, or what is wrong with the entry. Does not consume it.
    #[inline(always)]
    fn scatter<'p>(
        &self,
        port: &'p Port,
        state: &RqState,
        mut length: usize,
        places: &mut Vec<Slice<'p>>,
    ) -> Result<bool, String> {
        let memory = &port.bus.memory;
        let entry = self
            .ring
            .entry(memory, u32::from(state.consumer))
            .map_err(|fault| fault.to_string())?;
        let access = Access::Write;
        let find = |key| port.mkey(key, self.pd, access);
        let text = |fault: KeyFault| fault.to_string();
        // Most often all segments have the same key.
        let mut last: Option<(u32, &Mkey)> = None;
        let mut at = 0;
        while let Some(segment) = entry.array::<SEGMENT>(at) {
            at += SEGMENT;
            let data = Data::decode(&segment);
            if data.length == 0 || data.key == TERMINATOR_KEY {
                break;
            }
            let mkey = match last {
                Some((key, mkey)) if key == data.key => mkey,
                _ => find(data.key).map_err(text)?,
            };
            last = Some((data.key, mkey));
            let here = length.min(data.length as usize);
            mkey.slices(memory, data.address, here, access, places)
                .map_err(text)?;
            length -= here;
            if length == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Stops the queue with an error completion for the next entry.
    pub fn fail<'p>(
        &self,
        port: &'p Port,
        cq: &'p Cq,
        state: &mut RqState,
        syndrome: Syndrome,
        completions: &mut Completions<'p>,
    ) {
        state.state = QueueState::Error;
        let mut completion = Cqe::receive_error(self.number, state.consumer, syndrome);
        if self.striding.is_some() {
            let strides = Strides {
                entry: Striding::current(&state.fill),
                ..Strides::default()
            };
            strides.encode(&mut completion);
        }
        completions.push(port, cq, completion);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;
    use crate::obj::mkey::Space;
    use crate::obj::port::tests::port;

    const RECORD: u64 = 0x3000;

    /// A ready queue of four entries of four segments at 0x1000, and a key for all memory.
    fn setup() -> (Port, Rq, u32) {
        let mut port = port(0x10000);
        let mkey = Mkey {
            pd: 5,
            variant: 0,
            read: true,
            write: true,
            umr: false,
            space: Space::Bus,
        };
        let key = port.hca.mkeys.insert(mkey).unwrap() << 8;
        let list = 0x1000u64.to_be_bytes();
        let rq = Rq {
            number: 1,
            cqn: 0,
            pd: 5,
            counters: 0,
            keep_vlan: false,
            keep_fcs: false,
            record: RECORD,
            ring: Ring::new(Fields(&list), 0, 2, 6).unwrap(),
            striding: None,
            state: Mutex::new(RqState::new(QueueState::Ready)),
        };
        (port, rq, key)
    }

    fn cq() -> Cq {
        let list = 0x2000u64.to_be_bytes();
        Cq::new(7, 0, 0x3040, Ring::new(Fields(&list), 0, 2, 6).unwrap())
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
        let cq = cq();
        let mut completions = Completions::default();
        let mut room = |state: &mut RqState| rq.room(&port, &cq, state, &mut completions);
        let mut state = rq.state.lock();
        assert_eq!(room(&mut state), Room::Drop);
        port.bus.memory.write(RECORD, &1u32.to_be_bytes()).unwrap();
        assert_eq!(room(&mut state), Room::Entry);
        state.consumer = 1;
        assert_eq!(room(&mut state), Room::Wait);
        state.starved = true;
        assert_eq!(room(&mut state), Room::Drop);
        port.bus.memory.write(RECORD, &2u32.to_be_bytes()).unwrap();
        assert_eq!(room(&mut state), Room::Entry);
        assert!(!state.starved);
    }

    #[test]
    fn a_record_beyond_the_ring_stops_the_queue() {
        let (port, rq, _) = setup();
        let cq = cq();
        let mut completions = Completions::default();
        let mut state = rq.state.lock();
        port.bus.memory.write(RECORD, &5u32.to_be_bytes()).unwrap();
        let room = rq.room(&port, &cq, &mut state, &mut completions);
        assert_eq!(room, Room::Drop);
        assert_eq!(state.state, QueueState::Error);
    }

    #[test]
    fn segments_are_filled_in_order() {
        let (port, rq, key) = setup();
        let state = rq.state.lock();
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
        assert_eq!(rq.scatter(&port, &state, 100, &mut places), Ok(true));
        assert_eq!(lengths(&places), [100]);
        places.clear();
        assert_eq!(
            rq.scatter(&port, &state, 114 + 4096 + 1, &mut places),
            Ok(true)
        );
        assert_eq!(lengths(&places), [114, 4096, 1]);
        places.clear();
        let over = 114 + 2 * 4096 + 1;
        assert_eq!(rq.scatter(&port, &state, over, &mut places), Ok(false));
    }

    #[test]
    fn a_foreign_key_or_a_hole_stops_the_queue() {
        let (port, rq, key) = setup();
        let cq = cq();
        port.bus.memory.write(RECORD, &1u32.to_be_bytes()).unwrap();
        for (key, address) in [(key + 1, 0x4000), (0x4200, 0x4000), (key, 0x10_0000)] {
            let mut state = RqState::new(QueueState::Ready);
            post(&port, 0, &[(2048, key, address)]);
            let shape = Shape {
                length: 64,
                ..Shape::default()
            };
            let (mut places, mut completions) = (Vec::new(), Completions::default());
            let place = rq.place(
                &port,
                &cq,
                &mut state,
                &shape,
                &mut places,
                &mut completions,
            );
            assert_eq!(place.unwrap_err(), NoPlace::Discard);
            assert_eq!(state.state, QueueState::Error);
        }
    }
}
