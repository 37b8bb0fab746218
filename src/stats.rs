// SPDX-License-Identifier: GPL-2.0

//! What is counted, of what, and how it is shown. `include/uapi/linux/netgpu.h` says what the counters mean.
//!
//! The data path collects what happens to a packet in a [`Tally`] and adds it up once, at the end.

use crate::{
    attach::Attachment,
    context::Context,
    ffi::{
        counters::{
            Counter,
            PerCpu, //
        },
        trace,
        uapi, //
    },
    queue::Queue,
    socket::Socket, //
};

/// Why received bytes were copied.
#[derive(Clone, Copy)]
pub(crate) enum Copied {
    /// A split at a fixed offset had left them with the header.
    Split,
    /// The same, without room in front of the others.
    NoRoom,
    /// The packet has no payload in a region.
    Unsplit,
}

/// Received bytes and packets.
#[derive(Clone, Copy, Default)]
pub(crate) struct Received {
    pub(crate) zerocopy: u64,
    /// By [`Copied`].
    pub(crate) copied: [u64; 3],
    pub(crate) zerocopy_packets: u64,
    pub(crate) copied_packets: u64,
}

impl Received {
    fn of_packet(zerocopy: u64, copied: [u64; 3]) -> Self {
        let any_copied = copied.iter().any(|&n| n != 0);
        let any = any_copied || zerocopy != 0;
        Self {
            zerocopy,
            copied,
            zerocopy_packets: (any && !any_copied).into(),
            copied_packets: any_copied.into(),
        }
    }

    fn as_array(self) -> [u64; 6] {
        let [split, no_room, unsplit] = self.copied;
        [
            self.zerocopy,
            split,
            no_room,
            unsplit,
            self.zerocopy_packets,
            self.copied_packets,
        ]
    }
}

/// [`Received`] of a socket, whose lock adders hold.
#[derive(Default)]
pub(crate) struct SocketReceived([Counter; 6]);

impl SocketReceived {
    fn add(&self, received: Received) {
        for (counter, n) in self.0.iter().zip(received.as_array()) {
            counter.add(n);
        }
    }

    /// The sums so far.
    pub(crate) fn get(&self) -> Received {
        received(|counter| self.0.get(counter).map_or(0, Counter::get))
    }
}

/// The numbers that [`Received::as_array`] gives the counters.
fn received(get: impl Fn(usize) -> u64) -> Received {
    Received {
        zerocopy: get(0),
        copied: [get(1), get(2), get(3)],
        zerocopy_packets: get(4),
        copied_packets: get(5),
    }
}

/// What a context counts beside [`Received`].
#[derive(Clone, Copy)]
pub(crate) enum OfContext {
    TxZerocopy = 6,
    TxSends,
    TxCopied,
    TxCopiedSends,
    BadAddr,
    BadReturn,
    Empty,
    Attached,
    Aborted,
    Revoked,
}

/// Counters of a context.
pub(crate) struct ContextStats(PerCpu<16>);

impl ContextStats {
    pub(crate) fn new() -> kernel::error::Result<Self> {
        Ok(Self(PerCpu::new()?))
    }

    /// Adds `n` to a counter.
    pub(crate) fn add(&self, counter: OfContext, n: u64) {
        self.0.add(counter as usize, n);
    }

    /// The sum so far of a counter.
    pub(crate) fn get(&self, counter: OfContext) -> u64 {
        self.0.sum(counter as usize)
    }

    /// The sums so far.
    pub(crate) fn received(&self) -> Received {
        received(|counter| self.0.sum(counter))
    }
}

/// What a region counts in a context.
#[derive(Clone, Copy)]
pub(crate) enum OfRegion {
    RxZerocopy,
    RxCopied,
    TxZerocopy,
    BadReturn,
}

/// Counters of a region in a context.
pub(crate) struct RegionStats(PerCpu<4>);

impl RegionStats {
    pub(crate) fn new() -> kernel::error::Result<Self> {
        Ok(Self(PerCpu::new()?))
    }

    /// Adds `n` to a counter.
    pub(crate) fn add(&self, counter: OfRegion, n: u64) {
        self.0.add(counter as usize, n);
    }

    /// The sum so far of a counter.
    pub(crate) fn get(&self, counter: OfRegion) -> u64 {
        self.0.sum(counter as usize)
    }
}

/// What a queue counts for sockets.
#[derive(Clone, Copy)]
pub(crate) enum OfQueue {
    RxZerocopy,
    RxPackets,
}

/// Counters of a queue.
pub(crate) struct QueueStats {
    /// By the lock of the fill ring.
    pub(crate) filled: Counter,
    pub(crate) bad_addr: Counter,
    pub(crate) bad_return: Counter,
    pub(crate) empty: Counter,
    pub(crate) refilled: Counter,
    pub(crate) drained: Counter,
    received: PerCpu<2>,
}

impl QueueStats {
    pub(crate) fn new() -> kernel::error::Result<Self> {
        Ok(Self {
            filled: Counter::default(),
            bad_addr: Counter::default(),
            bad_return: Counter::default(),
            empty: Counter::default(),
            refilled: Counter::default(),
            drained: Counter::default(),
            received: PerCpu::new()?,
        })
    }

    /// The sum so far of a counter.
    pub(crate) fn get(&self, counter: OfQueue) -> u64 {
        self.received.sum(counter as usize)
    }
}

/// Bytes that lie in one place of many: those of the place before are added up when another comes.
struct Run<'a, T> {
    place: Option<&'a T>,
    bytes: u64,
}

impl<'a, T> Run<'a, T> {
    const fn new() -> Self {
        Self {
            place: None,
            bytes: 0,
        }
    }

    fn add(&mut self, place: &'a T, bytes: u32, count: impl Fn(&T, u64)) {
        if !self.place.is_some_and(|here| core::ptr::eq(here, place)) {
            self.end(count);
            self.place = Some(place);
        }
        self.bytes += u64::from(bytes);
    }

    fn end(&mut self, count: impl Fn(&T, u64)) {
        if let Some(place) = self.place.take() {
            count(place, self.bytes);
        }
        self.bytes = 0;
    }
}

fn count_in_region(region: &Attachment, bytes: u64) {
    region.stats.add(OfRegion::RxZerocopy, bytes);
}

fn count_sent(region: &Attachment, bytes: u64) {
    region.stats.add(OfRegion::TxZerocopy, bytes);
}

fn count_in_queue(queue: &Queue, bytes: u64) {
    let counters = &queue.stats.received;
    counters.add(OfQueue::RxZerocopy as usize, bytes);
    counters.add(OfQueue::RxPackets as usize, 1);
}

/// What became of a packet.
pub(crate) struct Tally<'a> {
    zerocopy: u64,
    copied: [u64; 3],
    region: Run<'a, Attachment>,
    queue: Run<'a, Queue>,
}

impl<'a> Tally<'a> {
    /// Of a packet that is yet to be delivered.
    pub(crate) const fn new() -> Self {
        Self {
            zerocopy: 0,
            copied: [0; 3],
            region: Run::new(),
            queue: Run::new(),
        }
    }

    /// Bytes were delivered where DMA had put them: in `region`, through `queue`.
    pub(crate) fn zerocopy(&mut self, region: &'a Attachment, queue: Option<&'a Queue>, len: u32) {
        self.zerocopy += u64::from(len);
        self.region.add(region, len, count_in_region);
        if let Some(queue) = queue {
            self.queue.add(queue, len, count_in_queue);
        }
    }

    /// Bytes were delivered after a copy into `region`.
    pub(crate) fn copied(&mut self, region: &Attachment, len: u32, why: Copied) {
        self.copied[why as usize] += u64::from(len);
        region.stats.add(OfRegion::RxCopied, len.into());
    }

    /// Adds all of it up.
    pub(crate) fn end(mut self, context: &Context, socket: &Socket) {
        self.region.end(count_in_region);
        self.queue.end(count_in_queue);
        let received = Received::of_packet(self.zerocopy, self.copied);
        socket.stats.received.add(received);
        let [split, no_room, unsplit] = self.copied.map(|bytes| bytes as u32);
        trace::deliver(
            context.id(),
            socket.id(),
            self.zerocopy as u32,
            split,
            no_room,
            unsplit,
        );
        for (counter, n) in received.as_array().into_iter().enumerate() {
            context.stats().0.add(counter, n);
        }
    }
}

/// Of which regions a packet that is to be sent was made.
pub(crate) struct Sent<'a>(Run<'a, Attachment>);

impl<'a> Sent<'a> {
    /// Of none yet.
    pub(crate) const fn new() -> Self {
        Self(Run::new())
    }

    /// Bytes of `region` are part of it.
    pub(crate) fn add(&mut self, region: &'a Attachment, len: u32) {
        self.0.add(region, len, count_sent);
    }

    /// Adds all of it up.
    pub(crate) fn end(mut self) {
        self.0.end(count_sent);
    }
}

/// What a queue has counted.
pub(crate) fn of_queue(queue: &Queue) -> uapi::QueueStats {
    let stats = &queue.stats;
    uapi::QueueStats {
        id: queue.id(),
        filled: stats.filled.get(),
        bad_addr: stats.bad_addr.get(),
        bad_return: stats.bad_return.get(),
        empty: stats.empty.get(),
        refilled: stats.refilled.get(),
        drained: stats.drained.get(),
        rx_zerocopy: stats.get(OfQueue::RxZerocopy),
        rx_packets: stats.get(OfQueue::RxPackets),
        ..Default::default()
    }
}

/// What a socket of `context` has counted.
pub(crate) fn of_socket(context: &Context, socket: &Socket) -> uapi::SocketStats {
    let received = socket.stats.received.get();
    let [split, no_room, unsplit] = received.copied;
    let stalled = socket.stats.stalled.each_ref().map(Counter::get);
    let [ring, share, buffer, pause, memory] = stalled;
    let sends = socket.completions().map(|c| c.counts()).unwrap_or_default();
    uapi::SocketStats {
        id: socket.id(),
        rx_zerocopy: received.zerocopy,
        rx_copied: received.copied.iter().sum(),
        rx_copied_split: split,
        rx_copied_no_room: no_room,
        rx_copied_unsplit: unsplit,
        rx_zerocopy_packets: received.zerocopy_packets,
        rx_copied_packets: received.copied_packets,
        rx_stalled: stalled.iter().sum(),
        rx_stalled_ring: ring,
        rx_stalled_share: share,
        rx_stalled_buffer: buffer,
        rx_stalled_pause: pause,
        rx_stalled_memory: memory,
        tx_zerocopy: socket.stats.tx_zerocopy.get(),
        tx_sends: socket.stats.tx_sends.get(),
        tx_copied: sends.copied_bytes,
        tx_copied_sends: sends.copied,
        tx_refused: sends.refused,
        tx_pending: sends.pending.into(),
        // It wraps below zero, see `Shares`.
        held: (context.shares().held(socket.id()) as i32).max(0) as u64,
        share: context.shares().limit().into(),
        ..Default::default()
    }
}

/// What a context has counted.
pub(crate) fn of_context(context: &Context) -> uapi::ContextStats {
    let stats = context.stats();
    let received = stats.received();
    let [split, no_room, unsplit] = received.copied;
    let [regions, queues, sockets] = context.counts();
    uapi::ContextStats {
        id: context.id(),
        regions: regions as u32,
        queues: queues as u32,
        sockets: sockets as u32,
        buffer_size: context.buffer_size().bytes(),
        attached: stats.get(OfContext::Attached),
        aborted: stats.get(OfContext::Aborted),
        revoked: stats.get(OfContext::Revoked),
        donated: context.shares().donated().into(),
        free: context.shares().free().into(),
        rx_zerocopy: received.zerocopy,
        rx_copied_split: split,
        rx_copied_no_room: no_room,
        rx_copied_unsplit: unsplit,
        rx_zerocopy_packets: received.zerocopy_packets,
        rx_copied_packets: received.copied_packets,
        tx_zerocopy: stats.get(OfContext::TxZerocopy),
        tx_sends: stats.get(OfContext::TxSends),
        tx_copied: stats.get(OfContext::TxCopied),
        tx_copied_sends: stats.get(OfContext::TxCopiedSends),
        bad_addr: stats.get(OfContext::BadAddr),
        bad_return: stats.get(OfContext::BadReturn),
        empty: stats.get(OfContext::Empty),
        ..Default::default()
    }
}

/// What an attached region has counted.
pub(crate) fn of_region(attachment: &Attachment) -> uapi::RegionStats {
    let span = &attachment.map.region().span;
    let stats = &attachment.stats;
    uapi::RegionStats {
        addr: span.start() as u64,
        len: span.len() as u64,
        rx_zerocopy: stats.get(OfRegion::RxZerocopy),
        rx_copied: stats.get(OfRegion::RxCopied),
        tx_zerocopy: stats.get(OfRegion::TxZerocopy),
        bad_return: stats.get(OfRegion::BadReturn),
        free: attachment.buffers.free() as u64,
        ..Default::default()
    }
}
