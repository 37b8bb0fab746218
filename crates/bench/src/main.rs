// SPDX-License-Identifier: MIT OR Apache-2.0
//! One end of a measured TCP stream: moves it along one path, and prints what the CPU that it runs on had to do for it. And how
//! long memory takes to be registered.

mod many;
mod measure;
mod receive;
mod register;
mod report;
mod send;
mod symbols;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Accepts a connection and receives until the peer closes it.
    Recv(Recv),
    /// Connects and sends.
    Send(Send),
    /// Registers memory and lets it go.
    Register(Register),
    /// Connects many times, and sends on each connection in turn.
    SendMany(SendMany),
    /// Prints which functions of the kernel the instructions were in.
    Symbols(Symbols),
    /// Reads what runs have printed from stdin; prints a table, and writes the rows as JSON.
    Report {
        /// Where to write the rows.
        json: PathBuf,
    },
}

/// Arguments of a receiver.
#[derive(Args)]
struct Recv {
    /// How to receive.
    #[arg(value_enum)]
    path: receive::Path,
    /// Where to listen.
    listen: SocketAddr,
    /// The NIC's port, for the path netgpu.
    #[arg(long, default_value = "")]
    dev: String,
    /// The receive queue that the connection is steered to, for the path netgpu.
    #[arg(long, default_value_t = 1)]
    queue: u32,
    /// Be the other end of what is measured: count and print nothing.
    #[arg(long)]
    peer: bool,
    /// MTU of the link, which is only printed.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Receive on so many connections at a time, from send-many.
    #[arg(long, default_value_t = 0)]
    sockets: usize,
}

/// Arguments for the functions.
#[derive(Args)]
struct Symbols {
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
struct SendMany {
    /// Where to connect to.
    address: SocketAddr,
    /// Bytes to send, on all of them together.
    #[arg(long)]
    bytes: u64,
    /// How many connections.
    #[arg(long)]
    sockets: usize,
}

/// Arguments of a sender.
#[derive(Args)]
struct Send {
    /// How to send.
    #[arg(value_enum)]
    path: send::Path,
    /// Where to connect to.
    address: SocketAddr,
    /// Bytes to send.
    #[arg(long)]
    bytes: u64,
    /// The NIC's port, for the path netgpu.
    #[arg(long, default_value = "")]
    dev: String,
    /// Be the other end of what is measured: count and print nothing.
    #[arg(long)]
    peer: bool,
    /// MTU of the link, which is only printed.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
}

/// Arguments for registering.
#[derive(Args)]
struct Register {
    /// What memory.
    #[arg(value_enum)]
    memory: register::Memory,
    /// How much.
    #[arg(long, default_value_t = 128)]
    mib: usize,
    /// The NIC's port that it is registered for.
    #[arg(long)]
    dev: String,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Recv(arguments) if arguments.sockets > 0 => many::recv(&arguments),
        Command::Recv(arguments) => receive::run(&arguments),
        Command::Send(arguments) => send::run(&arguments),
        Command::Register(arguments) => register::run(&arguments),
        Command::SendMany(arguments) => many::send(&arguments),
        Command::Symbols(arguments) => symbols::run(
            &arguments.blocks,
            &arguments.kallsyms,
            &arguments.rows,
            arguments.most,
        ),
        Command::Report { json } => report::run(&json),
    }
}
