// SPDX-License-Identifier: GPL-2.0

//! A module with a data race, in Rust as netgpu is, to see that KCSAN finds it: two CPUs add to the same word for a while.

use core::{
    cell::UnsafeCell,
    hint::black_box, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    workqueue, //
};

/// How long each of them does: KCSAN looks at one access in some thousands.
const HOW_LONG: Delta = Delta::from_millis(2000);

struct Word(UnsafeCell<u64>);

// SAFETY: It is not: two threads write it at the same time, which is what this module is for. No invalid value comes of it.
unsafe impl Sync for Word {}

static WORD: Word = Word(UnsafeCell::new(0));
static ENDED: Atomic<u32> = Atomic::new(0);

fn race() {
    let start = Instant::<Monotonic>::now();
    while start.elapsed() < HOW_LONG {
        for _ in 0..1000 {
            let word = black_box(WORD.0.get());
            // SAFETY: The pointer is valid. The race is meant.
            unsafe { *word = (*word).wrapping_add(1) };
        }
    }
    ENDED.fetch_add(1, Relaxed);
}

struct Racy;

impl kernel::Module for Racy {
    fn init(_: &'static ThisModule) -> Result<Self> {
        workqueue::system_unbound().try_spawn(GFP_KERNEL, race)?;
        race();
        // The other one runs our code.
        while ENDED.load(Relaxed) < 2 {
            kernel::time::delay::fsleep(Delta::from_millis(10));
        }
        Ok(Self)
    }
}

module! {
    type: Racy,
    name: "netgpu_racy",
    authors: ["the netgpu maintainers"],
    description: "A data race, on purpose",
    license: "GPL",
}
