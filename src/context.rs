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
//! In order: rtnl, the lock for attaching regions, that for opening and closing queues, the device's lock, a socket's lock, then the state lock
//! here. So whoever holds the state lock opens and closes no queue and touches no socket. User memory is not touched under it
//! either, as mmap takes it. The data path reads [`Context::table`] under RCU and takes none of these.
//!
//! The reservation lock of a dma-buf is taken under rtnl, the lock for attaching and, when the device goes, the state lock. Its
//! exporter may hold it and wait for [`Context::withdraw`] meanwhile, which therefore takes none of the first two, the last only
//! where those who take both have let the exporter go on before, and that of a socket only when it has done so itself: tasks hold
//! those while they touch user memory, and a fault may wait for the reservation lock. Who attaches takes it once, to map: what is not
//! in the state yet nobody withdraws, and the exporter waits until it is given up.

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
        rcu::{
            Rcu,
            Version, //
        },
        sock::SocketFile,
        trace, //
    },
    ioctl,
    queue::{
        self,
        Queue, //
    },
    slots::Slots,
    socket::Socket,
    span::{
        BufferSize,
        SpanMap, //
    },
    stats::{
        ContextStats,
        OfContext, //
    }, //
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
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// Most regions, queues and sockets of a context.
const MAX_ATTACHMENTS: usize = 1024;
const MAX_QUEUES: u32 = 256;
const MAX_SOCKETS: u32 = 4096;

/// Room in front of the payload for bytes that a fixed-offset split leaves with the headers: enough for the longest
/// header there is less the shortest, a multiple of what devices want it to be aligned to.
const HEADROOM: u16 = 64;

/// Longest header without extension headers: Ethernet 14, IPv6 40, TCP with all options 60.
const HDS_OFFSET: u16 = 114;

/// The number of the next context.
static NEXT: Atomic<u64> = Atomic::new(0);

/// The attachments by address.
pub(crate) type Table = SpanMap<Arc<Attachment>>;

/// An open context.
#[pin_data]
pub(crate) struct Context {
    /// Its number, which no other context ever has.
    id: u64,
    buffer_size: BufferSize,
    stats: ContextStats,
    device: SetOnce<Device>,
    /// What the data path finds buffers by; follows `State::attachments`.
    table: Rcu<Table>,
    shares: Arc<Shares>,
    /// Held while a region is attached, until it can be found in the state.
    #[pin]
    attaching: Mutex<()>,
    /// Held while a queue is opened, until it can be found in the state, and from there until it is closed: whoever holds it finds
    /// every queue that may have buffers.
    #[pin]
    queueing: Mutex<()>,
    #[pin]
    state: Mutex<State>,
    _module: ModuleRef,
}

/// What a context is made of.
pub(crate) enum Part<'a> {
    Region(&'a Attachment),
    Queue(&'a Queue),
    Socket(&'a Socket),
}

struct State {
    gone: bool,
    attachments: Table,
    /// What was withdrawn: buffers under way refer to them still.
    withdrawn: KVec<Arc<Attachment>>,
    queues: Slots<Arc<Queue>>,
    sockets: Slots<Late<Socket>>,
    /// Sockets that were closed with sends under way, and some that have finished since.
    closed: KVVec<Late<Socket>>,
}

impl State {
    /// Takes out an attached socket, whose number stays taken until it is detached.
    fn hold_socket(&mut self) -> Option<(Slot, Late<Socket>)> {
        let (id, _) = self.sockets.next(0)?;
        Some((id, self.sockets.hold(id)?))
    }

    /// Whether `socket` is attached.
    fn has_socket(&self, socket: &Late<Socket>) -> bool {
        let here = self.sockets.get(socket.id());
        here.is_some_and(|here| here.as_raw() == socket.as_raw())
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
    /// Opens the network device with index `ifindex`, to receive into buffers of `buffer_size`.
    pub(crate) fn bind(ifindex: u32, buffer_size: BufferSize) -> Result<Late<Self>> {
        let context = Late::new(try_pin_init!(Self {
            id: NEXT.fetch_add(1, Relaxed),
            buffer_size,
            stats: ContextStats::new()?,
            device: SetOnce::new(),
            table: Rcu::new(Version::new(Table::new())?),
            shares: Arc::new(Shares::new(MAX_SOCKETS)?, GFP_KERNEL_ACCOUNT)?,
            attaching <- new_mutex!((), "netgpu::Context::attaching"),
            queueing <- new_mutex!((), "netgpu::Context::queueing"),
            state <- new_mutex!(State {
                gone: false,
                attachments: Table::new(),
                withdrawn: KVec::new(),
                queues: Slots::new(),
                sockets: Slots::new(),
                closed: KVVec::new(),
            }, "netgpu::Context::state"),
            _module: ModuleRef::new(),
        }))?;
        context.device.populate(Device::open(ifindex, &context)?);
        context.device()?.watch()?;
        trace::bind(context.id, ifindex);
        Ok(context)
    }

    /// Its number, which no other context ever has.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The size of its buffers.
    pub(crate) fn buffer_size(&self) -> BufferSize {
        self.buffer_size
    }

    /// What it counts.
    pub(crate) fn stats(&self) -> &ContextStats {
        &self.stats
    }

    /// The device.
    pub(crate) fn device(&self) -> Result<&Device> {
        self.device.as_ref().ok_or(ENODEV)
    }

    /// The device goes away, or the context does: ends all use of the device's DMA. Sockets whose data would have to pass it are
    /// told now; nothing else would ever wake them.
    pub(crate) fn device_gone(&self, quiet: Quiet) {
        let _attaching = self.attaching.lock();
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
        let queueing = self.queueing.lock();
        for queue in self.queues() {
            self.close_or_retry(&queue);
        }
        drop(queueing);
        self.abort_sockets();
        for attachment in self.state.lock().attachments.values() {
            attachment.reclaim();
        }
    }

    fn abort_sockets(&self) {
        loop {
            // Statements of their own, so that the lock is not held while the socket is told.
            let held = self.state.lock().hold_socket();
            let Some((id, socket)) = held else { break };
            socket.abort();
            self.state.lock().sockets.cancel(id);
        }
        loop {
            let socket = self.state.lock().closed.pop();
            let Some(socket) = socket else { break };
            socket.abort();
        }
    }

    /// The exporter of an attachment's memory wants it back: ends all use of it here, and gives it back. What cannot go on without
    /// it is told, and the rest does go on.
    pub(crate) fn withdraw(&self, attachment: *const Attachment) {
        let found = self
            .state
            .lock()
            .attachments
            .values()
            .find(|here| Arc::as_ptr(here) == attachment && !here.map.is_live())
            .cloned();
        let (Some(attachment), Ok(device)) = (found, self.device()) else {
            return;
        };
        let quiesced = device.quiesce(&attachment.map, &self.queueing, self.queues());
        attachment.retract();
        quiesced.unmap();
        self.stats.add(OfContext::Revoked, 1);
        let span = attachment.map.region().span;
        trace::region_revoke(self.id, span.start() as u64, span.len() as u64);
        let mut state = self.state.lock();
        // Without memory for it, the addresses stay taken.
        let _ = self.remove(&mut state, &attachment);
        let last = !state.attachments.values().any(|here| here.map.is_live());
        drop(state);
        // Now that the exporter has its memory: who holds the lock of a socket may have waited for it.
        if last {
            self.abort_sockets();
        }
        // There may be packets on a socket that is only just being attached.
        while attachment.map.is_sent() {
            self.abort_senders(&attachment.map);
            fsleep(Delta::from_millis(1));
        }
    }

    /// Takes `attachment` out of the tables.
    fn remove(&self, state: &mut State, attachment: &Arc<Attachment>) -> Result {
        let others = |here: &Arc<Attachment>| !Arc::ptr_eq(here, attachment);
        let table = state.attachments.filter(others)?;
        let shown = Version::new(state.attachments.filter(others)?)?;
        state
            .withdrawn
            .push(attachment.clone(), GFP_KERNEL_ACCOUNT)?;
        state.attachments = table;
        self.table.replace(shown);
        Ok(())
    }

    /// Closes `queue` now or, should the device not be able to do without it now, later. Called with the lock for that.
    fn close_or_retry(&self, queue: &Arc<Queue>) {
        if self.close(queue).is_err() {
            queue.close_later();
        }
    }

    /// Closes `queue` now or later: as above, for those who have not got the lock.
    pub(crate) fn close_eventually(&self, queue: &Arc<Queue>) {
        let _queueing = self.queueing.lock();
        self.close_or_retry(queue);
    }

    /// The open queues, one after the other.
    fn queues(&self) -> impl Iterator<Item = Arc<Queue>> + '_ {
        let mut from = 0;
        core::iter::from_fn(move || {
            let state = self.state.lock();
            let (id, queue) = state.queues.next(from)?;
            from = id + 1;
            Some(queue.clone())
        })
    }

    /// Aborts the connections that have unfinished sends from `map`, as many as are found.
    fn abort_senders(&self, map: &Map) {
        let mut from = 0;
        loop {
            // A statement of its own, so that the lock is not held while the socket is looked at.
            let next = self
                .state
                .lock()
                .sockets
                .next(from)
                .map(|(id, socket)| (id, socket.clone()));
            let Some((id, socket)) = next else { break };
            from = id + 1;
            if socket.sends_from(map) {
                let mut state = self.state.lock();
                let here = state.has_socket(&socket);
                if here {
                    state.sockets.hold(id);
                }
                drop(state);
                if here {
                    socket.abort();
                    self.state.lock().sockets.cancel(id);
                }
            }
        }
        let mut at = 0;
        loop {
            let next = self.state.lock().closed.get(at).cloned();
            let Some(socket) = next else { break };
            at += 1;
            if socket.sends_from(map) {
                socket.abort();
            }
        }
    }

    /// What sockets may hold.
    pub(crate) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// The attachments by address.
    pub(crate) fn table<'a>(&'a self, guard: &'a rcu::Guard) -> &'a Table {
        self.table.read(guard)
    }

    /// The attachments whose buffers can be copied into.
    fn writable<'a>(&'a self, guard: &'a rcu::Guard) -> impl Iterator<Item = &'a Arc<Attachment>> {
        self.table(guard)
            .values()
            .filter(|attachment| attachment.map.is_writable() && attachment.map.is_live())
    }

    /// Whether there are buffers that can be copied into, free or not.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable(&rcu::read_lock()).next().is_some()
    }

    /// Takes a buffer that can be copied into off the free lists.
    pub(crate) fn take_free(&self) -> Option<(Arc<Attachment>, u32)> {
        let guard = rcu::read_lock();
        for attachment in self.writable(&guard) {
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
        if !region.span.is_whole(this.buffer_size) {
            return Err(EINVAL);
        }
        let _attaching = this.attaching.lock();
        {
            let state = this.state.lock();
            if state.gone {
                return Err(ENODEV);
            }
            if state.attachments.overlaps(&region.span) {
                return Err(EEXIST);
            }
            if state.attachments.values().count() >= MAX_ATTACHMENTS {
                return Err(ENOSPC);
            }
        }
        let span = region.span;
        let attachment = Map::attach(
            this.device()?,
            region,
            this.buffer_size,
            this,
            this.shares.clone(),
        )?;
        let mut state = this.state.lock();
        // It may be wanted back already, by an exporter that did not find it here.
        if !attachment.map.is_live() {
            return Err(ENODEV);
        }
        let table = state.attachments.with(span, attachment.clone())?;
        let shown = Version::new(state.attachments.with(span, attachment.clone())?)?;
        state.attachments = table;
        this.table.replace(shown);
        trace::region_attach(this.id, span.start() as u64, span.len() as u64);
        Ok(())
    }

    /// Opens a receive queue, or says why not and what the device says about it.
    pub(crate) fn open_queue(
        this: &Late<Self>,
        request: &ioctl::OpenQueue,
    ) -> core::result::Result<Arc<Queue>, (Error, Option<CString>)> {
        let plain = |err| (err, None);
        let id = this
            .state
            .lock()
            .queues
            .reserve(MAX_QUEUES, |_| true)
            .map_err(plain)?;
        let opened = Queue::new(this.clone(), id, request.queue, request.entries)
            .map_err(plain)
            .and_then(|queue| this.open(&queue, request).map(|()| queue));
        if opened.is_err() {
            this.state.lock().queues.cancel(id);
        }
        opened
    }

    /// Opens `queue`, whose number is reserved, and shows it.
    fn open(
        &self,
        queue: &Arc<Queue>,
        request: &ioctl::OpenQueue,
    ) -> core::result::Result<(), (Error, Option<CString>)> {
        let device = self.device().map_err(|err| (err, None))?;
        let wanted = QueueParams {
            index: request.queue,
            hds_offset: request.hds_offset.unwrap_or(HDS_OFFSET),
            headroom: if request.padded { 0 } else { HEADROOM },
            packed: request.padded,
        };
        let _queueing = self.queueing.lock();
        let headroom = match device.open_queue(queue, wanted) {
            // A device that splits at the end of the headers may know no parameters, and needs none.
            Err(refusal) if refusal.error == code::EOPNOTSUPP && request.hds_offset.is_none() => {
                let plain = QueueParams {
                    hds_offset: 0,
                    headroom: 0,
                    packed: false,
                    ..wanted
                };
                device.open_queue(queue, plain)
            }
            result => result,
        }
        .map_err(queue::explain)?;
        queue.leaves(headroom);
        self.state.lock().queues.fill(queue.id(), queue.clone());
        trace::queue_open(self.id, queue.id(), queue.index());
        Ok(())
    }

    /// Closes the receive queue with number `id`. Where the device cannot do without it now, it stays open.
    pub(crate) fn close_queue(&self, id: u32) -> Result {
        let _queueing = self.queueing.lock();
        let queue = self.queue(id)?;
        self.close(&queue)
    }

    /// Closes `queue`. Called with the lock for that.
    fn close(&self, queue: &Arc<Queue>) -> Result {
        self.device()?.close_queue(queue)?;
        let mut state = self.state.lock();
        let here = state.queues.get(queue.id());
        if here.is_some_and(|here| Arc::ptr_eq(here, queue)) {
            state.queues.take(queue.id());
            trace::queue_close(self.id, queue.id(), queue.index());
        }
        Ok(())
    }

    /// Attaches the socket of `file`. As that cannot be undone, `tell` is called with our side of it before, and may refuse.
    pub(crate) fn attach_socket(
        this: &Late<Self>,
        file: &SocketFile,
        request: &ioctl::AttachSocket,
        tell: impl FnOnce(&Socket) -> Result,
    ) -> Result {
        let device = this.device()?;
        // A number whose last socket left buffers with user space would begin with those on its account.
        let id = this
            .state
            .lock()
            .sockets
            .reserve(MAX_SOCKETS, |id: Slot| this.shares.held(id) == 0)?;
        let socket = Socket::new(this, id, file.sock(), request).and_then(|socket| {
            tell(&socket)?;
            file.attach(device, &socket)?;
            Ok(socket)
        });
        let mut state = this.state.lock();
        let result = match socket {
            Ok(socket) if !state.gone => {
                this.stats.add(OfContext::Attached, 1);
                state.sockets.fill(id, socket);
                return Ok(());
            }
            // The device went after the socket was attached: nobody else tells this one.
            Ok(socket) => {
                drop(state);
                socket.abort();
                state = this.state.lock();
                Err(ENODEV)
            }
            Err(err) => Err(err),
        };
        state.sockets.cancel(id);
        result
    }

    /// Detaches the socket with number `id`.
    pub(crate) fn detach_socket(&self, id: u32) -> Result {
        let socket = self.state.lock().sockets.hold(id);
        socket.ok_or(ENOENT)?.abort();
        // Only now, so that no other socket's account gets what this one has delivered until then.
        self.state.lock().sockets.cancel(id);
        Ok(())
    }

    /// `socket` was closed. Its number is free again; what it still sends ends with the context at the latest.
    pub(crate) fn forget(&self, socket: &Late<Socket>) {
        let mut state = self.state.lock();
        if state.has_socket(socket) {
            state.sockets.take(socket.id());
            // What has finished goes on the work queue: see `Late`.
            state.closed.retain(|closed| closed.sends());
            if socket.sends() {
                // Without memory for it, TCP decides when it gives up.
                let _ = state.closed.push(socket.clone(), GFP_KERNEL_ACCOUNT);
            }
        }
    }

    /// The attached region that `addr` lies in.
    pub(crate) fn region(&self, addr: usize) -> Result<Arc<Attachment>> {
        let state = self.state.lock();
        let attachment = state.attachments.find(addr).ok_or(ENOENT)?;
        Ok(attachment.clone())
    }

    /// How many regions, queues and sockets there are.
    pub(crate) fn counts(&self) -> [usize; 3] {
        let state = self.state.lock();
        [
            state.attachments.values().count(),
            state.queues.iter().count(),
            state.sockets.iter().count(),
        ]
    }

    /// Calls `each` with every attachment, queue and socket until it fails. Under the lock of the state.
    pub(crate) fn visit<E>(
        &self,
        mut each: impl FnMut(Part<'_>) -> core::result::Result<(), E>,
    ) -> core::result::Result<(), E> {
        let state = self.state.lock();
        for region in state.attachments.values() {
            each(Part::Region(region))?;
        }
        for queue in state.queues.iter() {
            each(Part::Queue(queue))?;
        }
        for socket in state.sockets.iter() {
            each(Part::Socket(socket))?;
        }
        Ok(())
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
