// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registers of what is plugged into the port, and of thermometers.

use super::Result;
use crate::bits::op::Refusal;
use crate::bits::{Fields, FieldsMut};
use crate::obj::port::Port;

/// Number of the one plug of a function.
const PLUG: u32 = 0;

/// Which lane of which plug is which of the port.
pub fn pmlp(register: &mut FieldsMut<'_>) -> Result {
    const LANES: u32 = 4;
    register.set_bits(0x00, 7, 0, LANES);
    for lane in 0..LANES {
        let at = 0x04 + 4 * lane as usize;
        register.set_bits(at, 7, 0, PLUG);
        register.set_bits(at, 19, 16, lane);
        register.set_bits(at, 27, 24, lane);
    }
    Ok(())
}

/// Bytes of the plug's EEPROM.
pub fn mcia(port: &Port, asked: Fields<'_>, register: &mut FieldsMut<'_>) -> Result {
    const I2C_ADDRESS: u32 = 0x50;
    const MOST: usize = 128;
    const DATA_AT: usize = 0x10;
    /// Values of the status.
    const NO_EEPROM: u32 = 1;
    const NOT_CONNECTED: u32 = 3;
    const I2C_ERROR: u32 = 9;
    let at = asked.bits(0x04, 15, 0) as usize;
    let size = asked.bits(0x08, 15, 0) as usize;
    let bytes = port.model.eeprom().get(at..at + size.min(MOST));
    let status = match bytes {
        _ if asked.bits(0x00, 23, 16) != PLUG => NO_EEPROM,
        _ if port.faults.unplugged => NOT_CONNECTED,
        Some(bytes) if asked.bits(0x04, 31, 24) == I2C_ADDRESS && asked.bits(0x04, 23, 16) == 0 => {
            register.set_bytes(DATA_AT, bytes);
            0
        }
        // The plug does not answer at another address, and has one page.
        _ => I2C_ERROR,
    };
    register.set_bits(0x00, 7, 0, status);
    Ok(())
}

/// Which thermometers there are: that of the chip.
pub fn mtcap(register: &mut FieldsMut<'_>) -> Result {
    register.set_bits(0x00, 6, 0, 1);
    register.set_u64(0x08, 1);
    Ok(())
}

/// What a thermometer says, in eighths of a degree.
pub fn mtmp(asked: Fields<'_>, register: &mut FieldsMut<'_>) -> Result {
    const CHIP: u32 = 0;
    const PLUG_SENSOR: u32 = 64 + PLUG;
    // A cable without electronics has none, and reads as zero.
    let (now, limit, name) = match asked.bits(0x00, 11, 0) {
        CHIP => (45 * 8, 105 * 8, b"asic\0\0\0\0"),
        PLUG_SENSOR => (0, 0, b"\0\0\0\0\0\0\0\0"),
        _ => return Err(Refusal::param("MTMP: no such thermometer")),
    };
    register.set_bits(0x04, 15, 0, now);
    register.set_bits(0x08, 15, 0, now);
    register.set_bits(0x0c, 15, 0, limit);
    register.set_bits(0x10, 15, 0, limit);
    register.set_bytes(0x18, name);
    Ok(())
}
