// SPDX-License-Identifier: MIT OR Apache-2.0
//! PCI configuration space of one function.
//!
//! Offsets and bits are those of the PCI Local Bus and PCI Express base
//! specifications; Linux names them in `include/uapi/linux/pci_regs.h`.

use crate::model::Model;

/// Bytes of configuration space.
pub const CONFIG_SIZE: usize = 4096;
/// Bytes of BAR 0.
pub const BAR0_SIZE: u64 = 16 << 20;
/// MSI-X vectors.
pub const VECTORS: u16 = 64;
/// Where in BAR 0 the MSI-X table starts. What is below belongs to the device.
pub const MSIX_TABLE: u64 = BAR0_SIZE - (64 << 10);
/// Where in BAR 0 the MSI-X pending bits start.
const MSIX_PENDING: u64 = BAR0_SIZE - (32 << 10);

const VENDOR_MELLANOX: u16 = 0x15b3;
const CLASS_ETHERNET: u32 = 0x02_0000;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;

const PCIE: usize = 0x40;
const PCIE_DEVICE_CAP: usize = PCIE + 0x04;
const PCIE_DEVICE_CONTROL: usize = PCIE + 0x08;
const FUNCTION_RESET_CAP: u32 = 1 << 28;
const FUNCTION_RESET: u16 = 1 << 15;
const MSIX: usize = 0x80;
const POWER: usize = 0x90;
const POWER_CONTROL: usize = POWER + 0x04;
const POWER_STATE: u8 = 0b11;

/// What a write to configuration space asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// Reset the function.
    Reset,
    /// Stop: it is not powered up any longer.
    Sleep,
}

/// Configuration space: its bytes, and which bits of them can be written.
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_SIZE]>,
    writable: Box<[u8; CONFIG_SIZE]>,
}

impl ConfigSpace {
    /// Configuration space of a function of `model` after reset.
    pub fn new(model: &dyn Model) -> Self {
        let mut space = Self {
            bytes: Box::new([0; CONFIG_SIZE]),
            writable: Box::new([0; CONFIG_SIZE]),
        };
        space.set16(0x00, VENDOR_MELLANOX);
        space.set16(0x02, model.device_id());
        // Memory, bus master, interrupt disable.
        space.allow(COMMAND, &0x0406u16.to_le_bytes());
        space.set16(STATUS, STATUS_CAPABILITIES);
        space.set32(0x08, CLASS_ETHERNET << 8);
        space.set16(0x2c, VENDOR_MELLANOX);
        space.set16(0x2e, model.device_id());
        // 64-bit, prefetchable. The bits below its size read as zero, which is how it is sized.
        space.set32(BAR0, 0b1100);
        space.allow(BAR0, &(!(BAR0_SIZE - 1)).to_le_bytes());
        space.set8(CAPABILITIES, PCIE as u8);
        // Interrupt line is a scratch register of the firmware.
        space.allow(0x3c, &[0xff]);
        space.pci_express();
        space.msix();
        space.power_management();
        space
    }

    /// A version 2 endpoint that runs at 16 GT/s over 16 lanes and can be reset by itself.
    fn pci_express(&mut self) {
        const SPEED: u32 = 4;
        const WIDTH: u32 = 16;
        self.set8(PCIE, 0x10);
        self.set8(PCIE + 1, MSIX as u8);
        self.set16(PCIE + 0x02, 0x0002);
        // 512 bytes of payload a packet, extended tags, role-based errors.
        self.set32(PCIE_DEVICE_CAP, FUNCTION_RESET_CAP | 1 << 15 | 1 << 5 | 2);
        // The reset bit acts and reads as zero.
        self.allow(PCIE_DEVICE_CONTROL, &0x7fffu16.to_le_bytes());
        self.set32(PCIE + 0x0c, SPEED | WIDTH << 4);
        self.allow(PCIE + 0x10, &0x0fffu16.to_le_bytes());
        self.set16(PCIE + 0x12, (SPEED | WIDTH << 4) as u16);
        // Completion timeout ranges, and their choice.
        self.set32(PCIE + 0x24, 0x1f);
        self.allow(PCIE + 0x28, &0x001fu16.to_le_bytes());
        // Supported link speeds: 2.5 to 16 GT/s.
        self.set32(PCIE + 0x2c, 0b1_1110);
        self.set16(PCIE + 0x30, SPEED as u16);
    }

    /// Version 3, states D0 and D3hot only, no wake-up. Coming back from D3hot is a reset.
    fn power_management(&mut self) {
        self.set8(POWER, 0x01);
        self.set16(POWER + 2, 0x0003);
        self.allow(POWER_CONTROL, &[POWER_STATE]);
    }

    fn msix(&mut self) {
        self.set8(MSIX, 0x11);
        self.set8(MSIX + 1, POWER as u8);
        self.set16(MSIX + 2, VECTORS - 1);
        // Enable and function mask.
        self.allow(MSIX + 2, &0xc000u16.to_le_bytes());
        self.set32(MSIX + 4, MSIX_TABLE as u32);
        self.set32(MSIX + 8, MSIX_PENDING as u32);
    }

    /// Reads `data.len()` bytes at `offset`; what is past the end reads as ones.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self
                .bytes
                .get(start.saturating_add(i))
                .copied()
                .unwrap_or(0xff);
        }
    }

    /// Writes the writable bits of `data` at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let mut effect = Effect::None;
        let power = self.bytes[POWER_CONTROL] & POWER_STATE;
        for (i, &byte) in data.iter().enumerate() {
            let at = start.saturating_add(i);
            if let (Some(old), Some(mask)) = (self.bytes.get_mut(at), self.writable.get(at)) {
                *old = (*old & !mask) | (byte & mask);
            }
            if at == PCIE_DEVICE_CONTROL + 1 && byte & (FUNCTION_RESET >> 8) as u8 != 0 {
                effect = Effect::Reset;
            }
        }
        match (power, self.bytes[POWER_CONTROL] & POWER_STATE) {
            (0, 0) => effect,
            (_, 0) => Effect::Reset,
            (0, _) => Effect::Sleep,
            _ => effect,
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    fn set8(&mut self, at: usize, value: u8) {
        self.bytes[at] = value;
    }

    fn set16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    fn set32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CX5;

    fn read32(space: &ConfigSpace, at: u64) -> u32 {
        let mut bytes = [0; 4];
        space.read(at, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    #[test]
    fn bar_sizing() {
        let mut space = ConfigSpace::new(&CX5);
        space.write(0x10, &[0xff; 4]);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(read32(&space, 0x10), !(BAR0_SIZE as u32 - 1) | 0b1100);
        assert_eq!(read32(&space, 0x14), 0xffff_ffff);
        space.write(0x30, &[0xff; 4]);
        assert_eq!(read32(&space, 0x30), 0, "no expansion ROM");
    }

    #[test]
    fn the_capability_list_ends_and_has_no_vpd() {
        let space = ConfigSpace::new(&CX5);
        let (mut at, mut ids) = (read32(&space, 0x34) & 0xff, Vec::new());
        while at != 0 {
            let header = read32(&space, u64::from(at));
            ids.push(header & 0xff);
            at = header >> 8 & 0xff;
        }
        assert_eq!(ids, [0x10, 0x11, 0x01]);
    }

    #[test]
    fn a_function_level_reset_is_noticed_and_reads_back_as_zero() {
        let mut space = ConfigSpace::new(&CX5);
        let control = PCIE_DEVICE_CONTROL as u64;
        assert_eq!(space.write(control, &0x2810u16.to_le_bytes()), Effect::None);
        assert_eq!(
            space.write(control, &0xa810u16.to_le_bytes()),
            Effect::Reset
        );
        assert_eq!(read32(&space, control) & 0xffff, 0x2810);
    }

    #[test]
    fn power_is_taken_away_and_its_return_is_a_reset() {
        let mut space = ConfigSpace::new(&CX5);
        let control = POWER_CONTROL as u64;
        assert_eq!(space.write(control, &[3, 0]), Effect::Sleep);
        assert_eq!(space.write(control, &[3, 0]), Effect::None);
        assert_eq!(read32(&space, control) & 3, 3);
        assert_eq!(space.write(control, &[0, 0]), Effect::Reset);
        assert_eq!(space.write(control, &[0, 0]), Effect::None);
        assert_eq!(read32(&space, control) & 1 << 3, 0, "no soft reset");
    }

    #[test]
    fn accesses_past_the_end_are_harmless() {
        let mut space = ConfigSpace::new(&CX5);
        space.write(u64::MAX, &[0; 8]);
        space.write(0xffe, &[0; 8]);
        assert_eq!(read32(&space, 0xffe), 0xffff_0000);
    }
}
