// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device that is set up until somebody restores it, for programs that do not set it up themselves.
//!
//! What is changed is written down before, beside the state of the receivers (see [`super::shared`]), so that it can be undone
//! wherever setting up was interrupted. What others have changed since stays as they want it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::netlink::{DataSplit, Ethtool, Rings};
use super::shared::{self, SETUP, Settings, Share};

/// Steering rules; drivers differ in whether they take them while it is off.
const NTUPLE: &str = "rx-ntuple-filter";
/// What keeps a driver from splitting headers, and the other way round: tried in this order where it refuses.
const REMEDIES: [(&str, bool); 2] = [("rx-lro", false), ("rx-gro-hw", true)];

/// What is to be undone, beside what [`Share`] does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    queue: u32,
    channels: Option<Changed<u32>>,
    features: Vec<(String, Changed<bool>)>,
}

/// A setting as it was, and as it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Changed<T> {
    before: T,
    set: T,
}

/// All that may be changed, at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) channels: u32,
    /// Those that are on.
    pub(crate) features: BTreeSet<String>,
    pub(crate) rings: Rings,
    pub(crate) rss: Vec<u32>,
}

/// One device, with nobody else setting it up or restoring it meanwhile.
pub(crate) struct Standing<S: Settings> {
    share: Share<S>,
    record: Option<Record>,
    _exclusive: File,
}

impl Standing<Ethtool> {
    pub(crate) fn open(device: &str) -> Result<Self> {
        Self::open_at(Ethtool::open(device)?, device, shared::folder_of(device)?)
    }
}

impl<S: Settings> Standing<S> {
    fn open_at(settings: S, device: &str, dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| {
            format!(
                "cannot create {}; setting up a device takes root",
                dir.display()
            )
        })?;
        let exclusive = shared::lock(&dir)?;
        let file = dir.join(SETUP);
        let record: Option<Record> = shared::read(&file)?;
        let share = Share {
            settings,
            device: device.to_owned(),
            dir,
            file,
            queue: record.as_ref().map_or(0, |record| record.queue),
            _alive: None,
        };
        Ok(Self {
            share,
            record,
            _exclusive: exclusive,
        })
    }

    /// What the device is like now.
    pub(crate) fn snapshot(&self) -> Result<Snapshot> {
        let settings = &self.share.settings;
        let what = || format!("cannot read the settings of {}", self.share.device);
        Ok(Snapshot {
            channels: settings.channels().with_context(what)?.combined,
            features: settings.features().with_context(what)?.active,
            rings: settings.rings().with_context(what)?,
            rss: settings.rss_table().with_context(what)?,
        })
    }

    /// Sets the device up, with `queue` or else the last receive queue for netgpu, which it returns. Done again, it sets what is not set
    /// any more. When it fails the first time, nothing is changed by what it has done.
    pub(crate) fn set_up(&mut self, queue: Option<u32>) -> Result<u32> {
        let device = self.share.device.clone();
        if let Some(Record { queue: taken, .. }) = self.record
            && queue.is_some_and(|queue| queue != taken)
        {
            bail!(
                "{device} is set up for receive queue {taken} already; `netgpu restore {device}` undoes that"
            );
        }
        let fresh = self.record.is_none();
        let done = self.change(queue);
        if done.is_err()
            && fresh
            && let Err(error) = self.undo()
        {
            tracing::warn!(
                "{device} could not be put back ({}); `netgpu restore {device}` tries again",
                crate::chain(&error)
            );
        }
        done
    }

    fn change(&mut self, queue: Option<u32>) -> Result<u32> {
        let channels = self.share.settings.channels().with_context(|| {
            format!(
                "cannot read the number of channels of {}",
                self.share.device
            )
        })?;
        let queues = channels.combined + channels.receive;
        let wanted = if queues < 2 { 2 } else { channels.combined };
        if channels.most_combined < wanted {
            bail!(
                "{} can have {} receive queue, and two are needed: one for netgpu and one for all other traffic",
                self.share.device,
                queues.max(channels.most_combined)
            );
        }
        let last = queues.max(2) - 1;
        let queue = match &self.record {
            Some(record) => record.queue,
            None => queue.unwrap_or(last),
        };
        if queue > last {
            bail!(
                "{device} has no receive queue {queue}: there are {}, counted from 0; `ethtool -L {device} combined {}` makes as many",
                last + 1,
                queue + 1,
                device = self.share.device,
            );
        }
        self.share.queue = queue;
        let record = self.record.get_or_insert(Record {
            queue,
            channels: None,
            features: Vec::new(),
        });
        if wanted != channels.combined {
            let before = record
                .channels
                .map_or(channels.combined, |changed| changed.before);
            record.channels = Some(Changed {
                before,
                set: wanted,
            });
            shared::write(&self.share.file, record)?;
            self.share
                .settings
                .set_combined(wanted)
                .with_context(|| {
                    format!(
                        "cannot give {device} {wanted} channels (`ethtool -L {device} combined {wanted}`)",
                        device = self.share.device
                    )
                })?;
        }
        shared::write(&self.share.file, record)?;
        self.set_feature(NTUPLE, true)?;
        let mut remedies = REMEDIES.into_iter();
        loop {
            let Err(error) = self.share.enter() else {
                return Ok(queue);
            };
            // Where the split is there, they do not help.
            if self.share.settings.rings()?.data_split == DataSplit::On {
                return Err(error);
            }
            let mut changed = false;
            for (name, on) in remedies.by_ref() {
                changed = self.set_feature(name, on)?;
                if changed {
                    break;
                }
            }
            if !changed {
                return Err(error);
            }
        }
    }

    /// Turns a feature on or off, where that changes anything and the device can; tells whether it has.
    fn set_feature(&mut self, name: &str, on: bool) -> Result<bool> {
        let Self { share, record, .. } = self;
        let what = || {
            format!(
                "cannot turn {name} {} at {}",
                if on { "on" } else { "off" },
                share.device
            )
        };
        let features = share.settings.features().with_context(what)?;
        let before = features.active.contains(name);
        if before == on || !features.changeable.contains(name) {
            return Ok(false);
        }
        let record = record.as_mut().context("nothing is written down yet")?;
        if !record.features.iter().any(|(known, _)| known == name) {
            let changed = Changed { before, set: on };
            record.features.push((name.to_owned(), changed));
            shared::write(&share.file, record)?;
        }
        share.settings.set_feature(name, on).with_context(what)?;
        Ok(true)
    }

    /// Undoes all of it. Can be done again when it fails, and where nothing was set up; there it puts back what receivers have left
    /// that were killed.
    pub(crate) fn restore(&mut self) -> Result<()> {
        if let Some(queue) = self.share.receivers()?.first() {
            bail!(
                "receive queue {queue} of {} is in use by `netgpu recv`; restore the device when that has ended",
                self.share.device
            );
        }
        self.undo()
    }

    /// Undoes all of it but what receivers need.
    fn undo(&mut self) -> Result<()> {
        let Self { share, record, .. } = self;
        let device = &share.device;
        let what =
            || format!("cannot put back all settings of {device}; what is left can be tried again");
        share.put_back().with_context(what)?;
        let Some(record) = record else {
            return Ok(());
        };
        for (name, changed) in record.features.iter().rev() {
            let now = share
                .settings
                .features()
                .with_context(what)?
                .active
                .contains(name);
            if now == changed.set && now != changed.before {
                share
                    .settings
                    .set_feature(name, changed.before)
                    .with_context(what)?;
            }
        }
        if let Some(changed) = record.channels {
            let now = share.settings.channels().with_context(what)?.combined;
            if now == changed.set && now != changed.before {
                share
                    .settings
                    .set_combined(changed.before)
                    .with_context(what)?;
            }
        }
        shared::remove(&share.file)?;
        self.record = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, Device, Shared};
    use super::*;

    const EVENLY: [u32; 8] = [0, 1, 2, 3, 0, 1, 2, 3];

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn standing(dir: &tempfile::TempDir, device: &Shared) -> Standing<Shared> {
        Standing::open_at(device.clone(), "eth0", dir.path().join("eth0")).expect("it opens")
    }

    fn receiver(dir: &tempfile::TempDir, device: &Shared, queue: u32) -> Share<Shared> {
        let address = ([0, 0, 0, 0], 5000).into();
        Share::join_at(
            device.clone(),
            "eth0",
            dir.path().join("eth0"),
            queue,
            address,
        )
        .expect("it joins")
    }

    /// One queue, LRO on, so that everything has to be changed.
    fn plain() -> Shared {
        let device = fake::device(1, &[0; 8]);
        {
            let mut device = device.borrow_mut();
            device.features.active.insert("rx-lro".into());
            device.lro_keeps_split_off = true;
        }
        device
    }

    fn is_ready(device: &Device, queue: u32) -> bool {
        device.channels >= 2
            && device.rings.data_split == DataSplit::On
            && device.rings.split_threshold == Some(0)
            && device.features.active.contains(NTUPLE)
            && !device.features.active.contains("rx-lro")
            && !device.table.contains(&queue)
    }

    #[test]
    fn what_is_set_up_is_restored_exactly() {
        for (device, last) in [(plain(), 1), (fake::device(4, &EVENLY), 3)] {
            let dir = folder();
            let before = device.borrow().clone();
            let queue = standing(&dir, &device).set_up(None).expect("it can be");
            assert_eq!(queue, last);
            assert!(is_ready(&device.borrow(), last), "{device:?}");
            // Another process; and once more, which does nothing.
            standing(&dir, &device).restore().expect("it can be");
            assert_eq!(*device.borrow(), before);
            standing(&dir, &device)
                .restore()
                .expect("there is nothing to do");
            assert_eq!(*device.borrow(), before);
        }
    }

    #[test]
    fn again_changes_nothing_and_another_queue_is_refused() {
        let (dir, device) = (folder(), plain());
        let before = device.borrow().clone();
        standing(&dir, &device).set_up(None).expect("it can be");
        let ready = device.borrow().clone();
        assert_eq!(standing(&dir, &device).set_up(None).ok(), Some(1));
        assert_eq!(standing(&dir, &device).set_up(Some(1)).ok(), Some(1));
        assert_eq!(*device.borrow(), ready);
        let error = standing(&dir, &device)
            .set_up(Some(0))
            .expect_err("it is taken");
        assert!(error.to_string().contains("netgpu restore eth0"), "{error}");
        assert_eq!(*device.borrow(), ready);
        standing(&dir, &device).restore().expect("it can be");
        assert_eq!(*device.borrow(), before);
    }

    #[test]
    fn what_is_lost_is_set_again() {
        let (dir, device) = (folder(), fake::device(4, &EVENLY));
        standing(&dir, &device).set_up(None).expect("it can be");
        // As after a suspend.
        device.borrow_mut().table = EVENLY.to_vec();
        standing(&dir, &device).set_up(None).expect("it can be");
        assert!(is_ready(&device.borrow(), 3));
    }

    #[test]
    fn after_others_have_turned_the_split_off_it_still_knows_how_the_device_was() {
        let (dir, device) = (folder(), fake::device(4, &EVENLY));
        standing(&dir, &device).set_up(None).expect("it can be");
        device.borrow_mut().rings.data_split = DataSplit::Off;
        standing(&dir, &device).set_up(None).expect("it can be");
        assert!(is_ready(&device.borrow(), 3));
        standing(&dir, &device).restore().expect("it can be");
        let device = device.borrow();
        assert_eq!(device.table, EVENLY);
        assert_eq!(device.rings.data_split, DataSplit::Off);
    }

    #[test]
    fn wherever_it_is_interrupted_it_can_be_restored() {
        let mut steps = 0;
        loop {
            let (dir, device) = (folder(), plain());
            let before = device.borrow().clone();
            // From there on nothing can be changed, nor undone: what a kill makes of it.
            device.borrow_mut().changes_left = Some(steps);
            let done = standing(&dir, &device).set_up(None);
            device.borrow_mut().changes_left = None;
            if done.is_ok() {
                assert!(steps >= 5, "channels, ntuple, LRO, split, RSS: {steps}");
                break;
            }
            standing(&dir, &device).restore().expect("it can be");
            assert_eq!(*device.borrow(), before, "after {steps} changes");
            steps += 1;
        }
    }

    #[test]
    fn a_restore_that_fails_can_be_tried_again() {
        for steps in 0..5 {
            let (dir, device) = (folder(), plain());
            let before = device.borrow().clone();
            standing(&dir, &device).set_up(None).expect("it can be");
            device.borrow_mut().changes_left = Some(steps);
            assert!(
                standing(&dir, &device).restore().is_err(),
                "after {steps} changes"
            );
            device.borrow_mut().changes_left = None;
            standing(&dir, &device).restore().expect("it can be");
            assert_eq!(*device.borrow(), before, "after {steps} changes");
        }
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let (dir, device) = (folder(), plain());
        device.borrow_mut().refuses_split = true;
        let before = device.borrow().clone();
        assert!(standing(&dir, &device).set_up(None).is_err());
        assert_eq!(*device.borrow(), before);
        let one = fake::device(1, &[0; 8]);
        one.borrow_mut().most_channels = 1;
        let error = standing(&folder(), &one)
            .set_up(None)
            .expect_err("it has one");
        assert!(error.to_string().contains("two are needed"), "{error}");
        let error = standing(&folder(), &plain())
            .set_up(Some(7))
            .expect_err("there is none");
        assert!(error.to_string().contains("combined 8"), "{error}");
    }

    /// What the folder holds.
    fn contents(dir: &tempfile::TempDir) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all: Vec<_> = fs::read_dir(dir.path().join("eth0"))
            .expect("it is there")
            .map(|entry| entry.expect("it can be read").path())
            .map(|path| (path.clone(), fs::read(path).expect("it can be read")))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_refusal_beside_a_receiver_changes_nothing() {
        let (dir, device) = (folder(), fake::device(2, &[0, 1, 0, 1, 0, 1, 0, 1]));
        device.borrow_mut().features.active.insert("rx-lro".into());
        let before = device.borrow().clone();
        let receiver = receiver(&dir, &device, 1);
        let during = (device.borrow().clone(), contents(&dir));
        let error = standing(&dir, &device)
            .set_up(Some(0))
            .expect_err("no queue would be left");
        assert!(error.to_string().contains("would be taken"), "{error}");
        assert_eq!((device.borrow().clone(), contents(&dir)), during);
        receiver.leave().expect("it can leave");
        assert_eq!(*device.borrow(), before);
    }

    #[test]
    fn receivers_come_and_go_meanwhile() {
        let (dir, device) = (folder(), fake::device(4, &EVENLY));
        let before = device.borrow().clone();
        standing(&dir, &device).set_up(None).expect("it can be");
        let ready = device.borrow().clone();
        for queue in [3, 2] {
            let receiver = receiver(&dir, &device, queue);
            let error = standing(&dir, &device).restore().expect_err("it is in use");
            assert!(
                error.to_string().contains(&format!("queue {queue}")),
                "{error}"
            );
            assert!(is_ready(&device.borrow(), 3));
            receiver.leave().expect("it can leave");
            assert_eq!(*device.borrow(), ready);
        }
        standing(&dir, &device).restore().expect("it can be");
        assert_eq!(*device.borrow(), before);
        // What a receiver has left that was killed.
        drop(receiver(&dir, &device, 1));
        assert_ne!(*device.borrow(), before);
        standing(&dir, &device).restore().expect("it can be");
        assert_eq!(*device.borrow(), before);
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken_for_nothing() {
        let (dir, device) = (folder(), plain());
        standing(&dir, &device).set_up(None).expect("it can be");
        let ready = device.borrow().clone();
        for name in [SETUP, "state.json"] {
            let file = dir.path().join("eth0").join(name);
            let text = fs::read(&file).expect("it is there");
            fs::write(&file, "{}").expect("it can be written");
            let error = Standing::open_at(device.clone(), "eth0", dir.path().join("eth0"))
                .and_then(|mut standing| standing.restore())
                .expect_err("it is not understood");
            let said = crate::chain(&error);
            assert!(said.contains(&format!("rm {}", file.display())), "{said}");
            assert_eq!(*device.borrow(), ready);
            fs::write(&file, text).expect("it can be written");
        }
        standing(&dir, &device).restore().expect("it can be");
    }

    #[test]
    fn what_others_have_set_since_stays() {
        let (dir, device) = (folder(), plain());
        standing(&dir, &device).set_up(None).expect("it can be");
        {
            let mut device = device.borrow_mut();
            device.channels = 6;
            device.features.active.remove(NTUPLE);
        }
        standing(&dir, &device).restore().expect("it can be");
        let device = device.borrow();
        assert_eq!(device.channels, 6);
        assert!(!device.features.active.contains(NTUPLE));
        assert!(device.features.active.contains("rx-lro"));
    }
}
