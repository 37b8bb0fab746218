// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for a socket: without the interpreter, until a time, and no longer than to the next signal that Python has something to do for.

use std::time::{Duration, Instant};

use netgpu::Watch;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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

    /// Waits until there is something to see for `watch`, or for a signal whose handler has nothing to raise.
    pub(crate) fn wait(self, py: Python<'_>, watch: &Watch) -> PyResult<()> {
        // A time that is too long for the kernel is for ever.
        let limit = self.left()?.and_then(|left| Timespec::try_from(left).ok());
        match py.detach(|| poll(&mut [PollFd::new(watch, PollFlags::IN)], limit.as_ref())) {
            Ok(_) => Ok(()),
            Err(Errno::INTR) => py.check_signals(),
            Err(errno) => Err(refused("cannot wait for the socket", errno)),
        }
    }

    /// How long there is; the error when that is over.
    fn left(self) -> PyResult<Option<Duration>> {
        let Some(limit) = self.limit else {
            return Ok(None);
        };
        match limit.checked_sub(self.began.elapsed()) {
            Some(left) if !left.is_zero() => Ok(Some(left)),
            _ => Err(late(limit)),
        }
    }
}
