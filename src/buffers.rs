// SPDX-License-Identifier: GPL-2.0

//! Who has which buffer: the counts of what user space holds, the shares of its sockets, and the buffers that
//! nobody has.
//!
//! A buffer's count starts at one: user space owns it. A delivery adds one, a fill entry takes one away. While
//! the count is above zero because of deliveries, the buffer is charged to the socket that was first to
//! deliver it; that is what a socket's share limits.

use crate::ffi::{
    inline::{
        add,
        cmpxchg,
        peek,
        sub, //
    },
    lock::{
        new_bh_lock,
        BhLock, //
    }, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

/// Number of a socket in its context.
pub(crate) type Slot = u32;

/// Charged to nobody: user space has had the buffer from the start.
const NOBODY: Slot = Slot::MAX;

/// What user space gave back of its counts of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Returned {
    /// How many it had of those that it gave back.
    pub(crate) count: u32,
    /// The socket that is to be charged with the buffer no longer.
    pub(crate) discharged: Option<Slot>,
}

/// What the sockets of a context may hold of its buffers.
pub(crate) struct Shares {
    /// Buffers charged to each socket; wraps below zero where one is reclaimed, or returned by who was not
    /// shown it yet, before it is charged.
    held: KVVec<Atomic<u32>>,
    /// Buffers that user space has ever given to the kernel.
    donated: Atomic<u32>,
    /// Buffers on free lists that can be copied into.
    free: Atomic<u32>,
    /// Sockets that receive.
    receivers: Atomic<u32>,
}

impl Shares {
    /// For at most `slots` sockets.
    pub(crate) fn new(slots: u32) -> Result<Self> {
        let mut held = KVVec::with_capacity(slots as usize, GFP_KERNEL_ACCOUNT)?;
        for _ in 0..slots {
            held.push(Atomic::new(0), GFP_KERNEL_ACCOUNT)?;
        }
        Ok(Self {
            held,
            donated: Atomic::new(0),
            free: Atomic::new(0),
            receivers: Atomic::new(0),
        })
    }

    /// Another socket receives.
    pub(crate) fn join(&self) {
        self.receivers.fetch_add(1, Relaxed);
    }

    /// A socket has stopped receiving.
    pub(crate) fn leave(&self) {
        self.receivers.fetch_sub(1, Relaxed);
    }

    /// How many buffers one socket may hold: half of what was donated is for what is in user space's hands, in
    /// equal parts, the other half for the device and the sockets' receive queues.
    pub(crate) fn limit(&self) -> u32 {
        (peek(&self.donated) / 2 / peek(&self.receivers).max(1)).max(1)
    }

    /// Buffers charged to the socket.
    pub(crate) fn held(&self, slot: Slot) -> u32 {
        self.held.get(slot as usize).map_or(0, peek)
    }

    /// How many free buffers are kept back for copies: the device would take all, and a small packet uses none of them up.
    pub(crate) fn reserve(&self) -> u32 {
        (self.donated.load(Relaxed) / 8).clamp(1, 128)
    }

    /// Whether another free buffer is to be kept back.
    pub(crate) fn wants_reserve(&self) -> bool {
        self.free.load(Relaxed) < self.reserve()
    }

    /// Buffers that user space has given to the kernel.
    pub(crate) fn donated(&self) -> u32 {
        self.donated.load(Relaxed)
    }

    /// Buffers on free lists that can be copied into.
    pub(crate) fn free(&self) -> u32 {
        self.free.load(Relaxed)
    }

    /// `count` buffers that have all been given to the kernel are gone.
    pub(crate) fn forget(&self, count: u32) {
        self.donated.fetch_sub(count, Relaxed);
    }

    /// The socket has `count` more buffers. Not for each of them, but before user space sees any.
    pub(crate) fn charge(&self, slot: Slot, count: u32) {
        if let Some(held) = self.held.get(slot as usize) {
            add(held, count);
        }
    }

    /// The socket has `count` buffers less; of nobody they are donated.
    pub(crate) fn release(&self, slot: Slot, count: u32) {
        match self.held.get(slot as usize) {
            Some(held) => sub(held, count),
            None => add(&self.donated, count),
        }
    }
}

/// The buffers of an attachment, by number.
#[pin_data]
pub(crate) struct Buffers {
    /// For each buffer whom it is charged to (high half) and its count (low half).
    holds: KVVec<Atomic<u64>>,
    /// Buffers that neither user space nor a pool has. Never grows past its capacity, one for each buffer.
    #[pin]
    free: BhLock<KVVec<u32>>,
    /// Whether they can be copied into.
    writable: bool,
}

fn pack(slot: Slot, count: u32) -> u64 {
    u64::from(slot) << 32 | u64::from(count)
}

fn unpack(hold: u64) -> (Slot, u32) {
    ((hold >> 32) as Slot, hold as u32)
}

impl Buffers {
    /// `count` buffers that user space owns, and that can be copied into or not.
    pub(crate) fn new(count: u32, writable: bool) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            holds: {
                let mut holds = KVVec::with_capacity(count as usize, GFP_KERNEL_ACCOUNT)?;
                for _ in 0..count {
                    let _ = holds.push_within_capacity(Atomic::new(pack(NOBODY, 1)));
                }
                holds
            },
            free <- new_bh_lock!(
                KVVec::with_capacity(count as usize, GFP_KERNEL_ACCOUNT)?,
                "netgpu::Buffers::free"
            ),
            writable,
        })
    }

    /// Changes the hold of a buffer as `f` says; returns the old one, or [`None`] if `f` would not.
    fn update(&self, index: u32, f: impl Fn(Slot, u32) -> Option<u64>) -> Option<(Slot, u32)> {
        let hold = self.holds.get(index as usize)?;
        let mut old = peek(hold);
        loop {
            let (slot, count) = unpack(old);
            match cmpxchg(hold, old, f(slot, count)?) {
                Ok(_) => return Some((slot, count)),
                Err(now) => old = now,
            }
        }
    }

    /// User space gets `parts` of the buffer, or more of them, through the socket `slot`. Returns whether that is to be charged with it.
    #[inline(always)]
    pub(crate) fn deliver(&self, index: u32, slot: Slot, parts: u32) -> bool {
        let old = self.update(index, |by, count| {
            let by = if count == 0 { slot } else { by };
            Some(pack(by, count.wrapping_add(parts)))
        });
        matches!(old, Some((_, 0)))
    }

    /// User space gives back `count` of its counts, or those that it has.
    #[inline(always)]
    pub(crate) fn take_back(&self, index: u32, count: u32, shares: &Shares) -> Returned {
        let old = self.update(index, |by, had| {
            (had > 0).then(|| pack(by, had.saturating_sub(count)))
        });
        let (slot, had) = old.unwrap_or((NOBODY, 0));
        let mut returned = Returned {
            count: had.min(count),
            discharged: None,
        };
        if had > 0 && had <= count {
            match slot {
                NOBODY => shares.release(NOBODY, 1),
                slot => returned.discharged = Some(slot),
            }
        }
        returned
    }

    /// User space loses all of its counts; returns how many.
    pub(crate) fn reclaim(&self, index: u32, shares: &Shares) -> u32 {
        match self.update(index, |by, _| Some(pack(by, 0))) {
            Some((slot, count)) if count > 0 => {
                shares.release(slot, 1);
                count
            }
            _ => 0,
        }
    }

    /// The caller's buffer goes to the free list.
    pub(crate) fn put_free(&self, index: u32, shares: &Shares) {
        let mut free = self.free.lock();
        // There is room: each buffer is on the list at most once. Counted before anybody can take it.
        if free.push_within_capacity(index).is_ok() && self.writable {
            add(&shares.free, 1);
        }
    }

    /// A buffer of the free list becomes the caller's.
    pub(crate) fn take_free(&self, shares: &Shares) -> Option<u32> {
        let index = self.free.lock().pop()?;
        if self.writable {
            sub(&shares.free, 1);
        }
        Some(index)
    }

    /// At most `max` buffers of the free list become the caller's, by `take`; `keep` of those of all free lists that can be copied into
    /// stay. Returns how many.
    pub(crate) fn take_free_down_to(
        &self,
        keep: u32,
        max: u32,
        shares: &Shares,
        mut take: impl FnMut(u32),
    ) -> u32 {
        let mut free = self.free.lock();
        let max = match self.writable {
            true => max.min(peek(&shares.free).saturating_sub(keep)),
            false => max,
        };
        let mut taken = 0;
        while taken < max {
            let Some(index) = free.pop() else { break };
            take(index);
            taken += 1;
        }
        if self.writable {
            sub(&shares.free, taken);
        }
        taken
    }

    /// Buffers on the free list.
    pub(crate) fn free(&self) -> usize {
        self.free.lock().len()
    }

    /// Number of buffers.
    pub(crate) fn len(&self) -> u32 {
        self.holds.len() as u32
    }
}

#[kunit_tests(netgpu_buffers)]
mod tests {
    use super::*;

    fn buffers(count: u32) -> Result<(Pin<KBox<Buffers>>, Shares)> {
        Ok((
            KBox::try_pin_init(Buffers::new(count, true), GFP_KERNEL)?,
            Shares::new(4)?,
        ))
    }

    fn returned(count: u32, discharged: Option<Slot>) -> Returned {
        Returned { count, discharged }
    }

    #[test]
    fn a_buffer_is_donated_once() -> Result {
        let (buffers, shares) = buffers(2)?;
        assert_eq!(buffers.take_back(1, 1, &shares), returned(1, None));
        assert_eq!(buffers.take_back(1, 1, &shares), returned(0, None));
        assert_eq!(buffers.take_back(0, 1, &shares), returned(1, None));
        assert_eq!(buffers.take_back(2, 1, &shares), returned(0, None));
        assert_eq!(shares.donated.load(Relaxed), 2);
        Ok(())
    }

    #[test]
    fn each_delivery_is_returned_once_and_charged_to_the_first() -> Result {
        let (buffers, shares) = buffers(1)?;
        assert_eq!(buffers.take_back(0, 1, &shares), returned(1, None));
        assert!(buffers.deliver(0, 3, 1));
        assert!(!buffers.deliver(0, 2, 1));
        assert_eq!(buffers.take_back(0, 1, &shares), returned(1, None));
        assert_eq!(buffers.take_back(0, 1, &shares), returned(1, Some(3)));
        assert_eq!(buffers.take_back(0, 1, &shares), returned(0, None));
        assert!(buffers.deliver(0, 2, 1));
        assert_eq!(buffers.take_back(0, 1, &shares), returned(1, Some(2)));
        assert_eq!(shares.donated.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn counts_come_and_go_together() -> Result {
        let (buffers, shares) = buffers(1)?;
        // Of two, user space has one to begin with.
        assert_eq!(buffers.take_back(0, 2, &shares), returned(1, None));
        assert_eq!(shares.donated.load(Relaxed), 1);
        assert!(buffers.deliver(0, 3, 5));
        assert_eq!(buffers.take_back(0, 4, &shares), returned(4, None));
        assert!(!buffers.deliver(0, 2, 2));
        assert_eq!(buffers.take_back(0, 9, &shares), returned(3, Some(3)));
        assert_eq!(buffers.take_back(0, 9, &shares), returned(0, None));
        assert_eq!(shares.donated.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn reclaiming_takes_all_counts() -> Result {
        let (buffers, shares) = buffers(2)?;
        assert!(!buffers.deliver(1, 0, 1));
        assert_eq!(buffers.reclaim(1, &shares), 2);
        assert_eq!(buffers.reclaim(1, &shares), 0);
        assert_eq!(buffers.take_back(1, 1, &shares), returned(0, None));
        assert_eq!(shares.donated.load(Relaxed), 1);
        Ok(())
    }

    #[test]
    fn a_buffer_may_be_reclaimed_before_it_is_charged() -> Result {
        let (buffers, shares) = buffers(1)?;
        assert_eq!(buffers.take_back(0, 1, &shares), returned(1, None));
        assert!(buffers.deliver(0, 3, 1));
        assert_eq!(buffers.reclaim(0, &shares), 1);
        shares.charge(3, 1);
        assert_eq!(shares.held(3), 0);
        Ok(())
    }

    #[test]
    fn the_free_list_holds_every_buffer() -> Result {
        let (buffers, shares) = buffers(3)?;
        assert_eq!(buffers.take_free(&shares), None);
        for index in 0..3 {
            buffers.put_free(index, &shares);
        }
        for (keep, max, taken) in [(3, 9, 0), (2, 9, 1), (0, 1, 1), (0, 9, 1), (0, 9, 0)] {
            let mut seen = 0;
            let count = buffers.take_free_down_to(keep, max, &shares, |_| seen += 1);
            assert_eq!((count, seen), (taken, taken));
        }
        for index in 0..3 {
            buffers.put_free(index, &shares);
        }
        assert_eq!(shares.free.load(Relaxed), 3);
        let mut seen = 0;
        while let Some(index) = buffers.take_free(&shares) {
            seen |= 1 << index;
        }
        assert_eq!(seen, 0b111);
        assert_eq!(shares.free.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn what_cannot_be_copied_into_is_no_reserve() -> Result {
        let shares = Shares::new(1)?;
        let buffers = KBox::try_pin_init(Buffers::new(2, false), GFP_KERNEL)?;
        buffers.put_free(0, &shares);
        assert!(shares.wants_reserve());
        assert_eq!(buffers.take_free(&shares), Some(0));
        assert_eq!(shares.free.load(Relaxed), 0);
        Ok(())
    }

    #[test]
    fn shares_are_equal_parts_of_half_and_never_nothing() -> Result {
        let shares = Shares::new(4)?;
        assert_eq!(shares.limit(), 1);
        for _ in 0..100 {
            shares.release(NOBODY, 1);
        }
        assert_eq!(shares.limit(), 50);
        shares.join();
        assert_eq!(shares.limit(), 50);
        shares.join();
        assert_eq!(shares.limit(), 25);
        shares.leave();
        shares.charge(0, 50);
        shares.release(0, 20);
        assert_eq!((shares.held(0), shares.held(1)), (30, 0));
        Ok(())
    }

    #[test]
    fn some_buffers_are_kept_for_copies() -> Result {
        let shares = Shares::new(1)?;
        assert!(shares.wants_reserve());
        shares.free.store(1, Relaxed);
        assert!(!shares.wants_reserve());
        shares.donated.store(80, Relaxed);
        assert!(shares.wants_reserve());
        shares.free.store(10, Relaxed);
        assert!(!shares.wants_reserve());
        Ok(())
    }
}
