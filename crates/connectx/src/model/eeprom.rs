// SPDX-License-Identifier: MIT OR Apache-2.0
//! EEPROMs of the plugs of a copper cable, one metre long and without electronics.

use super::EEPROM_SIZE;

const VENDOR: &[u8] = b"netgpu          ";
const SERIAL: &[u8] = b"NG000001        ";
const DATE: &[u8] = b"260101  ";
const NO_SEPARABLE_CONNECTOR: u8 = 0x23;

/// 100 Gbit/s, as SFF-8636 describes it.
pub const QSFP28: [u8; EEPROM_SIZE] = {
    let mut bytes = [0; EEPROM_SIZE];
    // QSFP28; revision 2.8; no pages but this.
    bytes[0] = 0x11;
    bytes[1] = 0x08;
    bytes[2] = 0x04;
    bytes[128] = 0x11;
    bytes[130] = NO_SEPARABLE_CONNECTOR;
    // 40GBASE-CR4, and the extended code; above 25.4 Gbit/s, see byte 222.
    bytes[131] = 0x88;
    bytes[140] = 0xff;
    // One metre of copper, not equalised.
    bytes[146] = 1;
    bytes[147] = 0xa0;
    bytes = put(bytes, 148, VENDOR);
    bytes = put(bytes, 168, b"DAC-100G-1M     ");
    bytes = put(bytes, 184, b"A1");
    bytes[191] = checksum(&bytes, 128, 191);
    // 100GBASE-CR4.
    bytes[192] = 0x0b;
    bytes = put(bytes, 196, SERIAL);
    bytes = put(bytes, 212, DATE);
    // 25.75 Gbit/s a lane, in 250 Mbit/s.
    bytes[222] = 103;
    bytes[223] = checksum(&bytes, 192, 223);
    bytes
};

/// 400 Gbit/s over four lanes, as CMIS 5.0 describes it.
pub const QSFP112: [u8; EEPROM_SIZE] = {
    const QSFP_CMIS: u8 = 0x1e;
    let mut bytes = [0; EEPROM_SIZE];
    bytes[0] = QSFP_CMIS;
    bytes[1] = 0x50;
    // No pages but this; ready; a passive copper cable.
    bytes[2] = 0x80;
    bytes[3] = 3 << 1;
    bytes[85] = 0x03;
    bytes[128] = QSFP_CMIS;
    bytes = put(bytes, 129, VENDOR);
    bytes = put(bytes, 148, b"DAC-400G-1M     ");
    bytes = put(bytes, 164, b"A1");
    bytes = put(bytes, 166, SERIAL);
    bytes = put(bytes, 182, DATE);
    // One metre, in units of one.
    bytes[202] = 1 << 6 | 1;
    bytes[203] = NO_SEPARABLE_CONNECTOR;
    // Copper, not equalised.
    bytes[212] = 0x0a;
    bytes[222] = checksum(&bytes, 128, 222);
    bytes
};

const fn put(mut bytes: [u8; EEPROM_SIZE], at: usize, text: &[u8]) -> [u8; EEPROM_SIZE] {
    let mut i = 0;
    while i < text.len() {
        bytes[at + i] = text[i];
        i += 1;
    }
    bytes
}

/// The low byte of the sum.
const fn checksum(bytes: &[u8; EEPROM_SIZE], from: usize, to: usize) -> u8 {
    let (mut sum, mut at) = (0u8, from);
    while at < to {
        sum = sum.wrapping_add(bytes[at]);
        at += 1;
    }
    sum
}
