// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contexts as the module's debugfs shows them: a file each, a line for the context and for each of its parts, words in pairs.

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;

use crate::machine::Machine;

use super::connections::Connection;
use super::owners::Owner;

const DEBUGFS: &str = "/sys/kernel/debug";
const SHOWN: &str = "/sys/kernel/debug/netgpu";

/// What is counted, by its name in `include/uapi/linux/netgpu.h`.
pub(crate) type Counters = BTreeMap<String, u64>;

/// One context.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Context {
    pub(crate) id: u64,
    /// Of its network device, while that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ifindex: Option<u32>,
    /// The name of the device, if it is in our network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device: Option<String>,
    /// Processes that have it open.
    pub(crate) owners: Vec<Owner>,
    pub(crate) counters: Counters,
    pub(crate) regions: Vec<Region>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) sockets: Vec<Socket>,
}

/// A region that is attached.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Region {
    /// In user space, in hexadecimal.
    pub(crate) addr: String,
    pub(crate) counters: Counters,
}

/// A receive queue.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Queue {
    pub(crate) id: u64,
    /// The device's number of it.
    pub(crate) index: u64,
    pub(crate) counters: Counters,
}

/// A socket that is attached.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Socket {
    pub(crate) id: u64,
    /// Of the socket, where the module tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inode: Option<u64>,
    /// Its connection, if one of the owners has it in its network namespace.
    #[serde(flatten)]
    pub(crate) connection: Option<Connection>,
    pub(crate) counters: Counters,
}

/// All contexts, in the order of their numbers, without names and owners.
pub(crate) fn all(machine: &Machine) -> Result<Vec<Context>> {
    if let Err(error) = machine.list(SHOWN) {
        return Err(missing(machine, &error));
    }
    let mut contexts = Vec::new();
    for name in machine.names(SHOWN) {
        let path = format!("{SHOWN}/{name}");
        match machine.read(&path) {
            Ok(text) => {
                contexts.push(parse(&text).with_context(|| format!("cannot understand {path}"))?)
            }
            // It has gone meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    contexts.sort_by_key(|context| context.id);
    Ok(contexts)
}

/// Why there is nothing to show.
fn missing(machine: &Machine, error: &io::Error) -> anyhow::Error {
    if error.kind() == io::ErrorKind::PermissionDenied {
        anyhow!("{SHOWN} is for root alone; `sudo netgpu show` shows it")
    } else if !machine.has("/sys/module/netgpu") {
        anyhow!("the module netgpu is not loaded; `modprobe netgpu` loads it")
    } else if machine.names(DEBUGFS).is_empty() {
        anyhow!("debugfs is not mounted; `mount -t debugfs none {DEBUGFS}` mounts it")
    } else {
        anyhow!("there is no {SHOWN}: {error}; the kernel may be without CONFIG_DEBUG_FS")
    }
}

/// One file.
fn parse(text: &str) -> Result<Context> {
    let mut context = Context::default();
    for line in text.lines() {
        let what = || format!("the line {line:?}");
        let mut words = line.split_ascii_whitespace();
        let (kind, name) = words.next().zip(words.next()).with_context(what)?;
        let number = || name.parse::<u64>().with_context(what);
        let mut counters = Counters::new();
        while let Some(field) = words.next() {
            let value = words.next().with_context(what)?;
            counters.insert(field.to_owned(), value.parse().with_context(what)?);
        }
        match kind {
            "context" => {
                context.id = number()?;
                context.ifindex = counters
                    .remove("ifindex")
                    .map(u32::try_from)
                    .transpose()
                    .with_context(what)?;
                context.counters = counters;
            }
            "region" => context.regions.push(Region {
                addr: name.to_owned(),
                counters,
            }),
            "queue" => context.queues.push(Queue {
                id: number()?,
                index: counters.remove("index").with_context(what)?,
                counters,
            }),
            "socket" => context.sockets.push(Socket {
                id: number()?,
                inode: counters.remove("inode"),
                connection: None,
                counters,
            }),
            // Of a newer module.
            _ => {}
        }
    }
    Ok(context)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::machine::tests::Tree;

    pub(crate) const TEXT: &str = "\
context 7 ifindex 3 regions 1 queues 1 sockets 1 buffer_size 4096 attached 4 aborted 0 revoked 0 donated 4096 free 12 rx_zerocopy 1048576 \
rx_copied_split 280 rx_copied_no_room 0 rx_copied_unsplit 60 rx_zerocopy_packets 700 rx_copied_packets 10 tx_zerocopy 0 tx_sends 0 \
tx_copied 0 tx_copied_sends 0 bad_addr 0 bad_return 0 empty 2
region 0x7f0000000000 len 16777216 rx_zerocopy 1048576 rx_copied 340 tx_zerocopy 0 bad_return 0 free 12
queue 0 index 1 filled 5000 refilled 0 drained 0 bad_addr 0 bad_return 0 empty 2 rx_zerocopy 1048576 rx_packets 700
socket 2 inode 4711 rx_zerocopy 1048576 rx_copied_split 280 rx_copied_no_room 0 rx_copied_unsplit 60 rx_zerocopy_packets 700 \
rx_copied_packets 10 rx_stalled_ring 1 rx_stalled_share 0 rx_stalled_buffer 0 rx_stalled_pause 0 rx_stalled_memory 0 tx_zerocopy 0 \
tx_sends 0 tx_copied 0 tx_copied_sends 0 tx_refused 0 tx_pending 0 held 5 share 2048
";

    #[test]
    fn a_file_is_understood() {
        let context = parse(TEXT).expect("it can be");
        assert_eq!((context.id, context.ifindex), (7, Some(3)));
        assert_eq!(context.counters["rx_copied_split"], 280);
        assert!(!context.counters.contains_key("ifindex"));
        assert_eq!(context.regions[0].addr, "0x7f0000000000");
        assert_eq!((context.queues[0].id, context.queues[0].index), (0, 1));
        let socket = &context.sockets[0];
        assert_eq!((socket.id, socket.inode), (2, Some(4711)));
        assert!(!socket.counters.contains_key("inode"));
        assert_eq!(context.sockets[0].counters["share"], 2048);
    }

    #[test]
    fn what_another_module_tells_is_no_harm() {
        let text = "context 1 regions 0 added 5\nthing 3 x 1\nsocket 2 held 1\n";
        let context = parse(text).expect("it can be");
        assert_eq!((context.ifindex, context.counters["added"]), (None, 5));
        assert_eq!(context.sockets[0].inode, None, "an older one tells less");
        for bad in [
            "context\n",
            "context x\n",
            "context 1 regions\n",
            "queue 0 filled 1\n",
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn contexts_come_by_number_or_it_is_told_why_not() {
        let tree = Tree::new()
            .file("sys/kernel/debug/netgpu/10", "context 10 regions 0\n")
            .file("sys/kernel/debug/netgpu/9", "context 9 regions 0\n");
        let ids: Vec<u64> = all(&tree)
            .expect("they can be read")
            .iter()
            .map(|c| c.id)
            .collect();
        assert_eq!(ids, [9, 10]);
        let said = |tree: &Tree| all(tree).expect_err("there are none").to_string();
        assert!(said(&Tree::new()).contains("modprobe netgpu"));
        let loaded = Tree::new().file("sys/module/netgpu/refcnt", "0");
        assert!(said(&loaded).contains("mount -t debugfs"));
        let mounted = loaded.dir("sys/kernel/debug/tracing");
        assert!(said(&mounted).contains("CONFIG_DEBUG_FS"));
    }
}
