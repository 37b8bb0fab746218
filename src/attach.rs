// SPDX-License-Identifier: GPL-2.0

//! Attachments: a region in a context, cut into buffers and mapped for the context's device.
//!
//! An attachment belongs to its context and lives as long: pools, sockets and packets that refer to its buffers hold
//! the context. It needs no lock; what changes is atomic or has a lock of its own.

use crate::{
    buffers::{
        Buffers,
        Shares, //
    },
    ffi::{
        pages::{
            Map,
            Pool,
            Put, //
        }, //
    },
    stats::RegionStats, //
};
use kernel::{
    prelude::*,
    sync::{
        rcu,
        Arc, //
    }, //
};

/// Where the buffers of an attachment are for user space.
#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    start: u64,
    /// Logarithm of the size of a buffer.
    shift: u32,
}

impl Addresses {
    /// The address of a byte of a buffer.
    #[inline(always)]
    pub(crate) fn of(self, index: u32, offset: u32) -> u64 {
        self.start + (u64::from(index) << self.shift) + u64::from(offset)
    }
}

/// A region that a context uses. Made by [`Map::attach`].
#[pin_data]
pub(crate) struct Attachment {
    /// The buffers to the device and the stack.
    pub(crate) map: Map,
    /// The buffers to user space.
    #[pin]
    pub(crate) buffers: Buffers,
    /// Shared by the attachments of the context.
    pub(crate) shares: Arc<Shares>,
    /// What it counts.
    pub(crate) stats: RegionStats,
}

impl Attachment {
    /// The addresses of its buffers.
    #[inline(always)]
    pub(crate) fn addresses(&self) -> Addresses {
        Addresses {
            start: self.map.region().span.start() as u64,
            shift: self.map.size().shift(),
        }
    }

    /// Number of the buffer that `addr` lies in. Safe to use as an index even while the CPU speculates.
    #[inline(always)]
    pub(crate) fn buffer(&self, addr: usize) -> Option<u32> {
        self.map.region().span.buffer(addr, self.map.size())
    }

    /// The caller's buffer goes to the free list, or nowhere if the memory is to be given back.
    pub(crate) fn free(&self, index: u32) {
        // So that [`Self::retract`] finds what goes there.
        let _guard = rcu::read_lock();
        if self.map.is_live() {
            self.buffers.put_free(index, &self.shares);
        }
    }

    /// Drops `count` references, of one at least, on behalf of nobody; the last one frees the buffer.
    pub(crate) fn put(&self, index: u32, count: u32) {
        if self.map.put(index, count, None) == Put::Free {
            self.free(index);
        }
    }

    /// Drops `count` references, of one at least, on behalf of `pool`, which is asking. Returns whether `pool` got the buffer.
    pub(crate) fn refill(&self, index: u32, count: u32, pool: &Pool) -> bool {
        match self.map.put(index, count, Some(pool)) {
            Put::InUse => false,
            Put::Pooled => true,
            Put::Free if self.map.is_writable() && self.shares.wants_reserve() => {
                self.free(index);
                false
            }
            Put::Free => {
                self.map.give(index, pool);
                true
            }
        }
    }

    /// Takes every buffer from user space, which is gone.
    pub(crate) fn reclaim(&self) {
        for index in 0..self.buffers.len() {
            let count = self.buffers.reclaim(index, &self.shares);
            if count > 0 {
                self.put(index, count);
            }
        }
    }

    /// Takes every buffer from user space and from the free list, for good. A grace period has passed since the memory was not to be
    /// used any more, so that nobody finds any of them.
    pub(crate) fn retract(&self) {
        self.reclaim();
        while self.buffers.take_free(&self.shares).is_some() {}
        self.shares.forget(self.buffers.len());
    }
}
