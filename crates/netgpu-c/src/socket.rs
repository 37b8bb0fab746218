// SPDX-License-Identifier: MIT OR Apache-2.0
//! `struct netgpu_skq`.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::ptr;

use netgpu::{Error, raw};

use crate::arguments;
use crate::context::{NO_CONTEXT, netgpu_ctx};
use crate::error::{Failure, answer};
use crate::fd;
use crate::queue::entries;

/// An attached TCP socket: its ring of received pieces, and that of finished sends.
#[derive(Debug)]
pub struct netgpu_skq {
    socket: raw::Socket,
    /// The caller's, which may have closed it.
    fd: RawFd,
    /// What the caller was told last; its pointers lead here.
    batch: Vec<libc::iovec>,
    finished: Vec<u64>,
    /// Number of the last send that finished, with what the kernel's number has lost by its wrap.
    newest: u64,
    /// What the socket has said of its end, to be told when all pieces before it were.
    failure: Option<io::Error>,
}

const NO_SOCKET: Failure = Failure::Argument("the socket is NULL");

impl netgpu_skq {
    /// Up to `most` received pieces into `batch`.
    fn receive(&mut self, most: usize) -> Result<(), Failure> {
        self.batch.clear();
        self.pop(most);
        // All that was popped is in `batch`: the kernel can have the places at once.
        let stalled = self.socket.release();
        if self.failure.is_none() && (stalled || self.batch.is_empty()) {
            self.resume();
        }
        if self.batch.is_empty() {
            self.pop(most);
            self.socket.release();
        }
        if self.batch.is_empty()
            && let Some(source) = self.failure.take()
        {
            let what = "cannot receive";
            return Err(Error::Socket { what, source }.into());
        }
        Ok(())
    }

    fn pop(&mut self, most: usize) {
        while self.batch.len() < most
            && let Some(delivery) = self.socket.pop()
        {
            self.batch.push(libc::iovec {
                iov_base: ptr::with_exposed_provenance_mut(delivery.address() as usize),
                iov_len: delivery.len() as usize,
            });
        }
    }

    /// Has the kernel take returned buffers back and deliver what waits.
    fn resume(&mut self) {
        let Err(error) = fd::resume(self.fd) else {
            return;
        };
        match error.raw_os_error() {
            // Nothing waits, or there is no connection yet, or no longer.
            Some(libc::EAGAIN | libc::ENOTCONN) => {}
            _ => self.failure = Some(error),
        }
    }

    /// Up to `most` finished sends into `finished`.
    fn complete(&mut self, most: usize) {
        self.finished.clear();
        while self.finished.len() < most
            && let Some(send) = self.socket.finished()
        {
            self.newest = widen(self.newest, send.number);
            self.finished.push(self.newest);
        }
    }
}

/// The number near `near` whose low half is `low`.
fn widen(near: u64, low: u32) -> u64 {
    let ahead = low.wrapping_sub(near as u32).cast_signed();
    near.wrapping_add_signed(ahead.into())
}

/// Attaches the TCP socket `fd` to the context: IPv4 or IPv6, connected or not, not listening. It gets SO_ZEROCOPY and is bound to
/// the device, and rings of `nentries` for received pieces and for sends, rounded up to a power of two from 16 to 262144. Received
/// bytes are then found by netgpu_get_rx_batch() alone; sendmsg(2) with MSG_NETDMA sends from memory that is attached to the
/// context.
///
/// `fd` stays the caller's, who keeps it open as long as it calls netgpu_get_rx_batch(), which asks it for what waits, and closes it
/// before netgpu_detach_socket() or after. poll(2) and epoll(7) report it readable while there are pieces or finished sends, and while
/// there are bytes that cannot be delivered before pieces are given back: that wakes nobody, so who waits with EPOLLET calls
/// netgpu_get_rx_batch() after it. recv(2) with MSG_DONTWAIT answers 0 at the end of the stream.
///
/// Returns 0, or: -EBADF; -ENOTSOCK; -EOPNOTSUPP, it is not TCP over IPv4 or IPv6, or its segments are signed; -EINVAL, it is listening, or an argument is out
/// of range; -EEXIST, it is or was attached, or has another upper layer protocol such as TLS; -EPERM, binding needs CAP_NET_RAW;
/// -ENODEV, the device is gone; -EXDEV, the socket is of another network namespace or bound to another device.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_attach_socket(
    skqp: Option<&mut MaybeUninit<Option<Box<netgpu_skq>>>>,
    ctx: Option<&mut netgpu_ctx>,
    fd: c_int,
    nentries: c_int,
) -> c_int {
    let Some(skqp) = skqp else {
        return answer(Err(NO_SOCKET));
    };
    skqp.write(None);
    let attach = || {
        let ctx = ctx.ok_or(NO_CONTEXT)?;
        let entries = entries(nentries)?;
        let socket = raw::Socket::attach(&ctx.context, fd, entries, entries)?;
        fd::allow_zerocopy(fd).map_err(|error| {
            Failure::Errno(
                error.raw_os_error().unwrap_or(libc::EINVAL),
                "the socket does not take SO_ZEROCOPY",
            )
        })?;
        skqp.write(Some(Box::new(netgpu_skq {
            socket,
            fd,
            batch: Vec::new(),
            finished: Vec::new(),
            newest: 0,
            failure: None,
        })));
        Ok(0)
    };
    answer(attach())
}

/// Detaches the socket, if it was not closed before, and sets `*skqp` to NULL. It is an ordinary one again if nothing is under way:
/// else, when the peer has not ended its stream or sends are unfinished, its connection is aborted. Close the socket first where
/// it is to end in order.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_detach_socket(skqp: Option<&mut Option<Box<netgpu_skq>>>) {
    if let Some(skqp) = skqp {
        *skqp = None;
    }
}

/// Makes `iov[0]`, `iov[1]` and so on point to the next received pieces, in the order of the stream, up to `count` of them. The
/// iovecs are the library's until the next call; the bytes are the caller's until it gives the piece back, by
/// netgpu_recycle_buffer() or netgpu_recycle_batch(). A socket whose pieces are not given back receives no more in the end.
///
/// Returns how many, 0: none now. Or, when all that came before was handed out, why there is no more, once: -ECONNRESET,
/// -ETIMEDOUT and so on; -ECONNABORTED, the context or the memory is gone; -EOPNOTSUPP, there are bytes to be copied, and no memory
/// that the CPU writes to was donated; -EBADF, `fd` is closed; -EINVAL, an argument is out of range.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netgpu_get_rx_batch(
    skq: Option<&mut netgpu_skq>,
    iov: *mut *mut libc::iovec,
    count: c_int,
) -> c_int {
    let receive = || {
        let skq = skq.ok_or(NO_SOCKET)?;
        // SAFETY: What C owes: there are so many.
        let places = unsafe { arguments::places(iov, count) }?;
        if places.is_empty() {
            return Ok(0);
        }
        skq.receive(places.len())?;
        for (place, piece) in places.iter_mut().zip(&mut skq.batch) {
            place.write(ptr::from_mut(piece));
        }
        Ok(skq.batch.len() as c_int)
    };
    answer(receive())
}

/// Makes `notify[0]`, `notify[1]` and so on point to the numbers of sends that have finished, up to `count` of them. The sends of a
/// socket with MSG_NETDMA that queued a byte are numbered from 0; they need not finish in order. The memory of a finished send can be
/// written again. The peer's TCP has the bytes, or the connection has failed: when all sends have finished, SO_ERROR says which,
/// unless a call has said it before. The numbers are the library's until the next call.
///
/// Returns how many, 0: none now, or -EINVAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netgpu_get_cq_batch(
    skq: Option<&mut netgpu_skq>,
    notify: *mut *mut u64,
    count: c_int,
) -> c_int {
    let complete = || {
        let skq = skq.ok_or(NO_SOCKET)?;
        // SAFETY: What C owes: there are so many.
        let places = unsafe { arguments::places(notify, count) }?;
        skq.complete(places.len());
        for (place, number) in places.iter_mut().zip(&mut skq.finished) {
            place.write(ptr::from_mut(number));
        }
        Ok(skq.finished.len() as c_int)
    };
    answer(complete())
}

/// Counters of a socket since it was attached, in bytes unless said otherwise. Later versions of the library append to it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct netgpu_skq_stats {
    /// Received where the NIC's DMA put them.
    pub rx_zerocopy: u64,
    /// Received after a copy by the CPU.
    pub rx_copied: u64,
    /// Times that delivery stopped: the ring was full, too many pieces were not given back, or there was nothing to copy into.
    pub rx_stalled: u64,
    /// Sent straight from attached memory, or on their way.
    pub tx_zerocopy: u64,
    /// Of those, bytes that were copied on their way.
    pub tx_copied: u64,
    /// Sends that have not finished, now.
    pub tx_pending: u64,
}

/// Reads the socket's counters into `*stats`, of which the caller knows `size` bytes: sizeof(*stats).
///
/// Returns 0, or: -ENOENT, the socket is closed; -EINVAL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netgpu_get_skq_stats(
    skq: Option<&mut netgpu_skq>,
    stats: *mut netgpu_skq_stats,
    size: usize,
) -> c_int {
    let read = || {
        let counters = skq.ok_or(NO_SOCKET)?.socket.statistics()?;
        let counters = netgpu_skq_stats {
            rx_zerocopy: counters.rx_zerocopy,
            rx_copied: counters.rx_copied,
            rx_stalled: counters.rx_stalled,
            tx_zerocopy: counters.tx_zerocopy,
            tx_copied: counters.tx_copied,
            tx_pending: counters.tx_pending,
        };
        // SAFETY: What C owes: there are so many bytes. Ours are integers of one size.
        unsafe { arguments::fill(stats, size, &counters) }?;
        Ok(0)
    };
    answer(read())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_sends_do_not_wrap() {
        assert_eq!(widen(0, 0), 0);
        assert_eq!(widen(0, 5), 5);
        assert_eq!(widen(5, 3), 3, "out of order");
        assert_eq!(widen(0xffff_ffff, 1), 0x1_0000_0001);
        assert_eq!(widen(0x1_0000_0001, 0xffff_fffe), 0xffff_fffe);
    }
}
