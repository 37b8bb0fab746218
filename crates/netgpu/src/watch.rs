// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting: for what happens on a socket, and for buffers that come back.
//!
//! To poll(2) a socket is readable as long as there are received bytes, finished sends, or bytes in TCP that cannot be delivered. Who waits
//! for one of them while another is there would not wait, but try in vain all the time. So what is waited for is an epoll instance with the
//! socket in it, edge-triggered: readable once for each time that something happens.
//!
//! Of buffers that come back the kernel cannot tell, as it learns of them only when it looks: the context does, by an eventfd that is in
//! that instance, too.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::epoll::{self, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use crate::context::ContextShared;
use crate::error::Error;

/// Room for received bytes: what the sockets of a context stop for want of.
#[derive(Debug)]
pub(crate) struct Room {
    /// Written to when there is more, and never read: that it is written to is what [`Watch`]es see.
    event: OwnedFd,
    /// Somebody is to be told.
    expected: AtomicBool,
}

impl Room {
    pub(crate) fn new() -> Result<Self, Error> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(cannot)?;
        Ok(Self {
            event,
            expected: AtomicBool::new(false),
        })
    }

    /// From now on the next [`Self::more`] is told to all who watch. Buffers that have come back before, the kernel finds when it is asked
    /// after this.
    pub(crate) fn expect(&self) {
        self.expected.store(true, Ordering::Relaxed);
        // Before the kernel looks at the fill rings. Against that in `more()`: at least one of the two sides sees the other.
        fence(Ordering::SeqCst);
    }

    /// The kernel was given buffers, or has fewer sockets to share them among.
    #[inline]
    pub(crate) fn more(&self) {
        // After the buffers were put on the fill ring.
        fence(Ordering::SeqCst);
        if self.expected.load(Ordering::Relaxed) {
            self.tell();
        }
    }

    #[cold]
    fn tell(&self) {
        if self.expected.swap(false, Ordering::Relaxed) {
            // Only a count that is full, after 2^64 times, can fail.
            let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        }
    }
}

/// What happens on a [`Socket`](crate::Socket): a descriptor that becomes readable with each piece, each finished send, room to send, the
/// end of the stream, and with buffers that come back when the socket has stopped for want of them.
///
/// It is for who waits in a way of its own: [`Socket::recv`](crate::Socket::recv) and [`Socket::completion`](crate::Socket::completion) do
/// without. Whoever has found nothing to do after [`Watch::forget`] waits until the descriptor is readable, and forgets again before it
/// looks. Any number can be had of a socket; each tells of everything. In poll(2) the socket itself will do, but it is readable as well
/// for what one does not want, and while the kernel cannot deliver what it has.
///
/// ```no_run
/// use netgpu::{Piece, Received, Socket, Watch};
/// use rustix::event::{PollFd, PollFlags, Timespec, poll};
///
/// fn recv(socket: &mut Socket, watch: &Watch, limit: &Timespec) -> Result<Option<Piece>, netgpu::Error> {
///     loop {
///         watch.forget()?;
///         match socket.try_recv()? {
///             Received::Piece(piece) => return Ok(Some(piece)),
///             Received::End => return Ok(None),
///             Received::Nothing => {}
///         }
///         if poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(limit)) == Ok(0) {
///             return Ok(None);
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Watch {
    epoll: OwnedFd,
    // With the event that is watched.
    _context: Arc<ContextShared>,
}

impl Watch {
    pub(crate) fn new(socket: impl AsFd, context: &Arc<ContextShared>) -> Result<Self, Error> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(cannot)?;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&epoll, socket, epoll::EventData::new_u64(0), flags).map_err(cannot)?;
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(
            &epoll,
            &context.room().event,
            epoll::EventData::new_u64(0),
            flags,
        )
        .map_err(cannot)?;
        Ok(Self {
            epoll,
            _context: context.clone(),
        })
    }

    /// Forgets what has happened: the descriptor is readable when something happens after this.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the kernel has no memory.
    pub fn forget(&self) -> Result<(), Error> {
        self.take(Some(&Timespec::default())).map(drop)
    }

    /// Waits until something has happened since it was called last, or a signal was handled. Returns whether the peer has closed its side,
    /// or the connection has failed.
    pub(crate) fn wait(&self) -> Result<bool, Error> {
        self.take(None)
    }

    fn take(&self, limit: Option<&Timespec>) -> Result<bool, Error> {
        // The socket's, and that of the room.
        let mut places = [MaybeUninit::<epoll::Event>::uninit(); 2];
        match epoll::wait(&self.epoll, &mut places, limit) {
            Ok((events, _)) => {
                let end = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
                Ok(events.iter().any(|event| {
                    let flags = event.flags;
                    flags.intersects(end)
                }))
            }
            Err(Errno::INTR) => Ok(false),
            Err(errno) => Err(cannot(errno)),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

fn cannot(errno: Errno) -> Error {
    Error::Socket {
        what: "cannot wait",
        source: io::Error::from(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    fn watched() -> (Arc<ContextShared>, Watch, TcpStream, TcpStream) {
        let context = ContextShared::fake(Vec::new(), 4096);
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let peer = TcpStream::connect(listener.local_addr().expect("it is bound"))
            .expect("somebody listens");
        let (ours, _) = listener.accept().expect("somebody has connected");
        let watch = Watch::new(&ours, &context).expect("there are descriptors");
        watch.forget().expect("there is memory");
        (context, watch, ours, peer)
    }

    fn is_readable(watch: &Watch) -> bool {
        let now = Timespec::default();
        let ready = poll(&mut [PollFd::new(watch, PollFlags::IN)], Some(&now));
        ready.expect("there is memory") > 0
    }

    #[test]
    fn what_is_left_is_told_once() {
        let (_context, watch, _ours, mut peer) = watched();
        assert!(!is_readable(&watch));
        for _ in 0..2 {
            peer.write_all(b"x").expect("the connection stands");
            assert_eq!(watch.wait().ok(), Some(false));
            assert!(!is_readable(&watch));
        }
        drop(peer);
        assert_eq!(watch.wait().ok(), Some(true));
        assert!(!is_readable(&watch));
    }

    #[test]
    fn room_is_told_to_all_once_when_it_is_expected() {
        let (context, watch, ours, _peer) = watched();
        let other = Watch::new(&ours, &context).expect("there are descriptors");
        other.forget().expect("there is memory");
        context.room().more();
        assert!(!is_readable(&watch));
        for _ in 0..2 {
            context.room().expect();
            assert!(!is_readable(&watch));
            context.room().more();
            context.room().more();
            for watch in [&watch, &other] {
                assert_eq!(watch.wait().ok(), Some(false));
                assert!(!is_readable(watch));
            }
        }
        // One that comes later has missed nothing that it has to know of.
        let late = Watch::new(&ours, &context).expect("there are descriptors");
        late.forget().expect("there is memory");
        assert!(!is_readable(&late));
    }
}
