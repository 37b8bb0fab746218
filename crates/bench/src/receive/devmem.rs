// SPDX-License-Identifier: MIT OR Apache-2.0
//! With devmem TCP, as `tools/testing/selftests/drivers/net/hw/ncdevmem.c` of the kernel uses it, but for one thing: it gives back all
//! that one recvmsg(2) delivered with one setsockopt(2), not each piece with its own.

use std::io::Error;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context as _, Result, ensure};
use libc::{dmabuf_cmsg, dmabuf_token};

use super::{CHUNK, MEMORY, Receive, Sink};
use crate::Recv;
use crate::measure::Measurement;
use crate::memory::DmaBuf;
use crate::netdev::Netdev;

/// `MSG_SOCK_DEVMEM` of linux/socket.h.
const MSG_SOCK_DEVMEM: libc::c_int = 0x200_0000;
/// Of asm-generic/socket.h; the first two are types of control messages.
const SO_DEVMEM_LINEAR: libc::c_int = 78;
const SO_DEVMEM_DMABUF: libc::c_int = 79;
const SO_DEVMEM_DONTNEED: libc::c_int = 80;

/// Pieces delivered at a time, and given back at a time: the kernel takes no more tokens.
const PIECES: usize = 128;
/// Bytes of a control message with a piece: its header and the piece.
const CONTROL: usize = size_of::<libc::cmsghdr>() + size_of::<dmabuf_cmsg>();

pub(super) struct Devmem {
    dma_buf: DmaBuf,
    /// Dropping it unbinds the queue.
    _netdev: Netdev,
    stream: Option<TcpStream>,
    /// For what is not in the dma-buf.
    linear: Vec<u8>,
    control: Vec<u64>,
    tokens: Vec<dmabuf_token>,
    copied: u64,
}

impl Receive for Devmem {
    fn open(arguments: &Recv, measurement: &mut Measurement) -> Result<Self> {
        let dma_buf = DmaBuf::new(arguments.common.memory, MEMORY, measurement)?;
        let linear = vec![1; CHUNK];
        measurement.watch(&linear)?;
        measurement.sets_up();
        let netdev = Netdev::open(&arguments.common.dev)?;
        netdev.bind_rx(&dma_buf, arguments.queue)?;
        Ok(Self {
            dma_buf,
            _netdev: netdev,
            stream: None,
            linear,
            control: vec![0; PIECES * CONTROL / 8],
            tokens: Vec::with_capacity(PIECES),
            copied: 0,
        })
    }

    fn connected(&mut self, stream: TcpStream) -> Result<()> {
        self.stream = Some(stream);
        Ok(())
    }

    fn receive(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let stream = self.stream.as_ref().context("not connected")?;
        let mut buffer = libc::iovec {
            iov_base: self.linear.as_mut_ptr().cast(),
            iov_len: self.linear.len(),
        };
        // SAFETY: All zeros is a message without anything.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut buffer;
        message.msg_iovlen = 1;
        message.msg_control = self.control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(self.control.as_slice());
        // SAFETY: The buffers are as long as the message says.
        let count = unsafe { libc::recvmsg(stream.as_raw_fd(), &raw mut message, MSG_SOCK_DEVMEM) };
        let count = usize::try_from(count).map_err(|_| Error::last_os_error())?;
        if count == 0 {
            return Ok(false);
        }

        let (mut pieces, mut linear) = (0, 0);
        // SAFETY: The kernel has filled in as much as `msg_controllen` says now.
        let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
        // SAFETY: A header that these macros find lies in the control buffer, with what its length says behind it; a message of
        // these types has a piece behind it.
        while let Some(found) = unsafe { header.as_ref() } {
            if found.cmsg_level == libc::SOL_SOCKET
                && [SO_DEVMEM_LINEAR, SO_DEVMEM_DMABUF].contains(&found.cmsg_type)
            {
                // SAFETY: As above.
                let piece: dmabuf_cmsg = unsafe {
                    libc::CMSG_DATA(header)
                        .cast::<dmabuf_cmsg>()
                        .read_unaligned()
                };
                let len = piece.frag_size as usize;
                if found.cmsg_type == SO_DEVMEM_DMABUF {
                    let at = piece.frag_offset as usize;
                    sink.take(len, |copy| self.dma_buf.read(at, copy))?;
                    add_token(&mut self.tokens, piece.frag_token);
                } else {
                    let from = &self.linear[linear..][..len];
                    sink.take(len, |copy| {
                        copy.copy_from_slice(from);
                        Ok(())
                    })?;
                    linear += len;
                }
                pieces += len;
            }
            // SAFETY: As above.
            header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
        }
        // What no control message tells of is an ordinary packet.
        let rest = count
            .checked_sub(pieces)
            .context("pieces of more bytes than came")?;
        if rest > 0 {
            let from = &self.linear[linear..][..rest];
            sink.take(rest, |copy| {
                copy.copy_from_slice(from);
                Ok(())
            })?;
        }
        self.copied += (linear + rest) as u64;
        give_back(stream, &mut self.tokens)?;
        Ok(true)
    }

    fn copied(&self) -> Result<Option<u64>> {
        Ok(Some(self.copied))
    }
}

/// Most tokens come in a row, and one entry can name many.
fn add_token(tokens: &mut Vec<dmabuf_token>, token: u32) {
    match tokens.last_mut() {
        Some(last) if last.token_start + last.token_count == token => last.token_count += 1,
        _ => tokens.push(dmabuf_token {
            token_start: token,
            token_count: 1,
        }),
    }
}

fn give_back(stream: &TcpStream, tokens: &mut Vec<dmabuf_token>) -> Result<()> {
    if tokens.is_empty() {
        return Ok(());
    }
    let count: u32 = tokens.iter().map(|token| token.token_count).sum();
    // SAFETY: The option takes an array of tokens.
    let given = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_DEVMEM_DONTNEED,
            tokens.as_ptr().cast(),
            size_of_val(tokens.as_slice()) as libc::socklen_t,
        )
    };
    ensure!(
        u32::try_from(given) == Ok(count),
        "{given} of {count} pieces could be given back: {}",
        Error::last_os_error()
    );
    tokens.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_a_row_are_one_entry() {
        let mut tokens = Vec::new();
        for token in [3, 4, 5, 7, 8, 1] {
            add_token(&mut tokens, token);
        }
        let tokens: Vec<_> = tokens
            .iter()
            .map(|token| (token.token_start, token.token_count))
            .collect();
        assert_eq!(tokens, [(3, 3), (7, 2), (1, 1)]);
    }
}
