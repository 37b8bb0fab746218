// SPDX-License-Identifier: MIT OR Apache-2.0
//! One direction of the cable when it is not a perfect one: frames lie in it, in whole, until they arrive.
//!
//! A perfect cable needs none of this: frames go from memory to memory (see [`crate::datapath`]).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand_core::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use super::Impairment;
use super::capture::Capture;
use crate::datapath::packet::ETHERNET;

/// Bytes that lie in a wire with limited speed before its sender has to wait: the buffer of the port.
const PORT_BUFFER: usize = 512 << 10;
/// How long a frame is held back to be overtaken, beside the delay.
const HELD_BACK: Duration = Duration::from_micros(500);
/// Bytes on the cable beside a frame: preamble, FCS, gap.
const OVERHEAD: usize = 8 + 4 + 12;

/// What has become of the frames of a wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fates {
    /// Frames that were sent.
    pub sent: u64,
    /// Of these: lost.
    pub dropped: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// With a flipped bit.
    pub corrupted: u64,
    /// Without their end.
    pub truncated: u64,
    /// With a completion that lies about checksums.
    pub lied: u64,
}

/// A frame on its way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flying {
    /// When it arrives.
    pub due: Instant,
    /// Frames that are due together arrive in the order they were sent in.
    order: u64,
    /// All of it.
    pub bytes: Vec<u8>,
    /// The completion is to lie about its checksums.
    pub lie: bool,
}

/// The port's buffer is full; the sender has to wait.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// One direction of the cable.
pub struct Wire {
    impairment: Impairment,
    random: Xoshiro256PlusPlus,
    flying: BinaryHeap<Reverse<Flying>>,
    /// Bytes of frames that the port has not put on the cable yet, and when it will have.
    backlog: usize,
    ready: Instant,
    fates: Fates,
    /// Who watches.
    capture: Option<Capture>,
    /// Number of the port that sends.
    port: usize,
}

impl Wire {
    /// A perfect wire from port `port`.
    pub fn new(port: usize) -> Self {
        Self {
            impairment: Impairment::default(),
            random: Xoshiro256PlusPlus::seed_from_u64(port as u64),
            flying: BinaryHeap::new(),
            backlog: 0,
            ready: Instant::now(),
            fates: Fates::default(),
            capture: None,
            port,
        }
    }

    /// Changes what is done to frames from now on.
    pub fn impair(&mut self, impairment: Impairment) {
        self.impairment = impairment;
    }

    /// Starts the random decisions over.
    pub fn seed(&mut self, seed: u64) {
        self.random = Xoshiro256PlusPlus::seed_from_u64(seed);
    }

    /// Writes every frame that is sent to `capture`.
    pub fn capture(&mut self, capture: Option<Capture>) {
        self.capture = capture;
    }

    /// What has become of the frames so far.
    pub fn fates(&self) -> Fates {
        self.fates
    }

    /// Whether frames have to go this way: something is done to them, or earlier ones are still on it.
    pub fn is_needed(&self) -> bool {
        self.impairment != Impairment::default()
            || self.capture.is_some()
            || !self.flying.is_empty()
    }

    /// Sends a frame at `now`.
    pub fn send(&mut self, now: Instant, mut bytes: Vec<u8>) -> Result<(), Full> {
        if self.ready <= now {
            self.backlog = 0;
        }
        if self.backlog > PORT_BUFFER {
            return Err(Full);
        }
        self.fates.sent += 1;
        let impairment = self.impairment.clone();
        let mut fate = Vec::new();
        // All decisions are made for each frame, so that one probability does not shift the others.
        let [drop, duplicate, reorder, corrupt, truncate, lie] = [
            impairment.drop,
            impairment.duplicate,
            impairment.reorder,
            impairment.corrupt,
            impairment.truncate,
            impairment.lie,
        ]
        .map(|probability| self.chance(probability));
        let mut count = |happened, counter: &mut u64, what| {
            if happened {
                *counter += 1;
                fate.push(what);
            }
        };
        count(drop, &mut self.fates.dropped, "dropped");
        let arrives = !drop;
        count(
            arrives && duplicate,
            &mut self.fates.duplicated,
            "duplicated",
        );
        count(arrives && reorder, &mut self.fates.reordered, "reordered");
        count(arrives && corrupt, &mut self.fates.corrupted, "corrupted");
        count(arrives && truncate, &mut self.fates.truncated, "truncated");
        count(arrives && lie, &mut self.fates.lied, "checksum lie");
        if corrupt && bytes.len() > ETHERNET {
            let bit = self.below(8 * (bytes.len() - ETHERNET) as u64) as usize;
            bytes[ETHERNET + bit / 8] ^= 1 << (bit % 8);
        }
        if truncate && bytes.len() > ETHERNET {
            let left = self.below((bytes.len() - ETHERNET) as u64) as usize;
            bytes.truncate(ETHERNET + left);
        }
        if let Some(capture) = &self.capture {
            capture.frame(self.port, &bytes, &fate.join(", "));
        }

        // The time that it takes to put the frame on the cable, lost or not.
        self.ready = self.ready.max(now);
        let bits = 8 * (bytes.len() + OVERHEAD) as u64;
        if let Some(nanoseconds) = (1000 * bits).checked_div(impairment.rate_mbit) {
            self.ready += Duration::from_nanos(nanoseconds);
            self.backlog += bytes.len();
        }
        if !arrives {
            return Ok(());
        }
        let mut delay = Duration::from_micros(impairment.delay_us);
        if impairment.jitter_us > 0 {
            delay += Duration::from_micros(self.below(impairment.jitter_us + 1));
        }
        if reorder {
            delay += HELD_BACK;
        }
        let due = self.ready + delay;
        let copies = duplicate.then(|| bytes.clone()).into_iter().chain([bytes]);
        for (order, bytes) in (2 * self.fates.sent..).zip(copies) {
            self.flying.push(Reverse(Flying {
                due,
                order,
                bytes,
                lie,
            }));
        }
        Ok(())
    }

    /// Takes the next frame that has arrived by `now`.
    pub fn arrived(&mut self, now: Instant) -> Option<Flying> {
        if self.flying.peek()?.0.due > now {
            return None;
        }
        self.flying.pop().map(|Reverse(frame)| frame)
    }

    /// Puts a frame back that [`Self::arrived`] returned and nobody could take.
    pub fn put_back(&mut self, frame: Flying) {
        self.flying.push(Reverse(frame));
    }

    /// When the next frame arrives.
    pub fn next_due(&self) -> Option<Instant> {
        self.flying.peek().map(|Reverse(frame)| frame.due)
    }

    fn chance(&mut self, probability: f64) -> bool {
        // 53 bits: what a float holds exactly.
        let random = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        random < probability
    }

    fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.random.next_u64()) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u32) -> Vec<u8> {
        let mut bytes = vec![0; 100];
        bytes[96..].copy_from_slice(&number.to_be_bytes());
        bytes
    }

    fn number(frame: &Flying) -> u32 {
        u32::from_be_bytes(frame.bytes[96..].try_into().unwrap())
    }

    /// Sends `count` frames at once and returns the numbers that arrive, in order.
    fn through(impairment: Impairment, seed: u64, count: u32) -> (Vec<u32>, Fates) {
        let mut wire = Wire::new(0);
        wire.seed(seed);
        wire.impair(impairment);
        let start = Instant::now();
        for i in 0..count {
            let sent = start + Duration::from_micros(100 * u64::from(i));
            wire.send(sent, frame(i)).unwrap();
        }
        let end = start + Duration::from_secs(60);
        let arrived = std::iter::from_fn(|| wire.arrived(end));
        (arrived.map(|frame| number(&frame)).collect(), wire.fates())
    }

    #[test]
    fn a_perfect_wire_delivers_in_order() {
        let (arrived, fates) = through(Impairment::default(), 1, 50);
        assert_eq!(arrived, (0..50).collect::<Vec<_>>());
        assert_eq!(
            fates,
            Fates {
                sent: 50,
                ..Fates::default()
            }
        );
        assert!(!Wire::new(0).is_needed());
    }

    #[test]
    fn frames_that_are_due_together_keep_their_order_while_others_arrive() {
        let mut wire = Wire::new(0);
        let start = Instant::now();
        let later = start + Duration::from_millis(1);
        (0..20).for_each(|i| wire.send(start, frame(i)).unwrap());
        wire.send(later, frame(20)).unwrap();
        let arrived = std::iter::from_fn(|| wire.arrived(start));
        assert_eq!(arrived.count(), 20);
        wire.send(later, frame(21)).unwrap();
        let arrived = std::iter::from_fn(|| wire.arrived(later));
        let numbers: Vec<u32> = arrived.map(|frame| number(&frame)).collect();
        assert_eq!(numbers, [20, 21]);
    }

    #[test]
    fn the_same_seed_makes_the_same_losses() {
        let lossy = Impairment {
            drop: 0.3,
            duplicate: 0.2,
            reorder: 0.1,
            ..Default::default()
        };
        let (first, fates) = through(lossy.clone(), 7, 500);
        assert_eq!(through(lossy.clone(), 7, 500), (first.clone(), fates));
        assert_ne!(through(lossy, 8, 500).0, first);
        assert!((100..200).contains(&fates.dropped), "{fates:?}");
        assert_eq!(first.len() as u64, 500 - fates.dropped + fates.duplicated);
        assert!(!first.is_sorted(), "some were held back");
    }

    #[test]
    fn one_probability_does_not_shift_another() {
        let lossy = Impairment {
            drop: 0.3,
            ..Default::default()
        };
        let both = Impairment {
            reorder: 0.5,
            ..lossy.clone()
        };
        let (mut first, mut second) = (through(lossy, 3, 200).0, through(both, 3, 200).0);
        first.sort_unstable();
        second.sort_unstable();
        assert_eq!(first, second);
    }

    #[test]
    fn frames_take_their_time() {
        let mut wire = Wire::new(0);
        wire.impair(Impairment {
            delay_us: 1000,
            rate_mbit: 8,
            ..Default::default()
        });
        let start = Instant::now();
        // 100 bytes and overhead at 1 byte a microsecond: 124 us each.
        wire.send(start, frame(0)).unwrap();
        wire.send(start, frame(1)).unwrap();
        assert_eq!(wire.next_due(), Some(start + Duration::from_micros(1124)));
        assert!(wire.arrived(start + Duration::from_micros(1123)).is_none());
        assert!(wire.arrived(start + Duration::from_micros(1124)).is_some());
        assert_eq!(wire.next_due(), Some(start + Duration::from_micros(1248)));
        assert!(wire.is_needed());
    }

    #[test]
    fn a_full_port_makes_its_sender_wait() {
        let mut wire = Wire::new(0);
        wire.impair(Impairment {
            rate_mbit: 8,
            ..Default::default()
        });
        let start = Instant::now();
        let accepted = std::iter::repeat_with(|| wire.send(start, vec![0; 9000]))
            .take_while(Result::is_ok)
            .count();
        assert_eq!(accepted, PORT_BUFFER / 9000 + 1);
        assert_eq!(
            wire.send(start + Duration::from_secs(60), vec![0; 9000]),
            Ok(())
        );
    }

    #[test]
    fn corruption_spares_the_addresses_and_truncation_the_start() {
        let mut wire = Wire::new(0);
        wire.impair(Impairment {
            corrupt: 1.0,
            ..Default::default()
        });
        let now = Instant::now();
        for i in 0..100 {
            wire.send(now, frame(i)).unwrap();
            let arrived = wire.arrived(now).unwrap();
            let flipped = |(a, b): (&u8, &u8)| (a ^ b).count_ones();
            let before = frame(i);
            let bits = arrived.bytes.iter().zip(&before).map(flipped);
            assert_eq!(bits.clone().take(ETHERNET).sum::<u32>(), 0);
            assert_eq!(bits.sum::<u32>(), 1);
        }
        wire.impair(Impairment {
            truncate: 1.0,
            ..Default::default()
        });
        for i in 0..100 {
            wire.send(now, frame(i)).unwrap();
            assert!((ETHERNET..100).contains(&wire.arrived(now).unwrap().bytes.len()));
        }
    }
}
