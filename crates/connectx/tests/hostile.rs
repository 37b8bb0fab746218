// SPDX-License-Identifier: MIT OR Apache-2.0
//! A driver that writes anything anywhere: it gets errors, and the device goes on.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::Duration;

use connectx::bits::op::opcode;
use connectx::cmd::iseg;
use connectx::datapath::doorbell::Doorbell;
use connectx::model::{CX5, CX7, Model};
use driver::{Message, Setup};
use proptest::prelude::*;

/// All commands that the device knows, and some that it does not.
fn opcodes() -> impl Strategy<Value = u32> {
    let known = [
        0x100..0x10e,
        0x200..0x204,
        0x301..0x304,
        0x400..0x405,
        0x750..0x756,
    ]
    .into_iter()
    .chain([0x76f..0x775, 0x800..0x818, 0x900..0x919, 0x92f..0x93d])
    .flatten()
    .collect::<Vec<u32>>();
    prop::sample::select(known)
}

/// Words as a driver would write them: mostly small numbers, in any part of the word.
fn word() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => Just(0),
        4 => 0u32..8,
        2 => (0u32..16).prop_map(|n| n << 24),
        2 => (0u32..16).prop_map(|n| n << 16),
        1 => (0u32..64).prop_map(|n| n << 12),
        1 => any::<u32>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_command_is_answered(
        commands in prop::collection::vec(
            (opcodes(), 0u32..4, prop::collection::vec(word(), 4..160), 0usize..0x300), 1..40),
        newer in any::<bool>(),
    ) {
        let model: &dyn Model = if newer { &CX7 } else { &CX5 };
        let setup = Setup::of(model, Duration::ZERO);
        let port = setup.port(0);
        for (opcode, op_mod, words, out) in commands {
            // Starting over would take the command queue's own objects away; that is tested elsewhere.
            let mut message = Message::new(opcode, 8).bits(4, 15, 0, op_mod).0;
            message.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            message.resize(message.len().max(16), 0);
            let (delivery, _) = port.command(&Message(message), out);
            prop_assert_eq!(delivery, 0);
        }
        // Still alive.
        port.accept(Message::new(u32::from(opcode::ALLOC_PD), 16));
    }

    /// What is set of the physical port can be anything, and the link comes up again all the same when both ends are reset.
    #[test]
    fn any_register_is_answered(
        accesses in prop::collection::vec(
            (0usize..2, prop_oneof![0x5000u32..0x5080, 0x9000u32..0x9080, any::<u32>()], any::<bool>(),
             prop::collection::vec(word(), 2..70), 0usize..0x140), 1..60),
        newer in any::<bool>(),
    ) {
        const ACCESS_REG: u32 = 0x805;
        let model: &dyn Model = if newer { &CX7 } else { &CX5 };
        let setup = Setup::of(model, Duration::ZERO);
        let ports = [setup.port(0), setup.port(1)];
        for (which, register, write, words, out) in accesses {
            let mut message = Message::new(ACCESS_REG, 8)
                .bits(4, 15, 0, (!write).into())
                .0;
            message.extend(register.to_be_bytes());
            message.extend([0; 4]);
            message.extend(words.iter().flat_map(|word| word.to_be_bytes()));
            let (delivery, _) = ports[which].command(&Message(message), out);
            prop_assert_eq!(delivery, 0);
        }
        setup.cable.ports.write().iter_mut().for_each(|port| port.reset());
        let _again = [setup.port(0), setup.port(1)];
        prop_assert!(setup.cable.ports.read().iter().all(|port| port.link_up()));
    }

    #[test]
    fn any_entry_of_the_command_queue_is_survived(bytes in prop::collection::vec(any::<u8>(), 64)) {
        let setup = Setup::new(Duration::ZERO);
        let queue = setup.alloc(4096);
        let mut ports = setup.cable.ports.write();
        iseg::write(&mut ports, 0, 0x14, &(queue as u32).to_be_bytes());
        setup.write(queue, &bytes);
        iseg::write(&mut ports, 0, 0x18, &1u32.to_be_bytes());
        let mut typed = bytes;
        typed[0] = 7;
        setup.write(queue, &typed);
        iseg::write(&mut ports, 0, 0x18, &u32::MAX.to_be_bytes());
    }

    /// Rings, records and buffers full of noise, with valid numbers so that it is looked at.
    #[test]
    fn any_queue_entry_is_survived(
        sends in prop::collection::vec(
            (prop::sample::select(vec![0u8, 0x0a, 0x0e, 0x25]), any::<u8>(), 0u16..3000,
             prop::collection::vec(any::<u8>(), 0..300),
             prop::collection::vec((0u32..9000, 0u64..0x5000), 0..4)), 1..8),
        noise in prop::collection::vec(any::<u8>(), 4096),
        receives in prop::collection::vec((0u32..4000, 0u64..0x5000), 0..8),
        producer in any::<u16>(), arms in prop::collection::vec(any::<u8>(), 8),
    ) {
        let setup = Setup::new(Duration::ZERO);
        let (a, b) = (setup.port(0), setup.port(1));
        let (tx, rx) = (a.cq(4), b.cq(3));
        let (sq, rq) = (a.sq(&tx, 7), b.rq(&rx, 3, 2, 0));
        b.receive_all(&rq);
        let at = setup.alloc(0x5000);
        setup.write(at, &noise);
        for (length, offset) in receives {
            rq.post(&[(length, at + offset), (64, at)]);
        }
        for (opcode, flags, mss, inline, data) in sends {
            let data: Vec<_> =
                data.into_iter().map(|(length, offset)| (length, a.key, at + offset)).collect();
            sq.post(opcode, flags, mss, &inline, &data);
        }
        sq.ring();
        if let Some(doorbell) = Doorbell::decode(0x10_020, &arms) {
            doorbell.act(&setup.cable, 0);
        }
        // Pure noise, as far as it is said to go.
        let noisy = a.sq(&tx, 6);
        noisy.fill(&noise, producer);
        // The engines are joined, and must not have panicked.
    }
}
