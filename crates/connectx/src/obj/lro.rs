// SPDX-License-Identifier: MIT OR Apache-2.0
//! Large receive offload: TCP segments that continue each other are received as one packet.
//!
//! The driver takes the headers of the first segment, mends the lengths and the checksums itself, and learns from the completion
//! what the last one said of PSH, window and acknowledgement. What is merged is what hardware GRO merges, see [`super::series`],
//! so but for PSH there is nothing that differs. A FIN the driver does not learn of: it is left alone.

use std::time::{Duration, Instant};

use super::series::{Segment, Series};
use crate::bits::Fields;
use crate::bits::ctx::LroContext;
use crate::bits::event::Merged;
use crate::datapath::packet::{Headers, Ip, Layout};

/// Streams of a queue that can be put together at the same time.
const SESSIONS: usize = 16;
/// A completion has eight bits for segments.
const MAX_SEGMENTS: u8 = u8::MAX;

const FIN: u8 = 0x01;

/// What a transport interface receive object wants merged.
#[derive(Clone, Copy, Debug)]
pub struct Lro {
    context: LroContext,
}

impl Lro {
    /// As `context` describes it; nothing if it wants nothing.
    pub fn new(context: &LroContext) -> Option<Self> {
        (context.ipv4 || context.ipv6).then_some(Self { context: *context })
    }

    /// The segment that an intact frame is, if it is one to merge. What follows the packet is padding.
    pub fn segment(&self, frame: &[u8], headers: &Headers<'_>) -> Option<Segment> {
        let (_, tcp) = headers.transport_at()?;
        let wanted = match headers.ip()?.0 {
            Ip::V4 => self.context.ipv4,
            Ip::V6 => self.context.ipv6,
        };
        let whole = headers.ip_end() <= frame.len();
        let segment = Segment::of(frame, headers).filter(|_| wanted && whole)?;
        (frame[tcp + 13] & FIN == 0).then_some(segment)
    }

    /// How long a stream is waited for.
    pub fn timeout(&self) -> Duration {
        self.context.timeout
    }
}

/// What the completion of a packet says that does not stand in its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// RSS hash, if `hash_type` is not zero.
    pub hash: u32,
    /// What went into the hash.
    pub hash_type: u8,
    /// Flow tag of the rule that chose the queue.
    pub flow_tag: u32,
}

/// Segments that are put together.
#[derive(Debug)]
pub struct Session {
    /// The first segment as a frame, and the payloads of the others behind it.
    frame: Vec<u8>,
    layout: Layout,
    /// What still continues it.
    series: Option<Series>,
    merged: Merged,
    label: Label,
    due: Instant,
}

impl Session {
    /// Headers of the first segment.
    fn headers(&self) -> Headers<'_> {
        self.layout.of(&self.frame)
    }

    /// The packet. Its headers are those of the first segment.
    pub fn frame(&mut self) -> &mut [u8] {
        &mut self.frame
    }

    /// Where its headers are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What the completion says of its segments; nothing if it is a single one.
    pub fn merged(&self) -> Option<Merged> {
        (self.merged.segments > 1).then_some(self.merged)
    }

    /// What else the completion says.
    pub fn label(&self) -> Label {
        self.label
    }

    /// Until when it is waited for more.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether nothing continues it.
    pub fn is_complete(&self) -> bool {
        self.series.is_none()
    }

    /// Adds a segment with its payload, if it continues the session and there is room.
    pub fn add(&mut self, segment: Segment, payload: &[u8], lro: &Lro) -> bool {
        let tcp = self.layout.transport().map_or(0, |(_, at)| at);
        let room = self.frame.len() + payload.len() <= tcp + lro.context.max_ip_payload
            && self.merged.segments < MAX_SEGMENTS;
        let Some(series) = self.series.take_if(|series| room && series.takes(&segment)) else {
            return false;
        };
        self.merged.segments += 1;
        self.merged.push = segment.is_last();
        self.series = series.with(segment);
        self.frame.extend_from_slice(payload);
        true
    }
}

/// The sessions of a queue.
#[derive(Debug, Default)]
pub struct Sessions {
    /// The oldest first.
    open: Vec<Session>,
    /// Somebody will look when the first is due, or earlier.
    looked_after: bool,
}

impl Sessions {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether there is room for no other.
    pub fn is_full(&self) -> bool {
        self.open.len() >= SESSIONS
    }

    /// Which one is the stream of a packet with `headers`.
    pub fn find(&self, headers: &Headers<'_>) -> Option<usize> {
        self.open.iter().position(|session| {
            let same = session.headers();
            (same.addresses(), same.ports()) == (headers.addresses(), headers.ports())
        })
    }

    /// The first one that is due at `now`.
    pub fn due(&self, now: Instant) -> Option<usize> {
        self.open.iter().position(|session| session.due <= now)
    }

    /// When the caller has to look for the next one that is due, unless somebody has to already.
    #[must_use]
    pub fn look(&mut self) -> Option<Instant> {
        let due = self.open.iter().map(|session| session.due).min();
        due.filter(|_| !std::mem::replace(&mut self.looked_after, true))
    }

    /// Somebody has looked.
    pub fn looked(&mut self) {
        self.looked_after = false;
    }

    /// A session by its place.
    pub fn get(&mut self, at: usize) -> &mut Session {
        &mut self.open[at]
    }

    /// Takes a session out.
    pub fn take(&mut self, at: usize) -> Session {
        self.open.remove(at)
    }

    /// Puts a session back to where it was.
    pub fn put_back(&mut self, at: usize, session: Session) {
        self.open.insert(at, session);
    }

    /// Starts one with the segment that `frame` is, which has no padding. Returns false if nothing can continue it.
    pub fn start(
        &mut self,
        segment: Segment,
        frame: &[u8],
        headers: &Headers<'_>,
        label: Label,
        due: Instant,
    ) -> bool {
        let Some(series) = Series::start(segment) else {
            return false;
        };
        self.open.push(Session {
            frame: frame.to_vec(),
            layout: headers.layout(),
            series: Some(series),
            merged: first(frame, headers),
            label,
            due,
        });
        true
    }
}

/// What the completion says while there is one segment.
fn first(frame: &[u8], headers: &Headers<'_>) -> Merged {
    let frame = Fields(frame);
    let tcp = headers.transport_at().map_or(0, |(_, at)| at);
    let ttl = headers.ip().map_or(0, |(version, at)| match version {
        Ip::V4 => at + 8,
        Ip::V6 => at + 7,
    });
    Merged {
        segments: 1,
        push: false,
        ttl: frame.array::<1>(ttl)[0],
        window: frame.u16(tcp + 14),
        acknowledgement: frame.u32(tcp + 8),
    }
}
