// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets that have found nothing to receive while buffers were out.
//!
//! The kernel stops delivering to a socket that has too many of them, and learns that some are back only when it is asked. A thread, or an
//! event loop, that waits for the socket would never wake up. So whoever gives a buffer back asks for those that wait: what the kernel then
//! delivers makes the socket readable.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::socket::Shared;

/// Of one context, whose sockets share its buffers.
#[derive(Default)]
pub(crate) struct Room {
    waiting: Mutex<Vec<Weak<Shared>>>,
}

impl Room {
    /// From now on until then, `socket` is asked for once by the next [`Self::more`].
    pub(crate) fn wait(&self, socket: &Arc<Shared>) {
        let mut waiting = self.waiting();
        if !waiting
            .iter()
            .any(|other| other.as_ptr() == Arc::as_ptr(socket))
        {
            waiting.push(Arc::downgrade(socket));
        }
    }

    /// There are more buffers than before. No socket's lock is held by the caller.
    pub(crate) fn more(&self) {
        let waiting = std::mem::take(&mut *self.waiting());
        for socket in waiting.iter().filter_map(Weak::upgrade) {
            socket.resume();
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Shared>>> {
        // What is under the lock is whole at every step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
