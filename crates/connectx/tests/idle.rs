// SPDX-License-Identifier: MIT OR Apache-2.0
//! A card that has nothing to do costs no processor time. In a file of its own, because the time is that of the whole process.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::Duration;

use connectx::control::Request;
use connectx::fault::Impairment;
use driver::{CHECKSUMS, Ends, Setup, headers};
use rustix::time::{ClockId, clock_gettime};

const IDLE: Duration = Duration::from_millis(500);

/// Processor time that all threads take while this one sleeps.
fn time_of_idling() -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap();
    let start = now();
    std::thread::sleep(IDLE);
    now() - start
}

#[test]
fn nothing_to_do_takes_no_time() {
    let setup = Setup::new(Duration::from_millis(1));
    let ends = Ends::new(&setup, 6, 1);
    let (from, to) = (setup.alloc(4096), setup.alloc(64 << 10));
    setup.write(from, &headers(100));
    let frames = |count: u64| {
        for i in 0..count {
            ends.rq.post(&[(1024, to + i * 1024)]);
            ends.sq.send(ends.a.key, CHECKSUMS, from, 154);
            ends.rx.wait();
            ends.tx.wait();
        }
    };
    // Before anything, after traffic for which it paid to look again and again, and after a cable that took its time.
    for (what, frames_before, impairment) in [
        ("from the start", 0, Impairment::default()),
        ("after traffic", 50, Impairment::default()),
        (
            "after delays",
            5,
            Impairment {
                delay_us: 1000,
                ..Impairment::default()
            },
        ),
    ] {
        let (from, impairment) = (None, impairment);
        Request::Impair { from, impairment }
            .run(&setup.cable)
            .unwrap();
        frames(frames_before);
        let took = time_of_idling();
        assert!(took < IDLE / 100, "{what}: {took:?} in {IDLE:?}");
    }
}
