// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the lines of all runs to a table.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One metric of one path.
#[derive(Serialize)]
struct Row {
    path: String,
    direction: String,
    memory: String,
    mtu: u32,
    metric: String,
    median: f64,
    min: f64,
    max: f64,
    runs: usize,
}

/// Reads the lines of runs from stdin.
pub(crate) fn run(json: &Path) -> Result<()> {
    let mut values: BTreeMap<_, Vec<f64>> = BTreeMap::new();
    for line in io::stdin().lines() {
        let line = line?;
        let words: Vec<_> = line.split_whitespace().collect();
        if let ["row", path, direction, mtu, metric, value] = *words {
            let key = (
                direction.to_owned(),
                mtu.parse()?,
                metric.to_owned(),
                path.to_owned(),
            );
            values.entry(key).or_default().push(value.parse()?);
        }
    }
    let rows: Vec<_> = values
        .into_iter()
        .map(|((direction, mtu, metric, path), values)| row(path, direction, mtu, metric, values))
        .collect();
    println!(
        "dir  mtu   {:<26} {:<11} {:>12} {:>12} {:>12} runs",
        "metric", "path", "median", "min", "max"
    );
    for row in &rows {
        println!(
            "{}  {:>5} {:<26} {:<11} {:>12.3} {:>12.3} {:>12.3} {:>4}",
            row.direction, row.mtu, row.metric, row.path, row.median, row.min, row.max, row.runs
        );
    }
    let text: Vec<_> = rows
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<_, _>>()?;
    std::fs::write(json, text.join("\n") + "\n").context("cannot write the rows")
}

fn row(path: String, direction: String, mtu: u32, metric: String, mut values: Vec<f64>) -> Row {
    values.sort_by(f64::total_cmp);
    let runs = values.len();
    let memory = if direction == "reg" { &path } else { "host" }.to_owned();
    Row {
        path,
        direction,
        memory,
        mtu,
        metric,
        median: f64::midpoint(values[(runs - 1) / 2], values[runs / 2]),
        min: values[0],
        max: values[runs - 1],
        runs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_is_between_two() {
        let row = row(
            "p".into(),
            "rx".into(),
            1500,
            "m".into(),
            vec![4.0, 1.0, 3.0, 2.0],
        );
        assert_eq!((row.median, row.min, row.max, row.runs), (2.5, 1.0, 4.0, 4));
    }
}
