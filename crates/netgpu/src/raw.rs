// SPDX-License-Identifier: MIT OR Apache-2.0
//! Queues and sockets by address, without owners of memory: for bindings to languages that know none.
//!
//! [`crate::Queue`] and [`crate::Socket`] are made of these. Who uses these themselves answers for what those take care of:
//! that nobody reads or writes a buffer which the kernel has.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use rustix::io::Errno;

use crate::context::{Context, ContextShared};
use crate::error::{Command, Error};
use crate::queue::ring_entries;
use crate::ring::{Consumer, Deliveries, Full, Mapped, Producer};
use crate::socket::SocketStatistics;
use crate::sys;

pub use crate::ring::Delivery;

/// A receive queue and its fill ring.
///
/// Dropping it closes the queue, as [`Queue::close`] does.
#[derive(Debug)]
pub struct Queue {
    open: bool,
    // Dropped in this order, after the queue was closed: ring, then context.
    ring: Producer<Mapped<sys::netgpu_fill_entry>>,
    /// What had no room on the ring, in order. The kernel works a full ring off; this moves when something is published.
    waiting: VecDeque<sys::netgpu_fill_entry>,
    id: u32,
    number: u32,
    context: Arc<ContextShared>,
}

impl Queue {
    /// Takes over receive queue `number` of the context's device, or else the last one that is free.
    ///
    /// `fill_entries`, `header_bytes` and `padded` are as [`QueueConfig`](crate::QueueConfig) has them; with zero `header_bytes`
    /// every IPv4 and IPv6 header without extension headers has room.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the device's reason.
    pub fn open(
        context: &Context,
        number: Option<u32>,
        fill_entries: u32,
        header_bytes: u32,
        padded: bool,
    ) -> Result<Self, Error> {
        let context = context.shared();
        if let Some(number) = number {
            return Self::take(context, number, fill_entries, header_bytes, padded);
        }
        let refused = |source| {
            Error::refused(
                Command::OpenQueue,
                format!("a receive queue of {}", context.interface()),
                source,
            )
        };
        // The first ones are where a device puts the traffic that nobody steers.
        let numbers = receive_queues(context.interface()).map_err(refused)?;
        for number in (0..numbers).rev() {
            match Self::take(context, number, fill_entries, header_bytes, padded) {
                Err(error) if error.errno() == Some(Errno::BUSY.raw_os_error()) => {}
                taken => return taken,
            }
        }
        Err(refused(Errno::BUSY.into()))
    }

    pub(crate) fn take(
        context: &Arc<ContextShared>,
        number: u32,
        fill_entries: u32,
        header_bytes: u32,
        padded: bool,
    ) -> Result<Self, Error> {
        let subject = || format!("receive queue {number} of {}", context.interface());
        let entries = ring_entries(fill_entries);
        let mut argument = sys::netgpu_open_queue {
            queue: number,
            flags: if padded { sys::NETGPU_QUEUE_PADDED } else { 0 },
            fill_entries: entries,
            hds_offset: header_bytes,
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
        let ring = Mapped::new(
            &context.device,
            argument.mmap_offset,
            argument.mmap_len,
            entries,
        )
        .map_err(|error| {
            // If that fails as well, the queue goes with the context.
            let _ = close(context, argument.id);
            Error::refused(
                Command::MapRing,
                format!("the fill ring of {}", subject()),
                error,
            )
        })?;
        Ok(Self {
            open: true,
            ring: Producer::new(ring),
            waiting: VecDeque::new(),
            id: argument.id,
            number,
            context: context.clone(),
        })
    }

    /// A queue that no kernel knows.
    #[cfg(test)]
    pub(crate) fn fake(ring: Mapped<sys::netgpu_fill_entry>, context: Arc<ContextShared>) -> Self {
        Self {
            open: true,
            ring: Producer::new(ring),
            waiting: VecDeque::new(),
            id: 0,
            number: 0,
            context,
        }
    }

    /// Gives the queue back to the device's driver. Where the driver fails, for want of memory for example, it stays the context's, and goes
    /// with that at last.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn close(mut self) -> Result<(), Error> {
        self.open = false;
        close(&self.context, self.id).map_err(|error| {
            let subject = format!(
                "receive queue {} of {}",
                self.number,
                self.context.interface()
            );
            Error::refused(Command::CloseQueue, subject, error)
        })
    }

    /// Number of the device's receive queue.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Bytes of a buffer: those of the context.
    pub fn buffer_size(&self) -> usize {
        self.context.buffer_size()
    }

    /// Puts the buffer of [`Queue::buffer_size`] that `address` lies in on the fill ring: to donate it, or to return a delivery. What has no room waits
    /// in memory of the process. The kernel sees it after [`Queue::publish`].
    ///
    /// # Safety
    ///
    /// The NIC may write to the buffer from now on, until a [`Delivery`] hands bytes of it out: as long as there are no such
    /// bytes, nobody reads or writes it, and no reference to it exists.
    pub unsafe fn give(&mut self, address: u64) {
        let entry = sys::netgpu_fill_entry { addr: address };
        if !self.waiting.is_empty() || self.ring.push(entry).is_err() {
            self.waiting.push_back(entry);
        }
    }

    /// [`Self::give`] and [`Self::publish`].
    ///
    /// # Safety
    ///
    /// As for [`Self::give`].
    #[inline]
    pub(crate) unsafe fn give_now(&mut self, address: u64) {
        let entry = sys::netgpu_fill_entry { addr: address };
        if self.waiting.is_empty() && self.ring.push(entry).is_ok() {
            self.ring.publish();
        } else {
            self.waiting.push_back(entry);
            self.publish();
        }
    }

    /// [`Self::give`] for each of `addresses`.
    ///
    /// # Safety
    ///
    /// As for [`Self::give`].
    pub(crate) unsafe fn give_all(&mut self, addresses: &[u64]) {
        let entry = |&addr: &u64| sys::netgpu_fill_entry { addr };
        let pushed = match self.waiting.is_empty() {
            true => self.ring.extend(addresses.iter().map(entry)),
            false => 0,
        };
        self.waiting.extend(addresses[pushed..].iter().map(entry));
    }

    /// Shows the kernel what was given, as far as there is room.
    #[inline(never)]
    pub fn publish(&mut self) {
        while let Some(&entry) = self.waiting.front() {
            match self.ring.push(entry) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(Full) => break,
            }
        }
        self.ring.publish();
    }

    /// How many buffers can be given now without waiting.
    pub fn room(&mut self) -> usize {
        if self.waiting.is_empty() {
            self.ring.room() as usize
        } else {
            0
        }
    }

    /// How much of what was given waits for room.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if self.open {
            // There is nobody to be told.
            let _ = close(&self.context, self.id);
        }
    }
}

fn close(context: &ContextShared, id: u32) -> io::Result<()> {
    context.device.close_queue(sys::netgpu_id {
        id,
        ..Default::default()
    })
}

/// How many receive queues the device has in use.
fn receive_queues(interface: &str) -> io::Result<u32> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/sys/class/net/{interface}/queues"))? {
        let name = entry?.file_name();
        count += u32::from(name.as_encoded_bytes().starts_with(b"rx-"));
    }
    Ok(count)
}

/// An attached TCP socket: its rings, and no owner of the socket.
///
/// Dropping it detaches the socket, if it was not closed before.
#[derive(Debug)]
pub struct Socket {
    rx: Option<Deliveries>,
    completions: Option<Consumer<Mapped<sys::netgpu_completion>>>,
    id: u32,
    ticket: u64,
    context: Arc<ContextShared>,
}

/// A send that has finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Its number: sends with `MSG_ZEROCOPY` that queued bytes count from zero, and wrap at 2^32.
    pub number: u32,
    /// Some of its bytes were copied on their way.
    pub copied: bool,
}

impl Socket {
    /// Attaches the TCP socket `fd`, with rings of so many entries, or without those that have zero. Other numbers round as in
    /// [`SocketConfig`](crate::SocketConfig).
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn attach(
        context: &Context,
        fd: RawFd,
        rx_entries: u32,
        completion_entries: u32,
    ) -> Result<Self, Error> {
        Self::new(context.shared(), fd, rx_entries, completion_entries)
    }

    pub(crate) fn new(
        context: &Arc<ContextShared>,
        fd: RawFd,
        rx_entries: u32,
        completion_entries: u32,
    ) -> Result<Self, Error> {
        let entries = |wanted| if wanted == 0 { 0 } else { ring_entries(wanted) };
        let mut argument = sys::netgpu_attach_socket {
            fd,
            rx_entries: entries(rx_entries),
            completion_entries: entries(completion_entries),
            ..Default::default()
        };
        let device = &context.device;
        let ticket = context
            .attach_socket(&mut argument)
            .map_err(|error| Error::refused(Command::AttachSocket, context.interface(), error))?;
        // From here on dropping `socket` detaches.
        let mut socket = Self {
            rx: None,
            completions: None,
            id: argument.id,
            ticket,
            context: context.clone(),
        };

        let unmapped =
            |ring: &'static str| move |error| Error::refused(Command::MapRing, ring, error);
        if argument.rx_entries != 0 {
            let sys::netgpu_attach_socket {
                rx_mmap_offset,
                rx_mmap_len,
                rx_entries,
                ..
            } = argument;
            let ring = Mapped::new(device, rx_mmap_offset, rx_mmap_len, rx_entries)
                .map_err(unmapped("the rx ring"))?;
            socket.rx = Some(Deliveries::new(ring));
        }
        if argument.completion_entries != 0 {
            let sys::netgpu_attach_socket {
                completion_mmap_offset,
                completion_mmap_len,
                completion_entries,
                ..
            } = argument;
            let ring = Mapped::new(
                device,
                completion_mmap_offset,
                completion_mmap_len,
                completion_entries,
            )
            .map_err(unmapped("the completion ring"))?;
            socket.completions = Some(Consumer::new(ring));
        }
        Ok(socket)
    }

    /// A socket that no kernel knows.
    #[cfg(test)]
    pub(crate) fn fake(ring: Mapped<sys::netgpu_rx_entry>, context: Arc<ContextShared>) -> Self {
        Self {
            rx: Some(Deliveries::new(ring)),
            completions: None,
            id: 0,
            ticket: 1,
            context,
        }
    }

    /// Takes the next received bytes off the rx ring.
    #[inline]
    pub fn pop(&mut self) -> Option<Delivery> {
        self.rx.as_mut()?.pop()
    }

    /// Whether [`Socket::release`] is due: a quarter of the rx ring has been popped since.
    #[inline]
    pub fn should_release(&self) -> bool {
        self.rx.as_ref().is_some_and(Deliveries::should_release)
    }

    /// Gives the places of what was popped back to the kernel. Returns whether the kernel had stalled: recv(2) on the socket has
    /// it go on.
    pub fn release(&mut self) -> bool {
        self.rx.as_mut().is_some_and(Deliveries::release)
    }

    /// Takes a finished send off the completion ring.
    pub fn finished(&mut self) -> Option<Finished> {
        let ring = self.completions.as_mut()?;
        let entry = ring.pop()?;
        // The kernel reserves a slot for each send, so it never stalls on this ring.
        ring.release();
        Some(Finished {
            number: entry.id,
            copied: entry.flags & sys::NETGPU_COMPLETION_COPIED != 0,
        })
    }

    /// Reads the socket's counters.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when the context is gone, or the socket was closed.
    pub fn statistics(&self) -> Result<SocketStatistics, Error> {
        self.context.socket_statistics(self.id, self.ticket)
    }

    pub(crate) fn context(&self) -> &Arc<ContextShared> {
        &self.context
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.context.detach_socket(self.id, self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_is_not_given_back_is_told_and_no_panic() {
        let context = ContextShared::fake(Vec::new(), 4096);
        let (ring, _kernel) = Mapped::fake(16);
        let error = Queue::fake(ring, context.clone()).close();
        let error = error.expect_err("this device knows no command");
        assert!(
            error
                .to_string()
                .starts_with("cannot give back receive queue 0"),
            "{error}"
        );
        let (ring, _kernel) = Mapped::fake(16);
        drop(Queue::fake(ring, context));
    }
}
