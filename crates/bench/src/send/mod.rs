// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to send.

mod devmem;
mod netgpu;
mod plain;
mod uring;
mod zerocopy;

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use rustix::net::{AddressFamily, SocketType};

use crate::Send as Arguments;
use crate::measure::{Label, Measurement};
use crate::{pattern, progress};

/// How to send.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Path {
    /// write(2).
    Write,
    /// send(2) with MSG_ZEROCOPY.
    Zerocopy,
    /// io_uring's SEND_ZC from a registered buffer.
    SendZc,
    /// Devmem TCP.
    Devmem,
    /// From memory registered with netgpu.
    Netgpu,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    match arguments.path {
        Path::Write => stream::<plain::Write>(arguments, "write"),
        Path::Zerocopy => stream::<zerocopy::Zerocopy>(arguments, "zerocopy"),
        Path::SendZc => stream::<uring::SendZc>(arguments, "send-zc"),
        Path::Devmem => stream::<devmem::Devmem>(arguments, "devmem"),
        Path::Netgpu => stream::<netgpu::Netgpu>(arguments, "netgpu"),
    }
}

/// Bytes handed over at a time, unless asked for otherwise.
const CHUNK: usize = 256 << 10;
/// Bytes of memory that is sent from in turn.
const MEMORY: usize = 4 << 20;
/// Messages that are on their way, at most.
const SLOTS: usize = 64;

/// A way to send.
trait Send: Sized {
    /// Makes what must be there: memory for so many messages of `slots`, and what the kernel wants to know of the stream.
    fn open(
        arguments: &Arguments,
        stream: TcpStream,
        slots: Slots,
        measurement: &mut Measurement,
    ) -> Result<Self>;

    /// Sends a message from a slot that is free, for which it waits, and returns when TCP has all of it. `data` is written there
    /// before, if given; otherwise what is there is sent.
    fn send(&mut self, data: Option<&[u8]>) -> Result<()>;

    /// Waits until all slots are free, and returns how many bytes a CPU has copied, if the kernel tells.
    fn finish(&mut self) -> Result<Option<u64>>;

    /// The stream.
    fn stream(&self) -> &TcpStream;
}

/// How memory is divided: into parts in which a message each begins.
#[derive(Clone, Copy)]
struct Slots {
    /// Bytes of a message.
    message: usize,
    /// From one to the next.
    step: usize,
    count: usize,
}

impl Slots {
    fn new(message: usize) -> Self {
        let step = message.next_multiple_of(4096);
        Self {
            message,
            step,
            count: (MEMORY / step).clamp(1, SLOTS),
        }
    }

    /// Bytes of all.
    fn len(self) -> usize {
        self.step * self.count
    }
}

/// Sends one stream by one path.
fn stream<P: Send>(arguments: &Arguments, name: &str) -> Result<()> {
    let common = &arguments.common;
    let label = Label {
        path: name,
        direction: "tx",
        memory: common.memory.name(),
        mtu: common.mtu(),
        tag: &common.tag,
        json: common.json,
    };
    let slots = Slots::new(common.message.unwrap_or(CHUNK));
    let messages = arguments.bytes / slots.message as u64;
    ensure!(
        messages > 0,
        "{} bytes are less than one message, of {}",
        arguments.bytes,
        slots.message
    );
    let stream = connect(arguments)?;
    let progress = progress::show(&stream, &label, common.peer)?;
    if arguments.wait {
        let _ = (&stream).read(&mut [0])?;
    }
    let mut measurement = Measurement::new(common.peer, common.message);
    let mut path = P::open(arguments, stream, slots, &mut measurement)?;
    let mut data = common.verify.then(|| vec![0; slots.message]);
    let mut position = 0;
    for _ in 0..messages {
        if let Some(data) = &mut data {
            pattern::fill(&mut position, data);
        }
        path.send(data.as_deref())?;
        measurement.add(slots.message as u64);
        if measurement.is_warm() {
            // What is counted afterwards is the work for what is handed over afterwards.
            drain(path.stream())?;
            measurement.start();
        }
    }
    let copied = path.finish()?;
    end(path.stream())?;
    drop(progress);
    if common.verify {
        return Ok(());
    }
    let bytes = measurement.bytes();
    measurement.finish(&label, common.per(), common.rate_mbit);
    if !common.peer
        && let Some(copied) = copied
    {
        label.row("copied-bytes/byte", copied as f64 / bytes as f64);
    }
    Ok(())
}

fn connect(arguments: &Arguments) -> Result<TcpStream> {
    let family = if arguments.address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket: OwnedFd = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::net::connect(&socket, &arguments.address)
        .with_context(|| format!("cannot connect to {}", arguments.address))?;
    let stream = TcpStream::from(socket);
    // A message is to be a packet, if it is small.
    stream.set_nodelay(arguments.common.message.is_some())?;
    Ok(stream)
}

/// Waits until the peer has acknowledged all that was sent.
fn drain(stream: &TcpStream) -> Result<()> {
    loop {
        let mut left: libc::c_int = 0;
        // SAFETY: The command fills in an int.
        let got = unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
        ensure!(got == 0, "TIOCOUTQ: {}", io::Error::last_os_error());
        if left == 0 {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Closes the sending side and waits until the peer has everything.
fn end(mut stream: &TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let _ = stream.read(&mut [0])?;
    Ok(())
}
