// SPDX-License-Identifier: MIT OR Apache-2.0
//! Event queues and MSI-X vectors.

use std::fs::File;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use parking_lot::Mutex;
use tracing::{debug, error};

use super::port::Bus;
use super::ring::Ring;
use crate::bits::event::{Eqe, EventType};
use crate::pci::VECTORS;

/// The interrupt vectors of a function.
#[derive(Debug)]
pub struct Interrupts {
    vectors: Vec<Vector>,
}

#[derive(Debug, Default)]
struct Vector {
    trigger: Option<File>,
    /// Raised while there was no trigger.
    pending: AtomicBool,
}

impl Default for Interrupts {
    fn default() -> Self {
        Self {
            vectors: (0..VECTORS).map(|_| Vector::default()).collect(),
        }
    }
}

impl Interrupts {
    /// Connects `vector` to an eventfd, or disconnects it.
    ///
    /// An interrupt that was raised while there was none is raised now.
    pub fn connect(&mut self, vector: u32, trigger: Option<File>) {
        let Some(slot) = self.vectors.get_mut(vector as usize) else {
            return;
        };
        slot.trigger = trigger;
        if slot.trigger.is_some() && slot.pending.swap(false, Ordering::Relaxed) {
            self.raise(vector as u16);
        }
    }

    /// Disconnects every vector and forgets what was raised.
    pub fn disconnect(&mut self) {
        *self = Self::default();
    }

    /// Raises `vector`.
    pub fn raise(&self, vector: u16) {
        let Some(slot) = self.vectors.get(usize::from(vector)) else {
            return;
        };
        // What the handler is to find is in memory before it runs.
        fence(Ordering::SeqCst);
        match &slot.trigger {
            Some(trigger) => {
                if let Err(error) = (&*trigger).write_all(&1u64.to_ne_bytes()) {
                    error!(vector, %error, "interrupt not delivered");
                }
            }
            None => slot.pending.store(true, Ordering::Relaxed),
        }
    }
}

/// An event queue.
#[derive(Debug)]
pub struct Eq {
    /// Its number.
    pub number: u32,
    /// Bit n: the queue takes events of type n.
    pub mask: u64,
    vector: u16,
    ring: Ring,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    producer: u32,
    consumer: u32,
    armed: bool,
}

impl Eq {
    /// An empty, unarmed queue.
    pub fn new(number: u32, mask: u64, vector: u16, ring: Ring) -> Self {
        Self {
            number,
            mask,
            vector,
            ring,
            state: Mutex::default(),
        }
    }

    /// Whether events of type `kind` go to this queue.
    pub fn takes(&self, kind: EventType) -> bool {
        self.mask & 1 << (kind as u8) != 0
    }

    /// Writes an event, and raises the interrupt if the queue is armed.
    pub fn post(&self, bus: &Bus, mut event: Eqe) {
        let mut state = self.state.lock();
        if state.producer.wrapping_sub(state.consumer) & COUNTER >= self.ring.size() {
            // A driver sizes its queues so that this cannot happen.
            error!(eqn = self.number, "event queue overrun, event lost");
            return;
        }
        event.0[0x3f] = self.ring.owner(state.producer);
        if let Err(fault) = bus
            .memory
            .publish(self.ring.address(state.producer), &event.0)
        {
            error!(eqn = self.number, %fault, "event queue cannot be written, event lost");
            return;
        }
        state.producer = state.producer.wrapping_add(1);
        if std::mem::take(&mut state.armed) {
            bus.interrupts.raise(self.vector);
        }
    }

    /// The driver has consumed events up to `consumer` and, if `arm`, wants to hear of more.
    pub fn consumed(&self, bus: &Bus, consumer: u32, arm: bool) {
        let mut state = self.state.lock();
        state.consumer = consumer;
        let backlog = state.producer.wrapping_sub(consumer) & COUNTER != 0;
        state.armed = arm && !backlog;
        if arm && backlog {
            debug!(eqn = self.number, consumer, "armed with events waiting");
            bus.interrupts.raise(self.vector);
        }
    }
}

/// Consumer counters have 24 bits.
pub const COUNTER: u32 = 0xff_ffff;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;
    use crate::obj::port::tests::bus;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn queue() -> Eq {
        let list = 0x1000u64.to_be_bytes();
        Eq::new(1, 1 << 0x0a, 2, Ring::new(Fields(&list), 0, 2, 6).unwrap())
    }

    /// How often vector 2 was raised.
    fn count(end: &mut UnixStream) -> usize {
        let mut bytes = [0; 64];
        end.read(&mut bytes).unwrap_or(0) / 8
    }

    #[test]
    fn an_armed_queue_interrupts_once() {
        let mut bus = bus(0x2000);
        let (mut end, trigger) = UnixStream::pair().unwrap();
        end.set_nonblocking(true).unwrap();
        bus.interrupts
            .connect(2, Some(File::from(std::os::fd::OwnedFd::from(trigger))));
        let eq = queue();
        eq.post(&bus, Eqe::command(1));
        assert_eq!(count(&mut end), 0, "unarmed");
        eq.consumed(&bus, 0, true);
        assert_eq!(count(&mut end), 1, "armed with backlog");
        eq.consumed(&bus, 1, true);
        assert_eq!(count(&mut end), 0);
        eq.post(&bus, Eqe::command(2));
        eq.post(&bus, Eqe::command(4));
        assert_eq!(count(&mut end), 1, "one interrupt for both");
    }

    #[test]
    fn an_interrupt_waits_for_its_trigger() {
        let mut interrupts = Interrupts::default();
        interrupts.raise(5);
        interrupts.raise(VECTORS);
        let (mut end, trigger) = UnixStream::pair().unwrap();
        end.set_nonblocking(true).unwrap();
        let trigger = File::from(std::os::fd::OwnedFd::from(trigger));
        interrupts.connect(5, Some(trigger.try_clone().unwrap()));
        assert_eq!(count(&mut end), 1);
        interrupts.connect(5, Some(trigger));
        assert_eq!(count(&mut end), 0, "only once");
    }

    #[test]
    fn the_owner_bit_turns_each_round_and_a_full_queue_loses() {
        let bus = bus(0x2000);
        let eq = queue();
        let owner = |slot: u64| bus.memory.load(0x1000 + slot * 64 + 60).unwrap() & 1;
        bus.memory.write(0x103f, &[1]).unwrap();
        for _ in 0..5 {
            eq.post(&bus, Eqe::command(1));
        }
        assert_eq!(owner(0), 0, "the fifth event found the queue full");
        eq.consumed(&bus, 4, false);
        eq.post(&bus, Eqe::command(1));
        assert_eq!(owner(0), 1);
    }
}
