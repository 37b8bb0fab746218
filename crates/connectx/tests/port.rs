// SPDX-License-Identifier: MIT OR Apache-2.0
//! The physical port as its driver sees it: speed, pause, largest frame, and counters that add up.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::{Duration, Instant};

use connectx::bits::Fields;
use connectx::model::{CX5, CX7, Model};
use driver::{Ends, Message, Port, SEND, Setup, eventually, headers};

const PAUSE: Duration = Duration::from_millis(20);

const PMTU: u32 = 0x5003;
const PTYS: u32 = 0x5004;
const PAOS: u32 = 0x5006;
const PFCC: u32 = 0x5007;
const PPCNT: u32 = 0x5008;
const PPLM: u32 = 0x5023;
const PPHCR: u32 = 0x503e;

/// Groups of PPCNT.
const IEEE_802_3: u32 = 0;
const RFC_2863: u32 = 1;
const RFC_2819: u32 = 2;
const PRIORITY: u32 = 0x10;
const LAYERS: u32 = 0x12;
const CORRECTIONS: u32 = 0x23;

/// Reads a register, or writes it, with these words of it set.
fn register(port: &Port<'_>, id: u32, write: bool, words: &[(usize, u32)]) -> Vec<u8> {
    let mut message = Message::new(0x805, 0x110)
        .bits(0x04, 15, 0, (!write).into())
        .u32(0x08, id);
    for &(at, word) in words {
        message = message.u32(0x10 + at, word);
    }
    port.query(message, 0x110).split_off(0x10)
}

fn counter(port: &Port<'_>, group: u32, at: usize) -> u64 {
    let bytes = register(port, PPCNT, false, &[(0, group)]);
    Fields(&bytes).u64(0x08 + at)
}

fn vport_counter(port: &Port<'_>, at: usize) -> u64 {
    Fields(&port.query(Message::new(0x770, 0x20), 0x210)).u64(at)
}

fn missed(port: &Port<'_>) -> u64 {
    Fields(&port.query(Message::new(0x76f, 0x10), 0x210)).u64(0x20)
}

/// Down, and up again: what was set takes effect.
fn toggle(port: &Port<'_>) {
    for state in [2, 1] {
        register(port, PAOS, true, &[(0, state << 8)]);
    }
}

/// Speed in Mbit/s and mode of error correction, both zero without a link.
fn link(port: &Port<'_>) -> (u32, u32) {
    let ptys = register(port, PTYS, false, &[(0, 4)]);
    let pplm = register(port, PPLM, false, &[]);
    let active = Fields(&pplm).bits(0x0c, 23, 0);
    (100 * Fields(&ptys).bits(0x04, 15, 0), active)
}

#[test]
fn both_ends_run_at_the_fastest_common_speed() {
    let setup = Setup::new(PAUSE);
    let (a, b) = (setup.port(0), setup.port(1));
    assert_eq!((link(&a), link(&b)), ((100_000, 1 << 2), (100_000, 1 << 2)));
    // 25GBASE-CR and 50GBASE-CR2, without negotiation.
    let speeds = 1 << 27 | 1 << 30;
    register(&a, PTYS, true, &[(0, 1 << 30 | 4), (0x18, speeds)]);
    assert_eq!(link(&a).0, 100_000, "not while it is up");
    toggle(&a);
    assert_eq!((link(&a).0, link(&b).0), (50_000, 50_000));
    let ptys = register(&b, PTYS, false, &[(0, 4)]);
    assert_eq!(Fields(&ptys).u32(0x24), 1 << 30, "eth_proto_oper");
    assert_eq!(Fields(&ptys).u32(0x30), 0, "the other end offers nothing");
    register(&b, PTYS, true, &[(0, 4), (0x18, 1 << 20)]);
    toggle(&b);
    assert_eq!((link(&a).0, link(&b).0), (0, 0), "nothing in common");
    assert_eq!(counter(&a, LAYERS, 0xc0) >> 32, 2, "link_down_events");
}

#[test]
fn corrections_are_counted_where_there_are_some() {
    for (model, kind, bins) in [(&CX5 as &'static dyn Model, 3, 8), (&CX7, 1, 16)] {
        let setup = Setup::of(model, PAUSE);
        let ends = Ends::new(&setup, 6, 1);
        let histogram = register(&ends.b, PPHCR, false, &[]);
        let fields = Fields(&histogram);
        assert_eq!(
            (fields.bits(0x00, 31, 28), fields.bits(0x04, 23, 16)),
            (kind, bins)
        );
        let last = 0x10 + 4 * (bins as usize - 1);
        assert_eq!(fields.u32(last), (bins - 1) << 16 | (bins - 1));
        assert_eq!(fields.u32(last + 4), 0);
        ends.rq.post(&[(2048, setup.alloc(2048))]);
        ends.sq.post(SEND, 0, 0, &headers(0), &[]);
        ends.sq.ring();
        ends.rx.wait();
        eventually("it is counted", || {
            (counter(&ends.b, CORRECTIONS, 0) > 0).then_some(())
        });
        assert_eq!(counter(&ends.b, CORRECTIONS, 8), 0, "the cable is perfect");
    }
}

#[test]
fn a_seventh_generation_has_extended_modes() {
    let setup = Setup::of(&CX7, PAUSE);
    let (a, _b) = (setup.port(0), setup.port(1));
    assert_eq!(link(&a), (400_000, 1 << 7));
    let ptys = register(&a, PTYS, false, &[(0, 4)]);
    assert_eq!(Fields(&ptys).u32(0x20), 1 << 16, "ext_eth_proto_oper");
    register(&a, PTYS, true, &[(0, 4), (0x18, 1 << 27)]);
    toggle(&a);
    assert_eq!(link(&a).0, 25_000, "a legacy mode");
    assert_eq!(CX7.rates()[0].mbit, 400_000);
}

#[test]
fn impossible_speeds_and_corrections_are_refused() {
    let setup = Setup::new(PAUSE);
    let (a, _b) = (setup.port(0), setup.port(1));
    for (id, words) in [
        (PTYS, vec![(0, 4)]),
        (PTYS, vec![(0, 4), (0x18, 1 << 8)]),
        (PTYS, vec![(0, 4), (0x14, 1 << 9)]),
        (PTYS, vec![(0, 4), (0x18, 1 << 20), (0x14, 1 << 9)]),
        (PPLM, vec![(0x14, 1 << 13)]),
        (PPLM, vec![(0x14, 3 << 4)]),
        (PFCC, vec![(0x08, 1 << 16)]),
        (PMTU, vec![(0x08, 10_001 << 16)]),
        (PAOS, vec![(0, 3 << 8)]),
    ] {
        let mut message = Message::new(0x805, 0x110).u32(0x08, id);
        for (at, word) in words {
            message = message.u32(0x10 + at, word);
        }
        assert_eq!(a.command(&message, 0x110).1[0], 3, "{id:#x}");
    }
    assert_eq!(link(&a).0, 100_000);
}

#[test]
fn frames_are_counted_at_both_ends_by_kind_and_size() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a,
        tx,
        sq,
        b,
        rx,
        rq,
        ..
    } = Ends::new(&setup, 6, 1);
    let (from, to) = (setup.alloc(4096), setup.alloc(4096));
    let mut bytes = 0;
    for (i, (first, length)) in [(0x02, 60), (0x01, 124), (0xff, 1514), (0x02, 1514)]
        .into_iter()
        .enumerate()
    {
        let mut packet = headers(length - 54);
        packet[..6].fill(first);
        packet[5] ^= (first & 1) * u8::from(first != 0xff);
        let at = from + 64 * i as u64;
        setup.write(at, &packet);
        rq.post(&[(2048, to)]);
        sq.send(a.key, 0, at, length as u32);
        tx.wait();
        rx.wait();
        bytes += length as u64;
    }
    eventually("the end of the batch", || {
        (counter(&b, IEEE_802_3, 0x08) == 4).then_some(())
    });
    assert_eq!(counter(&a, IEEE_802_3, 0x00), 4, "frames sent");
    assert_eq!(counter(&a, IEEE_802_3, 0x20), bytes + 16, "with their FCS");
    assert_eq!(counter(&b, IEEE_802_3, 0x28), bytes + 16);
    assert_eq!(counter(&b, IEEE_802_3, 0x40), 1, "multicast");
    assert_eq!(counter(&b, IEEE_802_3, 0x48), 1, "broadcast");
    assert_eq!(counter(&b, RFC_2863, 0x08), 2, "unicast");
    let sizes: Vec<u64> = (0..10)
        .map(|i| counter(&b, RFC_2819, 0x58 + 8 * i))
        .collect();
    assert_eq!(sizes, [1, 0, 1, 0, 0, 2, 0, 0, 0, 0]);
    assert_eq!(counter(&b, PRIORITY, 0x20), 4, "untagged is priority 0");
    // The virtual ports count the same, without FCS.
    let at = [(0x70, 1514), (0x90, 60 + 1514), (0xb0, 124)];
    for (at, bytes) in at {
        assert_eq!(vport_counter(&b, at + 8), bytes);
        assert_eq!(vport_counter(&a, at + 0x18), bytes);
    }
}

#[test]
fn what_is_not_received_is_counted_by_its_reason() {
    let setup = Setup::new(PAUSE);
    let (a, b) = (setup.port(0), setup.port(1));
    let (tx, rx) = (a.cq(6), b.cq(6));
    let (sq, rq) = (a.sq(&tx, 6), b.rq(&rx, 5, 1, 0));
    let (from, to) = (setup.alloc(4096), setup.alloc(4096));
    setup.write(from, &headers(10));
    let send = |length| {
        sq.send(a.key, 0, from, length);
        tx.wait();
    };
    send(64);
    eventually("a frame that nothing matches", || {
        (missed(&b) == 1).then_some(())
    });

    b.receive_all(&rq);
    register(&b, PMTU, true, &[(0x08, 1522 << 16)]);
    rq.post(&[(2048, to)]);
    send(1519);
    send(1518);
    assert_eq!(Fields(&rx.wait()).u32(0x2c), 1518);
    assert_eq!(counter(&b, IEEE_802_3, 0x60), 1, "too long");
    assert_eq!(counter(&b, IEEE_802_3, 0x08), 2, "that one does not count");

    register(&b, PAOS, true, &[(0, 2 << 8)]);
    send(64);
    eventually("a frame without a link", || {
        (counter(&a, RFC_2863, 0x38) == 1).then_some(())
    });
    assert_eq!(counter(&a, IEEE_802_3, 0x00), 3, "on the cable");
}

#[test]
fn a_frame_to_itself_is_counted_by_the_virtual_port_only() {
    let setup = Setup::new(PAUSE);
    let (a, _b) = (setup.port(0), setup.port(1));
    let (tx, rx) = (a.cq(4), a.cq(4));
    let (sq, rq) = (a.sq(&tx, 6), a.rq(&rx, 3, 1, 0));
    a.receive_all(&rq);
    let own = headers(10)[6..12].to_vec();
    let mut list = Message::new(0x755, 0x208)
        .u32(0x0c, 4)
        .bits(0x1f0, 15, 0, 1);
    list.0[0x202..].copy_from_slice(&own);
    a.accept(list);
    let (from, to) = (setup.alloc(64), setup.alloc(2048));
    rq.post(&[(2048, to)]);
    let mut packet = headers(10);
    packet[..6].copy_from_slice(&own);
    setup.write(from, &packet);
    sq.send(a.key, 0, from, 64);
    rx.wait();
    eventually("local_loopback", || {
        (vport_counter(&a, 0xd0) == 1).then_some(())
    });
    assert_eq!((vport_counter(&a, 0x90), vport_counter(&a, 0xa0)), (1, 1));
    assert_eq!(counter(&a, IEEE_802_3, 0x00), 0);
    assert_eq!(counter(&a, IEEE_802_3, 0x08), 0);
}

/// Sends ten frames to a queue with one buffer; returns how many were lost, and how long that took.
fn overrun(setup: &Setup, ends: &Ends<'_>) -> (u32, Duration) {
    let Ends { a, tx, sq, rq, .. } = ends;
    let (from, to) = (setup.alloc(64), setup.alloc(2048));
    setup.write(from, &headers(10));
    rq.post(&[(2048, to)]);
    for _ in 0..10 {
        sq.post(SEND, 0, 0, &[], &[(64, a.key, from)]);
    }
    let start = Instant::now();
    sq.ring();
    for _ in 0..10 {
        tx.wait();
    }
    (ends.b.out_of_buffer(ends.counters), start.elapsed())
}

#[test]
fn pause_frames_are_counted_at_both_ends() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup, 6, 1);
    let (lost, took) = overrun(&setup, &ends);
    assert_eq!(lost, 9);
    assert!(took >= PAUSE);
    let Ends { a, b, .. } = &ends;
    for (port, at) in [(b, 0x90), (a, 0x88)] {
        assert_eq!(counter(port, IEEE_802_3, at), 2, "stop, and go on");
    }
    let microseconds = PAUSE.as_micros() as u64;
    assert!(counter(a, PRIORITY, 0x58) >= microseconds, "paused for");
    assert!(counter(b, PRIORITY, 0x68) >= microseconds);
}

#[test]
fn without_pause_frames_nobody_waits() {
    for (sends, obeys) in [(0, 1), (1, 0)] {
        let setup = Setup::new(Duration::from_secs(5));
        let ends = Ends::new(&setup, 6, 1);
        let Ends { a, b, .. } = &ends;
        register(b, PFCC, true, &[(0x08, sends << 31), (0x0c, 1 << 31)]);
        register(a, PFCC, true, &[(0x08, 1 << 31), (0x0c, obeys << 31)]);
        let (lost, took) = overrun(&setup, &ends);
        assert_eq!(lost, 9);
        assert!(took < Duration::from_secs(4));
        assert_eq!(counter(b, IEEE_802_3, 0x90), 0);
    }
}
