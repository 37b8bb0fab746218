// SPDX-License-Identifier: MIT OR Apache-2.0
//! The engine of a port: the thread that serves its send queues.
//!
//! A doorbell puts a queue on the engine's list and wakes it. The engine serves the
//! queues in turn, a bounded number of packets for each time it holds the lock,
//! and writes the completions and events of a batch together at its end; those of a receive queue before it lets that go, so that they
//! come in the order of the entries, whichever engine used those. With nothing to do it looks
//! again for a moment, if that has paid lately, and then sleeps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::link::{Cable, peer};
use super::merge::close_due;
use super::packet::{Headers, Layers};
use super::rx::{Frame, Outcome, Route, from_cable, route};
use super::stream::{HEAD, Recognised, Stream};
use super::tx::{self, Step};
use crate::fault::wire::Wire;
use crate::mem::Slice;
use crate::obj::counter::{Tally, Traffic, Wired};
use crate::obj::cq::Completions;
use crate::obj::flow::{MatchKey, Unwanted};
use crate::obj::port::Port;
use crate::obj::rq::RqState;

/// Packets that are moved with the lock held.
pub const BATCH: u32 = 64;
/// How long a sleep is while a receiver is out of buffers: its queue has no doorbell.
pub(super) const RETRY: Duration = Duration::from_micros(50);
/// The longest time that is spent looking for work before sleeping.
const MAX_POLL: Duration = Duration::from_micros(50);
/// The shortest.
const MIN_POLL: Duration = Duration::from_micros(5);

/// How an engine hears of doorbells.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<Rung>,
    wake: Condvar,
    /// There is something in `rung`.
    hint: AtomicBool,
}

#[derive(Default)]
struct Rung {
    queues: Vec<u32>,
    stop: bool,
}

impl Bell {
    /// Send queue `sqn` has work.
    pub fn ring(&self, sqn: u32) {
        self.rung.lock().queues.push(sqn);
        self.hint.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Ends the engine.
    pub fn stop(&self) {
        self.rung.lock().stop = true;
        self.hint.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Moves what has been rung to `ready`, after waiting for something, at most for `limit` if
    /// there is one. Returns whether the engine is to go on.
    fn wait(&self, ready: &mut VecDeque<u32>, limit: Option<Duration>) -> bool {
        let mut rung = self.rung.lock();
        while rung.queues.is_empty() && !rung.stop {
            match limit {
                Some(limit) => {
                    if self.wake.wait_for(&mut rung, limit).timed_out() {
                        break;
                    }
                }
                None => self.wake.wait(&mut rung),
            }
        }
        self.hint.store(false, Ordering::Relaxed);
        ready.extend(rung.queues.drain(..));
        !rung.stop
    }

    /// Moves what has been rung to `ready`, without waiting.
    fn collect(&self, ready: &mut VecDeque<u32>) {
        if self.hint.swap(false, Ordering::Acquire) {
            ready.extend(self.rung.lock().queues.drain(..));
        }
    }
}

/// How long it pays to look for work before sleeping. Looking that finds something, and a sleep
/// that was short, make it longer; looking in vain makes it shorter, down to nothing.
#[derive(Debug, Default)]
struct Patience(Duration);

impl Patience {
    fn grow(&mut self) {
        self.0 = (self.0 * 2).clamp(MIN_POLL, MAX_POLL);
    }

    fn shrink(&mut self) {
        self.0 = if self.0 > MIN_POLL {
            self.0 / 2
        } else {
            Duration::ZERO
        };
    }

    /// Looks for a ring of `bell`, then waits for one. Returns whether the engine is to go on.
    fn wait(&mut self, bell: &Bell, ready: &mut VecDeque<u32>) -> bool {
        let start = Instant::now();
        while start.elapsed() < self.0 {
            if bell.hint.load(Ordering::Relaxed) {
                self.grow();
                return bell.wait(ready, None);
            }
            std::thread::yield_now();
        }
        let polled = start.elapsed();
        let go_on = bell.wait(ready, None);
        if start.elapsed() - polled < MAX_POLL {
            self.grow();
        } else {
            self.shrink();
        }
        go_on
    }
}

/// What is collected over one batch. It borrows the ports, and so ends before the lock is given up.
#[derive(Default)]
pub struct Batch<'p> {
    /// Pieces of the entry that is being sent.
    pub pieces: Vec<Slice<'p>>,
    /// Places for the packet that is being received.
    pub places: Vec<Slice<'p>>,
    /// Where packets go.
    pub routes: Routes<'p>,
    /// Frames sent by this engine's port.
    pub sent: Tally<Traffic>,
    /// Those of them that it received itself.
    pub looped: Tally<Traffic>,
    /// Those that went to the cable.
    pub wired: Tally<Wired>,
    /// Frames that came out of the cable at the other port.
    pub arrived: Tally<Wired>,
    /// What the drivers are to be told.
    pub completions: Completions<'p>,
    /// Receive queues with packets that are not whole yet, by port and number, and when to look at them.
    pub unfinished: Vec<(Instant, usize, u32)>,
}

impl Batch<'_> {
    /// Ends the batch of port `me`. `later` gets the queues that have to be looked at.
    fn finish(self, ports: &[Port; 2], me: usize, later: &mut Vec<Later>) {
        later.extend(self.unfinished.into_iter().map(|(due, port, rqn)| Later {
            due,
            port,
            queue: Queue::Receive(rqn),
        }));
        self.completions.write(|due, port, cq| {
            later.push(Later {
                due,
                port: usize::from(std::ptr::eq(port, &ports[1])),
                queue: Queue::Completion(cq.number),
            });
        });
        let (here, there) = (&ports[me], &ports[peer(me)]);
        let (looped, arrived) = (self.looped.sum(), self.arrived.sum());
        here.counters.sent.add(&self.sent.sum());
        here.counters.looped.add(&looped);
        here.counters.received.add(&looped);
        here.physical.counters.sent.add(&self.wired.sum());
        there.physical.counters.received.add(&arrived);
        there.counters.received.add(&arrived.traffic);
    }
}

/// A queue that is to be looked at later.
struct Later {
    due: Instant,
    port: usize,
    queue: Queue,
}

/// A queue, by number.
enum Queue {
    /// Its driver is to be told of moderated completions.
    Completion(u32),
    /// It has packets that are not whole yet.
    Receive(u32),
}

/// Remembers where the last packet went, and keeps the receive queue locked: the next one most often goes there too.
#[derive(Default)]
pub struct Routes<'p> {
    last: Option<Found<'p>>,
    /// The stream of the last packet that was sent, and how many there were.
    stream: Option<Stream>,
    streams: u32,
}

/// Where a packet went.
struct Found<'p> {
    port: usize,
    stream: Option<u32>,
    key: MatchKey,
    way: Result<(Route<'p>, MutexGuard<'p, RqState>), Unwanted>,
}

impl<'p> Routes<'p> {
    /// What is known of the packet that starts with `head`, if it is of the stream of the one before.
    #[inline(always)]
    pub fn recognise(&self, head: &[u8; HEAD]) -> Option<Recognised> {
        self.stream.as_ref()?.recognise(head)
    }

    /// Remembers the stream of the packet that starts with `head`, and returns it.
    pub fn remember(&mut self, head: &[u8], layers: &Layers) -> Option<u32> {
        self.streams += 1;
        self.stream = Stream::of(self.streams, head, layers);
        self.stream.as_ref().map(|stream| stream.number)
    }

    /// Where port `to` wants a packet, if anywhere, and why not.
    #[inline]
    pub fn find(
        &mut self,
        ports: &'p [Port; 2],
        to: usize,
        frame: &Frame<'_, '_>,
        completions: &mut Completions<'p>,
    ) -> Result<(&mut Route<'p>, &mut RqState), Unwanted> {
        let stream = frame.stream;
        let same = |last: &Found<'_>| stream.is_some() && (last.port, last.stream) == (to, stream);
        if !self.last.as_ref().is_some_and(same) {
            self.search(ports, to, frame, completions);
        }
        match &mut self.last {
            Some(Found {
                way: Ok((route, state)),
                ..
            }) => Ok((route, state)),
            Some(Found {
                way: Err(unwanted), ..
            }) => Err(*unwanted),
            // Not after a search.
            None => Err(Unwanted::Missed),
        }
    }

    /// Finds where a packet goes that is not of the stream of the last one.
    #[inline(never)]
    fn search(
        &mut self,
        ports: &'p [Port; 2],
        to: usize,
        frame: &Frame<'_, '_>,
        completions: &mut Completions<'p>,
    ) {
        let (headers, stream) = (frame.layout.of(frame.head), frame.stream);
        let key = headers.match_key();
        // All that routes depend on is in the key but for the index of IPsec, and the tables cannot change during a batch.
        if let Some(last) = &mut self.last
            && (last.port, &last.key) == (to, &key)
            && headers.spi().is_none()
        {
            last.stream = stream;
            return;
        }
        let way = route(&ports[to], &headers, &key);
        let mut held = None;
        match (self.last.take().map(|last| last.way), &way) {
            (Some(Ok((last, state))), Ok(next)) if std::ptr::eq(last.rq, next.rq) => {
                held = Some(state);
            }
            // The other engine may hold the queue that this one is to lock, and wait for the one that it holds.
            (Some(Ok((last, state))), _) => let_go(&last, state, completions),
            _ => {}
        }
        self.last = Some(Found {
            port: to,
            stream,
            key,
            way: way.map(|route| (route, held.unwrap_or_else(|| route.rq.state.lock()))),
        });
    }

    /// Lets the last queue go.
    fn forget(&mut self, completions: &mut Completions<'p>) {
        if let Some(Found {
            way: Ok((route, state)),
            ..
        }) = self.last.take()
        {
            let_go(&route, state, completions);
        }
    }
}

/// Unlocks the receive queue of `route`. The driver takes completions for those of the oldest entries: before the other engine can
/// use the next ones, those are written.
fn let_go(route: &Route<'_>, state: MutexGuard<'_, RqState>, completions: &mut Completions<'_>) {
    completions.write_to(route.cq);
    drop(state);
}

/// Serves the send queues of port `me` until [`Bell::stop`].
pub fn run(cable: &Cable, me: usize) {
    let mut engine = Engine::new(cable, me);
    while engine.wait() {
        engine.serve();
    }
}

/// The engine of a port, for a thread that has other things to do, too: [`run`] is all of it in one.
pub struct Engine<'c> {
    cable: &'c Cable,
    me: usize,
    /// Queues with work.
    ready: VecDeque<u32>,
    /// Queues whose next packet has no buffer at the receiver.
    blocked: Vec<u32>,
    patience: Patience,
    /// When the next frame arrives that is on the wire.
    arrival: Option<Instant>,
    /// Queues that wait for time to pass.
    later: Vec<Later>,
}

impl<'c> Engine<'c> {
    /// The engine of port `me`. A port has one at a time.
    pub fn new(cable: &'c Cable, me: usize) -> Self {
        Self {
            cable,
            me,
            ready: VecDeque::new(),
            blocked: Vec::new(),
            patience: Patience::default(),
            arrival: None,
            later: Vec::new(),
        }
    }

    /// When there is something to do even if no bell rings.
    fn next(&self) -> Option<Instant> {
        let later = self.later.iter().map(|later| later.due);
        later.chain(self.arrival).min()
    }

    /// Waits for work. Returns whether the engine is to go on.
    fn wait(&mut self) -> bool {
        let bell = &self.cable.bells[self.me];
        if !self.ready.is_empty() {
            bell.collect(&mut self.ready);
            true
        } else if !self.blocked.is_empty() {
            bell.wait(&mut self.ready, Some(RETRY))
        } else if let Some(next) = self.next() {
            let left = next.saturating_duration_since(Instant::now());
            bell.wait(&mut self.ready, Some(left))
        } else {
            self.patience.wait(bell, &mut self.ready)
        }
    }

    /// One batch, if there is work. Returns whether there was.
    pub fn poll(&mut self) -> bool {
        self.cable.bells[self.me].collect(&mut self.ready);
        let work = !(self.ready.is_empty() && self.blocked.is_empty() && self.next().is_none());
        if work {
            self.serve();
        }
        work
    }

    /// One batch.
    fn serve(&mut self) {
        let (cable, me) = (self.cable, self.me);
        self.ready.extend(self.blocked.drain(..));
        let ports = &*cable.ports.read();
        let mut batch = Batch::default();
        let now = Instant::now;
        self.later.retain_mut(|later| {
            let port = &ports[later.port];
            // A queue that is gone by now has nobody to tell.
            let again = match later.queue {
                Queue::Completion(cqn) => port.hca.cqs.get(cqn).and_then(|cq| cq.look(port)),
                Queue::Receive(_) if later.due > now() => Some(later.due),
                Queue::Receive(rqn) => close_due(ports, later.port, rqn, &mut batch, cable.pause),
            };
            again.inspect(|&due| later.due = due).is_some()
        });
        let mut wire = cable.wire(me);
        let mut budget = BATCH;
        while budget > 0
            && let Some(sqn) = self.ready.pop_front()
        {
            // A queue that is gone by now has no work.
            let Some(sq) = ports[me].hca.sqs.get(sqn) else {
                continue;
            };
            // Cleared before the work is looked at: a doorbell from here on counts again.
            sq.scheduled.store(false, Ordering::SeqCst);
            let step = tx::run(
                ports,
                me,
                sq,
                &mut batch,
                &mut budget,
                cable.pause,
                wire.as_deref_mut(),
            );
            // Send queues are locked before receive queues.
            batch.routes.forget(&mut batch.completions);
            // If it was set meanwhile, the queue is on the bell's list already.
            if step == Step::Idle || sq.scheduled.swap(true, Ordering::SeqCst) {
                continue;
            }
            if step == Step::More {
                self.ready.push_back(sqn);
            } else {
                self.blocked.push(sqn);
            }
        }
        self.arrival = wire.and_then(|mut wire| {
            let arrival = arrive(ports, me, &mut wire, &mut batch, cable.pause);
            cable.release(me, &wire);
            arrival
        });
        batch.finish(ports, me, &mut self.later);
    }
}

/// Delivers the frames that have come through the wire of port `me`, as many as a batch has. Returns when to look again.
fn arrive<'p>(
    ports: &'p [Port; 2],
    me: usize,
    wire: &mut Wire,
    batch: &mut Batch<'p>,
    pause: Duration,
) -> Option<Instant> {
    for _ in 0..BATCH {
        let now = Instant::now();
        let Some(mut flying) = wire.arrived(now) else {
            return wire.next_due();
        };
        // What was on the cable when it went dark is lost.
        if !ports[peer(me)].link_up() {
            continue;
        }
        let layout = Headers::parse(&flying.bytes).layout();
        let mut frame = Frame {
            lie: flying.lie,
            ..Frame::whole(&mut flying.bytes, &layout)
        };
        let (here, there) = (&ports[me].physical, &ports[peer(me)].physical);
        let patient = there.can_pause(here) && now - flying.due < pause;
        if from_cable(ports, peer(me), &mut frame, batch, patient) == Outcome::Blocked {
            wire.put_back(flying);
            return Some(now + RETRY);
        }
    }
    wire.next_due()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_wakes_and_stops() {
        let bell = Bell::default();
        let mut ready = VecDeque::new();
        bell.ring(7);
        bell.ring(8);
        assert!(bell.wait(&mut ready, None));
        assert_eq!(ready, [7, 8]);
        assert!(bell.wait(&mut ready, Some(Duration::from_micros(1))));
        assert_eq!(ready.len(), 2);
        bell.ring(9);
        bell.collect(&mut ready);
        assert_eq!(ready, [7, 8, 9]);
        bell.stop();
        assert!(!bell.wait(&mut ready, None));
    }

    #[test]
    fn looking_for_work_pays_or_ends() {
        let mut patience = Patience::default();
        patience.grow();
        assert_eq!(patience.0, MIN_POLL);
        for _ in 0..9 {
            patience.grow();
        }
        assert_eq!(patience.0, MAX_POLL);
        for _ in 0..9 {
            patience.shrink();
        }
        assert_eq!(patience.0, Duration::ZERO);
    }
}
