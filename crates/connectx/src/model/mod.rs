// SPDX-License-Identifier: MIT OR Apache-2.0
//! Generations of the hardware: identity and capabilities, one file each.

mod cx5;
mod cx7;
mod eeprom;
mod rates;

pub use cx5::CX5;
pub use cx7::CX7;

use crate::bits::FieldsMut;
use crate::obj::physical::Rate;

/// Bytes of a plug's EEPROM: the lower page, and upper page 0.
pub const EEPROM_SIZE: usize = 256;
/// Bytes of one capability structure (`union mlx5_ifc_hca_cap_union_bits`).
pub const CAPABILITY_SIZE: usize = 4096;

/// Capability structures (`enum mlx5_cap_type`) that the device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CapabilityType {
    /// `struct mlx5_ifc_cmd_hca_cap_bits`.
    General = 0x00,
    /// `struct mlx5_ifc_per_protocol_networking_offload_caps_bits`.
    EthernetOffloads = 0x01,
    /// `struct mlx5_ifc_flow_table_nic_cap_bits`.
    FlowTable = 0x07,
    /// `struct mlx5_ifc_shampo_cap_bits`.
    Shampo = 0x1d,
    /// `struct mlx5_ifc_cmd_hca_cap_2_bits`.
    General2 = 0x20,
}

impl CapabilityType {
    const ALL: [Self; 5] = [
        Self::General,
        Self::EthernetOffloads,
        Self::FlowTable,
        Self::Shampo,
        Self::General2,
    ];
}

impl TryFrom<u16> for CapabilityType {
    type Error = u16;

    fn try_from(value: u16) -> Result<Self, u16> {
        Self::ALL
            .into_iter()
            .find(|kind| *kind as u16 == value)
            .ok_or(value)
    }
}

/// One field of a capability structure: byte offset of its word, highest and lowest bit, value.
pub type Capability = (usize, u32, u32, u32);

/// A generation of the hardware.
pub trait Model: Send + Sync {
    /// PCI device id of the physical function.
    fn device_id(&self) -> u16;
    /// Firmware version: major, minor, sub-minor.
    fn firmware(&self) -> (u16, u16, u16);
    /// Parameter set id, up to 16 characters.
    fn psid(&self) -> &'static str;
    /// Speeds of the port, fastest first.
    fn rates(&self) -> &'static [Rate];
    /// What is in the EEPROM of the plug in its port.
    fn eeprom(&self) -> &'static [u8; EEPROM_SIZE];
    /// The fields of a capability structure that are not zero.
    fn capabilities(&self, kind: CapabilityType) -> Vec<Capability>;
}

/// The capability structure `kind` of `model` as the driver reads it.
pub fn capability_structure(model: &dyn Model, kind: CapabilityType) -> Vec<u8> {
    let mut bytes = vec![0; CAPABILITY_SIZE];
    let mut fields = FieldsMut(&mut bytes);
    for (at, high, low, value) in model.capabilities(kind) {
        fields.set_bits(at, high, low, value);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;

    #[test]
    fn no_capability_is_wider_than_its_field_or_overwrites_another() {
        let models: [&dyn Model; 2] = [&CX5, &CX7];
        for (model, kind) in models
            .into_iter()
            .flat_map(|model| CapabilityType::ALL.map(|kind| (model, kind)))
        {
            let bytes = capability_structure(model, kind);
            for (at, high, low, value) in model.capabilities(kind) {
                assert_eq!(
                    Fields(&bytes).bits(at, high, low),
                    value,
                    "{kind:?} {at:#x}.{high}"
                );
            }
        }
    }

    /// Each of these kills the probe, or leaves one channel, or no network device.
    #[test]
    fn what_the_driver_cannot_do_without() {
        let general = capability_structure(&CX5, CapabilityType::General);
        let general = Fields(&general);
        assert_eq!(general.bits(0x34, 9, 8), 1, "port_type");
        assert_ne!(general.bits(0x34, 7, 0), 0, "num_ports");
        assert_ne!(general.bits(0x1c, 3, 0), 0, "log_max_eq");
        assert!(general.bits(0x50, 15, 0) >= 1024, "max_wqe_sz_sq");
        assert!(
            general.bit(0x40, 3) && general.bit(0x34, 25),
            "eth_net_offloads, nic_flow_table"
        );
        let flow = capability_structure(&CX5, CapabilityType::FlowTable);
        let flow = Fields(&flow);
        assert!(flow.bits(0x44, 29, 24) >= 16, "log_max_ft_size");
        assert!(flow.bits(0x44, 7, 0) >= 59, "max_ft_level");
    }
}
