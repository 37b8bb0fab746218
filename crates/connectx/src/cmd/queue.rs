// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about event, completion, send and receive queues.

use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use super::{Input, Output, Result};
use crate::bits::ctx::{CqContext, EqContext, Moderation, QueueState, RqContext, SqContext};
use crate::bits::event::{ENTRY, Eqe, EventType};
use crate::bits::op::{Refusal, Status};
use crate::obj::cq::Cq;
use crate::obj::eq::Eq;
use crate::obj::port::Port;
use crate::obj::ring::Ring;
use crate::obj::rq::{Rq, RqState};
use crate::obj::sq::{Sq, SqState};
use crate::obj::striding::Striding;
use crate::pci::VECTORS;

/// Where page lists start in all create commands.
const PAGES_AT: usize = 0x110;
/// Where the context starts in commands about send and receive queues.
const CONTEXT_AT: usize = 0x20;
const LOG_ENTRY: u32 = ENTRY.ilog2();
/// Capability `shampo`.
const SHAMPO: (usize, u32) = (0x54, 20);

pub fn create_eq(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let EqContext { log_size, vector } = EqContext::decode(input.0.from(0x10))?;
    if vector >= VECTORS {
        return Err(Refusal::param("event queue: no such interrupt vector"));
    }
    let ring = Ring::new(input.0, PAGES_AT, log_size, LOG_ENTRY)?;
    let mask = input.0.u64(0x58);
    let eqs = &mut port.hca.eqs;
    let eqn = eqs.insert_with(|number| Eq::new(number, mask, vector, ring))?;
    output.set_number(eqn);
    // A driver that asks for these events is told first how things are.
    if let Some(eq) = eqs.get(eqn)
        && eq.takes(EventType::PortModule)
    {
        eq.post(&port.bus, Eqe::port_module(!port.faults.unplugged));
    }
    Ok(())
}

pub fn destroy_eq(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let eq = port.hca.eqs.remove(input.0.bits(0x08, 7, 0));
    eq.map(drop).ok_or(Refusal::resource("no such event queue"))
}

pub fn create_cq(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let CqContext {
        log_size,
        eqn,
        doorbell,
        moderation,
    } = CqContext::decode(input.0.from(0x10))?;
    if port.hca.eqs.get(eqn).is_none() {
        return Err(Refusal::resource("completion queue: no such event queue"));
    }
    let ring = Ring::new(input.0, PAGES_AT, log_size, LOG_ENTRY)?;
    let cqn = port.hca.cqs.insert_with(|number| {
        let mut cq = Cq::new(number, eqn, doorbell, ring);
        cq.moderation = moderation;
        cq
    })?;
    output.set_number(cqn);
    Ok(())
}

pub fn destroy_cq(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let number = input.number();
    let hca = &mut port.hca;
    if hca.sqs.iter().any(|sq| sq.cqn == number) || hca.rqs.iter().any(|rq| rq.cqn == number) {
        return Err(Refusal::new(Status::Busy, "completion queue: still in use"));
    }
    hca.cqs
        .remove(number)
        .map(drop)
        .ok_or(Refusal::resource("no such completion queue"))
}

pub fn modify_cq(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    const PERIOD: u32 = 1 << 0;
    const COUNT: u32 = 1 << 1;
    const PERIOD_MODE: u32 = 1 << 4;
    let select = input.0.u32(0x0c);
    if select & !(PERIOD | COUNT | PERIOD_MODE) != 0 {
        return Err(Refusal::param(
            "completion queue: only moderation can be changed",
        ));
    }
    let new = Moderation::decode(input.0.from(0x10))?;
    let cq = port.hca.cqs.get_mut(input.number());
    let moderation = &mut cq
        .ok_or(Refusal::resource("no such completion queue"))?
        .moderation;
    if select & PERIOD != 0 {
        moderation.period = new.period;
    }
    if select & COUNT != 0 {
        moderation.count = new.count;
    }
    if select & PERIOD_MODE != 0 {
        moderation.mode = new.mode;
    }
    Ok(())
}

pub fn create_sq(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let SqContext {
        state,
        cqn,
        umr,
        wq,
    } = SqContext::decode(input.0.from(CONTEXT_AT))?;
    if port.hca.cqs.get(cqn).is_none() {
        return Err(Refusal::resource("send queue: no such completion queue"));
    }
    let ring = Ring::new(input.0, PAGES_AT, wq.log_size, wq.log_stride)?;
    let sqn = port.hca.sqs.insert_with(|number| Sq {
        number,
        cqn,
        pd: wq.pd,
        umr,
        record: wq.doorbell,
        ring,
        scheduled: AtomicBool::new(false),
        state: Mutex::new(SqState::new(state)),
    })?;
    output.set_number(sqn);
    Ok(())
}

/// Reads the state that a queue must be in and the one that it gets.
fn state_change(input: Input<'_>, current: QueueState) -> std::result::Result<QueueState, Refusal> {
    let from = QueueState::try_from(input.0.bits(0x08, 31, 28))?;
    let to = SqContext::state(input.0.from(CONTEXT_AT))?;
    if from != current {
        return Err(Refusal::new(
            Status::BadResourceState,
            "queue is not in the state named",
        ));
    }
    from.check_change(to)?;
    Ok(to)
}

pub fn modify_sq(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let sq = port.hca.sqs.get_mut(input.number());
    let state = sq
        .ok_or(Refusal::resource("no such send queue"))?
        .state
        .get_mut();
    state.change(state_change(input, state.state)?);
    Ok(())
}

pub fn query_sq(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let sq = port
        .hca
        .sqs
        .get(input.number())
        .ok_or(Refusal::resource("no such send queue"))?;
    output
        .0
        .set_bits(CONTEXT_AT, 23, 20, sq.state.lock().state as u32);
    output.0.set_bits(CONTEXT_AT + 0x08, 23, 0, sq.cqn);
    Ok(())
}

pub fn destroy_sq(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let sq = port.hca.sqs.remove(input.number());
    sq.map(drop).ok_or(Refusal::resource("no such send queue"))
}

pub fn create_rq(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let RqContext {
        state,
        keep_vlan,
        keep_fcs,
        cqn,
        counters,
        wq,
        striding,
    } = RqContext::decode(input.0.from(CONTEXT_AT))?;
    let splits = striding.is_some_and(|striding| striding.split.is_some());
    if splits && !port.hca.can(SHAMPO.0, SHAMPO.1) {
        return Err(Refusal::param(
            "receive queue: no header split in this profile",
        ));
    }
    if port.hca.cqs.get(cqn).is_none() {
        return Err(Refusal::resource("receive queue: no such completion queue"));
    }
    let striding = striding
        .map(|striding| Striding::new(&striding, wq.log_size))
        .transpose()?;
    let ring = Ring::new(input.0, PAGES_AT, wq.log_size, wq.log_stride)?;
    let rqn = port.hca.rqs.insert_with(|number| Rq {
        number,
        cqn,
        pd: wq.pd,
        counters,
        keep_vlan,
        keep_fcs,
        record: wq.doorbell,
        ring,
        striding,
        state: Mutex::new(RqState::new(state)),
    })?;
    output.set_number(rqn);
    Ok(())
}

pub fn modify_rq(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    /// Bits of the modification mask, `MLX5_MODIFY_RQ_IN_MODIFY_BITMASK_*`.
    const VSD: u64 = 1 << 1;
    const SCATTER_FCS: u64 = 1 << 2;
    const COUNTERS: u64 = 1 << 3;
    let context = input.0.from(CONTEXT_AT);
    let mask = input.0.u64(0x10);
    if mask & !(VSD | SCATTER_FCS | COUNTERS) != 0 {
        return Err(Refusal::param("receive queue: this cannot be changed"));
    }
    let rq = port.hca.rqs.get_mut(input.number());
    let rq = rq.ok_or(Refusal::resource("no such receive queue"))?;
    let state = rq.state.get_mut();
    state.change(state_change(input, state.state)?);
    if mask & VSD != 0 {
        rq.keep_vlan = RqContext::keep_vlan(context);
    }
    if mask & SCATTER_FCS != 0 {
        rq.keep_fcs = RqContext::keep_fcs(context);
    }
    if mask & COUNTERS != 0 {
        rq.counters = RqContext::counters(context);
    }
    Ok(())
}

pub fn query_rq(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let rq = port
        .hca
        .rqs
        .get(input.number())
        .ok_or(Refusal::resource("no such receive queue"))?;
    output
        .0
        .set_bits(CONTEXT_AT, 23, 20, rq.state.lock().state as u32);
    output.0.set_bits(CONTEXT_AT + 0x08, 23, 0, rq.cqn);
    Ok(())
}

pub fn destroy_rq(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let rq = port.hca.rqs.remove(input.number());
    rq.map(drop)
        .ok_or(Refusal::resource("no such receive queue"))
}
