// SPDX-License-Identifier: MIT OR Apache-2.0
//! With TCP_ZEROCOPY_RECEIVE, as `tools/testing/selftests/net/tcp_mmap.c` of the kernel uses it: whole pages of payload are mapped
//! where they are, and what does not fill pages is read.

use std::io::{Error, Read as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::mm::{MapFlags, ProtFlags};

use super::{CHUNK, Receive, Sink};
use crate::Recv;
use crate::measure::Measurement;

/// `TCP_ZEROCOPY_RECEIVE` of linux/tcp.h.
const TCP_ZEROCOPY_RECEIVE: libc::c_int = 35;

/// `struct tcp_zerocopy_receive` of linux/tcp.h, up to what is needed here; the kernel takes any length.
#[repr(C)]
struct ZerocopyReceive {
    address: u64,
    length: u32,
    recv_skip_hint: u32,
    inq: u32,
    err: i32,
}

pub(super) struct Mapped {
    connection: Option<Connection>,
    /// For what cannot be mapped.
    chunk: Vec<u8>,
    copied: u64,
}

/// # Invariants
///
/// `window` is a mapping of the socket, of [`CHUNK`] bytes, which lasts as long as the process.
struct Connection {
    stream: TcpStream,
    window: *mut u8,
}

impl Receive for Mapped {
    fn open(_arguments: &Recv, measurement: &mut Measurement) -> Result<Self> {
        let chunk = vec![1; CHUNK];
        measurement.watch(&chunk)?;
        Ok(Self {
            connection: None,
            chunk,
            copied: 0,
        })
    }

    fn connected(&mut self, stream: TcpStream) -> Result<()> {
        // SAFETY: Without a fixed address the new mapping touches no existing memory.
        let window = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                CHUNK,
                ProtFlags::READ,
                MapFlags::SHARED,
                &stream,
                0,
            )
        };
        // INVARIANT: It has just been made, and nobody unmaps it.
        self.connection = Some(Connection {
            stream,
            window: window.context("cannot map the socket")?.cast(),
        });
        Ok(())
    }

    fn receive(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let Connection { stream, window } = self.connection.as_mut().context("not connected")?;
        poll(&mut [PollFd::new(&stream.as_fd(), PollFlags::IN)], None)?;
        let mut argument = ZerocopyReceive {
            address: window.addr() as u64,
            length: CHUNK as u32,
            recv_skip_hint: 0,
            inq: 0,
            err: 0,
        };
        let mut len = size_of_val(&argument) as libc::socklen_t;
        // SAFETY: The option takes such a structure, of any length; the address in it is a mapping of the socket. What the kernel
        // maps there are pages that nobody has a reference to.
        let got = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                TCP_ZEROCOPY_RECEIVE,
                (&raw mut argument).cast(),
                &raw mut len,
            )
        };
        if got != 0 {
            let error = Error::last_os_error();
            // So it says that the stream has ended, which read(2) says again.
            ensure!(
                error.raw_os_error() == Some(libc::EIO),
                "TCP_ZEROCOPY_RECEIVE: {error}"
            );
            argument.length = 0;
            argument.recv_skip_hint = 0;
        }
        let mapped = argument.length as usize;
        if mapped > 0 {
            sink.take(mapped, |copy| {
                assert!(mapped <= CHUNK && copy.len() <= mapped);
                // SAFETY: So many bytes of the window are mapped now, and stay until the next call.
                unsafe { ptr::copy_nonoverlapping(*window, copy.as_mut_ptr(), copy.len()) };
                Ok(())
            })?;
        }
        // What is next cannot be mapped; or there is nothing, and read(2) tells whether that is the end.
        let rest = argument.recv_skip_hint as usize;
        if rest == 0 && mapped > 0 {
            return Ok(true);
        }
        let rest = if rest == 0 { CHUNK } else { rest.min(CHUNK) };
        let count = stream
            .read(&mut self.chunk[..rest])
            .context("cannot receive")?;
        self.copied += count as u64;
        if count > 0 {
            sink.take(count, |copy| {
                copy.copy_from_slice(&self.chunk[..count]);
                Ok(())
            })?;
        }
        Ok(count > 0)
    }

    fn copied(&self) -> Result<Option<u64>> {
        Ok(Some(self.copied))
    }
}
