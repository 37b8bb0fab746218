// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes what one connection sends to stdout.

use std::error::Error;
use std::io::{self, Write};
use std::net::TcpListener;

use netgpu::{Backing, Context, HostMemory, MemoryArea, QueueConfig, SocketConfig};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, queue, address] = &arguments[..] else {
        return Err("usage: receive DEVICE QUEUE ADDRESS:PORT".into());
    };

    let context = Context::open(device)?;
    let memory = MemoryArea::new()?.add(HostMemory::new(64 << 20, Backing::Anonymous)?)?;
    context.attach(&memory)?;
    let queue = context.open_queue(QueueConfig {
        queue: queue.parse()?,
        fill_entries: 16384,
        header_bytes: netgpu::IPV4_HEADER_BYTES,
        padded: false,
    })?;
    queue.donate(memory.take(memory.len()).expect("all of it is free"))?;

    let listener = TcpListener::bind(address)?;
    eprintln!("listening on {address}");
    let (stream, _) = listener.accept()?;
    let config = SocketConfig {
        receive: Some(&queue),
        ..SocketConfig::default()
    };
    let mut socket = context.attach_socket(stream, config)?;
    let mut output = io::stdout().lock();
    while let Some(piece) = socket.recv()? {
        output.write_all(&piece)?;
        // Here the piece is dropped, and its buffer is the kernel's again.
    }
    eprintln!("{:?}", socket.statistics()?);
    Ok(())
}
