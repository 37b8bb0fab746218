// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many connections at a time, on many queues, of many contexts: what a packet costs should not depend on how many there are.

use std::io::Write;
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context as _, Result, bail, ensure};
use netgpu::{Piece, Received, Socket, SocketConfig};
use rustix::event::epoll;
use rustix::process::{Resource, Rlimit};

use crate::measure::{Measurement, Per};
use crate::receive::{Path, label, open_queues};
use crate::{Recv, SendMany};

/// Bytes that each connection gets in turn.
const TURN: usize = 16 << 10;
/// Buffers of registered memory, of all queues: enough for the turns of a thousand sockets, of which no more than half are with us.
const BUFFERS: usize = 65536;
/// Bytes dropped at a time, at most.
const DROPPED: usize = 256 << 20;
const RX_ENTRIES: u32 = 64;

/// Payload of a full packet at `mtu`, of a connection whose TCP options fill the header.
fn payload(mtu: u32) -> Result<u32> {
    mtu.checked_sub(20 + 60)
        .filter(|&payload| payload > 0)
        .context("how large packets are, --dev or --mtu has to say")
}

fn many_files() -> Result<()> {
    let limit = Rlimit {
        current: Some(8192),
        maximum: Some(8192),
    };
    rustix::process::setrlimit(Resource::Nofile, limit).context("cannot have many files")
}

/// Where the connections of the queue with that number, from 0 on, are accepted.
fn address_of(first: SocketAddr, queue: usize) -> Result<SocketAddr> {
    let port = usize::from(first.port()) + queue;
    let port = u16::try_from(port)
        .with_context(|| format!("there is no port {port}; begin further below 65535"))?;
    Ok(SocketAddr::new(first.ip(), port))
}

/// Connects so many times, and sends in turn.
pub(crate) fn send(arguments: &SendMany) -> Result<()> {
    many_files()?;
    let mut streams = Vec::new();
    for n in 0..arguments.sockets {
        let address = address_of(arguments.address, n % arguments.queues)?;
        streams.push(
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?,
        );
    }
    let turn = vec![1; TURN];
    for n in 0..arguments.bytes / TURN as u64 {
        streams[n as usize % arguments.sockets].write_all(&turn)?;
    }
    Ok(())
}

/// One end of a connection.
enum End {
    Plain(TcpStream),
    Attached(Box<Socket>),
}

impl End {
    fn stream(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Attached(socket) => socket.stream(),
        }
    }

    /// Takes what is there. Returns how much, and whether the stream has ended.
    fn take(&mut self) -> Result<(u64, bool)> {
        match self {
            Self::Plain(stream) => {
                let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
                // SAFETY: With MSG_TRUNC TCP drops the bytes and writes none.
                let count =
                    unsafe { libc::recv(stream.as_raw_fd(), std::ptr::null_mut(), DROPPED, flags) };
                match u64::try_from(count) {
                    Ok(count) => Ok((count, count == 0)),
                    Err(_) => bail!(std::io::Error::last_os_error()),
                }
            }
            Self::Attached(socket) => {
                let mut count = match socket.try_recv()? {
                    Received::Piece(piece) => piece.len() as u64,
                    Received::Nothing => 0,
                    Received::End => return Ok((0, true)),
                };
                let mut add = |piece: &Piece| -> Result<()> {
                    count += piece.len() as u64;
                    Ok(())
                };
                while socket.see_delivered(&mut add)? > 0 {}
                Ok((count, false))
            }
        }
    }
}

/// Accepts as many connections as asked for, and receives on all of them.
pub(crate) fn recv(arguments: &Recv) -> Result<()> {
    many_files()?;
    let mut measurement = Measurement::new(arguments.common.peer, None);
    let each = arguments.queues / arguments.contexts;
    ensure!(
        each * arguments.contexts == arguments.queues && each > 0,
        "each context has as many queues as any other: {} queues are not for {} contexts",
        arguments.queues,
        arguments.contexts
    );
    // Each context with its queues.
    let mut contexts = Vec::new();
    match arguments.path {
        Path::Trunc => {}
        Path::Netgpu => {
            for n in 0..arguments.contexts {
                let first = arguments.queue + (n * each) as u32;
                let queues = first..first + each as u32;
                let buffers = BUFFERS / arguments.queues;
                contexts.push(open_queues(arguments, queues, buffers, &mut measurement)?);
            }
        }
        _ => bail!("many sockets are for trunc and netgpu"),
    }
    // With the queues, and not before them: what comes earlier lies in the kernel's memory, and is copied.
    let listeners = (0..arguments.queues)
        .map(|n| TcpListener::bind(address_of(arguments.listen, n)?).context("cannot listen"))
        .collect::<Result<Vec<_>>>()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut ends = Vec::new();
    for n in 0..arguments.sockets {
        let queue = n % arguments.queues;
        let stream = listeners[queue].accept().context("cannot accept")?.0;
        let end = match contexts.get(queue / each) {
            None => End::Plain(stream),
            Some((context, queues)) => {
                let config = SocketConfig {
                    receive: Some(&queues[queue % each]),
                    rx_entries: RX_ENTRIES,
                    ..SocketConfig::default()
                };
                End::Attached(Box::new(context.attach_socket(stream, config)?))
            }
        };
        let data = epoll::EventData::new_u64(n as u64);
        epoll::add(&epoll, end.stream(), data, epoll::EventFlags::IN)?;
        ends.push(Some(end));
    }
    let mut open = ends.len();
    let mut events = [MaybeUninit::uninit(); 64];
    while open > 0 {
        let (ready, _) = epoll::wait(&epoll, &mut events, None)?;
        for event in ready {
            let place = &mut ends[event.data.u64() as usize];
            let Some(end) = place else { continue };
            let (count, ended) = end.take()?;
            measurement.add(count);
            if measurement.is_warm() {
                measurement.start();
            }
            if ended {
                *place = None;
                open -= 1;
            }
        }
    }
    let label = label(arguments);
    measurement.finish(&label, Per::Packet(payload(label.mtu)?), None);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_to_an_end() {
        let first = "[::1]:65535".parse().expect("an address");
        assert_eq!(address_of(first, 0).expect("the last port"), first);
        let error = address_of(first, 1).expect_err("there are no more");
        assert!(error.to_string().contains("65536"), "{error}");
    }
}
