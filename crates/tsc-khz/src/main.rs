// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints how many thousand ticks the time stamp counter of this machine makes in a second.
//!
//! An emulated guest sees the counter of its host, and measures its speed at boot against emulated timers. On a busy host these
//! come late, and a guest that finds a wrong speed has a clock that runs many times too fast. Reading both clocks from a
//! program has no such trouble, so `scripts/vm` measures here and tells the guest.

use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

/// How long to measure: an interrupted reading is off by microseconds at worst, which is then less than a part in ten thousand.
const SPAN: Duration = Duration::from_millis(200);

/// Readings at each end, of which the least disturbed counts.
const READINGS: usize = 64;

/// One moment on both clocks.
#[derive(Clone, Copy)]
struct Moment {
    time: Instant,
    ticks: u64,
    /// Ticks between the two readings of the counter around that of `time`.
    doubt: u64,
}

impl Moment {
    fn read() -> Self {
        // SAFETY: The instruction exists on every x86-64, and Linux leaves it to user mode.
        let before = unsafe { _rdtsc() };
        let time = Instant::now();
        // SAFETY: As above.
        let after = unsafe { _rdtsc() };
        let doubt = after.saturating_sub(before);
        Self {
            time,
            ticks: before + doubt / 2,
            doubt,
        }
    }

    /// Now, or a little later when something got between the readings.
    fn now() -> Self {
        let mut best = Self::read();
        for _ in 1..READINGS {
            let next = Self::read();
            if next.doubt < best.doubt {
                best = next;
            }
        }
        best
    }
}

/// Thousand ticks in a second, from two moments.
fn khz(start: Moment, end: Moment) -> u64 {
    let nanoseconds = end.time.duration_since(start.time).as_nanos();
    let ticks = u128::from(end.ticks.saturating_sub(start.ticks));
    u64::try_from(ticks * 1_000_000 / nanoseconds.max(1)).unwrap_or(u64::MAX)
}

fn main() {
    let start = Moment::now();
    std::thread::sleep(SPAN);
    println!("{}", khz(start, Moment::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_by_time() {
        let start = Moment {
            time: Instant::now(),
            ticks: 1_000_000,
            doubt: 0,
        };
        let end = Moment {
            time: start.time + Duration::from_millis(100),
            ticks: 1_000_000 + 244_543_700,
            doubt: 0,
        };
        assert_eq!(khz(start, end), 2_445_437);
    }

    #[test]
    fn two_measurements_agree() {
        let [start, middle] = [(); 2].map(|()| {
            std::thread::sleep(SPAN / 2);
            Moment::now()
        });
        std::thread::sleep(SPAN);
        let end = Moment::now();
        let (short, long) = (khz(start, middle), khz(start, end));
        assert!(
            short.abs_diff(long) <= long / 1000,
            "{short} and {long} thousand ticks a second"
        );
    }
}
