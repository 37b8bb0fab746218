// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics.
//!
//! A frame on the cable is counted by the physical ports of both ends, and by the virtual port behind each, which also
//! sees what the port sends to itself. What the receiving virtual port has counted goes to a receive queue, or is in one of
//! the counters that say why it does not: [`VportCounters::missed`], [`VportCounters::dropped`],
//! [`VportCounters::too_large`], and `out_of_buffer` of the queue's counter set.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::datapath::packet::tag_of;

/// A set of queue counters.
#[derive(Debug, Default)]
pub struct QueueCounters {
    /// Packets dropped because their queue had no buffer.
    pub out_of_buffer: Count,
}

/// Who a frame is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cast {
    /// One station.
    #[default]
    Unicast = 0,
    /// A group.
    Multicast = 1,
    /// Everybody.
    Broadcast = 2,
}

/// What is counted of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    cast: Cast,
    /// Bytes, without FCS.
    bytes: u64,
    priority: u8,
}

impl Frame {
    /// A frame of `bytes` bytes that starts with `head`.
    pub fn of(head: &[u8], bytes: usize) -> Self {
        let cast = match head.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => Cast::Broadcast,
            Some([first, ..]) if first & 1 != 0 => Cast::Multicast,
            _ => Cast::Unicast,
        };
        let priority = tag_of(head).map_or(0, |tci| (tci >> 13) as u8);
        Self {
            cast,
            bytes: bytes as u64,
            priority,
        }
    }
}

/// Frames and bytes (without FCS) in one direction, by [`Cast`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames.
    pub frames: [u64; 3],
    /// Bytes.
    pub bytes: [u64; 3],
}

impl Traffic {
    /// All frames.
    pub fn all_frames(&self) -> u64 {
        self.frames.iter().sum()
    }

    /// All bytes.
    pub fn all_bytes(&self) -> u64 {
        self.bytes.iter().sum()
    }
}

impl AddAssign<&Self> for Traffic {
    fn add_assign(&mut self, other: &Self) {
        add(&mut self.frames, &other.frames);
        add(&mut self.bytes, &other.bytes);
    }
}

fn add<const N: usize>(to: &mut [u64; N], more: &[u64; N]) {
    for (to, more) in to.iter_mut().zip(more) {
        *to += more;
    }
}

/// The FCS, which the physical port counts with the frame.
const FCS: u64 = 4;
/// The largest frames of the first histogram buckets, FCS included; there is one bucket more (`ether_stats_pkts*octets`).
const SIZES: [u64; 9] = [64, 127, 255, 511, 1023, 1518, 2047, 4095, 8191];

/// What the physical port counts in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wired {
    /// Frames and bytes.
    pub traffic: Traffic,
    /// Frames by size.
    pub sizes: [u64; SIZES.len() + 1],
    /// Frames by priority.
    pub priority_frames: [u64; 8],
    /// Bytes, without FCS, by priority.
    pub priority_bytes: [u64; 8],
}

impl Wired {
    /// All bytes, with those of the FCS.
    pub fn octets(&self) -> u64 {
        self.traffic.all_bytes() + FCS * self.traffic.all_frames()
    }

    /// The same for one priority.
    pub fn priority_octets(&self, priority: usize) -> u64 {
        self.priority_bytes[priority] + FCS * self.priority_frames[priority]
    }
}

impl AddAssign<&Self> for Wired {
    fn add_assign(&mut self, other: &Self) {
        self.traffic += &other.traffic;
        add(&mut self.sizes, &other.sizes);
        add(&mut self.priority_frames, &other.priority_frames);
        add(&mut self.priority_bytes, &other.priority_bytes);
    }
}

/// What counts frames.
pub trait Counts {
    /// Counts `times` frames that are as `frame`.
    fn count(&mut self, frame: &Frame, times: u64);
}

impl Counts for Traffic {
    fn count(&mut self, frame: &Frame, times: u64) {
        self.frames[frame.cast as usize] += times;
        self.bytes[frame.cast as usize] += times * frame.bytes;
    }
}

impl Counts for Wired {
    fn count(&mut self, frame: &Frame, times: u64) {
        self.traffic.count(frame, times);
        let size = frame.bytes + FCS;
        self.sizes[SIZES.partition_point(|largest| *largest < size)] += times;
        let priority = usize::from(frame.priority & 7);
        self.priority_frames[priority] += times;
        self.priority_bytes[priority] += times * frame.bytes;
    }
}

/// Frames as they come: most often one is as the one before.
#[derive(Debug, Default)]
pub struct Tally<T> {
    sum: T,
    last: Frame,
    /// How often there was one like the last.
    times: u64,
}

impl<T: Counts> Tally<T> {
    /// Counts one frame.
    #[inline]
    pub fn count(&mut self, frame: &Frame) {
        if self.last != *frame {
            self.settle();
            self.last = *frame;
        }
        self.times += 1;
    }

    #[cold]
    fn settle(&mut self) {
        self.sum.count(&self.last, std::mem::take(&mut self.times));
    }

    /// What has been counted.
    pub fn sum(mut self) -> T {
        self.settle();
        self.sum
    }
}

/// A sum that several threads add to, a batch at a time.
#[derive(Debug, Default)]
pub struct Total<T>(Mutex<T>);

impl<T: Copy + Default + PartialEq + for<'a> AddAssign<&'a T>> Total<T> {
    /// Adds `more`.
    pub fn add(&self, more: &T) {
        if *more != T::default() {
            *self.0.lock() += more;
        }
    }

    /// What has been added up.
    pub fn get(&self) -> T {
        *self.0.lock()
    }
}

/// A count of events that are rare.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// What has been added up.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// What has been added up, to start again from zero.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

/// What the virtual port counts.
#[derive(Debug, Default)]
pub struct VportCounters {
    /// Frames received, whatever became of them.
    pub received: Total<Traffic>,
    /// Frames sent.
    pub sent: Total<Traffic>,
    /// Frames that the port sent to itself, which are among the others too.
    pub looped: Total<Traffic>,
    /// Frames that no flow rule matched.
    pub missed: Count,
    /// Frames that a flow rule dropped, or led to no queue.
    pub dropped: Count,
    /// Frames that were larger than the receive entry for them.
    pub too_large: Count,
}

/// What the physical port counts.
#[derive(Debug, Default)]
pub struct PhysicalCounters {
    /// Frames received.
    pub received: Total<Wired>,
    /// Frames sent.
    pub sent: Total<Wired>,
    /// Frames that were longer than the port receives.
    pub oversize: Count,
    /// Frames that could not be sent because there was no link.
    pub unsent: Count,
    /// Pause frames received: the other end has no buffers.
    pub paused: Count,
    /// Microseconds that sending was paused.
    pub paused_us: Count,
    /// Pause frames sent.
    pub pausing: Count,
    /// Microseconds for which the other end was told to pause.
    pub pausing_us: Count,
    /// How often the link went down.
    pub link_downs: Count,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::tests::{tagged, tcp4};

    fn wired(frames: &[Frame]) -> Wired {
        let mut tally = Tally::<Wired>::default();
        frames.iter().for_each(|frame| tally.count(frame));
        tally.sum()
    }

    #[test]
    fn frames_are_told_apart_by_their_destination() {
        let of = |mac: [u8; 6]| Frame::of(&mac, 60).cast;
        assert_eq!(of([0xff; 6]), Cast::Broadcast);
        assert_eq!(of([0x01, 0, 0x5e, 0, 0, 1]), Cast::Multicast);
        assert_eq!(of([0x02, 0xff, 0xff, 0xff, 0xff, 0xff]), Cast::Unicast);
        assert_eq!(Frame::of(&[1], 1).cast, Cast::Unicast, "cut off");
    }

    /// The ranges of `mlx5e_rmon_ranges`, which count the FCS.
    #[test]
    fn sizes_fall_into_the_ranges_of_rfc_2819() {
        let bucket = |size: usize| {
            let sizes = wired(&[Frame::of(&[2; 6], size - 4)]).sizes;
            sizes.iter().position(|n| *n == 1).unwrap()
        };
        let edges = [64, 65, 127, 128, 1518, 1519, 2047, 2048, 8191, 8192, 10022];
        assert_eq!(edges.map(bucket), [0, 1, 1, 2, 5, 6, 6, 7, 8, 9, 9]);
    }

    #[test]
    fn the_priority_is_that_of_the_tag() {
        let plain = tcp4(100);
        let tagged = tagged(&plain, 0x8100, 0x6005);
        let counted = wired(&[
            Frame::of(&plain, 154),
            Frame::of(&tagged, 158),
            Frame::of(&tagged, 158),
        ]);
        assert_eq!(counted.priority_frames, [1, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(counted.priority_octets(3), 2 * 162);
        assert_eq!(counted.octets(), 158 + 2 * 162);
    }

    #[test]
    fn totals_add_up() {
        let total = Total::default();
        let one = wired(&[Frame::of(&[2; 6], 60), Frame::of(&[0xff; 6], 1514)]);
        total.add(&one);
        total.add(&Wired::default());
        total.add(&one);
        let sum = total.get();
        assert_eq!(sum.traffic.frames, [2, 0, 2]);
        assert_eq!((sum.sizes[0], sum.sizes[5]), (2, 2));
        assert_eq!(sum.traffic.all_bytes(), 2 * 1574);
    }
}
