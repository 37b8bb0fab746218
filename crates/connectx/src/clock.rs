// SPDX-License-Identifier: MIT OR Apache-2.0
//! The card's clock: a counter that runs freely since power-on, and that both ports show. The driver reads it in the initialisation
//! segment, and the time of a packet in its completion.

use std::sync::LazyLock;
use std::time::Instant;

/// How fast it counts, in kHz (capability `device_frequency_khz`): nanoseconds.
pub const FREQUENCY_KHZ: u32 = 1_000_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What it shows.
pub fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}
