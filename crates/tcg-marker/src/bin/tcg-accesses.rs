// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcg-accesses`: what the CPUs of a guest load from and store to a device's memory between two calls of it.
//!
//! `tcg-accesses start NAME` begins to count for the memory that /proc/iomem calls NAME, `tcg-accesses stop` prints what
//! was counted.

use std::io;
use std::process::ExitCode;

use tcg_marker::{Counts, Mailbox};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match *arguments {
        ["start", name] => start(name),
        ["stop"] => stop(),
        _ => Err(io::Error::other("usage: start NAME | stop")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tcg-accesses: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(name: &str) -> io::Result<()> {
    let mut mailbox = Mailbox::new();
    mailbox.start();
    if !matches!(mailbox.stop(), Some(Counts { accesses: 1, .. })) {
        return Err(io::Error::other(
            "this guest runs without tcg-plugin, or it does not count accesses",
        ));
    }
    mailbox.forget();
    mailbox.watch_device(name)?;
    mailbox.start();
    Ok(())
}

fn stop() -> io::Result<()> {
    let counts = Mailbox::new()
        .stop()
        .ok_or_else(|| io::Error::other("this guest runs without tcg-plugin"))?;
    println!("{} bytes loaded, {} stored", counts.loaded, counts.stored);
    Ok(())
}
