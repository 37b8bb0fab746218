// SPDX-License-Identifier: MIT OR Apache-2.0
//! Interruption by the user: waiting that a signal ends, so that everything can be put back before the process does.

use std::fmt;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The user wants the program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interrupted {
    signal: u8,
}

impl Interrupted {
    pub(crate) fn by(signal: Signal) -> Self {
        // They end at 64.
        let signal = u8::try_from(signal.as_raw()).unwrap_or_default();
        Self { signal }
    }

    /// What a shell reports for a program that the signal ended.
    pub(crate) fn exit_code(self) -> ExitCode {
        ExitCode::from(128 + self.signal)
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interrupted by signal {}", self.signal)
    }
}

impl std::error::Error for Interrupted {}

/// SIGINT, SIGTERM and SIGHUP, caught from when this is made.
pub(crate) struct Signals {
    /// Readable from the first signal on.
    pipe: UnixStream,
    /// The last signal; zero: none yet.
    last: Arc<AtomicUsize>,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self> {
        let last = Arc::new(AtomicUsize::new(0));
        let (pipe, handlers_end) = UnixStream::pair().context("cannot make a pipe for signals")?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // Handlers run in the order of their registration: the number is there before the pipe tells.
            signal_hook::flag::register_usize(signal, last.clone(), signal as usize)
                .and_then(|_| {
                    let end = handlers_end.try_clone()?;
                    signal_hook::low_level::pipe::register(signal, end)
                })
                .with_context(|| format!("cannot catch signal {signal}"))?;
        }
        Ok(Self { pipe, last })
    }

    /// Fails with [`Interrupted`] once there was a signal.
    pub(crate) fn check(&self) -> Result<()> {
        match u8::try_from(self.last.load(Ordering::Relaxed)) {
            Ok(0) | Err(_) => Ok(()),
            Ok(signal) => Err(Interrupted { signal }.into()),
        }
    }

    /// Waits until `events` happen on `fd`, or a signal comes: then fails with [`Interrupted`].
    pub(crate) fn wait(&self, fd: impl AsFd, events: PollFlags) -> Result<()> {
        let mut fds = [
            PollFd::new(&fd, events),
            PollFd::new(&self.pipe, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => self.check(),
            Err(errno) => Err(std::io::Error::from(errno)).context("cannot wait"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_ends_waiting() {
        let signals = Signals::catch().expect("signals can be caught");
        let (quiet, _other) = UnixStream::pair().expect("a pair of sockets can be made");
        signals.check().expect("there was no signal yet");
        signal_hook::low_level::raise(SIGTERM).expect("it can be raised");
        let error = signals
            .wait(&quiet, PollFlags::IN)
            .expect_err("the signal has come");
        let signal = SIGTERM as u8;
        assert_eq!(error.downcast_ref(), Some(&Interrupted { signal }));
    }
}
