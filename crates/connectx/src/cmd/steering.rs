// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about flow tables.

use super::{Input, Output, Result};
use crate::bits::Fields;
use crate::bits::op::{Refusal, Status};
use crate::obj::flow::{Action, FlowTable, MatchKey, Rule, group_mask};
use crate::obj::port::Port;

/// Every command names its table's type here; the receive side of a NIC is the only one.
fn check_type(input: Input<'_>) -> Result {
    match input.0.bits(0x10, 31, 24) {
        0 => Ok(()),
        _ => Err(Refusal::param("flow table: only those of the receive side")),
    }
}

fn table_number(input: Input<'_>) -> u32 {
    input.0.bits(0x14, 23, 0)
}

fn table<'p>(
    port: &'p mut Port,
    input: Input<'_>,
) -> std::result::Result<&'p mut FlowTable, Refusal> {
    check_type(input)?;
    let table = port.hca.steering.tables.get_mut(table_number(input));
    table.ok_or(Refusal::resource("no such flow table"))
}

pub fn set_root(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    const DISCONNECT: u16 = 1;
    table(port, input)?;
    let connect = input.op_mod() != DISCONNECT;
    port.hca.steering.root = connect.then(|| table_number(input));
    Ok(())
}

/// What a `flow_table_context` says about packets that no rule matches.
fn miss(port: &Port, context: Fields<'_>) -> std::result::Result<Action, Refusal> {
    match context.bits(0x00, 27, 24) {
        0 => Ok(Action::Drop),
        1 => {
            let table = context.bits(0x04, 23, 0);
            let known = port.hca.steering.tables.get(table).is_some();
            known
                .then_some(Action::Table(table))
                .ok_or(Refusal::resource("no such miss table"))
        }
        _ => Err(Refusal::param("flow table: no such miss action")),
    }
}

/// Where the context starts in commands about tables.
const CONTEXT_AT: usize = 0x18;

pub fn create_table(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    check_type(input)?;
    let context = input.0.from(CONTEXT_AT);
    let table = FlowTable::new(context.bits(0x00, 7, 0), miss(port, context)?)?;
    output.set_number(port.hca.steering.tables.insert(table)?);
    Ok(())
}

pub fn modify_table(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    const MISS: u32 = 1;
    if input.0.bits(0x0c, 15, 0) != MISS {
        return Err(Refusal::param(
            "flow table: only the miss table can be changed",
        ));
    }
    let miss = miss(port, input.0.from(CONTEXT_AT))?;
    table(port, input)?.miss = miss;
    Ok(())
}

pub fn destroy_table(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    table(port, input)?;
    let number = table_number(input);
    // A root that goes takes its connection with it; a table that others still lead to drops.
    port.hca.steering.root.take_if(|root| *root == number);
    port.hca.steering.tables.remove(number);
    Ok(())
}

pub fn create_group(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let mask = group_mask(input.0, input.0.bits(0x3c, 7, 0), 0x40)?;
    let group = table(port, input)?.add_group(input.0.u32(0x1c), input.0.u32(0x24), mask)?;
    output.set_number(group);
    Ok(())
}

pub fn destroy_group(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    table(port, input)?.remove_group(input.0.u32(0x18))
}

/// Reads what a `flow_context` does with a packet.
fn rule(port: &Port, context: Fields<'_>) -> std::result::Result<Rule, Refusal> {
    const DROP: u32 = 2;
    const FORWARD: u32 = 4;
    const DESTINATIONS_AT: usize = 0x300;
    const TABLE: u32 = 1;
    const TIR: u32 = 2;
    let action = match (context.bits(0x0c, 15, 0), context.bits(0x10, 23, 0)) {
        (DROP, _) => Action::Drop,
        (FORWARD, 1) => {
            let destination = context.from(DESTINATIONS_AT);
            let number = destination.bits(0x00, 23, 0);
            match destination.bits(0x00, 31, 24) {
                TABLE if port.hca.steering.tables.get(number).is_some() => Action::Table(number),
                TIR if port.hca.tirs.get(number).is_some() => Action::Tir(number),
                TABLE | TIR => return Err(Refusal::resource("flow rule: no such destination")),
                _ => return Err(Refusal::param("flow rule: to tables and TIRs only")),
            }
        }
        _ => return Err(Refusal::param("flow rule: drop or one destination only")),
    };
    Ok(Rule {
        action,
        tag: context.bits(0x08, 23, 0),
    })
}

pub fn set_entry(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    const CREATE: u16 = 0;
    /// Bits of the modification mask.
    const ACTION: u32 = 1 << 0;
    const TAG: u32 = 1 << 1;
    const DESTINATIONS: u32 = 1 << 2;
    let context = input.0.from(0x40);
    let index = input.0.u32(0x20);
    let rule = rule(port, context)?;
    let table = table(port, input)?;
    if input.op_mod() == CREATE {
        let value = MatchKey::new(&context.array(0x40));
        return table.set_rule(index, context.u32(0x04), value, rule);
    }
    let mask = input.0.bits(0x18, 7, 0);
    if mask & !(ACTION | TAG | DESTINATIONS) != 0 {
        return Err(Refusal::param("flow rule: this cannot be changed"));
    }
    let old = table
        .rule_mut(index)
        .ok_or(Refusal::resource("no such flow rule"))?;
    if mask & (ACTION | DESTINATIONS) != 0 {
        old.action = rule.action;
    }
    if mask & TAG != 0 {
        old.tag = rule.tag;
    }
    Ok(())
}

pub fn delete_entry(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let removed = table(port, input)?.remove_rule(input.0.u32(0x20));
    removed
        .then_some(())
        .ok_or(Refusal::new(Status::BadResource, "no such flow rule"))
}
