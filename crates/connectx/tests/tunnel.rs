// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checksums and segmentation of what goes through tunnels.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::Duration;

use connectx::bits::Fields;
use driver::{Ends, LARGE_SEND, Message, SEND, Setup, headers, pattern, sum};

const PAUSE: Duration = Duration::from_millis(20);
/// Flags of an Ethernet segment: fill in the outer and the inner IP and the inner TCP checksum.
const INNER_CHECKSUMS: u8 = 0x40 | 0x10 | 0x20;
const MSS: u16 = 1000;

/// What is in front of the inner IP header, and how many bytes of it count for the outer IP length.
struct Tunnel {
    name: &'static str,
    head: Vec<u8>,
    /// Where the UDP header is.
    udp: Option<usize>,
}

fn ipv4(protocol: u8) -> Vec<u8> {
    let mut head = headers(0)[..34].to_vec();
    head[18..20].copy_from_slice(&700u16.to_be_bytes());
    head[23] = protocol;
    head
}

fn ipv6(next: u8) -> Vec<u8> {
    let mut head = headers(0)[..14].to_vec();
    head[12..14].copy_from_slice(&[0x86, 0xdd]);
    head.extend([0x60, 0, 0, 0, 0, 0, next, 64]);
    head.extend([0xfd; 32]);
    head
}

fn vxlan(outer: Vec<u8>, port: u16) -> Vec<u8> {
    let mut head = outer;
    head.extend([0xc0, 0]);
    head.extend(port.to_be_bytes());
    head.extend([0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 100, 0]);
    head.extend(&headers(0)[..14]);
    head
}

fn tunnels() -> Vec<Tunnel> {
    let of = |name, head, udp| Tunnel { name, head, udp };
    let gre = |outer: Vec<u8>, rest: &[u8]| [outer, rest.to_vec()].concat();
    let bridged = [&[0, 0, 0x65, 0x58], &headers(0)[..14]].concat();
    // An option before what is in the tunnel, as ip6_tunnel puts it: the limit of encapsulations.
    let mut limited = ipv6(60);
    limited.extend([4, 0, 4, 1, 4, 1, 0, 0]);
    vec![
        of("VXLAN over IPv4", vxlan(ipv4(17), 4789), Some(34)),
        of("VXLAN over IPv6", vxlan(ipv6(17), 4789), Some(54)),
        of("GRE", gre(ipv4(47), &[0, 0, 8, 0]), None),
        of(
            "GRE with a key",
            gre(ipv4(47), &[0x20, 0, 8, 0, 1, 2, 3, 4]),
            None,
        ),
        of("bridged GRE over IPv6", gre(ipv6(47), &bridged), None),
        of("IPv4 in IPv4", ipv4(4), None),
        of("IPv4 in IPv6", ipv6(4), None),
        of("IPv4 in IPv6 with an option", limited, None),
    ]
}

/// Checks a packet from a tunnel, and returns the inner one as if it had come alone.
fn unpack(tunnel: &Tunnel, packet: &[u8], index: u16) -> Vec<u8> {
    let Tunnel { name, head, udp } = tunnel;
    let fields = Fields(packet);
    if packet[12] == 8 {
        assert_eq!(sum(&packet[14..34]), 0xffff, "{name}: outer IP checksum");
        assert_eq!(usize::from(fields.u16(16)), packet.len() - 14, "{name}");
        assert_eq!(fields.u16(18), 700 + index, "{name}: identification");
    } else {
        assert_eq!(usize::from(fields.u16(18)), packet.len() - 54, "{name}");
    }
    if let Some(udp) = *udp {
        assert_eq!(
            usize::from(fields.u16(udp + 4)),
            packet.len() - udp,
            "{name}"
        );
        assert_eq!(fields.u16(udp + 6), 0, "{name}: no UDP checksum");
    }
    let mut inner = headers(0)[..14].to_vec();
    inner.extend(&packet[head.len()..]);
    assert_eq!(sum(&inner[14..34]), 0xffff, "{name}: inner IP checksum");
    assert_eq!(
        usize::from(Fields(&inner).u16(16)),
        inner.len() - 14,
        "{name}"
    );
    let mut covered = inner[26..34].to_vec();
    covered.extend([0, 6]);
    covered.extend(((inner.len() - 34) as u16).to_be_bytes());
    covered.extend(&inner[34..]);
    assert_eq!(sum(&covered), 0xffff, "{name}: TCP checksum");
    inner
}

/// Sends `payload` through `tunnel`, in packets of `mss`, or in one; returns what arrives.
fn through(ends: &Ends<'_>, tunnel: &Tunnel, payload: &[u8], mss: Option<u16>) -> Vec<Vec<u8>> {
    let Ends {
        a, tx, sq, rx, rq, ..
    } = ends;
    let setup = a.setup;
    let packets = payload
        .len()
        .div_ceil(mss.map_or(payload.len(), usize::from)) as u64;
    let buffers = setup.alloc(packets * 2048);
    for i in 0..packets {
        rq.post(&[(2048, buffers + i * 2048)]);
    }
    let inner = headers(payload.len());
    let mut packet = tunnel.head.clone();
    packet.extend(&inner[14..]);
    let outer_ip = packet.len() - 14 + payload.len();
    match packet[12] {
        8 => packet[16..18].copy_from_slice(&(outer_ip as u16).to_be_bytes()),
        _ => packet[18..20].copy_from_slice(&(outer_ip as u16 - 40).to_be_bytes()),
    }
    if let Some(udp) = tunnel.udp {
        let length = packet.len() - udp + payload.len();
        packet[udp + 4..udp + 6].copy_from_slice(&(length as u16).to_be_bytes());
    }
    let at = setup.alloc(16_384);
    setup.write(at, payload);
    let data = [(payload.len() as u32, a.key, at)];
    let opcode = mss.map_or(SEND, |_| LARGE_SEND);
    sq.post(opcode, INNER_CHECKSUMS, mss.unwrap_or(0), &packet, &data);
    sq.ring();
    tx.wait();
    (0..packets)
        .map(|i| {
            let completion = rx.wait();
            let length = Fields(&completion).u32(0x2c) as usize;
            let packet = setup.read(buffers + i * 2048, length);
            assert_eq!(
                Fields(&completion).u16(0x14),
                sum(&packet[14..]),
                "CHECKSUM_COMPLETE"
            );
            packet
        })
        .collect()
}

#[test]
fn a_large_send_through_a_tunnel_becomes_packets_of_it() {
    let payload = pattern(3500);
    for tunnel in tunnels() {
        let setup = Setup::new(PAUSE);
        let ends = Ends::new(&setup, 6, 1);
        let mut got: Vec<u8> = Vec::new();
        for (i, packet) in through(&ends, &tunnel, &payload, Some(MSS))
            .iter()
            .enumerate()
        {
            let inner = unpack(&tunnel, packet, i as u16);
            assert_eq!(Fields(&inner).u32(38) as usize, got.len(), "sequence");
            let last = got.len() + inner.len() - 54 == payload.len();
            assert_eq!(inner[47], if last { 0x18 } else { 0x10 }, "PSH");
            got.extend(&inner[54..]);
        }
        assert!(got == payload, "{}", tunnel.name);
    }
}

#[test]
fn one_packet_through_a_tunnel_gets_its_checksums() {
    for tunnel in tunnels() {
        let setup = Setup::new(PAUSE);
        let ends = Ends::new(&setup, 6, 1);
        let payload = pattern(333);
        let packets = through(&ends, &tunnel, &payload, None);
        assert_eq!(unpack(&tunnel, &packets[0], 0)[54..], payload);
    }
}

#[test]
fn vxlan_is_what_goes_to_the_ports_that_the_driver_names() {
    const ADD: u32 = 0x827;
    const DELETE: u32 = 0x828;
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup, 6, 1);
    let a = &ends.a;
    let port = |opcode, port| Message::new(opcode, 16).bits(0x0c, 15, 0, port);
    a.accept(port(ADD, 8472));
    // Known already.
    a.accept(port(ADD, 4789));
    let tunnel = Tunnel {
        name: "another port",
        head: vxlan(ipv4(17), 8472),
        udp: Some(34),
    };
    let packets = through(&ends, &tunnel, &pattern(2500), Some(MSS));
    assert_eq!(packets.len(), 3);
    unpack(&tunnel, &packets[1], 1);

    let status = |message: Message| a.command(&message, 16).1[0];
    assert_eq!(status(port(DELETE, 8472)), 0);
    assert_eq!(status(port(DELETE, 8472)), 5, "not there any more");
    for number in 1..4 {
        assert_eq!(status(port(ADD, number)), 0);
    }
    assert_eq!(status(port(ADD, 4)), 8, "no room");
    let packets = through(&ends, &tunnel, &pattern(333), None);
    let checksum = &packets[0][tunnel.head.len() + 10..][..2];
    assert_eq!(checksum, [0, 0], "not looked into");
}
