// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completion queues.
//!
//! A driver that waits for completions is told of them by an event. If the queue is moderated, some completions may wait for others;
//! then who wrote them has to look again when their time is over ([`Cq::look`]).

use std::time::Instant;

use parking_lot::Mutex;
use tracing::error;

use super::eq::COUNTER;
use super::port::Port;
use super::ring::Ring;
use crate::bits::ctx::{Moderation, PeriodMode};
use crate::bits::event::{Cqe, Eqe, EventType};
use crate::clock;
use crate::datapath::engine::BATCH;

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    /// Its number.
    pub number: u32,
    eqn: u32,
    doorbell: u64,
    ring: Ring,
    /// How long completions may wait.
    pub moderation: Moderation,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    producer: u32,
    /// As far as the device knows: the record in memory is read when the queue looks full.
    consumer: u32,
    armed: bool,
    /// When the driver is to be told of what it waits for, if not before.
    due: Option<Instant>,
    /// Somebody will look then, or earlier.
    looked_after: bool,
    /// When the driver was told last, if the queue is moderated.
    told: Option<Instant>,
    /// Overrun: nothing is written any more.
    dead: bool,
}

impl State {
    /// Completions that the driver has not seen, as far as the device knows.
    fn unseen(&self) -> u32 {
        self.producer.wrapping_sub(self.consumer) & COUNTER
    }
}

impl Cq {
    /// An empty, unarmed queue that is not moderated.
    pub fn new(number: u32, eqn: u32, doorbell: u64, ring: Ring) -> Self {
        Self {
            number,
            eqn,
            doorbell,
            ring,
            moderation: Moderation::default(),
            state: Mutex::default(),
        }
    }

    /// Writes completions of clock time `time`, and tells the driver about them if it waits for some. Returns when the caller has
    /// to look again.
    #[must_use]
    pub fn complete(&self, port: &Port, entries: &[Cqe], time: u64) -> Option<Instant> {
        let mut state = self.state.lock();
        for entry in entries {
            if state.dead || self.full(port, &mut state) {
                return None;
            }
            let words = entry.stamped(time, self.ring.owner(state.producer));
            let address = self.ring.address(state.producer);
            if let Err(fault) = port.bus.memory.publish_words(address, words) {
                error!(cqn = self.number, %fault, "completion queue cannot be written");
                self.kill(port, &mut state);
                return None;
            }
            state.producer = state.producer.wrapping_add(1);
        }
        if !state.armed {
            return None;
        }
        let due = self.due(&state);
        if due.is_none() {
            self.event(port, &mut state);
        }
        state.due = due;
        // Only ever later than what is looked for already, but for a period that was made shorter meanwhile.
        due.filter(|_| !std::mem::replace(&mut state.looked_after, true))
    }

    /// When the driver is to be told of completions that came now; at once if it is `None`.
    fn due(&self, state: &State) -> Option<Instant> {
        let Moderation {
            period,
            count,
            mode,
        } = self.moderation;
        if period.is_zero() || (count != 0 && state.unseen() >= count) {
            return None;
        }
        let now = Instant::now();
        let due = match mode {
            PeriodMode::FromEvent => state.told? + period,
            PeriodMode::FromCompletion => now + period,
        };
        (due > now).then_some(due)
    }

    /// Tells the driver of completions whose time is over. Returns when to look again.
    #[must_use]
    pub fn look(&self, port: &Port) -> Option<Instant> {
        let mut state = self.state.lock();
        if let Some(due) = state.due {
            if due > Instant::now() {
                return Some(due);
            }
            self.event(port, &mut state);
        }
        state.looked_after = false;
        None
    }

    /// The driver has consumed completions up to `consumer` and waits for more.
    ///
    /// That it may want only those that the sender marked makes no difference:
    /// Ethernet has no such marks, and an early event is allowed. So completions that are there already wait for no others.
    pub fn arm(&self, port: &Port, consumer: u32) {
        let mut state = self.state.lock();
        state.consumer = consumer;
        if state.dead {
            return;
        }
        state.armed = true;
        state.due = None;
        if state.unseen() != 0 {
            self.event(port, &mut state);
        }
    }

    fn event(&self, port: &Port, state: &mut State) {
        state.armed = false;
        state.due = None;
        state.told = (!self.moderation.period.is_zero()).then(Instant::now);
        match port.hca.eqs.get(self.eqn) {
            Some(eq) => eq.post(&port.bus, Eqe::completion(self.number)),
            None => error!(cqn = self.number, eqn = self.eqn, "event queue is gone"),
        }
    }

    /// Whether there is no room, after a look at how far the driver is. If so the queue dies, as on
    /// hardware: a completion is lost, and the driver must know.
    fn full(&self, port: &Port, state: &mut State) -> bool {
        if state.unseen() < self.ring.size() {
            return false;
        }
        match port.bus.memory.load(self.doorbell) {
            Ok(consumer) => state.consumer = consumer & COUNTER,
            Err(fault) => error!(cqn = self.number, %fault, "doorbell record cannot be read"),
        }
        if state.unseen() < self.ring.size() {
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

/// The completions of a batch of packets. They are written at its end, queue by queue, or before.
#[derive(Default)]
pub struct Completions<'p> {
    queues: Vec<(&'p Port, &'p Cq, Vec<Cqe>)>,
    /// Queues that have to be looked at because of what was written before, and when.
    due: Vec<(Instant, &'p Port, &'p Cq)>,
}

impl<'p> Completions<'p> {
    /// Adds one for `cq` of `port`, and returns it for what is still to be said.
    #[inline(always)]
    pub fn push(&mut self, port: &'p Port, cq: &'p Cq, entry: Cqe) -> &mut Cqe {
        let mut queues = self.queues.iter();
        let at = queues.position(|(_, queue, _)| std::ptr::eq(*queue, cq));
        let at = at.unwrap_or_else(|| {
            let entries = Vec::with_capacity(BATCH as usize);
            self.queues.push((port, cq, entries));
            self.queues.len() - 1
        });
        let entries = &mut self.queues[at].2;
        entries.push_mut(entry)
    }

    /// Writes those for `cq` now.
    pub fn write_to(&mut self, cq: &Cq) {
        let mut queues = self.queues.iter_mut();
        let found = queues.find(|(_, queue, _)| std::ptr::eq(*queue, cq));
        if let Some((port, cq, entries)) = found.filter(|(_, _, entries)| !entries.is_empty()) {
            let due = cq.complete(port, entries, clock::now());
            self.due.extend(due.map(|due| (due, *port, *cq)));
            entries.clear();
        }
    }

    /// Writes what is left, all with the same time: sent and received at once. `look_again` is told of queues that have to be looked
    /// at, and when.
    pub fn write(self, mut look_again: impl FnMut(Instant, &Port, &Cq)) {
        let time = clock::now();
        for (due, port, cq) in self.due {
            look_again(due, port, cq);
        }
        for (port, cq, entries) in self.queues {
            if !entries.is_empty()
                && let Some(due) = cq.complete(port, &entries, time)
            {
                look_again(due, port, cq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        let ring = Ring::new(Fields(&list), 0, 2, 6).unwrap();
        let cq = Cq::new(7, eqn, RECORD, ring);
        (port, cq)
    }

    fn complete(port: &Port, cq: &Cq, counter: u16) -> Option<Instant> {
        cq.complete(port, &[Cqe::sent(1, counter)], 0)
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
        assert_eq!(complete(&port, &cq, 0), None);
        assert_eq!(event(&port, 0).1, 0, "nobody waits");
        cq.arm(&port, 0);
        assert_eq!(event(&port, 0), (0, 7), "armed with a completion waiting");
        cq.arm(&port, 1);
        let mut batch = Completions::default();
        batch.push(&port, &cq, Cqe::sent(1, 1));
        batch.push(&port, &cq, Cqe::sent(1, 2));
        assert_eq!(event(&port, 1).1, 0, "not before the batch ends");
        batch.write(|_, _, _| panic!("nothing waits"));
        assert_eq!(complete(&port, &cq, 3), None);
        assert_eq!(event(&port, 1), (0, 7));
        assert_eq!(event(&port, 2).1, 0);
    }

    #[test]
    fn completions_wait_for_others_or_for_the_end_of_their_time() {
        let (port, mut cq) = setup();
        cq.moderation = Moderation {
            period: Duration::from_millis(1),
            count: 2,
            mode: PeriodMode::FromCompletion,
        };
        let told = || (0..9).filter(|&slot| event(&port, slot).1 != 0).count();
        cq.arm(&port, 0);
        let before = Instant::now();
        let due = complete(&port, &cq, 0).expect("it waits");
        assert!(due >= before + cq.moderation.period);
        assert_eq!(complete(&port, &cq, 1), None);
        assert_eq!(told(), 1, "two do not wait");
        cq.arm(&port, 2);
        assert_eq!(complete(&port, &cq, 2), None, "one look is enough");
        while cq.look(&port).is_some() {
            std::thread::yield_now();
        }
        assert!(Instant::now() > due);
        assert_eq!(told(), 2, "its time is over");
        assert_eq!(cq.look(&port), None);
        assert!(complete(&port, &cq, 3).is_none(), "nobody waits");
        cq.arm(&port, 3);
        assert_eq!(told(), 3, "what is there already waits for nothing");
    }

    #[test]
    fn the_period_can_start_with_the_event_before() {
        let (port, mut cq) = setup();
        cq.moderation = Moderation {
            period: Duration::from_secs(3600),
            count: 0,
            mode: PeriodMode::FromEvent,
        };
        let before = Instant::now();
        cq.arm(&port, 0);
        assert_eq!(complete(&port, &cq, 0), None, "there was none before");
        assert_eq!(event(&port, 0).1, 7);
        cq.arm(&port, 1);
        let due = complete(&port, &cq, 1).expect("it waits");
        assert!(due >= before + cq.moderation.period);
        assert!(due <= Instant::now() + cq.moderation.period);
        assert_eq!(cq.look(&port), Some(due));
        assert_eq!(event(&port, 1).1, 0);
        cq.arm(&port, 2);
        assert_eq!(cq.look(&port), None, "the driver has seen them by itself");
        assert_eq!(event(&port, 1).1, 0);
    }

    #[test]
    fn a_full_queue_looks_at_the_record_and_then_dies() {
        let (port, cq) = setup();
        let complete = |counter| assert_eq!(complete(&port, &cq, counter), None);
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
