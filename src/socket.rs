// SPDX-License-Identifier: GPL-2.0

//! Our side of an attached TCP socket.
//!
//! It is held by the context's table and by the socket, until that is destroyed, and holds the socket's memory in turn; detaching
//! ends the first. What the data path changes is guarded by the socket's own lock ([`Locked`]). The context is part of that: a
//! socket that was detached keeps none.

use crate::{
    buffers::Slot,
    context::Context,
    ffi::{
        counters::Counter,
        late::{
            Late,
            Retire, //
        },
        mapping::{
            Mapping,
            RingMemory, //
        },
        pages::Map,
        sock::{
            LockedSocket,
            Sock,
            SockCell, //
        },
        trace,
        uapi::{
            Completion,
            RxEntry, //
        }, //
    },
    ioctl,
    ring,
    rx::{
        self,
        Rx, //
    },
    stats::SocketReceived,
    tx::Completions, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// An attached socket, or one that was.
#[pin_data]
pub(crate) struct Socket {
    /// Number in its context.
    id: Slot,
    sock: Sock,
    /// The rings, for mapping them and for looks without a lock.
    rx_ring: Option<Mapping<RxEntry>>,
    completion_ring: Option<Mapping<Completion>>,
    completions: Option<Pin<KBox<Completions>>>,
    /// Guarded by the socket's lock.
    pub(crate) locked: SockCell,
    /// What it counts.
    pub(crate) stats: Stats,
}

/// What the socket's lock guards.
pub(crate) struct Locked {
    /// The context, as long as the socket is attached.
    pub(crate) context: Option<Late<Context>>,
    /// Receiving, if the socket has an rx ring.
    pub(crate) rx: Option<Rx>,
    /// Number of the next send.
    pub(crate) sends: u32,
}

/// What a socket counts, by its lock; see `struct netgpu_socket_stats`.
#[derive(Default)]
pub(crate) struct Stats {
    pub(crate) received: SocketReceived,
    /// For want of ring space, of its share, of buffers, of a pause, of memory that can be delivered.
    pub(crate) stalled: [Counter; 5],
    pub(crate) tx_zerocopy: Counter,
    pub(crate) tx_sends: Counter,
}

impl Retire for Socket {}

impl Socket {
    /// Our side of `sock`, which is yet to be attached.
    pub(crate) fn new(
        context: &Late<Context>,
        id: Slot,
        sock: Sock,
        request: &ioctl::AttachSocket,
    ) -> Result<Late<Self>> {
        let rx_ring = request.rx_entries.map(Mapping::new).transpose()?;
        let completion_ring = request.completion_entries.map(Mapping::new).transpose()?;
        let rx = rx_ring.as_ref().map(|ring| Rx::new(ring.share()));
        let completions = completion_ring
            .as_ref()
            .map(|ring| KBox::pin_init(Completions::new(ring.share()), GFP_KERNEL_ACCOUNT))
            .transpose()?;
        Late::new(try_pin_init!(Self {
            id,
            sock,
            rx_ring,
            completion_ring,
            completions,
            locked: SockCell::new(Locked {
                context: Some(context.clone()),
                rx,
                sends: 0,
            }),
            stats: Stats::default(),
        }? Error))
    }

    /// Number in its context.
    pub(crate) fn id(&self) -> Slot {
        self.id
    }

    /// Number of its inode, 0 after it was closed.
    pub(crate) fn inode(&self) -> u64 {
        self.sock.inode()
    }

    /// The rx ring's memory.
    pub(crate) fn rx_ring(&self) -> Option<&Arc<RingMemory>> {
        self.rx_ring.as_ref().map(Mapping::memory)
    }

    /// The completion ring's memory.
    pub(crate) fn completion_ring(&self) -> Option<&Arc<RingMemory>> {
        self.completion_ring.as_ref().map(Mapping::memory)
    }

    /// The completions of sends, if they have a ring.
    pub(crate) fn completions(&self) -> Option<&Completions> {
        self.completions.as_deref()
    }

    /// Whether sends are under way.
    pub(crate) fn sends(&self) -> bool {
        self.completions().is_some_and(|c| c.pending() > 0)
    }

    /// Whether unfinished sends are from `map`. Sleeps; takes the socket's lock.
    pub(crate) fn sends_from(&self, map: &Map) -> bool {
        self.sends() && self.sock.sends_from(map)
    }

    /// Whether received bytes go to an rx ring.
    pub(crate) fn has_rx(&self) -> bool {
        self.rx_ring.is_some()
    }

    /// Wakes who polls for completions. Any context, also after the socket was closed.
    pub(crate) fn wake(&self) {
        self.sock.wake();
    }

    /// Whether a ring holds entries that user space has not read.
    pub(crate) fn readable(&self) -> bool {
        self.rx_ring.as_ref().is_some_and(|r| !ring::is_empty(r))
            || self
                .completion_ring
                .as_ref()
                .is_some_and(|r| !ring::is_empty(r))
    }
}

impl Late<Socket> {
    /// Detaches the socket and aborts its connection if that is [`unfinished`]. One that was closed with sends under way is
    /// reset: TCP would try for minutes, and keep their memory for as long. Sleeps; takes the socket's lock.
    pub(crate) fn abort(&self) {
        if !self.sock.abort(self) && self.sends() {
            self.sock.reset();
        }
    }
}

/// The socket has been attached: takes what it had received before.
pub(crate) fn attached(locked: &mut LockedSocket<'_>) {
    let id = locked.socket().id();
    let state = locked.state();
    if let Some(context) = &state.context {
        trace::attach(context.id(), id);
    }
    if let (Some(context), Some(_)) = (&state.context, &state.rx) {
        context.shares().join();
        rx::ready(locked);
    }
}

/// Whether the connection cannot go on as an ordinary one: bytes may yet arrive that only we can deliver, unless the stream has
/// ended, or sends are under way whose memory the context is to give back.
pub(crate) fn unfinished(locked: &mut LockedSocket<'_>) -> bool {
    let stream = locked.stream();
    let ended = !stream.waiting && (stream.closed || stream.shut || stream.told);
    locked.socket().sends() || (locked.state().rx.is_some() && !ended)
}

/// The socket has been detached; returns the context that it holds no longer.
pub(crate) fn detached(locked: &mut LockedSocket<'_>) -> Option<Late<Context>> {
    let socket = locked.socket();
    let state = locked.state();
    let context = state.context.take()?;
    if let Some(rx) = state.rx.take() {
        rx.close(&context, socket);
        context.shares().leave();
    }
    Some(context)
}
