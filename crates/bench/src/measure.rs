// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts the middle of a stream, from when it has warmed up to its end.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tcg_marker::{Counts, Mailbox};

use crate::receive::Sink;

/// Bytes that pass before anything is counted, at most.
const WARM: u64 = 4 << 20;
/// The same in messages.
const WARM_MESSAGES: u64 = 1024;

/// What is measured: the first words of its rows.
pub(crate) struct Label<'a> {
    /// Name of the path.
    pub(crate) path: &'a str,
    /// `rx`, `tx` or `reg`.
    pub(crate) direction: &'a str,
    /// What memory.
    pub(crate) memory: &'a str,
    /// MTU of the link; 0 where there is none.
    pub(crate) mtu: u32,
    /// What else is unusual about the run, for example `regions=1024`; may be empty.
    pub(crate) tag: &'a str,
    /// Whether rows are JSON.
    pub(crate) json: bool,
}

impl Label<'_> {
    /// Prints the rows of the instructions that `units` of something took.
    pub(crate) fn instructions(&self, counts: &Counts, unit: &str, units: f64) {
        let print = |kind: &str, count: u64| {
            self.row(&format!("{kind}instructions/{unit}"), count as f64 / units);
        };
        print("user-", counts.user);
        print("kernel-", counts.kernel);
        print("", counts.user + counts.kernel);
    }

    /// Prints a row.
    pub(crate) fn row(&self, metric: &str, value: f64) {
        let &Self {
            path,
            direction,
            memory,
            mtu,
            tag,
            json,
        } = self;
        let at = if tag.is_empty() { "" } else { "@" };
        let metric = format!("{metric}{at}{tag}");
        if !json {
            let mtu = match mtu {
                0 => String::new(),
                mtu => format!(", MTU {mtu}"),
            };
            println!("{path} {direction} {memory}{mtu}: {value:.3} {metric}");
            return;
        }
        let sample = Sample {
            path: path.to_owned(),
            direction: direction.to_owned(),
            memory: memory.to_owned(),
            mtu,
            metric,
            value,
        };
        let sample = serde_json::to_string(&sample).expect("numbers and strings are JSON");
        println!("{sample}");
    }
}

/// A row: one metric of one run.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Sample {
    pub(crate) path: String,
    pub(crate) direction: String,
    pub(crate) memory: String,
    pub(crate) mtu: u32,
    pub(crate) metric: String,
    pub(crate) value: f64,
}

impl Sample {
    /// All of `text`, which runs have printed.
    pub(crate) fn parse(text: &str) -> Result<Vec<Self>> {
        text.lines()
            .map(|line| {
                serde_json::from_str(line)
                    .with_context(|| format!("`netgpu bench --json` does not print {line:?}"))
            })
            .collect()
    }
}

/// What instructions are divided by.
#[derive(Clone, Copy)]
pub(crate) enum Per {
    /// MiB of the stream.
    Mib,
    /// Messages of so many bytes.
    Message(usize),
    /// Packets with so many bytes of payload.
    Packet(u32),
}

/// The measurement of one stream.
pub(crate) struct Measurement {
    /// None at the other end, whose markers would disturb.
    mailbox: Option<Mailbox>,
    warm: u64,
    bytes: u64,
    /// When the first call was made that sets the path up.
    set_up: Option<Instant>,
    /// When it was warm.
    start: Option<Start>,
}

/// What there was when counting began.
struct Start {
    time: Instant,
    /// Bytes that had passed.
    bytes: u64,
    /// Of [`busy`].
    busy: Option<f64>,
}

impl Measurement {
    /// Of the end to be measured, or of its peer; of a stream, or of messages of so many bytes.
    pub(crate) fn new(peer: bool, message: Option<usize>) -> Self {
        Self {
            mailbox: (!peer).then(|| {
                let mut mailbox = Mailbox::new();
                // The pages of who was measured before are others' now.
                mailbox.forget();
                mailbox
            }),
            warm: message.map_or(WARM, |len| WARM.min(WARM_MESSAGES * len as u64)),
            bytes: 0,
            set_up: None,
            start: None,
        }
    }

    /// The accesses to these bytes are to be counted, too. They must be in memory.
    pub(crate) fn watch(&mut self, memory: &[u8]) -> Result<()> {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.watch(memory)?;
        }
        Ok(())
    }

    /// Those to all of the stand-in GPU's memory, too.
    pub(crate) fn watch_gpu(&mut self) -> Result<()> {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.watch_device("standin_gpu")?;
        }
        Ok(())
    }

    /// From now on the kernel is asked for what the path needs.
    pub(crate) fn sets_up(&mut self) {
        self.set_up = Some(Instant::now());
    }

    /// Since when.
    pub(crate) fn set_up(&self) -> Option<Instant> {
        self.set_up
    }

    /// So many bytes have passed.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many bytes more have passed.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Whether it is time to start.
    pub(crate) fn is_warm(&self) -> bool {
        self.start.is_none() && self.bytes >= self.warm
    }

    /// Begins to count.
    pub(crate) fn start(&mut self) {
        let busy = self.mailbox.as_ref().and_then(|_| busy());
        self.start = Some(Start {
            time: Instant::now(),
            bytes: self.bytes,
            busy,
        });
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.start();
        }
    }

    /// The end: prints the rows; `rate` is the most payload that the link lets through, in Mbit/s, where it is limited. Where
    /// accesses are counted, the rest is not told: all is much slower then.
    pub(crate) fn finish(mut self, label: &Label<'_>, per: Per, rate: Option<f64>) {
        let (Some(mailbox), Some(start)) = (&mut self.mailbox, self.start) else {
            return;
        };
        let counts = mailbox.stop();
        let seconds = start.time.elapsed().as_secs_f64();
        let bytes = (self.bytes - start.bytes) as f64;
        if let Some(counts) = &counts
            && counts.accesses != 0
        {
            let touched = counts.loaded + counts.stored;
            return label.row("touched-bytes/byte", touched as f64 / bytes);
        }
        let (unit, each) = match per {
            Per::Mib => ("MiB", f64::from(1 << 20)),
            Per::Message(len) => ("message", len as f64),
            Per::Packet(payload) => ("packet", f64::from(payload)),
        };
        if let Some(counts) = counts {
            label.instructions(&counts, unit, bytes / each);
        } else if let (Some(before), Some(now)) = (start.busy, busy()) {
            label.row(
                &format!("cpu-us/{unit}"),
                (now - before) * 1e6 / (bytes / each),
            );
        }
        let speed = bytes * 8.0 / seconds / 1e6;
        label.row("Mbit/s", speed);
        if let Some(rate) = rate {
            label.row("share-of-link", speed / rate);
        }
    }
}

/// Seconds that the CPUs of this machine have worked, all together, for whomever; in steps of some milliseconds.
fn busy() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    Some(ticks(&text)? as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The same in ticks, of the text of /proc/stat.
fn ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let times: Vec<u64> = line
        .split_ascii_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = times[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
}

impl Sink for Measurement {
    #[inline]
    fn take(&mut self, len: usize, _read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        self.add(len as u64);
        if self.is_warm() {
            self.start();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_does_not_work() {
        let stat =
            "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 9\ncpu0 5 5 5 5 5 5 5 5 5 5\n";
        assert_eq!(ticks(stat), Some(7_600_321));
        assert_eq!(ticks("intr 1 2 3\n"), None);
    }

    #[test]
    fn other_lines_are_no_rows() {
        assert!(Sample::parse("netgpu rx host: 1 Mbit/s\n").is_err());
        assert_eq!(Sample::parse("").ok().map(|rows| rows.len()), Some(0));
    }
}
