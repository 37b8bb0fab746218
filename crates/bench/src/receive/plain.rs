// SPDX-License-Identifier: MIT OR Apache-2.0
//! With the system calls that everybody uses.

use std::io::{Error, Read as _};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context as _, Result, bail};

use super::{CHUNK, Receive, Sink};
use crate::Recv;
use crate::measure::Measurement;

/// read(2) into one buffer, which stays in the caches.
pub(super) struct Read {
    stream: Option<TcpStream>,
    chunk: Vec<u8>,
}

impl Receive for Read {
    fn open(arguments: &Recv, measurement: &mut Measurement) -> Result<Self> {
        let chunk = vec![1; arguments.common.message.unwrap_or(CHUNK)];
        measurement.watch(&chunk)?;
        Ok(Self {
            stream: None,
            chunk,
        })
    }

    fn connected(&mut self, stream: TcpStream) -> Result<()> {
        self.stream = Some(stream);
        Ok(())
    }

    fn receive(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let stream = self.stream.as_mut().context("not connected")?;
        let count = stream.read(&mut self.chunk).context("cannot receive")?;
        if count > 0 {
            sink.take(count, |copy| {
                copy.copy_from_slice(&self.chunk[..count]);
                Ok(())
            })?;
        }
        Ok(count > 0)
    }
}

/// recv(2) with MSG_TRUNC, which drops what came: what TCP alone costs.
pub(super) struct Trunc {
    stream: Option<TcpStream>,
    len: usize,
}

impl Receive for Trunc {
    fn open(arguments: &Recv, _measurement: &mut Measurement) -> Result<Self> {
        Ok(Self {
            stream: None,
            len: arguments.common.message.unwrap_or(CHUNK),
        })
    }

    fn connected(&mut self, stream: TcpStream) -> Result<()> {
        self.stream = Some(stream);
        Ok(())
    }

    fn receive(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let stream = self.stream.as_ref().context("not connected")?;
        // SAFETY: With MSG_TRUNC TCP drops the bytes and writes none.
        let count = unsafe {
            libc::recv(
                stream.as_raw_fd(),
                std::ptr::null_mut(),
                self.len,
                libc::MSG_TRUNC,
            )
        };
        let count = usize::try_from(count).map_err(|_| Error::last_os_error())?;
        if count > 0 {
            sink.take(count, |_| {
                bail!("there is nothing to compare: the bytes are dropped")
            })?;
        }
        Ok(count > 0)
    }
}
