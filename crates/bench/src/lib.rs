// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu bench`: one end of a measured TCP stream, which moves along one path, and what the CPUs had to do for it. And how long memory
//! takes to be registered.

mod address;
mod many;
mod measure;
mod memory;
mod netdev;
mod pattern;
mod progress;
mod receive;
mod register;
mod report;
mod send;
mod size;
mod symbols;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Subcommand};

use crate::measure::Per;
use crate::memory::Memory;

pub use address::address;
pub use size::Size;

/// What to measure.
#[derive(Subcommand)]
pub enum Command {
    /// Accepts a connection and receives until the peer closes it.
    Recv(Recv),
    /// Connects and sends.
    Send(Send),
    /// Registers memory and lets it go.
    Register(Register),
    /// Connects many times, and sends on each connection in turn.
    SendMany(SendMany),
    /// Prints which functions of the kernel the instructions were in.
    #[command(hide = true)]
    Symbols(Symbols),
    /// Reads what runs have printed with --json; prints tables, and writes results.json and plots.
    Report(Report),
}

/// What there is at least one of, and not so many that their numbers do not fit ports.
fn one_or_more() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=1024)
}

/// What is so much, or more.
fn at_least(least: usize) -> impl Fn(&str) -> std::result::Result<usize, String> + Clone {
    move |given| match Size::parse(given)? {
        Size(size) if size >= least => Ok(size),
        Size(size) => Err(format!("{size} is less than {least}")),
    }
}

/// A number of bytes.
fn bytes(given: &str) -> std::result::Result<u64, String> {
    Size::parse(given).map(|Size(bytes)| bytes as u64)
}

fn positive(given: &str) -> std::result::Result<f64, String> {
    match given.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        Ok(_) => Err("it is not more than 0".into()),
        Err(error) => Err(format!("{error}")),
    }
}

/// Arguments of both ends.
#[derive(Args)]
struct Common {
    /// The NIC's port, for paths that ask for it.
    #[arg(long, default_value = "", hide_default_value = true)]
    dev: String,
    /// Where payload is, for paths that give a choice.
    #[arg(long, value_enum, default_value_t = Memory::Host)]
    memory: Memory,
    /// Be the other end of what is measured: count and print nothing.
    #[arg(long)]
    peer: bool,
    /// Send bytes that the receiver knows; compare what is received, instead of measuring.
    #[arg(long)]
    verify: bool,
    /// Messages of so many bytes, counted for each, instead of a stream.
    #[arg(long, value_name = "SIZE", value_parser = at_least(1))]
    message: Option<usize>,
    /// MTU of the link, which is only printed [default: that of the port].
    #[arg(long)]
    mtu: Option<u32>,
    /// The payload that the link lets through in Mbit/s, of which the share is printed.
    #[arg(long, value_parser = positive)]
    rate_mbit: Option<f64>,
    /// Printed behind the name of each metric.
    #[arg(long, default_value = "", hide_default_value = true)]
    tag: String,
    /// Print JSON, an object on each line.
    #[arg(long)]
    json: bool,
}

impl Common {
    fn per(&self) -> Per {
        self.message.map_or(Per::Mib, Per::Message)
    }

    /// MTU of the link; 0 where nobody knows.
    fn mtu(&self) -> u32 {
        self.mtu
            .or_else(|| netdev::mtu(&self.dev))
            .unwrap_or_default()
    }
}

/// Arguments of a receiver.
#[derive(Args)]
pub struct Recv {
    /// How to receive.
    #[arg(value_enum)]
    path: receive::Path,
    /// Where to listen.
    #[arg(value_name = "ADDRESS:PORT", value_parser = address)]
    listen: SocketAddr,
    #[command(flatten)]
    common: Common,
    /// The receive queue that the connection is steered to, for paths that take one.
    #[arg(long, default_value_t = 1)]
    queue: u32,
    /// Receive on so many connections at a time, from send-many.
    #[arg(long, default_value_t = 0)]
    sockets: usize,
    /// Receive queues from that one on, which they are divided among: those of the first are accepted where to listen, those of the
    /// next at the next port, and so on.
    #[arg(long, default_value_t = 1, requires = "sockets", value_parser = one_or_more())]
    queues: usize,
    /// Contexts of netgpu that the queues are divided among.
    #[arg(long, default_value_t = 1, requires = "sockets", value_parser = one_or_more())]
    contexts: usize,
    /// Measure how long it takes until the first bytes come, after asking the kernel for all that the path needs. The sender waits
    /// for that, with --wait.
    #[arg(long)]
    first: bool,
    /// Regions of netgpu that the memory is in.
    #[arg(long, default_value_t = 1, value_parser = one_or_more())]
    regions: usize,
    /// Buffers of netgpu's queue.
    #[arg(long, value_parser = at_least(1))]
    buffers: Option<usize>,
    /// Bytes of a buffer of netgpu's or io_uring's queue. From 8192 on, memory of the host is in huge pages.
    #[arg(long, default_value_t = receive::PAGE, value_name = "SIZE", value_parser = at_least(receive::PAGE))]
    buffer_size: usize,
    /// The sender pads its headers (`netgpu pad`): netgpu's payload lies in a row then.
    #[arg(long)]
    padded: bool,
    /// What rows have instead of the path's name.
    #[arg(long)]
    name: Option<String>,
    /// Entries of its fill ring: as many as buffers without this.
    #[arg(long)]
    fill_entries: Option<u32>,
    /// Entries of the rx ring of netgpu's socket.
    #[arg(long, default_value_t = 4096)]
    rx_entries: u32,
}

/// Arguments for the functions.
#[derive(Args)]
pub struct Symbols {
    /// What the plugin counted (`blocks=`).
    blocks: PathBuf,
    /// The guest's /proc/kallsyms.
    kallsyms: PathBuf,
    /// What the runs have printed.
    rows: PathBuf,
    /// How many functions to print.
    #[arg(long, default_value_t = 60)]
    most: usize,
}

/// Arguments of a sender on many connections.
#[derive(Args)]
pub struct SendMany {
    /// Where to connect to.
    #[arg(value_name = "ADDRESS:PORT", value_parser = address)]
    address: SocketAddr,
    /// Bytes to send, on all of them together.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    bytes: u64,
    /// How many connections.
    #[arg(long, value_parser = at_least(1))]
    sockets: usize,
    /// How many queues, and ports, the receiver has for them.
    #[arg(long, default_value_t = 1, value_parser = one_or_more())]
    queues: usize,
}

/// Arguments of a sender.
#[derive(Args)]
pub struct Send {
    /// How to send.
    #[arg(value_enum)]
    path: send::Path,
    /// Where to connect to.
    #[arg(value_name = "ADDRESS:PORT", value_parser = address)]
    address: SocketAddr,
    /// Bytes to send: as many whole messages as fit.
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    bytes: u64,
    #[command(flatten)]
    common: Common,
    /// Begin when the receiver has said so, by a byte.
    #[arg(long)]
    wait: bool,
}

/// Arguments of the report.
#[derive(Args)]
pub struct Report {
    /// Where to write results.json and the plots.
    out: PathBuf,
    /// Files with rows. Paths of one that has a profile in front of it, and `=`, have that profile behind their names.
    #[arg(required = true)]
    rows: Vec<String>,
}

/// Arguments for registering.
#[derive(Args)]
pub struct Register {
    /// What memory.
    #[arg(value_enum)]
    memory: register::Kind,
    /// How much.
    #[arg(long, default_value_t = 128, value_parser = at_least(1))]
    mib: usize,
    /// Bytes of a buffer of netgpu's.
    #[arg(long, default_value_t = receive::PAGE, value_name = "SIZE", value_parser = at_least(receive::PAGE))]
    buffer_size: usize,
    /// The NIC's port that it is registered for.
    #[arg(long)]
    dev: String,
    /// Print JSON, an object on each line.
    #[arg(long)]
    json: bool,
}

/// Measures it, and prints what was found.
///
/// # Errors
///
/// When something cannot be had, or a connection fails.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Recv(arguments) if arguments.sockets > 0 => many::recv(arguments),
        Command::Recv(arguments) => receive::run(arguments),
        Command::Send(arguments) => send::run(arguments),
        Command::Register(arguments) => register::run(arguments),
        Command::SendMany(arguments) => many::send(arguments),
        Command::Symbols(arguments) => symbols::run(
            &arguments.blocks,
            &arguments.kallsyms,
            &arguments.rows,
            arguments.most,
        ),
        Command::Report(arguments) => report::run(&arguments.out, &arguments.rows),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(Parser)]
    struct Bench {
        #[command(subcommand)]
        _command: super::Command,
    }

    #[test]
    fn what_is_divided_by_is_not_zero() {
        let recv = "recv netgpu [::1]:1";
        let send = "send write [::1]:1 --bytes 1";
        let many = "recv netgpu [::1]:1 --sockets 1";
        for (command, option) in [
            (recv, "--regions"),
            (recv, "--buffers"),
            (recv, "--buffer-size"),
            (recv, "--message"),
            (recv, "--rate-mbit"),
            (send, "--message"),
            (many, "--queues"),
            (many, "--contexts"),
            ("send-many [::1]:1 --bytes 1", "--sockets"),
            ("register host --dev eth0", "--mib"),
            ("register host --dev eth0", "--buffer-size"),
        ] {
            let with = |number: &str| {
                let words = ["bench"].into_iter().chain(command.split(' '));
                Bench::try_parse_from(words.chain([option, number])).map(drop)
            };
            with("4096").or_else(|_| with("1")).unwrap();
            let told = with("0").unwrap_err().to_string();
            assert!(told.contains(option), "{command}: {told}");
        }
    }
}
