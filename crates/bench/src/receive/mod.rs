// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to receive.

mod devmem;
mod mapped;
mod netgpu;
mod plain;
mod zcrx;

use std::error::Error;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;

use crate::Recv;
use crate::measure::{Label, Measurement};
use crate::pattern::Check;
use crate::progress;

pub(crate) use netgpu::open_queues;

/// How to receive.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Path {
    /// read(2) into one buffer.
    Read,
    /// recv(2) with MSG_TRUNC: protocol work alone.
    Trunc,
    /// Pages mapped by TCP_ZEROCOPY_RECEIVE, and read(2) of what cannot be.
    TcpZerocopy,
    /// io_uring's zero copy receive.
    Zcrx,
    /// Devmem TCP.
    Devmem,
    /// Into memory registered with netgpu.
    Netgpu,
}

pub(crate) fn run(arguments: &Recv) -> Result<()> {
    match arguments.path {
        Path::Read => stream::<plain::Read>(arguments),
        Path::Trunc => stream::<plain::Trunc>(arguments),
        Path::TcpZerocopy => stream::<mapped::Mapped>(arguments),
        Path::Zcrx => stream::<zcrx::Zcrx>(arguments),
        Path::Devmem => stream::<devmem::Devmem>(arguments),
        Path::Netgpu => stream::<netgpu::Netgpu>(arguments),
    }
}

/// Bytes asked for at a time, where they are asked for.
const CHUNK: usize = 256 << 10;
/// Bytes of memory that payload comes to, unless asked for otherwise.
const MEMORY: usize = 64 << 20;

/// What is wrong where there is nothing to be measured.
const NOTHING: &str = "nothing came: the peer has closed the connection at once";
/// Bytes of a page, which a buffer has unless asked for otherwise.
pub(crate) const PAGE: usize = 4096;
/// How long a queue may take to be free: what a process had is let go of after its end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A way to receive.
trait Receive: Sized {
    /// Makes what must be there before the connection: memory, a receive queue. Memory that payload comes to is watched.
    /// Memory is allocated before [`Measurement::sets_up`] is called, and given to the kernel after it.
    fn open(arguments: &Recv, measurement: &mut Measurement) -> Result<Self>;

    /// Takes the connection.
    fn connected(&mut self, stream: TcpStream) -> Result<()>;

    /// Waits for bytes and hands over what is there. Returns whether there may be more.
    fn receive(&mut self, sink: &mut impl Sink) -> Result<bool>;

    /// How many of the bytes a CPU has copied, if the kernel tells.
    fn copied(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// What becomes of the bytes that arrive.
pub(crate) trait Sink {
    /// `len` bytes more, of which `read` fills a copy for who wants to see them.
    fn take(&mut self, len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()>;
}

/// How many bytes came.
#[derive(Default)]
struct Total(u64);

impl Sink for Total {
    fn take(&mut self, len: usize, _read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        self.0 += len as u64;
        Ok(())
    }
}

/// Receives one stream by one path.
fn stream<P: Receive>(arguments: &Recv) -> Result<()> {
    let common = &arguments.common;
    let label = label(arguments);
    if arguments.first {
        return first::<P>(arguments, &label);
    }
    let mut measurement = Measurement::new(common.peer, common.message);
    // Not after listening: what comes while a queue is not there yet lies in the kernel's memory, and is copied.
    let mut path: P = open(arguments, &mut measurement)?;
    let stream = accept(&listen(arguments)?)?;
    let progress = progress::show(&stream, &label, common.peer)?;
    path.connected(stream)?;
    if common.verify {
        let mut check = Check::default();
        while path.receive(&mut check)? {}
        drop(progress);
        ensure!(check.position > 0, NOTHING);
        eprintln!("{} receives {} bytes as sent", label.path, check.position);
        return Ok(());
    }
    while path.receive(&mut measurement)? {}
    drop(progress);
    let bytes = measurement.bytes();
    ensure!(bytes > 0, NOTHING);
    measurement.finish(&label, common.per(), common.rate_mbit);
    if !common.peer
        && let Some(copied) = path.copied()?
    {
        label.row("copied-bytes/byte", copied as f64 / bytes as f64);
    }
    Ok(())
}

/// Opens it, once whoever was measured before has let go of the queue.
fn open<P: Receive>(arguments: &Recv, measurement: &mut Measurement) -> Result<P> {
    let start = Instant::now();
    loop {
        match P::open(arguments, measurement) {
            Err(error) if is_taken(&error) && start.elapsed() < PATIENCE => {
                thread::sleep(Duration::from_millis(20));
            }
            opened => return opened,
        }
    }
}

/// Whether the queue belongs to another.
fn is_taken(error: &anyhow::Error) -> bool {
    let errno = |cause: &(dyn Error + 'static)| cause.downcast_ref::<io::Error>()?.raw_os_error();
    let errno = error.chain().find_map(errno);
    errno == Some(libc::EEXIST) || errno == Some(libc::EBUSY)
}

/// How long it takes from the first call that sets a path up to the first bytes of a connection that is there already.
fn first<P: Receive>(arguments: &Recv, label: &Label<'_>) -> Result<()> {
    let stream = accept(&listen(arguments)?)?;
    let mut peer = stream.try_clone()?;
    let mut measurement = Measurement::new(true, None);
    let mut path: P = open(arguments, &mut measurement)?;
    path.connected(stream)?;
    // What the peer waits for.
    peer.write_all(&[1])?;
    let mut total = Total::default();
    while total.0 == 0 && path.receive(&mut total)? {}
    ensure!(total.0 > 0, NOTHING);
    let start = measurement.set_up().context("this path has no set-up")?;
    label.row("first-packet-ms", start.elapsed().as_secs_f64() * 1e3);
    while path.receive(&mut total)? {}
    Ok(())
}

/// The first words of the rows.
pub(crate) fn label(arguments: &Recv) -> Label<'_> {
    Label {
        path: match (&arguments.name, arguments.path) {
            (Some(name), _) => name,
            (None, Path::Read) => "read",
            (None, Path::Trunc) => "trunc",
            (None, Path::TcpZerocopy) => "tcp-zerocopy",
            (None, Path::Zcrx) => "zcrx",
            (None, Path::Devmem) => "devmem",
            (None, Path::Netgpu) => "netgpu",
        },
        direction: "rx",
        memory: arguments.common.memory.name(),
        mtu: arguments.common.mtu(),
        tag: &arguments.common.tag,
        json: arguments.common.json,
    }
}

/// Listens, with a receive buffer that is a quarter of the memory that payload comes to.
fn listen(arguments: &Recv) -> Result<TcpListener> {
    let listener = TcpListener::bind(arguments.listen)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let memory = arguments
        .buffers
        .map_or(MEMORY, |count| count.saturating_mul(arguments.buffer_size));
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&listener, memory / 4 / 2)
        .context("cannot set the receive buffer")?;
    eprintln!("netgpu: listening on {}", arguments.listen);
    Ok(listener)
}

fn accept(listener: &TcpListener) -> Result<TcpStream> {
    Ok(listener.accept().context("cannot accept")?.0)
}
