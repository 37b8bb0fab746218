// SPDX-License-Identifier: GPL-2.0

//! Delivery a little later: of all that a softirq brings, when it is done with its packets.
//!
//! TCP acknowledges what is read from it. Who is woken to read finds many packets; who reads each when it comes acknowledges each, and
//! wakes for each.

use super::{
    inline::peek,
    module::{
        softirq_queue,
        work_queue, //
    },
    sock::{
        LockedSocket,
        Sock,
        SockLock,
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

/// Delivers from a socket.
#[pin_data]
pub(super) struct Soon {
    sock: Sock,
    /// `soft` is queued. By the spin lock in the socket's lock.
    queued: Atomic<bool>,
    #[pin]
    soft: Work<Soon, 0>,
    /// For when `soft` finds that a task owns the lock.
    #[pin]
    task: Work<Soon, 1>,
}

impl_has_work! {
    impl HasWork<Self, 0> for Soon { self.soft }
    impl HasWork<Self, 1> for Soon { self.task }
}

impl Soon {
    /// From `sock`.
    pub(super) fn new(sock: Sock) -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                sock,
                queued: Atomic::new(false),
                soft <- new_work!("netgpu::Soon::soft"),
                task <- new_work!("netgpu::Soon::task"),
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
            let _ = softirq_queue().enqueue::<_, 0>(self.clone());
        }
    }
}

impl WorkItem<0> for Soon {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        let mut lock = SoftLock::new(&this.sock);
        this.queued.store(false, Relaxed);
        if lock.is_owned() {
            drop(lock);
            let _ = work_queue().enqueue::<_, 1>(this);
        } else if let Some(mut locked) = lock.attached() {
            rx::ready(&mut locked);
        }
    }
}

impl WorkItem<1> for Soon {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // SAFETY: `this` holds the socket for longer than the lock. This is a task.
        let mut lock = unsafe { SockLock::new(this.sock.as_raw()) };
        if let Some(mut locked) = lock.attached() {
            rx::ready(&mut locked);
        }
    }
}
