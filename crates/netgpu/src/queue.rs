// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive queues and their fill rings.

use std::sync::{Arc, Mutex, PoisonError};

use crate::context::ContextShared;
use crate::error::{Command, Error};
use crate::raw;
use crate::span::Span;
use crate::sys;

/// Bytes of the longest Ethernet, IPv4 and TCP header together (14 + 20 + 60), for [`QueueConfig::header_bytes`]. The
/// IPv4 header is counted without options.
pub const IPV4_HEADER_BYTES: u32 = 14 + 20 + 60;

/// As [`IPV4_HEADER_BYTES`] for IPv6 without extension headers (14 + 40 + 60); fits IPv4 too.
pub const IPV6_HEADER_BYTES: u32 = 14 + 40 + 60;

/// Which queue to take, and how.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// Number of the device's receive queue.
    pub queue: u32,
    /// Entries of the fill ring; rounded up to a power of two, and into the range that the kernel allows. As many as
    /// buffers are donated, of [`Context::buffer_size`](crate::Context::buffer_size) each, is a good number: more than fit wait in memory
    /// of the process.
    pub fill_entries: u32,
    /// Length of the longest header that packets of this queue have, for devices that split at a fixed offset. Bytes
    /// of payload that come before it are copied, so the exact length saves work; packets with longer headers are lost.
    pub header_bytes: u32,
    /// Whether all headers are that long, because senders pad them (`netgpu pad`). Where a device splits at a fixed offset, the
    /// payload of packets of full length then lies in a row, and a [`Piece`](crate::Piece) has that of many. Of payload behind
    /// shorter headers the first bytes become pieces of their own.
    pub padded: bool,
}

/// A receive queue whose payload goes into donated memory.
///
/// Stays open until this handle, every socket that returns buffers through it, and every [`Piece`](crate::Piece)
/// received by one of those are gone. Where the device's driver cannot take it back then, for want of memory for example, the device
/// has it as long as the context lives.
#[derive(Debug)]
pub struct Queue {
    shared: Arc<QueueShared>,
}

#[derive(Debug)]
pub(crate) struct QueueShared {
    raw: Mutex<raw::Queue>,
    id: u32,
    number: u32,
    context: Arc<ContextShared>,
}

impl Queue {
    pub(crate) fn open(context: &Arc<ContextShared>, config: QueueConfig) -> Result<Self, Error> {
        let QueueConfig {
            queue,
            fill_entries,
            header_bytes,
            padded,
        } = config;
        let raw = raw::Queue::take(context, queue, fill_entries, header_bytes, padded)?;
        let shared = QueueShared {
            id: raw.id(),
            number: raw.number(),
            raw: Mutex::new(raw),
            context: context.clone(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Gives the memory to the kernel for good, for NICs to receive into. What is received into it is seen as
    /// [`Piece`](crate::Piece)s.
    ///
    /// # Errors
    ///
    /// [`Error::ForeignContext`] when the region of the span is not attached to the queue's context; [`Error::PartOfBuffer`] when its
    /// buffers are larger than those that the span consists of. The span is free then.
    pub fn donate(&self, span: Span) -> Result<(), Error> {
        let regions = self.shared.context.regions();
        let attached = regions
            .iter()
            .any(|region| Arc::ptr_eq(region, span.region()));
        if !attached {
            return Err(Error::ForeignContext("memory"));
        }
        let buffer_size = self.shared.context.buffer_size();
        // The NIC has all of a buffer that it gets: what is left of it must be nobody's.
        let whole = |bytes: usize| bytes.is_multiple_of(buffer_size);
        if !whole(span.address()) || !whole(span.len()) {
            return Err(Error::PartOfBuffer { buffer_size });
        }
        let mut raw = self.shared.raw();
        for address in span.surrender(buffer_size) {
            // SAFETY: The span was the only way to the buffer, and is gone.
            unsafe { raw.give(address) };
        }
        raw.publish();
        drop(raw);
        self.shared.context.room().more();
        Ok(())
    }

    /// Number of the device's receive queue.
    pub fn number(&self) -> u32 {
        self.shared.number
    }

    /// Reads the queue's counters.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when the device is gone.
    pub fn statistics(&self) -> Result<QueueStatistics, Error> {
        let mut counters = sys::netgpu_queue_stats {
            id: self.shared.id,
            ..Default::default()
        };
        self.shared
            .context
            .device
            .queue_stats(&mut counters)
            .map_err(|error| {
                Error::refused(
                    Command::Statistics,
                    format!("receive queue {}", self.shared.number),
                    error,
                )
            })?;
        let sys::netgpu_queue_stats {
            id: _,
            reserved: _,
            filled,
            bad_addr,
            bad_return,
            empty,
            refilled,
            drained,
            rx_zerocopy,
            rx_packets,
            reserved2: _,
        } = counters;
        Ok(QueueStatistics {
            filled,
            bad_addr,
            bad_return,
            empty,
            refilled,
            drained,
            rx_zerocopy,
            rx_packets,
        })
    }

    pub(crate) fn shared(&self) -> &Arc<QueueShared> {
        &self.shared
    }
}

impl QueueShared {
    /// A queue that no kernel knows.
    #[cfg(test)]
    pub(crate) fn fake(
        ring: crate::ring::Mapped<sys::netgpu_fill_entry>,
        context: &Arc<ContextShared>,
    ) -> Arc<Self> {
        Arc::new(Self {
            raw: Mutex::new(raw::Queue::fake(ring, context.clone())),
            id: 0,
            number: 0,
            context: context.clone(),
        })
    }

    /// Returns the delivery at `address` to the kernel.
    ///
    /// # Safety
    ///
    /// Nobody looks at the bytes after this.
    pub(crate) unsafe fn give_back(&self, address: u64) {
        let mut raw = self.raw();
        // SAFETY: By this function's requirements.
        unsafe { raw.give_now(address) };
        drop(raw);
        self.context.room().more();
    }

    /// Returns the deliveries at `addresses` to the kernel.
    ///
    /// # Safety
    ///
    /// As for [`Self::give_back`].
    pub(crate) unsafe fn give_back_all(&self, addresses: &[u64]) {
        let mut raw = self.raw();
        // SAFETY: By this function's requirements.
        unsafe { raw.give_all(addresses) };
        raw.publish();
        drop(raw);
        self.context.room().more();
    }

    /// Shows the kernel returns that had no room on the ring, as far as there is room now. Returns how many have none.
    pub(crate) fn give_waiting(&self) -> usize {
        let mut raw = self.raw();
        raw.publish();
        raw.waiting()
    }

    pub(crate) fn context(&self) -> &Arc<ContextShared> {
        &self.context
    }

    fn raw(&self) -> std::sync::MutexGuard<'_, raw::Queue> {
        // What is under the lock is whole between its methods, none of which panics half-way.
        self.raw.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counters of a queue since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueStatistics {
    /// Buffers taken from the fill ring for the NIC.
    pub filled: u64,
    /// Fill entries that name no buffer of the context.
    pub bad_addr: u64,
    /// Fill entries for a buffer that user space does not hold.
    pub bad_return: u64,
    /// Times that the NIC asked for buffers and there was none.
    pub empty: u64,
    /// Buffers that the NIC got when the fill ring was empty, of those that nobody had.
    pub refilled: u64,
    /// Buffers taken from the fill ring that the NIC did not get: it did not ask for as many, or they are in use still, or kept for
    /// copies.
    pub drained: u64,
    /// Bytes delivered where the NIC's DMA put them, through this queue.
    pub rx_zerocopy: u64,
    /// Packets with such bytes.
    pub rx_packets: u64,
}

/// The nearest ring size that the kernel takes, from `wanted` up where possible.
pub(crate) fn ring_entries(wanted: u32) -> u32 {
    wanted
        .clamp(sys::NETGPU_MIN_RING_ENTRIES, sys::NETGPU_MAX_RING_ENTRIES)
        .next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::area::{Region, RegionShared};
    use crate::ring::{Consumer, Mapped};

    #[test]
    fn only_whole_buffers_are_donated() {
        const SIZE: usize = 16384;
        let region = Region {
            shared: RegionShared::fake(32),
        };
        let context = ContextShared::fake(vec![region.shared.clone()], SIZE);
        let (fill, returned) = Mapped::fake(64);
        let queue = Queue {
            shared: QueueShared::fake(fill, &context),
        };
        let take = |len| region.take(len).expect("so much is free");
        let refused = |span| {
            let donated = queue.donate(span);
            matches!(donated, Err(Error::PartOfBuffer { buffer_size: SIZE }))
        };
        assert!(refused(take(4096)), "a part of one");
        assert!(refused(take(SIZE + 4096)), "one and a part");
        let first = take(4096);
        let odd = take(SIZE);
        assert_eq!(odd.address(), region.address() + 4096);
        assert!(refused(odd), "the end of one and the start of the next");
        drop(first);
        // What was refused is free.
        let all = take(region.len());
        queue.donate(all).expect("these are whole ones");
        let mut returned = Consumer::new(returned);
        let given = std::iter::from_fn(|| Some(returned.pop()?.addr as usize));
        assert!(given.eq((region.address()..region.address() + region.len()).step_by(SIZE)));
        assert!(region.take(4096).is_none());
    }

    #[test]
    fn ring_sizes_are_those_the_kernel_takes() {
        for (wanted, got) in [
            (0, sys::NETGPU_MIN_RING_ENTRIES),
            (16, 16),
            (17, 32),
            (16384, 16384),
            (
                sys::NETGPU_MAX_RING_ENTRIES - 1,
                sys::NETGPU_MAX_RING_ENTRIES,
            ),
            (u32::MAX, sys::NETGPU_MAX_RING_ENTRIES),
        ] {
            assert_eq!(ring_entries(wanted), got, "for {wanted}");
        }
    }
}
