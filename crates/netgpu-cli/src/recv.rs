// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu recv`: one TCP connection into registered memory.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use netgpu::{Context, Piece, QueueConfig, Received, SocketConfig};
use rustix::event::PollFlags;
use rustix::fs::FileType;
use socket2::{Domain, Protocol, Socket, Type};

use crate::device::Prepared;
use crate::memory::Memory;
use crate::report::{self, Direction, Meter};
use crate::signals::Signals;
use netgpu_bench::Size;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Network device to receive on: the NIC's port.
    #[arg(long, value_name = "DEVICE")]
    dev: String,
    /// Where to listen. Without ADDRESS: on all IPv4 addresses; `[::]:PORT` is all IPv6 addresses.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = listen_address)]
    listen: SocketAddr,
    /// Receive queue of the device to use [default: the last one].
    #[arg(long)]
    queue: Option<u32>,
    /// Bytes of memory to register; with cuda:, of a GPU's.
    #[arg(long, value_name = "[cuda:]SIZE", default_value_t = Memory::Host(SIZE), value_parser = |text: &str| Memory::parse(text, SIZE))]
    memory: Memory,
    /// Use huge pages of 2 MiB.
    #[arg(long)]
    huge: bool,
    /// Bytes of a receive buffer, 4K to 128K, which the payload of many packets shares. From 8K on, memory of the host is in huge pages.
    #[arg(long, value_name = "SIZE", default_value_t = BUFFER_SIZE, value_parser = Size::parse)]
    buffer_size: Size,
    /// The sender pads its headers (`netgpu pad`): a NIC that splits at a fixed offset lays payload in a row then.
    #[arg(long)]
    padded: bool,
    /// Where to write what is received: a file, - for stdout, or none.
    #[arg(long, value_name = "FILE", default_value = "none")]
    output: PathBuf,
    /// Compute the SHA-256 of what is received.
    #[arg(long)]
    sha256: bool,
    /// Fail unless what is received has this SHA-256, in hexadecimal.
    #[arg(long, value_name = "SHA256", value_parser = report::sha256)]
    verify: Option<String>,
    /// Print the summary as JSON, and no progress.
    #[arg(long)]
    json: bool,
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let address = match text.parse() {
        Ok(port) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        Err(_) => text
            .parse()
            .map_err(|_| format!("{text:?} is neither PORT nor ADDRESS:PORT"))?,
    };
    if address.port() == 0 {
        return Err(
            "connections are steered to the queue by their port, so it has to be said: 1 to 65535"
                .into(),
        );
    }
    Ok(address)
}

/// Memory that is registered if nothing is said.
const SIZE: Size = Size::mebibytes(64);
/// A receive buffer, likewise: what any NIC has.
const BUFFER_SIZE: Size = Size(4096);

/// Pieces taken off the ring before they are written and returned together.
const BATCH: usize = 256;

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    // Opening may wait for the other end of a pipe, and there is nothing to put back yet: signals end that as ever.
    let mut output = Output::open(arguments)?;
    let signals = Signals::catch()?;

    let context = Context::with_buffers(&arguments.dev, arguments.buffer_size.0)?;
    let buffer_size = context.buffer_size();
    // Each buffer is one piece for the NIC.
    let huge = arguments.memory.is_host() && buffer_size > rustix::param::page_size();
    let region = arguments.memory.register(arguments.huge || huge)?;
    context.attach(&region)?;

    // Declared before the queue, so that it is dropped after it: the device keeps header split on while it is open.
    let device = Prepared::new(&arguments.dev, arguments.queue, arguments.listen)?;
    let (whole, header_bytes) = match arguments.listen {
        SocketAddr::V4(_) => (region.take(region.len()), netgpu::IPV4_HEADER_BYTES),
        SocketAddr::V6(_) => (region.take(region.len()), netgpu::IPV6_HEADER_BYTES),
    };
    let whole = whole.context("the region is in use")?;
    let queue = context.open_queue(QueueConfig {
        queue: device.queue(),
        // One entry for each buffer; rounded as needed.
        fill_entries: u32::try_from(region.len() / buffer_size).unwrap_or(u32::MAX),
        header_bytes,
        padded: arguments.padded,
    })?;
    queue.donate(whole)?;

    let listener = listen(arguments, region.len())?;
    report::tell(format_args!(
        "listening on {}, receive queue {} of {}",
        arguments.listen,
        queue.number(),
        arguments.dev
    ));
    let (stream, peer) = accept(listener, &signals)?;
    tracing::info!("connection from {peer}");

    let config = SocketConfig {
        receive: Some(&queue),
        ..SocketConfig::default()
    };
    let mut socket = context.attach_socket(stream, config)?;
    // Not before: whatever failed until here has left the file as it was.
    output.clear()?;
    let hash = arguments.sha256 || arguments.verify.is_some();
    let mut meter = Meter::start(Direction::Rx, None, hash, arguments.json);
    let mut pieces: Vec<Piece> = Vec::with_capacity(BATCH);
    // Of what the CPU does not reach. A piece lies in a buffer.
    let mut copy = vec![0; buffer_size];
    loop {
        signals.check()?;
        // What came before an error is for the output, too.
        let ended = loop {
            match socket.try_recv() {
                Ok(Received::Piece(piece)) => pieces.push(piece),
                Ok(Received::Nothing) => break Ok(false),
                Ok(Received::End) => break Ok(true),
                Err(error) => break Err(error),
            }
            if pieces.len() == BATCH {
                break Ok(false);
            }
        };
        if region.is_host() {
            for piece in &pieces {
                meter.add(piece);
            }
            output.write(&pieces, &signals)?;
        } else {
            for piece in &pieces {
                if hash || output.is_wanted() {
                    let copy = copy.get_mut(..piece.len()).context("a piece is too long")?;
                    piece.read(copy)?;
                    meter.add(copy);
                    output.write(&[copy], &signals)?;
                } else {
                    meter.pass(piece.len());
                }
            }
        }
        meter.show();
        let idle = pieces.is_empty();
        // Back to the kernel.
        pieces.clear();
        if ended? {
            break;
        }
        if idle {
            signals.wait(&socket, PollFlags::IN)?;
        }
    }

    let counters = socket.statistics()?;
    let (zero_copy, copied) = (counters.rx_zerocopy, counters.rx_copied);
    if zero_copy + copied != meter.bytes() {
        bail!(
            "{} bytes were received, but the kernel says {zero_copy} by DMA and {copied} by copy; \
             this is a defect of netgpu, please report it",
            meter.bytes()
        );
    }
    let summary = meter.finish(zero_copy, copied);
    tracing::info!("{counters:?} {:?}", queue.statistics()?);
    output.print(&summary.line(arguments.json))?;
    summary.verify(arguments.verify.as_deref())
}

/// Listens with a receive buffer that fits the memory.
///
/// What nobody has received yet sits in the region's buffers. TCP charges a packet with the whole buffer that it lies
/// in, against the socket's receive buffer: a quarter of the region leaves three quarters to what the NIC fills and what
/// this program holds, so that a slow reader closes the TCP window before the NIC runs out of buffers and drops.
fn listen(arguments: &Arguments, region: usize) -> Result<TcpListener> {
    let what = || format!("cannot listen on {}", arguments.listen);
    let domain = Domain::for_address(arguments.listen);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).with_context(what)?;
    socket.set_reuse_address(true).with_context(what)?;
    if domain == Domain::IPV6 {
        // The steering rule is for IPv6 packets.
        socket.set_only_v6(true).with_context(what)?;
    }
    // The kernel doubles the value (SO_RCVBUF in socket(7)). Accepted sockets inherit it. Past net.core.rmem_max it
    // takes CAP_NET_ADMIN, which opening the queue needs anyway.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, region / 4 / 2)
        .context("cannot set the receive buffer of the socket (SO_RCVBUFFORCE)")?;
    socket.bind(&arguments.listen.into()).with_context(what)?;
    socket.listen(1).with_context(what)?;
    Ok(socket.into())
}

/// Accepts one connection; nobody else can connect after it.
fn accept(listener: TcpListener, signals: &Signals) -> Result<(TcpStream, SocketAddr)> {
    const WHAT: &str = "cannot accept a connection";
    // A connection that is there may be gone when it is to be accepted: that must not wait deaf to signals.
    listener.set_nonblocking(true).context(WHAT)?;
    loop {
        signals.wait(&listener, PollFlags::IN)?;
        match listener.accept() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            accepted => return accepted.context(WHAT),
        }
    }
}

/// Where received bytes go.
struct Output {
    file: Option<File>,
    /// Writing may have to wait for who reads at the other end.
    waits: bool,
    is_stdout: bool,
}

impl Output {
    fn open(arguments: &Arguments) -> Result<Self> {
        let path = &arguments.output;
        let is_stdout = path.as_os_str() == "-";
        let file = if path.as_os_str() == "none" {
            None
        } else if is_stdout {
            let stdout = io::stdout().as_fd().try_clone_to_owned();
            Some(stdout.context("cannot use stdout")?.into())
        } else {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .open(path);
            Some(file.with_context(|| format!("cannot write to {}", path.display()))?)
        };
        let mut waits = false;
        if let Some(file) = &file {
            let mode = rustix::fs::fstat(file)
                .context("cannot use the output")?
                .st_mode;
            waits = FileType::from_raw_mode(mode) != FileType::RegularFile;
        }
        Ok(Self {
            file,
            waits,
            is_stdout,
        })
    }

    /// Whether there is a place to write to.
    fn is_wanted(&self) -> bool {
        self.file.is_some()
    }

    /// Drops what was in the file.
    fn clear(&self) -> Result<()> {
        match &self.file {
            // What stdout is, and where in it, is the shell's business.
            Some(file) if !self.waits && !self.is_stdout => {
                file.set_len(0).context("cannot empty the output file")
            }
            _ => Ok(()),
        }
    }

    /// Writes straight from registered memory.
    fn write(&mut self, pieces: &[impl Deref<Target = [u8]>], signals: &Signals) -> Result<()> {
        const WHAT: &str = "cannot write the output";
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if !self.waits {
            let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            return write_all(file, &mut slices).context(WHAT);
        }
        // A pipe that can be written to takes PIPE_BUF bytes without waiting, see pipe(7): signals are heard between.
        for part in pieces
            .iter()
            .flat_map(|piece| piece.chunks(rustix::pipe::PIPE_BUF))
        {
            let mut rest = part;
            while !rest.is_empty() {
                signals.wait(&*file, PollFlags::OUT)?;
                match file.write(rest) {
                    Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)).context(WHAT),
                    Ok(count) => rest = &rest[count..],
                    // Where it does not wait, there may be less room than was said.
                    Err(error) if is_for_later(&error) => {}
                    Err(error) => return Err(error).context(WHAT),
                }
            }
        }
        Ok(())
    }

    /// Prints a line of results where it does not get into the data.
    fn print(&self, line: &str) -> Result<()> {
        if self.is_stdout {
            writeln!(io::stderr(), "{line}").context("cannot print the result")
        } else {
            report::print(line)
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses() {
        assert_eq!(
            listen_address("5000"),
            Ok("0.0.0.0:5000".parse().expect("an address"))
        );
        assert_eq!(
            listen_address("[::]:5000"),
            Ok("[::]:5000".parse().expect("an address"))
        );
        assert_eq!(
            listen_address("192.0.2.1:80"),
            Ok("192.0.2.1:80".parse().expect("an address"))
        );
        assert!(listen_address("eth0").is_err());
        assert!(listen_address("70000").is_err());
        for nowhere in ["0", "192.0.2.1:0", "[::]:0"] {
            let error = listen_address(nowhere).expect_err("nothing can be steered");
            assert!(error.contains("1 to 65535"), "{error}");
        }
    }

    #[test]
    fn slices_are_written_whole_and_in_order() {
        let path = std::env::temp_dir().join(format!("netgpu-write-{}", std::process::id()));
        let mut file = File::create(&path).expect("a temporary file can be made");
        let bytes: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        let mut slices: Vec<_> = bytes.chunks(37).map(IoSlice::new).collect();
        // More slices than one writev(2) takes.
        assert!(slices.len() > 1024);
        write_all(&mut file, &mut slices).expect("it can be written to");
        let read = std::fs::read(&path).expect("it can be read");
        std::fs::remove_file(&path).expect("it can be removed");
        assert!(read == bytes);
    }
}
