// SPDX-License-Identifier: MIT OR Apache-2.0
//! Index arithmetic of the rings against a peer that writes anything, and across the wrap at 2^32.

#[path = "../../../src/ring/mod.rs"]
mod ring;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use ring::{Consumer, Full, Memory, Producer};

/// A ring whose words the test writes as the hostile peer would. Slots hold the index that was written to them.
struct Words {
    entries: u32,
    producer: Cell<u32>,
    consumer: Cell<u32>,
    flags: Cell<u32>,
    slots: RefCell<Vec<u32>>,
}

impl Words {
    fn starting_at(index: u32, entries: u32) -> Self {
        Self {
            entries,
            producer: Cell::new(index),
            consumer: Cell::new(index),
            flags: Cell::new(0),
            slots: RefCell::new(vec![0; entries as usize]),
        }
    }
}

impl Memory for &Words {
    type Entry = u32;

    fn entries(&self) -> u32 {
        self.entries
    }
    fn load_producer(&self) -> u32 {
        self.producer.get()
    }
    fn store_producer(&self, index: u32) {
        self.producer.set(index);
    }
    fn load_consumer(&self) -> u32 {
        self.consumer.get()
    }
    fn store_consumer(&self, index: u32) {
        self.consumer.set(index);
    }
    fn load_flags(&self) -> u32 {
        self.flags.get()
    }
    fn store_flags(&self, flags: u32) {
        self.flags.set(flags);
    }
    fn full_barrier(&self) {}
    fn read(&self, index: u32) -> u32 {
        self.slots.borrow()[(index % self.entries) as usize]
    }
    fn write(&self, index: u32, entry: u32) {
        self.slots.borrow_mut()[(index % self.entries) as usize] = entry;
    }
}

fn entries() -> impl Strategy<Value = u32> {
    (0u32..6).prop_map(|shift| 1 << shift)
}

/// Indices where arithmetic goes wrong, and any other.
fn index() -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        0u32..64,
        (0u32..64).prop_map(|back| u32::MAX - back)
    ]
}

/// What a hostile peer writes: near the true index, or anything.
fn claim(near: u32) -> impl Strategy<Value = u32> {
    prop_oneof![
        any::<u32>(),
        (0u32..100).prop_map(move |ahead| near.wrapping_add(ahead)),
        (0u32..100).prop_map(move |behind| near.wrapping_sub(behind)),
    ]
}

proptest! {
    /// Both sides honest: a ring is a bounded queue, wherever its indices stand.
    #[test]
    fn an_honest_ring_is_a_bounded_queue(
        (start, entries) in (index(), entries()),
        steps in vec(any::<bool>(), 1..300),
    ) {
        let words = Words::starting_at(start, entries);
        let mut producer = Producer::starting_at(&words, start);
        let mut consumer = Consumer::starting_at(&words, start);
        let mut model = VecDeque::new();
        for (number, push) in (0u32..).zip(steps) {
            if push {
                let room = model.len() < entries as usize;
                prop_assert_eq!(producer.push(number), if room { Ok(()) } else { Err(Full) });
                if room {
                    model.push_back(number);
                }
                prop_assert_eq!(producer.publish(), room);
            } else {
                prop_assert_eq!(consumer.pop(), model.pop_front());
                prop_assert!(!consumer.release());
            }
            prop_assert_eq!(producer.room(), entries - model.len() as u32);
            prop_assert_eq!(producer.unread(), model.len() as u32);
            prop_assert_eq!(consumer.available(), model.len() as u32);
            prop_assert_eq!(ring::is_empty(&&words), model.is_empty());
        }
    }

    /// Many at a time: as many as fit, in order, whatever was pushed and popped before.
    #[test]
    fn extending_pushes_what_fits(
        (start, entries) in (index(), entries()),
        steps in vec((0u32..40, 0usize..40), 1..60),
    ) {
        let words = Words::starting_at(start, entries);
        let mut producer = Producer::starting_at(&words, start);
        let mut consumer = Consumer::starting_at(&words, start);
        let mut model = VecDeque::new();
        let mut number = 0;
        for (more, pops) in steps {
            let room = entries - model.len() as u32;
            let pushed = producer.extend((number..number + more).collect::<Vec<_>>().into_iter());
            prop_assert_eq!(pushed as u32, more.min(room));
            model.extend(number..number + pushed as u32);
            number += pushed as u32;
            prop_assert_eq!(producer.publish(), pushed > 0);
            for _ in 0..pops {
                prop_assert_eq!(consumer.pop(), model.pop_front());
            }
            consumer.release();
        }
    }

    /// Whatever the producer's word says, a consumer pops no more than some believable word promised, and never more
    /// than a ring's worth of it.
    #[test]
    fn a_consumer_believes_no_impossible_producer(
        (start, entries, claims) in (index(), entries()).prop_flat_map(|(start, entries)| {
            (Just(start), Just(entries), vec(claim(start), 1..50))
        }),
    ) {
        let words = Words::starting_at(start, entries);
        let mut consumer = Consumer::starting_at(&words, start);
        let mut next = start;
        for claim in claims {
            words.producer.set(claim);
            let promised = claim.wrapping_sub(next);
            let expected = if promised <= entries { promised } else { 0 };
            prop_assert_eq!(consumer.available(), expected);
            let mut popped = 0;
            while consumer.pop().is_some() {
                popped += 1;
                prop_assert!(popped <= expected);
            }
            prop_assert_eq!(popped, expected);
            next = next.wrapping_add(popped);
            consumer.release();
            prop_assert_eq!(words.consumer.get(), next);
        }
    }

    /// Whatever the consumer's word says, a producer is never more than a ring ahead of the last word that could be
    /// true, so it overwrites nothing that an honest consumer has not released.
    #[test]
    fn a_producer_believes_no_impossible_consumer(
        (start, entries, claims) in (index(), entries()).prop_flat_map(|(start, entries)| {
            (Just(start), Just(entries), vec((claim(start), 0u32..40), 1..50))
        }),
    ) {
        let words = Words::starting_at(start, entries);
        let mut producer = Producer::starting_at(&words, start);
        let (mut next, mut believed) = (start, start);
        for (claim, pushes) in claims {
            words.consumer.set(claim);
            for _ in 0..pushes {
                let full = next.wrapping_sub(believed) == entries;
                if full && next.wrapping_sub(claim) <= entries {
                    believed = claim;
                }
                let room = next.wrapping_sub(believed) < entries;
                prop_assert_eq!(producer.push(next), if room { Ok(()) } else { Err(Full) });
                next = next.wrapping_add(u32::from(room));
            }
            producer.publish();
            prop_assert_eq!(words.producer.get(), next);
            prop_assert!(producer.unread() <= entries);
            let room = producer.room();
            prop_assert!(room <= entries);
            if next.wrapping_sub(claim) <= entries {
                believed = claim;
                prop_assert_eq!(room, entries - next.wrapping_sub(claim));
            } else {
                prop_assert_eq!(room, 0);
            }
        }
    }

    /// A stall is taken back exactly when there is room for what is wanted.
    #[test]
    fn a_stall_stands_while_room_is_short(start in index(), entries in entries(), held in 0u32..32, wanted in 1u32..40) {
        let held = held.min(entries);
        let words = Words::starting_at(start, entries);
        let mut producer = Producer::starting_at(&words, start);
        for _ in 0..held {
            producer.push(0).expect("not more than fit");
        }
        let short = entries - held < wanted;
        prop_assert_eq!(producer.stall(wanted), short);
        prop_assert_eq!(words.flags.get(), if short { ring::STALLED } else { 0 });
        producer.resume();
        prop_assert_eq!(words.flags.get(), 0);
    }
}
