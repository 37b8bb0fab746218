// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues.

use parking_lot::Mutex;
use tracing::error;

use super::eq::COUNTER;
use super::port::Port;
use super::ring::Ring;
use crate::bits::event::{Cqe, Eqe, EventType};

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    /// Its number.
    pub number: u32,
    eqn: u32,
    doorbell: u64,
    ring: Ring,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    producer: u32,
    /// As far as the device knows: the record in memory is read when the queue looks full.
    consumer: u32,
    armed: bool,
    /// Overrun: nothing is written any more.
    dead: bool,
}

impl Cq {
    /// An empty, unarmed queue.
    pub fn new(number: u32, eqn: u32, doorbell: u64, ring: Ring) -> Self {
        Self {
            number,
            eqn,
            doorbell,
            ring,
            state: Mutex::default(),
        }
    }

    /// Writes completions, and tells the driver about them if it waits for some.
    pub fn complete(&self, port: &Port, entries: &mut [Cqe]) {
        let mut state = self.state.lock();
        for entry in entries {
            if state.dead || self.full(port, &mut state) {
                return;
            }
            entry.0[0x3f] |= self.ring.owner(state.producer);
            let address = self.ring.address(state.producer);
            if let Err(fault) = port.bus.memory.publish(address, &entry.0) {
                error!(cqn = self.number, %fault, "completion queue cannot be written");
                self.kill(port, &mut state);
                return;
            }
            state.producer = state.producer.wrapping_add(1);
        }
        if state.armed {
            state.armed = false;
            self.event(port);
        }
    }

    /// The driver has consumed completions up to `consumer` and waits for more.
    ///
    /// That it may want only those that the sender marked makes no difference:
    /// Ethernet has no such marks, and an early event is allowed.
    pub fn arm(&self, port: &Port, consumer: u32) {
        let mut state = self.state.lock();
        state.consumer = consumer;
        if state.dead {
            return;
        }
        let backlog = state.producer.wrapping_sub(consumer) & COUNTER != 0;
        state.armed = !backlog;
        if backlog {
            self.event(port);
        }
    }

    fn event(&self, port: &Port) {
        match port.hca.eqs.get(self.eqn) {
            Some(eq) => eq.post(&port.bus, Eqe::completion(self.number)),
            None => error!(cqn = self.number, eqn = self.eqn, "event queue is gone"),
        }
    }

    /// Whether there is no room, after a look at how far the driver is. If so the queue dies, as on
    /// hardware: a completion is lost, and the driver must know.
    fn full(&self, port: &Port, state: &mut State) -> bool {
        let used = |state: &State| state.producer.wrapping_sub(state.consumer) & COUNTER;
        if used(state) < self.ring.size() {
            return false;
        }
        match port.bus.memory.load(self.doorbell) {
            Ok(consumer) => state.consumer = consumer & COUNTER,
            Err(fault) => error!(cqn = self.number, %fault, "doorbell record cannot be read"),
        }
        if used(state) < self.ring.size() {
            return false;
        }
        error!(cqn = self.number, "completion queue overrun");
        self.kill(port, state);
        true
    }

    fn kill(&self, port: &Port, state: &mut State) {
        state.dead = true;
        port.event(EventType::CqError, Eqe::cq_error(self.number));
    }
}

/// The completions of a batch of packets. They are written at its end, queue by queue.
#[derive(Default)]
pub struct Completions<'p> {
    queues: Vec<(&'p Port, &'p Cq, Vec<Cqe>)>,
}

impl<'p> Completions<'p> {
    /// Adds one for `cq` of `port`.
    pub fn push(&mut self, port: &'p Port, cq: &'p Cq, entry: Cqe) {
        let mut queues = self.queues.iter_mut();
        match queues.find(|(_, queue, _)| std::ptr::eq(*queue, cq)) {
            Some((_, _, entries)) => entries.push(entry),
            None => self.queues.push((port, cq, vec![entry])),
        }
    }

    /// Writes them.
    pub fn write(self) {
        for (port, cq, mut entries) in self.queues {
            cq.complete(port, &mut entries);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;
    use crate::obj::eq::Eq;
    use crate::obj::port::tests::port;

    const RECORD: u64 = 0x3000;

    /// A port with an event queue at 0x1000 and a completion queue of four entries at 0x2000.
    fn setup() -> (Port, Cq) {
        let mut port = port(0x4000);
        let list = 0x1000u64.to_be_bytes();
        let mask = 1 << EventType::CqError as u8;
        let ring = Ring::new(Fields(&list), 0, 3, 6).unwrap();
        let eqn = port
            .hca
            .eqs
            .insert_with(|n| Eq::new(n, mask, 0, ring))
            .unwrap();
        let list = 0x2000u64.to_be_bytes();
        let cq = Cq::new(7, eqn, RECORD, Ring::new(Fields(&list), 0, 2, 6).unwrap());
        (port, cq)
    }

    /// The type and the queue number of event `slot`.
    fn event(port: &Port, slot: u64) -> (u32, u32) {
        let at = 0x1000 + 64 * slot;
        (
            port.bus.memory.load(at).unwrap() >> 16,
            port.bus.memory.load(at + 0x38).unwrap(),
        )
    }

    #[test]
    fn one_event_for_each_time_the_queue_is_armed() {
        let (port, cq) = setup();
        cq.complete(&port, &mut [Cqe::sent(1, 0)]);
        assert_eq!(event(&port, 0).1, 0, "nobody waits");
        cq.arm(&port, 0);
        assert_eq!(event(&port, 0), (0, 7), "armed with a completion waiting");
        cq.arm(&port, 1);
        let mut batch = Completions::default();
        batch.push(&port, &cq, Cqe::sent(1, 1));
        batch.push(&port, &cq, Cqe::sent(1, 2));
        assert_eq!(event(&port, 1).1, 0, "not before the batch ends");
        batch.write();
        cq.complete(&port, &mut [Cqe::sent(1, 3)]);
        assert_eq!(event(&port, 1), (0, 7));
        assert_eq!(event(&port, 2).1, 0);
    }

    #[test]
    fn a_full_queue_looks_at_the_record_and_then_dies() {
        let (port, cq) = setup();
        let complete = |counter| cq.complete(&port, &mut [Cqe::sent(1, counter)]);
        (0..4).for_each(complete);
        port.bus.memory.write(RECORD, &1u32.to_be_bytes()).unwrap();
        complete(4);
        assert_eq!(
            port.bus.memory.load(0x203c).unwrap(),
            0x0004_0001,
            "second round"
        );
        complete(5);
        assert_eq!(
            port.bus.memory.load(0x1000).unwrap() >> 16,
            EventType::CqError as u32
        );
        assert_eq!(
            port.bus.memory.load(0x207c).unwrap(),
            0x0001_0000,
            "not overwritten"
        );
    }
}
