// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ways to send.

use std::io::{self, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use netgpu::{Backing, Context, HostMemory, MemoryArea, Payload, SocketConfig, Span};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketType};

use crate::Send;
use crate::measure::Measurement;

/// How to send.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Path {
    /// write(2).
    Write,
    /// send(2) with MSG_ZEROCOPY.
    Zerocopy,
    /// From memory registered with netgpu.
    Netgpu,
}

/// Bytes handed over at a time.
const CHUNK: usize = 256 << 10;
/// Chunks that are used in turn.
const CHUNKS: usize = 16;

pub(crate) fn run(arguments: &Send) -> Result<()> {
    let stream = connect(arguments)?;
    match arguments.path {
        Path::Write => write(arguments, stream),
        Path::Zerocopy => zerocopy(arguments, stream),
        Path::Netgpu => netgpu(arguments, stream),
    }
}

fn connect(arguments: &Send) -> Result<TcpStream> {
    let family = if arguments.address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket: OwnedFd = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::net::connect(&socket, &arguments.address).context("cannot connect")?;
    Ok(socket.into())
}

/// Closes the sending side and waits until the peer has everything.
fn end(mut stream: &TcpStream) -> Result<()> {
    stream.shutdown(Shutdown::Write)?;
    let _ = stream.read(&mut [0])?;
    Ok(())
}

fn write(arguments: &Send, mut stream: TcpStream) -> Result<()> {
    let chunk = vec![1; CHUNK];
    let mut measurement = Measurement::new(arguments.peer);
    measurement.watch(&chunk)?;
    for _ in 0..arguments.bytes / CHUNK as u64 {
        stream.write_all(&chunk)?;
        measurement.add(CHUNK as u64);
    }
    end(&stream)?;
    measurement.finish("write", "tx", arguments.mtu);
    Ok(())
}

fn zerocopy(arguments: &Send, stream: TcpStream) -> Result<()> {
    let chunk = vec![1u8; CHUNK * CHUNKS];
    let one: libc::c_int = 1;
    // SAFETY: The option's value is an int.
    let set = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ZEROCOPY,
            (&raw const one).cast(),
            size_of_val(&one) as u32,
        )
    };
    if set != 0 {
        return Err(io::Error::last_os_error()).context("cannot set SO_ZEROCOPY");
    }
    let mut measurement = Measurement::new(arguments.peer);
    measurement.watch(&chunk)?;
    let (mut sends, mut done) = (0u32, 0u32);
    let mut part = 0;
    let mut left = arguments.bytes / CHUNK as u64 * CHUNK as u64;
    while left > 0 {
        while sends - done >= CHUNKS as u32 {
            done += reap(&stream)?;
        }
        let from = &chunk[part * CHUNK..][..CHUNK.min(left as usize)];
        part = (part + 1) % CHUNKS;
        // SAFETY: The bytes are ours, and stay what they are until the end.
        let count = unsafe {
            libc::send(
                stream.as_raw_fd(),
                from.as_ptr().cast(),
                from.len(),
                libc::MSG_ZEROCOPY,
            )
        };
        let count = u64::try_from(count).map_err(|_| io::Error::last_os_error())?;
        sends += 1;
        left -= count;
        measurement.add(count);
    }
    while done < sends {
        done += reap(&stream)?;
    }
    end(&stream)?;
    measurement.finish("zerocopy", "tx", arguments.mtu);
    Ok(())
}

/// Waits for notifications on the error queue; returns how many sends one of them tells of.
fn reap(stream: &TcpStream) -> Result<u32> {
    poll(&mut [PollFd::new(&stream.as_fd(), PollFlags::ERR)], None)?;
    let mut control = MaybeUninit::<[u64; 16]>::zeroed();
    // SAFETY: All zeros is a message without anything.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: The control buffer is as long as the message says; of the notification that is in it, whose length is
    // checked, the kernel has filled the first part in.
    unsafe {
        if libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_ERRQUEUE) < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock => Ok(0),
                _ => Err(error.into()),
            };
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() {
            return Ok(0);
        }
        let notification: libc::sock_extended_err = libc::CMSG_DATA(header)
            .cast::<libc::sock_extended_err>()
            .read_unaligned();
        Ok(notification.ee_data - notification.ee_info + 1)
    }
}

fn netgpu(arguments: &Send, stream: TcpStream) -> Result<()> {
    let region = MemoryArea::new()?.add(HostMemory::new(CHUNK * CHUNKS, Backing::Anonymous)?)?;
    let context = Context::open(&arguments.dev)?;
    context.attach(&region)?;
    let mut socket = context.attach_socket(
        stream,
        SocketConfig {
            send: true,
            ..SocketConfig::default()
        },
    )?;
    let mut free: Vec<Span> = std::iter::from_fn(|| region.take(CHUNK)).collect();
    let mut measurement = Measurement::new(arguments.peer);
    for span in &free {
        measurement.watch(span)?;
    }
    let mut current: Option<Payload> = None;
    let mut left = arguments.bytes / CHUNK as u64;
    while left > 0 || current.is_some() {
        while let Some(done) = socket.try_completion()? {
            free.extend(done.payload.into_span());
        }
        if let Some(payload) = &mut current {
            let sent = socket.try_send(payload)?;
            measurement.add(sent as u64);
            if payload.is_empty() {
                current = None;
            } else if sent == 0 {
                poll(
                    &mut [PollFd::new(&socket.stream().as_fd(), PollFlags::OUT)],
                    None,
                )?;
            }
        } else if let Some(span) = free.pop() {
            current = Some(span.into_payload(0..CHUNK));
            left -= 1;
        } else if let Some(done) = socket.completion()? {
            free.extend(done.payload.into_span());
        }
    }
    while socket.in_flight() > 0 {
        socket.completion()?;
    }
    end(socket.stream())?;
    measurement.finish("netgpu", "tx", arguments.mtu);
    let counters = socket.statistics()?;
    eprintln!(
        "zero-copy {} copied {}",
        counters.tx_zerocopy, counters.tx_copied
    );
    Ok(())
}
