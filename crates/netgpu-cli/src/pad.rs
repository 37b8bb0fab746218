// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu pad`: runs a command whose TCP segments have headers of full length.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result, anyhow};
use aya::programs::{CgroupAttachMode, SockOps};
use aya::{Ebpf, include_bytes_aligned};
use clap::Args;
use rustix::event::PollFlags;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::signals::{Interrupted, Signals};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// `bpf/pad.bpf.c`, compiled by `build.rs`.
static PROGRAM: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pad.bpf.o"));

/// Runs the command to its end. Its exit status becomes ours.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let signals = Signals::catch()?;
    let group = Group::new()?;
    // The program is attached as long as this lives.
    let _program = attach(&group)?;

    let (name, rest) = arguments
        .command
        .split_first()
        .context("there is no command to run")?;
    let mut members = OpenOptions::new()
        .write(true)
        .open(group.path.join("cgroup.procs"))
        .context("cannot open the list of the cgroup's processes")?;
    let mut command = Command::new(name);
    command.args(rest);
    // SAFETY: Between fork and exec the closure makes one write(2), which is async-signal-safe.
    unsafe {
        // Zero stands for the writing process.
        command.pre_exec(move || members.write_all(b"0"));
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", name.display()))?;
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the command")?;
    while let Err(error) = signals.wait(&ended, PollFlags::IN) {
        // Whoever sent it wants the command to end, and we end with it. One from a terminal it has got already.
        if !error.is::<Interrupted>() {
            return Err(error);
        }
        signals.forget();
        kill_process(pid, Signal::TERM).context("cannot pass the signal on to the command")?;
    }
    let status = child.wait().context("cannot wait for the command")?;
    Ok(exit_code(status))
}

/// As a shell reports it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}

fn attach(group: &Group) -> Result<Ebpf> {
    let mut object = Ebpf::load(PROGRAM).context("cannot load the BPF program")?;
    let program: &mut SockOps = object
        .program_mut("pad")
        .ok_or_else(|| anyhow!("the BPF object has no program named pad"))?
        .try_into()
        .context("the BPF program is of another type")?;
    program.load().context(
        "the kernel refuses the BPF program; it takes root (CAP_BPF and CAP_NET_ADMIN) and a kernel with \
         CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF",
    )?;
    let directory = File::open(&group.path).context("cannot open the cgroup")?;
    // "Single" is no flags: a link always lets others attach too, and the kernel refuses the flag that would say so.
    program
        .attach(directory, CgroupAttachMode::Single)
        .context("cannot attach the BPF program to the cgroup")?;
    Ok(object)
}

/// A cgroup of our own, removed when dropped.
struct Group {
    path: PathBuf,
}

impl Group {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")
            .context("cannot read /proc/self/mountinfo")?;
        let root = mount_point(&mounts).context(
            "cgroup v2 is not mounted; `mount -t cgroup2 none /sys/fs/cgroup` mounts it",
        )?;
        let own =
            fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
        let own = own_group(&own).context("this process is in no cgroup of version 2")?;
        let path = root
            .join(own)
            .join(format!("netgpu-pad-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| {
            format!(
                "cannot make the cgroup {}; it takes root and a writable mount",
                path.display()
            )
        })?;
        Ok(Self { path })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::warn!(
                "the cgroup {} stays: the command has left processes in it, or else: {error}",
                self.path.display()
            );
        }
    }
}

/// Where cgroup v2 is mounted, from the text of `/proc/self/mountinfo`, see proc_pid_mountinfo(5).
fn mount_point(mountinfo: &str) -> Option<&Path> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        (filesystem.split(' ').next()? == "cgroup2").then_some(())?;
        mount.split(' ').nth(4).map(Path::new)
    })
}

/// The process's cgroup relative to the mount point, from the text of `/proc/self/cgroup`, see cgroups(7).
fn own_group(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::/"))
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
    fn the_own_group_is_found() {
        assert_eq!(own_group("0::/\n"), Some(""));
        assert_eq!(
            own_group("1:net:/x\n0::/user.slice/a.scope\n"),
            Some("user.slice/a.scope")
        );
        assert_eq!(own_group("1:net:/x\n"), None);
    }

    #[test]
    fn statuses_are_as_a_shell_has_them() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), ExitCode::from(3));
        assert_eq!(
            exit_code(ExitStatus::from_raw(libc::SIGKILL)),
            ExitCode::from(137)
        );
    }
}
