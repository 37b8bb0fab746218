// SPDX-License-Identifier: MIT OR Apache-2.0
//! `netgpu show`: the contexts of this machine, whose they are, and their counters.

mod connections;
mod contexts;
mod owners;
mod prometheus;
mod table;

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::device::no_device;
use crate::machine::Machine;
use contexts::Context;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only contexts of this network device.
    #[arg(value_name = "DEVICE")]
    device: Option<String>,
    /// Show it again and again, after so many seconds, with the rates since the last time.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "1",
        value_parser = clap::value_parser!(u64).range(1..))]
    watch: Option<u64>,
    /// Print JSON; with --watch, a line each time.
    #[arg(long)]
    json: bool,
    /// Print the text format of Prometheus, for its node exporter's textfile collector.
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    prometheus: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    contexts: &'a [Context],
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let machine = Machine::here();
    let mut earlier: Option<(Vec<Context>, Instant)> = None;
    loop {
        let now = Instant::now();
        let contexts = gather(&machine, arguments.device.as_deref())?;
        let page = if arguments.prometheus {
            prometheus::page(&contexts)
        } else if arguments.json {
            let report = Report {
                contexts: &contexts,
            };
            serde_json::to_string(&report)? + "\n"
        } else {
            let before = earlier
                .as_ref()
                .map(|(contexts, then)| (contexts.as_slice(), now - *then));
            table::text(&contexts, before)
        };
        // Home, and clear what is below.
        let clear = if arguments.watch.is_some() && !arguments.json {
            "\x1b[H\x1b[J"
        } else {
            ""
        };
        print(clear, &page).context("cannot write")?;
        let Some(seconds) = arguments.watch else {
            return Ok(());
        };
        earlier = Some((contexts, now));
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Prints a page, behind what a terminal does first.
fn print(clear: &str, page: &str) -> io::Result<()> {
    // Anything but a terminal gets no escape sequence.
    let mut out = anstream::stdout().lock();
    out.write_all(clear.as_bytes())?;
    out.write_all(page.as_bytes())?;
    out.flush()
}

/// All contexts with what is known about them; of one device, if it is named.
fn gather(machine: &Machine, device: Option<&str>) -> Result<Vec<Context>> {
    let mut contexts = contexts::all(machine)?;
    let mut owners = owners::all(machine);
    let names: Vec<(u32, String)> = machine
        .names("/sys/class/net")
        .into_iter()
        .filter_map(|name| {
            let index = machine
                .read(&format!("/sys/class/net/{name}/ifindex"))
                .ok()?;
            Some((index.parse().ok()?, name))
        })
        .collect();
    let wanted = device
        .map(|device| {
            let found = names.iter().find(|(_, name)| name == device);
            let (index, _) = found.with_context(|| no_device(device))?;
            anyhow::Ok(*index)
        })
        .transpose()?;
    for context in &mut contexts {
        context.owners = owners.remove(&context.id).unwrap_or_default();
        if !context.sockets.is_empty() {
            connect(machine, context);
        }
        // A number means another device in another network namespace.
        if context.owners.iter().any(|owner| owner.here) {
            context.device = names
                .iter()
                .find(|(index, _)| context.ifindex == Some(*index))
                .map(|(_, name)| name.clone());
        }
    }
    if let Some(wanted) = wanted {
        // One that no process has may be of any namespace.
        contexts.retain(|context| {
            context.ifindex == Some(wanted)
                && (context.device.is_some() || context.owners.is_empty())
        });
    }
    Ok(contexts)
}

/// Finds the connections of the context's sockets, in the network namespaces of its owners.
fn connect(machine: &Machine, context: &mut Context) {
    for owner in &context.owners {
        let mut connections = connections::of_process(machine, owner.pid);
        for socket in &mut context.sockets {
            if socket.connection.is_none() {
                socket.connection = socket.inode.and_then(|inode| connections.remove(&inode));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::Tree;

    fn tree(namespace: &str) -> Tree {
        Tree::new()
            .file("sys/class/net/eth0/ifindex", "3\n")
            .file("sys/class/net/lo/ifindex", "1\n")
            .file("sys/kernel/debug/netgpu/7", contexts::tests::TEXT)
            .link("proc/self/ns/net", "net:[1]")
            .link("proc/20/ns/net", namespace)
            .link("proc/20/fd/3", "/dev/netgpu")
            .file("proc/20/fdinfo/3", "netgpu-context:\t7\n")
            .file("proc/20/net/tcp", connections::tests::TCP)
            .file("proc/20/comm", "netgpu\n")
            .file("proc/20/status", "Uid:\t0\t0\t0\t0\n")
    }

    #[test]
    fn a_device_is_named_in_our_namespace_only() {
        let contexts = gather(&tree("net:[1]"), None).expect("they can be read");
        assert_eq!(contexts[0].device.as_deref(), Some("eth0"));
        assert_eq!(contexts[0].owners[0].pid, 20);
        let contexts = gather(&tree("net:[2]"), None).expect("they can be read");
        assert_eq!(contexts[0].device, None);
    }

    #[test]
    fn sockets_have_the_addresses_of_their_connections() {
        let contexts = gather(&tree("net:[2]"), None).expect("they can be read");
        let json = serde_json::to_value(&contexts[0].sockets[0]).expect("it is data");
        for (key, value) in [
            ("local", "10.9.0.1:5102"),
            ("peer", "10.9.0.2:54178"),
            ("state", "estab"),
        ] {
            assert_eq!(json[key], value);
        }
    }

    #[test]
    fn one_device_may_be_asked_for() {
        let count = |device| gather(&tree("net:[1]"), Some(device)).map_or(0, |all| all.len());
        assert_eq!((count("eth0"), count("lo")), (1, 0));
        let error = gather(&tree("net:[1]"), Some("nosuch0")).expect_err("there is none");
        assert!(error.to_string().contains("`ip link` lists"), "{error}");
        let elsewhere = gather(&tree("net:[2]"), Some("eth0")).expect("there is one");
        assert_eq!(elsewhere, []);
    }

    #[test]
    fn what_no_process_has_is_not_hidden() {
        let tree = Tree::new()
            .file("sys/class/net/eth0/ifindex", "3\n")
            .file("sys/class/net/lo/ifindex", "1\n")
            .file("sys/kernel/debug/netgpu/7", contexts::tests::TEXT);
        let contexts = gather(&tree, Some("eth0")).expect("they can be read");
        assert_eq!(contexts[0].device, None, "it may be another one");
        assert!(
            table::text(&contexts, None)
                .contains("device 3 of an unknown network namespace  no process"),
        );
        assert_eq!(gather(&tree, Some("lo")).expect("they can be read"), []);
    }
}
