// SPDX-License-Identifier: GPL-2.0

//! Waiting until a device has read what it was given to send.
//!
//! The stack checks that a device may read the memory of a packet, which [`Map::revoke`] ends, just before it gives the packet to the
//! driver. One that has passed is in the hands of a CPU, for not longer than a grace period; or with a queueing discipline that took
//! it back, as the device's queue was full, and gives it to the driver later without another check; or with the driver. Whoever
//! made it, and whatever became of its socket: a packet of our own behind it, on each queue of the device, tells when it is done,
//! as the driver lets go of them in order.
//!
//! So no socket's lock is needed. Tasks hold those while they touch user memory, and a fault may wait for who waits for us.

use super::{
    abi,
    device::{
        Netdev,
        NetdevLock, //
    },
    pages::Map,
    skb, //
};
use kernel::{
    ffi::{
        c_uint,
        c_void, //
    },
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Full,
            Relaxed, //
        },
        rcu,
        Arc,
        Completion, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

impl Netdev {
    /// Waits until the device reads `map` no longer. Sleeps.
    ///
    /// A grace period has passed since the map was revoked. The driver finishes packets of a queue in order.
    pub(super) fn drain(&self, map: &Map) {
        // On all queues before any gets a marker: a discipline may have packets for each of them.
        self.each_queue(|lock, index| lock.has_none(index, map));
        let markers = loop {
            match Markers::new() {
                Ok(markers) => break markers,
                Err(_) => pause(),
            }
        };
        self.each_queue(|lock, index| markers.send(lock, index));
        markers.passed();
        markers.all.wait_for_completion();
    }

    /// Calls `f` with each queue for sending until that is true. One that is not open has nothing.
    fn each_queue(&self, f: impl Fn(&NetdevLock<'_>, c_uint) -> bool) {
        let mut index = 0;
        loop {
            let lock = self.lock();
            while lock.has_queue(index) && f(&lock, index) {
                index += 1;
            }
            if !lock.has_queue(index) {
                return;
            }
            drop(lock);
            pause();
        }
    }
}

/// Lets others go on before the next try.
fn pause() {
    fsleep(Delta::from_millis(1));
}

impl NetdevLock<'_> {
    /// Whether the device may be sending from queue `index`. What opens and closes queues takes the lock.
    fn has_queue(&self, index: c_uint) -> bool {
        let raw = self.as_raw();
        // SAFETY: By the type invariants the device is there.
        unsafe { abi::netgpu_netif_active(raw) && index < (*raw).real_num_tx_queues }
    }

    /// Whether the queueing discipline of queue `index` has no packet any more that refers to `map` and was let through. That stays so.
    fn has_none(&self, index: c_uint, map: &Map) -> bool {
        let _guard = rcu::read_lock();
        // SAFETY: By the type invariants the device is there, with that queue. A discipline goes a grace period after it was replaced.
        unsafe {
            let txq = (*self.as_raw())._tx.add(index as usize);
            let qdisc = (&raw const (*txq).qdisc).read_volatile();
            let root = &raw mut (*qdisc).q.lock;
            abi::netgpu_spin_lock_bh(root);
            // Who runs it may have a packet in its hands.
            let idle = abi::netgpu_qdisc_run_begin(qdisc);
            let none = idle && !skb::queue_refers_to(&raw mut (*qdisc).gso_skb, map);
            if idle {
                abi::netgpu_qdisc_run_end(qdisc);
            }
            abi::netgpu_spin_unlock_bh(root);
            none
        }
    }
}

/// Packets of ours that tell when they have been sent.
#[pin_data]
struct Markers {
    /// Those that are under way, and one until all are.
    left: Atomic<u32>,
    #[pin]
    all: Completion,
}

impl Markers {
    fn new() -> Result<Arc<Self>> {
        let init = pin_init!(Self {
            left: Atomic::new(1),
            all <- Completion::new(),
        });
        // Who is short of memory may be waiting for us to give some back.
        Arc::pin_init(init, GFP_NOWAIT)
    }

    /// Sends one on queue `index`. False: not now.
    fn send(self: &Arc<Self>, lock: &NetdevLock<'_>, index: c_uint) -> bool {
        self.left.fetch_add(1, Relaxed);
        let arg = Arc::into_raw(self.clone());
        // SAFETY: The device is there, with that queue. `arg` is what `netgpu_marker_passed()` asks for.
        if unsafe { abi::netgpu_send_marker(lock.as_raw(), index, arg.cast_mut().cast()) } {
            return true;
        }
        // SAFETY: Nobody has taken it.
        drop(unsafe { Arc::from_raw(arg) });
        self.passed();
        false
    }

    /// One is done.
    fn passed(&self) {
        if self.left.fetch_sub(1, Full) == 1 {
            self.all.complete_all();
        }
    }
}

/// The driver lets go of a marker. Any context but that of hard interrupts.
///
/// # Safety
///
/// Once for each marker that was sent, with its `arg`: a reference from [`Arc::into_raw`].
#[no_mangle]
unsafe extern "C" fn netgpu_marker_passed(arg: *mut c_void) {
    // SAFETY: By this function's requirements.
    unsafe { Arc::from_raw(arg.cast::<Markers>().cast_const()) }.passed();
}
