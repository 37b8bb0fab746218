// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signals that are meant for the command that we run.

use std::fs::File;
use std::io::{self, Read};
use std::mem::{MaybeUninit, offset_of, size_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

use anyhow::{Context, Result};
use libc::{c_int, signalfd_siginfo, sigset_t};
use rustix::process::{Signal, getpid, getsid};

/// Those that would end us, and that a program may take for something else.
const SIGNALS: [Signal; 6] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
];

/// A set of signals that a thread has blocked.
#[derive(Clone, Copy)]
pub(super) struct Mask(sigset_t);

impl Mask {
    /// Blocks these and no others. Async-signal-safe.
    pub(super) fn set(&self) -> io::Result<()> {
        // SAFETY: sigprocmask(2) reads the one set, which is initialised, and is given no other to write to.
        let done = unsafe {
            libc::sigprocmask(libc::SIG_SETMASK, &raw const self.0, std::ptr::null_mut())
        };
        if done < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

/// Keeps signals from us, to be read instead; see signalfd(2).
pub(super) struct Relay {
    signals: File,
    before: Mask,
}

impl Relay {
    /// From here on no such signal ends this process, which has no other threads yet.
    pub(super) fn new() -> Result<Self> {
        const WHAT: &str = "cannot prepare for signals";
        let mut ours = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: Each call gets valid pointers to sets; sigemptyset(3) initialises the one that others read, and sigprocmask(2) the other
        // one, when it succeeds.
        let (fd, before) = unsafe {
            libc::sigemptyset(ours.as_mut_ptr());
            for signal in SIGNALS {
                libc::sigaddset(ours.as_mut_ptr(), signal.as_raw());
            }
            if libc::sigprocmask(libc::SIG_BLOCK, ours.as_ptr(), before.as_mut_ptr()) < 0 {
                return Err(io::Error::last_os_error()).context(WHAT);
            }
            let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
            (
                libc::signalfd(-1, ours.as_ptr(), flags),
                Mask(before.assume_init()),
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error()).context(WHAT);
        }
        // SAFETY: signalfd(2) has just made it, and nobody else has it.
        let signals = unsafe { File::from_raw_fd(fd) };
        Ok(Self { signals, before })
    }

    /// What was blocked before, for the command.
    pub(super) fn before(&self) -> Mask {
        self.before
    }

    /// The next signal that has come, if any.
    pub(super) fn next(&self) -> Result<Option<Sent>> {
        let mut info = [0; size_of::<signalfd_siginfo>()];
        match (&self.signals).read(&mut info) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error).context("cannot read signals"),
        }
        let word = |at: usize| {
            let bytes = info[at..].first_chunk().copied().unwrap_or_default();
            c_int::from_ne_bytes(bytes)
        };
        let number = word(offset_of!(signalfd_siginfo, ssi_signo));
        Ok(Some(Sent {
            signal: Signal::from_named_raw(number).context("there is no such signal")?,
            // SI_FROMUSER of the kernel's sources.
            by_a_process: word(offset_of!(signalfd_siginfo, ssi_code)) <= 0,
        }))
    }
}

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

/// A signal that we have got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) signal: Signal,
    /// Not by the kernel for a terminal.
    by_a_process: bool,
}

impl Sent {
    /// Whether the command, in our process group, has not got it itself. What keys send, a terminal sends to the whole group; that it hangs
    /// up, it tells the first process of the session alone.
    pub(super) fn is_for_us_alone(self) -> bool {
        self.by_a_process
            || (self.signal == Signal::HUP && getsid(None).is_ok_and(|first| first == getpid()))
    }
}
