// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver of a few hundred lines: what it takes to move packets, without a guest.
//!
//! It builds its messages by the offsets of `mlx5_ifc.h` on its own, so it also checks
//! how the device reads them.

use std::cell::Cell;
use std::fs::File;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use connectx::bits::{Fields, FieldsMut};
use connectx::cmd::iseg;
use connectx::datapath::doorbell::Doorbell;
use connectx::datapath::engine;
use connectx::datapath::link::Cable;
use connectx::mem::GuestMemory;
use connectx::model::{CX5, Model};

/// Operation of a send entry: one frame.
pub const SEND: u8 = 0x0a;
/// Operation of a send entry: a header, and payload that is cut into frames.
pub const LARGE_SEND: u8 = 0x0e;
/// Flags of an Ethernet segment: fill in the IP and the TCP checksum.
pub const CHECKSUMS: u8 = 0xc0;

const PAGE: u64 = 4096;
/// Entries of an event queue.
const EVENTS: u64 = 512;
const MEMORY: u64 = 64 << 20;

/// Two ports with a cable and engines, and the memory of both hosts.
pub struct Setup {
    pub cable: Arc<Cable>,
    memory: GuestMemory,
    free: Cell<u64>,
    engines: Vec<JoinHandle<()>>,
}

impl Setup {
    /// Both ports of a ConnectX-5 enabled, links up, and engines that serve them.
    pub fn new(pause: Duration) -> Self {
        Self::of(&CX5, pause)
    }

    /// The same with ports of `model`.
    pub fn of(model: &'static dyn Model, pause: Duration) -> Self {
        let mut setup = Self::still(model, pause);
        let engine = |port| {
            let cable = setup.cable.clone();
            let builder = std::thread::Builder::new().name(format!("engine{port}"));
            builder.spawn(move || engine::run(&cable, port)).unwrap()
        };
        setup.engines = (0..2).map(engine).collect();
        setup
    }

    /// As [`Self::new`], but nobody serves the ports.
    pub fn without_engines(pause: Duration) -> Self {
        Self::still(&CX5, pause)
    }

    fn still(model: &'static dyn Model, pause: Duration) -> Self {
        let file = rustix::fs::memfd_create("connectx-driver", rustix::fs::MemfdFlags::CLOEXEC);
        let file = File::from(file.unwrap());
        file.set_len(MEMORY).unwrap();
        let map = |memory: &mut GuestMemory| {
            memory.map(&file, 0, 0, MEMORY, true, true).unwrap();
        };
        let cable = Arc::new(Cable::new(model, pause));
        for port in cable.ports.write().iter_mut() {
            map(&mut port.bus.memory);
        }
        let mut memory = GuestMemory::default();
        map(&mut memory);
        Self {
            cable,
            memory,
            free: Cell::new(PAGE),
            engines: Vec::new(),
        }
    }

    /// `bytes` bytes of fresh memory on a page boundary.
    pub fn alloc(&self, bytes: u64) -> u64 {
        let at = self.free.get();
        self.free.set(at + bytes.next_multiple_of(PAGE));
        assert!(self.free.get() <= MEMORY);
        at
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write(at, bytes).unwrap();
    }

    pub fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut to = vec![0; bytes];
        self.memory.read(at, &mut to).unwrap();
        to
    }

    /// The memory, all of it from address 0 on.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    pub fn port(&self, index: usize) -> Port<'_> {
        Port::new(self, index)
    }
}

/// A sender at port 0, and at port 1 a queue that receives everything.
pub struct Ends<'s> {
    pub a: Port<'s>,
    pub tx: Cq<'s>,
    pub sq: Sq<'s>,
    pub b: Port<'s>,
    pub rx: Cq<'s>,
    pub rq: Rq<'s>,
    /// The counters of that queue.
    pub counters: u32,
}

impl<'s> Ends<'s> {
    /// Queues of 2^`log_size` blocks and entries; a receive entry has `segments` segments, 1, 2 or 4.
    pub fn new(setup: &'s Setup, log_size: u32, segments: u32) -> Self {
        let (a, b) = (setup.port(0), setup.port(1));
        let (tx, rx) = (a.cq(log_size), b.cq(log_size));
        let counters = b.create(Message::new(0x771, 16));
        let sq = a.sq(&tx, log_size);
        let rq = b.rq(&rx, log_size, segments, counters);
        b.receive_all(&rq);
        Self {
            a,
            tx,
            sq,
            b,
            rx,
            rq,
            counters,
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        self.cable.bells.iter().for_each(|bell| bell.stop());
        for engine in self.engines.drain(..) {
            engine.join().expect("an engine panicked");
        }
    }
}

/// Waits for `condition`, at most five seconds.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < Duration::from_secs(5), "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Ethernet, IPv4 and TCP headers for `payload` bytes, with ACK and PSH, checksums left to the device.
pub fn headers(payload: usize) -> Vec<u8> {
    let mut bytes = vec![0; 54];
    bytes[..14].copy_from_slice(&[2, 0x43, 0x58, 0, 0, 2, 2, 0x43, 0x58, 0, 0, 1, 8, 0]);
    bytes[14] = 0x45;
    bytes[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
    bytes[22..24].copy_from_slice(&[64, 6]);
    bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[34..38].copy_from_slice(&[0x12, 0x34, 0x14, 0x51]);
    bytes[46..48].copy_from_slice(&[5 << 4, 0x18]);
    bytes
}

/// `length` bytes that do not repeat soon.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i * 31 + i / 256) as u8).collect()
}

/// One's-complement sum of big-endian words, the slow and plain way.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Builds a message.
#[derive(Clone)]
pub struct Message(pub Vec<u8>);

impl Message {
    pub fn new(opcode: u32, length: usize) -> Self {
        Self(vec![0; length]).bits(0, 31, 16, opcode)
    }

    pub fn bits(mut self, at: usize, high: u32, low: u32, value: u32) -> Self {
        FieldsMut(&mut self.0).set_bits(at, high, low, value);
        self
    }

    pub fn u32(self, at: usize, value: u32) -> Self {
        self.bits(at, 31, 0, value)
    }

    pub fn u64(mut self, at: usize, value: u64) -> Self {
        FieldsMut(&mut self.0).set_u64(at, value);
        self
    }

    pub fn pages(mut self, at: usize, start: u64, count: u64) -> Self {
        for i in 0..count {
            self = self.u64(at + 8 * i as usize, start + i * PAGE);
        }
        self
    }
}

/// A port as its driver has it: with a protection domain, a key and an event queue.
pub struct Port<'s> {
    pub setup: &'s Setup,
    pub index: usize,
    queue: u64,
    pub pd: u32,
    pub key: u32,
    pub eqn: u32,
    events: u64,
}

impl<'s> Port<'s> {
    fn new(setup: &'s Setup, index: usize) -> Self {
        // The command queue, then one input and one output mailbox chain of 64 blocks each.
        let queue = setup.alloc(PAGE + 128 * 1024);
        let mut port = Self {
            setup,
            index,
            queue,
            pd: 0,
            key: 0,
            eqn: 0,
            events: setup.alloc(EVENTS * 64),
        };
        port.store(0x10, (queue >> 32) as u32);
        port.store(0x14, queue as u32);
        port.pd = port.create(Message::new(0x800, 16));
        let mkey = Message::new(0x200, 0x110)
            .bits(0x10, 11, 10, 3)
            .bits(0x1c, 31, 31, 1);
        port.key = port.create(mkey.bits(0x1c, 23, 0, port.pd)) << 8;
        let pages = EVENTS * 64 / PAGE;
        let eq = Message::new(0x301, 0x110 + 8 * pages as usize)
            .bits(0x1c, 28, 24, EVENTS.ilog2())
            .bits(0x24, 11, 0, 1);
        port.eqn = port.create(eq.pages(0x110, port.events, pages));
        port.accept(
            Message::new(0x805, 32)
                .u32(0x08, 0x5006)
                .bits(0x10, 11, 8, 1),
        );
        port
    }

    /// How many events about completions there were, at most as many as the queue holds.
    pub fn told(&self) -> usize {
        let cqn = |i| self.setup.memory.load(self.events + 64 * i + 0x38);
        (0..EVENTS).filter(|&i| cqn(i) != Ok(0)).count()
    }

    fn store(&self, offset: u64, value: u32) {
        let ports = &mut self.setup.cable.ports.write();
        iseg::write(ports, self.index, offset, &value.to_be_bytes());
    }

    fn mailbox(&self, chain: u64, i: u64) -> u64 {
        self.queue + PAGE + (chain * 64 + i) * 1024
    }

    /// Submits a command; returns its entry of the command queue as it is afterwards.
    pub fn submit(&self, message: &Message, out: usize) -> Vec<u8> {
        let setup = self.setup;
        let mailbox = |chain, i| self.mailbox(chain, i);
        for chain in 0..2 {
            for i in 0..64 {
                let next = if i < 63 { mailbox(chain, i + 1) } else { 0 };
                setup.write(mailbox(chain, i) + 0x230, &next.to_be_bytes());
            }
        }
        let (head, rest) = message.0.split_at(16);
        for (i, data) in rest.chunks(512).enumerate() {
            setup.write(mailbox(0, i as u64), data);
        }
        let mut entry = Message(vec![0; 64])
            .u32(0x04, message.0.len() as u32)
            .u64(0x08, mailbox(0, 0))
            .u64(0x30, mailbox(1, 0))
            .u32(0x38, out as u32)
            .u32(0x3c, 0x5a00_0001);
        entry.0[0] = 7;
        entry.0[0x10..0x20].copy_from_slice(head);
        setup.write(self.queue, &entry.0);
        self.store(0x18, 1);
        self.answer()
    }

    /// The entry of the last command as it is now.
    pub fn answer(&self) -> Vec<u8> {
        self.setup.read(self.queue, 64)
    }

    /// Executes a command; returns delivery status and output.
    pub fn command(&self, message: &Message, out: usize) -> (u8, Vec<u8>) {
        let (setup, entry) = (self.setup, self.submit(message, out));
        assert_eq!(entry[0x3f] & 1, 0, "the device gives the entry back");
        assert_eq!(entry[0x3c], 0x5a, "the token stays");
        let mut output = entry[0x20..0x30].to_vec();
        for (i, _) in (16..out).step_by(512).enumerate() {
            output.extend(setup.read(self.mailbox(1, i as u64), 512));
        }
        output.truncate(out);
        (entry[0x3f] >> 1, output)
    }

    /// Executes a command that must succeed; returns its output.
    pub fn query(&self, message: Message, out: usize) -> Vec<u8> {
        let (delivery, output) = self.command(&message, out);
        assert_eq!(
            (delivery, output[0]),
            (0, 0),
            "command {:#x}",
            Fields(&message.0).u16(0)
        );
        output
    }

    pub fn accept(&self, message: Message) {
        self.query(message, 16);
    }

    /// Executes a command that makes an object; returns its number.
    pub fn create(&self, message: Message) -> u32 {
        Fields(&self.query(message, 16)).bits(0x08, 23, 0)
    }

    pub fn cq(&self, log_size: u32) -> Cq<'s> {
        let pages = (64u64 << log_size).div_ceil(PAGE);
        let (ring, record) = (self.setup.alloc(pages * PAGE), self.setup.alloc(8));
        self.setup
            .write(ring, &[0xf1].repeat((64 << log_size) as usize));
        let message = Message::new(0x400, 0x110 + 8 * pages as usize)
            .bits(0x1c, 28, 24, log_size)
            .u32(0x24, self.eqn)
            .u64(0x48, record)
            .pages(0x110, ring, pages);
        let cqn = self.create(message);
        Cq {
            setup: self.setup,
            cqn,
            ring,
            record,
            log_size,
            consumer: Cell::new(0),
        }
    }

    /// A ready send queue of 2^`log_size` blocks.
    pub fn sq(&self, cq: &Cq<'_>, log_size: u32) -> Sq<'s> {
        self.sq_with(cq, log_size, false)
    }

    /// The same; `umr` says that it may change memory keys.
    pub fn sq_with(&self, cq: &Cq<'_>, log_size: u32, umr: bool) -> Sq<'s> {
        let pages = (64u64 << log_size).div_ceil(PAGE);
        let (ring, record) = (self.setup.alloc(pages * PAGE), self.setup.alloc(8));
        let message = Message::new(0x904, 0x110 + 8 * pages as usize)
            .bits(0x20, 19, 19, umr.into())
            .bits(0x28, 23, 0, cq.cqn)
            .bits(0x50, 31, 28, 1)
            .bits(0x58, 23, 0, self.pd)
            .u64(0x60, record)
            .bits(0x70, 19, 16, 6)
            .bits(0x70, 4, 0, log_size)
            .pages(0x110, ring, pages);
        let sqn = self.create(message);
        let (setup, port) = (self.setup, self.index);
        let sq = Sq {
            setup,
            port,
            sqn,
            ring,
            record,
            log_size,
            producer: Cell::new(0),
        };
        self.accept(sq.modify(0, 1));
        sq
    }

    /// A ready receive queue of 2^`log_size` entries of `segments` segments, 1, 2 or 4.
    pub fn rq(&self, cq: &Cq<'_>, log_size: u32, segments: u32, counters: u32) -> Rq<'s> {
        let log_stride = 4 + segments.ilog2();
        let pages = (1u64 << (log_size + log_stride)).div_ceil(PAGE);
        let (ring, record) = (self.setup.alloc(pages * PAGE), self.setup.alloc(8));
        let message = Message::new(0x908, 0x110 + 8 * pages as usize)
            .bits(0x28, 23, 0, cq.cqn)
            .bits(0x2c, 31, 24, counters)
            .bits(0x50, 31, 28, 1)
            .bits(0x58, 23, 0, self.pd)
            .u64(0x60, record)
            .bits(0x70, 19, 16, log_stride)
            .bits(0x70, 4, 0, log_size)
            .pages(0x110, ring, pages);
        let rqn = self.create(message);
        self.accept(
            Message::new(0x909, 0x110)
                .bits(0x08, 23, 0, rqn)
                .bits(0x20, 23, 20, 1),
        );
        let (setup, key) = (self.setup, self.key);
        Rq {
            setup,
            rqn,
            ring,
            record,
            log_size,
            log_stride,
            key,
            producer: Cell::new(0),
        }
    }

    /// Sends everything that arrives to `rq`.
    pub fn receive_all(&self, rq: &Rq<'_>) {
        self.receive_in(rq.rqn);
    }

    /// The same for the queue `rqn`.
    pub fn receive_in(&self, rqn: u32) {
        self.receive_by(Message::new(0x900, 0x110).bits(0x3c, 23, 0, rqn));
    }

    /// All packets go to the TIR that `tir` makes; returns its number.
    pub fn receive_by(&self, tir: Message) -> u32 {
        let tir = self.create(tir);
        let table = self.create(Message::new(0x930, 0x40));
        let group = Message::new(0x933, 0x400).bits(0x14, 23, 0, table);
        let group = self.create(group);
        let rule = Message::new(0x936, 0x348)
            .bits(0x14, 23, 0, table)
            .u32(0x44, group)
            .bits(0x4c, 15, 0, 4)
            .bits(0x50, 23, 0, 1)
            .bits(0x340, 31, 24, 2)
            .bits(0x340, 23, 0, tir);
        self.accept(rule);
        self.accept(Message::new(0x92f, 0x40).bits(0x14, 23, 0, table));
        tir
    }

    /// The out_of_buffer counter of a set.
    pub fn out_of_buffer(&self, set: u32) -> u32 {
        Fields(&self.query(Message::new(0x773, 0x20).u32(0x1c, set), 0x100)).u32(0x30)
    }
}

pub struct Cq<'s> {
    setup: &'s Setup,
    pub cqn: u32,
    ring: u64,
    record: u64,
    log_size: u32,
    consumer: Cell<u32>,
}

impl Cq<'_> {
    /// The next completion, if there is one.
    pub fn poll(&self) -> Option<Vec<u8>> {
        let consumer = self.consumer.get();
        let slot = u64::from(consumer & ((1 << self.log_size) - 1));
        // Its last byte; what the device wrote before is seen by later reads.
        let owner = self.setup.memory.load(self.ring + slot * 64 + 60).unwrap() & 0xff;
        if owner >> 4 == 0xf || owner & 1 != consumer >> self.log_size & 1 {
            return None;
        }
        self.consumer.set(consumer + 1);
        self.setup.write(self.record, &(consumer + 1).to_be_bytes());
        Some(self.setup.read(self.ring + slot * 64, 64))
    }

    /// Asks port `port`, whose queue it is, to tell of completions that have not been polled yet.
    pub fn arm(&self, port: &Port<'_>) {
        let (cqn, consumer) = (self.cqn, self.consumer.get());
        Doorbell::ArmCq { cqn, consumer }.act(&self.setup.cable, port.index);
    }

    pub fn wait(&self) -> Vec<u8> {
        eventually("a completion", || self.poll())
    }
}

pub struct Sq<'s> {
    setup: &'s Setup,
    port: usize,
    pub sqn: u32,
    ring: u64,
    record: u64,
    log_size: u32,
    producer: Cell<u16>,
}

impl Sq<'_> {
    pub fn modify(&self, from: u32, to: u32) -> Message {
        let message = Message::new(0x905, 0x110).bits(0x08, 23, 0, self.sqn);
        message.bits(0x08, 31, 28, from).bits(0x20, 23, 20, to)
    }

    /// An emptied queue starts again.
    pub fn rewind(&self) {
        self.producer.set(0);
        self.setup.write(self.record, &[0; 8]);
    }

    /// Posts an entry of `opcode` with an Ethernet segment of `flags` and `mss`, `inline` bytes
    /// and `data` segments of length, key and address. It asks for a completion. Does not ring.
    pub fn post(
        &self,
        opcode: u8,
        flags: u8,
        mss: u16,
        inline: &[u8],
        data: &[(u32, u32, u64)],
    ) -> u16 {
        let index = self.post_quietly(opcode, flags, mss, inline, data);
        self.ask(index);
        index
    }

    /// The entry that starts at block `index` is to ask for a completion.
    pub fn ask(&self, index: u16) {
        let slot = u64::from(index) & ((1 << self.log_size) - 1);
        self.setup.write(self.ring + slot * 64 + 11, &[2 << 2]);
    }

    /// As [`Self::post`], but the entry asks for no completion.
    pub fn post_quietly(
        &self,
        opcode: u8,
        flags: u8,
        mss: u16,
        inline: &[u8],
        data: &[(u32, u32, u64)],
    ) -> u16 {
        let index = self.producer.get();
        let data_at = 0x20 + inline.len().saturating_sub(2).next_multiple_of(16);
        let mut entry = vec![0; data_at + 16 * data.len()];
        entry[3] = opcode;
        entry[0x14] = flags;
        entry[0x16..0x18].copy_from_slice(&mss.to_be_bytes());
        entry[0x1c..0x1e].copy_from_slice(&(inline.len() as u16).to_be_bytes());
        entry[0x1e..0x1e + inline.len()].copy_from_slice(inline);
        for (segment, &(length, key, address)) in entry[data_at..].chunks_mut(16).zip(data) {
            segment[..4].copy_from_slice(&length.to_be_bytes());
            segment[4..8].copy_from_slice(&key.to_be_bytes());
            segment[8..].copy_from_slice(&address.to_be_bytes());
        }
        let segments = (entry.len() / 16) as u32;
        let mut entry = Message(entry).u32(4, self.sqn << 8 | segments).0;
        entry.resize(entry.len().next_multiple_of(64), 0);
        for (i, block) in entry.chunks(64).enumerate() {
            let slot = u64::from(index.wrapping_add(i as u16)) & ((1 << self.log_size) - 1);
            self.setup.write(self.ring + slot * 64, block);
        }
        self.producer
            .set(index.wrapping_add((entry.len() / 64) as u16));
        index
    }

    /// Sends one packet that stands in memory at `at`.
    pub fn send(&self, key: u32, flags: u8, at: u64, length: u32) -> u16 {
        let index = self.post(0x0a, flags, 0, &[], &[(length, key, at)]);
        self.ring();
        index
    }

    /// Fills the ring with `bytes`, and says that there are entries up to `producer`.
    pub fn fill(&self, bytes: &[u8], producer: u16) {
        let size = 64 << self.log_size;
        self.setup.write(self.ring, &bytes[..bytes.len().min(size)]);
        self.producer.set(producer);
        self.ring();
    }

    pub fn ring(&self) {
        let record = u32::from(self.producer.get()).to_be_bytes();
        self.setup.write(self.record + 4, &record);
        let doorbell = Message(vec![0; 8]).bits(4, 31, 8, self.sqn).0;
        let doorbell = Doorbell::decode(0x10_800, &doorbell).unwrap();
        doorbell.act(&self.setup.cable, self.port);
    }
}

pub struct Rq<'s> {
    setup: &'s Setup,
    pub rqn: u32,
    ring: u64,
    record: u64,
    log_size: u32,
    log_stride: u32,
    key: u32,
    producer: Cell<u16>,
}

impl Rq<'_> {
    /// Posts an entry of segments of length and address.
    pub fn post(&self, segments: &[(u32, u64)]) {
        let index = self.producer.get();
        let mut entry = vec![0; 1 << self.log_stride];
        let end = [(0, 0x100, 0)];
        let segments = segments
            .iter()
            .map(|&(length, at)| (length, self.key, at))
            .chain(end);
        for (to, (length, key, at)) in entry.chunks_mut(16).zip(segments) {
            to[..4].copy_from_slice(&u32::to_be_bytes(length));
            to[4..8].copy_from_slice(&u32::to_be_bytes(key));
            to[8..].copy_from_slice(&u64::to_be_bytes(at));
        }
        let slot = u64::from(index) & ((1 << self.log_size) - 1);
        self.setup
            .write(self.ring + (slot << self.log_stride), &entry);
        self.producer.set(index.wrapping_add(1));
        self.setup
            .write(self.record, &u32::from(self.producer.get()).to_be_bytes());
    }
}
