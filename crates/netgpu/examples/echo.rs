// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sends back what it receives, on any number of connections at a time, one task for each:
//!
//!     echo DEVICE QUEUE ADDRESS:PORT CONNECTIONS [MILLISECONDS]
//!
//! Ends when so many connections have ended. With MILLISECONDS, nothing is sent back: another task than the one that receives holds the
//! pieces until for so long none has come.
//!
//! The device's header split is to be on, and the port steered to that queue: docs/concepts.md, "Steering".

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use netgpu::{
    AsyncSocket, Backing, Context, Event, HostMemory, MemoryArea, Piece, Queue, QueueConfig,
    Region, SocketConfig,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Bytes to receive into: enough for the NIC's ring and what waits in TCP. Those that are held are to run short.
const RECEIVE: usize = 64 << 20;
const RECEIVE_TO_HOLD: usize = 4 << 20;
/// Bytes to send from for each connection.
const SEND: usize = 1 << 20;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (device, queue, address, connections, quiet) = match &arguments[..] {
        [device, queue, address, connections] => (device, queue, address, connections, None),
        [device, queue, address, connections, quiet] => {
            let quiet = quiet.parse().context("MILLISECONDS is no number")?;
            let quiet = Duration::from_millis(quiet);
            (device, queue, address, connections, Some(quiet))
        }
        _ => bail!("usage: echo DEVICE QUEUE ADDRESS:PORT CONNECTIONS [MILLISECONDS]"),
    };
    let connections: usize = connections.parse().context("CONNECTIONS is no number")?;

    let area = MemoryArea::new()?;
    let bytes = if quiet.is_some() {
        RECEIVE_TO_HOLD
    } else {
        RECEIVE
    };
    let memory = area.add(HostMemory::new(bytes, Backing::Anonymous)?)?;
    let context = Context::open(device)?;
    context.attach(&memory)?;
    let queue = context.open_queue(QueueConfig {
        queue: queue.parse().context("QUEUE is no number")?,
        fill_entries: u32::try_from(bytes / 4096)?,
        header_bytes: netgpu::IPV6_HEADER_BYTES,
        padded: false,
    })?;
    queue.donate(memory.take(memory.len()).context("all of it is free")?)?;

    let listener = TcpListener::bind(address).await.context("cannot listen")?;
    eprintln!("listening on {address}");
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (stream, peer) = listener.accept().await.context("cannot accept")?;
        let socket = attach(&context, &queue, stream)?;
        if let Some(quiet) = quiet {
            tasks.spawn(async move { (peer, held(socket, quiet).await) });
        } else {
            let send = area.add(HostMemory::new(SEND, Backing::Anonymous)?)?;
            context.attach(&send)?;
            tasks.spawn(async move { (peer, echo(socket, send).await) });
        }
    }
    while let Some(done) = tasks.join_next().await {
        let (peer, bytes) = done?;
        println!(
            "{peer}: {} bytes",
            bytes.with_context(|| format!("{peer}"))?
        );
    }
    Ok(())
}

fn attach(context: &Context, queue: &Queue, stream: TcpStream) -> Result<AsyncSocket> {
    let config = SocketConfig {
        receive: Some(queue),
        send: true,
        ..SocketConfig::default()
    };
    let socket = context.attach_socket(stream.into_std()?, config)?;
    Ok(AsyncSocket::new(socket)?)
}

/// Sends what comes back from `memory`; returns how many bytes that were.
async fn echo(mut socket: AsyncSocket, memory: Region) -> Result<usize> {
    let mut bytes = 0;
    loop {
        match socket.next().await? {
            Event::Piece(piece) => {
                bytes += piece.len();
                let mut span = loop {
                    match memory.take(piece.len()) {
                        Some(span) => break span,
                        // Dropping a completion makes its span free.
                        None => drop(socket.completion().await?),
                    }
                };
                span[..piece.len()].copy_from_slice(&piece);
                socket.send_all(span.into_payload(0..piece.len())).await?;
            }
            Event::Completion(done) => drop(done),
            Event::End => break,
        }
    }
    while socket.completion().await?.is_some() {}
    socket.check()?;
    Ok(bytes)
}

/// Receives, and has another task hold the pieces until for `quiet` none has come; returns how many bytes they had.
async fn held(mut socket: AsyncSocket, quiet: Duration) -> Result<usize> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Piece>();
    let holder = tokio::spawn(async move {
        let (mut pieces, mut most) = (Vec::new(), 0);
        loop {
            match tokio::time::timeout(quiet, receiver.recv()).await {
                Ok(Some(piece)) => pieces.push(piece),
                Ok(None) => return most,
                Err(_) => {
                    most = most.max(pieces.len());
                    pieces.clear();
                }
            }
        }
    });
    let mut bytes = 0;
    while let Some(piece) = socket.recv().await? {
        bytes += piece.len();
        sender.send(piece)?;
    }
    drop(sender);
    println!("held at most {} pieces", holder.await?);
    println!(
        "stalled {} times",
        socket.get_ref().statistics()?.rx_stalled_share
    );
    Ok(bytes)
}
