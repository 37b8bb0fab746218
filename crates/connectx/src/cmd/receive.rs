// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about indirection tables and transport interface receive objects.

use super::{Input, Output, Result};
use crate::bits::ctx::{HashContext, LroContext, TirContext};
use crate::bits::op::{Refusal, Status};
use crate::obj::port::Port;
use crate::obj::tir::{MAX_RQT, Rqt, Tir};

/// Where the context starts in all these commands.
const CONTEXT_AT: usize = 0x20;

/// Reads the list of receive queues of an `rqtc`.
fn queues(input: Input<'_>, max: usize) -> std::result::Result<Vec<u32>, Refusal> {
    const LIST_AT: usize = 0xf0;
    let context = input.0.from(CONTEXT_AT);
    let size = context.bits(0x18, 15, 0) as usize;
    if size == 0 || size > max {
        return Err(Refusal::param("indirection table: size out of range"));
    }
    if context.len() < LIST_AT + 4 * size {
        return Err(Refusal::new(
            Status::BadInputLength,
            "indirection table: list too short",
        ));
    }
    Ok((0..size)
        .map(|i| context.bits(LIST_AT + 4 * i, 23, 0))
        .collect())
}

pub fn create_rqt(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let max = input.0.from(CONTEXT_AT).bits(0x14, 15, 0) as usize;
    if max > MAX_RQT {
        return Err(Refusal::param(
            "indirection table: larger than log_max_rqt_size",
        ));
    }
    let queues = queues(input, max)?;
    output.set_number(port.hca.rqts.insert(Rqt { max, queues })?);
    Ok(())
}

pub fn modify_rqt(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    const LIST: u64 = 1 << 0;
    let rqt = port.hca.rqts.get_mut(input.number());
    let rqt = rqt.ok_or(Refusal::resource("no such indirection table"))?;
    if input.0.u64(0x10) & LIST != 0 {
        rqt.queues = queues(input, rqt.max)?;
    }
    Ok(())
}

pub fn destroy_rqt(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let rqt = port.hca.rqts.remove(input.number());
    rqt.map(drop)
        .ok_or(Refusal::resource("no such indirection table"))
}

pub fn create_tir(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let tir = Tir::new(&TirContext::decode(input.0.from(CONTEXT_AT))?);
    output.set_number(port.hca.tirs.insert(tir)?);
    Ok(())
}

pub fn modify_tir(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    /// Bits of the modification mask, `struct mlx5_ifc_modify_tir_bitmask_bits`.
    const PACKET_MERGE: u64 = 1 << 0;
    const HASH: u64 = 1 << 2;
    const SELF_LOOPBACK: u64 = 1 << 4;
    let mask = input.0.u64(0x10);
    if mask & !(PACKET_MERGE | HASH | SELF_LOOPBACK) != 0 {
        return Err(Refusal::param("TIR: this cannot be changed"));
    }
    let tir = port
        .hca
        .tirs
        .get_mut(input.number())
        .ok_or(Refusal::resource("no such TIR"))?;
    if mask & HASH != 0 {
        tir.set_hash(&HashContext::decode(input.0.from(CONTEXT_AT))?);
    }
    if mask & PACKET_MERGE != 0 {
        tir.set_lro(&LroContext::decode(input.0.from(CONTEXT_AT))?);
    }
    Ok(())
}

pub fn destroy_tir(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let tir = port.hca.tirs.remove(input.number());
    tir.map(drop).ok_or(Refusal::resource("no such TIR"))
}
