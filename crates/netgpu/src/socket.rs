// SPDX-License-Identifier: MIT OR Apache-2.0
//! Attached TCP sockets: receiving in place, sending in place.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::area::Region;
use crate::context::ContextShared;
use crate::error::{Command, Error, RECEIVING};
use crate::queue::Queue;
use crate::raw::{self, Finished};
use crate::span::{Finder, Held, Lent, Payload};
use crate::sys::{self, Device};
use crate::watch::Watch;

/// What an attached socket does. Ring sizes round up to a power of two, into the range that the kernel allows.
#[derive(Debug, Clone)]
pub struct SocketConfig<'q> {
    /// Receive in place, and return buffers through this queue, one of the socket's context. Without it received data
    /// is read from the stream as ever.
    pub receive: Option<&'q Queue>,
    /// Entries of the rx ring: received pieces that may wait there.
    pub rx_entries: u32,
    /// Send in place. Without it the stream is written to as ever.
    pub send: bool,
    /// Entries of the completion ring: sends that may be unfinished at a time.
    pub completion_entries: u32,
}

impl Default for SocketConfig<'_> {
    /// Neither receives nor sends in place; 4096 entries of the rx ring, 1024 of the completion ring.
    fn default() -> Self {
        Self {
            receive: None,
            rx_entries: 4096,
            send: false,
            completion_entries: 1024,
        }
    }
}

/// A TCP socket attached to a context.
///
/// The stream is the application's own: [`Socket::stream`] gives it for everything but moving data. The file
/// descriptor works with poll(2), epoll(7) and what builds on them: it is readable while [`Socket::try_recv`] or
/// [`Socket::try_completion`] has something to say, and while the kernel cannot deliver what it has, for want of buffers that [`Piece`]s
/// hold. A [`Watch`] becomes readable when something happens, pieces that come back included.
///
/// Dropping it closes the socket, as dropping a [`TcpStream`] does: what was sent is still on its way, as long as the context lives, and
/// the peer comes to the end of the stream. Memory of sends that have not finished by then stays with the kernel and is not free again as
/// long as its region lives. Where somebody else has a descriptor of the socket ([`TcpStream::try_clone`], fork(2)), the connection is
/// aborted instead, unless nothing is under way and the peer has ended its stream.
#[derive(Debug)]
pub struct Socket {
    // Closed first: detaching a socket that is open aborts a connection of which more can come.
    stream: TcpStream,
    raw: raw::Socket,
    rx: Option<Rx>,
    tx: Option<Tx>,
    /// Made by the first that waits.
    watch: Option<Watch>,
    /// Whoever waited has seen that the peer has closed its side, or that the connection has failed.
    ending: bool,
    /// Why the connection has failed, which the kernel tells once.
    failure: Option<Errno>,
}

#[derive(Debug)]
struct Rx {
    finder: Finder,
    /// What recv(2) said about the end while the ring still held entries: to be told when those are gone.
    end: Option<io::Result<()>>,
}

#[derive(Debug)]
struct Tx {
    /// Unfinished sends by number; the first is number `oldest`. [`None`] for one that finished out of order.
    in_flight: VecDeque<Option<Payload>>,
    oldest: u32,
    numbers: Numbers,
}

/// Whose sends the kernel has numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Numbers {
    /// Nobody's, as far as we know.
    Unknown,
    /// Ours, as far as we know.
    Ours,
    /// Others' as well: which finished send is which, nobody can tell.
    Mixed,
}

/// What [`Socket::try_recv`] found.
#[derive(Debug)]
pub enum Received {
    /// The next bytes of the stream.
    Piece(Piece),
    /// Nothing yet: wait until the socket is readable.
    Nothing,
    /// The peer has closed its side, and everything was received.
    End,
}

/// A finished send.
#[derive(Debug)]
pub struct Completion {
    /// Some bytes of the send were copied on their way.
    pub copied: bool,
    /// The bytes, which no device reads any longer.
    pub payload: Payload,
}

impl Socket {
    pub(crate) fn attach(
        context: &Arc<ContextShared>,
        stream: TcpStream,
        config: SocketConfig<'_>,
    ) -> Result<Self, Error> {
        let SocketConfig {
            receive,
            rx_entries,
            send,
            completion_entries,
        } = config;
        if receive.is_some_and(|queue| !Arc::ptr_eq(queue.shared().context(), context)) {
            return Err(Error::ForeignContext("queue"));
        }
        // No entries are no ring.
        let rx_entries = receive.map_or(0, |_| rx_entries.max(1));
        let completion_entries = if send { completion_entries.max(1) } else { 0 };
        let raw = raw::Socket::new(context, stream.as_raw_fd(), rx_entries, completion_entries)?;
        let rx = receive.map(|queue| Rx {
            finder: Finder::new(queue.shared().clone()),
            end: None,
        });
        let tx = send.then(|| Tx {
            in_flight: VecDeque::new(),
            oldest: 0,
            numbers: Numbers::Unknown,
        });
        Ok(Self {
            stream,
            raw,
            rx,
            tx,
            watch: None,
            ending: false,
            failure: None,
        })
    }

    /// The stream: for its addresses, options, `shutdown`.
    ///
    /// With [`SocketConfig::send`] nothing but [`Socket::try_send`] sends with `MSG_ZEROCOPY`. The kernel numbers such sends, whoever makes
    /// them, and has no more to tell of them than the numbers. With one that is not this library's, a [`Completion`] comes before its bytes
    /// have been sent: who writes to them then changes what the peer gets. It shows late ([`Error::ForeignSend`]), except in front of the
    /// first send.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Takes the next received bytes, without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the connection has failed, after everything that came before was received;
    /// [`Error::NoRing`]; [`Error::Stray`].
    #[inline]
    pub fn try_recv(&mut self) -> Result<Received, Error> {
        match self.delivered()? {
            Some(piece) => Ok(Received::Piece(piece)),
            None => self.ask(),
        }
    }

    /// Takes the next received bytes if they have been delivered, and does not ask the kernel for more, nor whether the stream
    /// has ended. It saves a system call for who has had something of [`Self::try_recv`] and will wait until the socket is
    /// readable, or still is: not for who waits for it to become so (`EPOLLET`).
    ///
    /// # Errors
    ///
    /// [`Error::NoRing`]; [`Error::Stray`].
    #[inline]
    pub fn delivered(&mut self) -> Result<Option<Piece>, Error> {
        if self.raw.should_release() {
            self.release()?;
        }
        self.pop()
    }

    /// Has `take` see what has been delivered, piece by piece, until it fails, and returns the buffers of what it has seen, many at a
    /// time. Returns the number of pieces; with none, there may be more in the kernel, which [`Self::try_recv`] asks for it. Costs less
    /// than taking pieces and dropping them one by one.
    ///
    /// # Errors
    ///
    /// [`Error::NoRing`]; [`Error::Stray`]; those of `take`.
    #[inline]
    pub fn see_delivered<E: From<Error>>(
        &mut self,
        mut take: impl FnMut(&Piece) -> Result<(), E>,
    ) -> Result<usize, E> {
        if self.raw.should_release() {
            self.release()?;
        }
        let rx = ring(&mut self.rx, "receiving")?;
        let mut lent = Lent::new(&mut rx.finder);
        let mut count = 0;
        // Places of the ring are given back with the next call.
        while !self.raw.should_release()
            && let Some(delivery) = self.raw.pop()
        {
            lent.show(&delivery, &mut take)
                .ok_or_else(|| stray(&delivery))??;
            count += 1;
        }
        Ok(count)
    }

    /// Takes what is next on the ring.
    #[inline]
    fn pop(&mut self) -> Result<Option<Piece>, Error> {
        let rx = ring(&mut self.rx, "receiving")?;
        let Some(delivery) = self.raw.pop() else {
            return Ok(None);
        };
        match rx.finder.hold(&delivery) {
            Some(held) => Ok(Some(Piece::new(held))),
            None => Err(stray(&delivery)),
        }
    }

    /// Gives slots of the ring back, which is a good time for the kernel to go on if it has stalled.
    #[cold]
    fn release(&mut self) -> Result<(), Error> {
        let rx = ring(&mut self.rx, "receiving")?;
        if self.raw.release() {
            rx.resume(&self.stream);
        }
        Ok(())
    }

    /// The ring is empty: asks the kernel for more, and whether there will be more.
    fn ask(&mut self) -> Result<Received, Error> {
        if let Some(piece) = self.more()? {
            return Ok(Received::Piece(piece));
        }
        if self.raw.release() {
            // It cannot go on. Watches are told of buffers that come back after this; for what has come back before, it is asked once more.
            self.raw.context().room().expect();
            if let Some(piece) = self.more()? {
                return Ok(Received::Piece(piece));
            }
        }
        self.end()
    }

    /// Takes what is next when the kernel has gone on: all slots are free now, and buffers may have come back, so whatever had stalled it,
    /// it can. This is also how the end of the stream is found.
    fn more(&mut self) -> Result<Option<Piece>, Error> {
        let rx = ring(&mut self.rx, "receiving")?;
        if rx.end.is_some() {
            return Ok(None);
        }
        self.raw.release();
        rx.resume(&self.stream);
        self.pop()
    }

    /// Nothing is left on the ring: whether there will be more, as far as the kernel has told.
    fn end(&mut self) -> Result<Received, Error> {
        let rx = ring(&mut self.rx, "receiving")?;
        match rx.end.take() {
            None => Ok(Received::Nothing),
            Some(Ok(())) => {
                rx.end = Some(Ok(()));
                // What was told before looks like the end in order afterwards.
                self.failure.map_or(Ok(Received::End), |errno| {
                    Err(Error::Socket {
                        what: RECEIVING,
                        source: errno.into(),
                    })
                })
            }
            Some(Err(source)) => {
                self.failure = self.failure.or(has_failed(&source));
                Err(Error::Socket {
                    what: RECEIVING,
                    source,
                })
            }
        }
    }

    /// Receives the next bytes, waiting for them; [`None`] at the end of the stream.
    ///
    /// # Errors
    ///
    /// As [`Socket::try_recv`].
    #[inline]
    pub fn recv(&mut self) -> Result<Option<Piece>, Error> {
        match self.delivered()? {
            Some(piece) => Ok(Some(piece)),
            None => self.wait_for_more(),
        }
    }

    /// [`Self::recv`], when the ring is empty.
    fn wait_for_more(&mut self) -> Result<Option<Piece>, Error> {
        // A kernel that has not stalled has nothing more to deliver, unless the stream ends, and need not be asked before the wait.
        let rx = ring(&mut self.rx, "receiving")?;
        let mut ask = self.raw.release()
            || rx.finder.queue().give_waiting() > 0
            || rx.end.is_some()
            || self.ending;
        loop {
            if !ask {
                self.wait()?;
            }
            ask = false;
            match self.try_recv()? {
                Received::Piece(piece) => return Ok(Some(piece)),
                Received::End => return Ok(None),
                Received::Nothing => {}
            }
        }
    }

    /// Queues bytes from the front of `payload` for sending, without waiting, and advances it by that many.
    ///
    /// Returns how many. Zero: the send buffer is full, or there are as many unfinished sends as the completion ring
    /// has entries; wait until the socket is writable or a send completes. The memory is read until the
    /// [`Completion`] of these bytes arrives, which has them as its payload.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the connection has failed, or the memory is not in a region attached to the context;
    /// [`Error::NoRing`]; [`Error::ForeignSend`].
    pub fn try_send(&mut self, payload: &mut Payload) -> Result<usize, Error> {
        let tx = ring(&mut self.tx, "sending")?;
        if payload.is_empty() {
            return Ok(0);
        }
        if tx.numbers != Numbers::Ours {
            tx.begin(&self.raw)?;
        }
        let sent = loop {
            let sent = sys::send_zerocopy(self.stream.as_fd(), payload.address(), payload.len());
            match sent {
                Ok(sent) => break sent,
                Err(source) => match Errno::from_io_error(&source) {
                    Some(Errno::INTR) => {}
                    Some(Errno::AGAIN | Errno::NOBUFS) => return Ok(0),
                    _ => {
                        self.failure = self.failure.or(has_failed(&source));
                        return Err(Error::Socket {
                            what: "cannot send",
                            source,
                        });
                    }
                },
            }
        };
        if sent > 0 {
            tx.in_flight.push_back(Some(payload.head(sent)));
            payload.advance(sent);
        }
        Ok(sent)
    }

    /// Takes a finished send, without waiting. Sends need not finish in the order in which they were made.
    ///
    /// # Errors
    ///
    /// [`Error::NoRing`]; [`Error::ForeignSend`].
    pub fn try_completion(&mut self) -> Result<Option<Completion>, Error> {
        let tx = ring(&mut self.tx, "sending")?;
        let Some(Finished { number, copied }) = self.raw.finished() else {
            return Ok(None);
        };
        let payload = tx.finish(number).ok_or(Error::ForeignSend)?;
        Ok(Some(Completion { copied, payload }))
    }

    /// Waits for a finished send; [`None`] when there is no unfinished one.
    ///
    /// A send has finished when the peer's TCP has all of its bytes, and also when the connection has failed: [`Socket::check`] tells.
    ///
    /// # Errors
    ///
    /// As [`Socket::try_completion`].
    pub fn completion(&mut self) -> Result<Option<Completion>, Error> {
        loop {
            if let Some(completion) = self.try_completion()? {
                return Ok(Some(completion));
            }
            if self.in_flight() == 0 {
                return Ok(None);
            }
            self.wait()?;
        }
    }

    /// Fails if the connection has failed. When no send is unfinished, and this does not fail, the peer's TCP has all that was sent.
    ///
    /// [`TcpStream::take_error`] would do once, and have [`Socket::try_recv`] find the end of the stream instead of the error.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] with the reason, each time.
    pub fn check(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Socket {
            what: "the connection has failed",
            source,
        };
        if self.failure.is_none() {
            let error = self.stream.take_error().map_err(failed)?;
            self.failure = error.as_ref().and_then(Errno::from_io_error);
        }
        match self.failure {
            Some(errno) => Err(failed(errno.into())),
            None => Ok(()),
        }
    }

    /// A descriptor for who waits in a way of its own.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the process has too many descriptors.
    pub fn watch(&self) -> Result<Watch, Error> {
        Watch::new(&self.stream, self.raw.context())
    }

    /// Number of sends that have not finished.
    pub fn in_flight(&self) -> usize {
        self.tx
            .as_ref()
            .map_or(0, |tx| tx.in_flight.iter().flatten().count())
    }

    /// Reads the socket's counters.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when the context is gone.
    pub fn statistics(&self) -> Result<SocketStatistics, Error> {
        self.raw.statistics()
    }

    /// Waits until something happens, or has happened since this was called last.
    fn wait(&mut self) -> Result<(), Error> {
        let watch = match self.watch.take() {
            Some(watch) => watch,
            None => self.watch()?,
        };
        // Whoever waits next is not told again.
        self.ending |= self.watch.insert(watch).wait()?;
        Ok(())
    }
}

impl Rx {
    /// Has the kernel take returned buffers back and move to the ring what waits in the socket, and learns whether the
    /// stream has ended.
    fn resume(&mut self, stream: &TcpStream) {
        // On an attached socket no bytes are returned: they go to the ring.
        let mut nothing = [0u8; 1];
        let mut before = usize::MAX;
        loop {
            let waiting = self.finder.queue().give_waiting();
            match rustix::net::recv(stream, &mut nothing[..], RecvFlags::DONTWAIT) {
                Ok(_) => self.end = Some(Ok(())),
                Err(Errno::INTR) => continue,
                // The fill ring is empty now, and has room for what had none.
                Err(Errno::AGAIN) if waiting > 0 && waiting < before => {
                    before = waiting;
                    continue;
                }
                Err(Errno::AGAIN) => {}
                Err(errno) => self.end = Some(Err(errno.into())),
            }
            return;
        }
    }
}

impl Tx {
    /// Before the first send: fails if others have sent.
    #[cold]
    fn begin(&mut self, socket: &raw::Socket) -> Result<(), Error> {
        // Where there are no counters any more, the send will say why.
        let others = || {
            socket
                .statistics()
                .is_ok_and(|counters| counters.tx_sends > 0)
        };
        if self.numbers == Numbers::Mixed || others() {
            self.numbers = Numbers::Mixed;
            return Err(Error::ForeignSend);
        }
        self.numbers = Numbers::Ours;
        Ok(())
    }

    /// Takes the payload of send number `id` out; [`None`] if not all sends are ours, from then on.
    fn finish(&mut self, id: u32) -> Option<Payload> {
        let payload = match self.numbers {
            Numbers::Mixed => None,
            Numbers::Unknown | Numbers::Ours => self.take(id),
        };
        if payload.is_none() {
            self.numbers = Numbers::Mixed;
        }
        payload
    }

    /// [`None`] if there is no such unfinished send.
    fn take(&mut self, id: u32) -> Option<Payload> {
        if id != self.oldest {
            let index = usize::try_from(id.wrapping_sub(self.oldest)).ok()?;
            return self.in_flight.get_mut(index)?.take();
        }
        let payload = self.in_flight.pop_front()?;
        self.oldest = self.oldest.wrapping_add(1);
        while let Some(None) = self.in_flight.front() {
            self.in_flight.pop_front();
            self.oldest = self.oldest.wrapping_add(1);
        }
        payload
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(tx) = &mut self.tx {
            // The device may still read these bytes: their spans must not become free for someone to write to.
            tx.in_flight.drain(..).for_each(std::mem::forget);
        }
    }
}

/// Received bytes, in place. Dropping it returns the buffer to the kernel.
///
/// Pieces are to be dropped soon: a socket whose pieces fill its share of the donated buffers (see struct
/// netgpu_attach_socket in the header of the user API) delivers nothing until some are back.
#[derive(Debug)]
pub struct Piece {
    held: Held,
}

impl Piece {
    #[inline]
    pub(crate) fn new(held: Held) -> Self {
        Self { held }
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "a piece is never empty")]
    #[inline]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// The address that stands for the first byte. The bytes there are the holder's, to read and to write, as long as it has the piece.
    pub fn address(&self) -> usize {
        self.held.start()
    }

    /// The region that they lie in.
    pub fn region(&self) -> Region {
        Region {
            shared: self.held.shared_region(),
        }
    }

    /// Fills `data` with a copy of the bytes, of whatever memory they are.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`]; [`Error::NoCopy`] for a dma-buf.
    ///
    /// # Panics
    ///
    /// When `data` is not as long.
    pub fn read(&self, data: &mut [u8]) -> Result<(), Error> {
        assert_eq!(data.len(), self.len());
        self.held.read(data)
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.held.bytes()
    }
}

/// The errno, if it says that there is no connection any more. The kernel says so once.
fn has_failed(source: &io::Error) -> Option<Errno> {
    Errno::from_io_error(source).filter(|errno| {
        matches!(
            *errno,
            Errno::CONNABORTED
                | Errno::CONNREFUSED
                | Errno::CONNRESET
                | Errno::HOSTUNREACH
                | Errno::NETUNREACH
                | Errno::TIMEDOUT
        )
    })
}

/// The half of a socket for `what`. (`ok_or()` would make the error each time, and drop it.)
#[inline]
fn ring<'a, T>(half: &'a mut Option<T>, what: &'static str) -> Result<&'a mut T, Error> {
    let Some(half) = half else {
        return Err(Error::NoRing(what));
    };
    Ok(half)
}

/// The kernel has delivered what lies in no region.
#[cold]
fn stray(delivery: &raw::Delivery) -> Error {
    Error::Stray {
        address: delivery.address(),
        len: delivery.len(),
    }
}

/// Counters of a socket since it was attached, in bytes unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SocketStatistics {
    /// Delivered where the NIC's DMA put them.
    pub rx_zerocopy: u64,
    /// Delivered after a copy by the CPU: the sum of the next three.
    pub rx_copied: u64,
    /// Left with its header by a split at a fixed offset, and copied in front of the packet's other bytes.
    pub rx_copied_split: u64,
    /// The same, where there was no room in front of the others, or where the CPU cannot write.
    pub rx_copied_no_room: u64,
    /// Of packets without payload in a region: too short for the split, or of another queue or device.
    pub rx_copied_unsplit: u64,
    /// Packets, as TCP had them, of which nothing was copied.
    pub rx_zerocopy_packets: u64,
    /// The other packets.
    pub rx_copied_packets: u64,
    /// Times that delivery stopped: the sum of the next five.
    pub rx_stalled: u64,
    /// Times that the rx ring was full.
    pub rx_stalled_ring: u64,
    /// Times that the socket's share of buffers was used up.
    pub rx_stalled_share: u64,
    /// Times that there was no buffer to copy into.
    pub rx_stalled_buffer: u64,
    /// Times that so much had been copied that others had to have their turn.
    pub rx_stalled_pause: u64,
    /// Times that the next bytes could not be delivered: they lie in memory that is not the context's, or no longer.
    pub rx_stalled_memory: u64,
    /// Queued for sending straight from a region.
    pub tx_zerocopy: u64,
    /// Sends that queued them.
    pub tx_sends: u64,
    /// Bytes of finished sends that were copied on their way.
    pub tx_copied: u64,
    /// Those sends.
    pub tx_copied_sends: u64,
    /// Sends that found no room on the completion ring.
    pub tx_refused: u64,
    /// Sends that have not finished.
    pub tx_pending: u64,
    /// Buffers that we have from this socket now.
    pub held: u64,
    /// How many it may have now.
    pub share: u64,
}

impl SocketStatistics {
    /// Reads those of socket number `id`.
    pub(crate) fn read(device: &Device, id: u32) -> Result<Self, Error> {
        let mut counters = sys::netgpu_socket_stats {
            id,
            ..Default::default()
        };
        device
            .socket_stats(&mut counters)
            .map_err(|error| Error::refused(Command::Statistics, "the socket", error))?;
        let sys::netgpu_socket_stats {
            id: _,
            reserved: _,
            rx_zerocopy,
            rx_copied,
            rx_copied_split,
            rx_copied_no_room,
            rx_copied_unsplit,
            rx_zerocopy_packets,
            rx_copied_packets,
            rx_stalled,
            rx_stalled_ring,
            rx_stalled_share,
            rx_stalled_buffer,
            rx_stalled_pause,
            rx_stalled_memory,
            tx_zerocopy,
            tx_sends,
            tx_copied,
            tx_copied_sends,
            tx_refused,
            tx_pending,
            held,
            share,
            reserved2: _,
        } = counters;
        Ok(Self {
            rx_zerocopy,
            rx_copied,
            rx_copied_split,
            rx_copied_no_room,
            rx_copied_unsplit,
            rx_zerocopy_packets,
            rx_copied_packets,
            rx_stalled,
            rx_stalled_ring,
            rx_stalled_share,
            rx_stalled_buffer,
            rx_stalled_pause,
            rx_stalled_memory,
            tx_zerocopy,
            tx_sends,
            tx_copied,
            tx_copied_sends,
            tx_refused,
            tx_pending,
            held,
            share,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::area::RegionShared;
    use crate::queue::QueueShared;
    use crate::ring::{Consumer, Mapped, Producer};

    /// A socket, and the kernel's side of it.
    struct Ends {
        socket: Socket,
        start: u64,
        deliver: Producer<Mapped<sys::netgpu_rx_entry>>,
        returned: Consumer<Mapped<sys::netgpu_fill_entry>>,
    }

    impl Ends {
        fn new() -> Self {
            let regions = [RegionShared::fake(64), RegionShared::fake(64)];
            let start = regions[1].memory().start() as u64;
            let mut regions = regions.to_vec();
            regions.sort_by_key(|region| region.memory().start());
            let context = ContextShared::fake(regions, 4096);
            let (fill, returned) = Mapped::fake(256);
            let (rx, deliver) = Mapped::fake(256);
            let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
            let address = listener.local_addr().expect("it is bound");
            Self {
                socket: Socket {
                    stream: TcpStream::connect(address).expect("it listens"),
                    rx: Some(Rx {
                        finder: Finder::new(QueueShared::fake(fill, &context)),
                        end: None,
                    }),
                    raw: raw::Socket::fake(rx, context),
                    tx: None,
                    watch: None,
                    ending: false,
                    failure: None,
                },
                start,
                deliver: Producer::new(deliver),
                returned: Consumer::new(returned),
            }
        }

        /// Delivers `count` pieces: ten bytes of a buffer each.
        fn deliver(&mut self, count: u64) {
            for n in 0..count {
                let addr = self.start + n * 4096 + 7;
                let entry = sys::netgpu_rx_entry { addr, len: 10 };
                self.deliver.push(entry).expect("there is room");
            }
            self.deliver.publish();
        }

        /// Numbers of the pieces that have come back.
        fn returned(&mut self) -> Vec<u64> {
            let addresses = std::iter::from_fn(|| Some(self.returned.pop()?.addr));
            addresses
                .map(|addr| (addr - self.start - 7) / 4096)
                .collect()
        }
    }

    #[test]
    fn a_piece_comes_back_when_it_is_dropped_even_after_its_socket() {
        let mut ends = Ends::new();
        ends.deliver(2);
        let first = ends.socket.delivered().expect("they lie in a region");
        let second = ends.socket.delivered().expect("they lie in a region");
        assert!(matches!(ends.socket.delivered(), Ok(None)));
        assert_eq!(
            first.as_ref().map(|piece| piece.to_vec()),
            Some(vec![0; 10])
        );
        assert_eq!(ends.returned(), []);
        drop(second);
        assert_eq!(ends.returned(), [1]);
        let Ends {
            socket,
            start,
            deliver,
            returned,
        } = ends;
        drop(socket);
        assert_eq!(first.as_ref().map(Piece::len), Some(10));
        std::thread::spawn(|| drop(first))
            .join()
            .expect("it does not panic");
        let mut returned = returned;
        assert_eq!(returned.pop().map(|entry| entry.addr), Some(start + 7));
        drop(deliver);
    }

    #[test]
    fn what_was_seen_comes_back_once_and_the_rest_stays() {
        let mut ends = Ends::new();
        ends.deliver(50);
        let mut seen = 0;
        let mut look = |piece: &Piece| {
            assert_eq!(&piece[..], [0; 10]);
            seen += 1;
            if seen == 40 {
                return Err(Error::NoRing("a test"));
            }
            Ok(())
        };
        assert!(matches!(
            ends.socket.see_delivered(&mut look),
            Err(Error::NoRing("a test"))
        ));
        assert!(ends.returned().into_iter().eq(0..40));
        assert!(matches!(ends.socket.see_delivered(&mut look), Ok(10)));
        assert!(ends.returned().into_iter().eq(40..50));
        assert!(matches!(ends.socket.see_delivered(&mut look), Ok(0)));
        assert_eq!(ends.returned(), []);
    }

    #[test]
    fn what_was_seen_comes_back_after_a_panic() {
        let mut ends = Ends::new();
        ends.deliver(5);
        let mut seen = 0;
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            ends.socket.see_delivered(|_| -> Result<(), Error> {
                seen += 1;
                assert!(seen < 3, "as it is to be");
                Ok(())
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(ends.returned(), [0, 1, 2]);
        let rest = ends.socket.see_delivered(|_| Ok::<(), Error>(()));
        assert!(matches!(rest, Ok(2)));
        assert_eq!(ends.returned(), [3, 4]);
    }

    #[test]
    fn a_quarter_of_the_ring_is_seen_at_a_time_so_that_the_kernel_gets_places_back() {
        let mut ends = Ends::new();
        for _ in 0..4 {
            ends.deliver(64);
        }
        for _ in 0..4 {
            let seen = ends.socket.see_delivered(|_| Ok::<(), Error>(()));
            assert!(matches!(seen, Ok(64)));
        }
        assert_eq!(ends.deliver.room(), 192);
        assert!(matches!(
            ends.socket.see_delivered(|_| Ok::<(), Error>(())),
            Ok(0)
        ));
        assert_eq!(ends.deliver.room(), 256);
        assert_eq!(ends.returned().len(), 256);
    }

    #[test]
    fn bytes_of_no_region_are_an_error() {
        let mut ends = Ends::new();
        for (addr, len) in [(8, 8), (ends.start - 1, 2), (ends.start + 64 * 4096 - 1, 2)] {
            let entry = sys::netgpu_rx_entry { addr, len };
            ends.deliver.push(entry).expect("there is room");
        }
        ends.deliver.publish();
        let stray = |error: &Error| matches!(error, Error::Stray { .. });
        assert!(ends.socket.delivered().as_ref().is_err_and(stray));
        assert!(
            ends.socket
                .see_delivered(|_| Ok::<(), Error>(()))
                .as_ref()
                .is_err_and(stray)
        );
        assert!(ends.socket.try_recv().as_ref().is_err_and(stray));
        assert_eq!(ends.returned(), []);
    }
}
