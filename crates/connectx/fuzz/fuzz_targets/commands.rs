// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver that submits any commands, with any mailboxes, in any order.
//!
//! Input: commands, each two bytes of opcode, one of operation modifier, one of length in words, the words, and two
//! bytes of output length.
#![no_main]

#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../../tests/driver/mod.rs"]
mod driver;

use std::time::Duration;

use driver::{Message, Setup};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let setup = Setup::without_engines(Duration::ZERO);
    let port = setup.port(0);
    let mut rest = data;
    while let [a, b, op_mod, words, more @ ..] = rest {
        let opcode = u32::from(*a) << 8 | u32::from(*b);
        let length = (4 * usize::from(*words)).min(more.len());
        let (body, more) = more.split_at(length);
        let mut message = Message::new(opcode, 8).bits(4, 15, 0, u32::from(*op_mod)).0;
        message.extend(body);
        message.resize(message.len().max(16), 0);
        let (out, more) = match more {
            [high, low, more @ ..] => (usize::from(*high) << 8 | usize::from(*low), more),
            _ => (16, &[][..]),
        };
        rest = more;
        port.submit(&Message(message), out.min(0x1000));
    }
});
