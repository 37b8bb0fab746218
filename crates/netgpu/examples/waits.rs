// SPDX-License-Identifier: MIT OR Apache-2.0
//! What it costs to wait in a thread, for the area `async` of the tests, which plays the peer:
//!
//!     waits DEVICE QUEUE ADDRESS:PORT CASE
//!
//! Ends with how long the longest wait was, and how much of that the thread was on a processor.

use std::net::TcpListener;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use netgpu::{
    Backing, Context, Error, HostMemory, MemoryArea, Piece, QueueConfig, Received, Region, Socket,
    SocketConfig,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::SendFlags;
use rustix::time::{ClockId, clock_gettime};

/// Bytes to receive into: a stream that fits into it, and not into a socket's share, which is half, runs short of them.
const RECEIVE: usize = 4 << 20;
const SEND: usize = 16 << 20;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [device, queue, address, case] = &arguments[..] else {
        bail!("usage: waits DEVICE QUEUE ADDRESS:PORT CASE");
    };
    let area = MemoryArea::new()?;
    let context = Context::open(device)?;
    let mut regions = Vec::new();
    for bytes in [RECEIVE, SEND] {
        let region = area.add(HostMemory::new(bytes, Backing::Anonymous)?)?;
        context.attach(&region)?;
        regions.push(region);
    }
    let queue = context.open_queue(QueueConfig {
        queue: queue.parse().context("QUEUE is no number")?,
        fill_entries: u32::try_from(RECEIVE / 4096)?,
        header_bytes: netgpu::IPV6_HEADER_BYTES,
        padded: false,
    })?;
    queue.donate(regions[0].take(RECEIVE).context("all of it is free")?)?;
    let listener = TcpListener::bind(address).context("cannot listen")?;
    eprintln!("listening on {address}");
    let (stream, _) = listener.accept().context("cannot accept")?;
    let config = SocketConfig {
        receive: Some(&queue),
        send: true,
        ..SocketConfig::default()
    };
    let mut socket = context.attach_socket(stream, config)?;
    let mut waits = Waits::default();
    match case.as_str() {
        "held" => held(&mut socket, &mut waits)?,
        "finished" => finished(&mut socket, &regions[1], &mut waits)?,
        "received" => received(&mut socket, &regions[1], &mut waits)?,
        "beside-first" => beside(&mut socket, &regions[1], true)?,
        "beside-later" => beside(&mut socket, &regions[1], false)?,
        "closes" => closes(socket, &regions[1], &mut waits)?,
        other => bail!("no case {other}"),
    }
    let Waits { longest, busy } = waits;
    println!(
        "waited {} ms, busy for {} ms",
        longest.as_millis(),
        busy.as_millis()
    );
    Ok(())
}

/// The longest wait, and how much of it the thread was on a processor.
#[derive(Default)]
struct Waits {
    longest: Duration,
    busy: Duration,
}

impl Waits {
    fn time<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let (began, busy) = (Instant::now(), on_processor());
        let result = wait();
        if began.elapsed() > self.longest {
            self.longest = began.elapsed();
            self.busy = on_processor() - busy;
        }
        result
    }
}

fn on_processor() -> Duration {
    clock_gettime(ClockId::ThreadCPUTime)
        .try_into()
        .expect("time does not run backwards")
}

/// Waits for bytes while another thread holds the pieces, which returns them when for a second none has come.
fn held(socket: &mut Socket, waits: &mut Waits) -> Result<()> {
    let (sender, receiver) = mpsc::channel::<Piece>();
    let holder = thread::spawn(move || {
        let mut pieces = Vec::new();
        loop {
            match receiver.recv_timeout(Duration::from_secs(1)) {
                Ok(piece) => pieces.push(piece),
                Err(RecvTimeoutError::Timeout) => pieces.clear(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    });
    let mut bytes = 0;
    while let Some(piece) = waits.time(|| socket.recv())? {
        bytes += piece.len();
        sender.send(piece)?;
    }
    drop(sender);
    holder.join().expect("it does not panic");
    println!("{bytes} bytes");
    println!("stalled {} times", socket.statistics()?.rx_stalled_share);
    Ok(())
}

/// Waits for bytes while a send has finished that nobody takes.
fn finished(socket: &mut Socket, memory: &Region, waits: &mut Waits) -> Result<()> {
    let span = memory.take(4096).context("all of it is free")?;
    let mut payload = span.into_payload(0..4096);
    ensure!(socket.try_send(&mut payload)? == 4096);
    poll(&mut [PollFd::new(&*socket, PollFlags::IN)], None)?;
    println!("waiting");
    let piece = waits.time(|| socket.recv())?;
    ensure!(piece.is_some());
    ensure!(socket.try_completion()?.is_some());
    ensure!(socket.recv()?.is_none(), "the stream goes on");
    Ok(())
}

/// Sends beside the library, before its first send or after it, and then with it.
fn beside(socket: &mut Socket, memory: &Region, first: bool) -> Result<()> {
    let span = memory.take(4096).context("all of it is free")?;
    let bytes = span.into_payload(0..10);
    let ours = |socket: &mut Socket| socket.try_send(&mut bytes.clone());
    let theirs = |socket: &Socket| {
        let flags = SendFlags::from_bits_retain(libc::MSG_ZEROCOPY.cast_unsigned());
        rustix::net::send(socket.stream(), &bytes, flags)
    };
    if !first {
        ensure!(ours(socket)? == 10);
    }
    ensure!(theirs(socket)? == 10);
    if !first {
        ensure!(ours(socket)? == 10);
        while socket.statistics()?.tx_pending > 0 {
            thread::sleep(Duration::from_millis(10));
        }
        for _ in 0..2 {
            ensure!(socket.completion()?.is_some());
        }
        ensure!(matches!(socket.completion(), Err(Error::ForeignSend)));
    }
    ensure!(matches!(ours(socket), Err(Error::ForeignSend)));
    Ok(())
}

/// Answers, and closes its side while the peer's is open.
fn closes(mut socket: Socket, memory: &Region, waits: &mut Waits) -> Result<()> {
    let piece = waits.time(|| socket.recv())?;
    let piece = piece.context("there is a request")?;
    let mut span = memory.take(piece.len()).context("all of it is free")?;
    span.write(0, &piece)?;
    let mut payload = span.into_payload(0..piece.len());
    ensure!(socket.try_send(&mut payload)? == piece.len());
    ensure!(socket.completion()?.is_some());
    Ok(())
}

/// Waits for sends to finish, more than there is room for on their way, while bytes have come that nobody takes. So has the end of the stream.
fn received(socket: &mut Socket, memory: &Region, waits: &mut Waits) -> Result<()> {
    poll(&mut [PollFd::new(&*socket, PollFlags::IN)], None)?;
    let span = memory.take(SEND).context("all of it is free")?;
    let mut payload = span.into_payload(0..SEND);
    println!("waiting");
    loop {
        while !payload.is_empty() && socket.try_send(&mut payload)? > 0 {}
        let finished = waits.time(|| socket.completion())?;
        if finished.is_none() && payload.is_empty() {
            break;
        }
    }
    ensure!(matches!(socket.try_recv()?, Received::Piece(_)));
    ensure!(socket.recv()?.is_none(), "the stream goes on");
    Ok(())
}
