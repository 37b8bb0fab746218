// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu pad on` and `off`: a cgroup that is there, until it is switched off or gone.
//!
//! The program hangs on the cgroup by a link, which lasts as long as its file in the BPF file system.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{cgroup, program};
use crate::report;

const BPF: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of `include/uapi/linux/magic.h`.
const BPF_FS: i64 = 0xcafe_4a11;

/// What is the case now.
#[derive(Serialize)]
pub(super) struct State {
    cgroup: PathBuf,
    on: bool,
    /// It was not before.
    changed: bool,
}

impl State {
    pub(super) fn print(&self, json: bool) -> Result<()> {
        if json {
            return report::print(serde_json::to_string(self)?);
        }
        let cgroup = self.cgroup.display();
        let what = match (self.on, self.changed) {
            (true, true) => "connections that are made from now on have headers of full length",
            (true, false) => "is on already",
            (false, true) => "headers are as long as they need be",
            (false, false) => "is off already",
        };
        report::print(format_args!("{cgroup}: {what}"))
    }
}

pub(super) fn on(name: &Path) -> Result<State> {
    let cgroup = cgroup::folder(name)?;
    let file = file_of(&cgroup)?;
    if file.exists() {
        return Ok(State {
            cgroup,
            on: true,
            changed: false,
        });
    }
    let system = rustix::fs::statfs(BPF).with_context(|| format!("there is no {BPF}"))?;
    if system.f_type != BPF_FS {
        bail!("the BPF file system is not mounted; `mount -t bpf bpf {BPF}` mounts it");
    }
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    program::attach(&cgroup)?
        .pin(&file)
        .with_context(|| format!("cannot make {}", file.display()))?;
    Ok(State {
        cgroup,
        on: true,
        changed: true,
    })
}

pub(super) fn off(name: &Path) -> Result<State> {
    let cgroup = cgroup::folder(name)?;
    let file = file_of(&cgroup)?;
    let changed = match fs::remove_file(&file) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => {
            return Err(error).with_context(|| format!("cannot remove {}", file.display()));
        }
    };
    Ok(State {
        cgroup,
        on: false,
        changed,
    })
}

/// The file of a cgroup's link. No two cgroups ever have the same number.
fn file_of(cgroup: &Path) -> Result<PathBuf> {
    let number = fs::metadata(cgroup)
        .with_context(|| format!("cannot look at {}", cgroup.display()))?
        .ino();
    Ok(Path::new(BPF).join("netgpu").join(format!("pad-{number}")))
}
