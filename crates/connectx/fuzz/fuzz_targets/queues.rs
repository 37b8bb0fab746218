// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver that fills its queues, their records and its memory with anything, and rings any doorbell.
//!
//! Input: two bytes of send producer, two of receive producer, then what fills the send ring, the receive ring, and a page
//! that entries can point to.
#![no_main]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/driver/mod.rs"]
mod driver;

use std::time::Duration;

use connectx::datapath::engine::Engine;
use driver::Setup;
use libfuzzer_sys::fuzz_target;

/// Batches after which a queue that still has work is one that goes round: packets, not entries, end a batch.
const BATCHES: u32 = 4096;

fuzz_target!(|data: &[u8]| {
    let [a, b, c, d, rest @ ..] = data else {
        return;
    };
    let setup = Setup::without_engines(Duration::ZERO);
    let (sender, receiver) = (setup.port(0), setup.port(1));
    let (tx, rx) = (sender.cq(6), receiver.cq(6));
    let (sq, rq) = (sender.sq(&tx, 6), receiver.rq(&rx, 4, 4, 0));
    receiver.receive_all(&rq);
    let memory = setup.alloc(4096);
    let (entries, buffers) = rest.split_at(rest.len() / 2);
    // Memory keys and addresses that are there, where the entries have fours: noise seldom hits them.
    let mut entries = entries.to_vec();
    for segment in entries.chunks_exact_mut(16).skip(2) {
        if segment[15] == 4 {
            let address = memory + u64::from(segment[14]);
            segment[4..8].copy_from_slice(&sender.key.to_be_bytes());
            segment[8..16].copy_from_slice(&address.to_be_bytes());
        }
    }
    setup.write(memory, &buffers[..buffers.len().min(4096)]);
    for piece in buffers.chunks_exact(2).take(usize::from(u16::from_be_bytes([*c, *d])) % 17) {
        rq.post(&[(u32::from(piece[0]) * 16, memory + u64::from(piece[1]))]);
    }
    sq.fill(&entries, u16::from_be_bytes([*a, *b]));
    let mut engine = Engine::new(&setup.cable, 0);
    for _ in 0..BATCHES {
        if !engine.poll() {
            return;
        }
    }
});
