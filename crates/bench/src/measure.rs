// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts the middle of a stream, from when it has warmed up to its end.

use std::time::Instant;

use tcg_marker::Mailbox;

/// Bytes that pass before anything is counted.
const WARM: u64 = 4 << 20;

/// The measurement of one stream.
pub(crate) struct Measurement {
    /// None at the other end, whose markers would disturb.
    mailbox: Option<Mailbox>,
    bytes: u64,
    start: Option<(Instant, u64)>,
}

impl Measurement {
    /// Of the end to be measured, or of its peer.
    pub(crate) fn new(peer: bool) -> Self {
        Self {
            mailbox: (!peer).then(|| {
                let mut mailbox = Mailbox::new();
                // The pages of who was measured before are others' now.
                mailbox.forget();
                mailbox
            }),
            bytes: 0,
            start: None,
        }
    }

    /// The accesses to these bytes are to be counted, too. They must be in memory.
    pub(crate) fn watch(&mut self, memory: &[u8]) -> anyhow::Result<()> {
        if let Some(mailbox) = &mut self.mailbox {
            mailbox.watch(memory)?;
        }
        Ok(())
    }

    /// So many bytes more have passed.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.start.is_none() && self.bytes >= WARM {
            self.start = Some((Instant::now(), self.bytes));
            if let Some(mailbox) = &mut self.mailbox {
                mailbox.start();
            }
        }
    }

    /// The end, of many streams: prints what each packet of `payload` bytes cost.
    pub(crate) fn finish_packets(mut self, path: &str, mtu: u32, payload: u32) {
        let (Some(mailbox), Some((_, before))) = (&mut self.mailbox, self.start) else {
            return;
        };
        if let Some(counts) = mailbox.stop() {
            let packets = (self.bytes - before) as f64 / f64::from(payload);
            let print = |metric: &str, count: u64| {
                println!("row {path} rx {mtu} {metric} {}", count as f64 / packets);
            };
            print("kernel-instructions/packet", counts.kernel);
            print("user-instructions/packet", counts.user);
        }
    }

    /// The end: prints a line for each metric, "path direction mtu metric value".
    pub(crate) fn finish(mut self, path: &str, direction: &str, mtu: u32) {
        let (Some(mailbox), Some((began, before))) = (&mut self.mailbox, self.start) else {
            return;
        };
        let counts = mailbox.stop();
        let seconds = began.elapsed().as_secs_f64();
        let bytes = (self.bytes - before) as f64;
        let print = |metric: &str, value: f64| {
            println!("row {path} {direction} {mtu} {metric} {value}");
        };
        if let Some(counts) = counts {
            let mib = bytes / f64::from(1 << 20);
            print("user-instructions/MiB", counts.user as f64 / mib);
            print("kernel-instructions/MiB", counts.kernel as f64 / mib);
            print(
                "instructions/MiB",
                (counts.user + counts.kernel) as f64 / mib,
            );
            if counts.accesses != 0 {
                print(
                    "touched-bytes/byte",
                    (counts.loaded + counts.stored) as f64 / bytes,
                );
            }
        }
        print("Mbit/s", bytes * 8.0 / seconds / 1e6);
    }
}
