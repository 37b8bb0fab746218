// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which functions of the kernel the instructions of each path are in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::measure::Sample;

/// Names of functions by the addresses at which they start.
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// From what /proc/kallsyms says.
    fn parse(text: &str) -> Self {
        let symbol = |line: &str| {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            let name = words.next()?;
            "tTwW"
                .contains(kind)
                .then(|| (address, format!("{:#}", rustc_demangle::demangle(name))))
        };
        Self(text.lines().filter_map(symbol).collect())
    }

    /// The function that `address` is in.
    fn find(&self, address: u64) -> &str {
        if address >> 63 == 0 {
            return "(user mode)";
        }
        self.0
            .range(..=address)
            .next_back()
            .map_or("(unknown)", |(_, name)| name)
    }
}

/// What a run measured, in the order of the runs.
struct Run {
    direction: String,
    mtu: u32,
    path: String,
    /// What instructions were counted for: a MiB, a packet, a message, and which.
    each: String,
    /// Kernel instructions for each.
    kernel: f64,
}

fn runs(rows: &str) -> Result<Vec<Run>> {
    let mut runs = Vec::new();
    for row in Sample::parse(rows)? {
        if let Some(each) = row.metric.strip_prefix("kernel-instructions/") {
            runs.push(Run {
                each: each.to_owned(),
                direction: row.direction,
                mtu: row.mtu,
                path: match row.memory.as_str() {
                    "host" => row.path,
                    memory => format!("{}/{memory}", row.path),
                },
                kernel: row.value,
            });
        }
    }
    Ok(runs)
}

/// Prints for each direction, MTU and unit a table of functions, those first in which most instructions were, with a column of
/// instructions per unit for each path. `blocks` is what `tcg-plugin` wrote while the runs printed `rows`.
pub(crate) fn run(blocks: &Path, kallsyms: &Path, rows: &Path, most: usize) -> Result<()> {
    let read = |path: &Path| {
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let symbols = Symbols::parse(&read(kallsyms)?);
    let (rows, blocks) = (read(rows)?, read(blocks)?);
    let runs = runs(&rows)?;
    let stops: Vec<_> = blocks.split("stop\n").skip(1).collect();
    ensure!(
        runs.len() == stops.len(),
        "{} runs were measured, but blocks were counted in {}",
        runs.len(),
        stops.len()
    );

    // Table, function, path: instructions per unit, as many values as runs.
    let mut tables: BTreeMap<_, BTreeMap<&str, BTreeMap<&str, f64>>> = BTreeMap::new();
    let mut times: BTreeMap<_, f64> = BTreeMap::new();
    for (run, stop) in runs.iter().zip(stops) {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for line in stop.lines() {
            let (address, count) = line.split_once(' ').context("a line without a count")?;
            let address = u64::from_str_radix(address, 16)?;
            *counts.entry(symbols.find(address)).or_default() += count.parse::<u64>()?;
        }
        let all: u64 = counts
            .iter()
            .filter(|(name, _)| **name != "(user mode)")
            .map(|(_, count)| count)
            .sum();
        let table = tables
            .entry((run.direction.as_str(), run.mtu, run.each.as_str()))
            .or_default();
        for (name, count) in counts {
            *table.entry(name).or_default().entry(&run.path).or_default() +=
                count as f64 * run.kernel / all as f64;
        }
        *times
            .entry((
                run.direction.as_str(),
                run.mtu,
                run.each.as_str(),
                run.path.as_str(),
            ))
            .or_default() += 1.0;
    }
    for ((direction, mtu, each), table) in tables {
        let paths: Vec<_> = times
            .iter()
            .filter(|((d, m, e, _), _)| (*d, *m, *e) == (direction, mtu, each))
            .map(|((_, _, _, path), times)| (*path, *times))
            .collect();
        println!("{direction}, MTU {mtu}: instructions/{each}");
        for (path, _) in &paths {
            print!("{path:>12}");
        }
        println!("  function");
        let mut table: Vec<_> = table
            .into_iter()
            .map(|(name, counts)| {
                let counts: Vec<_> = paths
                    .iter()
                    .map(|(path, times)| counts.get(path).unwrap_or(&0.0) / times)
                    .collect();
                (counts, name)
            })
            .collect();
        let highest = |counts: &[f64]| counts.iter().copied().fold(0.0, f64::max);
        table.sort_by(|(a, _), (b, _)| highest(b).total_cmp(&highest(a)));
        for (counts, name) in table.iter().take(most) {
            for count in counts {
                print!("{count:>12.0}");
            }
            println!("  {name}");
        }
        println!();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_the_function_that_starts_before_it() {
        let symbols = Symbols::parse(
            "ffffffff81000000 T first\nffffffff81000100 t second\nffffffff81000080 d data\n",
        );
        assert_eq!(symbols.find(0xffff_ffff_8100_00ff), "first");
        assert_eq!(symbols.find(0xffff_ffff_8100_0100), "second");
        assert_eq!(symbols.find(0xffff_ffff_8000_0000), "(unknown)");
        assert_eq!(symbols.find(0x40_0000), "(user mode)");
    }
}
