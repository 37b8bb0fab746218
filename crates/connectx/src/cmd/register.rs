// SPDX-License-Identifier: MIT OR Apache-2.0
//! The ACCESS_REG command, and the registers that tell which registers there are.

use super::{Input, Output, Result, physical, plug, statistics};
use crate::bits::op::{Refusal, Status};
use crate::bits::{Fields, FieldsMut};
use crate::obj::port::Port;

/// Register numbers (`MLX5_REG_*`).
mod id {
    pub const PMLP: u32 = 0x5002;
    pub const PMTU: u32 = 0x5003;
    pub const PTYS: u32 = 0x5004;
    pub const PAOS: u32 = 0x5006;
    pub const PFCC: u32 = 0x5007;
    pub const PPCNT: u32 = 0x5008;
    pub const PPLM: u32 = 0x5023;
    pub const PPHCR: u32 = 0x503e;
    pub const PCAM: u32 = 0x507f;
    pub const HOST_ENDIANNESS: u32 = 0x7004;
    pub const MTCAP: u32 = 0x9009;
    pub const MTMP: u32 = 0x900a;
    pub const MCIA: u32 = 0x9014;
    pub const MLCR: u32 = 0x902b;
    pub const MPCNT: u32 = 0x9051;
    pub const MCAM: u32 = 0x907f;
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
    let new = write.then_some(written);
    match (input.0.bits(0x08, 15, 0), write) {
        (id::PMTU, _) => physical::pmtu(port, new, &mut register),
        (id::PAOS, _) => physical::paos(port, new, &mut register),
        (id::PTYS, _) => physical::ptys(port, new, &mut register),
        (id::PPLM, _) => physical::pplm(port, new, &mut register),
        (id::PPHCR, false) => physical::pphcr(port, &mut register),
        (id::PFCC, _) => physical::pfcc(port, new, &mut register),
        (id::PPCNT, false) => statistics::ppcnt(port, written, &mut register),
        // PCI Express never makes a mistake here: all counters are zero.
        (id::MPCNT, false) => Ok(()),
        (id::PMLP, false) => plug::pmlp(&mut register),
        (id::MCIA, false) => plug::mcia(port, written, &mut register),
        (id::MTCAP, false) => plug::mtcap(&mut register),
        // A write asks for the largest temperature seen to be kept, or forgotten; it never changes.
        (id::MTMP, _) => plug::mtmp(written, &mut register),
        // The port has no light to blink with.
        (id::MLCR, true) => Ok(()),
        (id::PCAM, false) => pcam(port, written, &mut register),
        (id::MCAM, false) => mcam(written, &mut register),
        (id::HOST_ENDIANNESS, true) => Ok(()),
        _ => Err(Refusal::new(
            Status::BadParam,
            "no such register, or not this way",
        )),
    }
}

/// Port registers that there are.
const PORT_REGISTERS: &[u32] = &[
    id::PMLP,
    id::PMTU,
    id::PTYS,
    id::PAOS,
    id::PFCC,
    id::PPCNT,
    id::PPLM,
    id::PPHCR,
    id::PCAM,
];
/// Management registers that there are.
const MANAGEMENT_REGISTERS: &[u32] =
    &[id::MTCAP, id::MTMP, id::MCIA, id::MLCR, id::MPCNT, id::MCAM];

/// Where the registers that there are stand in both, and what more they can do.
const ACCESS_AT: usize = 0x08;
const FEATURES_AT: usize = 0x28;

/// Sets the bits of `registers`, of a mask whose bit 0 is register `first`.
fn tell(register: &mut FieldsMut<'_>, first: u32, registers: &[u32]) {
    for id in registers {
        let bit = id - first;
        register.set_bits(
            ACCESS_AT + 12 - bit as usize / 32 * 4,
            bit % 32,
            bit % 32,
            1,
        );
    }
}

/// Which group of registers, and of features, is asked for; there is only the first.
fn first_group(asked: Fields<'_>) -> Result {
    match (asked.bits(0x00, 23, 16), asked.bits(0x00, 7, 0)) {
        (0, 0) => Ok(()),
        _ => Err(Refusal::param("register capabilities: no such group")),
    }
}

/// What the port registers can do (`struct mlx5_ifc_pcam_enhanced_features_bits`).
fn pcam(port: &Port, asked: Fields<'_>, register: &mut FieldsMut<'_>) -> Result {
    const CONNECTOR_TYPE: u32 = 3;
    const STATISTICAL_GROUP: u32 = 0;
    first_group(asked)?;
    tell(register, 0x5000, PORT_REGISTERS);
    for feature in [STATISTICAL_GROUP, CONNECTOR_TYPE] {
        register.set_bits(FEATURES_AT + 0x0c, feature, feature, 1);
    }
    if port.physical.has_extended_modes() {
        // ptys_extended_ethernet, fec_50G_per_lane_in_pplm, fec_100G_per_lane_in_pplm
        for (at, feature) in [(0x0c, 13), (0x0c, 23), (0x08, 23)] {
            register.set_bits(FEATURES_AT + at, feature, feature, 1);
        }
    }
    Ok(())
}

/// What the management registers can do (`struct mlx5_ifc_mcam_enhanced_features_bits`).
fn mcam(asked: Fields<'_>, register: &mut FieldsMut<'_>) -> Result {
    if asked.bits(0x00, 7, 0) != 0 && asked.bits(0x00, 23, 16) == 0 {
        // Registers from 0x9080 on, of which there are none.
        return Ok(());
    }
    first_group(asked)?;
    tell(register, 0x9000, MANAGEMENT_REGISTERS);
    // pcie_performance_group, mcia_32dwords
    for (at, feature) in [(0x0c, 0), (0x08, 2)] {
        register.set_bits(FEATURES_AT + at, feature, feature, 1);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::op::opcode;
    use crate::cmd::tests::{command, port_of};
    use crate::model::{CX5, CX7};

    /// Reads register `id` of `length` bytes, asking with `words` at its start.
    fn read(port: &mut Port, id: u32, words: &[u32], length: usize) -> (u8, Vec<u8>) {
        let mut input = vec![0; DATA_AT + length];
        let mut fields = FieldsMut(&mut input);
        fields.set_bits(0, 31, 16, opcode::ACCESS_REG.into());
        fields.set_bits(4, 15, 0, 1);
        fields.set_u32(0x08, id);
        for (i, word) in words.iter().enumerate() {
            fields.set_u32(DATA_AT + 4 * i, *word);
        }
        let output = command(port, &input, DATA_AT + length);
        (output[0], output[DATA_AT..].to_vec())
    }

    #[test]
    fn the_capability_masks_name_exactly_what_can_be_accessed() {
        for model in [&CX5 as &'static dyn crate::model::Model, &CX7] {
            let mut port = port_of(model);
            for (capability, first) in [(id::PCAM, 0x5000), (id::MCAM, 0x9000)] {
                let (status, mask) = read(&mut port, capability, &[], 0x50);
                assert_eq!(status, 0);
                for bit in 0..0x80usize {
                    let named = Fields(&mask).bit(ACCESS_AT + 12 - bit / 32 * 4, bit as u32 % 32);
                    let id = first + bit as u32;
                    let (status, _) = read(&mut port, id, &[], 0x100);
                    // MLCR can only be written.
                    let known = status == Status::Ok as u8 || id == self::id::MLCR;
                    assert_eq!(named, known, "{id:#x}");
                }
            }
        }
    }

    #[test]
    fn the_bits_that_the_driver_looks_at() {
        let mut port = port_of(&CX7);
        let (_, pcam) = read(&mut port, id::PCAM, &[], 0x50);
        let pcam = Fields(&pcam);
        assert!(pcam.bit(0x10, 3), "pplm");
        assert!(pcam.bit(0x14, 8), "ppcnt");
        assert!(pcam.bit(0x34, 13), "ptys_extended_ethernet");
        let (_, mcam) = read(&mut port, id::MCAM, &[], 0x48);
        assert!(Fields(&mcam).bit(0x14, 10), "mtmp");
        assert_eq!(Fields(&mcam).bits(0x0c, 3, 0), 0, "tracer_registers");
        let (status, second) = read(&mut port, id::MCAM, &[1], 0x48);
        assert_eq!((status, Fields(&second).u64(0x10)), (0, 0));
    }
}
