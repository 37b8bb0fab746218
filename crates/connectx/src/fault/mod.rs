// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults on demand: what goes wrong on the cable, and what goes wrong in a port.
//!
//! [`Impairment`] is what one direction of the cable does to frames; [`wire`] does it. [`PortFaults`] are
//! what a port does wrong when it is asked to. Both can be changed at any time, by [`crate::control`] or
//! by whoever holds the [`Cable`](crate::datapath::link::Cable).
//!
//! A cable and ports without faults cost the data path one look at a flag a batch, and one a frame.

pub mod capture;
pub mod wire;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

/// What one direction of the cable does to frames. By default nothing.
///
/// Probabilities are between 0, never, and 1, always; each is decided on its own for each frame, from the wire's
/// seed: the same frames in the same order fare the same.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Impairment {
    /// Probability that a frame is lost.
    #[arg(long, default_value_t = 0.0)]
    pub drop: f64,
    /// Probability that a frame arrives twice.
    #[arg(long, default_value_t = 0.0)]
    pub duplicate: f64,
    /// Probability that a frame is held back until later ones have overtaken it.
    #[arg(long, default_value_t = 0.0)]
    pub reorder: f64,
    /// Probability that a bit behind the Ethernet header flips, unseen by the FCS.
    #[arg(long, default_value_t = 0.0)]
    pub corrupt: f64,
    /// Probability that a frame loses its end.
    #[arg(long, default_value_t = 0.0)]
    pub truncate: f64,
    /// Probability that the receiver's completion tells the opposite of the truth about checksums.
    #[arg(long, default_value_t = 0.0)]
    pub lie: f64,
    /// Propagation delay in microseconds.
    #[arg(long, default_value_t = 0)]
    pub delay_us: u64,
    /// The most microseconds that are added to the delay, at random; frames overtake each other by it.
    #[arg(long, default_value_t = 0)]
    pub jitter_us: u64,
    /// Speed in Mbit/s; 0 is that of the host.
    #[arg(long, default_value_t = 0)]
    pub rate_mbit: u64,
}

/// A value that an [`Impairment`] cannot have.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum BadImpairment {
    /// Not a probability.
    #[error("{name} is {value}; a probability is between 0 and 1")]
    Probability {
        /// Which.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// A time that is longer than [`Impairment::LONGEST`].
    #[error("{name} is {value} us; at most {} us are possible", Impairment::LONGEST.as_micros())]
    Time {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
    },
}

impl Impairment {
    /// The longest delay and jitter.
    pub const LONGEST: Duration = Duration::from_secs(10);

    /// Checks that all values are possible.
    pub fn check(&self) -> Result<(), BadImpairment> {
        let probabilities = [
            ("drop", self.drop),
            ("duplicate", self.duplicate),
            ("reorder", self.reorder),
            ("corrupt", self.corrupt),
            ("truncate", self.truncate),
            ("lie", self.lie),
        ];
        if let Some(&(name, value)) = probabilities
            .iter()
            .find(|(_, value)| !(0.0..=1.0).contains(value))
        {
            return Err(BadImpairment::Probability { name, value });
        }
        let times = [("delay-us", self.delay_us), ("jitter-us", self.jitter_us)];
        if let Some(&(name, value)) = times
            .iter()
            .find(|(_, value)| Duration::from_micros(*value) > Self::LONGEST)
        {
            return Err(BadImpairment::Time { name, value });
        }
        Ok(())
    }
}

/// What a port does wrong.
#[derive(Debug, Default)]
pub struct PortFaults {
    /// Send entries that fail from here on.
    send: AtomicU32,
    /// Receive entries that fail from here on.
    receive: AtomicU32,
    /// Receive queues seem to have no buffers.
    starved: AtomicBool,
    /// `receive` or `starved` may be set: what the data path looks at.
    arrivals: AtomicBool,
    /// Commands that are taken and not answered, from here on.
    pub stuck_commands: u32,
    /// Slots of those that were.
    pub stuck_slots: u32,
    /// The opcode of commands that fail, and how many do from here on.
    pub failing_commands: Option<(u16, u32)>,
    /// The transceiver gives no light, whatever the driver wants.
    pub dark: bool,
    /// No plug is in it.
    pub unplugged: bool,
}

impl PortFaults {
    /// Whether a command with `opcode` is to fail, which is one less then.
    pub fn fails_command(&mut self, opcode: u16) -> bool {
        match &mut self.failing_commands {
            Some((failing, left)) if *failing == opcode && *left > 0 => {
                *left -= 1;
                true
            }
            _ => false,
        }
    }
}

/// What an arriving frame meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// A port that is well.
    Well,
    /// A queue without buffers.
    Starved,
    /// An entry that fails.
    Fails,
}

impl PortFaults {
    /// The next `count` send entries of the port fail with an error completion, each stopping its queue.
    pub fn fail_sends(&self, count: u32) {
        self.send.store(count, Ordering::Relaxed);
    }

    /// The next `count` receive entries of the port fail, as [`Self::fail_sends`].
    pub fn fail_receives(&self, count: u32) {
        self.receive.store(count, Ordering::Relaxed);
        self.arm();
    }

    /// Whether receive queues seem to have no buffers.
    pub fn starve(&self, on: bool) {
        self.starved.store(on, Ordering::Relaxed);
        self.arm();
    }

    fn arm(&self) {
        let armed =
            self.starved.load(Ordering::Relaxed) || self.receive.load(Ordering::Relaxed) > 0;
        self.arrivals.store(armed, Ordering::Relaxed);
    }

    /// Whether the next send entry is to fail.
    pub fn take_send(&self) -> bool {
        self.send.load(Ordering::Relaxed) > 0 && take(&self.send)
    }

    /// What the next frame that arrives meets.
    pub fn arrival(&self) -> Arrival {
        if !self.arrivals.load(Ordering::Relaxed) {
            Arrival::Well
        } else if take(&self.receive) {
            self.arm();
            Arrival::Fails
        } else if self.starved.load(Ordering::Relaxed) {
            Arrival::Starved
        } else {
            Arrival::Well
        }
    }
}

/// Counts one down; false at zero.
fn take(count: &AtomicU32) -> bool {
    count
        .try_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            count.checked_sub(1)
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_values_are_named() {
        let bad = |impairment: Impairment| impairment.check().unwrap_err().to_string();
        assert_eq!(
            bad(Impairment {
                drop: 1.5,
                ..Default::default()
            }),
            "drop is 1.5; a probability is between 0 and 1"
        );
        assert!(
            bad(Impairment {
                lie: f64::NAN,
                ..Default::default()
            })
            .starts_with("lie is NaN")
        );
        assert!(
            bad(Impairment {
                jitter_us: 20_000_000,
                ..Default::default()
            })
            .starts_with("jitter-us is 20000000 us; at most 10000000 us")
        );
        assert_eq!(Impairment::default().check(), Ok(()));
    }

    #[test]
    fn entries_fail_as_often_as_asked() {
        let faults = PortFaults::default();
        assert!(!faults.take_send());
        faults.fail_sends(2);
        assert_eq!(
            [faults.take_send(), faults.take_send(), faults.take_send()],
            [true, true, false]
        );
        assert_eq!(faults.arrival(), Arrival::Well);
        faults.fail_receives(1);
        faults.starve(true);
        assert_eq!(faults.arrival(), Arrival::Fails);
        assert_eq!(faults.arrival(), Arrival::Starved);
        faults.starve(false);
        assert_eq!(faults.arrival(), Arrival::Well);
        assert!(!faults.arrivals.load(Ordering::Relaxed));
    }
}
