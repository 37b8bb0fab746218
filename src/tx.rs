// SPDX-License-Identifier: GPL-2.0

//! Sending: sendmsg(2) with MSG_ZEROCOPY from a region, and the completions that follow.
//!
//! A send is an object of its own, to which every packet that is made of it refers, or to one that holds it. TCP keeps those until the
//! peer has acknowledged them, the device until it has read them. Whoever drops the last reference, in any context, writes the
//! completion. Its place on the ring was reserved when the send began, so that nothing is left to fail then.

use crate::{
    attach::Attachment,
    context::{
        Context,
        Table, //
    },
    ffi::{
        inline::peek,
        late::Late,
        mapping::Mapping,
        send::{
            Message,
            Room,
            SendRef, //
        },
        sock::LockedSocket,
        trace,
        uapi::{
            Completion,
            COMPLETION_COPIED, //
        }, //
    },
    ring::{
        Memory,
        Producer, //
    },
    socket::Socket,
    stats::{
        OfContext,
        Sent, //
    }, //
};
use kernel::{
    error::code,
    new_spinlock_irq,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc,
        SpinLockIrq, //
    }, //
};

/// The completions of a socket.
#[pin_data]
pub(crate) struct Completions {
    #[pin]
    ring: SpinLockIrq<Ring>,
}

/// Memory of sends that have finished that is kept for the next ones.
const ROOMS: usize = 64;

/// Completions for which interrupts are off at a time.
const BATCH: usize = 32;

struct Ring {
    producer: Producer<Mapping<Completion>>,
    /// Sends that have a place and have not finished.
    pending: u32,
    rooms: KVec<Room>,
    counts: Counts,
}

/// What became of sends.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    /// That have not finished.
    pub(crate) pending: u32,
    /// That finished and were copied on their way.
    pub(crate) copied: u64,
    /// Bytes of those.
    pub(crate) copied_bytes: u64,
    /// That found no place.
    pub(crate) refused: u64,
}

impl Completions {
    /// Completions that appear on `ring`.
    pub(crate) fn new(ring: Mapping<Completion>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            ring <- new_spinlock_irq!(Ring {
                producer: Producer::new(ring),
                pending: 0,
                rooms: KVec::with_capacity(ROOMS, GFP_KERNEL_ACCOUNT)?,
                counts: Counts::default(),
            }, "netgpu::Completions::ring"),
        })
    }

    /// Sends that have not finished.
    pub(crate) fn pending(&self) -> u32 {
        self.ring.lock().pending
    }

    /// Reserves a place, for [`Ring::finish`], and returns memory for the send if some is left of others. `ENOBUFS`: every place has
    /// a send that is unfinished or unread.
    fn reserve(&self) -> Result<Option<Room>> {
        let mut ring = self.ring.lock();
        let used = ring.producer.unread().saturating_add(ring.pending);
        if used >= ring.producer.memory().entries() {
            ring.counts.refused += 1;
            return Err(code::ENOBUFS);
        }
        ring.pending += 1;
        Ok(ring.rooms.pop())
    }

    /// What became of sends so far.
    pub(crate) fn counts(&self) -> Counts {
        let ring = self.ring.lock();
        Counts {
            pending: ring.pending,
            ..ring.counts
        }
    }
}

impl Ring {
    /// Gives a place back, with or without a completion in it, which [`Producer::publish`] shows, of a send of `queued` bytes.
    fn finish(&mut self, completion: Option<Completion>, queued: u32) {
        self.pending -= 1;
        if let Some(completion) = completion {
            if completion.flags & COMPLETION_COPIED != 0 {
                self.counts.copied += 1;
                self.counts.copied_bytes += u64::from(queued);
            }
            // Full only if user space moved its index back: then it is its own completion that is lost.
            let _ = self.producer.push(completion);
        }
    }
}

/// A send.
pub(crate) struct Send {
    socket: Late<Socket>,
    /// Keeps the memory, which packets refer to, mapped and pinned.
    context: Late<Context>,
    /// Number of the send, once it has queued bytes.
    id: Atomic<u32>,
    /// Bytes that it has queued.
    queued: Atomic<u32>,
}

/// A part of a region that is to be sent.
pub(crate) struct Span<'a> {
    /// The region.
    pub(crate) attachment: &'a Attachment,
    /// Number of the first buffer.
    pub(crate) index: u32,
    /// First byte of that.
    pub(crate) offset: u32,
    /// Number of bytes, all of them in the region.
    pub(crate) len: usize,
}

impl Send {
    /// Cuts the `len` bytes at `addr` into parts of one region each and hands them to `take`, which says how many bytes it took, until it
    /// takes less than it got, or an address lies in no region.
    pub(crate) fn spans(&self, addr: usize, len: usize, mut take: impl FnMut(Span<'_>) -> usize) {
        let guard = rcu::read_lock();
        let table = self.context.table(&guard);
        let mut sent = Sent::new();
        let mut done = 0;
        while done < len {
            let at = addr + done;
            let found = find(table, at).and_then(|here| Some((here, here.buffer(at)?)));
            let Some((attachment, index)) = found else {
                break;
            };
            let size = attachment.map.size().bytes() as usize;
            let part = (len - done).min(attachment.map.region().span.end() - at);
            let taken = take(Span {
                attachment,
                index,
                offset: (at % size) as u32,
                len: part,
            });
            sent.add(attachment, taken as u32);
            done += taken;
            if taken < part {
                break;
            }
        }
        sent.end();
    }

    /// Its bytes are queued: tells its context, and who listens.
    fn count(&self) {
        let counters = self.context.stats();
        counters.add(OfContext::TxZerocopy, self.queued.load(Relaxed).into());
        counters.add(OfContext::TxSends, 1);
        trace::send(
            self.context.id(),
            self.socket.id(),
            self.id.load(Relaxed),
            self.queued.load(Relaxed),
        );
    }

    /// The completion of a send that nothing refers to any longer, and how many bytes it had queued. [`None`] where it had none: its number
    /// is another's.
    fn completion(&self, copied: bool) -> (Option<Completion>, u32) {
        // Whoever set these dropped a reference later, so they are seen here.
        let queued = peek(&self.queued);
        if queued == 0 {
            return (None, 0);
        }
        if copied {
            let counters = self.context.stats();
            counters.add(OfContext::TxCopied, queued.into());
            counters.add(OfContext::TxCopiedSends, 1);
        }
        let completion = Completion {
            id: peek(&self.id),
            flags: if copied { COMPLETION_COPIED } else { 0 },
        };
        trace::complete(self.context.id(), self.socket.id(), completion.id, copied);
        (Some(completion), queued)
    }
}

/// Sends of one socket to which nothing refers any longer, each with its memory and whether bytes had to be copied on their way. Any
/// context.
pub(crate) fn done(sends: impl Iterator<Item = (Send, Room, bool)>) {
    let mut sends = sends.peekable();
    let Some((first, ..)) = sends.peek() else {
        return;
    };
    // Holds the socket until its lock is given back.
    let socket = first.socket.clone();
    let Some(completions) = socket.completions() else {
        return;
    };
    let mut any = false;
    while sends.peek().is_some() {
        let mut ring = completions.ring.lock();
        for (send, room, copied) in sends.by_ref().take(BATCH) {
            let (completion, queued) = send.completion(copied);
            any |= completion.is_some();
            ring.finish(completion, queued);
            // Without a place for it, it is freed.
            let _ = ring.rooms.push_within_capacity(room);
        }
        ring.producer.publish();
    }
    if any {
        socket.wake();
    }
}

/// The attachment that `addr` lies in, unless its memory is to be given back.
fn find(table: &Table, addr: usize) -> Option<&Arc<Attachment>> {
    table
        .find(addr)
        .filter(|attachment| attachment.map.is_live())
}

/// Whether the `len` bytes at `addr` lie in regions of `context`.
pub(crate) fn contains(context: &Context, addr: usize, len: usize) -> bool {
    let Some(end) = addr.checked_add(len) else {
        return false;
    };
    let guard = rcu::read_lock();
    let table = context.table(&guard);
    let mut at = addr;
    while at < end {
        match find(table, at) {
            Some(attachment) => at = attachment.map.region().span.end(),
            None => return false,
        }
    }
    true
}

/// sendmsg(2) with MSG_ZEROCOPY. Returns the number of bytes that were queued.
pub(crate) fn send(locked: &mut LockedSocket<'_>, message: &mut Message<'_>) -> Result<u32> {
    let socket = locked.socket();
    let completions = socket.completions().ok_or(EINVAL)?;
    let context = locked.state().context.clone().ok_or(code::ECONNABORTED)?;
    if !message.lies_within(&context) {
        return Err(EFAULT);
    }
    if locked.is_opened_by(message) || locked.is_signed() {
        return Err(code::EOPNOTSUPP);
    }
    if !locked.routed_over(context.device()?) {
        return Err(ENODEV);
    }
    let room = match completions.reserve()? {
        Some(room) => room,
        None => Room::new().inspect_err(|_| completions.ring.lock().finish(None, 0))?,
    };
    let send = Send {
        socket: socket.clone(),
        context,
        id: Atomic::new(0),
        queued: Atomic::new(0),
    };
    let send = SendRef::new(send, room);

    // Our reference keeps the send from finishing before it has its number.
    let queued = locked.queue(message, &send)?;
    if queued > 0 {
        let state = locked.state();
        send.id.store(state.sends, Relaxed);
        state.sends = state.sends.wrapping_add(1);
        send.queued.store(queued, Relaxed);
        socket.stats.tx_zerocopy.add(queued.into());
        socket.stats.tx_sends.add(1);
        send.count();
    }
    Ok(queued)
}

#[kunit_tests(netgpu_completions)]
mod tests {
    use super::*;
    use crate::ring::Consumer;

    type Ends = (Pin<KBox<Completions>>, Consumer<Mapping<Completion>>);

    fn completions(entries: u32) -> Result<Ends> {
        let ring = Mapping::new(entries)?;
        let completions = KBox::pin_init(Completions::new(ring.share()), GFP_KERNEL)?;
        Ok((completions, Consumer::new(ring)))
    }

    fn completion(id: u32) -> Option<Completion> {
        Some(Completion { id, flags: 0 })
    }

    fn finish(completions: &Completions, completion: Option<Completion>, queued: u32) {
        let mut ring = completions.ring.lock();
        ring.finish(completion, queued);
        ring.producer.publish();
    }

    #[test]
    fn places_are_as_many_as_entries() -> Result {
        let (completions, mut consumer) = completions(16)?;
        for _ in 0..16 {
            assert!(completions.reserve().is_ok());
        }
        assert!(completions.reserve().is_err());
        finish(&completions, None, 0);
        assert!(completions.reserve().is_ok());
        // A finished send keeps its place until it was read.
        finish(&completions, completion(7), 0);
        assert!(completions.reserve().is_err());
        assert_eq!(consumer.pop().map(|c| c.id), Some(7));
        assert!(completions.reserve().is_err());
        consumer.release();
        assert!(completions.reserve().is_ok());
        assert_eq!(completions.pending(), 16);
        Ok(())
    }

    #[test]
    fn completions_come_as_sends_finish() -> Result {
        let (completions, mut consumer) = completions(16)?;
        for _ in 0..3 {
            completions.reserve()?;
        }
        for id in [1, 2, 0] {
            finish(&completions, completion(id), 0);
        }
        for id in [1, 2, 0] {
            assert_eq!(consumer.pop().map(|c| c.id), Some(id));
        }
        assert!(consumer.pop().is_none());
        assert_eq!(completions.pending(), 0);
        Ok(())
    }

    #[test]
    fn memory_of_sends_is_used_again() -> Result {
        let (completions, _consumer) = completions(1024)?;
        assert!(completions.reserve()?.is_none());
        let keep = |room| completions.ring.lock().rooms.push_within_capacity(room);
        for _ in 0..ROOMS {
            assert!(keep(Room::new()?).is_ok());
        }
        // Not of any number of them.
        assert!(keep(Room::new()?).is_err());
        for _ in 0..ROOMS {
            assert!(completions.reserve()?.is_some());
        }
        assert!(completions.reserve()?.is_none());
        Ok(())
    }

    #[test]
    fn copied_and_refused_sends_are_counted() -> Result {
        let (completions, _consumer) = completions(16)?;
        for _ in 0..16 {
            completions.reserve()?;
        }
        assert!(completions.reserve().is_err());
        let copied = Completion {
            id: 0,
            flags: COMPLETION_COPIED,
        };
        finish(&completions, Some(copied), 7);
        finish(&completions, completion(1), 9);
        let counts = completions.counts();
        assert_eq!((counts.pending, counts.refused), (14, 1));
        assert_eq!((counts.copied, counts.copied_bytes), (1, 7));
        Ok(())
    }
}
