// SPDX-License-Identifier: MIT OR Apache-2.0
//! Striding receive queues: memory mapped by UMR, strides, header split and merging, LRO.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::Duration;

use connectx::bits::Fields;
use connectx::model::CX7;
use driver::{CHECKSUMS, Cq, LARGE_SEND, Message, Port, SEND, Setup, Sq, headers, pattern, sum};
use proptest::prelude::*;

const PAUSE: Duration = Duration::from_millis(20);
/// Pages of the receive memory: 16 KiB.
const LOG_PAGE: u32 = 14;
/// Strides of 256 bytes, 64 of them an entry: one page.
const LOG_STRIDE: u32 = 8;
const LOG_STRIDES: u32 = 6;
const ENTRY: u32 = 1 << (LOG_STRIDE + LOG_STRIDES);

/// A key of `count` pages of 2^`log_page` bytes, with `pages` or free.
fn page_key(port: &Port<'_>, log_page: u32, count: u32, pages: &[u64]) -> u32 {
    let mut key = Message::new(0x200, 0x110 + 8 * count as usize)
        .bits(0x10, 30, 30, pages.is_empty().into())
        .bits(0x10, 15, 15, 1)
        .bits(0x10, 11, 10, 3)
        .bits(0x10, 9, 8, 1)
        .bits(0x1c, 23, 0, port.pd)
        .u64(0x28, u64::from(count) << log_page)
        .u32(0x44, count.div_ceil(2))
        .u32(0x48, log_page);
    for (i, &page) in pages.iter().enumerate() {
        key = key.u64(0x110 + 8 * i, page);
    }
    port.create(key) << 8
}

/// Maps `pages` to translations of `key` from `first` on, through `sq`.
fn umr(port: &Port<'_>, cq: &Cq<'_>, sq: &Sq<'_>, key: u32, first: u32, pages: &[u64]) -> u8 {
    let mut entry = Message(vec![0; 128 + 8 * pages.len()])
        .u32(0x00, 0x25)
        .u32(0x04, sq.sqn << 8 | (8 + pages.len() as u32 / 2))
        .u32(0x08, 2 << 2)
        .u32(0x0c, key)
        .u32(0x10, 0x90 << 24)
        .u32(0x14, ((pages.len() as u32 / 2) << 16) | (first / 2))
        .u64(0x18, 1 << 29);
    for (i, &page) in pages.iter().enumerate() {
        entry = entry.u64(128 + 8 * i, page | 2);
    }
    let blocks = entry.0.len().div_ceil(64) as u16;
    sq.fill(&entry.0, blocks);
    let completion = cq.wait();
    port.accept(sq.modify(1, 0));
    sq.rewind();
    port.accept(sq.modify(0, 1));
    completion[0x3f] >> 4
}

struct Striding<'s> {
    setup: &'s Setup,
    rqn: u32,
    counters: u32,
    record: u64,
    /// Receive memory: the pages in the order of the entries.
    pages: Vec<u64>,
    headers: u64,
}

impl<'s> Striding<'s> {
    /// A queue of four entries that receives everything at `port`; with `split`, header entries of 64 bytes, 64 an entry.
    fn new(port: &Port<'s>, cq: &Cq<'_>, split: bool) -> Self {
        let queue = Self::unreached(port, cq, split);
        port.receive_in(queue.rqn);
        queue
    }

    /// The same, to which nothing goes.
    fn unreached(port: &Port<'s>, cq: &Cq<'_>, split: bool) -> Self {
        let setup = port.setup;
        let memory = setup.alloc(4 * u64::from(ENTRY) + (1 << LOG_PAGE));
        let memory = memory.next_multiple_of(1 << LOG_PAGE);
        // Not in the order of their addresses.
        let pages: Vec<u64> = [2, 0, 3, 1].map(|i| memory + i * u64::from(ENTRY)).into();
        let key = page_key(port, LOG_PAGE, 4, &[]);
        let icq = port.cq(4);
        let icosq = port.sq_with(&icq, 6, true);
        assert_eq!(umr(port, &icq, &icosq, key, 0, &pages[..2]), 0);
        assert_eq!(umr(port, &icq, &icosq, key, 2, &pages[2..]), 0);

        let headers = setup.alloc(4 * 4096);
        let header_pages: Vec<u64> = (0..4).map(|i| headers + i * 4096).collect();
        let header_key = page_key(port, 12, 4, &header_pages);
        let (ring, record) = (setup.alloc(4096), setup.alloc(8));
        for entry in 0..4u32 {
            let wqe = Message(vec![0; 32])
                .u32(0x00, (entry + 1) % 4)
                .u32(0x10, ENTRY)
                .u32(0x14, key)
                .u64(0x18, u64::from(entry * ENTRY));
            setup.write(ring + 32 * u64::from(entry), &wqe.0);
        }
        let counters = port.create(Message::new(0x771, 16));
        let mut rq = Message::new(0x908, 0x118)
            .bits(0x28, 23, 0, cq.cqn)
            .bits(0x2c, 31, 24, counters)
            .bits(0x50, 31, 28, 2)
            .bits(0x58, 23, 0, port.pd)
            .u64(0x60, record)
            .bits(0x70, 19, 16, 5)
            .bits(0x70, 4, 0, 2)
            .bits(0x74, 11, 8, LOG_STRIDES.wrapping_sub(9))
            .bits(0x74, 2, 0, LOG_STRIDE - 6)
            .u64(0x110, ring);
        if split {
            rq = rq
                .bits(0x44, 25, 24, 1)
                .bits(0x44, 17, 16, 1)
                .u32(0x88, header_key)
                .u32(0x8c, 1 << 31 | 2 << 24 | 6 << 16 | 8);
        }
        let rqn = port.create(rq);
        port.accept(
            Message::new(0x909, 0x110)
                .bits(0x08, 23, 0, rqn)
                .bits(0x20, 23, 20, 1),
        );
        Self {
            setup,
            rqn,
            counters,
            record,
            pages,
            headers,
        }
    }

    fn posted(&self, entries: u32) {
        self.setup.write(self.record, &entries.to_be_bytes());
    }

    /// `bytes` bytes of entry `entry` from `offset` on.
    fn data(&self, entry: u16, offset: u32, bytes: usize) -> Vec<u8> {
        let at = self.pages[usize::from(entry)] + u64::from(offset);
        self.setup.read(at, bytes)
    }
}

/// Entry, first stride, strides and bytes of a completion; no bytes is a filler.
fn strides(completion: &[u8]) -> (u16, u16, u32, u32) {
    let fields = Fields(completion);
    assert_eq!(completion[0x3f] >> 4, 2, "receive opcode");
    let length = fields.bits(0x2c, 15, 0);
    assert_eq!(fields.bit(0x2c, 31), length == 0, "filler");
    let consumed = fields.bits(0x2c, 30, 16);
    (fields.u16(0x02), fields.u16(0x3c), consumed, length)
}

#[test]
fn packets_fall_into_strides_of_mapped_memory() {
    let setup = Setup::of(&CX7, PAUSE);
    let (a, b) = (setup.port(0), setup.port(1));
    let (tx, rx) = (a.cq(4), b.cq(6));
    let sq = a.sq(&tx, 6);
    let rq = Striding::new(&b, &rx, false);
    rq.posted(2);
    let at = setup.alloc(16384);
    let mut packet = headers(8946);
    packet.extend(pattern(8946));
    setup.write(at, &packet);
    // 36 strides, and 28 are left: not for the second one.
    for length in [9000, 9000, 100] {
        sq.send(a.key, 0, at, length);
        tx.wait();
    }
    assert_eq!(strides(&rx.wait()), (0, 0, 36, 9000));
    assert_eq!(strides(&rx.wait()), (0, 36, 28, 0));
    assert_eq!(strides(&rx.wait()), (1, 0, 36, 9000));
    assert_eq!(strides(&rx.wait()), (1, 36, 1, 100));
    assert_eq!(rq.data(0, 0, 9000), packet);
    assert_eq!(rq.data(1, 0, 9000), packet);
    assert_eq!(rq.data(1, 36 * 256, 100), packet[..100]);
    assert_eq!(rq.data(1, 36 * 256 + 100, 8), [0; 8], "nothing behind it");
}

#[test]
fn a_large_send_is_merged_again() {
    let setup = Setup::of(&CX7, PAUSE);
    let (a, b) = (setup.port(0), setup.port(1));
    let (tx, rx) = (a.cq(4), b.cq(6));
    let sq = a.sq(&tx, 6);
    let rq = Striding::new(&b, &rx, true);
    rq.posted(4);
    let payload = pattern(10_100);
    let at = setup.alloc(12_288);
    setup.write(at, &payload);
    let data = [(payload.len() as u32, a.key, at)];
    sq.post(LARGE_SEND, CHECKSUMS, 1000, &headers(payload.len()), &data);
    sq.ring();
    let mut offset = 0;
    for i in 0..11u32 {
        let length = if i < 10 { 1000 } else { 100 };
        let completion = rx.wait();
        let (entry, _, _, bytes) = strides(&completion);
        assert_eq!((entry, bytes), (0, 54 + length));
        assert_eq!(completion[0x1c], 0b111, "intact");
        let match_flush = u8::from(i > 0) << 1 | u8::from(i == 10) << 2;
        assert_eq!(completion[0x04..0x06], [match_flush, 54]);
        assert_eq!(u32::from(Fields(&completion).u16(0x06)), i, "header entry");
        assert_eq!(Fields(&completion).u32(0x08), offset, "contiguous");
        offset += length;
        let header = setup.read(rq.headers + u64::from(i) * 64, 54);
        assert_eq!(Fields(&header).u32(38), i * 1000, "sequence");
        assert_eq!(header[47], if i < 10 { 0x10 } else { 0x18 }, "flags");
    }
    assert_eq!(rq.data(0, 0, payload.len()), payload);

    // Another packet in between: a large send of the next bytes starts anew, at a stride.
    let mut arp = headers(0);
    arp[12..14].copy_from_slice(&[8, 6]);
    sq.post(SEND, 0, 0, &arp, &[]);
    sq.ring();
    let completion = rx.wait();
    assert_eq!(strides(&completion), (0, 40, 1, 60));
    assert_eq!(completion[0x04..0x06], [4, 0], "not split");
}

#[test]
fn a_key_that_may_not_be_changed_stops_the_queue_that_tries() {
    let setup = Setup::of(&CX7, PAUSE);
    let port = setup.port(0);
    let cq = port.cq(4);
    let key = page_key(&port, 12, 4, &[]);
    let pages = [0x1000, 0x2000];
    let plain = port.sq(&cq, 6);
    assert_eq!(umr_error(&cq, &plain, key, 0, &pages), 2, "not for UMR");
    let icosq = || port.sq_with(&cq, 6, true);
    assert_eq!(umr_error(&cq, &icosq(), key, 4, &pages), 4, "past the end");
    assert_eq!(
        umr_error(&cq, &icosq(), key | 1, 0, &pages),
        4,
        "no such key"
    );
    assert_eq!(umr_error(&cq, &icosq(), port.key, 0, &pages), 4, "no pages");
}

/// The syndrome of a UMR that fails.
fn umr_error(cq: &Cq<'_>, sq: &Sq<'_>, key: u32, first: u32, pages: &[u64]) -> u8 {
    let mut entry = Message(vec![0; 128])
        .u32(0x00, 0x25)
        .u32(0x04, sq.sqn << 8 | 9)
        .u32(0x0c, key)
        .u32(0x10, 0x90 << 24)
        .u32(0x14, (1 << 16) | (first / 2));
    entry
        .0
        .extend(pages.iter().flat_map(|page| page.to_be_bytes()));
    sq.fill(&entry.0, 3);
    let completion = cq.wait();
    assert_eq!(completion[0x3f] >> 4, 0xd, "an error");
    completion[0x37]
}

#[test]
fn a_profile_without_it_refuses_header_split() {
    let setup = Setup::new(PAUSE);
    let port = setup.port(0);
    let cq = port.cq(4);
    let rq = Message::new(0x908, 0x118)
        .bits(0x28, 23, 0, cq.cqn)
        .bits(0x50, 31, 28, 2)
        .bits(0x58, 23, 0, port.pd)
        .bits(0x70, 19, 16, 5)
        .bits(0x70, 4, 0, 2)
        .u64(0x110, setup.alloc(4096));
    port.create(rq.clone());
    let split = rq.u32(0x8c, 1 << 31 | 2 << 24 | 6 << 16 | 8);
    assert_eq!(port.command(&split, 16).1[0], 3);
}

/// What a TIR asks for that merges into queue `rqn`: at most 8 KiB behind the IP header, that wait for `microseconds`.
fn merging(message: Message, rqn: u32, microseconds: u32) -> Message {
    let lro = microseconds << 12 | 3 << 8 | 8192 >> 8;
    message.bits(0x3c, 23, 0, rqn).u32(0x30, lro)
}

/// A merging queue at the other end of a send queue.
struct Merge<'s> {
    setup: &'s Setup,
    a: Port<'s>,
    b: Port<'s>,
    tx: Cq<'s>,
    sq: Sq<'s>,
    rx: Cq<'s>,
    rq: Striding<'s>,
    tir: u32,
}

/// Longer than any test takes.
const LONG: u32 = 0xffff;

impl<'s> Merge<'s> {
    fn new(setup: &'s Setup, microseconds: u32) -> Self {
        let (a, b) = (setup.port(0), setup.port(1));
        let (tx, rx) = (a.cq(8), b.cq(6));
        let sq = a.sq(&tx, 6);
        let rq = Striding::unreached(&b, &rx, false);
        let create = merging(Message::new(0x900, 0x110), rq.rqn, microseconds);
        let tir = b.receive_by(create);
        rq.posted(4);
        Self {
            setup,
            a,
            b,
            tx,
            sq,
            rx,
            rq,
            tir,
        }
    }

    /// Sends a segment of 500 bytes from `port` with sequence number `sequence` and `flags`.
    fn segment(&self, port: u16, sequence: u32, flags: u8) {
        let mut frame = headers(500);
        frame[34..36].copy_from_slice(&port.to_be_bytes());
        frame[38..42].copy_from_slice(&sequence.to_be_bytes());
        frame[47] = flags;
        frame[48..50].copy_from_slice(&[0x12, 0x34]);
        frame.extend(pattern(1000).split_off(sequence as usize % 500));
        frame.truncate(554);
        self.send(&frame, CHECKSUMS);
    }

    fn send(&self, frame: &[u8], flags: u8) {
        let at = self.setup.alloc(4096);
        self.setup.write(at, frame);
        let data = [(frame.len() as u32, self.a.key, at)];
        self.sq.post(SEND, flags, 0, &[], &data);
    }

    /// Lets out what was to be sent: in one go, so that nothing is over before it has come.
    fn ring(&self) {
        self.sq.ring();
    }

    /// Source port, sequence number, payload and segments of what comes next.
    fn next(&self) -> (u16, u32, usize, u8) {
        self.ring();
        let completion = self.rx.wait();
        let (entry, first, _, bytes) = strides(&completion);
        if bytes == 0 {
            return self.next();
        }
        let packet = self
            .rq
            .data(entry, u32::from(first) << LOG_STRIDE, bytes as usize);
        let fields = Fields(&packet);
        assert_eq!(completion[0x1c], 0b111, "intact");
        (
            fields.u16(34),
            fields.u32(38),
            packet.len() - 54,
            completion[0x20],
        )
    }
}

const ACK: u8 = 0x10;
const PUSH: u8 = 0x18;

#[test]
fn a_large_send_becomes_one_packet_again() {
    let setup = Setup::new(PAUSE);
    let merge = Merge::new(&setup, LONG);
    let payload = pattern(7100);
    let at = setup.alloc(8192);
    setup.write(at, &payload);
    let data = [(payload.len() as u32, merge.a.key, at)];
    let mut header = headers(0);
    header[42..50].copy_from_slice(&[1, 2, 3, 4, 5 << 4, 0x18, 5, 6]);
    merge.sq.post(LARGE_SEND, CHECKSUMS, 1000, &header, &data);
    merge.sq.ring();
    let completion = merge.rx.wait();
    assert_eq!(strides(&completion), (0, 0, 28, 7154));
    assert_eq!(completion[0x04..0x0c], [0x40, 64, 5, 6, 1, 2, 3, 4]);
    assert_eq!(completion[0x1c], 0b111, "intact");
    assert_eq!(completion[0x1d] >> 4, 4, "data and an acknowledgement");
    assert_eq!(completion[0x20], 8, "segments");
    assert_eq!(Fields(&completion).u16(0x14), sum(&payload));
    let packet = merge.rq.data(0, 0, 7154);
    assert_eq!(packet[54..], payload);
    assert_eq!(Fields(&packet).u32(38), 0, "the first one's header");
}

#[test]
fn streams_may_come_in_turn() {
    let setup = Setup::new(PAUSE);
    let merge = Merge::new(&setup, LONG);
    for (sequence, flags) in [(0, ACK), (500, ACK), (1000, PUSH)] {
        for port in 1..=10 {
            merge.segment(port, sequence, flags);
        }
    }
    for port in 1..=10 {
        assert_eq!(merge.next(), (port, 0, 1500, 3));
    }
    // One more than there can be: the first has to go.
    for port in 1..=17 {
        merge.segment(port, 0, ACK);
    }
    assert_eq!(merge.next(), (1, 0, 500, 0));
}

#[test]
fn a_merged_packet_is_not_waited_for_forever() {
    let setup = Setup::new(PAUSE);
    let merge = Merge::new(&setup, 1000);
    merge.segment(1, 0, ACK);
    assert_eq!(merge.next(), (1, 0, 500, 0), "on its own, it is as it was");
    merge.segment(1, 500, ACK);
    merge.segment(2, 500, ACK);
    assert_eq!(merge.next().0, 1);
    assert_eq!(merge.next().0, 2);
}

#[test]
fn what_does_not_continue_a_stream_ends_it() {
    let setup = Setup::new(PAUSE);
    let merge = Merge::new(&setup, LONG);
    let begin = || {
        merge.segment(1, 0, ACK);
        merge.segment(1, 500, ACK);
    };
    // FIN, SYN.
    for flag in [1, 2] {
        begin();
        merge.segment(1, 1000, ACK | flag);
        assert_eq!(merge.next(), (1, 0, 1000, 2));
        assert_eq!(merge.next(), (1, 1000, 500, 0));
    }
    begin();
    merge.segment(1, 1500, PUSH);
    assert_eq!(merge.next(), (1, 0, 1000, 2), "a gap");
    assert_eq!(merge.next(), (1, 1500, 500, 0));
    begin();
    let mut broken = headers(500);
    broken[34..36].copy_from_slice(&[0, 1]);
    broken[38..42].copy_from_slice(&1000u32.to_be_bytes());
    broken.extend([1; 500]);
    merge.send(&broken, 0);
    assert_eq!(merge.next(), (1, 0, 1000, 2), "a wrong checksum");
    assert_eq!(merge.rx.wait()[0x1c] & 0b110, 0);
    // 16 make 8020 bytes, and 8192 are allowed.
    (0..18).for_each(|i| merge.segment(1, i * 500, ACK));
    assert_eq!(merge.next(), (1, 0, 8000, 16), "as large as it may be");
    merge.segment(1, 9000, PUSH);
    assert_eq!(merge.next(), (1, 8000, 1500, 3));
}

#[test]
fn padding_is_not_merged() {
    let setup = Setup::new(PAUSE);
    let merge = Merge::new(&setup, LONG);
    merge.segment(1, 0, ACK);
    let mut last = headers(1);
    last[34..36].copy_from_slice(&[0, 1]);
    last[38..42].copy_from_slice(&500u32.to_be_bytes());
    last[47] = ACK;
    last[48..50].copy_from_slice(&[0x12, 0x34]);
    last.push(7);
    merge.send(&last, CHECKSUMS);
    assert_eq!(merge.next(), (1, 0, 501, 2));
}

#[test]
fn merging_ends_when_it_is_told_to() {
    let setup = Setup::new(PAUSE);
    let merge = Merge::new(&setup, LONG);
    merge.segment(1, 0, ACK);
    merge.ring();
    merge.tx.wait();
    let change = Message::new(0x901, 0x110).bits(0x08, 23, 0, merge.tir);
    merge.b.accept(change.u64(0x10, 1));
    merge.segment(1, 500, ACK);
    assert_eq!(merge.next(), (1, 0, 500, 0), "what is there comes first");
    assert_eq!(merge.next(), (1, 500, 500, 0));
}

#[test]
fn a_queue_without_buffers_loses_merged_packets_in_the_end() {
    let setup = Setup::new(PAUSE);
    let merge = Merge::new(&setup, LONG);
    // The entries have room for eight packets of 8 KiB.
    let segments = 10 * 16;
    for i in 0..=segments {
        merge.segment(1, i * 500, if i < segments { ACK } else { PUSH });
        merge.ring();
        merge.tx.wait();
    }
    let completions = std::iter::from_fn(|| merge.rx.poll());
    let received: u32 = completions
        .map(|completion| u32::from(completion[0x20]))
        .sum();
    // Less, where a stream was waited for in vain.
    assert!(received <= 8 * 16);
    assert!(merge.b.out_of_buffer(merge.rq.counters) > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Noise where a receive queue has its entries, and where UMR comes from.
    #[test]
    fn any_entry_is_survived(
        noise in prop::collection::vec(any::<u8>(), 4096), split in any::<bool>(),
        posted in 0u32..6, lengths in prop::collection::vec(60u32..9000, 1..20),
        links in prop::collection::vec((0u32..6, prop_oneof![Just(ENTRY), 0u32..0x2_0000], 0u64..0x2_0000), 4),
        opcodes in prop::collection::vec(prop::sample::select(vec![0x25u8, 0x0a]), 4),
        flags in any::<u8>(), words in prop::collection::vec(0u32..64, 4),
    ) {
        let setup = Setup::of(&CX7, Duration::ZERO);
        let (a, b) = (setup.port(0), setup.port(1));
        let (tx, rx) = (a.cq(6), b.cq(8));
        let sq = a.sq(&tx, 6);
        let rq = Striding::new(&b, &rx, split);
        // The ring was the page before the record.
        let ring = rq.record - 4096;
        for (i, (next, length, address)) in links.into_iter().enumerate() {
            let at = ring + 32 * i as u64;
            setup.write(at, &next.to_be_bytes());
            setup.write(at + 0x10, &length.to_be_bytes());
            setup.write(at + 0x18, &address.to_be_bytes());
        }
        rq.posted(posted);
        let at = setup.alloc(3 * 4096);
        setup.write(at, &headers(1000));
        for length in lengths {
            sq.send(a.key, CHECKSUMS, at, length);
        }
        let icq = b.cq(6);
        for (i, opcode) in opcodes.into_iter().enumerate() {
            let icosq = b.sq_with(&icq, 6, true);
            let mut entry = noise.clone();
            entry[3] = opcode;
            entry[7] = noise[7] & 0x3f;
            entry[0x10] = if i % 2 == 0 { 0x90 } else { flags };
            entry[0x14..0x20].fill(0);
            for (at, word) in [0x14, 0x16].into_iter().zip(&words) {
                entry[at + 1] = *word as u8;
            }
            entry[0x0c..0x10].copy_from_slice(&((0x10 + words[2] % 4) << 8).to_be_bytes());
            icosq.fill(&entry, 16);
        }
        // The engines are joined, and must not have panicked.
    }
}
