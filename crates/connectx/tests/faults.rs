// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes wrong on demand, seen by a driver.

#[allow(dead_code, reason = "the other tests use the rest")]
mod driver;

use std::time::{Duration, Instant};

use connectx::bits::Fields;
use connectx::control::Request;
use connectx::fault::Impairment;
use driver::{CHECKSUMS, Cq, Message, Port, Rq, Setup, Sq, eventually, headers};

const PAYLOAD: usize = 100;
const FRAME: u32 = 54 + PAYLOAD as u32;

/// A sender and a receiver with buffers for as many frames as a test needs.
struct Ends<'s> {
    a: Port<'s>,
    b: Port<'s>,
    sq: Sq<'s>,
    tx: Cq<'s>,
    rq: Rq<'s>,
    rx: Cq<'s>,
    from: u64,
    to: u64,
}

impl<'s> Ends<'s> {
    fn new(setup: &'s Setup) -> Self {
        let (a, b) = (setup.port(0), setup.port(1));
        let (tx, rx) = (a.cq(10), b.cq(10));
        let (sq, rq) = (a.sq(&tx, 9), b.rq(&rx, 9, 1, 0));
        b.receive_all(&rq);
        let (from, to) = (setup.alloc(512 * 256), setup.alloc(512 * 2048));
        (0..512).for_each(|i| rq.post(&[(2048, to + i * 2048)]));
        Self {
            a,
            b,
            sq,
            tx,
            rq,
            rx,
            from,
            to,
        }
    }

    /// Sends a TCP packet whose payload is `number`, over and over.
    fn send(&self, number: u8) {
        let mut frame = headers(PAYLOAD);
        frame.resize(FRAME as usize, number);
        let at = self.from + u64::from(number) * 256;
        self.a.setup.write(at, &frame);
        self.sq.send(self.a.key, CHECKSUMS, at, FRAME);
    }

    /// What the next completion is about: the frame, and its entry.
    fn receive(&self) -> (Vec<u8>, Vec<u8>) {
        let completion = self.rx.wait();
        let slot = u64::from(Fields(&completion).u16(0x3c)) % 512;
        let length = Fields(&completion).u32(0x2c) as usize;
        (self.a.setup.read(self.to + slot * 2048, length), completion)
    }

    fn ask(&self, request: Request) {
        request.run(&self.a.setup.cable).unwrap();
    }

    fn impair(&self, impairment: Impairment) {
        self.ask(Request::Impair {
            from: Some(0),
            impairment,
        });
    }
}

const PAUSE: Duration = Duration::from_millis(5);
const ALL_INTACT: u8 = 0b111;

#[test]
fn frames_of_an_impaired_cable_arrive_as_the_wire_says() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup);
    ends.ask(Request::Seed { value: 5 });
    ends.impair(Impairment {
        drop: 0.2,
        duplicate: 0.2,
        ..Default::default()
    });
    (0..200).for_each(|i| ends.send(i));
    (0..200).for_each(|_| drop(ends.tx.wait()));
    let fates = setup.cable.fates(0);
    assert_eq!(fates.sent, 200);
    assert!(fates.dropped > 20 && fates.duplicated > 20, "{fates:?}");
    for _ in 0..200 - fates.dropped + fates.duplicated {
        let (frame, completion) = ends.receive();
        assert_eq!(frame.len(), FRAME as usize);
        assert_eq!(completion[0x1c], ALL_INTACT, "checksums were filled in");
    }
    assert!(ends.rx.poll().is_none());
    // A cable that is well again is the fast one.
    ends.impair(Impairment::default());
    ends.send(7);
    assert_eq!(ends.receive().0[54], 7);
    assert!(setup.cable.wire(0).is_none());
}

#[test]
fn frames_take_as_long_as_the_cable() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup);
    ends.impair(Impairment {
        delay_us: 30_000,
        ..Default::default()
    });
    let start = Instant::now();
    ends.send(1);
    ends.tx.wait();
    let sent = start.elapsed();
    ends.receive();
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert!(sent < Duration::from_millis(30), "the sender does not wait");
}

#[test]
fn corruption_shows_and_lies_are_told() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup);
    ends.impair(Impairment {
        corrupt: 1.0,
        ..Default::default()
    });
    ends.send(1);
    let (_, completion) = ends.receive();
    assert_ne!(completion[0x1c] & 0b110, 0b110, "a checksum is wrong");
    ends.impair(Impairment {
        lie: 1.0,
        ..Default::default()
    });
    ends.send(2);
    let (frame, completion) = ends.receive();
    assert!(frame[54..].iter().all(|&byte| byte == 2));
    assert_eq!(completion[0x1c] & 0b110, 0, "though both are right");
    ends.impair(Impairment {
        truncate: 1.0,
        ..Default::default()
    });
    ends.send(3);
    let (frame, completion) = ends.receive();
    assert!(frame.len() < FRAME as usize);
    assert_eq!(
        completion[0x1c] & 0b100,
        0,
        "a transport checksum over what is not there"
    );
}

#[test]
fn a_slow_cable_makes_the_sender_wait() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup);
    // 178 bytes with preamble, FCS and gap, at 8 Mbit/s: 178 us each.
    ends.impair(Impairment {
        rate_mbit: 8,
        ..Default::default()
    });
    let start = Instant::now();
    (0..100).for_each(|i| ends.send(i));
    (0..100).for_each(|i| assert_eq!(ends.receive().0[54], i, "in order"));
    assert!(start.elapsed() >= Duration::from_micros(100 * 178));
}

#[test]
fn entries_fail_with_a_completion_and_stop_their_queue() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup);
    ends.ask(Request::FailSends { port: 0, count: 1 });
    ends.send(1);
    let completion = ends.tx.wait();
    assert_eq!(completion[0x3f] >> 4, 13, "MLX5_CQE_REQ_ERR");
    assert_eq!(completion[0x37], 4, "local protection");
    // As the driver recovers it: error to reset, reset to ready.
    ends.a.accept(ends.sq.modify(3, 0));
    ends.sq.rewind();
    ends.a.accept(ends.sq.modify(0, 1));
    ends.send(2);
    assert_eq!(ends.receive().0[54], 2);

    ends.ask(Request::FailReceives { port: 1, count: 1 });
    ends.send(3);
    let completion = ends.rx.wait();
    assert_eq!(completion[0x3f] >> 4, 14, "MLX5_CQE_RESP_ERR");
    ends.send(4);
    ends.tx.wait();
    assert!(ends.rx.poll().is_none(), "the queue has stopped");
    let _ = (&ends.b, &ends.rq);
}

#[test]
fn a_starved_port_drops_when_the_pause_is_over_and_goes_on_afterwards() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup);
    ends.ask(Request::Starve { port: 1, on: true });
    let start = Instant::now();
    ends.send(1);
    ends.tx.wait();
    assert!(start.elapsed() >= PAUSE);
    assert!(ends.rx.poll().is_none());
    ends.ask(Request::Starve { port: 1, on: false });
    ends.send(2);
    assert_eq!(ends.receive().0[54], 2);
}

#[test]
fn a_dark_cable_loses_what_is_on_it() {
    let setup = Setup::new(PAUSE);
    let ends = Ends::new(&setup);
    ends.impair(Impairment {
        delay_us: 20_000,
        ..Default::default()
    });
    ends.send(1);
    ends.tx.wait();
    ends.ask(Request::Link { up: false });
    ends.send(2);
    ends.tx.wait();
    eventually("the wire is empty", || {
        setup
            .cable
            .wire(0)
            .is_none_or(|wire| wire.next_due().is_none())
            .then_some(())
    });
    ends.impair(Impairment::default());
    ends.ask(Request::Link { up: true });
    ends.send(3);
    assert_eq!(ends.receive().0[54], 3, "and nothing before it");
}

#[test]
fn commands_are_taken_and_not_answered() {
    let setup = Setup::new(PAUSE);
    let port = setup.port(0);
    let alloc_pd = || Message::new(0x800, 16);
    // An event queue that is told of commands.
    let events = setup.alloc(4096);
    let eq = Message::new(0x301, 0x118)
        .bits(0x1c, 28, 24, 6)
        .bits(0x24, 11, 0, 1)
        .u64(0x58, 1 << 0x0a);
    port.create(eq.pages(0x110, events, 1));
    let told = || {
        let slots = |i: u64| setup.memory().load(events + 64 * i + 0x20);
        (0..64).filter(|&i| slots(i) != Ok(0)).count()
    };
    let stick = Request::StickCommands { port: 0, count: 1 };
    stick.run(&setup.cable).unwrap();
    let entry = port.submit(&alloc_pd(), 16);
    assert_eq!(entry[0x3f] & 1, 1, "the entry is still the device's");
    assert_eq!(told(), 0, "a command that has no answer has no event");
    let late = Request::StickCommands { port: 0, count: 0 };
    late.run(&setup.cable).unwrap();
    assert_eq!(port.answer()[0x3f] & 1, 0, "the answer is there, late");
    assert_eq!(told(), 1);
    port.create(alloc_pd());
    assert_eq!(told(), 2);
    let assert = Request::Assert {
        port: 0,
        syndrome: 1,
    };
    assert.run(&setup.cable).unwrap();
    assert_eq!(port.submit(&alloc_pd(), 16)[0x3f] & 1, 1);
    assert_eq!(told(), 2);
}
