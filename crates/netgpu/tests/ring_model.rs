// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ring algorithm under every interleaving and every allowed reordering, by loom.
//!
//! The source is the one that the kernel module compiles; only the memory underneath is loom's.

#[path = "../../../src/ring/mod.rs"]
mod ring;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering, fence};
use loom::thread;
use ring::{Consumer, Full, Memory, Producer};

const ENTRIES: u32 = 2;

/// Shared words and slots. Loom reports any access to a slot that is not ordered after the peer's last one.
struct Shared {
    producer: AtomicU32,
    consumer: AtomicU32,
    flags: AtomicU32,
    slots: [UnsafeCell<u32>; ENTRIES as usize],
}

/// One side's handle. Without `BARRIER` the full barrier is left out: what the models must find.
struct Side<const BARRIER: bool>(Arc<Shared>);

impl<const BARRIER: bool> Memory for Side<BARRIER> {
    type Entry = u32;

    fn entries(&self) -> u32 {
        ENTRIES
    }

    fn load_producer(&self) -> u32 {
        self.0.producer.load(Ordering::Acquire)
    }

    fn store_producer(&self, index: u32) {
        self.0.producer.store(index, Ordering::Release);
    }

    fn load_consumer(&self) -> u32 {
        self.0.consumer.load(Ordering::Acquire)
    }

    fn store_consumer(&self, index: u32) {
        self.0.consumer.store(index, Ordering::Release);
    }

    fn load_flags(&self) -> u32 {
        self.0.flags.load(Ordering::Relaxed)
    }

    fn store_flags(&self, flags: u32) {
        self.0.flags.store(flags, Ordering::Relaxed);
    }

    fn full_barrier(&self) {
        if BARRIER {
            fence(Ordering::SeqCst);
        }
    }

    fn read(&self, index: u32) -> u32 {
        // SAFETY: Loom tracks the access and fails the model if it races.
        self.0.slots[(index % ENTRIES) as usize].with(|slot| unsafe { *slot })
    }

    fn write(&self, index: u32, entry: u32) {
        // SAFETY: As for `read()`.
        self.0.slots[(index % ENTRIES) as usize].with_mut(|slot| unsafe { *slot = entry });
    }
}

fn ring<const BARRIER: bool>() -> (Producer<Side<BARRIER>>, Consumer<Side<BARRIER>>) {
    let shared = Arc::new(Shared {
        producer: AtomicU32::new(0),
        consumer: AtomicU32::new(0),
        flags: AtomicU32::new(0),
        slots: [UnsafeCell::new(0), UnsafeCell::new(0)],
    });
    (
        Producer::new(Side(shared.clone())),
        Consumer::new(Side(shared)),
    )
}

/// Three entries through a ring of two: each arrives once, whole, in order, and no slot is written while it is read.
#[test]
fn entries_arrive_in_order() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<true>();
        let sender = thread::spawn(move || {
            for entry in 1..=3 {
                while producer.push(entry) == Err(Full) {
                    thread::yield_now();
                }
                producer.publish();
            }
        });
        for expected in 1..=3 {
            let entry = loop {
                match consumer.pop() {
                    Some(entry) => break entry,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(entry, expected);
            consumer.release();
        }
        assert_eq!(consumer.pop(), None);
        sender.join().expect("the producer does not panic");
    });
}

/// Entries that were pushed and not published are not seen.
#[test]
fn nothing_is_seen_before_it_is_published() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring::<true>();
        let sender = thread::spawn(move || {
            producer.push(1).expect("the ring is empty");
            producer.push(2).expect("the ring has two slots");
            assert!(producer.publish());
            assert!(!producer.publish());
        });
        assert!(matches!(consumer.available(), 0 | 2), "both or none");
        sender.join().expect("the producer does not panic");
        assert_eq!(consumer.available(), 2);
    });
}

/// A producer that finds the ring full, against a consumer that empties it: either the producer learns of the room,
/// or the consumer of the producer's wait. `step` is how many entries go by one release.
fn nobody_waits_forever<const BARRIER: bool>(step: u32) {
    loom::model(move || {
        let (mut producer, mut consumer) = ring::<BARRIER>();
        for entry in 0..ENTRIES {
            producer.push(entry).expect("the ring is empty");
        }
        producer.publish();

        let sender = thread::spawn(move || {
            let pushed = loop {
                if producer.push(ENTRIES).is_ok() {
                    producer.publish();
                    break true;
                }
                if producer.stall(1) {
                    break false;
                }
            };
            (producer, pushed)
        });
        let mut told = false;
        for popped in 1..=ENTRIES {
            consumer.pop().expect("the ring was full");
            if popped % step == 0 {
                told = consumer.release();
            }
        }
        let (mut producer, pushed) = sender.join().expect("the producer does not panic");
        assert!(
            pushed || told,
            "the producer waits and the consumer does not know"
        );

        if !pushed {
            // What the consumer's call does in the kernel.
            producer.resume();
            producer.push(ENTRIES).expect("the ring is empty by now");
            producer.publish();
        }
        assert_eq!(consumer.pop(), Some(ENTRIES));
        assert!(!consumer.release(), "nothing waits any more");
    });
}

#[test]
fn a_stalled_producer_is_told_after_one_release_of_all() {
    nobody_waits_forever::<true>(ENTRIES);
}

#[test]
fn a_stalled_producer_is_told_after_releases_of_one() {
    nobody_waits_forever::<true>(1);
}

/// The model above is able to fail: without the barriers it finds the lost wake-up.
#[test]
#[should_panic(expected = "the producer waits and the consumer does not know")]
fn without_barriers_a_wake_up_is_lost() {
    nobody_waits_forever::<false>(ENTRIES);
}
