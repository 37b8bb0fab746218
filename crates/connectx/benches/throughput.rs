// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast packets go from port to port on one core when no guest is in the way: a driver of the tests posts entries as mlx5e
//! does and rings once, then the engine is timed until it has nothing left to do.
//!
//! `memcpy` moves as many bytes between the same places: what the host's memory can do.
//!
//! Time is the thread's, so that what else runs on the machine counts only as far as it takes caches and memory away.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/driver/mod.rs"]
mod driver;

use std::hint::black_box;
use std::time::Duration;

use connectx::datapath::engine::Engine;
use connectx::mem::{Access, GuestMemory, Slice, copy};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use driver::{CHECKSUMS, Cq, LARGE_SEND, Port, Rq, SEND, Setup, Sq, headers};
use rustix::time::{ClockId, clock_gettime};

const HEADERS: u32 = 54;
/// Entries of a queue: what mlx5e has by default.
const LOG_ENTRIES: u32 = 10;
/// Bursts of each kind in a comparison.
const ROUNDS: usize = 501;
/// Frames of a burst.
const BURST: u64 = 512;

/// The time that `work` takes this thread.
fn time(work: impl FnOnce()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let start = now();
    work();
    now() - start
}

/// What is sent: entries of `payload` bytes each, cut into frames of `mss`.
struct Load {
    name: &'static str,
    opcode: u8,
    payload: u32,
    mss: u32,
    buffer: Buffer,
}

/// What a receive entry has: lengths of pieces that lie one behind the other, as mlx5e has them for an MTU.
type Buffer = &'static [u32];

/// For an MTU of 1500: half a page.
const SMALL: Buffer = &[2048];
/// For an MTU of 9000.
const LARGE: Buffer = &[4096, 4096, 4096];

const LOADS: [Load; 5] = [
    Load::frames("64-byte frames", 64, SMALL),
    Load::frames("1500-byte frames", 1500, SMALL),
    Load::frames("9000-byte frames", 9000, LARGE),
    Load::large("64 KiB cut to 1500", 65_160, 1448, SMALL),
    Load::large("64 KiB cut to 9000", 62_636, 8948, LARGE),
];

impl Load {
    const fn frames(name: &'static str, length: u32, buffer: Buffer) -> Self {
        let payload = length - HEADERS;
        Self {
            name,
            opcode: SEND,
            payload,
            mss: payload,
            buffer,
        }
    }

    const fn large(name: &'static str, payload: u32, mss: u32, buffer: Buffer) -> Self {
        Self {
            name,
            opcode: LARGE_SEND,
            payload,
            mss,
            buffer,
        }
    }

    /// Frames that an entry becomes.
    fn train(&self) -> u64 {
        u64::from(self.payload.div_ceil(self.mss))
    }

    fn entries(&self) -> u64 {
        BURST.div_ceil(self.train())
    }

    /// Bytes of a receive buffer.
    fn room(&self) -> u64 {
        self.buffer.iter().map(|&piece| u64::from(piece)).sum()
    }

    /// Bytes on the cable in a burst.
    fn bytes(&self) -> u64 {
        self.entries() * (u64::from(self.payload) + self.train() * u64::from(HEADERS))
    }
}

/// A sender and a receiver.
struct Ends<'s> {
    setup: &'s Setup,
    load: &'s Load,
    a: Port<'s>,
    sq: Sq<'s>,
    tx: Cq<'s>,
    rq: Rq<'s>,
    rx: Cq<'s>,
    from: u64,
    to: u64,
    posted: u64,
}

impl<'s> Ends<'s> {
    fn new(setup: &'s Setup, load: &'s Load) -> Self {
        let (a, b) = (setup.port(0), setup.port(1));
        let (tx, rx) = (a.cq(LOG_ENTRIES), b.cq(LOG_ENTRIES));
        let segments = (load.buffer.len() as u32).next_power_of_two();
        let (sq, rq) = (a.sq(&tx, LOG_ENTRIES), b.rq(&rx, LOG_ENTRIES, segments, 0));
        b.receive_all(&rq);
        let (from, to) = (
            setup.alloc(1 << 20),
            setup.alloc(load.room() << LOG_ENTRIES),
        );
        let mut ends = Self {
            setup,
            load,
            a,
            sq,
            tx,
            rq,
            rx,
            from,
            to,
            posted: 0,
        };
        (0..1 << LOG_ENTRIES).for_each(|_| ends.refill());
        ends
    }

    /// Where the data of entry `i` is.
    fn source(&self, i: u64) -> u64 {
        self.from + i % 8 * (64 << 10)
    }

    fn refill(&mut self) {
        let mut at = self.to + (self.posted % (1 << LOG_ENTRIES)) * self.load.room();
        let pieces: Vec<(u32, u64)> = self
            .load
            .buffer
            .iter()
            .map(|&length| {
                at += u64::from(length);
                (length, at - u64::from(length))
            })
            .collect();
        self.rq.post(&pieces);
        self.posted += 1;
    }

    /// One burst; returns how long the engine had it.
    fn burst(&mut self, engine: &mut Engine<'_>) -> Duration {
        let load = self.load;
        let headers = headers(load.payload.min(load.mss) as usize);
        let mut last = 0;
        for i in 0..load.entries() {
            let at = self.source(i);
            // Only the headers of large sends stand in the entry.
            let (inline, length) = match load.opcode {
                LARGE_SEND => (&*headers, load.payload),
                _ => {
                    self.setup.write(at, &headers);
                    (&[][..], HEADERS + load.payload)
                }
            };
            let data = [(length, self.a.key, at)];
            let mss = load.mss as u16;
            let sq = &self.sq;
            last = sq.post_quietly(load.opcode, CHECKSUMS, mss, inline, &data);
        }
        // Only the last entry before a doorbell asks for a completion: that is where mlx5e sets the flag (`mlx5e_notify_hw`).
        self.sq.ask(last);
        self.sq.ring();
        let took = time(|| while engine.poll() {});
        assert!(self.tx.poll().is_some());
        for _ in 0..load.entries() * load.train() {
            assert!(self.rx.poll().is_some());
            self.refill();
        }
        took
    }
}

fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    for load in &LOADS {
        let throughputs = [
            (
                "frames",
                Throughput::Elements(load.entries() * load.train()),
            ),
            ("bytes", Throughput::Bytes(load.bytes())),
        ];
        for (unit, throughput) in throughputs {
            group.throughput(throughput);
            let setup = Setup::without_engines(Duration::from_secs(1));
            let mut engine = Engine::new(&setup.cable, 0);
            let mut ends = Ends::new(&setup, load);
            group.bench_function(BenchmarkId::new(load.name, unit), |bencher| {
                bencher.iter_custom(|bursts| (0..bursts).map(|_| ends.burst(&mut engine)).sum());
            });
        }
    }
    group.finish();
}

/// The pieces of memory that the frames of a burst are copied from and to.
fn places<'m>(memory: &'m GuestMemory, ends: &Ends<'_>) -> Vec<(Slice<'m>, Slice<'m>)> {
    let slice = |at, access| {
        let mut pieces = Vec::new();
        let length = (ends.load.payload + HEADERS) as usize;
        memory.slices(at, length, access, &mut pieces).unwrap();
        pieces[0]
    };
    (0..1 << LOG_ENTRIES)
        .map(|i| {
            let from = slice(ends.source(i), Access::Read);
            (from, slice(ends.to + i * ends.load.room(), Access::Write))
        })
        .collect()
}

fn memcpy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memcpy");
    for load in &LOADS[1..3] {
        let setup = Setup::without_engines(Duration::from_secs(1));
        let mut ends = Ends::new(&setup, load);
        let memory = setup.memory();
        let places = places(memory, &ends);
        let mut bursts = places.chunks(BURST as usize).cycle();
        let mut copy_burst = || {
            let burst = bursts.next().unwrap();
            time(|| {
                burst
                    .iter()
                    .for_each(|&(from, to)| _ = copy(black_box(from), to))
            })
        };
        group.throughput(Throughput::Bytes(load.bytes()));
        group.bench_function(load.name, |bencher| {
            bencher.iter_custom(|count| (0..count).map(|_| copy_burst()).sum());
        });

        // In turn, because the neighbours of a machine come and go.
        let mut engine = Engine::new(&setup.cable, 0);
        let mut shares: Vec<f64> = (0..ROUNDS)
            .map(|_| copy_burst().as_secs_f64() / ends.burst(&mut engine).as_secs_f64())
            .collect();
        shares.sort_by(f64::total_cmp);
        let [low, middle, high] = [ROUNDS / 4, ROUNDS / 2, ROUNDS * 3 / 4].map(|i| shares[i]);
        println!(
            "engine/{}: {middle:.2} of memcpy (quartiles {low:.2}, {high:.2}), burst by burst in turn",
            load.name
        );
    }
    group.finish();
}

criterion_group!(benches, engine, memcpy);
criterion_main!(benches);
