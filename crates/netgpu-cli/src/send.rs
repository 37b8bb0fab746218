// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu send`: a file from registered memory into a TCP connection.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use netgpu::{Context, Payload, Region, SocketConfig, Span};
use rustix::event::PollFlags;
use socket2::{Domain, Protocol, Socket, Type};

use crate::memory::Memory;
use crate::report::{self, Direction, Meter};
use crate::signals::Signals;
use netgpu_bench::Size;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Network device to send on: the NIC's port.
    #[arg(long, value_name = "DEVICE")]
    dev: String,
    /// Where to connect to.
    #[arg(value_name = "ADDRESS:PORT", value_parser = netgpu_bench::address)]
    address: SocketAddr,
    /// What to send; - for stdin.
    file: PathBuf,
    /// Bytes of memory to register; with cuda:, of a GPU's.
    #[arg(long, value_name = "[cuda:]SIZE", default_value_t = Memory::Host(SIZE), value_parser = |text: &str| Memory::parse(text, SIZE))]
    memory: Memory,
    /// Use huge pages of 2 MiB.
    #[arg(long)]
    huge: bool,
    /// Compute the SHA-256 of what is sent.
    #[arg(long)]
    sha256: bool,
    /// Fail, in the end, unless what was sent has this SHA-256, in hexadecimal.
    #[arg(long, value_name = "SHA256", value_parser = report::sha256)]
    verify: Option<String>,
    /// Print the summary as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

/// Memory that is registered if nothing is said.
const SIZE: Size = Size::mebibytes(16);

/// Bytes read and sent at a time, where the memory is large enough.
const CHUNK: usize = 256 << 10;

/// Most sends that are unfinished at a time: entries of the completion ring, a power of two.
const SENDS: u32 = 1024;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // Opening may wait for the other end of a pipe, and there is nothing to put back yet: signals end that as ever.
    let mut input = Input::open(arguments)?;
    let signals = Signals::catch()?;

    let region = arguments.memory.register(arguments.huge)?;
    // Goes to what the CPU does not reach.
    let mut copy = (!region.is_host()).then(|| vec![0; chunk(&region)]);
    let context = Context::open(&arguments.dev)?;
    context.attach(&region)?;

    let stream = connect(arguments, &signals)?;
    let config = SocketConfig {
        send: true,
        completion_entries: SENDS,
        ..SocketConfig::default()
    };
    let mut socket = context.attach_socket(stream, config)?;
    // To poll(2) the socket itself is readable as well for what the peer sends, which nobody takes.
    let watch = socket.watch()?;
    let pause = || -> Result<()> {
        signals.wait(&watch, PollFlags::IN)?;
        Ok(watch.forget()?)
    };

    let hash = arguments.sha256 || arguments.verify.is_some();
    let mut meter = Meter::start(Direction::Tx, input.len, hash, arguments.json);
    let mut free = chunks(&region);
    let mut current: Option<Payload> = None;
    loop {
        signals.check()?;
        while let Some(done) = socket.try_completion()? {
            // An earlier part of a chunk does not free it, the last one does.
            free.extend(done.payload.into_span());
        }
        if let Some(payload) = &mut current {
            let sent = socket.try_send(payload)?;
            meter.show();
            if payload.is_empty() {
                current = None;
            } else if sent == 0 {
                pause()?;
            }
        } else if let Some(span) = free.pop() {
            let filled = match &mut copy {
                None => input.fill(span, &mut meter, &signals)?,
                Some(copy) => input.copy(span, copy, &mut meter, &signals)?,
            };
            match filled {
                Some(payload) => current = Some(payload),
                None => break,
            }
        } else {
            pause()?;
        }
    }

    socket
        .stream()
        .shutdown(Shutdown::Write)
        .context("cannot close the sending side")?;
    // What a device may still read must stay as it is.
    while socket.in_flight() > 0 {
        if socket.try_completion()?.is_none() {
            pause()?;
        }
    }
    // Sends finish when the peer has acknowledged them, and when the connection is gone.
    socket
        .check()
        .context("the peer has not acknowledged all that was sent")?;

    let counters = socket.statistics()?;
    let copied = counters.tx_copied;
    let Some(zero_copy) = counters
        .tx_zerocopy
        .checked_sub(copied)
        .filter(|_| counters.tx_zerocopy == meter.bytes())
    else {
        bail!(
            "{} bytes were sent, but the kernel says {} from registered memory, {copied} of which were copied; \
             this is a defect of netgpu, please report it",
            meter.bytes(),
            counters.tx_zerocopy
        );
    };
    let summary = meter.finish(zero_copy, copied);
    tracing::info!("{counters:?}");
    report::print(summary.line(arguments.json))?;
    summary.verify(arguments.verify.as_deref())
}

/// All of the region in pieces that are read into and sent one after the other: at least four of them.
fn chunks(region: &Region) -> Vec<Span> {
    std::iter::from_fn(|| region.take(chunk(region))).collect()
}

/// Bytes of a piece.
fn chunk(region: &Region) -> usize {
    CHUNK.min(region.len() / 4)
}

/// Connects over the device, so that the route that is chosen is one that it has.
fn connect(arguments: &Arguments, signals: &Signals) -> Result<TcpStream> {
    let what = || {
        format!(
            "cannot connect to {} over {}",
            arguments.address, arguments.dev
        )
    };
    let domain = Domain::for_address(arguments.address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).with_context(what)?;
    socket
        .bind_device(Some(arguments.dev.as_bytes()))
        .with_context(what)?;
    socket.set_nonblocking(true).with_context(what)?;
    match socket.connect(&arguments.address.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            signals.wait(&socket, PollFlags::OUT)?;
            if let Some(error) = socket.take_error().with_context(what)? {
                return Err(error).with_context(what);
            }
        }
        done => done.with_context(what)?,
    }
    socket.set_nonblocking(false).with_context(what)?;
    Ok(socket.into())
}

struct Input {
    file: File,
    /// Of a regular file.
    len: Option<u64>,
}

impl Input {
    fn open(arguments: &Arguments) -> Result<Self> {
        if arguments.file.as_os_str() == "-" {
            let stdin = io::stdin()
                .as_fd()
                .try_clone_to_owned()
                .context("cannot use stdin")?;
            return Ok(Self {
                file: stdin.into(),
                len: None,
            });
        }
        let path = arguments.file.display();
        let file = File::open(&arguments.file).with_context(|| format!("cannot open {path}"))?;
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot use {path}"))?;
        if metadata.is_dir() {
            bail!("cannot send {path}: it is a directory");
        }
        Ok(Self {
            len: metadata.is_file().then_some(metadata.len()),
            file,
        })
    }

    /// Reads straight into registered memory; [`None`] at the end.
    fn fill(
        &mut self,
        mut span: Span,
        meter: &mut Meter,
        signals: &Signals,
    ) -> Result<Option<Payload>> {
        let count = self.read(&mut span, signals)?;
        meter.add(&span[..count]);
        Ok((count > 0).then(|| span.into_payload(0..count)))
    }

    /// Reads by way of `copy`; [`None`] at the end.
    fn copy(
        &mut self,
        mut span: Span,
        copy: &mut [u8],
        meter: &mut Meter,
        signals: &Signals,
    ) -> Result<Option<Payload>> {
        let count = self.read(copy, signals)?;
        meter.add(&copy[..count]);
        span.write(0, &copy[..count])?;
        Ok((count > 0).then(|| span.into_payload(0..count)))
    }

    fn read(&mut self, to: &mut [u8], signals: &Signals) -> Result<usize> {
        loop {
            signals.wait(&self.file, PollFlags::IN)?;
            match self.file.read(to) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("cannot read the input"),
            }
        }
    }
}
