// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads and writes of the initialisation segment.

use tracing::{debug, info};

use super::doorbell;
use crate::bits::iseg::{
    CMD_DOORBELL, CMDIF_REV, CMDIF_REV_5, CMDQ_ADDR_HIGH, CMDQ_ADDR_LOW, FIRMWARE_RESET, FW_REV,
    HEALTH_COUNTER, HEALTH_FW_VER, HEALTH_HW_ID, HEALTH_SEVERITY, HEALTH_SYNDROME, INITIALIZING,
    NIC_DISABLED, NIC_RESET, RESET_REQUESTED, TIMER_HIGH, TIMER_LOW, cmdq_low,
};
use crate::clock;
use crate::datapath::link;
use crate::obj::port::Port;
use crate::obj::registers::Registers;

/// The register at `offset`, a multiple of four.
fn register(registers: &Registers, offset: u64) -> u32 {
    let (major, minor, sub) = registers.model.firmware();
    let time = clock::now();
    match offset {
        FW_REV => u32::from(minor) << 16 | u32::from(major),
        CMDIF_REV => CMDIF_REV_5 << 16 | u32::from(sub),
        CMDQ_ADDR_HIGH => (registers.command_queue() >> 32) as u32,
        CMDQ_ADDR_LOW => cmdq_low(registers.command_queue() as u32, registers.nic_interface()),
        HEALTH_FW_VER => u32::from(major) << 24 | u32::from(minor) << 16 | u32::from(sub),
        HEALTH_HW_ID => u32::from(registers.model.device_id()),
        TIMER_HIGH => (time >> 32) as u32,
        TIMER_LOW => time as u32,
        HEALTH_SEVERITY if registers.assert() != 0 => RESET_REQUESTED,
        HEALTH_SYNDROME => u32::from(registers.assert()) << 16,
        // Milliseconds: the driver looks every two seconds whether it has changed.
        HEALTH_COUNTER if registers.assert() == 0 => {
            (time / u64::from(clock::FREQUENCY_KHZ)) as u32
        }
        INITIALIZING => FIRMWARE_RESET,
        _ => 0,
    }
}

/// Reads `data.len()` bytes at `offset`. The driver reads words, and single bytes of the syndrome.
pub fn read(registers: &Registers, offset: u64, data: &mut [u8]) {
    for (byte, at) in data.iter_mut().zip(offset..) {
        *byte = register(registers, at & !3).to_be_bytes()[(at & 3) as usize];
    }
}

/// Writes `data` at `offset` of port `me`.
pub fn write(ports: &mut [Port; 2], me: usize, offset: u64, data: &[u8]) {
    let words: &[[u8; 4]] = data.as_chunks().0;
    for (word, at) in words.iter().zip((offset..).step_by(4)) {
        let value = u32::from_be_bytes(*word);
        match at {
            CMDQ_ADDR_HIGH => {
                let registers = &ports[me].registers;
                let low = registers.command_queue() & 0xffff_ffff;
                registers.set_command_queue(u64::from(value) << 32 | low);
                start_over(ports, me);
            }
            CMDQ_ADDR_LOW => {
                let registers = &ports[me].registers;
                let old = registers.command_queue();
                let address = old & !0xffff_ffff | u64::from(value & !0xfff);
                registers.set_command_queue(address);
                let state = value >> 8 & 7;
                if state == NIC_RESET {
                    // At once: nobody sees it going on.
                    registers.set_nic_interface(NIC_DISABLED);
                    registers.set_assert(0);
                    ports[me].physical.reset();
                    start_over(ports, me);
                    continue;
                }
                registers.set_nic_interface(state);
                if state == NIC_DISABLED {
                    info!("the driver has disabled the interface");
                }
                // Setting `nic_interface` alone writes back the address.
                if address != old || state == NIC_DISABLED {
                    start_over(ports, me);
                }
            }
            CMD_DOORBELL => doorbell(ports, me, value),
            _ => debug!("write of {value:#x} to offset {at:#x} ignored"),
        }
    }
}

/// A driver that sets up a command queue knows nothing of what was before.
fn start_over(ports: &mut [Port; 2], me: usize) {
    ports[me].start_over();
    link::update(ports);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;
    use crate::obj::port::tests::port;

    fn word(port: &Port, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        read(&port.registers, offset, &mut bytes);
        Fields(&bytes).u32(0)
    }

    #[test]
    fn what_the_driver_demands_before_anything_else() {
        let port = port(0x1000);
        assert_eq!(word(&port, CMDIF_REV) >> 16, 5);
        assert_eq!(word(&port, 0x1fc) >> 31, 0, "initialised");
        assert_eq!(word(&port, 0xffc), 0, "built-in timeouts");
        assert_ne!(word(&port, HEALTH_FW_VER), u32::MAX);
        let mut syndrome = [0xff];
        read(&port.registers, 0x23d, &mut syndrome);
        assert_eq!(syndrome, [0]);
    }

    #[test]
    fn a_new_command_queue_address_starts_over_and_the_geometry_stays() {
        let mut ports = [port(0x1000), port(0x1000)];
        ports[0].hca.pds.insert(()).unwrap();
        write(&mut ports, 0, CMDQ_ADDR_HIGH, &1u32.to_be_bytes());
        write(&mut ports, 0, CMDQ_ADDR_LOW, &0x2345_6000u32.to_be_bytes());
        assert!(ports[0].hca.pds.get(1).is_none());
        assert_eq!(ports[0].registers.command_queue(), 0x1_2345_6000);
        assert_eq!(word(&ports[0], CMDQ_ADDR_LOW), 0x2345_6056);
        ports[0].hca.pds.insert(()).unwrap();
        write(&mut ports, 0, CMDQ_ADDR_LOW, &0x2345_6200u32.to_be_bytes());
        assert_eq!(word(&ports[0], CMDQ_ADDR_LOW), 0x2345_6256, "nic_interface");
        assert!(ports[0].hca.pds.get(1).is_some(), "the same queue");
    }

    /// As `mlx5_cmd_fast_teardown_hca()` ends it.
    #[test]
    fn disabling_the_interface_drops_everything() {
        let mut ports = [port(0x1000), port(0x1000)];
        ports[0].hca.pds.insert(()).unwrap();
        let disabled = (NIC_DISABLED << 8).to_be_bytes();
        write(&mut ports, 0, CMDQ_ADDR_LOW, &disabled);
        assert_eq!(word(&ports[0], CMDQ_ADDR_LOW) >> 8 & 7, NIC_DISABLED);
        assert!(ports[0].hca.pds.get(1).is_none());
    }

    /// As `mlx5_error_sw_reset()` goes about it.
    #[test]
    fn an_assert_lasts_until_the_driver_resets_the_firmware() {
        let mut ports = [port(0x1000), port(0x1000)];
        ports[0].hca.pds.insert(()).unwrap();
        ports[0].registers.set_assert(1);
        assert_eq!(word(&ports[0], HEALTH_SEVERITY) >> 31, 1);
        let mut syndrome = [0];
        read(&ports[0].registers, 0x23d, &mut syndrome);
        assert_eq!(syndrome, [1]);
        assert_eq!(word(&ports[0], HEALTH_COUNTER), 0, "it stands still");
        assert_ne!(word(&ports[0], INITIALIZING) & FIRMWARE_RESET, 0);
        write(
            &mut ports,
            0,
            CMDQ_ADDR_LOW,
            &(NIC_RESET << 8).to_be_bytes(),
        );
        assert_eq!(word(&ports[0], CMDQ_ADDR_LOW) >> 8 & 7, NIC_DISABLED);
        assert_eq!(word(&ports[0], HEALTH_SYNDROME), 0);
        assert!(ports[0].hca.pds.get(1).is_none(), "everything is gone");
    }
}
