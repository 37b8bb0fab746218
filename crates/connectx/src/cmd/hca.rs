// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the device as a whole.

use tracing::info;

use super::{Input, Output, Result};
use crate::bits::op::Refusal;
use crate::model::{CAPABILITY_SIZE, CapabilityType, capability_structure};
use crate::obj::port::Port;

/// A command that has nothing to do and no output but its status.
pub fn accept(_: &mut Port, _: Input<'_>, _: &mut Output<'_>) -> Result {
    Ok(())
}

/// Where capability structures are, in queries and settings.
const CAPABILITY_AT: usize = 0x10;
/// Bit 0 of the modifier of a query: current values, not the largest possible.
const CURRENT: u16 = 1;

pub fn query_capabilities(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let kind = CapabilityType::try_from(input.op_mod() >> 1)
        .map_err(|_| Refusal::param("capabilities: no such type"))?;
    // An answer may be shorter than the structure.
    let structure = match kind {
        CapabilityType::General if input.op_mod() & CURRENT != 0 => port.hca.general.clone(),
        kind => capability_structure(port.model, kind),
    };
    let room = output
        .0
        .0
        .len()
        .saturating_sub(CAPABILITY_AT)
        .min(CAPABILITY_SIZE);
    output.0.set_bytes(CAPABILITY_AT, &structure[..room]);
    Ok(())
}

pub fn set_capabilities(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    if input.op_mod() >> 1 != CapabilityType::General as u16 {
        return Err(Refusal::param(
            "capabilities: only the general ones can be set",
        ));
    }
    let structure = input.0.from(CAPABILITY_AT);
    if structure.len() < CAPABILITY_SIZE {
        return Err(Refusal::param("capabilities: structure too short"));
    }
    port.hca.general = structure.0[..CAPABILITY_SIZE].to_vec();
    Ok(())
}

/// How a driver goes (`enum MLX5_TEARDOWN_HCA_IN_PROFILE_*`): after it has destroyed everything, at once, or with the write of
/// `nic_interface` that it announces. Each ends in a device that touches no memory of the host.
pub fn teardown(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    const GRACEFUL: u32 = 0;
    const FORCE: u32 = 1;
    const PREPARE_FAST: u32 = 2;
    match input.0.bits(0x08, 15, 0) {
        GRACEFUL => info!("the driver goes, having destroyed everything"),
        PREPARE_FAST => info!("the driver is about to disable the interface"),
        FORCE => {
            info!("the driver goes by force");
            port.start_over();
        }
        _ => return Err(Refusal::param("teardown: no such profile")),
    }
    Ok(())
}

pub fn query_adapter(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    const IEEE_VENDOR_MELLANOX: u32 = 0x00_02c9;
    output.0.set_bits(0x28, 23, 0, IEEE_VENDOR_MELLANOX);
    output.0.set_bytes(0x100, port.model.psid().as_bytes());
    Ok(())
}

/// The device needs no pages of the host.
pub fn query_pages(_: &mut Port, _: Input<'_>, _: &mut Output<'_>) -> Result {
    Ok(())
}

/// Interface step 1 is the one that Ethernet needs.
pub fn query_issi(_: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    const ISSI_1: u32 = 1 << 1;
    output.0.set_u32(0x6c, ISSI_1);
    Ok(())
}

pub fn set_issi(_: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    match input.0.bits(0x08, 15, 0) {
        1 => Ok(()),
        _ => Err(Refusal::param("ISSI: only 1 is supported")),
    }
}

#[cfg(test)]
mod tests {
    use crate::bits::op::{Status, opcode};
    use crate::cmd::tests::{command, port_of};
    use crate::model::CX5;

    #[test]
    fn a_forced_teardown_drops_everything_and_a_graceful_one_has_nothing_to_drop() {
        let mut port = port_of(&CX5);
        let mut teardown = [0; 16];
        teardown[..2].copy_from_slice(&opcode::TEARDOWN_HCA.to_be_bytes());
        for (profile, status, left) in [
            (0, Status::Ok, true),
            (2, Status::Ok, true),
            (3, Status::BadParam, true),
            (1, Status::Ok, false),
        ] {
            let pd = port.hca.pds.insert(()).unwrap();
            teardown[0x0b] = profile;
            let output = command(&mut port, &teardown, 16);
            assert_eq!(output[0], status as u8, "profile {profile}");
            assert_eq!(output[0x0f] & 1, 0, "it has not failed");
            assert_eq!(port.hca.pds.get(pd).is_some(), left, "profile {profile}");
        }
    }
}
