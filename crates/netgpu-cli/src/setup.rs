// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu setup` and `netgpu restore`: a device that is ready for programs of the library, and one that is as it was.

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::device::{Rings, Snapshot, Standing};
use crate::report;
use crate::style::COMMAND;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Network device: the NIC's port.
    #[arg(value_name = "DEVICE")]
    device: String,
    /// Receive queue that netgpu is to have [default: the last one].
    #[arg(long)]
    queue: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub(crate) struct RestoreArguments {
    /// Network device: the NIC's port.
    #[arg(value_name = "DEVICE")]
    device: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What was done.
#[derive(Serialize)]
struct Report<'a> {
    device: &'a str,
    /// The receive queue that is netgpu's now.
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<u32>,
    changes: Vec<Change>,
}

/// A setting that is another one now.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    setting: String,
    before: String,
    now: String,
}

pub(crate) fn set_up(arguments: &Arguments) -> Result<()> {
    let device = &arguments.device;
    let mut standing = Standing::open(device)?;
    let before = standing.snapshot()?;
    let queue = standing.set_up(arguments.queue)?;
    let report = Report {
        device,
        queue: Some(queue),
        changes: changes(&before, &standing.snapshot()?),
    };
    report.print(arguments.json, "is set up already")?;
    if !arguments.json {
        let steer = format!(
            "receive queue {queue} is for netgpu; steer connections to it, for example those to port 5000:\n  \
             {COMMAND}ethtool -N {device} flow-type tcp4 dst-port 5000 action {queue}{COMMAND:#}\n\
             and undo all but such rules:\n  {COMMAND}netgpu restore {device}{COMMAND:#}"
        );
        report::print(steer)?;
    }
    Ok(())
}

pub(crate) fn restore(arguments: &RestoreArguments) -> Result<()> {
    let device = &arguments.device;
    let mut standing = Standing::open(device)?;
    let before = standing.snapshot()?;
    standing.restore()?;
    let report = Report {
        device,
        queue: None,
        changes: changes(&before, &standing.snapshot()?),
    };
    report.print(arguments.json, "has nothing to restore")
}

impl Report<'_> {
    fn print(&self, json: bool, nothing: &str) -> Result<()> {
        if json {
            return report::print(serde_json::to_string(self)?);
        }
        for Change {
            setting,
            before,
            now,
        } in &self.changes
        {
            report::print(format_args!(
                "{}: {setting} {now} (was {before})",
                self.device
            ))?;
        }
        if self.changes.is_empty() {
            report::print(format_args!("{} {nothing}", self.device))?;
        }
        Ok(())
    }
}

fn changes(before: &Snapshot, now: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut compare = |setting: &str, before: String, now: String| {
        if before != now {
            changes.push(Change {
                setting: setting.to_owned(),
                before,
                now,
            });
        }
    };
    compare(
        "channels",
        before.channels.to_string(),
        now.channels.to_string(),
    );
    for name in before.features.union(&now.features) {
        compare(
            name,
            switch(before.features.contains(name)),
            switch(now.features.contains(name)),
        );
    }
    compare("tcp-data-split", split(&before.rings), split(&now.rings));
    let threshold = |rings: &Rings| rings.split_threshold.unwrap_or(0).to_string();
    compare(
        "hds-thresh",
        threshold(&before.rings),
        threshold(&now.rings),
    );
    compare("rss queues", queues(&before.rss), queues(&now.rss));
    changes
}

fn switch(on: bool) -> String {
    if on { "on" } else { "off" }.to_owned()
}

fn split(rings: &Rings) -> String {
    rings.data_split.to_string()
}

/// The queues that a table leads to.
fn queues(table: &[u32]) -> String {
    let mut queues = table.to_vec();
    queues.sort_unstable();
    queues.dedup();
    let names: Vec<String> = queues.iter().map(u32::to_string).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DataSplit;

    #[test]
    fn changes_are_told_by_setting() {
        let before = Snapshot {
            channels: 1,
            features: ["rx-lro".to_owned(), "rx-checksum".to_owned()].into(),
            rings: Rings {
                data_split: DataSplit::Off,
                split_threshold: None,
            },
            rss: vec![0; 8],
        };
        assert_eq!(changes(&before, &before), []);
        let now = Snapshot {
            channels: 2,
            features: ["rx-checksum".to_owned(), "rx-ntuple-filter".to_owned()].into(),
            rings: Rings {
                data_split: DataSplit::On,
                split_threshold: None,
            },
            rss: vec![0, 1, 0, 1],
        };
        let told: Vec<String> = changes(&before, &now)
            .into_iter()
            .map(|change| format!("{} {} {}", change.setting, change.before, change.now))
            .collect();
        assert_eq!(
            told,
            [
                "channels 1 2",
                "rx-lro on off",
                "rx-ntuple-filter off on",
                "tcp-data-split off on",
                "rss queues 0 0,1"
            ]
        );
    }
}
