// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the lines of all runs to tables, results.json and plots.

mod plot;
mod targets;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::measure::Sample;

/// One metric of one path.
#[derive(Debug, Serialize)]
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

/// What the values of a row are of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    direction: String,
    mtu: u32,
    metric: String,
    path: String,
    memory: String,
}

/// The values of all runs, in their order.
type Values = BTreeMap<Key, Vec<f64>>;

/// Reports what the runs have printed into `files`; see [`crate::Report`].
pub(crate) fn run(out: &Path, files: &[String]) -> Result<()> {
    let mut values = Values::new();
    for file in files {
        let (profile, file) = file.split_once('=').unwrap_or(("", file));
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        parse(&text, profile, &mut values)?;
    }
    ensure!(!values.is_empty(), "nothing was measured");
    relate(&mut values);
    let rows: Vec<_> = values.into_iter().map(row).collect();
    print(&rows);
    targets::print(&rows);
    write(&out.join("results.json"), &rows)?;
    plot::draw(out, &rows)
}

/// Adds the rows in `text`.
fn parse(text: &str, profile: &str, values: &mut Values) -> Result<()> {
    for mut row in Sample::parse(text)? {
        if !profile.is_empty() {
            row.path.push('/');
            row.path.push_str(profile);
        }
        let key = Key {
            direction: row.direction,
            mtu: row.mtu,
            metric: row.metric,
            path: row.path,
            memory: row.memory,
        };
        values.entry(key).or_default().push(row.value);
    }
    Ok(())
}

/// Adds the speed of each path as a multiple of that of read or write, in the same round.
fn relate(values: &mut Values) {
    let mut related = Values::new();
    for (key, speeds) in values.iter().filter(|(key, _)| key.metric == "Mbit/s") {
        let profile = key.path.find('/').map_or("", |at| &key.path[at..]);
        let ordinary = if key.direction == "rx" {
            "read"
        } else {
            "write"
        };
        let reference = Key {
            path: format!("{ordinary}{profile}"),
            memory: "host".to_owned(),
            ..key.clone()
        };
        let Some(references) = values.get(&reference) else {
            continue;
        };
        related.insert(
            Key {
                metric: format!("speed/{ordinary}"),
                ..key.clone()
            },
            speeds.iter().zip(references).map(|(a, b)| a / b).collect(),
        );
    }
    values.extend(related);
}

fn row((key, mut values): (Key, Vec<f64>)) -> Row {
    values.sort_by(f64::total_cmp);
    let runs = values.len();
    Row {
        path: key.path,
        direction: key.direction,
        memory: key.memory,
        mtu: key.mtu,
        metric: key.metric,
        median: f64::midpoint(values[(runs - 1) / 2], values[runs / 2]),
        min: values[0],
        max: values[runs - 1],
        runs,
    }
}

fn print(rows: &[Row]) {
    println!(
        "dir   mtu {:<40} {:<16} {:<10} {:>12} {:>12} {:>12} runs",
        "metric", "path", "memory", "median", "min", "max"
    );
    for row in rows {
        println!(
            "{:<3} {:>5} {:<40} {:<16} {:<10} {:>12.3} {:>12.3} {:>12.3} {:>4}",
            row.direction,
            row.mtu,
            row.metric,
            row.path,
            row.memory,
            row.median,
            row.min,
            row.max,
            row.runs
        );
    }
}

/// A JSON array with a row on each line.
fn write(file: &Path, rows: &[Row]) -> Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(serde_json::to_string)
        .collect::<Result<_, _>>()?;
    fs::write(file, format!("[\n{}\n]\n", rows.join(",\n"))).context("cannot write the rows")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(rows: &[(&str, &str, &str, f64)], profile: &str) -> Values {
        let mut text = String::new();
        for (path, memory, metric, value) in rows {
            text += &format!(
                "{{\"path\":\"{path}\",\"direction\":\"rx\",\"memory\":\"{memory}\",\"mtu\":1500,\"metric\":\"{metric}\",\"value\":{value}}}\n"
            );
        }
        let mut values = Values::new();
        parse(&text, profile, &mut values).expect("these are rows");
        values
    }

    #[test]
    fn the_middle_of_an_even_number_is_between_two() {
        let rows = [4.0, 1.0, 3.0, 2.0].map(|value| ("p", "host", "m", value));
        let rows: Vec<_> = values(&rows, "").into_iter().map(row).collect();
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].median, rows[0].min, rows[0].max, rows[0].runs),
            (2.5, 1.0, 4.0, 4)
        );
    }

    #[test]
    fn speed_is_related_to_that_of_the_same_round_and_profile() {
        let mut values = values(
            &[
                ("read", "host", "Mbit/s", 10.0),
                ("netgpu", "gpu", "Mbit/s", 20.0),
                ("read", "host", "Mbit/s", 5.0),
                ("netgpu", "gpu", "Mbit/s", 20.0),
            ],
            "cx7",
        );
        relate(&mut values);
        let (_, related) = values
            .iter()
            .find(|(key, _)| key.path == "netgpu/cx7" && key.metric == "speed/read")
            .expect("it is related");
        assert_eq!(related, &[2.0, 4.0]);
    }
}
