// SPDX-License-Identifier: MIT OR Apache-2.0
//! io_uring's SEND_ZC from a registered buffer. One send is submitted at a time, as several might overtake one another; their
//! notifications come later.

use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context as _, Result, ensure};
use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};

use super::{Arguments, Send, Slots};
use crate::measure::Measurement;
use crate::memory::{Pages, Shared, Size};

/// `IORING_SEND_ZC_REPORT_USAGE`, and what a notification then says of a send that was copied.
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: u32 = 1 << 31;

pub(super) struct SendZc {
    ring: IoUring,
    stream: TcpStream,
    memory: Shared,
    slots: Slots,
    free: Vec<usize>,
    copied: u64,
}

impl SendZc {
    /// Waits for completions, and takes those that are there; returns the result of a send, if it is among them.
    fn reap(&mut self) -> Result<Option<i32>> {
        self.ring.submit_and_wait(1)?;
        let mut result = None;
        for completion in self.ring.completion() {
            let flags = completion.flags();
            if cqueue::notif(flags) {
                if completion.result().cast_unsigned() & COPIED != 0 {
                    self.copied += self.slots.message as u64;
                }
            } else {
                result = Some(completion.result());
            }
            if !cqueue::more(flags) {
                self.free.push(completion.user_data() as usize);
            }
        }
        Ok(result)
    }
}

impl Send for SendZc {
    fn open(
        _arguments: &Arguments,
        stream: TcpStream,
        slots: Slots,
        measurement: &mut Measurement,
    ) -> Result<Self> {
        let pages = Pages::anonymous(slots.len(), Size::Base)?;
        measurement.watch(&pages)?;
        let memory = pages.share();
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(4 * slots.count as u32)
            .context("cannot set an io_uring up")?;
        let buffer = libc::iovec {
            iov_base: memory.start().as_ptr().cast(),
            iov_len: memory.len(),
        };
        // SAFETY: The memory stays until the ring is gone.
        unsafe { ring.submitter().register_buffers(&[buffer]) }
            .context("cannot register the buffer")?;
        Ok(Self {
            ring,
            stream,
            memory,
            slots,
            free: (0..slots.count).collect(),
            copied: 0,
        })
    }

    fn send(&mut self, data: Option<&[u8]>) -> Result<()> {
        while self.free.is_empty() {
            self.reap()?;
        }
        let slot = self.free.pop().context("no slot")?;
        let at = slot * self.slots.step;
        if let Some(data) = data {
            self.memory.write(at, data);
        }
        // SAFETY: It is within the memory.
        let start = unsafe { self.memory.start().as_ptr().add(at) };
        let send = opcode::SendZc::new(
            Fd(self.stream.as_raw_fd()),
            start,
            self.slots.message as u32,
        )
        .buf_index(Some(0))
        .flags(libc::MSG_WAITALL)
        .zc_flags(REPORT_USAGE)
        .build()
        .user_data(slot as u64);
        // SAFETY: The bytes are mapped and registered, and nobody changes them before the notification.
        unsafe { self.ring.submission().push(&send) }.context("the ring is full")?;
        let result = loop {
            if let Some(result) = self.reap()? {
                break result;
            }
        };
        ensure!(
            usize::try_from(result) == Ok(self.slots.message),
            "a send of {} bytes ended with {result}",
            self.slots.message
        );
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<u64>> {
        while self.free.len() < self.slots.count {
            self.reap()?;
        }
        Ok(Some(self.copied))
    }

    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
