// SPDX-License-Identifier: MIT OR Apache-2.0
//! `struct netgpu_ifq`.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;

use netgpu::raw;

use crate::arguments;
use crate::context::{NO_CONTEXT, netgpu_ctx};
use crate::error::{Failure, answer, keep};

/// A receive queue of the device, and its fill ring.
#[derive(Debug)]
pub struct netgpu_ifq {
    queue: raw::Queue,
}

const NO_QUEUE: Failure = Failure::Argument("the queue is NULL");

impl netgpu_ifq {
    fn give(&mut self, address: u64) {
        // SAFETY: What C owes, as the functions say: it is done with the bytes in this buffer. Rust has no reference to them.
        unsafe { self.queue.give(address) };
    }
}

/// Takes receive queue `queue_id` of the context's device, or with -1 the last one that is free. From here on the payload of what
/// the device puts on this queue goes into memory that was given to the context's queues. Header split is to be on in the device
/// (ethtool -G), other traffic kept away from the queue (ethtool -X) and the connections steered to it (ethtool -N).
/// `fill_entries` rounds up to a power of two, from 16 to 262144.
///
/// Returns 0, or: -EPERM, CAP_NET_ADMIN is needed; -EBUSY, AF_XDP or another owner has the queue, or all of them; -ERANGE, there is
/// no such queue; -EINVAL, header split is off, or an argument is out of range; -EEXIST, an XDP program runs on the device;
/// -EOPNOTSUPP, the device or its driver cannot do it; -ENETDOWN, the interface is down; -ENODEV, the device is gone.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_open_ifq(
    ifqp: Option<&mut MaybeUninit<Option<Box<netgpu_ifq>>>>,
    ctx: Option<&mut netgpu_ctx>,
    queue_id: c_int,
    fill_entries: c_int,
) -> c_int {
    // Zero fits all headers.
    answer(open(ifqp, ctx, queue_id, fill_entries, 0, false))
}

/// As netgpu_open_ifq(), for a queue whose packets have headers of at most `hds_offset` bytes, from Ethernet to the options of TCP.
/// Devices that split packets at a fixed offset, such as ConnectX-4 to -6, do it there: what of the payload comes before is copied,
/// and packets with longer headers are lost. netgpu_open_ifq() takes 114, which fits IPv6 without extension headers; where all
/// connections are IPv4, 94 (14 + 20 + 60) saves 20 bytes for each packet.
///
/// Returns what netgpu_open_ifq() returns.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_open_ifq_hds(
    ifqp: Option<&mut MaybeUninit<Option<Box<netgpu_ifq>>>>,
    ctx: Option<&mut netgpu_ctx>,
    queue_id: c_int,
    fill_entries: c_int,
    hds_offset: c_int,
) -> c_int {
    answer(open(ifqp, ctx, queue_id, fill_entries, hds_offset, false))
}

/// As netgpu_open_ifq_hds(), for a queue whose packets have headers of exactly `hds_offset` bytes, because their senders pad them
/// (`netgpu pad`). Where the device splits packets at a fixed offset, payload then lies in a row, and what netgpu_get_rx_batch() tells of
/// is that of many packets. Of payload behind shorter headers the first bytes are told of by themselves.
///
/// Returns what netgpu_open_ifq() returns.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_open_ifq_padded(
    ifqp: Option<&mut MaybeUninit<Option<Box<netgpu_ifq>>>>,
    ctx: Option<&mut netgpu_ctx>,
    queue_id: c_int,
    fill_entries: c_int,
    hds_offset: c_int,
) -> c_int {
    answer(open(ifqp, ctx, queue_id, fill_entries, hds_offset, true))
}

fn open(
    ifqp: Option<&mut MaybeUninit<Option<Box<netgpu_ifq>>>>,
    ctx: Option<&mut netgpu_ctx>,
    queue_id: c_int,
    fill_entries: c_int,
    hds_offset: c_int,
    padded: bool,
) -> Result<c_int, Failure> {
    let ifqp = ifqp.ok_or(NO_QUEUE)?;
    ifqp.write(None);
    let ctx = ctx.ok_or(NO_CONTEXT)?;
    let number = match queue_id {
        -1 => None,
        _ => Some(u32::try_from(queue_id).map_err(|_| {
            Failure::Argument("a receive queue has a number from 0 on, and -1 is any")
        })?),
    };
    let entries = entries(fill_entries)?;
    let header_bytes = u32::try_from(hds_offset)
        .map_err(|_| Failure::Argument("the length of headers is negative"))?;
    let queue = raw::Queue::open(&ctx.context, number, entries, header_bytes, padded)?;
    ifqp.write(Some(Box::new(netgpu_ifq { queue })));
    Ok(0)
}

/// Entries of a ring.
pub(crate) fn entries(wanted: c_int) -> Result<u32, Failure> {
    u32::try_from(wanted)
        .ok()
        .filter(|&entries| entries > 0)
        .ok_or(Failure::Argument("a ring has at least one entry"))
}

/// Gives the queue back to the device's driver and sets `*ifqp` to NULL. Where the driver cannot take it, for want of memory for
/// example, it goes back when its context goes; opening it is -EBUSY until then.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_close_ifq(ifqp: Option<&mut Option<Box<netgpu_ifq>>>) {
    if let Some(ifq) = ifqp.and_then(Option::take)
        && let Err(error) = ifq.queue.close()
    {
        keep(&error.into());
    }
}

/// Number of the receive queue, as ethtool counts.
///
/// Returns it, or -EINVAL.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_ifq_id(ifq: Option<&mut netgpu_ifq>) -> c_int {
    answer(
        ifq.map(|ifq| c_int::try_from(ifq.queue.number()).unwrap_or(c_int::MAX))
            .ok_or(NO_QUEUE),
    )
}

/// Donates `count` buffers from `addr` on, which are attached to the context and were not donated before: pages of 4 KiB, or what
/// netgpu_open_ctx_buffers() was given. From now on they are the device's to write to, but for what netgpu_get_rx_batch() hands out.
/// What has no room on the ring waits in the library and follows with a later call of this function or of netgpu_recycle_complete();
/// so it is with what is given back. Seldom anything has to wait on a ring with as many entries as buffers are donated: each piece
/// is given back by an entry of its own, and several can lie in one buffer.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_populate_ring(ifq: Option<&mut netgpu_ifq>, addr: u64, count: c_int) {
    let Some(ifq) = ifq else {
        return keep(&NO_QUEUE);
    };
    let Ok(count) = u64::try_from(count) else {
        return keep(&Failure::Argument("the number of buffers is negative"));
    };
    let step = ifq.queue.buffer_size() as u64;
    for index in 0..count {
        ifq.give(addr.wrapping_add(index * step));
    }
    ifq.queue.publish();
}

/// Gives back a piece that netgpu_get_rx_batch() has handed out, by any address in it: once for each piece, also where several lie
/// in one buffer. The kernel sees it after netgpu_recycle_complete().
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_recycle_buffer(ifq: Option<&mut netgpu_ifq>, ptr: *mut c_void) {
    match ifq {
        Some(ifq) => ifq.give(ptr.addr() as u64),
        None => keep(&NO_QUEUE),
    }
}

/// Gives back `count` pieces at once, as netgpu_recycle_buffer() does with one. Returns false, and gives none back, when the ring has
/// no room for all of them now: netgpu_recycle_buffer() takes them all the same, and has them wait in the library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netgpu_recycle_batch(
    ifq: Option<&mut netgpu_ifq>,
    iov: *mut *mut libc::iovec,
    count: c_int,
) -> bool {
    let recycle = || {
        let ifq = ifq.ok_or(NO_QUEUE)?;
        // SAFETY: What C owes: they are what was handed out.
        let addresses = unsafe { arguments::starts(iov, count) }?;
        if ifq.queue.room() < addresses.len() {
            // Perhaps only because the kernel has not seen what is there.
            ifq.queue.publish();
            if ifq.queue.room() < addresses.len() {
                return Ok(false);
            }
        }
        for address in addresses {
            ifq.give(address);
        }
        Ok(true)
    };
    recycle().unwrap_or_else(|failure: Failure| {
        keep(&failure);
        false
    })
}

/// Shows the kernel what was given back.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_recycle_complete(ifq: Option<&mut netgpu_ifq>) {
    match ifq {
        Some(ifq) => ifq.queue.publish(),
        None => keep(&NO_QUEUE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_has_entries() {
        assert_eq!(entries(1).ok(), Some(1));
        assert!(entries(0).is_err());
        assert!(entries(-1).is_err());
    }
}
