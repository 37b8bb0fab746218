// SPDX-License-Identifier: MIT OR Apache-2.0
//! TCP connections as /proc/PID/net/tcp and tcp6 have them: those of the process's network namespace.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

use crate::machine::Machine;

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Connection {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) state: &'static str,
}

/// States of TCP by their numbers in `include/net/tcp_states.h`, from 1 on, with the names that ss(8) has for them.
const STATES: [&str; 12] = [
    "estab",
    "syn-sent",
    "syn-recv",
    "fin-wait-1",
    "fin-wait-2",
    "time-wait",
    "unconn",
    "close-wait",
    "last-ack",
    "listen",
    "closing",
    "syn-recv",
];

/// The connections in the network namespace of process `pid`, by inode.
pub(crate) fn of_process(machine: &Machine, pid: u32) -> BTreeMap<u64, Connection> {
    let mut connections = BTreeMap::new();
    for name in ["tcp", "tcp6"] {
        // The process may have ended meanwhile, and there may be no IPv6.
        let text = machine
            .read(&format!("/proc/{pid}/net/{name}"))
            .unwrap_or_default();
        connections.extend(text.lines().filter_map(parse));
    }
    connections
}

/// A line, but not that of the titles: `0: 0100007F:1F90 0200007F:A0B1 01 00000000:00000000 00:00000000 00000000 0 0 4711 …`
fn parse(line: &str) -> Option<(u64, Connection)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let local = address(words.next()?)?;
    let peer = address(words.next()?)?;
    let state = usize::from_str_radix(words.next()?, 16).ok()?;
    // Behind the lengths of queues, the timer, retransmissions, user and time.
    let inode = words.nth(5)?.parse().ok()?;
    let connection = Connection {
        local,
        peer,
        state: STATES.get(state.checked_sub(1)?)?,
    };
    Some((inode, connection))
}

/// Words of an address as the processor has them, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| -> Option<[u8; 4]> {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = if address.len() == 8 {
        IpAddr::from(Ipv4Addr::from(word(0)?))
    } else {
        let mut bytes = [0; 16];
        for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
            chunk.copy_from_slice(&word(at)?);
        }
        // A socket for both families has it wrapped.
        Ipv6Addr::from(bytes).to_canonical()
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::machine::tests::Tree;

    pub(crate) const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100090A:13EE 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4700 1 0000000000000000 100 0 0 10 0
   1: 0100090A:13EE 0200090A:D3A2 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 20 4 0 10 -1
";
    const TCP6: &str = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0900000000000000000000000000FD01:0000 short
   1: 000009FD000000000000000001000000:13EE 000009FD000000000000000002000000:D3A3 08 00000000:00000000 00:00000000 00000000 0 0 4712 1 0 20 4 0 10 -1
   2: 0000000000000000FFFF00000100090A:13EE 0000000000000000FFFF00000200090A:D3A4 05 00000000:00000000 00:00000000 00000000 0 0 4713 1 0 20 4 0 10 -1
   3: 000009FD000000000000000001000000:13EE 000009FD000000000000000002000000:D3A3 FF 00000000:00000000 00:00000000 00000000 0 0 4714 1 0 20 4 0 10 -1
";

    #[test]
    fn connections_are_found_by_their_inode() {
        let tree = Tree::new()
            .file("proc/20/net/tcp", TCP)
            .file("proc/20/net/tcp6", TCP6);
        let told: Vec<String> = of_process(&tree, 20)
            .iter()
            .map(|(inode, c)| format!("{inode} {} {} {}", c.local, c.peer, c.state))
            .collect();
        assert_eq!(
            told,
            [
                "4700 10.9.0.1:5102 0.0.0.0:0 listen",
                "4711 10.9.0.1:5102 10.9.0.2:54178 estab",
                "4712 [fd09::1]:5102 [fd09::2]:54179 close-wait",
                "4713 10.9.0.1:5102 10.9.0.2:54180 fin-wait-2",
            ]
        );
        assert!(of_process(&tree, 21).is_empty());
    }
}
