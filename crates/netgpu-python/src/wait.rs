// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a socket: without the interpreter, until a time, and no longer than to the next signal that Python has something to do for.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;

use crate::error::{late, refused};

/// What Python says of how long to wait: [`None`] is for ever.
#[derive(Clone, Copy)]
pub(crate) struct Timeout {
    began: Instant,
    limit: Option<Duration>,
}

impl Timeout {
    pub(crate) fn new(seconds: Option<f64>) -> PyResult<Self> {
        let limit = seconds
            .map(Duration::try_from_secs_f64)
            .transpose()
            .map_err(|error| PyValueError::new_err(format!("no timeout: {error}")))?;
        Ok(Self {
            began: Instant::now(),
            limit,
        })
    }

    /// Whether nothing is to be waited for.
    pub(crate) fn is_zero(self) -> bool {
        self.limit == Some(Duration::ZERO)
    }

    /// How long there is; the error when that is over.
    pub(crate) fn left(self) -> PyResult<Option<Duration>> {
        let Some(limit) = self.limit else {
            return Ok(None);
        };
        match limit.checked_sub(self.began.elapsed()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(late(limit)),
        }
    }
}

/// What happens on a socket.
#[derive(Clone, Copy)]
pub(crate) enum Events {
    /// There is something to take.
    Readable,
    /// Anything, since it was last asked for. What is there all the time does not wake.
    News,
}

/// An epoll instance for one socket.
pub(crate) struct Watch {
    epoll: OwnedFd,
    /// Keeps the socket open: when another thread closes it, epoll would forget it together with what has happened to it.
    _socket: OwnedFd,
    events: Events,
}

impl Watch {
    pub(crate) fn new(socket: BorrowedFd<'_>, events: Events) -> PyResult<Self> {
        let socket = socket
            .try_clone_to_owned()
            .map_err(|error| refused("cannot wait for the socket", error))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(wrong)?;
        let flags = match events {
            Events::Readable => EventFlags::IN,
            Events::News => EventFlags::IN | EventFlags::OUT | EventFlags::ET,
        };
        epoll::add(&epoll, &socket, epoll::EventData::new_u64(0), flags).map_err(wrong)?;
        Ok(Self {
            epoll,
            _socket: socket,
            events,
        })
    }

    /// Forgets what has happened: what happens after this ends the next [`Self::wait`].
    pub(crate) fn forget(&self) -> PyResult<()> {
        match self.events {
            Events::Readable => Ok(()),
            Events::News => self.poll(Some(Duration::ZERO)).map_err(wrong),
        }
    }

    /// Waits for an event, or a signal whose handler has nothing to raise.
    pub(crate) fn wait(&self, py: Python<'_>, timeout: Timeout) -> PyResult<()> {
        let left = timeout.left()?;
        match py.detach(|| self.poll(left)) {
            Ok(()) => Ok(()),
            Err(Errno::INTR) => py.check_signals(),
            Err(errno) => Err(wrong(errno)),
        }
    }

    fn poll(&self, limit: Option<Duration>) -> rustix::io::Result<()> {
        // A time that is too long for the kernel is for ever.
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        let mut place = [std::mem::MaybeUninit::<epoll::Event>::uninit()];
        epoll::wait(&self.epoll, &mut place, limit.as_ref()).map(drop)
    }
}

fn wrong(errno: Errno) -> PyErr {
    refused("cannot wait for the socket", errno)
}
