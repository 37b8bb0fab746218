// SPDX-License-Identifier: MIT OR Apache-2.0
//! Striding receive queues: memory mapped by UMR, strides, header split and merging.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::Duration;

use connectx::bits::Fields;
use connectx::model::CX7;
use driver::{CHECKSUMS, Cq, LARGE_SEND, Message, Port, SEND, Setup, Sq, headers, pattern};
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
    record: u64,
    /// Receive memory: the pages in the order of the entries.
    pages: Vec<u64>,
    headers: u64,
}

impl<'s> Striding<'s> {
    /// A queue of four entries that receives everything at `port`; with `split`, header entries of 64 bytes, 64 an entry.
    fn new(port: &Port<'s>, cq: &Cq<'_>, split: bool) -> Self {
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
        let mut rq = Message::new(0x908, 0x118)
            .bits(0x28, 23, 0, cq.cqn)
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
        port.receive_in(rqn);
        Self {
            setup,
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
fn a_profile_without_them_refuses_all_of_it() {
    let setup = Setup::new(PAUSE);
    let port = setup.port(0);
    let cq = port.cq(4);
    let key = Message::new(0x200, 0x120)
        .bits(0x10, 15, 15, 1)
        .bits(0x10, 9, 8, 1)
        .bits(0x1c, 23, 0, port.pd)
        .u32(0x44, 1)
        .u32(0x48, 12);
    assert_eq!(port.command(&key, 16).1[0], 3);
    let rq = Message::new(0x908, 0x118)
        .bits(0x28, 23, 0, cq.cqn)
        .bits(0x50, 31, 28, 2)
        .bits(0x58, 23, 0, port.pd)
        .bits(0x70, 19, 16, 5);
    assert_eq!(port.command(&rq, 16).1[0], 3);
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
