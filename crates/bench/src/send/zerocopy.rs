// SPDX-License-Identifier: MIT OR Apache-2.0
//! send(2) with MSG_ZEROCOPY.

use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Arguments, Send, Slots};
use crate::measure::Measurement;
use crate::memory::{Pages, Shared, Size};

/// `SO_EE_CODE_ZEROCOPY_COPIED` of linux/errqueue.h.
const COPIED: u8 = 1;

pub(super) struct Zerocopy {
    sends: Sends,
    memory: Shared,
}

impl Send for Zerocopy {
    fn open(
        _arguments: &Arguments,
        stream: TcpStream,
        slots: Slots,
        measurement: &mut Measurement,
    ) -> Result<Self> {
        let pages = Pages::anonymous(slots.len(), Size::Base)?;
        measurement.watch(&pages)?;
        Ok(Self {
            sends: Sends::new(stream, slots)?,
            memory: pages.share(),
        })
    }

    fn send(&mut self, data: Option<&[u8]>) -> Result<()> {
        let at = self.sends.free_slot()?;
        if let Some(data) = data {
            self.memory.write(at, data);
        }
        let memory = &self.memory;
        self.sends.send(at, |fd, at, len| {
            // SAFETY: The bytes are mapped, and nobody changes them before the notification that they were sent.
            unsafe {
                libc::send(
                    fd,
                    memory.start().as_ptr().add(at).cast(),
                    len,
                    libc::MSG_ZEROCOPY,
                )
            }
        })
    }

    fn finish(&mut self) -> Result<Option<u64>> {
        self.sends.finish()
    }

    fn stream(&self) -> &TcpStream {
        &self.sends.stream
    }
}

/// Sends whose memory the kernel tells on the socket's error queue to be free again: those of MSG_ZEROCOPY.
pub(super) struct Sends {
    pub(super) stream: TcpStream,
    slots: Slots,
    /// Messages handed over so far, and for each slot how many sends there were when its last one had been.
    messages: usize,
    ends: Vec<u32>,
    /// Sends so far, and those whose memory is free.
    sends: u32,
    done: u32,
    /// Sends that the kernel has copied after all.
    copied: u32,
}

impl Sends {
    pub(super) fn new(stream: TcpStream, slots: Slots) -> Result<Self> {
        let one: libc::c_int = 1;
        // SAFETY: The option's value is an int.
        let set = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ZEROCOPY,
                (&raw const one).cast(),
                size_of_val(&one) as u32,
            )
        };
        if set != 0 {
            return Err(io::Error::last_os_error()).context("cannot set SO_ZEROCOPY");
        }
        Ok(Self {
            stream,
            slots,
            messages: 0,
            ends: vec![0; slots.count],
            sends: 0,
            done: 0,
            copied: 0,
        })
    }

    /// Waits until the next slot is free; returns where it begins.
    pub(super) fn free_slot(&mut self) -> Result<usize> {
        let slot = self.messages % self.slots.count;
        while self.done < self.ends[slot] {
            self.reap()?;
        }
        Ok(slot * self.slots.step)
    }

    /// Hands the message that begins at `at` over, with as many calls of `send` as it takes: it sends at most so many bytes from there
    /// on, and returns what the system call did.
    pub(super) fn send(
        &mut self,
        at: usize,
        send: impl Fn(RawFd, usize, usize) -> isize,
    ) -> Result<()> {
        let mut sent = 0;
        while sent < self.slots.message {
            let result = send(
                self.stream.as_raw_fd(),
                at + sent,
                self.slots.message - sent,
            );
            sent += self.sent(result)?;
        }
        let slot = self.messages % self.slots.count;
        self.ends[slot] = self.sends;
        self.messages += 1;
        Ok(())
    }

    /// What a send has returned; returns how many bytes it took.
    fn sent(&mut self, result: isize) -> Result<usize> {
        let Ok(count) = usize::try_from(result) else {
            let error = io::Error::last_os_error();
            // Too many notifications wait.
            if error.raw_os_error() == Some(libc::ENOBUFS) && self.done < self.sends {
                self.reap()?;
                return Ok(0);
            }
            return Err(error).context("cannot send");
        };
        self.sends += 1;
        Ok(count)
    }

    /// Waits for all; returns how many bytes were copied, taking all sends for equally long.
    pub(super) fn finish(&mut self) -> Result<Option<u64>> {
        while self.done < self.sends {
            self.reap()?;
        }
        let bytes = self.messages as u64 * self.slots.message as u64;
        Ok(Some(
            bytes * u64::from(self.copied) / u64::from(self.sends.max(1)),
        ))
    }

    /// Waits for a notification on the error queue.
    fn reap(&mut self) -> Result<()> {
        poll(
            &mut [PollFd::new(&self.stream.as_fd(), PollFlags::ERR)],
            None,
        )?;
        let mut control = MaybeUninit::<[u64; 16]>::zeroed();
        // SAFETY: All zeros is a message without anything.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: The control buffer is as long as the message says; of the notification that is in it, whose length is
        // checked, the kernel has filled the first part in.
        let notification: libc::sock_extended_err = unsafe {
            if libc::recvmsg(
                self.stream.as_raw_fd(),
                &raw mut message,
                libc::MSG_ERRQUEUE,
            ) < 0
            {
                let error = io::Error::last_os_error();
                return match error.kind() {
                    io::ErrorKind::WouldBlock => Ok(()),
                    _ => Err(error.into()),
                };
            }
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            if header.is_null() {
                return Ok(());
            }
            libc::CMSG_DATA(header)
                .cast::<libc::sock_extended_err>()
                .read_unaligned()
        };
        let count = notification.ee_data - notification.ee_info + 1;
        self.done += count;
        if notification.ee_code == COPIED {
            self.copied += count;
        }
        Ok(())
    }
}
