// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics.

use std::sync::atomic::{AtomicU64, Ordering};

/// A set of queue counters.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Packets dropped because their queue had no buffer.
    pub out_of_buffer: AtomicU64,
}

/// Who a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// One station.
    Unicast = 0,
    /// A group.
    Multicast = 1,
    /// Everybody.
    Broadcast = 2,
}

impl Cast {
    /// Tells by the destination address at the start of `frame`.
    pub fn of(frame: &[u8]) -> Self {
        match frame.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => Self::Broadcast,
            Some([first, ..]) if first & 1 != 0 => Self::Multicast,
            _ => Self::Unicast,
        }
    }
}

/// Frames and bytes (without FCS) in one direction, by [`Cast`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Frames.
    pub frames: [u64; 3],
    /// Bytes.
    pub bytes: [u64; 3],
}

impl Traffic {
    /// Counts one frame.
    pub fn count(&mut self, cast: Cast, bytes: usize) {
        self.frames[cast as usize] += 1;
        self.bytes[cast as usize] += bytes as u64;
    }
}

/// [`Traffic`] that several threads add to.
#[derive(Debug, Default)]
pub struct TrafficTotal {
    frames: [AtomicU64; 3],
    bytes: [AtomicU64; 3],
}

impl TrafficTotal {
    /// Adds `traffic`.
    pub fn add(&self, traffic: &Traffic) {
        for cast in 0..3 {
            if traffic.frames[cast] != 0 {
                self.frames[cast].fetch_add(traffic.frames[cast], Ordering::Relaxed);
                self.bytes[cast].fetch_add(traffic.bytes[cast], Ordering::Relaxed);
            }
        }
    }

    /// What has been added up.
    pub fn get(&self) -> Traffic {
        Traffic {
            frames: self.frames.each_ref().map(|n| n.load(Ordering::Relaxed)),
            bytes: self.bytes.each_ref().map(|n| n.load(Ordering::Relaxed)),
        }
    }
}
