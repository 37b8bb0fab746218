// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast packets go from port to port when no guest is in the way.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/driver/mod.rs"]
mod driver;

use std::time::{Duration, Instant};

use driver::Setup;

/// Seconds that the engine of port 0 has used a CPU.
fn engine_seconds() -> f64 {
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|task| task.unwrap().path())
        .filter(|task| std::fs::read_to_string(task.join("comm")).unwrap() == "engine0\n")
        .map(|task| std::fs::read_to_string(task.join("schedstat")).unwrap())
        .map(|stat| stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9)
        .sum()
}

/// Sends for a second, `payload` bytes an entry, and prints the speed for a CPU of the engine's own:
/// what the driver costs is not counted.
fn measure(name: &str, opcode: u8, payload: u32, mss: u16) {
    const ENTRIES: u64 = 4096;
    let setup = Setup::new(Duration::from_secs(1));
    let (a, b) = (setup.port(0), setup.port(1));
    let (tx, rx) = (a.cq(12), b.cq(12));
    let (sq, rq) = (a.sq(&tx, 12), b.rq(&rx, 12, 4, 0));
    b.receive_all(&rq);
    let (from, to) = (setup.alloc(1 << 16), setup.alloc(48 << 20));
    let post = |i: u64| {
        let at = to + (i % ENTRIES) * 12288;
        rq.post(&[(114, at), (4096, at + 4096), (8192 - 114, at + 8192)]);
    };
    (0..ENTRIES).for_each(post);
    let mut headers = [0u8; 54];
    headers[12..15].copy_from_slice(&[8, 0, 0x45]);
    headers[16..18].copy_from_slice(&(40 + payload.min(u32::from(mss)) as u16).to_be_bytes());
    headers[23] = 6;
    headers[46] = 5 << 4;
    let burst = (ENTRIES / 4 / u64::from(payload.div_ceil(u32::from(mss)))).max(1);
    let (mut packets, mut sent) = (0u64, 0u64);
    let (start, before) = (Instant::now(), engine_seconds());
    while start.elapsed() < Duration::from_secs(1) {
        for _ in 0..burst {
            sq.post(opcode, 0xc0, mss, &headers, &[(payload, a.key, from)]);
        }
        sq.ring();
        for _ in 0..burst {
            tx.wait();
            sent += 1;
        }
        while rx.poll().is_some() {
            post(packets);
            packets += 1;
        }
    }
    let seconds = engine_seconds() - before;
    println!(
        "{name}: {:.1} Gbit/s, {:.2} million packets/s",
        sent as f64 * f64::from(payload) * 8.0 / seconds / 1e9,
        packets as f64 / seconds / 1e6
    );
}

fn main() {
    measure("64 KiB sends, 1448 bytes a packet", 0x0e, 65_160, 1448);
    measure("64 KiB sends, 8948 bytes a packet", 0x0e, 62_636, 8948);
    measure("1448-byte packets", 0x0a, 1448, 1448);
    measure("64-byte packets", 0x0a, 64, 64);
}
