// SPDX-License-Identifier: GPL-2.0

//! Receiving: from a socket's queue to its rx ring, in place where the NIC's DMA put the bytes, else by a copy.
//!
//! All of it runs under the socket's lock, in softirq or in process context, and never sleeps. When delivery has to stop, the rest
//! stays in the socket's queue, so that the TCP window closes; it goes on when new bytes arrive or when recv(2) asks.

use crate::{
    attach::Attachment,
    context::Context,
    ffi::{
        mapping::Mapping,
        skb::{
            Part,
            Piece,
            PieceIter,
            Pieces, //
        },
        sock::{
            LockedSocket,
            Stream, //
        },
        trace,
        uapi::RxEntry, //
    },
    queue::Queue,
    ring::Producer,
    socket::Socket,
    stats::{
        Copied,
        Tally, //
    }, //
};
use kernel::{
    error::code::{
        ECONNABORTED,
        ENOTCONN, //
    },
    prelude::*,
    sync::{
        rcu,
        Arc, //
    }, //
};

/// Most bytes that are copied in one go: the rest has to wait for recv(2) rather than hold up a softirq.
const COPY_LIMIT: usize = 256 * 1024;

/// Why delivery stopped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The rx ring is full.
    Ring,
    /// The socket's share of buffers is used up.
    Share,
    /// There is no buffer to copy into.
    NoBuffer,
    /// Enough has been copied for now.
    Copied,
    /// The next bytes lie in memory of others.
    Foreign,
    /// The next bytes lie in memory that its exporter has taken back.
    Withdrawn,
    /// The next bytes have to be copied, and no buffer can be copied into.
    Unwritable,
}

impl Stop {
    /// Its place in [`crate::socket::Stats::stalled`].
    fn counter(self) -> usize {
        match self {
            Self::Ring => 0,
            Self::Share => 1,
            Self::NoBuffer => 2,
            Self::Copied => 3,
            Self::Foreign | Self::Withdrawn | Self::Unwritable => 4,
        }
    }
}

/// The buffer that copies go to.
///
/// # Invariants
///
/// We hold a reference to buffer `index`; its bytes from `used` on, which is at most its size, have not been delivered.
struct CopyBuffer {
    attachment: Arc<Attachment>,
    index: u32,
    used: u32,
}

impl CopyBuffer {
    /// Bytes that fit yet.
    fn room(&self) -> u32 {
        self.attachment.map.size().bytes() - self.used
    }
}

/// The state of receiving on a socket.
pub(crate) struct Rx {
    ring: Producer<Mapping<RxEntry>>,
    /// The last entry, which may grow until it is published.
    tail: Option<RxEntry>,
    copy: Option<CopyBuffer>,
    /// Bytes copied since delivery began.
    copied: usize,
    /// The buffers that the socket may hold, as it was then.
    share: u32,
    /// So many of them it does not hold, if not more.
    room: u32,
    /// Those that it is to be charged with before they are published.
    charged: u32,
    stop: Option<Stop>,
    /// Why delivery has stopped, if user space has been told that more waits.
    stalled: Option<Stop>,
}

/// Where delivered bytes lie in a buffer.
struct Place<'a> {
    attachment: &'a Attachment,
    index: u32,
    offset: u32,
    /// Of the first.
    addr: u64,
    len: u32,
}

impl<'a> Place<'a> {
    fn new(attachment: &'a Attachment, index: u32, offset: u32, len: u32) -> Self {
        Self {
            attachment,
            index,
            offset,
            addr: attachment.addresses().of(index, offset),
            len,
        }
    }
}

impl Rx {
    /// Delivers to `ring`.
    pub(crate) fn new(ring: Mapping<RxEntry>) -> Self {
        Self {
            ring: Producer::new(ring),
            tail: None,
            copy: None,
            copied: 0,
            share: 0,
            room: 0,
            charged: 0,
            stop: None,
            stalled: None,
        }
    }

    /// Delivery has ended for good.
    pub(crate) fn close(mut self, context: &Context, socket: &Socket) {
        self.publish(context, socket);
        self.close_copy();
    }

    fn close_copy(&mut self) {
        if let Some(copy) = self.copy.take() {
            copy.attachment.put(copy.index, 1);
        }
    }

    /// Shows user space what was delivered. Returns whether there was anything.
    fn publish(&mut self, context: &Context, socket: &Socket) -> bool {
        self.tail = None;
        if self.charged > 0 {
            context.shares().charge(socket.id(), self.charged);
            self.charged = 0;
        }
        self.ring.publish()
    }

    /// Delivers bytes of a buffer, or tells why not.
    fn deliver(
        &mut self,
        context: &Context,
        socket: &Socket,
        place: Place<'_>,
        rcu: &rcu::Guard,
    ) -> core::result::Result<(), Stop> {
        if !place.attachment.map.is_live() {
            return Err(Stop::Withdrawn);
        }
        self.deliver_live(context, socket, place, rcu)
    }

    /// Delivers bytes of a buffer whose memory was live under the RCU guard that is still held, so that nobody takes the buffer from
    /// user space just before it gets it. Or tells why not.
    #[inline(always)]
    fn deliver_live(
        &mut self,
        context: &Context,
        socket: &Socket,
        place: Place<'_>,
        _rcu: &rcu::Guard,
    ) -> core::result::Result<(), Stop> {
        if self.extend(&place) {
            return Ok(());
        }
        if self.room == 0 {
            let held = context.shares().held(socket.id());
            self.room = self.share.saturating_sub(held.wrapping_add(self.charged));
            if self.room == 0 {
                return Err(Stop::Share);
            }
        }
        self.push(&place)?;
        self.hold(socket, place.attachment, place.index, 1);
        Ok(())
    }

    /// Makes the last entry longer, if the bytes follow it in the same buffer: they share its count.
    #[inline(always)]
    fn extend(&mut self, place: &Place<'_>) -> bool {
        let Some(tail) = &mut self.tail else {
            return false;
        };
        if place.offset == 0 || tail.addr + tail.len != place.addr {
            return false;
        }
        tail.len += u64::from(place.len);
        self.ring.amend(*tail);
        true
    }

    /// Makes an entry, which user space is not to see before [`Self::hold`].
    #[inline(always)]
    fn push(&mut self, place: &Place<'_>) -> core::result::Result<(), Stop> {
        let entry = RxEntry {
            addr: place.addr,
            len: place.len.into(),
        };
        if self.ring.push(entry).is_err() {
            return Err(Stop::Ring);
        }
        self.tail = Some(entry);
        Ok(())
    }

    /// Has user space hold a buffer of which it gets `parts` more entries.
    #[inline(always)]
    fn hold(&mut self, socket: &Socket, attachment: &Attachment, index: u32, parts: u32) {
        // The references first: from the counts on user space may give them back.
        attachment.map.get(index, parts);
        if attachment.buffers.deliver(index, socket.id(), parts) {
            self.room = self.room.saturating_sub(1);
            self.charged += 1;
        }
    }

    /// Delivers `part` and those of `pieces` that follow and are like it. Returns how many bytes; fewer than all set the reason to stop.
    #[inline(always)]
    fn parts<'a>(
        &mut self,
        context: &Context,
        socket: &Socket,
        mut part: Part<'a>,
        pieces: &mut PieceIter<'a>,
        rcu: &rcu::Guard,
        tally: &mut Tally<'a>,
    ) -> u32 {
        let Part {
            attachment, queue, ..
        } = part;
        if !attachment.map.is_live() {
            self.stop = Some(Stop::Withdrawn);
            return 0;
        }
        let addresses = attachment.addresses();
        // A copy, which the compiler knows nobody else to change between atomic operations.
        let mut near = pieces.clone();
        let mut taken = 0;
        loop {
            let place = |offset, len| Place {
                attachment,
                index: part.index,
                offset,
                addr: addresses.of(part.index, offset),
                len,
            };
            let first = place(part.offset, part.len);
            if let Err(stop) = self.deliver_live(context, socket, first, rcu) {
                self.stop = Some(stop);
                break;
            }
            taken += part.len;
            taken += self.parts_of_same(socket, &part, &mut near, place);
            if self.stop.is_some() {
                break;
            }
            match near.next_like(&part) {
                Some(next) => part = next,
                None => break,
            }
        }
        *pieces = near;
        if taken > 0 {
            tally.zerocopy(attachment, queue, taken);
        }
        taken
    }

    /// Delivers those of `pieces` that follow in the buffer of `part`, at the places that `place` says. Returns how many bytes; if there is
    /// no room for all, it sets the reason to stop. What they need is done once: that there is room for the buffer was seen with `part`, and
    /// until they are held, which is before user space sees any of them, the packet holds it.
    #[inline(always)]
    fn parts_of_same<'a>(
        &mut self,
        socket: &Socket,
        part: &Part<'a>,
        pieces: &mut PieceIter<'a>,
        place: impl Fn(u32, u32) -> Place<'a>,
    ) -> u32 {
        let (mut taken, mut entries) = (0, 0);
        while let Some((offset, len)) = pieces.next_in(part) {
            let place = place(offset, len);
            if !self.extend(&place) {
                if let Err(stop) = self.push(&place) {
                    self.stop = Some(stop);
                    break;
                }
                entries += 1;
            }
            taken += len;
        }
        if entries > 0 {
            self.hold(socket, part.attachment, part.index, entries);
        }
        taken
    }

    /// Delivers `part`, with `slack` in front of it, which fits. Returns how many bytes: none, if there is a reason to stop.
    fn with_slack<'a>(
        &mut self,
        context: &Context,
        socket: &Socket,
        slack: &[u8],
        part: Part<'a>,
        rcu: &rcu::Guard,
        tally: &mut Tally<'a>,
    ) -> u32 {
        let Part {
            attachment, index, ..
        } = part;
        let len = part.len + slack.len() as u32;
        let place = Place::new(attachment, index, part.offset - slack.len() as u32, len);
        // As in `copy_some()`: the bytes first.
        let written = attachment.map.write(index, place.offset, slack);
        let result = written
            .map_err(|_| Stop::Withdrawn)
            .and_then(|()| self.deliver(context, socket, place, rcu));
        if let Err(stop) = result {
            self.stop = Some(stop);
            return 0;
        }
        tally.zerocopy(attachment, part.queue, part.len);
        tally.copied(attachment, slack.len() as u32, Copied::Split);
        len
    }

    /// Delivers `data`, which the CPU has, and what is next of `pieces` with it, if they are one piece then. Returns how many bytes.
    #[inline(never)]
    fn bytes<'a>(
        &mut self,
        context: &Context,
        socket: &Socket,
        data: &[u8],
        pieces: &mut PieceIter<'a>,
        rcu: &rcu::Guard,
        tally: &mut Tally<'a>,
    ) -> u32 {
        let why = match pieces.peek() {
            // The first bytes of a packet's payload stayed with its headers: they fit in front of the others.
            Some(Piece::Part(part)) if fits(data, &part) => {
                let both = self.with_slack(context, socket, data, part, rcu, tally);
                if both > 0 {
                    pieces.next();
                }
                return both;
            }
            Some(Piece::Part(_)) => Copied::NoRoom,
            _ => Copied::Unsplit,
        };
        self.copy(context, socket, data, rcu, |attachment, len| {
            tally.copied(attachment, len, why);
        }) as u32
    }

    /// Copies as much of `data` as it can and returns how much; fewer than all set the reason to stop.
    fn copy(
        &mut self,
        context: &Context,
        socket: &Socket,
        data: &[u8],
        rcu: &rcu::Guard,
        mut count: impl FnMut(&Attachment, u32),
    ) -> usize {
        let mut done = 0;
        while done < data.len() {
            let result = self.copy_some(context, socket, &data[done..], rcu, &mut done, &mut count);
            if let Err(stop) = result {
                self.stop = Some(stop);
                break;
            }
        }
        self.copied += done;
        done
    }

    fn copy_some(
        &mut self,
        context: &Context,
        socket: &Socket,
        data: &[u8],
        rcu: &rcu::Guard,
        done: &mut usize,
        mut count: impl FnMut(&Attachment, u32),
    ) -> core::result::Result<(), Stop> {
        if self.copied + *done >= COPY_LIMIT {
            return Err(Stop::Copied);
        }
        if self
            .copy
            .as_ref()
            .is_some_and(|copy| copy.room() == 0 || !copy.attachment.map.is_live())
        {
            self.close_copy();
        }
        let mut copy = match self.copy.take() {
            Some(copy) => copy,
            None => {
                let (attachment, index) = match context.take_free() {
                    Some(free) => free,
                    None if context.is_writable() => return Err(Stop::NoBuffer),
                    None => return Err(Stop::Unwritable),
                };
                // INVARIANT: A buffer of the free list comes with a reference.
                CopyBuffer {
                    attachment,
                    index,
                    used: 0,
                }
            }
        };
        let data = data.get(..copy.room() as usize).unwrap_or(data);
        let len = data.len() as u32;
        let place = Place::new(&copy.attachment, copy.index, copy.used, len);
        // The bytes first, which user space does not look at before `publish()`: the memory may be taken back at any time.
        let written = copy.attachment.map.write(copy.index, copy.used, data);
        let result = written
            .map_err(|_| Stop::Withdrawn)
            .and_then(|()| self.deliver(context, socket, place, rcu));
        if result.is_ok() {
            // INVARIANT: `len` is at most what was left.
            copy.used += len;
            *done += data.len();
            count(&copy.attachment, len);
        }
        self.copy = Some(copy);
        result
    }

    /// Delivery has come to an end for now. Returns whether there is reason to go on at once.
    fn settle(&mut self, context: u64, socket: &Socket) -> bool {
        let Some(stop) = self.stop else {
            if self.stalled.take().is_some() {
                self.ring.resume();
            }
            return false;
        };
        if self.stalled != Some(stop) {
            socket.stats.stalled[stop.counter()].add(1);
            trace::stall(context, socket.id(), stop.counter() as u32);
        }
        // For want of ring space, space that was made meanwhile will do; else only recv(2) helps.
        let wanted = if stop == Stop::Ring { 1 } else { u32::MAX };
        self.stalled = self.ring.stall(wanted).then_some(stop);
        self.stalled.is_none()
    }
}

/// Delivers what waits on the socket.
pub(crate) fn ready(locked: &mut LockedSocket<'_>) {
    let socket = locked.socket();
    loop {
        let state = locked.state();
        let (Some(context), Some(rx)) = (&state.context, &mut state.rx) else {
            return;
        };
        rx.stop = None;
        rx.copied = 0;
        rx.share = context.shares().limit();
        rx.room = 0;
        locked.read();
        let state = locked.state();
        let (Some(context), Some(rx)) = (&state.context, &mut state.rx) else {
            return;
        };
        // That more waits is news only once: recv(2) of who asks in vain must not wake who waits.
        let news = rx.publish(context, socket) || (rx.stop.is_some() && rx.stop != rx.stalled);
        let again = rx.settle(context.id(), socket);
        if news {
            locked.wake();
        }
        if !again {
            return;
        }
    }
}

/// recv(2): takes back what user space has returned, delivers what waits, and answers as TCP would with all of it read: that
/// the stream has ended, or why there is nothing. `EFAULT`: the next bytes lie in memory of others; `ECONNABORTED`: in memory that
/// was taken back; `EOPNOTSUPP`: they have to be copied, and there is no memory for that.
pub(crate) fn recv(locked: &mut LockedSocket<'_>) -> Result {
    if let Some(context) = &locked.state().context {
        context.drain_queues();
    }
    ready(locked);
    match locked.state().rx.as_ref().and_then(|rx| rx.stop) {
        Some(Stop::Foreign) => return Err(EFAULT),
        Some(Stop::Withdrawn) => return Err(ECONNABORTED),
        Some(Stop::Unwritable) => return Err(EOPNOTSUPP),
        _ => {}
    }
    let stream = locked.stream();
    if stream.waiting {
        return Err(EAGAIN);
    }
    if stream.told {
        return Ok(());
    }
    locked.take_error()?;
    match stream {
        Stream { shut: true, .. } => Ok(()),
        Stream { closed: true, .. } => Err(ENOTCONN),
        _ => Err(EAGAIN),
    }
}

/// Delivers pieces of a packet. Returns how many bytes of them were taken.
pub(crate) fn pieces(locked: &mut LockedSocket<'_>, pieces: &Pieces<'_>) -> Result<u32> {
    let socket = locked.socket();
    let state = locked.state();
    let (Some(context), Some(rx)) = (&state.context, &mut state.rx) else {
        return Err(EAGAIN);
    };
    let rcu = rcu::read_lock();
    let mut taken = 0;
    let mut tally = Tally::new();
    let mut pieces = pieces.iter(context);
    while rx.stop.is_none() {
        let Some(piece) = pieces.next() else {
            break;
        };
        taken += match piece {
            Piece::Part(part) => rx.parts(context, socket, part, &mut pieces, &rcu, &mut tally),
            Piece::Bytes(data) => rx.bytes(context, socket, data, &mut pieces, &rcu, &mut tally),
            Piece::Foreign => {
                rx.stop = Some(Stop::Foreign);
                0
            }
        };
    }
    tally.end(context, socket);
    match rx.stop {
        Some(Stop::Foreign) if taken == 0 => Err(EFAULT),
        _ => Ok(taken),
    }
}

/// Whether there is room for `slack` in front of `part`, and the CPU can write it.
fn fits(slack: &[u8], part: &Part<'_>) -> bool {
    let headroom = part.queue.map_or(0, Queue::headroom);
    part.attachment.map.is_writable() && slack.len() <= headroom.min(part.offset) as usize
}
