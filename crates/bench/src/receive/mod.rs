// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to receive.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use netgpu::{
    Backing, Context, HostMemory, IPV4_HEADER_BYTES, MemoryArea, Queue, QueueConfig, Received,
    SocketConfig, Span,
};

use crate::Recv;
use crate::measure::Measurement;

/// How to receive.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Path {
    /// read(2) into one buffer.
    Read,
    /// recv(2) with MSG_TRUNC: protocol work alone.
    Trunc,
    /// Into memory registered with netgpu.
    Netgpu,
}

/// Bytes asked for at a time.
const CHUNK: usize = 256 << 10;
/// Bytes of registered memory, of which the socket's receive buffer is a quarter in all paths.
const MEMORY: usize = 64 << 20;

pub(crate) fn run(arguments: &Recv) -> Result<()> {
    match arguments.path {
        Path::Read => read(arguments),
        Path::Trunc => trunc(arguments),
        Path::Netgpu => netgpu(arguments),
    }
}

/// Listens, and takes the first connection.
fn accept(arguments: &Recv) -> Result<TcpStream> {
    let listener = TcpListener::bind(arguments.listen).context("cannot listen")?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&listener, MEMORY / 4 / 2)
        .context("cannot set the receive buffer")?;
    Ok(listener.accept().context("cannot accept")?.0)
}

fn read(arguments: &Recv) -> Result<()> {
    let mut stream = accept(arguments)?;
    let mut chunk = vec![1; CHUNK];
    let mut measurement = Measurement::new(arguments.peer);
    measurement.watch(&chunk)?;
    loop {
        let count = stream.read(&mut chunk).context("cannot receive")?;
        if count == 0 {
            break;
        }
        measurement.add(count as u64);
    }
    measurement.finish("read", "rx", arguments.mtu);
    Ok(())
}

fn trunc(arguments: &Recv) -> Result<()> {
    let stream = accept(arguments)?;
    let mut measurement = Measurement::new(arguments.peer);
    loop {
        // SAFETY: With MSG_TRUNC TCP drops the bytes and writes none.
        let count = unsafe {
            libc::recv(
                stream.as_raw_fd(),
                std::ptr::null_mut(),
                CHUNK,
                libc::MSG_TRUNC,
            )
        };
        let count = u64::try_from(count).map_err(|_| std::io::Error::last_os_error())?;
        if count == 0 {
            break;
        }
        measurement.add(count);
    }
    measurement.finish("trunc", "rx", arguments.mtu);
    Ok(())
}

/// Takes the receive queue, with `memory` bytes registered for it. They are not in it yet.
pub(crate) fn open_queue(arguments: &Recv, memory: usize) -> Result<(Context, Queue, Span)> {
    let region = MemoryArea::new()?.add(HostMemory::new(memory, Backing::Anonymous)?)?;
    let context = Context::open(&arguments.dev)?;
    context.attach(&region)?;
    let queue = context.open_queue(QueueConfig {
        queue: arguments.queue,
        fill_entries: (memory / rustix::param::page_size()) as u32,
        header_bytes: IPV4_HEADER_BYTES,
    })?;
    let whole = region.take(memory).context("the region is in use")?;
    Ok((context, queue, whole))
}

fn netgpu(arguments: &Recv) -> Result<()> {
    let (context, queue, whole) = open_queue(arguments, MEMORY)?;
    let mut measurement = Measurement::new(arguments.peer);
    measurement.watch(&whole)?;
    queue.donate(whole)?;
    // Not before: what comes while the queue is not there yet lies in the kernel's memory, and is copied.
    let stream = accept(arguments)?;
    let mut socket = context.attach_socket(
        stream,
        SocketConfig {
            receive: Some(&queue),
            ..SocketConfig::default()
        },
    )?;
    loop {
        match socket.try_recv()? {
            Received::Piece(piece) => measurement.add(piece.len() as u64),
            Received::Nothing => match socket.recv()? {
                Some(piece) => measurement.add(piece.len() as u64),
                None => break,
            },
            Received::End => break,
        }
    }
    measurement.finish("netgpu", "rx", arguments.mtu);
    let counters = socket.statistics()?;
    eprintln!(
        "zero-copy {} copied {} (behind the header {}, without room {}, not split {})",
        counters.rx_zerocopy,
        counters.rx_copied,
        counters.rx_copied_split,
        counters.rx_copied_no_room,
        counters.rx_copied_unsplit
    );
    Ok(())
}
