// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packets from port to port, by a driver that can also do what Linux never does.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::{Duration, Instant};

use connectx::bits::Fields;
use connectx::datapath::fcs::fcs;
use driver::{
    CHECKSUMS, Ends, LARGE_SEND, Message, SEND, Setup, eventually, headers, pattern, sum,
};

const PAUSE: Duration = Duration::from_millis(20);

/// Checks a received TCP packet: both checksums right, and the completion's sum of all bytes.
fn check(packet: &[u8], completion: &[u8]) {
    let end = 14 + usize::from(Fields(packet).u16(16));
    assert_eq!(sum(&packet[14..34]), 0xffff, "IP checksum");
    let mut pseudo = packet[26..34].to_vec();
    pseudo.extend([0, 6]);
    pseudo.extend(((end - 34) as u16).to_be_bytes());
    pseudo.extend(&packet[34..end]);
    assert_eq!(sum(&pseudo), 0xffff, "TCP checksum");
    assert_eq!(
        Fields(completion).u16(0x14),
        sum(&packet[14..]),
        "CHECKSUM_COMPLETE"
    );
    assert_eq!(completion[0x1c], 0b111, "all layers intact");
    assert_eq!(Fields(completion).u32(0x2c) as usize, packet.len());
}

#[test]
fn a_packet_is_scattered_over_the_segments_of_an_entry_in_order() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a, tx, sq, rx, rq, ..
    } = Ends::new(&setup, 6, 4);

    // Header, two pages, and a terminator; the header segment ends in the payload.
    let (head, pages) = (setup.alloc(4096), setup.alloc(8192));
    rq.post(&[
        (0x8000_0000 | 114, head + 7),
        (4096, pages),
        (4096, pages + 4096),
    ]);
    let mut packet = headers(5001);
    packet.extend(pattern(5001));
    let at = setup.alloc(8192);
    setup.write(at + 3, &packet);
    let length = packet.len() as u32;
    sq.post(
        SEND,
        CHECKSUMS,
        0,
        &[],
        &[(60, a.key, at + 3), (length - 60, a.key, at + 63)],
    );
    sq.ring();

    let completion = rx.wait();
    let mut got = setup.read(head + 7, 114);
    got.extend(setup.read(pages, packet.len() - 114));
    check(&got, &completion);
    assert_eq!(got[54..], packet[54..]);
    assert_eq!(
        setup.read(head + 7 + 114, 8),
        [0; 8],
        "nothing behind a segment"
    );
    let sent = tx.wait();
    assert_eq!((sent[0x3f] >> 4, Fields(&sent).u16(0x3c)), (0, 0));
}

/// Packets of one stream and of others, with one doorbell: what is known of a packet is not taken for the next one's.
#[test]
fn packets_of_a_stream_differ_in_length_and_in_what_counts_them() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a, tx, sq, rx, rq, ..
    } = Ends::new(&setup, 6, 1);
    // Payload, identification, sequence number, port, flags, time to live.
    let packets = [
        (1000, 1, 0x0001_0000u32, 80, 0x18, 64),
        (1000, 2, 0x0001_03e8, 80, 0x18, 64),
        (10, 3, 0x0001_07d0, 80, 0x18, 64),
        (1401, 0xffff, 0xffff_ffff, 80, 0x18, 64),
        (1401, 0, 7, 80, 0x10, 64),
        (500, 0, 7, 81, 0x10, 64),
        (0, 9, 7, 81, 0x10, 64),
        (501, 9, 8, 81, 0x10, 63),
        (502, 9, 9, 81, 0x10, 63),
    ];
    let (from, to) = (setup.alloc(9 * 4096), setup.alloc(9 * 4096));
    let mut sent = Vec::new();
    for (i, (payload, id, sequence, port, flags, limit)) in (0..).zip(packets) {
        let mut packet = headers(payload);
        packet.extend(pattern(payload));
        packet[18..20].copy_from_slice(&u16::to_be_bytes(id));
        packet[22] = limit;
        packet[36..38].copy_from_slice(&u16::to_be_bytes(port));
        packet[38..42].copy_from_slice(&sequence.to_be_bytes());
        packet[47] = flags;
        let at = from + i * 4096 + i;
        setup.write(at, &packet);
        rq.post(&[(2048, to + i * 4096 + 1)]);
        let data = [(packet.len() as u32, a.key, at)];
        sq.post(SEND, CHECKSUMS, 0, &[], &data);
        sent.push(packet);
    }
    sq.ring();
    for (i, packet) in (0..).zip(sent) {
        let completion = rx.wait();
        let length = Fields(&completion).u32(0x2c) as usize;
        assert_eq!(length, packet.len().max(60));
        let mut got = setup.read(to + i * 4096 + 1, length);
        check(&got, &completion);
        got.truncate(packet.len());
        // All but the checksums.
        for at in [24..26, 50..52] {
            got[at].fill(0);
        }
        assert_eq!(got, packet, "packet {i}");
        tx.wait();
    }
}

#[test]
fn the_index_of_ipsec_goes_into_the_hash_of_each_packet() {
    let setup = Setup::new(PAUSE);
    let (a, b) = (setup.port(0), setup.port(1));
    let (tx, rx) = (a.cq(6), b.cq(6));
    let (sq, rq) = (a.sq(&tx, 6), b.rq(&rx, 6, 1, 0));
    const XOR: u32 = 1;
    const INDEX: u32 = 1 << 4;
    let tir = Message::new(0x900, 0x110).bits(0x3c, 23, 0, rq.rqn);
    b.receive_by(tir.bits(0x44, 31, 28, XOR).u32(0x70, INDEX));
    let (from, to) = (setup.alloc(4096), setup.alloc(8192));
    for i in 0..3u8 {
        const ESP: u8 = 50;
        let mut packet = headers(100);
        packet.resize(154, 0);
        packet[23] = ESP;
        packet[34..38].copy_from_slice(&[0, 0, 0, i]);
        let at = from + u64::from(i) * 256;
        setup.write(at, &packet);
        rq.post(&[(2048, to + u64::from(i) * 2048)]);
        sq.post(SEND, 0, 0, &[], &[(154, a.key, at)]);
    }
    sq.ring();
    for i in 0..3u8 {
        let completion = rx.wait();
        assert_eq!(Fields(&completion).u32(0x0c), u32::from(!i));
        assert_eq!(completion[0x10], 3 << 6);
    }
}

#[test]
fn a_large_send_becomes_a_train_of_packets() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a, tx, sq, rx, rq, ..
    } = Ends::new(&setup, 6, 1);
    let buffers = setup.alloc(64 * 2048);
    for i in 0..64 {
        rq.post(&[(2048, buffers + i * 2048)]);
    }
    let payload = pattern(60_001);
    let at = setup.alloc(61_440);
    setup.write(at, &payload);
    // Pieces that do not fall together with the packets.
    let data = [
        (1001, a.key, at),
        (40_000, a.key, at + 1001),
        (19_000, a.key, at + 41_001),
    ];
    sq.post(LARGE_SEND, CHECKSUMS, 1448, &headers(0), &data);
    sq.ring();

    let mut got: Vec<u8> = Vec::new();
    for i in 0..60_001usize.div_ceil(1448) {
        let completion = rx.wait();
        let length = Fields(&completion).u32(0x2c) as usize;
        let packet = setup.read(buffers + i as u64 * 2048, length);
        check(&packet, &completion);
        assert_eq!(Fields(&packet).u32(38), got.len() as u32, "sequence");
        let last = got.len() + length - 54 == payload.len();
        assert_eq!(
            packet[47],
            if last { 0x18 } else { 0x10 },
            "PSH on the last only"
        );
        got.extend(&packet[54..]);
    }
    assert!(got == payload);
    tx.wait();
}

#[test]
fn a_short_packet_is_padded_and_its_padding_counted() {
    let setup = Setup::new(PAUSE);
    let Ends { a, sq, rx, rq, .. } = Ends::new(&setup, 6, 1);
    let (from, to) = (setup.alloc(64), setup.alloc(2048));
    setup.write(to, &[0xee; 70]);
    rq.post(&[(2048, to)]);
    setup.write(from, &headers(1));
    setup.write(from + 54, &[0x77]);
    sq.send(a.key, CHECKSUMS, from, 55);
    let completion = rx.wait();
    let packet = setup.read(to, 60);
    check(&packet, &completion);
    assert_eq!(packet[54..], [0x77, 0, 0, 0, 0, 0]);
    assert_eq!(setup.read(to + 60, 1), [0xee]);
}

#[test]
fn a_vlan_tag_is_taken_off() {
    let setup = Setup::new(PAUSE);
    let Ends { a, sq, rx, rq, .. } = Ends::new(&setup, 6, 1);
    let (from, to) = (setup.alloc(4096), setup.alloc(4096));
    rq.post(&[(2048, to)]);
    let mut packet = headers(100);
    packet.extend(pattern(100));
    setup.write(from, &packet[12..]);
    // The driver puts the tag into the inline header.
    let mut inline = packet[..12].to_vec();
    inline.extend([0x81, 0, 0x60, 7]);
    let rest = packet.len() as u32 - 12;
    sq.post(SEND, CHECKSUMS, 0, &inline, &[(rest, a.key, from)]);
    sq.ring();
    let completion = rx.wait();
    check(&setup.read(to, packet.len()), &completion);
    assert_eq!(
        (completion[0x1d] & 1, Fields(&completion).u16(0x1e)),
        (1, 0x6007)
    );
}

#[test]
fn the_fcs_can_be_kept() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a, sq, b, rx, rq, ..
    } = Ends::new(&setup, 6, 1);
    let modify = Message::new(0x909, 0x110)
        .bits(0x08, 31, 28, 1)
        .bits(0x08, 23, 0, rq.rqn)
        .u64(0x10, 1 << 2)
        .bits(0x20, 23, 20, 1);
    b.accept(modify.bits(0x20, 29, 29, 1));
    let (from, to) = (setup.alloc(4096), setup.alloc(4096));
    rq.post(&[(2048, to)]);
    let mut packet = headers(101);
    packet.extend(pattern(101));
    setup.write(from, &packet);
    sq.send(a.key, CHECKSUMS, from, packet.len() as u32);
    let completion = rx.wait();
    let stored = setup.read(to, packet.len() + 4);
    check(&stored, &completion);
    let (frame, kept) = stored.split_at(packet.len());
    assert_eq!(kept, fcs(frame));
}

#[test]
fn a_bad_entry_stops_its_queue_until_the_driver_resets_it() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a, tx, sq, rx, rq, ..
    } = Ends::new(&setup, 6, 1);
    let (from, to) = (setup.alloc(4096), setup.alloc(4096));
    rq.post(&[(2048, to)]);
    setup.write(from, &headers(10));
    // Opcode, segment size, inline bytes and data; and the syndrome.
    let bad = [
        (0x25, 0, 0, (64, a.key, from), 2),
        (SEND, 0, 0, (64, a.key + 1, from), 4),
        (SEND, 0, 0, (64, a.key, 1 << 40), 4),
        (SEND, 0, 0, (0, a.key, from), 1),
        (SEND, 0, 0, (20_000, a.key, from), 1),
        (LARGE_SEND, 0, 54, (64, a.key, from), 1),
        (LARGE_SEND, 10_000, 54, (64_000, a.key, from), 1),
        (LARGE_SEND, 1448, 13, (64, a.key, from), 1),
    ];
    for (opcode, mss, inline, data, syndrome) in bad {
        sq.post(opcode, 0, mss, &vec![0; inline], &[data]);
        let after = sq.post(SEND, 0, 0, &[], &[(64, a.key, from)]);
        sq.ring();
        let failed = tx.wait();
        assert_eq!(
            (failed[0x3f] >> 4, failed[0x37]),
            (0xd, syndrome),
            "{opcode:#x} {data:?}"
        );
        let flushed = tx.wait();
        assert_eq!((flushed[0x3f] >> 4, flushed[0x37]), (0xd, 5));
        assert_eq!(Fields(&flushed).u16(0x3c), after);
        let query = a.query(Message::new(0x907, 16).bits(0x08, 23, 0, sq.sqn), 0x110);
        assert_eq!(Fields(&query).bits(0x20, 23, 20), 3, "error state");
        a.accept(sq.modify(3, 0));
        sq.rewind();
        a.accept(sq.modify(0, 1));
    }
    assert!(rx.poll().is_none(), "nothing of that was sent");
    sq.send(a.key, 0, from, 64);
    rx.wait();
}

/// It must not be followed beyond the last entry, or round the ring.
#[test]
fn an_entry_that_claims_more_than_is_posted_fails() {
    let setup = Setup::new(PAUSE);
    let a = setup.port(0);
    let tx = a.cq(4);
    let sq = a.sq(&tx, 6);
    let entry = Message(vec![0; 64]).u32(4, sq.sqn << 8 | 63);
    sq.fill(&entry.0, 1);
    let failed = tx.wait();
    assert_eq!((failed[0x3f] >> 4, failed[0x37]), (0xd, 1));
    a.accept(sq.modify(3, 0));
    sq.rewind();
    a.accept(sq.modify(0, 1));
    sq.post(0, 0, 0, &[], &[]);
    sq.ring();
    assert_eq!(tx.wait()[0x3f] >> 4, 0);
}

#[test]
fn a_sender_waits_for_buffers_and_loses_nothing() {
    let setup = Setup::new(Duration::from_secs(5));
    let Ends {
        a,
        sq,
        b,
        rx,
        rq,
        counters,
        ..
    } = Ends::new(&setup, 6, 1);
    let (from, to) = (setup.alloc(4096), setup.alloc(4096));
    rq.post(&[(2048, to)]);
    for i in 0..10 {
        let mut packet = headers(10);
        packet[18..20].copy_from_slice(&u16::to_be_bytes(i));
        setup.write(from + 64 * u64::from(i), &packet);
        sq.post(SEND, 0, 0, &[], &[(64, a.key, from + 64 * u64::from(i))]);
    }
    sq.ring();
    for i in 0..10u16 {
        rx.wait();
        assert_eq!(Fields(&setup.read(to, 20)).u16(18), i, "in order");
        assert!(rx.poll().is_none());
        rq.post(&[(2048, to)]);
    }
    assert_eq!(b.out_of_buffer(counters), 0);
}

#[test]
fn a_starved_queue_drops_after_the_pause_and_holds_nobody_else_up() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a,
        tx,
        sq,
        b,
        rx,
        rq,
        counters,
        ..
    } = Ends::new(&setup, 6, 1);
    let (from, to) = (setup.alloc(4096), setup.alloc(4096));
    setup.write(from, &headers(10));
    sq.send(a.key, 0, from, 64);
    tx.wait();
    assert_eq!(
        b.out_of_buffer(counters),
        1,
        "a queue that never had buffers is not waited for"
    );

    rq.post(&[(2048, to)]);
    let start = Instant::now();
    for _ in 0..10 {
        sq.send(a.key, 0, from, 64);
    }
    for _ in 0..10 {
        tx.wait();
    }
    assert!(start.elapsed() >= PAUSE);
    assert!(
        start.elapsed() < 5 * PAUSE,
        "one pause, not one for each packet"
    );
    assert_eq!(b.out_of_buffer(counters), 1 + 9);
    rx.wait();
    rq.post(&[(2048, to)]);
    sq.send(a.key, 0, from, 64);
    rx.wait();
    assert_eq!(
        b.out_of_buffer(counters),
        10,
        "with buffers it is well again"
    );
}

/// The driver takes them for those of the oldest entries. Both ports send to themselves and to each other in turn, so that both engines
/// use both queues.
#[test]
fn completions_come_in_the_order_of_the_entries_whoever_sends() {
    const ROUNDS: u16 = 100;
    const PACKETS: u16 = 512;
    let setup = Setup::new(PAUSE);
    let (from, to) = (setup.alloc(128), setup.alloc(2048));
    let address = |port| [2, 0x43, 0x58, 0, 0, port + 1];
    for port in 0..2 {
        let mut packet = headers(10);
        packet[..6].copy_from_slice(&address(port));
        setup.write(from + 64 * u64::from(port), &packet);
    }
    let ends = [0u8, 1].map(|port| {
        let end = setup.port(port.into());
        let (tx, rx) = (end.cq(10), end.cq(10));
        let (sq, rq) = (end.sq(&tx, 10), end.rq(&rx, 10, 1, 0));
        end.receive_all(&rq);
        let mut list = Message::new(0x755, 0x208)
            .u32(0x0c, 4)
            .bits(0x1f0, 15, 0, 1);
        list.0[0x202..].copy_from_slice(&address(port));
        end.accept(list);
        (end.key, sq, rq, rx)
    });
    for round in 0..ROUNDS {
        for (key, sq, rq, _) in &ends {
            for i in 0..PACKETS {
                rq.post(&[(2048, to)]);
                let at = from + 64 * u64::from(i % 2);
                sq.post_quietly(SEND, 0, 0, &[], &[(64, *key, at)]);
            }
        }
        for (_, sq, _, _) in &ends {
            sq.ring();
        }
        for (_, _, _, rx) in &ends {
            for i in 0..PACKETS {
                assert_eq!(Fields(&rx.wait()).u16(0x3c), round * PACKETS + i);
            }
        }
    }
}

#[test]
fn without_a_link_nothing_arrives_and_the_queue_goes_on() {
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
    let (from, to) = (setup.alloc(64), setup.alloc(2048));
    rq.post(&[(2048, to)]);
    setup.write(from, &headers(10));
    let admin = |state| {
        Message::new(0x805, 32)
            .u32(0x08, 0x5006)
            .bits(0x10, 11, 8, state)
    };
    b.accept(admin(2));
    let state = a.query(Message::new(0x750, 16), 16);
    assert_eq!(state[0x0f], 0x10, "wanted up, but down");
    sq.send(a.key, 0, from, 64);
    tx.wait();
    assert!(rx.poll().is_none());
    b.accept(admin(1));
    sq.send(a.key, 0, from, 64);
    rx.wait();
}

/// The engine has nothing else to do when their time is over.
#[test]
fn moderated_completions_are_told_of_in_the_end() {
    const MICROSECONDS: u32 = 3000;
    let setup = Setup::new(PAUSE);
    let Ends {
        a, sq, b, rx, rq, ..
    } = Ends::new(&setup, 6, 1);
    let modify = Message::new(0x403, 0x110)
        .bits(0x08, 23, 0, rx.cqn)
        .u32(0x0c, 0b1_0011)
        .bits(0x10, 16, 15, 1)
        .bits(0x20, 27, 16, MICROSECONDS);
    b.accept(modify);
    let (from, to) = (setup.alloc(64), setup.alloc(2048));
    setup.write(from, &headers(10));
    for told in 1..4 {
        rq.post(&[(2048, to)]);
        rx.arm(&b);
        let start = Instant::now();
        sq.send(a.key, 0, from, 64);
        rx.wait();
        eventually("an event", || (b.told() == told).then_some(()));
        assert!(start.elapsed() >= Duration::from_micros(MICROSECONDS.into()));
    }
    assert_eq!(b.told(), 3);
}

/// After a destroy command the driver frees the memory at once.
#[test]
fn a_destroyed_queue_is_not_touched_again() {
    let setup = Setup::new(PAUSE);
    let (a, b) = (setup.port(0), setup.port(1));
    let tx = a.cq(10);
    let sq = a.sq(&tx, 10);
    let from = setup.alloc(64);
    setup.write(from, &headers(10));
    for round in 0..50 {
        let rx = b.cq(8);
        let rq = b.rq(&rx, 7, 1, 0);
        b.receive_all(&rq);
        let to = setup.alloc(4096);
        for _ in 0..128 {
            rq.post(&[(2048, to)]);
        }
        for _ in 0..100 {
            sq.post(SEND, 0, 0, &[], &[(64, a.key, from)]);
        }
        sq.ring();
        if round % 2 == 0 {
            rx.wait();
        }
        b.accept(Message::new(0x90a, 16).bits(0x08, 23, 0, rq.rqn));
        b.accept(Message::new(0x401, 16).bits(0x08, 23, 0, rx.cqn));
        setup.write(to, &[0xee; 64]);
        for _ in 0..100 {
            tx.wait();
        }
        assert_eq!(setup.read(to, 64), [0xee; 64]);
    }
}

#[test]
fn starting_over_ends_everything() {
    let setup = Setup::new(PAUSE);
    let Ends {
        a, tx, sq, rx, rq, ..
    } = Ends::new(&setup, 6, 1);
    rq.post(&[(2048, setup.alloc(2048))]);
    let from = setup.alloc(64);
    setup.write(from, &headers(10));
    let _a = setup.port(0);
    sq.send(a.key, 0, from, 64);
    std::thread::sleep(Duration::from_millis(20));
    assert!(tx.poll().is_none() && rx.poll().is_none());
    let b = setup.port(1);
    eventually("the link of the new drivers", || {
        (b.query(Message::new(0x750, 16), 16)[0x0f] == 0x11).then_some(())
    });
}
