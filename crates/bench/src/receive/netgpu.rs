// SPDX-License-Identifier: MIT OR Apache-2.0
//! Into memory registered with netgpu.

use std::net::TcpStream;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use netgpu::{
    Context, IPV4_HEADER_BYTES, MemoryArea, Piece, Queue, QueueConfig, Socket, SocketConfig,
};

use super::{MEMORY, Receive, Sink};
use crate::Recv;
use crate::measure::Measurement;
use crate::memory::Size;

pub(super) struct Netgpu {
    context: Context,
    queue: Queue,
    socket: Option<Socket>,
    rx_entries: u32,
    /// Memory that is not the CPU's is read in another way.
    host: bool,
}

impl Receive for Netgpu {
    fn open(arguments: &Recv, measurement: &mut Measurement) -> Result<Self> {
        let queues = arguments.queue..arguments.queue + 1;
        let buffers = arguments.buffers.unwrap_or(MEMORY / arguments.buffer_size);
        let (context, mut queues) = open_queues(arguments, queues, buffers, measurement)?;
        Ok(Self {
            context,
            queue: queues.remove(0),
            socket: None,
            rx_entries: arguments.rx_entries,
            host: arguments.common.memory == crate::memory::Memory::Host,
        })
    }

    fn connected(&mut self, stream: TcpStream) -> Result<()> {
        let config = SocketConfig {
            receive: Some(&self.queue),
            rx_entries: self.rx_entries,
            ..SocketConfig::default()
        };
        self.socket = Some(self.context.attach_socket(stream, config)?);
        Ok(())
    }

    fn receive(&mut self, sink: &mut impl Sink) -> Result<bool> {
        let socket = self.socket.as_mut().context("not connected")?;
        let host = self.host;
        let mut take = |piece: &Piece| {
            sink.take(piece.len(), |copy| {
                if host {
                    copy.copy_from_slice(piece);
                } else {
                    piece.read(copy)?;
                }
                Ok(())
            })
        };
        let Some(piece) = socket.recv()? else {
            return Ok(false);
        };
        take(&piece)?;
        drop(piece);
        while socket.see_delivered(&mut take)? > 0 {}
        Ok(true)
    }

    fn copied(&self) -> Result<Option<u64>> {
        let socket = self.socket.as_ref().context("not connected")?;
        Ok(Some(socket.statistics()?.rx_copied))
    }
}

/// Takes these receive queues with one context, and so many buffers of registered memory for each.
pub(crate) fn open_queues(
    arguments: &Recv,
    queues: Range<u32>,
    buffers: usize,
    measurement: &mut Measurement,
) -> Result<(Context, Vec<Queue>)> {
    ensure!(
        buffers >= arguments.regions,
        "so few buffers do not make so many regions"
    );
    // Of each region each queue has so much.
    let share = (buffers / arguments.regions).checked_mul(arguments.buffer_size);
    let len = share.and_then(|share| share.checked_mul(queues.len()));
    let (share, len) = share
        .zip(len)
        .context("so many buffers, of that size, are more than there are addresses")?;
    let size = Size::for_buffers(arguments.buffer_size);
    let memory = (0..arguments.regions)
        .map(|_| arguments.common.memory.allocate(len, size, measurement))
        .collect::<Result<Vec<_>>>()?;
    measurement.sets_up();
    let area = MemoryArea::new()?;
    let context = Context::with_buffers(&arguments.common.dev, arguments.buffer_size)?;
    let mut regions = Vec::new();
    for memory in memory {
        let region = memory.register(&area)?;
        context.attach(&region)?;
        regions.push(region);
    }
    let open = |queue| -> Result<Queue> {
        let queue = context.open_queue(QueueConfig {
            queue,
            fill_entries: arguments.fill_entries.unwrap_or(buffers as u32),
            header_bytes: IPV4_HEADER_BYTES,
            padded: arguments.padded,
        })?;
        for region in &regions {
            queue.donate(region.take(share).context("the region is in use")?)?;
        }
        Ok(queue)
    };
    let queues = queues.map(open).collect::<Result<_>>()?;
    Ok((context, queues))
}
