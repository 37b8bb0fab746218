// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters in the text format of Prometheus. Names and labels stay; new ones may come.

use std::fmt::Write;

use super::contexts::{Context, Counters};

/// A metric of one counter, or of several that differ in the label `reason`.
struct Metric {
    /// Behind `netgpu_context_`, `netgpu_region_` and so on. What ends with `_total` is a counter, others are gauges.
    name: &'static str,
    help: &'static str,
    /// Names of the counters, with the value of the label.
    fields: &'static [(&'static str, Option<&'static str>)],
}

const fn metric(
    name: &'static str,
    help: &'static str,
    fields: &'static [(&'static str, Option<&'static str>)],
) -> Metric {
    Metric { name, help, fields }
}

/// What contexts and sockets have in common.
const TRAFFIC: &[Metric] = &[
    metric(
        "rx_zerocopy_bytes_total",
        "Bytes delivered where the NIC's DMA put them.",
        &[("rx_zerocopy", None)],
    ),
    metric(
        "rx_copied_bytes_total",
        "Bytes delivered after a copy by the CPU, by reason.",
        &[
            ("rx_copied_split", Some("split")),
            ("rx_copied_no_room", Some("no_room")),
            ("rx_copied_unsplit", Some("unsplit")),
        ],
    ),
    metric(
        "rx_zerocopy_packets_total",
        "Packets of which nothing was copied.",
        &[("rx_zerocopy_packets", None)],
    ),
    metric(
        "rx_copied_packets_total",
        "Packets of which something was copied.",
        &[("rx_copied_packets", None)],
    ),
    metric(
        "tx_zerocopy_bytes_total",
        "Bytes queued for sending straight from a region.",
        &[("tx_zerocopy", None)],
    ),
    metric(
        "tx_sends_total",
        "Sends that queued them.",
        &[("tx_sends", None)],
    ),
    metric(
        "tx_copied_bytes_total",
        "Bytes of finished sends that were copied on their way.",
        &[("tx_copied", None)],
    ),
    metric(
        "tx_copied_sends_total",
        "Finished sends with such bytes.",
        &[("tx_copied_sends", None)],
    ),
];

const BAD_ENTRIES: Metric = metric(
    "bad_entries_total",
    "Fill entries that were ignored: they name no buffer, or one that user space does not hold.",
    &[
        ("bad_addr", Some("address")),
        ("bad_return", Some("return")),
    ],
);
const EMPTY: Metric = metric(
    "empty_total",
    "Times that the NIC asked for buffers and there was none.",
    &[("empty", None)],
);

const CONTEXT: &[Metric] = &[
    metric("regions", "Attached regions.", &[("regions", None)]),
    metric("queues", "Open queues.", &[("queues", None)]),
    metric("sockets", "Attached sockets.", &[("sockets", None)]),
    metric(
        "buffer_bytes",
        "Length of a receive buffer.",
        &[("buffer_size", None)],
    ),
    metric(
        "attached_total",
        "Sockets that were ever attached.",
        &[("attached", None)],
    ),
    metric(
        "aborted_total",
        "Connections that were aborted because socket or context went.",
        &[("aborted", None)],
    ),
    metric(
        "revoked_total",
        "Regions that were taken back.",
        &[("revoked", None)],
    ),
    metric(
        "donated_buffers",
        "Buffers that user space has given to the kernel.",
        &[("donated", None)],
    ),
    metric(
        "free_buffers",
        "Buffers that nobody has and that can be copied into.",
        &[("free", None)],
    ),
    BAD_ENTRIES,
    EMPTY,
];

const REGION: &[Metric] = &[
    metric("bytes", "Length of the region.", &[("len", None)]),
    metric(
        "rx_zerocopy_bytes_total",
        "Bytes that the NIC's DMA put there and that were delivered.",
        &[("rx_zerocopy", None)],
    ),
    metric(
        "rx_copied_bytes_total",
        "Bytes that the CPU wrote there and that were delivered.",
        &[("rx_copied", None)],
    ),
    metric(
        "tx_zerocopy_bytes_total",
        "Bytes that packets were made of.",
        &[("tx_zerocopy", None)],
    ),
    metric(
        "bad_returns_total",
        "Fill entries for a buffer of it that user space did not hold.",
        &[("bad_return", None)],
    ),
    metric(
        "free_buffers",
        "Buffers that nobody has.",
        &[("free", None)],
    ),
];

const QUEUE: &[Metric] = &[
    metric(
        "filled_buffers_total",
        "Buffers taken from the fill ring for the NIC.",
        &[("filled", None)],
    ),
    metric(
        "refilled_buffers_total",
        "Buffers that the NIC got when the fill ring was empty.",
        &[("refilled", None)],
    ),
    metric(
        "drained_buffers_total",
        "Buffers taken from the fill ring that the NIC did not get.",
        &[("drained", None)],
    ),
    BAD_ENTRIES,
    EMPTY,
    metric(
        "rx_zerocopy_bytes_total",
        "Bytes delivered where the NIC's DMA put them, through this queue.",
        &[("rx_zerocopy", None)],
    ),
    metric(
        "rx_packets_total",
        "Packets with such bytes.",
        &[("rx_packets", None)],
    ),
];

const SOCKET: &[Metric] = &[
    metric(
        "rx_stalled_total",
        "Times that delivery stopped, by reason.",
        &[
            ("rx_stalled_ring", Some("ring")),
            ("rx_stalled_share", Some("share")),
            ("rx_stalled_buffer", Some("buffer")),
            ("rx_stalled_pause", Some("pause")),
            ("rx_stalled_memory", Some("memory")),
        ],
    ),
    metric(
        "tx_refused_total",
        "Sends that found no room on the completion ring.",
        &[("tx_refused", None)],
    ),
    metric(
        "tx_pending_sends",
        "Sends that have not finished.",
        &[("tx_pending", None)],
    ),
    metric(
        "held_buffers",
        "Buffers that user space has from this socket.",
        &[("held", None)],
    ),
    metric(
        "share_buffers",
        "Buffers that it may have.",
        &[("share", None)],
    ),
];

/// All of it, as a page.
pub(crate) fn page(contexts: &[Context]) -> String {
    let mut page = String::new();
    head(&mut page, "netgpu_contexts", "Open contexts.");
    line(&mut page, "netgpu_contexts", &[], contexts.len() as u64);

    head(
        &mut page,
        "netgpu_context_info",
        "Who has the context open, a line for each process; always 1.",
    );
    for context in contexts {
        for owner in &context.owners {
            let pid = owner.pid.to_string();
            let mut labels = labels_of(context);
            labels.push(("pid", pid));
            labels.push(("comm", owner.comm.clone()));
            labels.push(("user", owner.user.clone()));
            line(&mut page, "netgpu_context_info", &labels, 1);
        }
    }

    let own: Vec<_> = contexts
        .iter()
        .map(|context| (labels_of(context), &context.counters))
        .collect();
    write_metrics(&mut page, "context", &[CONTEXT, TRAFFIC], &own);
    let regions: Vec<_> = parts(contexts, |context| {
        context
            .regions
            .iter()
            .map(|region| (vec![("region", region.addr.clone())], &region.counters))
            .collect()
    });
    write_metrics(&mut page, "region", &[REGION], &regions);
    let queues: Vec<_> = parts(contexts, |context| {
        context
            .queues
            .iter()
            .map(|queue| {
                let labels = vec![
                    ("queue", queue.id.to_string()),
                    ("index", queue.index.to_string()),
                ];
                (labels, &queue.counters)
            })
            .collect()
    });
    write_metrics(&mut page, "queue", &[QUEUE], &queues);
    let sockets: Vec<_> = parts(contexts, |context| {
        context
            .sockets
            .iter()
            .map(|socket| (vec![("socket", socket.id.to_string())], &socket.counters))
            .collect()
    });
    write_metrics(&mut page, "socket", &[SOCKET, TRAFFIC], &sockets);
    page
}

type Labels = Vec<(&'static str, String)>;

fn labels_of(context: &Context) -> Labels {
    let mut labels = vec![("context", context.id.to_string())];
    if let Some(device) = &context.device {
        labels.push(("device", device.clone()));
    }
    labels
}

/// Labels and counters of one kind of parts of all contexts.
fn parts<'a>(
    contexts: &'a [Context],
    of: impl Fn(&'a Context) -> Vec<(Labels, &'a Counters)>,
) -> Vec<(Labels, &'a Counters)> {
    let all = contexts.iter().flat_map(|context| {
        of(context).into_iter().map(|(own, counters)| {
            let mut labels = labels_of(context);
            labels.extend(own);
            (labels, counters)
        })
    });
    all.collect()
}

/// The samples of a metric come together, behind what says what it is.
fn write_metrics(
    page: &mut String,
    kind: &str,
    metrics: &[&[Metric]],
    parts: &[(Labels, &Counters)],
) {
    for Metric { name, help, fields } in metrics.iter().copied().flatten() {
        let name = format!("netgpu_{kind}_{name}");
        head(page, &name, help);
        for (labels, counters) in parts {
            for (field, reason) in *fields {
                let Some(value) = counters.get(*field) else {
                    continue;
                };
                let mut labels = labels.clone();
                labels.extend(reason.map(|reason| ("reason", reason.to_owned())));
                line(page, &name, &labels, *value);
            }
        }
    }
}

fn head(page: &mut String, name: &str, help: &str) {
    let kind = if name.ends_with("_total") {
        "counter"
    } else {
        "gauge"
    };
    // Writing to a string does not fail; nor below.
    let _ = writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(page: &mut String, name: &str, labels: &[(&'static str, String)], value: u64) {
    let labels: Vec<String> = labels
        .iter()
        .map(|(name, value)| {
            let value = value
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            format!("{name}=\"{value}\"")
        })
        .collect();
    let _ = if labels.is_empty() {
        writeln!(page, "{name} {value}")
    } else {
        writeln!(page, "{name}{{{}}} {value}", labels.join(","))
    };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::contexts::tests::TEXT;
    use super::super::owners::Owner;
    use super::*;
    use crate::machine::tests::Tree;

    fn contexts() -> Vec<Context> {
        let tree = Tree::new().file("sys/kernel/debug/netgpu/7", TEXT);
        let mut contexts = super::super::contexts::all(&tree).expect("they can be read");
        contexts[0].device = Some("eth0".into());
        contexts[0].owners.push(Owner {
            pid: 20,
            comm: "a \"b\"\\c".into(),
            uid: 0,
            user: "root".into(),
            here: true,
        });
        contexts
    }

    #[test]
    fn counters_have_stable_names_and_labels() {
        let page = page(&contexts());
        for wanted in [
            "netgpu_contexts 1",
            r#"netgpu_context_info{context="7",device="eth0",pid="20",comm="a \"b\"\\c",user="root"} 1"#,
            r#"netgpu_context_rx_copied_bytes_total{context="7",device="eth0",reason="split"} 280"#,
            r#"netgpu_region_bytes{context="7",device="eth0",region="0x7f0000000000"} 16777216"#,
            r#"netgpu_queue_empty_total{context="7",device="eth0",queue="0",index="1"} 2"#,
            r#"netgpu_socket_rx_stalled_total{context="7",device="eth0",socket="2",reason="ring"} 1"#,
            r#"netgpu_socket_share_buffers{context="7",device="eth0",socket="2"} 2048"#,
            "# TYPE netgpu_socket_share_buffers gauge",
            "# TYPE netgpu_socket_rx_stalled_total counter",
        ] {
            assert!(
                page.lines().any(|line| line == wanted),
                "{wanted} is not in\n{page}"
            );
        }
    }

    #[test]
    fn each_metric_is_said_once_and_before_its_samples() {
        let page = page(&contexts());
        let mut said = BTreeSet::new();
        let mut current = String::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split(' ').next().unwrap_or_default().to_owned();
                assert!(said.insert(current.clone()), "{current} twice");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert_eq!(rest.split(' ').next(), Some(current.as_str()));
            } else {
                assert_eq!(line.split(['{', ' ']).next(), Some(current.as_str()));
            }
        }
    }

    #[test]
    fn no_counter_is_left_out() {
        let contexts = contexts();
        let named = |metrics: &[&[Metric]]| -> BTreeSet<String> {
            metrics
                .iter()
                .copied()
                .flatten()
                .flat_map(|metric| metric.fields)
                .map(|(field, _)| (*field).to_owned())
                .collect()
        };
        let there =
            |counters: &Counters| -> BTreeSet<String> { counters.keys().cloned().collect() };
        let context = &contexts[0];
        assert_eq!(named(&[CONTEXT, TRAFFIC]), there(&context.counters));
        assert_eq!(named(&[REGION]), there(&context.regions[0].counters));
        assert_eq!(named(&[QUEUE]), there(&context.queues[0].counters));
        assert_eq!(
            named(&[SOCKET, TRAFFIC]),
            there(&context.sockets[0].counters)
        );
    }
}
