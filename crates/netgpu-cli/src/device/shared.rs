// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of a device that its receivers have in common: header split, and which queues RSS leaves out.
//!
//! Receivers are processes of their own that come and go in any order, some by SIGKILL. What the device was like before
//! the first of them lies in a file below `/run/netgpu/`, together with a file for each receiver, which has its address, and which it
//! holds locked (flock(2)) as long as it lives. The last one to leave puts the device back; a receiver that was killed is put back
//! after by the next. `netgpu setup` takes part like a receiver, by a file that lasts until `netgpu restore`.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::index_of;
use super::netlink::{Channels, DataSplit, Ethtool, Features, Rings};

/// What can be set at a device; implemented by [`Ethtool`].
pub(crate) trait Settings {
    fn channels(&self) -> Result<Channels>;
    fn set_combined(&self, count: u32) -> Result<()>;
    fn features(&self) -> Result<Features>;
    /// Asks for it; the device may not follow.
    fn set_feature(&self, name: &str, on: bool) -> Result<()>;
    fn rings(&self) -> Result<Rings>;
    fn set_rings(&self, rings: Rings) -> Result<()>;
    /// A queue number each; empty where the device has no table.
    fn rss_table(&self) -> Result<Vec<u32>>;
    /// An empty table stands for the driver's default.
    fn set_rss_table(&self, table: &[u32]) -> Result<()>;

    /// Number of receive queues in use.
    fn receive_queues(&self) -> Result<u32> {
        let channels = self.channels()?;
        Ok(channels.combined + channels.receive)
    }
}

/// What is to come back when the last receiver leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    rings: Rings,
    /// As the receivers set them. Others are somebody else's will, and stay.
    rings_set: Rings,
    rss: Vec<u32>,
    /// The table, likewise.
    rss_set: Vec<u32>,
}

/// A receiver's part in the settings of its device. [`Share::leave`] gives it back.
pub(crate) struct Share<S: Settings> {
    pub(super) settings: S,
    pub(super) device: String,
    pub(super) dir: PathBuf,
    /// The file that says that we take part.
    pub(super) file: PathBuf,
    pub(super) queue: u32,
    /// Of a receiver: holds the lock that says that it lives.
    pub(super) _alive: Option<File>,
}

/// Where the state of a device is kept.
pub(super) fn folder_of(device: &str) -> Result<PathBuf> {
    let namespace = fs::metadata("/proc/self/ns/net")
        .context("cannot tell the network namespace (/proc/self/ns/net)")?
        .ino();
    let index = index_of(device)?;
    Ok(Path::new("/run/netgpu").join(format!("net-{namespace}-dev-{index}")))
}

impl Share<Ethtool> {
    /// Turns header split on at `device`, and takes `queue` out of its RSS table, beside what other receivers need. Connections to
    /// `address` are to come to that queue, which nobody else must want.
    pub(crate) fn join(device: &str, queue: u32, address: SocketAddr) -> Result<Self> {
        Self::join_at(
            Ethtool::open(device)?,
            device,
            folder_of(device)?,
            queue,
            address,
        )
    }
}

impl<S: Settings> Share<S> {
    pub(super) fn join_at(
        settings: S,
        device: &str,
        dir: PathBuf,
        queue: u32,
        address: SocketAddr,
    ) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| {
            format!(
                "cannot create {}; setting up a device takes root",
                dir.display()
            )
        })?;
        let _exclusive = lock(&dir)?;
        for other in receivers(&dir)? {
            if other.address.is_some_and(|other| overlap(other, address)) {
                bail!(
                    "TCP port {} of {device} goes to receive queue {} for another `netgpu recv`; choose another port with --listen",
                    address.port(),
                    other.queue
                );
            }
            if other.queue == queue {
                bail!(
                    "receive queue {queue} of {device} is in use by another netgpu; choose one with --queue"
                );
            }
        }
        let path = receiver_file(&dir, queue);
        let alive = File::create(&path)
            .and_then(|mut file| {
                file.lock()?;
                write!(file, "{address}")?;
                Ok(file)
            })
            .with_context(|| format!("cannot make and lock {}", path.display()))?;
        let share = Self {
            settings,
            device: device.to_owned(),
            dir,
            file: path,
            queue,
            _alive: Some(alive),
        };
        match share.enter() {
            Ok(()) => Ok(share),
            Err(error) => {
                if let Err(more) = share.withdraw() {
                    tracing::warn!(
                        "cannot put back the settings of {device}: {}",
                        crate::chain(&more)
                    );
                }
                Err(error)
            }
        }
    }

    /// Header split on, and the queue out of the RSS table. By who has locked the folder.
    pub(super) fn enter(&self) -> Result<()> {
        let Self {
            settings, device, ..
        } = self;
        let rings = settings
            .rings()
            .with_context(|| format!("cannot read the ring settings of {device}"))?;
        let rss = settings
            .rss_table()
            .with_context(|| format!("cannot read the RSS table of {device}"))?;
        let split = Rings {
            data_split: DataSplit::On,
            split_threshold: rings.split_threshold.map(|_| 0),
        };
        let mut state = self.load()?.unwrap_or_else(|| State {
            rings,
            rings_set: split,
            rss: rss.clone(),
            rss_set: rss.clone(),
        });
        state.rings = rings.unset(state.rings_set, state.rings);
        state.rings_set = split;
        if rss != state.rss_set {
            state.rss.clone_from(&rss);
        }
        let mut taken = self.others()?;
        taken.push(self.queue);
        let table = without(&state.rss, &taken, settings.receive_queues()?).with_context(|| {
            format!("all receive queues of {device} would be taken, and one must be left to other traffic")
        })?;
        state.rss_set.clone_from(&table);
        // Before the changes: who finds the file and not the table knows that we came no further.
        self.store(&state)?;

        settings.set_rings(split).with_context(|| {
            format!(
                "cannot turn header split on at {device} (`ethtool -G {device} tcp-data-split on`); on some devices \
                 `ethtool -K {device} rx-gro-hw on` or `ethtool -K {device} lro off` is needed first"
            )
        })?;
        if rings != split {
            tracing::info!("{device}: header split on");
        }
        if table != rss {
            settings.set_rss_table(&table).with_context(|| {
                format!("cannot take queue {} out of the RSS table of {device} (`ethtool -X {device} …`)", self.queue)
            })?;
            tracing::info!("{device}: queue {} taken out of the RSS table", self.queue);
        }
        Ok(())
    }

    /// Takes back what no other receiver needs.
    pub(crate) fn leave(self) -> Result<()> {
        let _exclusive = lock(&self.dir)?;
        self.withdraw()
    }

    /// As [`Self::leave`], by who has locked the folder.
    fn withdraw(&self) -> Result<()> {
        remove(&self.file)?;
        self.put_back()
    }

    /// Puts back what no other needs. By who has locked the folder; can be done again when it fails.
    pub(super) fn put_back(&self) -> Result<()> {
        let Self {
            settings, device, ..
        } = self;
        let Some(mut state) = self.load()? else {
            return Ok(());
        };
        let others = self.others()?;
        let queues = settings.receive_queues()?;
        let rss = settings.rss_table()?;
        if rss != state.rss_set && rss != state.rss {
            tracing::warn!("the RSS table of {device} was changed meanwhile and stays as it is");
        } else {
            let table = without(&state.rss, &others, queues).unwrap_or_else(|| state.rss.clone());
            if table != rss {
                // The kernel knows a default table from one that a user has set to the same, which it holds on to when the
                // number of queues changes. It does not tell which it was; the default is the better guess.
                settings.set_rss_table(if is_default(&table, queues) {
                    &[]
                } else {
                    &table
                })?;
            }
            state.rss_set = table;
        }
        if !others.is_empty() {
            return self.store(&state);
        }
        let rings = settings.rings()?;
        let before = rings.unset(state.rings_set, state.rings);
        if rings != before {
            settings.set_rings(before)?;
        }
        remove(&self.dir.join(STATE))
    }

    /// The queues of the others that take part.
    fn others(&self) -> Result<Vec<u32>> {
        let mut queues = self.receivers()?;
        let setup = self.dir.join(SETUP);
        if setup != self.file {
            queues.extend(read::<Taken>(&setup)?.map(|taken| taken.queue));
        }
        Ok(queues)
    }

    /// The queues of the other receivers.
    pub(super) fn receivers(&self) -> Result<Vec<u32>> {
        let all = receivers(&self.dir)?.into_iter();
        let others = all.filter(|one| receiver_file(&self.dir, one.queue) != self.file);
        Ok(others.map(|one| one.queue).collect())
    }

    /// What is to be put back, if that is written down.
    fn load(&self) -> Result<Option<State>> {
        read(&self.dir.join(STATE))
    }

    fn store(&self, state: &State) -> Result<()> {
        write(&self.dir.join(STATE), state)
    }
}

/// The content of a file, if it is there.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(|| {
            format!(
                "cannot understand {path}, which is perhaps of another version of netgpu: let that one restore the device, or \
                 forget what the device was like with `rm {path}`",
                path = path.display()
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Replaces the content of a file as a whole.
pub(super) fn write(path: &Path, content: &impl Serialize) -> Result<()> {
    let new = path.with_extension("new");
    serde_json::to_vec(content)
        .map_err(Into::into)
        .and_then(|text| fs::write(&new, text).and_then(|()| fs::rename(&new, path)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Of what `netgpu setup` has written down.
#[derive(Deserialize)]
struct Taken {
    queue: u32,
}

const STATE: &str = "state.json";
pub(super) const SETUP: &str = "setup.json";
const RECEIVER: &str = "queue-";

/// A receiver that lives.
struct Receiver {
    queue: u32,
    /// Where it listens, or has listened for its one connection. [`None`]: it is of a version of netgpu that does not tell.
    address: Option<SocketAddr>,
}

/// All receivers, by who has locked the folder. Forgets those that were killed.
fn receivers(dir: &Path) -> Result<Vec<Receiver>> {
    let what = || format!("cannot look into {}", dir.display());
    let mut receivers = Vec::new();
    for entry in fs::read_dir(dir).with_context(what)? {
        let entry = entry.with_context(what)?;
        let name = entry.file_name();
        let Some(queue) = name
            .to_str()
            .and_then(|name| name.strip_prefix(RECEIVER)?.parse().ok())
        else {
            continue;
        };
        let mut file = File::open(entry.path()).with_context(what)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                let mut address = String::new();
                file.read_to_string(&mut address).with_context(what)?;
                let address = address.parse().ok();
                receivers.push(Receiver { queue, address });
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(what),
            Ok(()) => remove(&entry.path())?,
        }
    }
    Ok(receivers)
}

/// Whether a connection can be to both addresses. Those of IPv6 are of IPv6 only.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.is_ipv4() == b.is_ipv4()
        && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
}

fn receiver_file(dir: &Path, queue: u32) -> PathBuf {
    dir.join(format!("{RECEIVER}{queue}"))
}

/// One at a time comes or goes, until the file is dropped.
pub(super) fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    File::create(&path)
        .and_then(|file| file.lock().map(|()| file))
        .with_context(|| format!("cannot lock {}", path.display()))
}

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The table with the entries of the `taken` queues given to the other queues in turn; [`None`] if all `queues` are
/// taken.
fn without(table: &[u32], taken: &[u32], queues: u32) -> Option<Vec<u32>> {
    if !table.iter().any(|entry| taken.contains(entry)) {
        return Some(table.to_vec());
    }
    let mut left: Vec<u32> = table
        .iter()
        .copied()
        .filter(|entry| !taken.contains(entry))
        .collect();
    left.sort_unstable();
    left.dedup();
    if left.is_empty() {
        // All connections went to these queues: let another one have them.
        left.push((0..queues).find(|queue| !taken.contains(queue))?);
    }
    let mut turn = left.iter().copied().cycle();
    table
        .iter()
        .map(|entry| {
            if taken.contains(entry) {
                turn.next()
            } else {
                Some(*entry)
            }
        })
        .collect()
}

/// Whether the table is what `ethtool_rxfh_indir_default()` of `include/linux/ethtool.h` makes: all queues in turn.
fn is_default(table: &[u32], queues: u32) -> bool {
    (0..)
        .zip(table)
        .all(|(index, &entry): (u32, _)| entry == index % queues)
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, OFF, Shared};
    use super::*;

    #[test]
    fn queues_leave_the_table() {
        assert_eq!(
            without(&[0, 1, 2, 3, 0, 1, 2, 3], &[3], 4),
            Some(vec![0, 1, 2, 0, 0, 1, 2, 1])
        );
        assert_eq!(
            without(&[0, 1, 2, 3, 0, 1, 2, 3], &[3, 1], 4),
            Some(vec![0, 0, 2, 2, 0, 0, 2, 2])
        );
        assert_eq!(without(&[0; 4], &[0], 2), Some(vec![1; 4]));
        assert_eq!(without(&[1; 4], &[1, 0], 3), Some(vec![2; 4]));
        assert_eq!(without(&[0, 1], &[2], 3), Some(vec![0, 1]));
        assert_eq!(without(&[0, 1], &[0, 1], 2), None);
        assert_eq!(without(&[], &[0], 1), Some(vec![]));
    }

    #[test]
    fn the_default_table_is_recognised() {
        assert!(is_default(&[0, 1, 2, 0, 1, 2, 0, 1], 3));
        assert!(!is_default(&[0, 1, 2, 0], 4));
        assert!(!is_default(&[0, 0], 2));
    }

    /// A device, and a folder that lasts as long as the first part.
    fn device(table: &[u32]) -> (tempfile::TempDir, Shared) {
        (
            tempfile::tempdir().expect("a folder"),
            fake::device(4, table),
        )
    }

    fn join(dir: &tempfile::TempDir, device: &Shared, queue: u32) -> Result<Share<Shared>> {
        join_for(dir, device, queue, &format!("0.0.0.0:{}", 5000 + queue))
    }

    fn join_for(
        dir: &tempfile::TempDir,
        device: &Shared,
        queue: u32,
        address: &str,
    ) -> Result<Share<Shared>> {
        let address = address.parse().expect("it is one");
        Share::join_at(
            device.clone(),
            "eth0",
            dir.path().join("eth0"),
            queue,
            address,
        )
    }

    #[test]
    fn the_last_to_leave_puts_everything_back_in_either_order() {
        for table in [&[0, 1, 2, 3, 0, 1, 2, 3], &[3, 3, 2, 1, 0, 0, 0, 0]] {
            for first_leaves_first in [true, false] {
                let (dir, device) = device(table);
                let before = device.borrow().clone();
                let (a, b) = (
                    join(&dir, &device, 2).expect("queue 2"),
                    join(&dir, &device, 3).expect("queue 3"),
                );
                assert!(device.borrow().table.iter().all(|&queue| queue < 2));
                let (first, second) = if first_leaves_first { (a, b) } else { (b, a) };
                let staying = second.queue;
                first.leave().expect("it can leave");
                assert_eq!(device.borrow().rings.data_split, DataSplit::On);
                assert!(!device.borrow().table.contains(&staying));
                assert!(device.borrow().table.contains(&(5 - staying)));
                second.leave().expect("it can leave");
                assert_eq!(*device.borrow(), before);
            }
        }
    }

    #[test]
    fn what_a_killed_one_left_is_put_back_by_the_next() {
        let (dir, device) = device(&[0, 1, 2, 3, 0, 1, 2, 3]);
        let before = device.borrow().clone();
        // Dropped without leaving: what SIGKILL makes of it.
        drop(join(&dir, &device, 3).expect("queue 3"));
        assert_ne!(*device.borrow(), before);
        join(&dir, &device, 2)
            .expect("queue 2")
            .leave()
            .expect("it can leave");
        assert_eq!(*device.borrow(), before);
    }

    #[test]
    fn a_queue_has_one_receiver() {
        let (dir, device) = device(&[0, 1, 2, 3]);
        let first = join(&dir, &device, 3).expect("queue 3");
        let during = device.borrow().clone();
        let refused = join_for(&dir, &device, 3, "0.0.0.0:1")
            .err()
            .expect("it is in use")
            .to_string();
        assert!(refused.contains("queue 3 of eth0 is in use"), "{refused}");
        assert_eq!(*device.borrow(), during);
        first.leave().expect("it can leave");
    }

    #[test]
    fn a_port_has_one_receiver() {
        let any = "0.0.0.0:5000";
        let taken = [
            (any, any),
            (any, "192.0.2.1:5000"),
            ("192.0.2.1:5000", any),
            ("[::]:5000", "[2001:db8::1]:5000"),
        ];
        for (first, second) in taken {
            let (dir, device) = device(&[0, 1, 2, 3]);
            let share = join_for(&dir, &device, 3, first).expect("queue 3");
            let during = device.borrow().clone();
            for queue in [2, 3] {
                let refused = join_for(&dir, &device, queue, second)
                    .err()
                    .expect("it is taken")
                    .to_string();
                assert!(
                    refused.contains("port 5000 of eth0 goes to receive queue 3"),
                    "{refused}"
                );
                assert_eq!(*device.borrow(), during);
            }
            // Killed.
            drop(share);
            join_for(&dir, &device, 2, second).expect("it is free");
        }
        let free = [
            (any, "0.0.0.0:5001"),
            (any, "[::]:5000"),
            ("192.0.2.1:5000", "192.0.2.2:5000"),
        ];
        for (first, second) in free {
            let (dir, device) = device(&[0, 1, 2, 3]);
            let first = join_for(&dir, &device, 3, first).expect("queue 3");
            join_for(&dir, &device, 2, second).expect("it is free");
            first.leave().expect("it can leave");
        }
    }

    #[test]
    fn a_refusal_changes_nothing() {
        let (dir, device) = device(&[0, 1, 2, 3]);
        device.borrow_mut().refuses_split = true;
        let before = device.borrow().clone();
        assert!(join(&dir, &device, 3).is_err());
        assert_eq!(*device.borrow(), before);
        // Nor is a queue left for others by the last ones.
        device.borrow_mut().refuses_split = false;
        let shares: Vec<_> = (0..3)
            .map(|queue| join(&dir, &device, queue).expect("one is left"))
            .collect();
        let during = device.borrow().clone();
        assert!(join(&dir, &device, 3).is_err());
        assert_eq!(*device.borrow(), during);
        drop(shares);
    }

    #[test]
    fn what_others_set_meanwhile_stays() {
        let (dir, device) = device(&[0, 1, 2, 3]);
        let share = join(&dir, &device, 3).expect("queue 3");
        device.borrow_mut().table = vec![2, 2, 2, 2];
        share.leave().expect("it can leave");
        assert_eq!(device.borrow().table, [2, 2, 2, 2]);
        assert_eq!(device.borrow().rings, OFF);
        // Each of the ring settings by itself, also where another receiver came after.
        for (data_split, split_threshold) in [(DataSplit::Off, 0), (DataSplit::On, 100)] {
            for again in [false, true] {
                let (dir, device) = self::device(&[0, 1, 2, 3]);
                device.borrow_mut().rings.data_split = DataSplit::Unknown;
                let mut shares = vec![join(&dir, &device, 3).expect("queue 3")];
                device.borrow_mut().rings = Rings {
                    data_split,
                    split_threshold: Some(split_threshold),
                };
                if again {
                    shares.push(join(&dir, &device, 2).expect("queue 2"));
                }
                for share in shares {
                    share.leave().expect("it can leave");
                }
                let wanted = if data_split == DataSplit::On {
                    (DataSplit::Unknown, Some(100))
                } else {
                    (DataSplit::Off, OFF.split_threshold)
                };
                let rings = device.borrow().rings;
                assert_eq!((rings.data_split, rings.split_threshold), wanted, "{again}");
            }
        }
    }

    #[test]
    fn what_cannot_be_understood_is_not_taken_for_nothing() {
        for (name, table) in [(STATE, [0, 1, 2, 2]), (SETUP, [0, 1, 2, 3])] {
            let (dir, device) = device(&table);
            let folder = dir.path().join("eth0");
            fs::create_dir(&folder).expect("it can be made");
            fs::write(folder.join(name), "{\"of\":\"another version\"}").expect("it can be made");
            let before = device.borrow().clone();
            let error = join(&dir, &device, 3).err().expect("it is not understood");
            let said = crate::chain(&error);
            assert!(
                said.contains(&format!("rm {}", folder.join(name).display())),
                "{said}"
            );
            assert_eq!(*device.borrow(), before);
            fs::remove_file(folder.join(name)).expect("it is there");
            join(&dir, &device, 3).expect("nothing is in the way");
        }
    }
}
