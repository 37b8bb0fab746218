// SPDX-License-Identifier: GPL-2.0

//! Sending: sendmsg(2) with MSG_ZEROCOPY from a region, and the completions that follow.
//!
//! A send is an object of its own, to which every packet that is made of it refers. TCP keeps those until the peer has
//! acknowledged them, the device until it has read them. Whoever drops the last reference, in any context, writes the
//! completion. Its place on the ring was reserved when the send began, so that nothing is left to fail then.

use crate::{
    attach::Attachment,
    context::{
        Context,
        Table, //
    },
    ffi::{
        late::Late,
        mapping::Mapping,
        send::{
            Message,
            SendRef, //
        },
        sock::{
            LockedSocket,
            Sock, //
        },
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

struct Ring {
    producer: Producer<Mapping<Completion>>,
    /// Sends that have a place and have not finished.
    pending: u32,
    /// Number of the next send.
    next: u32,
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
    pub(crate) fn new(ring: Mapping<Completion>) -> impl PinInit<Self> {
        pin_init!(Self {
            ring <- new_spinlock_irq!(Ring {
                producer: Producer::new(ring),
                pending: 0,
                next: 0,
                counts: Counts::default(),
            }, "netgpu::Completions::ring"),
        })
    }

    /// Sends that have not finished.
    pub(crate) fn pending(&self) -> u32 {
        self.ring.lock().pending
    }

    /// Reserves a place, for [`Self::finish`]. `ENOBUFS`: every place has a send that is unfinished or unread.
    fn reserve(&self) -> Result {
        let mut ring = self.ring.lock();
        let used = ring.producer.unread().saturating_add(ring.pending);
        if used >= ring.producer.memory().entries() {
            ring.counts.refused += 1;
            return Err(code::ENOBUFS);
        }
        ring.pending += 1;
        Ok(())
    }

    /// The number of a send that has queued its bytes.
    fn number(&self) -> u32 {
        let mut ring = self.ring.lock();
        let number = ring.next;
        ring.next = number.wrapping_add(1);
        number
    }

    /// What became of sends so far.
    pub(crate) fn counts(&self) -> Counts {
        let ring = self.ring.lock();
        Counts {
            pending: ring.pending,
            ..ring.counts
        }
    }

    /// Gives a place back, with or without a completion in it, of a send of `queued` bytes.
    fn finish(&self, completion: Option<Completion>, queued: u32) {
        let mut ring = self.ring.lock();
        ring.pending -= 1;
        if let Some(completion) = completion {
            if completion.flags & COMPLETION_COPIED != 0 {
                ring.counts.copied += 1;
                ring.counts.copied_bytes += u64::from(queued);
            }
            // Full only if user space moved its index back: then it is its own completion that is lost.
            let _ = ring.producer.push(completion);
            ring.producer.publish();
        }
    }
}

/// A send.
pub(crate) struct Send {
    socket: Late<Socket>,
    sock: Sock,
    /// Keeps the memory, which packets refer to, mapped and pinned.
    context: Late<Context>,
    /// Number of the send, once it has queued bytes.
    id: Atomic<u32>,
    /// Bytes that it has queued.
    queued: Atomic<u32>,
    copied: Atomic<bool>,
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
    /// Some bytes had to be copied on their way.
    pub(crate) fn copied(&self) {
        self.copied.store(true, Relaxed);
    }

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

    /// Nothing refers to the send any longer. Any context.
    pub(crate) fn done(&self) {
        let Some(completions) = self.socket.completions() else {
            return;
        };
        // Whoever set these dropped a reference later, so they are seen here.
        let queued = self.queued.load(Relaxed);
        if queued == 0 {
            completions.finish(None, 0);
            return;
        }
        let copied = self.copied.load(Relaxed);
        if copied {
            let counters = self.context.stats();
            counters.add(OfContext::TxCopied, queued.into());
            counters.add(OfContext::TxCopiedSends, 1);
        }
        let completion = Completion {
            id: self.id.load(Relaxed),
            flags: if copied { COMPLETION_COPIED } else { 0 },
        };
        completions.finish(Some(completion), queued);
        trace::complete(self.context.id(), self.socket.id(), completion.id, copied);
        self.sock.wake();
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
    if !locked.routed_over(context.device()?) {
        return Err(ENODEV);
    }
    completions.reserve()?;
    let send = SendRef::new(Send {
        socket: socket.clone(),
        sock: locked.sock(),
        context,
        id: Atomic::new(0),
        queued: Atomic::new(0),
        copied: Atomic::new(false),
    })
    .inspect_err(|_| completions.finish(None, 0))?;

    // Our reference keeps the send from finishing before it has its number.
    let queued = locked.queue(message, &send)?;
    if queued > 0 {
        send.id.store(completions.number(), Relaxed);
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

    #[test]
    fn places_are_as_many_as_entries() -> Result {
        let (completions, mut consumer) = completions(16)?;
        for _ in 0..16 {
            assert!(completions.reserve().is_ok());
        }
        assert!(completions.reserve().is_err());
        completions.finish(None, 0);
        assert!(completions.reserve().is_ok());
        // A finished send keeps its place until it was read.
        completions.finish(completion(7), 0);
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
        assert_eq!(
            [
                completions.number(),
                completions.number(),
                completions.number()
            ],
            [0, 1, 2]
        );
        for id in [1, 2, 0] {
            completions.finish(completion(id), 0);
        }
        for id in [1, 2, 0] {
            assert_eq!(consumer.pop().map(|c| c.id), Some(id));
        }
        assert!(consumer.pop().is_none());
        assert_eq!(completions.pending(), 0);
        Ok(())
    }

    #[test]
    fn copied_and_refused_sends_are_counted() -> Result {
        let (completions, _consumer) = completions(16)?;
        for _ in 0..16 {
            completions.reserve()?;
        }
        assert!(completions.reserve().is_err());
        completions.finish(
            Some(Completion {
                id: 0,
                flags: COMPLETION_COPIED,
            }),
            7,
        );
        completions.finish(completion(1), 9);
        let counts = completions.counts();
        assert_eq!((counts.pending, counts.refused), (14, 1));
        assert_eq!((counts.copied, counts.copied_bytes), (1, 7));
        Ok(())
    }
}
