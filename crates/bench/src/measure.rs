// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts the middle of a stream, from when it has warmed up to its end.

use std::time::Instant;

use anyhow::Result;
use tcg_marker::Mailbox;

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
}

impl Label<'_> {
    /// Prints a row, for the report.
    pub(crate) fn row(&self, metric: &str, value: f64) {
        let Self {
            path,
            direction,
            memory,
            mtu,
            tag,
        } = self;
        let at = if tag.is_empty() { "" } else { "@" };
        println!("row {path} {direction} {memory} {mtu} {metric}{at}{tag} {value}");
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
    /// When it was warm, and how many bytes had passed.
    start: Option<(Instant, u64)>,
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
        self.start = Some((Instant::now(), self.bytes));
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.start();
        }
    }

    /// The end: prints the rows; `rate` is the most payload that the link lets through, in Mbit/s, where it is limited. Where
    /// accesses are counted, the rest is not told: all is much slower then.
    pub(crate) fn finish(mut self, label: &Label<'_>, per: Per, rate: Option<f64>) {
        let (Some(mailbox), Some((began, before))) = (&mut self.mailbox, self.start) else {
            return;
        };
        let counts = mailbox.stop();
        let seconds = began.elapsed().as_secs_f64();
        let bytes = (self.bytes - before) as f64;
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
            let print = |kind: &str, count: u64| {
                label.row(
                    &format!("{kind}instructions/{unit}"),
                    count as f64 / (bytes / each),
                );
            };
            print("user-", counts.user);
            print("kernel-", counts.kernel);
            print("", counts.user + counts.kernel);
        }
        let speed = bytes * 8.0 / seconds / 1e6;
        label.row("Mbit/s", speed);
        if let Some(rate) = rate {
            label.row("share-of-link", speed / rate);
        }
    }
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
