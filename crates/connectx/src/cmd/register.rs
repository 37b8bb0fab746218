// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers behind the ACCESS_REG command.

use std::sync::atomic::Ordering;

use super::{Input, Output, Result};
use crate::bits::op::{Refusal, Status};
use crate::bits::{Fields, FieldsMut};
use crate::obj::port::{MAX_MTU, Port};

/// Register numbers (`MLX5_REG_*`).
mod id {
    pub const PMTU: u32 = 0x5003;
    pub const PTYS: u32 = 0x5004;
    pub const PAOS: u32 = 0x5006;
    pub const PFCC: u32 = 0x5007;
    pub const PPCNT: u32 = 0x5008;
    pub const HOST_ENDIANNESS: u32 = 0x7004;
}

/// Where the register is, in input and output.
const DATA_AT: usize = 0x10;

pub fn access(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let write = input.op_mod() == 0;
    let written = input.0.from(DATA_AT);
    let Some(register) = output.0.0.get_mut(DATA_AT..) else {
        return Ok(());
    };
    // What a register does not say itself reads as it was written.
    let same = written.len().min(register.len());
    register[..same].copy_from_slice(&written.0[..same]);
    let mut register = FieldsMut(register);
    match (input.0.bits(0x08, 15, 0), write) {
        (id::PMTU, _) => pmtu(port, write.then_some(written), &mut register),
        (id::PAOS, _) => paos(port, write.then_some(written), &mut register),
        (id::PTYS, false) => ptys(&mut register),
        (id::PPCNT, false) => ppcnt(port, written, &mut register),
        // Pause frames: whatever is set, a sender waits for a receiver without buffers.
        (id::PFCC, _) => Ok(()),
        (id::HOST_ENDIANNESS, true) => Ok(()),
        _ => Err(Refusal::new(
            Status::BadParam,
            "no such register, or not this way",
        )),
    }
}

/// Largest frame.
fn pmtu(port: &mut Port, written: Option<Fields<'_>>, register: &mut FieldsMut<'_>) -> Result {
    if let Some(written) = written {
        let mtu = written.bits(0x08, 31, 16) as u16;
        if mtu > MAX_MTU {
            return Err(Refusal::param("PMTU: larger than max_mtu"));
        }
        port.hca.vport.port_mtu = mtu;
    }
    let mtu = u32::from(port.hca.vport.port_mtu);
    register.set_bits(0x04, 31, 16, u32::from(MAX_MTU));
    register.set_bits(0x08, 31, 16, mtu);
    register.set_bits(0x0c, 31, 16, mtu);
    Ok(())
}

/// Whether the port is wanted up, and is.
fn paos(port: &mut Port, written: Option<Fields<'_>>, register: &mut FieldsMut<'_>) -> Result {
    const UP: u32 = 1;
    const DOWN: u32 = 2;
    let state = |up| if up { UP } else { DOWN };
    if let Some(written) = written {
        port.hca.vport.admin_up = match written.bits(0x00, 11, 8) {
            UP => true,
            DOWN => false,
            _ => return Err(Refusal::param("PAOS: up or down only")),
        };
    }
    register.set_bits(0x00, 11, 8, state(port.hca.vport.admin_up));
    register.set_bits(0x00, 3, 0, state(port.link_up));
    Ok(())
}

/// Speeds: one, 100 Gbit/s over copper.
fn ptys(register: &mut FieldsMut<'_>) -> Result {
    const ETHERNET: u32 = 1 << 2;
    const CR4_100G: u32 = 1 << 20;
    const COPPER: u32 = 3;
    register.set_bits(0x00, 2, 0, ETHERNET);
    for protocol in [0x0c, 0x18, 0x24] {
        register.set_u32(protocol, CR4_100G);
    }
    register.set_bits(0x2c, 3, 0, COPPER);
    Ok(())
}

/// Statistics of the physical port, in groups. Groups of events that a cable in memory does not
/// have are zero.
fn ppcnt(port: &Port, written: Fields<'_>, register: &mut FieldsMut<'_>) -> Result {
    const FCS: u64 = 4;
    let (received, sent) = (port.received.get(), port.sent.get());
    let discarded = port.discarded.load(Ordering::Relaxed);
    let frames = |traffic: &crate::obj::counter::Traffic| traffic.frames.iter().sum::<u64>();
    // On the cable every frame has a checksum behind it.
    let bytes = |traffic: &crate::obj::counter::Traffic| {
        traffic.bytes.iter().sum::<u64>() + FCS * frames(traffic)
    };
    let [unicast, multicast, broadcast] = [0, 1, 2];
    // Offsets of `eth_802_3`, `eth_2863` and `eth_2819_cntrs_grp_data_layout`.
    let counters: &[(usize, u64)] = match written.bits(0x00, 5, 0) {
        0x00 => &[
            (0x00, frames(&sent)),
            (0x08, frames(&received)),
            (0x20, bytes(&sent)),
            (0x28, bytes(&received)),
            (0x30, sent.frames[multicast]),
            (0x38, sent.frames[broadcast]),
            (0x40, received.frames[multicast]),
            (0x48, received.frames[broadcast]),
        ],
        0x01 => &[
            (0x00, bytes(&received)),
            (0x08, received.frames[unicast]),
            (0x10, discarded),
            (0x28, bytes(&sent)),
            (0x30, sent.frames[unicast]),
            (0x48, received.frames[multicast]),
            (0x50, received.frames[broadcast]),
            (0x58, sent.frames[multicast]),
            (0x60, sent.frames[broadcast]),
        ],
        0x02 => &[
            (0x00, discarded),
            (0x08, bytes(&received)),
            (0x10, frames(&received)),
            (0x18, received.frames[broadcast]),
            (0x20, received.frames[multicast]),
        ],
        _ => &[],
    };
    const COUNTERS_AT: usize = 0x08;
    for &(at, value) in counters {
        register.set_u64(COUNTERS_AT + at, value);
    }
    Ok(())
}
