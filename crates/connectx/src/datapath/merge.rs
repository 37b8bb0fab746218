// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receiving with LRO: segments wait for others of their stream.
//!
//! A stream ends with PSH, with a segment that does not continue it, when the merged packet is as large as it may be, and when
//! its time is over. The card keeps what waits in its own memory, and puts it into the queue then.

use std::time::{Duration, Instant};

use super::engine::{Batch, RETRY};
use super::rx::{Frame, Outcome, Receiver, Route, Transported};
use crate::obj::port::Port;

impl Receiver<'_, '_> {
    /// Puts a packet together with those before, or into the queue. What is blocked has changed nothing.
    pub(super) fn merge(&mut self, frame: &mut Frame<'_, '_>, patient: bool) -> Outcome {
        let (lie, layout) = (frame.lie, *frame.layout);
        let mut bytes = frame.flatten();
        let headers = layout.of(&bytes);
        let intact = Transported::of(&headers, &headers.constants(), bytes.len())
            .is_some_and(|transported| headers.ip_intact() && transported.intact(&bytes));
        let lro = self.route.lro.filter(|_| intact && !lie);
        let segment = lro.and_then(|lro| Some((lro, lro.segment(&bytes, &headers)?)));
        if let Some(at) = self.state.sessions.find(&headers) {
            if let Some((lro, segment)) = segment {
                let session = self.state.sessions.get(at);
                if session.add(segment, &bytes[headers.end()..headers.ip_end()], lro) {
                    if session.is_complete() {
                        // Where it is blocked it stays until it is due.
                        let _ = self.close(at, patient);
                    }
                    return Outcome::Done;
                }
            }
            if self.close(at, patient) == Outcome::Blocked {
                return Outcome::Blocked;
            }
        }
        if let Some((lro, segment)) = segment
            && headers.ip_end() == bytes.len()
        {
            if self.state.sessions.is_full() && self.close(0, patient) == Outcome::Blocked {
                return Outcome::Blocked;
            }
            let due = Instant::now() + lro.timeout();
            let label = self.route.label;
            if self
                .state
                .sessions
                .start(segment, &bytes, &headers, label, due)
            {
                return Outcome::Done;
            }
        }
        let mut frame = Frame::whole(&mut bytes, &layout);
        frame.lie = lie;
        self.deliver(&mut frame, None, patient)
    }

    /// Puts a merged packet into the queue.
    fn close(&mut self, at: usize, patient: bool) -> Outcome {
        let mut session = self.state.sessions.take(at);
        let (layout, merged) = (session.layout(), session.merged());
        let label = std::mem::replace(&mut self.route.label, session.label());
        let mut frame = Frame::whole(session.frame(), &layout);
        let outcome = self.deliver(&mut frame, merged, patient);
        self.route.label = label;
        if outcome == Outcome::Blocked {
            self.state.sessions.put_back(at, session);
        }
        outcome
    }
}

/// Puts what is due into queue `rqn` of port `to`; it waits for buffers at most for `pause`. Returns when to look again.
pub fn close_due<'p>(
    ports: &'p [Port; 2],
    to: usize,
    rqn: u32,
    batch: &mut Batch<'p>,
    pause: Duration,
) -> Option<Instant> {
    let port = &ports[to];
    // A queue that is gone by now has nothing.
    let rq = port.hca.rqs.get(rqn)?;
    let mut state = rq.state.lock();
    state.sessions.looked();
    let now = Instant::now();
    while let Some(at) = state.sessions.due(now) {
        let session = state.sessions.get(at);
        let (label, patient) = (session.label(), now - session.due() < pause);
        let mut route = Route::to(port, rq, label, None)?;
        let mut receiver = Receiver {
            port,
            route: &mut route,
            state: &mut state,
            places: &mut batch.places,
            completions: &mut batch.completions,
        };
        let outcome = receiver.close(at, patient);
        // As the queue is let go before the batch ends.
        batch.completions.write_to(route.cq);
        if outcome == Outcome::Blocked {
            let _ = state.sessions.look();
            return Some(now + RETRY);
        }
    }
    state.sessions.look()
}
