// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where cgroups are.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// `CGROUP2_SUPER_MAGIC` of `include/uapi/linux/magic.h`.
const CGROUP2: i64 = 0x6367_7270;

/// The root of all cgroups of version 2.
pub(super) fn root() -> Result<PathBuf> {
    let mounts =
        fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let root = mount_point(&mounts)
        .context("cgroup v2 is not mounted; `mount -t cgroup2 none /sys/fs/cgroup` mounts it")?;
    Ok(root.to_owned())
}

/// The folder of a cgroup, which may be named from the root of all.
pub(super) fn folder(name: &Path) -> Result<PathBuf> {
    let path = if name.is_absolute() {
        name.to_owned()
    } else {
        root()?.join(name)
    };
    let system = rustix::fs::statfs(&path)
        .with_context(|| format!("there is no cgroup {}", path.display()))?;
    if system.f_type != CGROUP2 || !path.is_dir() {
        bail!(
            "{} is no cgroup of version 2; `systemd-cgls` lists them",
            path.display()
        );
    }
    Ok(path)
}

/// Where cgroup v2 is mounted, from the text of `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
fn mount_point(mountinfo: &str) -> Option<&Path> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (filesystem.split(' ').next()? == "cgroup2").then_some(())?;
        mount.split(' ').nth(4).map(Path::new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_point_is_found() {
        let text = "25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                    28 25 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(mount_point(text), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(mount_point("25 30 0:23 / /sys rw - sysfs sysfs rw\n"), None);
        assert_eq!(mount_point(""), None);
    }

    #[test]
    fn what_is_no_cgroup_is_refused() {
        let error = folder(Path::new("/proc")).expect_err("it is none");
        assert!(error.to_string().contains("/proc is no cgroup"), "{error}");
        let error = folder(Path::new("/nowhere/at/all")).expect_err("it is none");
        assert!(error.to_string().contains("there is no cgroup"), "{error}");
    }
}
