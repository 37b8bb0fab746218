// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the user sees: progress while data moves, and the summary.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Time between two looks of the bar at how far the stream is.
const TICK: Duration = Duration::from_millis(100);

/// Time between two lines of progress where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Which way the data goes, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Rx,
    Tx,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        })
    }
}

/// Prints a line of results, with its colours on a terminal only. Where `println!` panics, this fails, so that all is put back and the
/// reason is told.
pub(crate) fn print(line: impl fmt::Display) -> Result<()> {
    writeln!(anstream::stdout(), "{line}").context("cannot print the result")
}

/// Tells something on the way. That nobody listens any more is no reason to stop.
pub(crate) fn tell(line: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "netgpu: {line}");
}

/// A SHA-256 in hexadecimal, for clap.
pub(crate) fn sha256(text: &str) -> Result<String, String> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("a SHA-256 has 64 hexadecimal digits".into())
    }
}

/// How the progress is shown on stderr.
enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// Elsewhere, a line now and then.
    Lines { next: Instant },
    /// To programs, which want the summary only.
    Nothing,
}

/// Counts a stream as it passes, and shows it.
pub(crate) struct Meter {
    direction: Direction,
    bytes: u64,
    hash: Option<Sha256>,
    start: Instant,
    progress: Progress,
}

impl Meter {
    /// Starts the clock. `total` is the length of the stream, where known. With `json`, no progress is shown.
    pub(crate) fn start(direction: Direction, total: Option<u64>, hash: bool, json: bool) -> Self {
        let start = Instant::now();
        let progress = if json {
            Progress::Nothing
        } else if io::stderr().is_terminal() {
            Progress::Bar(bar(direction, total))
        } else {
            Progress::Lines {
                next: start + LINE_INTERVAL,
            }
        };
        Self {
            direction,
            bytes: 0,
            hash: hash.then(Sha256::new),
            start,
            progress,
        }
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
    }

    /// `count` bytes that nobody looks at.
    pub(crate) fn pass(&mut self, count: usize) {
        self.bytes += count as u64;
    }

    /// Shows how far it is. Cheap enough for every few kilobytes.
    pub(crate) fn show(&mut self) {
        match &mut self.progress {
            Progress::Bar(bar) => bar.set_position(self.bytes),
            Progress::Lines { next } => {
                if Instant::now() >= *next {
                    *next += LINE_INTERVAL;
                    let Self {
                        direction,
                        bytes,
                        start,
                        ..
                    } = self;
                    let rate = gigabits(*bytes, start.elapsed());
                    tell(format_args!(
                        "{direction} {bytes} bytes so far, {rate:.2} Gbit/s"
                    ));
                }
            }
            Progress::Nothing => {}
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Stops the clock.
    pub(crate) fn finish(self, zero_copy: u64, copied: u64) -> Summary {
        Summary {
            direction: self.direction,
            bytes: self.bytes,
            zero_copy,
            copied,
            seconds: self.start.elapsed().as_secs_f64(),
            sha256: self.hash.map(|hash| {
                hash.finalize()
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect()
            }),
        }
    }
}

fn bar(direction: Direction, total: Option<u64>) -> ProgressBar {
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::new(total),
            "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ),
        None => (
            ProgressBar::no_length(),
            "{prefix} {spinner} {bytes} {bytes_per_sec} {elapsed}",
        ),
    };
    let style = ProgressStyle::with_template(template).expect("the template is well-formed");
    let bar = bar
        .with_style(style)
        .with_prefix(direction.to_string())
        // Nothing stays of it, so that whatever is said next starts a line.
        .with_finish(ProgressFinish::AndClear);
    // A stream that rests is shown as far as it came, and time goes on.
    bar.enable_steady_tick(TICK);
    bar
}

/// The result of moving one stream.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct Summary {
    direction: Direction,
    bytes: u64,
    zero_copy: u64,
    copied: u64,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Summary {
    /// Fails if the bytes have another SHA-256 than `wanted`.
    pub(crate) fn verify(&self, wanted: Option<&str>) -> Result<()> {
        match (wanted, &self.sha256) {
            (Some(wanted), Some(sha256)) if wanted != sha256 => {
                let what = match self.direction {
                    Direction::Rx => "received",
                    Direction::Tx => "sent",
                };
                bail!("what was {what} has the SHA-256 {sha256}, and --verify wants {wanted}")
            }
            _ => Ok(()),
        }
    }

    /// As one line of text, or of JSON.
    pub(crate) fn line(&self, json: bool) -> String {
        if json {
            return serde_json::to_string(self)
                .expect("numbers and strings can be written as JSON");
        }
        let Self {
            direction,
            bytes,
            zero_copy,
            copied,
            seconds,
            sha256,
        } = self;
        let rate = gigabits(*bytes, Duration::from_secs_f64(*seconds));
        let mut line = format!(
            "{direction} {bytes} bytes  zero-copy {zero_copy}  copied {copied}  \
             seconds {seconds:.2}  Gbit/s {rate:.2}"
        );
        if let Some(sha256) = sha256 {
            line.push_str("  sha256 ");
            line.push_str(sha256);
        }
        line
    }
}

fn gigabits(bytes: u64, time: Duration) -> f64 {
    let seconds = time.as_secs_f64();
    if seconds == 0.0 {
        0.0
    } else {
        bytes as f64 * 8.0 / seconds / 1e9
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary() -> Summary {
        let mut meter = Meter::start(Direction::Rx, None, true, true);
        meter.add(b"a");
        meter.add(b"bc");
        Summary {
            seconds: 0.5,
            ..meter.finish(2, 1)
        }
    }

    #[test]
    fn a_hash_is_64_digits() {
        assert_eq!(sha256(&"A0".repeat(32)), Ok("a0".repeat(32)));
        assert!(sha256(&"a0".repeat(31)).is_err());
        assert!(sha256(&"g0".repeat(32)).is_err());
    }

    // Scripts read these lines: a change here is a change of the interface.

    #[test]
    fn summary_as_text() {
        assert_eq!(
            summary().line(false),
            "rx 3 bytes  zero-copy 2  copied 1  seconds 0.50  Gbit/s 0.00  sha256 \
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn summary_as_json() {
        let summary = Summary {
            sha256: None,
            ..summary()
        };
        assert_eq!(
            summary.line(true),
            r#"{"direction":"rx","bytes":3,"zero_copy":2,"copied":1,"seconds":0.5}"#
        );
    }
}
