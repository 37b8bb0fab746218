// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive queues and their fill rings.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::context::ContextShared;
use crate::error::{Command, Error};
use crate::ring::{Full, Mapped, Producer};
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
    /// buffers are donated is a good number: more than fit wait in memory of the process.
    pub fill_entries: u32,
    /// Length of the longest header that packets of this queue have, for devices that split at a fixed offset. Bytes
    /// of payload that come before it are copied, so the exact length saves work; packets with longer headers are lost.
    pub header_bytes: u32,
}

/// A receive queue whose payload goes into donated memory.
///
/// Stays open until this handle, every socket that returns buffers through it, and every [`Piece`](crate::Piece)
/// received by one of those are gone.
#[derive(Debug)]
pub struct Queue {
    shared: Arc<QueueShared>,
}

#[derive(Debug)]
pub(crate) struct QueueShared {
    // Dropped in this order, after the queue was closed: ring, then context.
    fill: Mutex<Fill>,
    id: u32,
    number: u32,
    context: Arc<ContextShared>,
}

#[derive(Debug)]
struct Fill {
    ring: Producer<Mapped<sys::netgpu_fill_entry>>,
    /// What had no room on the ring, in order. The kernel works a full ring off; this moves with the next return, and
    /// before a socket waits.
    waiting: VecDeque<sys::netgpu_fill_entry>,
}

impl Queue {
    pub(crate) fn open(context: &Arc<ContextShared>, config: QueueConfig) -> Result<Self, Error> {
        let subject = || format!("receive queue {} of {}", config.queue, context.interface());
        let entries = ring_entries(config.fill_entries);
        let mut argument = sys::netgpu_open_queue {
            queue: config.queue,
            fill_entries: entries,
            hds_offset: config.header_bytes,
            ..Default::default()
        };
        context
            .device
            .open_queue(&mut argument)
            .map_err(|(source, detail)| Error::Refused {
                command: Command::OpenQueue,
                subject: subject(),
                detail,
                source,
            })?;
        let id = sys::netgpu_id {
            id: argument.id,
            ..Default::default()
        };
        let ring = Mapped::new(
            &context.device,
            argument.mmap_offset,
            argument.mmap_len,
            entries,
        )
        .map_err(|error| {
            close(context, id);
            Error::refused(
                Command::MapRing,
                format!("the fill ring of {}", subject()),
                error,
            )
        })?;
        let shared = QueueShared {
            fill: Mutex::new(Fill {
                ring: Producer::new(ring),
                waiting: VecDeque::new(),
            }),
            id: argument.id,
            number: config.queue,
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
    /// [`Error::ForeignContext`] when the region of the span is not attached to the queue's context.
    pub fn donate(&self, span: Span) -> Result<(), Error> {
        let regions = self.shared.context.regions();
        let attached = regions
            .iter()
            .any(|region| Arc::ptr_eq(region, span.region()));
        if !attached {
            return Err(Error::ForeignContext("memory"));
        }
        self.shared.fill().give(span.surrender());
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
    /// Returns a delivery to the kernel, by any address in it.
    pub(crate) fn give_back(&self, address: u64) {
        self.fill().give_one(address);
    }

    /// Shows the kernel returns that had no room on the ring, as far as there is room now.
    pub(crate) fn give_waiting(&self) {
        self.fill().give(std::iter::empty());
    }

    pub(crate) fn context(&self) -> &Arc<ContextShared> {
        &self.context
    }

    fn fill(&self) -> std::sync::MutexGuard<'_, Fill> {
        // What is under the lock is whole between its methods, none of which panics half-way.
        self.fill.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for QueueShared {
    fn drop(&mut self) {
        close(
            &self.context,
            sys::netgpu_id {
                id: self.id,
                ..Default::default()
            },
        );
    }
}

/// Closes a queue that was opened. The only error there is, an unknown number, cannot be then.
fn close(context: &ContextShared, id: sys::netgpu_id) {
    let closed = context.device.close_queue(id);
    debug_assert!(closed.is_ok(), "closing an open queue: {closed:?}");
}

impl Fill {
    /// For each piece that was received: straight to the ring, where nothing waits.
    fn give_one(&mut self, addr: u64) {
        let entry = sys::netgpu_fill_entry { addr };
        if self.waiting.is_empty() && self.ring.push(entry).is_ok() {
            self.ring.publish();
        } else {
            self.give(std::iter::once(addr));
        }
    }

    fn give(&mut self, addresses: impl Iterator<Item = u64>) {
        self.waiting
            .extend(addresses.map(|addr| sys::netgpu_fill_entry { addr }));
        while let Some(&entry) = self.waiting.front() {
            match self.ring.push(entry) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(Full) => break,
            }
        }
        self.ring.publish();
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
    /// Buffers taken from the fill ring that the NIC did not get: it asked for none, or they are in use still, or kept for
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
