// SPDX-License-Identifier: MIT OR Apache-2.0
//! `tcg-accesses`: what the CPUs of a guest load from and store to a device's memory between two calls of it.
//!
//! `tcg-accesses start NAME` begins to count for the memory that /proc/iomem calls NAME, `tcg-accesses stop` prints what
//! was counted.

use std::fs;
use std::io;
use std::ops::Range;
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
    let memory = ranges(&fs::read_to_string("/proc/iomem")?, name);
    // Who may not know the addresses sees zeros.
    if memory.is_empty() || memory.iter().any(|range| range.start == 0) {
        return Err(io::Error::other(format!(
            "/proc/iomem has no memory of the name {name}, or does not say where it is"
        )));
    }
    let mut mailbox = Mailbox::new();
    mailbox.start();
    if !matches!(mailbox.stop(), Some(Counts { accesses: 1, .. })) {
        return Err(io::Error::other(
            "this guest runs without tcg-plugin, or it does not count accesses",
        ));
    }
    mailbox.forget();
    for range in memory {
        mailbox.watch_physical(range);
    }
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

/// The addresses that `iomem` has by the name `name`.
fn ranges(iomem: &str, name: &str) -> Vec<Range<u64>> {
    iomem
        .lines()
        .filter_map(|line| {
            let (addresses, found) = line.split_once(" : ")?;
            let (first, last) = addresses.trim().split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let range = number(first)?..number(last)?.checked_add(1)?;
            (found == name).then_some(range)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "it is one range")]
    fn memory_is_found_by_its_whole_name() {
        let iomem = "\
00000000-00000fff : Reserved
380000000000-3807ffffffff : PCI Bus 0000:00
  380000000000-38000fffffff : 0000:00:05.0
    380000000000-38000fffffff : gpu
  380010000000-38001fffffff : 0000:00:06.0
    380010000000-38001fffffff : gpu copies
";
        assert_eq!(ranges(iomem, "gpu"), [0x3800_0000_0000..0x3800_1000_0000]);
        assert_eq!(ranges(iomem, "pu"), []);
    }
}
