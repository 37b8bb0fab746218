// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast packets go from port to port when no guest is in the way.

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/driver/mod.rs"]
mod driver;

use std::time::{Duration, Instant};

use driver::Setup;

/// Sends for a second, `payload` bytes an entry, and prints the speed.
fn measure(name: &str, opcode: u8, payload: u32, mss: u16) {
    let setup = Setup::new(Duration::from_millis(20));
    let (a, b) = (setup.port(0), setup.port(1));
    let (tx, rx) = (a.cq(10), b.cq(10));
    let (sq, rq) = (a.sq(&tx, 10), b.rq(&rx, 10, 4, 0));
    b.receive_all(&rq);
    let (from, to) = (setup.alloc(1 << 16), setup.alloc(16 << 20));
    let post = |i: u64| {
        rq.post(&[
            (4096, to + (i % 1024) * 16384),
            (12288, to + (i % 1024) * 16384 + 4096),
        ])
    };
    (0..1024).for_each(post);
    let mut headers = [0u8; 54];
    headers[12..15].copy_from_slice(&[8, 0, 0x45]);
    headers[16..18].copy_from_slice(&(40 + payload.min(u32::from(mss)) as u16).to_be_bytes());
    headers[23] = 6;
    headers[46] = 5 << 4;
    let (mut packets, mut sent, mut posted) = (0u64, 0u64, 0u64);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        while posted - sent < 8 {
            sq.post(opcode, 0xc0, mss, &headers, &[(payload, a.key, from)]);
            posted += 1;
        }
        sq.ring();
        while rx.poll().is_some() {
            post(packets);
            packets += 1;
        }
        while tx.poll().is_some() {
            sent += 1;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let bits = sent as f64 * f64::from(payload) * 8.0;
    println!(
        "{name}: {:.1} Gbit/s, {:.2} million packets/s",
        bits / seconds / 1e9,
        packets as f64 / seconds / 1e6
    );
}

fn main() {
    measure("64 KiB sends, 1448 bytes a packet", 0x0e, 65_160, 1448);
    measure("64 KiB sends, 8948 bytes a packet", 0x0e, 62_636, 8948);
    measure("1448-byte packets", 0x0a, 1448, 1448);
    measure("64-byte packets", 0x0a, 64, 64);
}
