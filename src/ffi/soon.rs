// SPDX-License-Identifier: GPL-2.0

//! Delivery a little later: of all that a softirq brings, when it is done with its packets.
//!
//! TCP acknowledges what is read from it. Who is woken to read finds many packets; who reads each when it comes acknowledges each, and
//! wakes for each.

use super::{
    inline::peek,
    module::softirq_queue,
    sock::{
        LockedSocket,
        Sock,
        SoftLock, //
    },
};
use crate::rx;
use kernel::{
    impl_has_work,
    new_work,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        Arc, //
    },
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

/// Most bytes that wait for the end of the softirq: who reads on another CPU may be without work meanwhile.
const MOST: u32 = 256 * 1024;

/// Delivers from a socket. What changes does so under the spin lock in the socket's lock.
#[pin_data]
pub(super) struct Soon {
    sock: Sock,
    /// `work` is queued.
    queued: Atomic<bool>,
    /// `work` has found that a task owns the lock. That task delivers when it gives the lock back: for how long it keeps it is a
    /// program's to say, and nobody else is to wait for that.
    owed: Atomic<bool>,
    #[pin]
    work: Work<Soon>,
}

impl_has_work! {
    impl HasWork<Self> for Soon { self.work }
}

impl Soon {
    /// From `sock`.
    pub(super) fn new(sock: Sock) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                sock,
                queued: Atomic::new(false),
                owed: Atomic::new(false),
                work <- new_work!("netgpu::Soon::work"),
            }),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// New bytes wait on the socket that `self` is of. A task that owns the lock works off a backlog, and goes on for as long.
    pub(super) fn ready(self: &Arc<Self>, locked: &mut LockedSocket<'_>) {
        if locked.is_owned() || locked.waiting() >= MOST {
            rx::ready(locked);
        } else if !peek(&self.queued) {
            self.queued.store(true, Relaxed);
            let _ = softirq_queue().enqueue(self.clone());
        }
    }

    /// The task that owns the lock is about to give it back.
    pub(super) fn released(&self, locked: &mut LockedSocket<'_>) {
        if peek(&self.owed) {
            self.owed.store(false, Relaxed);
            rx::ready(locked);
        }
    }
}

impl WorkItem for Soon {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let mut lock = SoftLock::new(&this.sock);
        this.queued.store(false, Relaxed);
        if lock.is_owned() {
            this.owed.store(true, Relaxed);
        } else if let Some(mut locked) = lock.attached() {
            rx::ready(&mut locked);
        }
    }
}
