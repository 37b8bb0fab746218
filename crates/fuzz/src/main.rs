// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls that no sane program makes of netgpu.ko: lists of them, run one after the other, changed at random, and kept when they reach
//! code of the module that none did before. For the guest of the tests, on a module of `scripts/module --kcov`.

mod execute;
mod fuzz;
mod mutate;
mod program;
mod runner;
mod sys;
#[allow(dead_code, missing_docs, non_camel_case_types)]
#[path = "../../netgpu/src/sys/uapi.rs"]
#[rustfmt::skip]
mod uapi;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use regex::Regex;

use crate::execute::World;
use crate::fuzz::Fuzz;
use crate::runner::Runner;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a corpus, then makes new programs of it.
    Search {
        #[command(flatten)]
        place: Place,
        /// The programs to begin with, a file each.
        #[arg(long)]
        corpus: PathBuf,
        /// A folder for programs that reach something new.
        #[arg(long)]
        out: PathBuf,
        /// How long to search for.
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// What chance does.
        #[arg(long)]
        seed: u64,
    },
    /// Runs the programs in files, and tells what each call answered.
    Run {
        #[command(flatten)]
        place: Place,
        /// Files, or folders of them.
        files: Vec<PathBuf>,
    },
    /// Copies, of the programs in folders, those that together reach what all of them do.
    Distill {
        #[command(flatten)]
        place: Place,
        /// The folders.
        #[arg(required = true)]
        from: Vec<PathBuf>,
        /// Where to.
        #[arg(long)]
        out: PathBuf,
    },
    /// The other end of connections: sends back whatever comes.
    Peer {
        /// Where to listen.
        #[arg(required = true)]
        addresses: Vec<SocketAddr>,
    },
}

#[derive(Args)]
struct Place {
    /// The network device that contexts are made of.
    #[arg(long)]
    dev: String,
    /// Where the other end listens: over IPv4, and over IPv6.
    #[arg(long, num_args = 2)]
    peers: Vec<SocketAddr>,
    /// The file that always has the program that was run last.
    #[arg(long)]
    last: PathBuf,
    /// Lines of the kernel's log that are the end.
    #[arg(long)]
    bad: Regex,
    /// How many times as long as usual things take.
    #[arg(long, default_value_t = 1)]
    slow: u32,
}

impl Place {
    fn runner(self) -> Result<Runner> {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )?;
        let world = World {
            device: rustix::net::netdevice::name_to_index(&socket, &self.dev)
                .with_context(|| self.dev.clone())?,
            peers: self
                .peers
                .try_into()
                .ok()
                .context("there are two --peers")?,
        };
        Runner::new(world, self.last, self.bad, self.slow)
    }
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Search {
            place,
            corpus,
            out,
            seconds,
            seed,
        } => {
            let programs = fuzz::read_corpus(&corpus)?
                .into_iter()
                .map(|(_, program)| program)
                .collect();
            let mut fuzz = Fuzz::new(place.runner()?, programs, out)?;
            let found = fuzz.search(Duration::from_secs(seconds), seed)?;
            println!("# seed {seed} {found}");
        }
        Command::Run { place, files } => run(place.runner()?, &files)?,
        Command::Distill { place, from, out } => {
            let mut programs = Vec::new();
            for folder in from {
                programs.extend(fuzz::read_corpus(&folder)?);
            }
            let mut runner = place.runner()?;
            for (path, _) in fuzz::distill(&mut runner, programs)? {
                let name = path.file_name().context("a file of a folder has a name")?;
                std::fs::copy(&path, out.join(name))?;
            }
        }
        Command::Peer { addresses } => peer(&addresses)?,
    }
    Ok(())
}

fn run(mut runner: Runner, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let programs = if file.is_dir() {
            fuzz::read_corpus(file)?
        } else {
            vec![(file.clone(), std::fs::read_to_string(file)?.parse()?)]
        };
        for (path, program) in programs {
            let outcome = runner.run(&program)?;
            println!("# {}: reached {}", path.display(), outcome.reached.len());
            for (call, result) in program.calls.iter().zip(outcome.results) {
                match result {
                    Some(error @ ..0) => {
                        println!("#   {call}: {}", std::io::Error::from_raw_os_error(-error))
                    }
                    Some(value) => println!("#   {call}: {value}"),
                    None => println!("#   {call}: did not return"),
                }
            }
        }
    }
    Ok(())
}

fn peer(addresses: &[SocketAddr]) -> Result<()> {
    let listeners = addresses
        .iter()
        .map(|address| TcpListener::bind(address).with_context(|| address.to_string()))
        .collect::<Result<Vec<_>>>()?;
    eprintln!("listening on {addresses:?}");
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for stream in listener.incoming().flatten() {
                    // Without room for another thread, the connection ends here.
                    let _ = thread::Builder::new()
                        .stack_size(256 << 10)
                        .spawn(move || echo(stream));
                }
            });
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) -> Option<()> {
    // Nobody waits for ever for one that reads nothing.
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .ok()?;
    let mut data = vec![0; 64 << 10];
    loop {
        let len = stream.read(&mut data).ok().filter(|&len| len > 0)?;
        stream.write_all(&data[..len]).ok()?;
    }
}
