// SPDX-License-Identifier: MIT OR Apache-2.0
//! Send queues: the object. What is done with their entries is in [`crate::datapath::tx`].

use std::sync::atomic::AtomicBool;
use std::time::Instant;

use parking_lot::Mutex;

use super::ring::Ring;
use crate::bits::ctx::QueueState;

/// A send queue.
#[derive(Debug)]
pub struct Sq {
    /// Its number.
    pub number: u32,
    /// Its completion queue.
    pub cqn: u32,
    /// Protection domain of the memory that its entries name.
    pub pd: u32,
    /// Its entries may change memory keys.
    pub umr: bool,
    /// Bus address of the producer counter.
    pub record: u64,
    /// Its entries, in basic blocks.
    pub ring: Ring,
    /// The engine has been told that there is work.
    pub scheduled: AtomicBool,
    /// How far it is.
    pub state: Mutex<SqState>,
}

/// The changing part of a send queue.
#[derive(Debug)]
pub struct SqState {
    /// State as the driver sees it.
    pub state: QueueState,
    /// The basic block that is next.
    pub consumer: u16,
    /// Packets of the next entry that have been sent already.
    pub sent: u32,
    /// Since when the receiver has had no buffer for the next packet.
    pub blocked_since: Option<Instant>,
}

impl SqState {
    /// An empty queue in `state`.
    pub fn new(state: QueueState) -> Self {
        Self {
            state,
            consumer: 0,
            sent: 0,
            blocked_since: None,
        }
    }

    /// Moves the queue to `state`. A queue that is reset is empty.
    pub fn change(&mut self, state: QueueState) {
        if state == QueueState::Reset || self.state == QueueState::Reset {
            *self = Self::new(state);
        }
        self.state = state;
    }
}
