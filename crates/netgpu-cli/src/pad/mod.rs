// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu pad`: TCP segments whose headers have their full length.

mod cgroup;
mod program;
mod relay;
mod run;
mod switch;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// A command and its arguments, for `netgpu pad run`.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

#[derive(Subcommand)]
enum What {
    /// Runs a command; what it starts is meant, too.
    Run {
        /// The command and its arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Switches it on for a cgroup and those below it, for connections that are made from now on, until the cgroup is gone.
    On(Switch),
    /// Switches it off again, also for connections that are there.
    Off(Switch),
}

#[derive(Args)]
struct Switch {
    /// The cgroup, for example /sys/fs/cgroup/user.slice, or user.slice.
    cgroup: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The exit status of a command becomes ours.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let done = match &arguments.what {
        None => return run::run(&arguments.command),
        Some(What::Run { command }) => return run::run(command),
        Some(What::On(switch)) => switch::on(&switch.cgroup)?.print(switch.json),
        Some(What::Off(switch)) => switch::off(&switch.cgroup)?.print(switch.json),
    };
    done.map(|()| ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn command(words: &[&str]) -> Vec<OsString> {
        let words = ["pad"].iter().chain(words);
        let arguments = Alone::try_parse_from(words).expect("it is one").arguments;
        match arguments.what {
            None => arguments.command,
            Some(What::Run { command }) => command,
            Some(What::On(_) | What::Off(_)) => panic!("that is no command"),
        }
    }

    #[test]
    fn a_command_is_run_with_or_without_the_word() {
        assert_eq!(command(&["sh", "-c", "on"]), ["sh", "-c", "on"]);
        assert_eq!(command(&["run", "sh", "-c", "x"]), ["sh", "-c", "x"]);
        assert_eq!(command(&["sh", "off", "run"]), ["sh", "off", "run"]);
        // Of a command with such a name.
        assert_eq!(command(&["run", "on"]), ["on"]);
        assert!(Alone::try_parse_from(["pad"]).is_err());
        assert!(Alone::try_parse_from(["pad", "on"]).is_err());
        assert!(Alone::try_parse_from(["pad", "on", "x", "--json"]).is_ok());
    }
}
