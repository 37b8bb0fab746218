// SPDX-License-Identifier: MIT OR Apache-2.0
//! What netgpu is meant to reach, and whether it does in these runs.

use std::collections::BTreeSet;
use std::fmt;

use super::Row;

/// A target and what was found.
struct Target {
    what: String,
    found: f64,
    limit: Limit,
}

#[derive(Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
    Below(f64),
    Above(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Below(limit) => value < limit,
            Self::Above(limit) => value > limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "at most {limit}"),
            Self::AtLeast(limit) => write!(f, "at least {limit}"),
            Self::Below(limit) => write!(f, "below {limit}"),
            Self::Above(limit) => write!(f, "above {limit}"),
        }
    }
}

/// Prints a line for each target of which something was measured. Medians count.
pub(super) fn print(rows: &[Row]) {
    let targets = targets(rows);
    if targets.is_empty() {
        return;
    }
    println!("\n{:<80} {:>9}  target", "target", "found");
    for target in targets {
        let verdict = if target.limit.holds(target.found) {
            "met"
        } else {
            "missed"
        };
        println!(
            "{:<80} {:>9.3}  {}: {verdict}",
            target.what, target.found, target.limit
        );
    }
}

fn targets(rows: &[Row]) -> Vec<Target> {
    let mut targets = Vec::new();
    let profiles: BTreeSet<_> = rows
        .iter()
        .map(|row| row.path.find('/').map_or("", |at| &row.path[at..]))
        .collect();
    let mtus: BTreeSet<_> = rows.iter().map(|row| row.mtu).collect();
    for profile in profiles {
        for &mtu in &mtus {
            at(rows, profile, mtu, &mut targets);
        }
    }
    targets
}

/// Adds the targets at one MTU on one profile.
fn at(rows: &[Row], profile: &str, mtu: u32, targets: &mut Vec<Target>) {
    let median = |direction: &str, path: &str, metric: &str| {
        rows.iter()
            .find(|row| {
                row.direction == direction
                    && row.path.strip_suffix(profile) == Some(path)
                    && row.memory == "host"
                    && row.mtu == mtu
                    && row.metric == metric
            })
            .map(|row| row.median)
    };
    let mut add = |what: String, found: Option<f64>, limit| {
        if let Some(found) = found {
            let what = if mtu == 0 {
                format!("{what}{profile}")
            } else {
                format!("{what}, MTU {mtu}{profile}")
            };
            targets.push(Target { what, found, limit });
        }
    };
    let ratio_of = |direction, metric, ours, path| {
        Some(median(direction, ours, metric)? / median(direction, path, metric)?)
    };
    let ratio = |direction, metric, path| ratio_of(direction, metric, "netgpu", path);

    let work = "instructions/MiB";
    for (direction, path, limit) in [
        ("rx", "trunc", Limit::AtMost(1.05)),
        ("rx", "zcrx", Limit::Below(1.0)),
        ("rx", "devmem", Limit::Below(1.0)),
        ("tx", "zerocopy", Limit::AtMost(0.9)),
        ("tx", "send-zc", Limit::Below(1.0)),
    ] {
        let what = format!("{direction}: {work} relative to {path}");
        add(what, ratio(direction, work, path), limit);
    }
    for (path, limit) in [
        ("trunc", Limit::AtMost(1.05)),
        ("zcrx-64k", Limit::Below(1.0)),
        ("devmem", Limit::Below(1.0)),
    ] {
        let what = format!("rx: {work} with buffers of 64 KiB relative to {path}");
        add(what, ratio_of("rx", work, "netgpu-64k", path), limit);
    }
    for direction in ["rx", "tx"] {
        let touched = median(direction, "netgpu", "touched-bytes/byte");
        // To three digits.
        let touched = touched.map(|touched| (touched * 1e3).round() / 1e3);
        let what = format!("{direction}: payload touched");
        add(what, touched, Limit::AtMost(0.0));
        let what = format!("{direction}: share of the limited link");
        let share = median(direction, "netgpu", "share-of-link@limited");
        add(what, share, Limit::AtLeast(0.95));
    }
    let others = ["read", "trunc", "tcp-zerocopy", "zcrx", "devmem"];
    for path in others {
        let what = format!("rx: speed relative to {path}");
        add(what, ratio("rx", "Mbit/s", path), Limit::Above(1.0));
    }
    for path in others.into_iter().chain(["zcrx-64k"]) {
        let what = format!("rx: speed with buffers of 64 KiB relative to {path}");
        let speed = ratio_of("rx", "Mbit/s", "netgpu-64k", path);
        add(what, speed, Limit::Above(1.0));
    }
    for (tag, how) in [("sockets", ""), ("unmerged-sockets", ", without GRO")] {
        let packets = |sockets| {
            let metric = format!("kernel-instructions/packet@{tag}={sockets}");
            median("rx", "netgpu", &metric)
        };
        let growth = packets(1000).zip(packets(1)).map(|(many, one)| many / one);
        let what = format!("rx: instructions per packet of 1000 sockets relative to one{how}");
        add(what, growth, Limit::AtMost(1.1));
    }
    let used = median("reg", "netgpu", "used-bytes/byte");
    let what = "memory used per byte registered".to_owned();
    add(what, used, Limit::AtMost(0.025));
    let speed = ratio("reg", "register-ms/GiB", "io-uring").map(|time| 1.0 / time);
    let what = "speed of registering relative to io_uring".to_owned();
    add(what, speed, Limit::AtLeast(0.8));
    let fewer = ratio("reg", "instructions/GiB", "io-uring").map(|work| 1.0 / work);
    let what = "the same by instructions, which no other load moves".to_owned();
    add(what, fewer, Limit::AtLeast(0.8));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, metric: &str, median: f64) -> Row {
        Row {
            path: path.into(),
            direction: "rx".into(),
            memory: "host".into(),
            mtu: 1500,
            metric: metric.into(),
            median,
            min: median,
            max: median,
            runs: 1,
        }
    }

    #[test]
    fn a_profile_is_compared_with_itself() {
        let metric = "instructions/MiB";
        let found = targets(&[
            row("netgpu", metric, 106.0),
            row("trunc", metric, 100.0),
            row("netgpu/cx7", metric, 104.0),
            row("trunc/cx7", metric, 100.0),
        ]);
        let found: Vec<_> = found
            .iter()
            .map(|target| (target.what.as_str(), target.limit.holds(target.found)))
            .collect();
        assert_eq!(
            found,
            [
                ("rx: instructions/MiB relative to trunc, MTU 1500", false),
                ("rx: instructions/MiB relative to trunc, MTU 1500/cx7", true),
            ]
        );
    }
}
