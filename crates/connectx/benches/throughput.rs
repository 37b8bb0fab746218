// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast packets go from port to port on one core when no guest is in the way: a driver of the tests posts entries as mlx5e
//! does and rings once, then the engine is timed until it has nothing left to do.
//!
//! `memcpy` moves as many bytes between places that lie as far apart: what the host's memory can do.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/driver/mod.rs"]
mod driver;

use std::hint::black_box;
use std::time::{Duration, Instant};

use connectx::datapath::engine::Engine;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use driver::{CHECKSUMS, Cq, LARGE_SEND, Port, Rq, SEND, Setup, Sq, headers};

const HEADERS: usize = 54;
/// Entries of a receive queue: what mlx5e has by default.
const LOG_ENTRIES: u32 = 10;
/// Frames of a burst.
const BURST: u64 = 512;
/// Bytes of a receive buffer, three pages as for 9000 bytes.
const BUFFER: u64 = 12288;

/// What is sent: `frames` frames in each of `entries` entries of `payload` bytes.
struct Load {
    opcode: u8,
    payload: u32,
    mss: u16,
}

impl Load {
    fn frames(&self) -> u64 {
        u64::from(self.payload.div_ceil(u32::from(self.mss)))
    }

    fn entries(&self) -> u64 {
        BURST.div_ceil(self.frames())
    }

    /// Bytes on the cable in a burst.
    fn bytes(&self) -> u64 {
        self.entries() * (u64::from(self.payload) + self.frames() * HEADERS as u64)
    }
}

struct Ends<'s> {
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
    fn new(setup: &'s Setup) -> Self {
        let (a, b) = (setup.port(0), setup.port(1));
        let (tx, rx) = (a.cq(12), b.cq(12));
        let (sq, rq) = (a.sq(&tx, 12), b.rq(&rx, LOG_ENTRIES, 4, 0));
        b.receive_all(&rq);
        let (from, to) = (setup.alloc(1 << 20), setup.alloc(BUFFER << LOG_ENTRIES));
        let mut ends = Self {
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

    fn refill(&mut self) {
        let at = self.to + (self.posted % (1 << LOG_ENTRIES)) * BUFFER;
        self.rq
            .post(&[(4096, at), (4096, at + 4096), (4096, at + 8192)]);
        self.posted += 1;
    }

    /// One burst; returns how long the engine had it.
    fn burst(&mut self, engine: &mut Engine<'_>, load: &Load) -> Duration {
        let headers = headers(load.payload.min(u32::from(load.mss)) as usize);
        for i in 0..load.entries() {
            let at = self.from + (i % 8) * (64 << 10);
            self.sq.post(
                load.opcode,
                CHECKSUMS,
                load.mss,
                &headers,
                &[(load.payload, self.a.key, at)],
            );
        }
        self.sq.ring();
        let start = Instant::now();
        while engine.poll() {}
        let took = start.elapsed();
        let sent = (0..load.entries()).filter_map(|_| self.tx.poll());
        assert_eq!(sent.count() as u64, load.entries());
        for _ in 0..load.entries() * load.frames() {
            assert!(self.rx.poll().is_some());
            self.refill();
        }
        took
    }
}

fn engine(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine");
    let loads = [
        (
            "64-byte frames",
            Load {
                opcode: SEND,
                payload: 64 - HEADERS as u32,
                mss: 1448,
            },
        ),
        (
            "1500-byte frames",
            Load {
                opcode: SEND,
                payload: 1500 - HEADERS as u32,
                mss: 1448,
            },
        ),
        (
            "9000-byte frames",
            Load {
                opcode: SEND,
                payload: 9000 - HEADERS as u32,
                mss: 8948,
            },
        ),
        (
            "64 KiB cut to 1500",
            Load {
                opcode: LARGE_SEND,
                payload: 65_160,
                mss: 1448,
            },
        ),
        (
            "64 KiB cut to 9000",
            Load {
                opcode: LARGE_SEND,
                payload: 62_636,
                mss: 8948,
            },
        ),
    ];
    for (name, mut load) in loads {
        if load.opcode == SEND {
            load.mss = load.payload as u16;
        }
        let throughputs = [
            (
                "frames",
                Throughput::Elements(load.entries() * load.frames()),
            ),
            ("bytes", Throughput::Bytes(load.bytes())),
        ];
        for (unit, throughput) in throughputs {
            group.throughput(throughput);
            let setup = Setup::without_engines(Duration::from_secs(1));
            let mut engine = Engine::new(&setup.cable, 0);
            let mut ends = Ends::new(&setup);
            group.bench_with_input(BenchmarkId::new(name, unit), &load, |bencher, load| {
                bencher
                    .iter_custom(|bursts| (0..bursts).map(|_| ends.burst(&mut engine, load)).sum());
            });
        }
    }
    group.finish();
}

fn memcpy(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("memcpy");
    let from = vec![7u8; 1 << 20];
    let mut to = vec![0u8; (BUFFER as usize) << LOG_ENTRIES];
    for length in [1500, 9000] {
        group.throughput(Throughput::Bytes(length as u64 * BURST));
        let mut next = 0;
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| {
                for i in 0..BURST as usize {
                    let source = (i % 8) * (64 << 10);
                    let at = next % (1 << LOG_ENTRIES) * BUFFER as usize;
                    to[at..at + length].copy_from_slice(black_box(&from[source..source + length]));
                    next += 1;
                }
                black_box(&mut to);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, engine, memcpy);
criterion_main!(benches);
