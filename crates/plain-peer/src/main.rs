// SPDX-License-Identifier: MIT OR Apache-2.0
//! An ordinary TCP program: sends or receives a stream and says how long it was and what its SHA-256 is.
//!
//! The other end of netgpu's demo and tests. It uses nothing of netgpu, and the socket calls that any program uses.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use rand_core::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
use sha2::{Digest, Sha256};

/// Bytes moved by one call.
const CHUNK: usize = 256 << 10;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Connects and sends a file, or bytes that a seed determines.
    Send(Send),
    /// Accepts one connection and receives until the peer closes it.
    Recv(Recv),
    /// Makes a file of bytes that a seed determines.
    Make(Make),
}

#[derive(Args)]
struct Send {
    /// Where to connect to.
    address: SocketAddr,
    /// Number of bytes to generate.
    #[arg(long, required_unless_present = "file")]
    bytes: Option<u64>,
    /// What they are generated from: the same seed makes the same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send this file instead.
    #[arg(long, conflicts_with_all = ["bytes", "seed"])]
    file: Option<PathBuf>,
}

#[derive(Args)]
struct Recv {
    /// Where to listen: PORT of all addresses, or ADDRESS:PORT.
    #[arg(value_parser = listen_address)]
    listen: SocketAddr,
    /// Write what is received to this file.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Args)]
struct Make {
    /// The file.
    file: PathBuf,
    /// Its length.
    #[arg(long)]
    bytes: u64,
    /// What it is generated from: the same seed makes the same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse() {
        return Ok(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port));
    }
    text.parse()
        .map_err(|_| format!("{text:?} is neither PORT nor ADDRESS:PORT"))
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Send(arguments) => send(&arguments),
        Command::Recv(arguments) => recv(&arguments),
        Command::Make(arguments) => make(&arguments),
    }
}

/// The bytes that a seed determines.
struct Generated {
    random: Xoshiro256PlusPlus,
    left: u64,
}

impl Generated {
    fn new(seed: u64, bytes: u64) -> Self {
        Self {
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            left: bytes,
        }
    }
}

impl Read for Generated {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use rand_core::Rng;
        let count = self.left.min(buffer.len() as u64) as usize;
        self.random.fill_bytes(&mut buffer[..count]);
        self.left -= count as u64;
        Ok(count)
    }
}

fn send(arguments: &Send) -> Result<()> {
    let mut input: Box<dyn Read> = match (&arguments.file, arguments.bytes) {
        (Some(path), _) => {
            Box::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?)
        }
        (None, Some(bytes)) => Box::new(Generated::new(arguments.seed, bytes)),
        (None, None) => bail!("neither --file nor --bytes says what to send"),
    };
    let mut stream = TcpStream::connect(arguments.address)
        .with_context(|| format!("cannot connect to {}", arguments.address))?;
    let mut tally = Tally::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = input.read(&mut chunk).context("cannot read the input")?;
        if count == 0 {
            break;
        }
        tally.add(&chunk[..count]);
        stream.write_all(&chunk[..count]).context("cannot send")?;
    }
    stream
        .shutdown(Shutdown::Write)
        .context("cannot close the sending side")?;
    // The peer closes when it has everything.
    let rest = io::copy(&mut stream, &mut io::sink())
        .context("the peer went away before it had everything")?;
    if rest != 0 {
        bail!("the peer sent {rest} bytes, and was to send none");
    }
    tally.print("sent");
    Ok(())
}

fn recv(arguments: &Recv) -> Result<()> {
    let listener = TcpListener::bind(arguments.listen)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    eprintln!("plain-peer: listening on {}", listener.local_addr()?);
    let (mut stream, _) = listener.accept().context("cannot accept")?;
    let mut output = arguments
        .output
        .as_ref()
        .map(|path| File::create(path).with_context(|| format!("cannot create {}", path.display())))
        .transpose()?;
    let mut tally = Tally::new();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = stream.read(&mut chunk).context("cannot receive")?;
        if count == 0 {
            break;
        }
        tally.add(&chunk[..count]);
        if let Some(output) = &mut output {
            output
                .write_all(&chunk[..count])
                .context("cannot write the output")?;
        }
    }
    tally.print("received");
    Ok(())
}

fn make(arguments: &Make) -> Result<()> {
    let what = || format!("cannot write {}", arguments.file.display());
    let mut input = Generated::new(arguments.seed, arguments.bytes);
    let file = File::create(&arguments.file).with_context(what)?;
    let mut file = BufWriter::with_capacity(CHUNK, file);
    io::copy(&mut input, &mut file)
        .and_then(|_| file.flush())
        .with_context(what)
}

/// Length and hash of a stream.
struct Tally {
    bytes: u64,
    hash: Sha256,
    start: Instant,
}

impl Tally {
    fn new() -> Self {
        Self {
            bytes: 0,
            hash: Sha256::new(),
            start: Instant::now(),
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn print(self, what: &str) {
        let seconds = self.start.elapsed().as_secs_f64();
        let hash: String = self
            .hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        println!(
            "{what} {} bytes  seconds {seconds:.2}  sha256 {hash}",
            self.bytes
        );
    }
}
