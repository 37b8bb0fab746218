// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `netgpu` command.

mod device;
mod doctor;
mod documents;
mod machine;
mod memory;
mod pad;
mod recv;
mod report;
mod send;
mod setup;
mod show;
mod signals;
mod style;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory, Parser, Subcommand};
use tracing::level_filters::LevelFilter;

use signals::Interrupted;

/// Zero-copy TCP between a NIC and registered memory.
#[derive(Parser)]
#[command(name = "netgpu", version)]
struct Cli {
    /// Say what is done on the way; twice: in detail.
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Says what stops netgpu from working on this machine, and the commands that mend it.
    ///
    /// The exit status is 1 if anything does.
    Doctor(doctor::Arguments),
    /// Sets a network device up for programs that use netgpu: two channels, header split, n-tuple rules, RSS off a queue.
    ///
    /// `netgpu recv` needs none of this: it sets up what it uses, and puts it back. Done again, it sets what is not set any more.
    Setup(setup::Arguments),
    /// Puts back all that `netgpu setup` has changed, also when that was interrupted.
    Restore(setup::RestoreArguments),
    /// Shows all contexts, whose they are, and their regions, queues and sockets with what they have counted.
    Show(show::Arguments),
    /// Accepts one TCP connection and receives it into registered memory, until the peer closes it.
    Recv(recv::Arguments),
    /// Connects and sends a file from registered memory.
    Send(send::Arguments),
    /// Measures one TCP stream, from memory to memory, by netgpu or by another way that Linux has, and how long it takes to register memory.
    ///
    /// Nothing is set up or steered: see `netgpu setup`.
    #[command(subcommand)]
    Bench(netgpu_bench::Command),
    /// Pads the TCP headers that a command, or a cgroup, sends to their full length, so that a receiver that splits packets at a fixed
    /// offset need not copy a byte.
    Pad(pad::Arguments),
    /// Prints completions for a shell.
    Completions(documents::CompletionArguments),
    /// Writes man pages.
    #[command(hide = true)]
    Man(documents::ManArguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        _ => LevelFilter::DEBUG,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        // It would panic when stderr has no reader any more, and what is to be put back would stay.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();

    if let Command::Doctor(_) | Command::Show(_) | Command::Completions(_) = cli.command {
        end_with_the_reader();
    }
    let done = match cli.command {
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Setup(arguments) => setup::set_up(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Restore(arguments) => setup::restore(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Show(arguments) => show::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Recv(arguments) => recv::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Send(arguments) => send::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Bench(command) => netgpu_bench::run(&command).map(|()| ExitCode::SUCCESS),
        Command::Pad(arguments) => pad::run(&arguments),
        Command::Completions(arguments) => {
            documents::completions(&arguments, Cli::command());
            Ok(ExitCode::SUCCESS)
        }
        Command::Man(arguments) => {
            documents::man(&arguments, Cli::command()).map(|()| ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| match error.downcast_ref::<Interrupted>() {
        Some(interrupted) => interrupted.exit_code(),
        None => {
            report::tell(chain(&error));
            ExitCode::FAILURE
        }
    })
}

/// Lets SIGPIPE end this process, as it does others, when whoever reads what it prints has seen enough. Rust's runtime has it ignored;
/// so it is for commands that have something to put back.
fn end_with_the_reader() {
    // SAFETY: The default action runs no code of ours, and no other thread is there yet.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

/// The error and its causes in one line. A cause whose text its error repeats already is left out.
fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .fold(error.to_string(), |mut text, cause| {
            let cause = cause.to_string();
            if !text.contains(&cause) {
                text.push_str(": ");
                text.push_str(&cause);
            }
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn causes_are_told_once() {
        let cause = std::io::Error::from_raw_os_error(libc::EBUSY);
        let text = cause.to_string();
        let error = Err::<(), _>(cause)
            .context("cannot open the queue")
            .expect_err("it is one");
        assert_eq!(chain(&error), format!("cannot open the queue: {text}"));
        let error = error.context(format!("giving up: {text}"));
        assert_eq!(
            chain(&error),
            format!("giving up: {text}: cannot open the queue")
        );
    }
}
