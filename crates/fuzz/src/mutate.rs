// SPDX-License-Identifier: MIT OR Apache-2.0
//! New programs, from nothing and from others.

use rand::seq::IndexedRandom;
use rand::{Rng, RngExt};

use crate::program::{
    ARENA, ARENA_LEN, Call, Kind, MAX_CALLS, Name, OPS, PLACES, Program, ring_offset,
};

const PAGE: u64 = 4096;

/// Numbers at which something may change.
const EDGES: &[u64] = &[
    1,
    2,
    7,
    8,
    15,
    16,
    17,
    63,
    64,
    127,
    128,
    255,
    256,
    4095,
    4096,
    4097,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_f000,
    u64::MAX - 1,
    u64::MAX,
];

/// A value of that kind: more often one that makes sense.
fn value(kind: Kind, rng: &mut impl Rng) -> u64 {
    match kind {
        // The first ones more often: that is how calls meet.
        Kind::File | Kind::Socket | Kind::Map => {
            rng.random_range(0..PLACES).min(rng.random_range(0..PLACES))
        }
        Kind::Address => match rng.random_range(0..10) {
            0 => edge(rng),
            1 => ARENA + rng.random_range(0..=ARENA_LEN),
            2 => (ARENA + rng.random_range(0..ARENA_LEN / PAGE) * PAGE).wrapping_sub(1),
            3 => ARENA + ARENA_LEN,
            4..7 => ARENA + rng.random_range(0..8) * PAGE,
            _ => ARENA + rng.random_range(0..ARENA_LEN / PAGE) * PAGE,
        },
        Kind::Length => match rng.random_range(0..8) {
            0 => edge(rng),
            1 => rng.random_range(0..3 * PAGE),
            2 => rng.random_range(0..ARENA_LEN),
            3 => 0,
            _ => PAGE << rng.random_range(0..12),
        },
        Kind::Entries => match rng.random_range(0..8) {
            0 => edge(rng),
            1 => 0,
            _ => 16 << rng.random_range(0..10),
        },
        Kind::Ring => match rng.random_range(0..8) {
            0 => edge(rng),
            1 => ring_offset(rng.random_range(0..5), rng.random_range(0..3)) + PAGE,
            _ => ring_offset(rng.random_range(1..4), rng.random_range(0..3)),
        },
        // Zero is what makes sense most often.
        Kind::Below(limit) => match rng.random_range(0..16) {
            0 => edge(rng),
            1..8 => rng.random_range(0..limit),
            _ => 0,
        },
        Kind::Number => match rng.random_range(0..8) {
            0 => edge(rng),
            1 => rng.random_range(0..64),
            2 => rng.random(),
            _ => 0,
        },
    }
}

fn edge(rng: &mut impl Rng) -> u64 {
    EDGES.choose(rng).copied().unwrap_or_default()
}

fn new_call(rng: &mut impl Rng) -> Call {
    let name = Name::nth(rng.random_range(0..OPS.len()));
    Call {
        name,
        beside: rng.random_ratio(1, 20),
        args: name
            .op()
            .args
            .iter()
            .map(|&(_, kind)| value(kind, rng))
            .collect(),
    }
}

/// A program of nothing but chance.
pub fn new_program(rng: &mut impl Rng) -> Program {
    let len = rng.random_range(1..=MAX_CALLS / 2);
    Program {
        calls: (0..len).map(|_| new_call(rng)).collect(),
    }
}

/// Changes a program in a few places; `corpus` has others to take from.
pub fn mutate(program: &mut Program, corpus: &[Program], rng: &mut impl Rng) {
    loop {
        step(&mut program.calls, corpus, rng);
        if rng.random_ratio(1, 3) {
            break;
        }
    }
    program.calls.truncate(MAX_CALLS);
}

fn step(calls: &mut Vec<Call>, corpus: &[Program], rng: &mut impl Rng) {
    if calls.is_empty() {
        calls.push(new_call(rng));
        return;
    }
    // More often near the end, where there is most to work with.
    let at = rng
        .random_range(0..calls.len())
        .max(rng.random_range(0..calls.len()));
    match rng.random_range(0..20) {
        0..6 => calls.insert(at + 1, new_call(rng)),
        6..13 => {
            let call = &mut calls[at];
            let kinds = call.name.op().args;
            if kinds.is_empty() {
                return;
            }
            let n = rng.random_range(0..kinds.len());
            call.args[n] = match rng.random_range(0..4) {
                0 => call.args[n].wrapping_add(1),
                1 => call.args[n].wrapping_sub(1),
                _ => value(kinds[n].1, rng),
            };
        }
        13..15 => drop(calls.remove(at)),
        15 => {
            let again = calls[at].clone();
            let to = rng.random_range(at..=calls.len());
            calls.insert(to, again);
        }
        16 => {
            let other = rng.random_range(0..calls.len());
            calls.swap(at, other);
        }
        17 => calls[at].beside ^= true,
        _ => {
            // The end of another program, which has places of the same names.
            if let Some(other) = corpus.choose(rng)
                && !other.calls.is_empty()
            {
                let from = rng.random_range(0..other.calls.len());
                let room = at + 1..at + 1;
                calls.splice(room, other.calls[from..].iter().cloned());
            }
        }
    }
}
