// SPDX-License-Identifier: MIT OR Apache-2.0
//! ConnectX-7: all of [`super::CX5`], striding receive queues with any number of strides, which the driver prefers then, and header
//! split and hardware GRO (SHAMPO).

use super::eeprom::QSFP112;
use super::rates::UP_TO_400G;
use super::{CX5, Capability, CapabilityType, EEPROM_SIZE, Model};
use crate::obj::physical::Rate;

/// The ConnectX-7 profile.
pub const CX7: Cx7 = Cx7;

/// See [`CX7`].
#[derive(Clone, Copy, Debug)]
pub struct Cx7;

impl Model for Cx7 {
    fn device_id(&self) -> u16 {
        0x1021
    }

    fn firmware(&self) -> (u16, u16, u16) {
        (28, 39, 1002)
    }

    fn psid(&self) -> &'static str {
        "NGP0000000007"
    }

    fn rates(&self) -> &'static [Rate] {
        UP_TO_400G
    }

    fn eeprom(&self) -> &'static [u8; EEPROM_SIZE] {
        &QSFP112
    }

    fn capabilities(&self, kind: CapabilityType) -> Vec<Capability> {
        let more = match kind {
            CapabilityType::General => GENERAL,
            CapabilityType::EthernetOffloads | CapabilityType::FlowTable => &[],
            CapabilityType::Shampo => SHAMPO,
            CapabilityType::General2 => GENERAL_2,
        };
        let mut capabilities = CX5.capabilities(kind);
        capabilities.extend(more);
        capabilities
    }
}

/// `struct mlx5_ifc_cmd_hca_cap_bits`.
const GENERAL: &[Capability] = &[
    // hca_cap_2
    (0x04, 31, 31, 1),
    // fixed_buffer_size, without which the driver does not try header split
    (0x20, 23, 23, 1),
    // shampo
    (0x54, 20, 20, 1),
    // ext_stride_num_range: fewer than 512 strides an entry, as the driver wants at an MTU of 1500
    (0x74, 31, 31, 1),
];

/// `struct mlx5_ifc_cmd_hca_cap_2_bits`.
const GENERAL_2: &[Capability] = &[
    // log_min_mkey_entity_size
    (0x34, 20, 16, crate::bits::ctx::MIN_LOG_KEY_PAGE),
    // min_mkey_log_entity_size_fixed_buffer, and that it is valid
    (0x70, 20, 16, 8),
    (0x80, 30, 30, 1),
];

/// `struct mlx5_ifc_shampo_cap_bits`.
const SHAMPO: &[Capability] = &[
    // shampo_log_max_reservation_size, shampo_log_min_reservation_size
    (0x00, 28, 24, crate::bits::striding::LOG_MAX_RESERVATION),
    (0x00, 20, 16, crate::bits::striding::LOG_MIN_RESERVATION),
    // shampo_min_mss_size
    (0x00, 15, 0, 536),
    // shampo_header_split, shampo_header_split_data_merge
    (0x04, 31, 31, 1),
    (0x04, 30, 30, 1),
    // shampo_log_max_headers_entry_size
    (0x04, 28, 24, crate::bits::striding::LOG_MAX_HEADER_ENTRY),
];
