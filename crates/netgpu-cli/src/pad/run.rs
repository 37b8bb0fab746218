// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu pad run`: a command in a cgroup of its own.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, ExitStatus};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, kill_process, pidfd_open};

use crate::signals::Interrupted;

use super::relay::Relay;
use super::{cgroup, program};

/// Runs the command to its end. Its exit status becomes ours, and signals to us are passed on to it.
pub(crate) fn run(command: &[OsString]) -> Result<ExitCode> {
    let signals = Relay::new()?;
    let group = Group::new()?;
    // The program is attached as long as this lives.
    let _program = program::attach(&group.path)?;

    let (name, rest) = command
        .split_first()
        .context("there is no command to run")?;
    let mut members = OpenOptions::new()
        .write(true)
        .open(group.path.join("cgroup.procs"))
        .context("cannot open the list of the cgroup's processes")?;
    let mut command = Command::new(name);
    command.args(rest);
    let mask = signals.before();
    // SAFETY: Between fork and exec the closure makes a write(2) and a sigprocmask(2), which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // Zero stands for the writing process.
            members.write_all(b"0")?;
            mask.set()
        });
    }
    // Of what has come so far the command would not know.
    if let Some(sent) = signals.next()? {
        return Err(Interrupted::by(sent.signal).into());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", name.display()))?;
    let pid = Pid::from_child(&child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("cannot watch the command")?;
    loop {
        let mut fds = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&ended, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the command"),
        }
        let has_ended = fds[1].revents().contains(PollFlags::IN);
        while let Some(sent) = signals.next()? {
            if sent.is_for_us_alone() {
                kill_process(pid, sent.signal)
                    .context("cannot pass the signal on to the command")?;
            }
        }
        if has_ended {
            break;
        }
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

/// A cgroup of our own, removed when dropped.
struct Group {
    path: PathBuf,
}

impl Group {
    fn new() -> Result<Self> {
        let root = cgroup::root()?;
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

/// The process's cgroup relative to the mount point, from the text of `/proc/self/cgroup`, see cgroups(7).
fn own_group(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::/"))
}

#[cfg(test)]
mod tests {
    use super::*;

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
