// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processes have which context open, from /proc/PID/fdinfo.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::machine::Machine;

const DEVICE: &str = "/dev/netgpu";

/// A process that has a context open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Owner {
    pub(crate) pid: u32,
    /// Name of its program, which it can choose itself: with what is no text as escapes.
    pub(crate) comm: String,
    pub(crate) uid: u32,
    /// The user's name, or the number where /etc/passwd has none.
    pub(crate) user: String,
    /// Whether its network namespace is ours.
    #[serde(skip)]
    pub(crate) here: bool,
}

/// The owners of each context, by its number.
pub(crate) fn all(machine: &Machine) -> BTreeMap<u64, Vec<Owner>> {
    let mut owners: BTreeMap<u64, Vec<Owner>> = BTreeMap::new();
    let mut pids: Vec<u32> = machine
        .names("/proc")
        .iter()
        .filter_map(|name| name.parse().ok())
        .collect();
    pids.sort_unstable();
    for pid in pids {
        let contexts = contexts_of(machine, pid);
        if contexts.is_empty() {
            continue;
        }
        // It may have ended meanwhile.
        let Some(owner) = owner(machine, pid) else {
            continue;
        };
        for context in contexts {
            owners.entry(context).or_default().push(owner.clone());
        }
    }
    owners
}

fn contexts_of(machine: &Machine, pid: u32) -> BTreeSet<u64> {
    let fds = machine.names(&format!("/proc/{pid}/fd"));
    let ours = fds.iter().filter(|fd| {
        machine
            .link(&format!("/proc/{pid}/fd/{fd}"))
            .is_ok_and(|to| to.as_os_str() == DEVICE)
    });
    ours.filter_map(|fd| {
        let text = machine.read(&format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
        text.lines()
            .find_map(|line| line.strip_prefix("netgpu-context:"))?
            .trim()
            .parse()
            .ok()
    })
    .collect()
}

fn owner(machine: &Machine, pid: u32) -> Option<Owner> {
    // It has the name, too.
    let status = machine.bytes(&format!("/proc/{pid}/status")).ok()?;
    let uid = String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_ascii_whitespace()
        .next()?
        .parse()
        .ok()?;
    let namespace = |pid: &str| machine.link(&format!("/proc/{pid}/ns/net")).ok();
    Some(Owner {
        pid,
        comm: visible(&machine.bytes(&format!("/proc/{pid}/comm")).ok()?),
        uid,
        user: user(machine, uid),
        here: namespace(&pid.to_string()) == namespace("self"),
    })
}

/// A name without the end of its line, and with nothing in it that a terminal would obey.
fn visible(name: &[u8]) -> String {
    let name = name.strip_suffix(b"\n").unwrap_or(name);
    name.utf8_chunks().fold(String::new(), |mut text, part| {
        for char in part.valid().chars() {
            if char.is_control() {
                text.extend(char.escape_default());
            } else {
                text.push(char);
            }
        }
        text.extend(part.invalid().escape_ascii().map(char::from));
        text
    })
}

fn user(machine: &Machine, uid: u32) -> String {
    let number = uid.to_string();
    machine
        .read("/etc/passwd")
        .ok()
        .and_then(|users| {
            users.lines().find_map(|line| {
                let mut fields = line.split(':');
                let name = fields.next()?;
                (fields.nth(1)? == number).then(|| name.to_owned())
            })
        })
        .unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::Tree;

    #[test]
    fn a_terminal_obeys_no_name() {
        for (name, shown) in [
            (&b"netgpu\n"[..], "netgpu"),
            (b"a \"b\"\\ \xc3\xa4\n", "a \"b\"\\ \u{e4}"),
            (b"\x1b[2J\n\x7f\n", r"\u{1b}[2J\n\u{7f}"),
            (b"\xc2\x9b2J\n", r"\u{9b}2J"),
            (b"\x9b\xff\n", r"\x9b\xff"),
        ] {
            assert_eq!(visible(name), shown);
        }
        let tree = Tree::new()
            .link("proc/20/fd/3", "/dev/netgpu")
            .file("proc/20/fdinfo/3", "netgpu-context:\t7\n")
            .bytes("proc/20/comm", b"\x1b\xff\n")
            .bytes("proc/20/status", b"Name:\t\x1b\xff\nUid:\t33\t33\t33\t33\n");
        assert_eq!(all(&tree)[&7][0].comm, r"\u{1b}\xff");
    }

    #[test]
    fn owners_are_those_that_have_the_device_open() {
        let tree = Tree::new()
            .file(
                "etc/passwd",
                "root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/home/anna:/bin/sh\n",
            )
            .link("proc/self/ns/net", "net:[1]")
            // Two contexts and an area.
            .link("proc/20/fd/3", "/dev/netgpu")
            .file("proc/20/fdinfo/3", "pos:\t0\nnetgpu-context:\t7\n")
            .link("proc/20/fd/4", "/dev/netgpu")
            .file("proc/20/fdinfo/4", "pos:\t0\n")
            .link("proc/20/fd/5", "/dev/netgpu")
            .file("proc/20/fdinfo/5", "netgpu-context:\t8\n")
            .link("proc/20/ns/net", "net:[1]")
            .file("proc/20/comm", "netgpu\n")
            .file(
                "proc/20/status",
                "Name:\tnetgpu\nUid:\t1000\t1000\t1000\t1000\n",
            )
            // One of them, passed on to somebody elsewhere.
            .link("proc/9/fd/0", "/dev/netgpu")
            .file("proc/9/fdinfo/0", "netgpu-context:\t7\n")
            .link("proc/9/ns/net", "net:[2]")
            .file("proc/9/comm", "other\n")
            .file("proc/9/status", "Uid:\t33\t33\t33\t33\n")
            // Nothing of ours.
            .link("proc/1/fd/0", "/dev/null")
            .file("proc/1/fdinfo/0", "netgpu-context:\t7\n");
        let owners = all(&tree);
        let told = |id| -> Vec<String> {
            owners[&id]
                .iter()
                .map(|o| format!("{} {} {} {}", o.pid, o.comm, o.user, o.here))
                .collect()
        };
        assert_eq!(told(7), ["9 other 33 false", "20 netgpu anna true"]);
        assert_eq!(told(8), ["20 netgpu anna true"]);
        assert_eq!(owners.len(), 2);
    }
}
