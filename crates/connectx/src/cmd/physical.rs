// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers of the physical port: size of frames, state, speed, error correction, pause.

use super::Result;
use crate::bits::op::Refusal;
use crate::bits::{Fields, FieldsMut};
use crate::obj::physical::{Modes, Pause};
use crate::obj::port::{MAX_MTU, Port};

/// Largest frame.
pub fn pmtu(port: &mut Port, written: Option<Fields<'_>>, register: &mut FieldsMut<'_>) -> Result {
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
pub fn paos(port: &mut Port, written: Option<Fields<'_>>, register: &mut FieldsMut<'_>) -> Result {
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
    register.set_bits(0x00, 3, 0, state(port.link_up()));
    Ok(())
}

/// Speeds. A change takes effect when the link comes up the next time.
pub fn ptys(port: &mut Port, written: Option<Fields<'_>>, register: &mut FieldsMut<'_>) -> Result {
    const ETHERNET: u32 = 1 << 2;
    /// `MLX5E_PORT_DA`, copper that is attached at both ends.
    const DIRECT_ATTACH: u32 = 7;
    /// `enum mlx5_an_status`.
    const COMPLETE: u32 = 1;
    const LINK_UP: u32 = 3;
    const LINK_DOWN: u32 = 4;
    let physical = &mut port.physical;
    let all = Modes::of(physical.rates);
    if let Some(written) = written {
        let wanted = Modes {
            legacy: written.u32(0x18),
            extended: written.u32(0x14),
        };
        if (wanted.legacy == 0) == (wanted.extended == 0) {
            return Err(Refusal::param(
                "PTYS: speeds of one kind, legacy or extended",
            ));
        }
        if wanted.legacy & !all.legacy != 0 || wanted.extended & !all.extended != 0 {
            return Err(Refusal::param("PTYS: a speed that the port does not have"));
        }
        physical.settings.wanted = wanted;
        physical.settings.fixed = written.bit(0x00, 30);
    }
    register.set_bits(0x00, 2, 0, ETHERNET);
    register.set_bits(0x00, 29, 29, 1);
    register.set_bits(0x00, 30, 30, physical.settings.fixed.into());
    for (at, modes) in [(0x08, all), (0x14, physical.settings.wanted)] {
        register.set_u32(at, modes.extended);
        register.set_u32(at + 4, modes.legacy);
    }
    let negotiation = match &physical.link {
        Some(_) if physical.settings.fixed => LINK_UP,
        Some(_) => COMPLETE,
        None => LINK_DOWN,
    };
    register.set_bits(0x04, 31, 28, negotiation);
    if let Some(link) = &physical.link {
        register.set_bits(0x04, 15, 0, link.rate.mbit / 100);
        register.set_u32(0x20, link.rate.extended);
        register.set_u32(0x24, link.rate.legacy);
        let offered = link.offered.extended | link.offered.legacy;
        register.set_u32(0x30, offered);
    }
    register.set_bits(0x2c, 3, 0, DIRECT_ATTACH);
    Ok(())
}

/// Forward error correction. A change takes effect when the link comes up the next time.
pub fn pplm(port: &mut Port, written: Option<Fields<'_>>, register: &mut FieldsMut<'_>) -> Result {
    let physical = &mut port.physical;
    let rates = physical.rates;
    let classes = || rates.iter().filter_map(|rate| rate.fec);
    if let Some(written) = written {
        let mut wanted = physical.settings.fec;
        for class in classes() {
            let (at, low, bits) = class.admin;
            let mode = written.bits(at, low + bits - 1, low);
            if mode & !class.possible() != 0 || mode.count_ones() > 1 {
                return Err(Refusal::param("PPLM: one possible mode for each speed"));
            }
            wanted[class.index] = mode;
        }
        physical.settings.fec = wanted;
    }
    for class in classes() {
        let (at, low, bits) = class.capability;
        register.set_bits(at, low + bits - 1, low, class.possible());
        let (at, low, bits) = class.admin;
        register.set_bits(at, low + bits - 1, low, physical.settings.fec[class.index]);
    }
    let active = physical.link.map_or(0, |link| 1 << link.fec as u32);
    register.set_bits(0x0c, 23, 0, active);
    Ok(())
}

/// The histogram of corrections: a bin for each number of symbols that were wrong in a code word.
pub fn pphcr(port: &Port, register: &mut FieldsMut<'_>) -> Result {
    let code = port.physical.link.and_then(|link| link.fec.reed_solomon());
    if let Some((kind, corrects)) = code {
        register.set_bits(0x00, 31, 28, kind);
        register.set_bits(0x04, 23, 16, corrects + 1);
        for bin in 0..=corrects {
            register.set_u32(0x10 + 4 * bin as usize, bin << 16 | bin);
        }
    }
    Ok(())
}

/// Pause frames.
pub fn pfcc(port: &mut Port, written: Option<Fields<'_>>, register: &mut FieldsMut<'_>) -> Result {
    let pause = &mut port.physical.settings.pause;
    if let Some(written) = written {
        if written.bits(0x08, 23, 16) != 0 || written.bits(0x0c, 23, 16) != 0 {
            return Err(Refusal::param("PFCC: no pause frames by priority"));
        }
        *pause = Pause {
            send: written.bit(0x08, 31),
            obey: written.bit(0x0c, 31),
        };
    }
    register.set_bits(0x08, 31, 31, pause.send.into());
    register.set_bits(0x0c, 31, 31, pause.obey.into());
    Ok(())
}
