// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sockets whose waiting is a task's, with tokio.
//!
//! tokio remembers that a peer has closed its side and takes the socket for readable ever after, which is no use to who waits for a send to
//! finish. So what it watches is a [`Watch`].

use std::collections::VecDeque;
use std::io;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::Error;
use crate::socket::{Completion, Piece, Received, Socket};
use crate::span::Payload;
use crate::watch::Watch;

/// A [`Socket`] in a task of tokio.
///
/// What waits here gives the thread to other tasks; all of it can be cancelled without loss, unless it says otherwise. Buffers have
/// the same owners as with [`Socket`]: a [`Piece`] is returned by dropping it, in whatever task, and the bytes of a
/// [`Payload`] cannot be written to before their [`Completion`].
///
/// ```no_run
/// use netgpu::{AsyncSocket, Context, Queue, SocketConfig};
///
/// async fn count(context: &Context, queue: &Queue) -> Result<usize, Box<dyn std::error::Error>> {
///     let listener = tokio::net::TcpListener::bind("0.0.0.0:5000").await?;
///     let (stream, _) = listener.accept().await?;
///     let config = SocketConfig { receive: Some(queue), ..SocketConfig::default() };
///     let mut socket = AsyncSocket::new(context.attach_socket(stream.into_std()?, config)?)?;
///     let mut bytes = 0;
///     while let Some(piece) = socket.recv().await? {
///         bytes += piece.len();
///     }
///     Ok(bytes)
/// }
/// ```
#[derive(Debug)]
pub struct AsyncSocket {
    /// Readable when something has happened since [`Watch::forget`] was called.
    events: AsyncFd<Watch>,
    socket: Socket,
    /// Taken off the ring to make room there for a send, and not told to anybody yet.
    finished: VecDeque<Completion>,
}

/// What [`AsyncSocket::next`] has waited for.
#[derive(Debug)]
pub enum Event {
    /// The next bytes of the stream.
    Piece(Piece),
    /// The peer has closed its side, and everything was received.
    End,
    /// A send has finished.
    Completion(Completion),
}

impl AsyncSocket {
    /// Has the runtime of the calling task watch the socket.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the runtime cannot watch any more.
    ///
    /// # Panics
    ///
    /// Outside a runtime of tokio, and in one without I/O.
    pub fn new(socket: Socket) -> Result<Self, Error> {
        let events = socket.watch()?;
        // SAFETY: The descriptor that a watch owns is the same, and open, as long as the watch lives, and nothing here gives it away.
        let events = unsafe { AsyncFd::register_with_interest(events, Interest::READABLE) }
            .map_err(|error| unwatched(error.into()))?;
        Ok(Self {
            events,
            socket,
            finished: VecDeque::new(),
        })
    }

    /// The socket, for everything that does not wait.
    pub fn get_ref(&self) -> &Socket {
        &self.socket
    }

    /// Receives the next bytes; [`None`] at the end of the stream.
    ///
    /// # Errors
    ///
    /// As [`Socket::try_recv`].
    pub async fn recv(&mut self) -> Result<Option<Piece>, Error> {
        self.wait(|socket, _| {
            Ok(match socket.try_recv()? {
                Received::Piece(piece) => Some(Some(piece)),
                Received::End => Some(None),
                Received::Nothing => None,
            })
        })
        .await
    }

    /// Waits for whatever comes first, of a socket that both receives and sends. After [`Event::End`] has been told, it comes at once
    /// each time: what is left to wait for are completions.
    ///
    /// # Errors
    ///
    /// As [`Socket::try_recv`].
    pub async fn next(&mut self) -> Result<Event, Error> {
        self.wait(|socket, finished| {
            if let Some(completion) = next_finished(socket, finished)? {
                return Ok(Some(Event::Completion(completion)));
            }
            Ok(match socket.try_recv()? {
                Received::Piece(piece) => Some(Event::Piece(piece)),
                Received::End => Some(Event::End),
                Received::Nothing => None,
            })
        })
        .await
    }

    /// Queues bytes from the front of `payload` for sending, advances it by that many, and returns how many: at least one, unless
    /// there are none. Waits while the send buffer or the completion ring is full.
    ///
    /// # Errors
    ///
    /// As [`Socket::try_send`].
    pub async fn send(&mut self, payload: &mut Payload) -> Result<usize, Error> {
        if payload.is_empty() {
            return Ok(0);
        }
        self.wait(|socket, finished| {
            loop {
                let sent = socket.try_send(payload)?;
                if sent > 0 {
                    return Ok(Some(sent));
                }
                // What has finished leaves room on the completion ring.
                let Some(completion) = socket.try_completion()? else {
                    return Ok(None);
                };
                finished.push_back(completion);
            }
        })
        .await
    }

    /// Queues all of `payload` for sending. Cancelled, it has queued some part of it.
    ///
    /// # Errors
    ///
    /// As [`Socket::try_send`].
    pub async fn send_all(&mut self, mut payload: Payload) -> Result<(), Error> {
        while !payload.is_empty() {
            self.send(&mut payload).await?;
        }
        Ok(())
    }

    /// Waits for a finished send; [`None`] when there is no unfinished one, and all that have finished were told. That a send has finished
    /// does not say that the peer has it: the connection may have failed, see [`Self::check`].
    ///
    /// # Errors
    ///
    /// As [`Socket::try_completion`].
    pub async fn completion(&mut self) -> Result<Option<Completion>, Error> {
        self.wait(|socket, finished| {
            let completion = next_finished(socket, finished)?;
            Ok((completion.is_some() || socket.in_flight() == 0).then_some(completion))
        })
        .await
    }

    /// Fails if the connection has failed, see [`Socket::check`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn check(&mut self) -> Result<(), Error> {
        self.socket.check()
    }

    /// Takes a finished send, without waiting.
    ///
    /// # Errors
    ///
    /// As [`Socket::try_completion`].
    pub fn try_completion(&mut self) -> Result<Option<Completion>, Error> {
        next_finished(&mut self.socket, &mut self.finished)
    }

    /// Waits until `attempt` has a result.
    async fn wait<T>(
        &mut self,
        mut attempt: impl FnMut(&mut Socket, &mut VecDeque<Completion>) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let Self {
            events,
            socket,
            finished,
        } = self;
        if let Some(result) = attempt(socket, finished)? {
            return Ok(result);
        }
        loop {
            // Whatever happens from here on wakes the task, and the attempt finds whatever has happened before.
            events.get_ref().forget()?;
            if let Some(result) = attempt(socket, finished)? {
                return Ok(result);
            }
            events.readable().await.map_err(unwatched)?.clear_ready();
        }
    }
}

fn next_finished(
    socket: &mut Socket,
    finished: &mut VecDeque<Completion>,
) -> Result<Option<Completion>, Error> {
    match finished.pop_front() {
        None => socket.try_completion(),
        told => Ok(told),
    }
}

fn unwatched(source: io::Error) -> Error {
    Error::Socket {
        what: "cannot wait",
        source,
    }
}
