// SPDX-License-Identifier: GPL-2.0

//! Contexts: regions, receive queues and sockets of one network device.
//!
//! # Lifetime
//!
//! A context is an open file until that is released; [`Context::shutdown`] then closes its queues, detaches its sockets and
//! takes the buffers back from user space. What may still refer to its memory holds a reference: page pools that drain
//! (through their queue), sockets, sends and packets under way. The last one retires it on the module's work queue.
//!
//! # Locks
//!
//! In order: rtnl, the device's lock, a socket's lock, then the state lock here. So whoever holds the state lock opens and closes
//! no queue and touches no socket. User memory is not touched under it either, as mmap takes it. The data path reads
//! [`Context::table`] under RCU and takes none of these.

use crate::{
    area::Region,
    attach::Attachment,
    buffers::{
        Shares,
        Slot, //
    },
    ffi::{
        device::Device,
        late::{
            Late,
            Quiet,
            Retire, //
        },
        mapping::RingMemory,
        module::ModuleRef,
        pages::Map,
        provider::QueueParams,
        rcu::Rcu,
        sock::SocketFile, //
    },
    ioctl,
    queue::{
        self,
        Queue, //
    },
    slots::Slots,
    socket::Socket,
    span::SpanMap, //
};
use kernel::{
    error::code,
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc,
        Mutex,
        SetOnce, //
    }, //
};

/// Most regions, queues and sockets of a context.
const MAX_ATTACHMENTS: usize = 256;
const MAX_QUEUES: u32 = 256;
const MAX_SOCKETS: u32 = 4096;

/// Room in front of the payload for bytes that a fixed-offset split leaves with the headers: enough for the longest
/// header there is less the shortest, a multiple of what devices want it to be aligned to.
const HEADROOM: u16 = 64;

/// Longest header without extension headers: Ethernet 14, IPv6 40, TCP with all options 60.
const HDS_OFFSET: u16 = 114;

/// The attachments by address.
pub(crate) type Table = SpanMap<Arc<Attachment>>;

/// An open context.
#[pin_data]
pub(crate) struct Context {
    device: SetOnce<Device>,
    /// What the data path finds buffers by; follows `State::attachments`.
    table: Rcu<Table>,
    shares: Arc<Shares>,
    /// Bytes that every open queue keeps free in front of payload.
    headroom: Atomic<u32>,
    #[pin]
    state: Mutex<State>,
    _module: ModuleRef,
}

struct State {
    gone: bool,
    attachments: Table,
    queues: Slots<Arc<Queue>>,
    sockets: Slots<Late<Socket>>,
    /// Sockets that were closed with sends under way, and some that have finished since.
    closed: KVVec<Late<Socket>>,
}

impl State {
    /// Takes out a socket, attached or closed.
    fn any_socket(&mut self) -> Option<Late<Socket>> {
        self.sockets.pop().or_else(|| self.closed.pop())
    }
}

impl Retire for Context {
    fn retire(&self, quiet: Quiet) {
        if let Some(device) = self.device.as_ref() {
            device.unwatch();
        }
        self.device_gone(quiet);
    }
}

impl Context {
    /// Opens the network device with index `ifindex`.
    pub(crate) fn bind(ifindex: u32) -> Result<Late<Self>> {
        let context = Late::new(try_pin_init!(Self {
            device: SetOnce::new(),
            table: Rcu::new(KBox::new(Table::new(), GFP_KERNEL_ACCOUNT)?),
            shares: Arc::new(Shares::new(MAX_SOCKETS)?, GFP_KERNEL_ACCOUNT)?,
            headroom: Atomic::new(HEADROOM.into()),
            state <- new_mutex!(State {
                gone: false,
                attachments: Table::new(),
                queues: Slots::new(),
                sockets: Slots::new(),
                closed: KVVec::new(),
            }, "netgpu::Context::state"),
            _module: ModuleRef::new(),
        }))?;
        context.device.populate(Device::open(ifindex, &context)?);
        context.device()?.watch()?;
        Ok(context)
    }

    /// The device.
    pub(crate) fn device(&self) -> Result<&Device> {
        self.device.as_ref().ok_or(ENODEV)
    }

    /// The device goes away, or the context does: ends all use of the device's DMA. Sockets whose data would have to pass it are
    /// told now; nothing else would ever wake them.
    pub(crate) fn device_gone(&self, quiet: Quiet) {
        {
            let mut state = self.state.lock();
            if state.gone {
                return;
            }
            state.gone = true;
        }
        // Whoever attaches a socket from here on finds that the device is gone.
        self.abort_sockets();
        let state = self.state.lock();
        if let Some(device) = self.device.as_ref() {
            device.gone(
                quiet,
                state.attachments.values().map(|attachment| &attachment.map),
            );
        }
    }

    /// The file is released: ends everything that user space had of the context.
    pub(crate) fn shutdown(&self) {
        // Two statements, so that the lock is not held while the queue goes.
        loop {
            let queue = self.state.lock().queues.pop();
            let Some(queue) = queue else { break };
            self.close(&queue);
        }
        self.abort_sockets();
        for attachment in self.state.lock().attachments.values() {
            attachment.reclaim();
        }
    }

    fn abort_sockets(&self) {
        loop {
            // A statement of its own, so that the lock is not held while the socket is told.
            let socket = self.state.lock().any_socket();
            let Some(socket) = socket else { break };
            socket.abort();
        }
    }

    /// What sockets may hold.
    pub(crate) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Bytes that are free in front of the payload of a packet.
    pub(crate) fn headroom(&self) -> u32 {
        self.headroom.load(Relaxed)
    }

    /// The attachments by address.
    pub(crate) fn table<'a>(&'a self, guard: &'a rcu::Guard) -> &'a Table {
        self.table.read(guard)
    }

    /// Takes a buffer off the free lists.
    pub(crate) fn take_free(&self) -> Option<(Arc<Attachment>, u32)> {
        let guard = rcu::read_lock();
        for attachment in self.table(&guard).values() {
            if let Some(index) = attachment.buffers.take_free(&self.shares) {
                return Some((attachment.clone(), index));
            }
        }
        None
    }

    /// Whether `dma` is the device that the context's memory is mapped for.
    pub(crate) fn is_dma(&self, dma: *const kernel::ffi::c_void) -> bool {
        self.device().is_ok_and(|device| device.is_dma(dma))
    }

    /// Works off the fill rings, for a socket that waits for buffers while the device asks for none.
    pub(crate) fn drain_queues(&self) {
        for queue in self.state.lock().queues.iter() {
            queue.drain();
        }
    }
}

/// The commands.
impl Context {
    /// Attaches `region`.
    pub(crate) fn attach_region(this: &Late<Self>, region: Arc<Region>) -> Result {
        let mut state = this.state.lock();
        if state.gone {
            return Err(ENODEV);
        }
        if state.attachments.overlaps(&region.span) {
            return Err(EEXIST);
        }
        if state.attachments.values().count() >= MAX_ATTACHMENTS {
            return Err(ENOSPC);
        }
        let span = region.span;
        let attachment = Map::attach(this.device()?, region, this, this.shares.clone())?;
        let table = state.attachments.with(span, attachment.clone())?;
        let shown = KBox::new(
            state.attachments.with(span, attachment)?,
            GFP_KERNEL_ACCOUNT,
        )?;
        state.attachments = table;
        this.table.replace(shown);
        Ok(())
    }

    /// Opens a receive queue. Returns its number; on failure what the device says about it.
    pub(crate) fn open_queue(
        this: &Late<Self>,
        request: &ioctl::OpenQueue,
    ) -> core::result::Result<(u32, Arc<Queue>), (Error, Option<CString>)> {
        let plain = |err| (err, None);
        let device = this.device().map_err(plain)?;
        device.permit().map_err(plain)?;
        let queue = Queue::new(this.clone(), request.queue, request.entries).map_err(plain)?;
        let id = this
            .state
            .lock()
            .queues
            .reserve(MAX_QUEUES, |_| true)
            .map_err(plain)?;

        let wanted = QueueParams {
            index: request.queue,
            hds_offset: request.hds_offset.unwrap_or(HDS_OFFSET),
            headroom: HEADROOM,
        };
        let opened = match device.open_queue(&queue, wanted) {
            // A device that splits at the end of the headers may know no parameters, and needs none.
            Err(refusal) if refusal.error == code::EOPNOTSUPP && request.hds_offset.is_none() => {
                let plain = QueueParams {
                    hds_offset: 0,
                    headroom: 0,
                    ..wanted
                };
                device.open_queue(&queue, plain)
            }
            result => result,
        };
        match opened {
            Ok(headroom) => {
                if headroom < this.headroom() {
                    this.headroom.store(headroom, Relaxed);
                }
                this.state.lock().queues.fill(id, queue.clone());
                Ok((id, queue))
            }
            Err(refusal) => {
                this.state.lock().queues.take(id);
                Err(queue::explain(refusal))
            }
        }
    }

    /// Closes the receive queue with number `id`.
    pub(crate) fn close_queue(&self, id: u32) -> Result {
        let queue = self.state.lock().queues.take(id);
        self.close(&queue.ok_or(ENOENT)?);
        Ok(())
    }

    fn close(&self, queue: &Arc<Queue>) {
        if let Some(device) = self.device.as_ref() {
            device.close_queue(queue, queue.index());
        }
    }

    /// Attaches the socket of `file`.
    pub(crate) fn attach_socket(
        this: &Late<Self>,
        file: &SocketFile,
        request: &ioctl::AttachSocket,
    ) -> Result<Late<Socket>> {
        let device = this.device()?;
        // A number whose last socket left buffers with user space would begin with those on its account.
        let id = this
            .state
            .lock()
            .sockets
            .reserve(MAX_SOCKETS, |id: Slot| this.shares.held(id) == 0)?;
        let socket = Socket::new(this, id, file.sock(), request)
            .and_then(|socket| file.attach(device, &socket).map(|()| socket));
        let mut state = this.state.lock();
        let late = state.gone;
        match &socket {
            Ok(socket) if !late => state.sockets.fill(id, socket.clone()),
            _ => {
                state.sockets.take(id);
            }
        }
        drop(state);
        match socket {
            // The device went after the socket was attached: nobody else tells this one.
            Ok(socket) if late => {
                socket.abort();
                Err(ENODEV)
            }
            socket => socket,
        }
    }

    /// Detaches the socket with number `id`.
    pub(crate) fn detach_socket(&self, id: u32) -> Result {
        let socket = self.state.lock().sockets.take(id);
        socket.ok_or(ENOENT)?.abort();
        Ok(())
    }

    /// `socket` was closed. Its number is free again; what it still sends ends with the context at the latest.
    pub(crate) fn forget(&self, socket: &Late<Socket>) {
        let mut state = self.state.lock();
        let here = state.sockets.get(socket.id());
        if here.is_some_and(|here| here.as_raw() == socket.as_raw()) {
            let socket = state.sockets.take(socket.id());
            // What has finished goes on the work queue: see `Late`.
            state.closed.retain(|closed| closed.sends());
            if let Some(socket) = socket.filter(|socket| socket.sends()) {
                // Without memory for it, TCP decides when it gives up.
                let _ = state.closed.push(socket, GFP_KERNEL_ACCOUNT);
            }
        }
    }

    /// The queue with number `id`.
    pub(crate) fn queue(&self, id: u32) -> Result<Arc<Queue>> {
        self.state.lock().queues.get(id).cloned().ok_or(ENOENT)
    }

    /// The socket with number `id`.
    pub(crate) fn socket(&self, id: u32) -> Result<Late<Socket>> {
        self.state.lock().sockets.get(id).cloned().ok_or(ENOENT)
    }

    /// The memory of a ring.
    pub(crate) fn ring(&self, ring: ioctl::RingId) -> Result<Arc<RingMemory>> {
        let memory = match ring {
            ioctl::RingId::Fill(id) => Some(self.queue(id)?.ring().clone()),
            ioctl::RingId::Rx(id) => self.socket(id)?.rx_ring().cloned(),
            ioctl::RingId::Completion(id) => self.socket(id)?.completion_ring().cloned(),
        };
        memory.ok_or(ENOENT)
    }
}
