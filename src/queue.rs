// SPDX-License-Identifier: GPL-2.0

//! Receive queues: the fill ring, and the memory provider behind the queue's page pools.
//!
//! A queue is held by its context while it is open, by the device while it is bound to it, and by each of its page
//! pools until that has drained. The fill ring has one consumer, behind a lock that NAPI takes once for a batch, and
//! process context only for a socket that waits for buffers.

use crate::{
    attach::Attachment,
    buffers::Slot,
    context::Context,
    context::Table,
    ffi::{
        device::Opener,
        late::Late,
        lock::{
            new_bh_lock,
            BhLock, //
        },
        mapping::{
            Mapping,
            RingMemory, //
        },
        module::work_queue,
        pages::Pool,
        provider::Refusal,
        trace,
        uapi::FillEntry, //
    },
    ring::Consumer,
    span::BufferSize,
    stats::{
        OfContext,
        OfRegion,
        QueueStats, //
    }, //
};
use kernel::{
    error::code,
    ffi::c_void,
    impl_has_delayed_work,
    new_delayed_work,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc, //
    },
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Monotonic, //
    },
    workqueue::{
        DelayedWork,
        WorkItem, //
    }, //
};

/// Most fill entries that are looked at in one go, so that a batch of bad ones cannot hold up the CPU.
const BATCH: u32 = 1024;

/// How long until a queue that could not be closed is tried again.
const CLOSE_AGAIN_MS: u32 = 100;

/// How long the device goes without before it gets a buffer that is kept back for copies, in milliseconds, and how long at most until
/// another: each time twice as long. A retransmission timeout is 200 ms at least, twice as long each time, and brings one packet. What
/// else comes before that falls silent soon.
const LEND_FIRST_MS: i64 = 50;
const LEND_LAST_MS: i64 = 1000;

/// The device goes without.
struct Dry {
    /// Since when, but for a buffer that was lent then.
    since: Instant<Monotonic>,
    /// How long until a buffer is lent, in milliseconds.
    wait_ms: i64,
}

/// The fill ring, as its consumer has it.
struct Fill {
    ring: Consumer<Mapping<FillEntry>>,
    /// There is nothing for the device, neither there nor on the free lists.
    dry: Option<Dry>,
}

/// A receive queue of the context's device.
#[pin_data]
pub(crate) struct Queue {
    /// Its number in the context.
    id: u32,
    /// Number of the device's receive queue.
    index: u32,
    context: Late<Context>,
    opener: Opener,
    /// Closes it, once that was tried in vain.
    #[pin]
    close: DelayedWork<Self>,
    ring: Arc<RingMemory>,
    #[pin]
    fill: BhLock<Fill>,
    /// Bytes that are free in front of the payload of its packets, as far as is known.
    headroom: Atomic<u32>,
    /// What it counts.
    pub(crate) stats: QueueStats,
}

impl_has_delayed_work! {
    impl HasDelayedWork<Self> for Queue { self.close }
}

impl WorkItem for Queue {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.context.close_eventually(&this);
    }
}

impl Queue {
    /// A queue that the current process is to open, to be number `id` of the context, with a fill ring of `entries` entries.
    pub(crate) fn new(
        context: Late<Context>,
        id: u32,
        index: u32,
        entries: u32,
    ) -> Result<Arc<Self>> {
        let mapping = Mapping::new(entries)?;
        Arc::pin_init(
            try_pin_init!(Self {
                id,
                index,
                context,
                opener: Opener::current(),
                close <- new_delayed_work!("netgpu::Queue::close"),
                ring: mapping.memory().clone(),
                fill <- new_bh_lock!(
                    Fill {
                        ring: Consumer::new(mapping),
                        dry: None,
                    },
                    "netgpu::Queue::fill"
                ),
                // Packets may come before the device has said more.
                headroom: Atomic::new(0),
                stats: QueueStats::new()?,
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// Closes it a little later, or tries to, and again.
    pub(crate) fn close_later(self: &Arc<Self>) {
        let _ = work_queue().enqueue_delayed(self.clone(), msecs_to_jiffies(CLOSE_AGAIN_MS));
    }

    /// Its number in the context.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Number of the device's receive queue.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Who has opened it.
    pub(crate) fn opener(&self) -> &Opener {
        &self.opener
    }

    /// Bytes that are free in front of the payload of its packets.
    pub(crate) fn headroom(&self) -> u32 {
        self.headroom.load(Relaxed)
    }

    /// The device leaves so many free.
    pub(crate) fn leaves(&self, headroom: u32) {
        self.headroom.store(headroom, Relaxed);
    }

    /// The fill ring's memory.
    pub(crate) fn ring(&self) -> &Arc<RingMemory> {
        &self.ring
    }

    /// The size of its buffers.
    pub(crate) fn buffer_size(&self) -> BufferSize {
        self.context.buffer_size()
    }

    /// Whether a page pool of the device `dma`, with buffers of `bytes`, can work with ours.
    pub(crate) fn check_pool(&self, dma: *const c_void, bytes: usize) -> Result {
        if bytes != self.buffer_size().bytes() as usize || !self.context.is_dma(dma) {
            return Err(EOPNOTSUPP);
        }
        Ok(())
    }

    /// A page pool asks for buffers: at most `max`, first from the fill ring, then from the free lists. Softirq mostly.
    pub(crate) fn refill(&self, pool: &Pool, max: u32) -> u32 {
        let guard = rcu::read_lock();
        let mut given = 0;

        let mut fill = self.fill.lock();
        let mut returns = Returns::new(self, &mut fill.ring, &guard);
        while given < max {
            let Some(Return {
                attachment,
                index,
                count,
                ..
            }) = returns.next()
            else {
                break;
            };
            let pooled = u32::from(attachment.refill(index, count, pool));
            given += pooled;
            self.stats.drained.add((count - pooled).into());
        }
        self.stats.filled.add(given.into());
        let waiting = returns.waiting();
        // What is on the ring still is charged to sockets, of which none is to stall for that.
        if given == max && waiting > self.context.shares().limit() / 4 {
            self.drain_some(&mut returns);
        }
        returns.end();
        // Under the lock still, for the counters.
        if given == 0 {
            let table = self.context.table(&guard);
            given = self.refill_slow(pool, max, table, &mut fill.dry, waiting > 0);
            self.stats.refilled.add(given.into());
        } else {
            fill.dry = None;
        }
        if given == 0 && waiting == 0 {
            trace::queue_empty(self.context.id(), self.id, self.index);
            self.stats.empty.add(1);
            self.context.stats().add(OfContext::Empty, 1);
        }
        given
    }

    /// Gives what is on the free lists, or lends of what is kept back there. What came behind a lost packet may hold all other
    /// buffers, and user space gets none of it before that packet; sent again, it needs a buffer.
    ///
    /// With `more` on the fill ring, the device is not out of buffers: others still have parts of all that was looked at, and it is to ask
    /// again soon.
    fn refill_slow(
        &self,
        pool: &Pool,
        max: u32,
        table: &Table,
        dry: &mut Option<Dry>,
        more: bool,
    ) -> u32 {
        let shares = self.context.shares();
        let given = self.refill_free(pool, max, table, shares.reserve());
        if given > 0 || more {
            *dry = None;
            return given;
        }
        let dry = dry.get_or_insert_with(|| Dry {
            since: Instant::now(),
            wait_ms: LEND_FIRST_MS,
        });
        if dry.since.elapsed() < Delta::from_millis(dry.wait_ms) {
            return 0;
        }
        dry.since = Instant::now();
        dry.wait_ms = (dry.wait_ms * 2).min(LEND_LAST_MS);
        // One at a time, or packets further behind would take them all; the other half is for copies still.
        self.refill_free(pool, 1, table, shares.reserve() / 2)
    }

    /// Gives free buffers, at most `max`; `keep` that can be copied into stay.
    fn refill_free(&self, pool: &Pool, max: u32, table: &Table, keep: u32) -> u32 {
        let shares = self.context.shares();
        let mut given = 0;
        for attachment in table.values().filter(|attachment| attachment.map.is_live()) {
            let keep = if attachment.map.is_writable() {
                keep
            } else {
                0
            };
            given += attachment
                .buffers
                .take_free_down_to(keep, max - given, shares, |index| {
                    attachment.map.give(index, pool);
                });
        }
        given
    }

    /// Works off the fill ring, as it is now, while the device asks for nothing. Process context.
    pub(crate) fn drain(&self) {
        let mut left = self.fill.lock().ring.available();
        while left > 0 {
            let guard = rcu::read_lock();
            let mut fill = self.fill.lock();
            let mut returns = Returns::new(self, &mut fill.ring, &guard);
            self.drain_some(&mut returns);
            returns.end();
            left = left.saturating_sub(BATCH);
        }
    }

    /// Takes as much off the ring as may be looked at.
    #[cold]
    fn drain_some(&self, returns: &mut Returns<'_, '_>) {
        while let Some(back) = returns.next() {
            back.attachment.put(back.index, back.count);
            self.stats.drained.add(back.count.into());
        }
    }
}

/// Counts of a buffer that user space gives back.
struct Return<'a> {
    attachment: &'a Attachment,
    index: u32,
    /// How many in a row.
    count: u32,
    /// What the first entry said.
    addr: u64,
}

/// The buffers that user space gives back, in one go.
struct Returns<'a, 'f> {
    queue: &'a Queue,
    ring: &'f mut Consumer<Mapping<FillEntry>>,
    guard: &'a rcu::Guard,
    /// What the last one is of, and mostly the next, too. It was live when it was found under the RCU guard that is still held.
    home: Option<&'a Attachment>,
    /// What was popped last, if it is not of the buffer of the one before and has not been looked at for that.
    ahead: Option<Return<'a>>,
    /// Entries that may be looked at yet.
    left: u32,
    /// The socket that the last buffer was charged to, and of how many in a row it is to be discharged yet.
    slot: Slot,
    returned: u32,
}

impl<'a, 'f> Returns<'a, 'f> {
    fn new(
        queue: &'a Queue,
        ring: &'f mut Consumer<Mapping<FillEntry>>,
        guard: &'a rcu::Guard,
    ) -> Self {
        Self {
            queue,
            ring,
            guard,
            home: None,
            ahead: None,
            left: BATCH,
            slot: 0,
            returned: 0,
        }
    }

    /// Takes what is next off the ring, and all that is of the same buffer: packets share one, and come back together mostly. Ends when
    /// the ring is empty or enough entries have been looked at.
    #[inline(always)]
    fn next(&mut self) -> Option<Return<'a>> {
        loop {
            let mut back = self.ahead.take().or_else(|| self.pop())?;
            while let Some(more) = self.pop() {
                if more.index != back.index || !core::ptr::eq(more.attachment, back.attachment) {
                    self.ahead = Some(more);
                    break;
                }
                back.count += 1;
            }
            let shares = self.queue.context.shares();
            let buffers = &back.attachment.buffers;
            let returned = buffers.take_back(back.index, back.count, shares);
            if let Some(slot) = returned.discharged {
                self.discharge(slot);
            }
            if returned.count < back.count {
                self.bad_returns(&back, back.count - returned.count);
                back.count = returned.count;
            }
            if back.count > 0 {
                return Some(back);
            }
        }
    }

    /// Takes the next entry that names a buffer off the ring.
    #[inline(always)]
    fn pop(&mut self) -> Option<Return<'a>> {
        while self.left > 0 {
            let addr = self.ring.pop()?.addr;
            self.left -= 1;
            let at = usize::try_from(addr).unwrap_or(usize::MAX);
            let near = self.home.and_then(|home| Some((home, home.buffer(at)?)));
            if let Some((attachment, index)) = near.or_else(|| self.find(at)) {
                return Some(Return {
                    attachment,
                    index,
                    count: 1,
                    addr,
                });
            }
            self.bad_addr(addr);
        }
        None
    }

    /// The socket is charged with one buffer less, in the end.
    #[inline(always)]
    fn discharge(&mut self, slot: Slot) {
        if slot != self.slot {
            self.settle();
            self.slot = slot;
        }
        self.returned += 1;
    }

    fn settle(&mut self) {
        let shares = self.queue.context.shares();
        shares.release(self.slot, core::mem::take(&mut self.returned));
    }

    /// How many more there are.
    fn waiting(&mut self) -> u32 {
        self.ring.available()
    }

    #[cold]
    fn find(&mut self, addr: usize) -> Option<(&'a Attachment, u32)> {
        // In the table of now: the region may have been attached since the last look at it, and been received into.
        let attachment = self.queue.context.table(self.guard).find(addr)?;
        if !attachment.map.is_live() {
            return None;
        }
        self.home = Some(attachment);
        Some((attachment, attachment.buffer(addr)?))
    }

    /// The entry names no buffer.
    #[cold]
    fn bad_addr(&self, addr: u64) {
        let queue = self.queue;
        trace::bad_addr(queue.context.id(), queue.id, addr);
        queue.stats.bad_addr.add(1);
        queue.context.stats().add(OfContext::BadAddr, 1);
    }

    /// `count` entries name a buffer that user space does not hold, or not so often.
    #[cold]
    fn bad_returns(&self, back: &Return<'_>, count: u32) {
        let queue = self.queue;
        for _ in 0..count {
            trace::bad_return(queue.context.id(), queue.id, back.addr);
        }
        let count = count.into();
        queue.stats.bad_return.add(count);
        back.attachment.stats.add(OfRegion::BadReturn, count);
        queue.context.stats().add(OfContext::BadReturn, count);
    }

    /// Gives the places of the entries back.
    fn end(mut self) {
        self.settle();
        if self.ahead.is_some() {
            self.ring.unpop();
        }
        if self.left < BATCH {
            self.ring.release();
        }
    }
}

/// Why a queue was not opened, as the user API has it: what the core and the drivers have one error for is several there.
pub(crate) fn explain(refusal: Refusal) -> (Error, Option<CString>) {
    let Refusal { error, text, .. } = refusal;
    if error == EINVAL && !refusal.split {
        let name = refusal.name.as_deref().unwrap_or(c"DEVICE");
        let advice = fmt!("tcp-data-split is off; turn it on: ethtool -G {name} tcp-data-split on");
        return (error, CString::try_from_fmt(advice).ok());
    }
    let error = if error == EEXIST && refusal.provided {
        EBUSY
    } else if error == code::ERANGE && refusal.exists {
        EINVAL
    } else {
        error
    };
    (error, text)
}
