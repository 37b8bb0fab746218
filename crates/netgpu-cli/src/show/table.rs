// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contexts for people: a line for each, and a table for each kind of parts.

use std::fmt::Write;
use std::time::Duration;

use anstyle::Style;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::BinaryBytes;

use super::connections::Connection;
use super::contexts::{Context, Counters};

const TITLE: Style = Style::new().bold();

/// Which counters a table has, by the title of its column.
type Columns = [(&'static str, &'static str)];

const REGIONS: &Columns = &[
    ("SIZE", "len"),
    ("RX DMA", "rx_zerocopy"),
    ("RX COPIED", "rx_copied"),
    ("TX DMA", "tx_zerocopy"),
    ("FREE", "free"),
];
const QUEUES: &Columns = &[
    ("RX DMA", "rx_zerocopy"),
    ("PACKETS", "rx_packets"),
    ("FILLED", "filled"),
    ("REFILLED", "refilled"),
    ("DRAINED", "drained"),
    ("EMPTY", "empty"),
    ("BAD ADDR", "bad_addr"),
    ("BAD RETURN", "bad_return"),
];
const SOCKETS: &Columns = &[
    ("RX DMA", "rx_zerocopy"),
    ("SPLIT", "rx_copied_split"),
    ("NO ROOM", "rx_copied_no_room"),
    ("UNSPLIT", "rx_copied_unsplit"),
    ("TX DMA", "tx_zerocopy"),
    ("TX COPIED", "tx_copied"),
    ("PENDING", "tx_pending"),
    ("HELD", "held"),
    ("SHARE", "share"),
];
/// Reasons for which delivery stops.
const STALLS: [&str; 5] = ["ring", "share", "buffer", "pause", "memory"];

/// All of it. `earlier` is what there was that long ago, for rates.
pub(crate) fn text(contexts: &[Context], earlier: Option<(&[Context], Duration)>) -> String {
    let mut text = String::new();
    if contexts.is_empty() {
        text.push_str("no contexts\n");
    }
    for context in contexts {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{TITLE}{}{TITLE:#}", title(context));
        let before = earlier.and_then(|(contexts, time)| {
            let before = contexts.iter().find(|before| before.id == context.id)?;
            Some((&before.counters, time))
        });
        let _ = writeln!(text, "  {}", traffic(&context.counters, before));
        let _ = writeln!(text, "  {}", buffers(&context.counters));
        let regions = context
            .regions
            .iter()
            .map(|region| (vec![region.addr.clone()], &region.counters));
        let queues = context.queues.iter().map(|queue| {
            let name = format!("{} (rx-{})", queue.id, queue.index);
            (vec![name], &queue.counters)
        });
        let sockets = context.sockets.iter().map(|socket| {
            let names = match &socket.connection {
                Some(Connection { local, peer, state }) => {
                    [local.to_string(), peer.to_string(), (*state).to_owned()]
                }
                None => ["?", "?", "?"].map(str::to_owned),
            };
            let names = std::iter::once(socket.id.to_string()).chain(names);
            (names.collect(), &socket.counters)
        });
        push_table(&mut text, &["REGION"], REGIONS, regions);
        push_table(&mut text, &["QUEUE"], QUEUES, queues);
        let titles = ["SOCKET", "LOCAL", "PEER", "STATE"];
        push_table(&mut text, &titles, SOCKETS, sockets);
        for socket in &context.sockets {
            let stalls: Vec<String> = STALLS
                .iter()
                .filter_map(|reason| {
                    let count = get(&socket.counters, &format!("rx_stalled_{reason}"));
                    (count > 0).then(|| format!("{reason} {count}"))
                })
                .collect();
            if !stalls.is_empty() {
                let _ = writeln!(
                    text,
                    "  socket {} has stopped delivering so often: {}",
                    socket.id,
                    stalls.join(", ")
                );
            }
        }
    }
    text
}

fn get(counters: &Counters, name: &str) -> u64 {
    counters.get(name).copied().unwrap_or(0)
}

fn title(context: &Context) -> String {
    let device = match (&context.device, context.ifindex) {
        (Some(device), _) => device.clone(),
        (None, Some(index)) if context.owners.is_empty() => {
            format!("device {index} of an unknown network namespace")
        }
        (None, Some(index)) => format!("device {index} of another network namespace"),
        (None, None) => "its device is gone".to_owned(),
    };
    let owners: Vec<String> = context
        .owners
        .iter()
        .map(|owner| format!("{} (pid {}, {})", owner.comm, owner.pid, owner.user))
        .collect();
    let owners = if owners.is_empty() {
        "no process".to_owned()
    } else {
        owners.join(", ")
    };
    format!("context {}  {device}  {owners}", context.id)
}

fn copied(counters: &Counters) -> u64 {
    ["split", "no_room", "unsplit"]
        .iter()
        .map(|reason| get(counters, &format!("rx_copied_{reason}")))
        .sum()
}

fn traffic(counters: &Counters, before: Option<(&Counters, Duration)>) -> String {
    let rate = |now: u64, then: fn(&Counters) -> u64| match before {
        Some((before, time)) if !time.is_zero() => {
            let bits = now.saturating_sub(then(before)) as f64 * 8.0;
            format!(" ({:.2} Gbit/s)", bits / time.as_secs_f64() / 1e9)
        }
        _ => String::new(),
    };
    let (rx, tx) = (get(counters, "rx_zerocopy"), get(counters, "tx_zerocopy"));
    format!(
        "rx {} by DMA{}, {} copied  tx {} by DMA{}, {} copied",
        BinaryBytes(rx),
        rate(rx, |before| get(before, "rx_zerocopy")),
        BinaryBytes(copied(counters)),
        BinaryBytes(tx),
        rate(tx, |before| get(before, "tx_zerocopy")),
        BinaryBytes(get(counters, "tx_copied")),
    )
}

fn buffers(counters: &Counters) -> String {
    // Of an older module, which does not tell: there are no others.
    let size = counters.get("buffer_size").copied().unwrap_or(4096);
    format!(
        "buffers of {}: {} donated, {} free  sockets {} ever, {} aborted  regions {} taken back  NIC without buffers {} times",
        BinaryBytes(size),
        get(counters, "donated"),
        get(counters, "free"),
        get(counters, "attached"),
        get(counters, "aborted"),
        get(counters, "revoked"),
        get(counters, "empty"),
    )
}

fn push_table<'a>(
    text: &mut String,
    names: &[&str],
    columns: &Columns,
    rows: impl Iterator<Item = (Vec<String>, &'a Counters)>,
) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(names.iter().chain(columns.iter().map(|(title, _)| title)));
    let mut is_empty = true;
    for (row, counters) in rows {
        let values = columns.iter().map(|(_, field)| {
            let value = get(counters, field);
            if is_bytes(field) {
                BinaryBytes(value).to_string()
            } else {
                value.to_string()
            }
        });
        table.add_row(row.into_iter().chain(values));
        is_empty = false;
    }
    if is_empty {
        return;
    }
    for column in table.column_iter_mut().skip(names.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for line in table.lines() {
        let _ = writeln!(text, " {}", line.trim_end());
    }
}

/// Whether a counter is of bytes.
fn is_bytes(field: &str) -> bool {
    field == "len"
        || field.starts_with("rx_copied")
        || matches!(field, "rx_zerocopy" | "tx_zerocopy" | "tx_copied")
}

#[cfg(test)]
mod tests {
    use super::super::contexts::{self, tests::TEXT};
    use super::super::owners::Owner;
    use super::*;
    use crate::machine::tests::Tree;

    fn context() -> Vec<Context> {
        let tree = Tree::new().file("sys/kernel/debug/netgpu/7", TEXT);
        let mut contexts = contexts::all(&tree).expect("they can be read");
        contexts[0].device = Some("eth0".into());
        contexts[0].sockets[0].connection = Some(Connection {
            local: ([10, 9, 0, 1], 5102).into(),
            peer: ([10, 9, 0, 2], 54178).into(),
            state: "estab",
        });
        contexts[0].owners.push(Owner {
            pid: 20,
            comm: "netgpu".into(),
            uid: 0,
            user: "root".into(),
            here: true,
        });
        contexts
    }

    #[test]
    fn a_context_as_text() {
        let text = anstream::adapter::strip_str(&text(&context(), None)).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "context 7  eth0  netgpu (pid 20, root)");
        assert_eq!(
            lines[1],
            "  rx 1.00 MiB by DMA, 340 B copied  tx 0 B by DMA, 0 B copied"
        );
        assert!(
            lines[2].starts_with("  buffers of 4.00 KiB: 4096 donated, 12 free  sockets 4 ever"),
            "{text}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.trim_start().starts_with("0x7f0000000000")
                    && line.contains("16.00 MiB")),
            "{text}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.trim_start().starts_with("0 (rx-1)")),
            "{text}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.split_ascii_whitespace().take(4).eq([
                    "2",
                    "10.9.0.1:5102",
                    "10.9.0.2:54178",
                    "estab"
                ])),
            "{text}"
        );
        assert!(
            text.contains("socket 2 has stopped delivering so often: ring 1"),
            "{text}"
        );
    }

    #[test]
    fn rates_are_of_what_came_since() {
        let (mut earlier, now) = (context(), context());
        earlier[0].counters.insert("rx_zerocopy".into(), 48_576);
        let text = text(&now, Some((&earlier, Duration::from_millis(8))));
        assert!(text.contains("1.00 MiB by DMA (1.00 Gbit/s)"), "{text}");
        assert!(text.contains("0 B by DMA (0.00 Gbit/s)"), "{text}");
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        assert_eq!(text(&[], None), "no contexts\n");
    }
}
