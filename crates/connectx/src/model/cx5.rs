// SPDX-License-Identifier: MIT OR Apache-2.0
//! ConnectX-5: cyclic receive queues, and striding ones whose memory is mapped by UMR, checksum and segmentation offload, LRO, RSS,
//! flow steering.

use super::eeprom::QSFP28;
use super::rates::UP_TO_100G;
use super::{Capability, CapabilityType, EEPROM_SIZE, Model};
use crate::obj::physical::Rate;

/// The ConnectX-5 profile.
pub const CX5: Cx5 = Cx5;

/// See [`CX5`].
#[derive(Clone, Copy, Debug)]
pub struct Cx5;

impl Model for Cx5 {
    fn device_id(&self) -> u16 {
        0x1017
    }

    fn firmware(&self) -> (u16, u16, u16) {
        (16, 35, 4030)
    }

    fn psid(&self) -> &'static str {
        "NGP0000000005"
    }

    fn rates(&self) -> &'static [Rate] {
        UP_TO_100G
    }

    fn eeprom(&self) -> &'static [u8; EEPROM_SIZE] {
        &QSFP28
    }

    fn capabilities(&self, kind: CapabilityType) -> Vec<Capability> {
        let capabilities = match kind {
            CapabilityType::General => GENERAL,
            CapabilityType::EthernetOffloads => ETHERNET_OFFLOADS,
            CapabilityType::FlowTable => FLOW_TABLE,
            CapabilityType::Shampo | CapabilityType::General2 => &[],
        };
        capabilities.to_vec()
    }
}

/// `struct mlx5_ifc_cmd_hca_cap_bits`.
const GENERAL: &[Capability] = &[
    // page_request_disable: the device keeps its state in its own memory.
    (0x00, 25, 25, 1),
    // log_max_qp_sz, log_max_qp
    (0x10, 23, 16, 15),
    (0x10, 4, 0, 18),
    // log_max_cq_sz, log_max_cq
    (0x18, 23, 16, 22),
    (0x18, 4, 0, 16),
    // log_max_eq_sz, log_max_mkey, log_max_eq
    (0x1c, 31, 24, 16),
    (0x1c, 21, 16, 20),
    (0x1c, 3, 0, 7),
    // fast_teardown, force_teardown
    (0x1c, 4, 4, 1),
    (0x20, 15, 15, 1),
    // eth_wqe_too_small, a counter
    (0x24, 13, 13, 1),
    // vport_group_manager, nic_flow_table
    (0x34, 31, 31, 1),
    (0x34, 25, 25, 1),
    // mcam_reg, pcam_reg, port_module_event, beacon_led
    (0x34, 22, 21, 3),
    (0x34, 15, 15, 1),
    (0x34, 10, 10, 1),
    // port_type (1 = Ethernet), num_ports
    (0x34, 9, 8, 1),
    (0x34, 7, 0, 1),
    // striding_rq, of 512 strides an entry at least: the driver takes cyclic queues until it is told not to; eth_net_offloads
    (0x40, 30, 30, 1),
    (0x40, 3, 3, 1),
    // cq_oi, cq_resize, cq_moderation, cq_period_mode_modify
    (0x44, 31, 31, 1),
    (0x44, 30, 30, 1),
    (0x44, 29, 29, 1),
    (0x44, 28, 28, 1),
    // umr_ptr_rlky
    (0x44, 15, 15, 1),
    // cq_period_start_from_cqe
    (0x44, 20, 20, 1),
    // log_pg_sz
    (0x48, 7, 0, 12),
    // log_bf_reg_size
    (0x4c, 20, 16, crate::bits::iseg::LOG_BF_REG_SIZE),
    // max_wqe_sz_sq
    (0x50, 15, 0, 1024),
    // tis_tir_td_order, max_wqe_sz_rq
    (0x54, 22, 22, 1),
    (0x54, 15, 0, 512),
    // log_max_transport_domain, log_max_pd
    (0x64, 28, 24, 16),
    (0x64, 20, 16, 16),
    // vport_counter_local_loopback, nic_receive_steering_discard: counters
    (0x64, 7, 7, 1),
    (0x68, 31, 31, 1),
    // log_max_rq, log_max_sq, log_max_tir, log_max_tis
    (0x6c, 28, 24, 14),
    (0x6c, 20, 16, 14),
    (0x6c, 12, 8, 14),
    (0x6c, 4, 0, 8),
    // log_max_rqt, log_max_rqt_size, log_max_tis_per_sq
    (0x70, 20, 16, 14),
    (0x70, 12, 8, 8),
    (0x70, 4, 0, 1),
    // log_max_stride_sz_rq, log_min_stride_sz_rq, the same of sq
    (0x74, 28, 24, 13),
    (0x74, 20, 16, 4),
    (0x74, 12, 8, 13),
    (0x74, 4, 0, 4),
    // log_max_wq_sz
    (0x78, 4, 0, 15),
    // log_max_vlan_list, log_max_current_mc_list, log_max_current_uc_list
    (0x7c, 20, 16, 12),
    (0x7c, 12, 8, 13),
    (0x7c, 4, 0, 7),
    // device_frequency_mhz, device_frequency_khz; time stamps are what the clock shows (sq_ts_format, rq_ts_format are zero)
    (0x98, 31, 0, crate::clock::FREQUENCY_KHZ / 1000),
    (0x9c, 31, 0, crate::clock::FREQUENCY_KHZ),
    // native_port_num
    (0xc0, 23, 16, 1),
];

/// `struct mlx5_ifc_per_protocol_networking_offload_caps_bits`.
const ETHERNET_OFFLOADS: &[Capability] = &[
    // csum_cap, vlan_cap
    (0x00, 31, 31, 1),
    (0x00, 30, 30, 1),
    // lro_cap, lro_psh_flag, lro_time_stamp
    (0x00, 29, 29, 1),
    (0x00, 28, 28, 1),
    (0x00, 27, 27, 1),
    // self_lb_en_modifiable
    (0x00, 23, 23, 1),
    // max_lso_cap
    (0x00, 20, 16, 16),
    // wqe_inline_mode (2 = no inline headers required)
    (0x00, 13, 12, 2),
    // rss_ind_tbl_cap, reg_umr_sq, scatter_fcs
    (0x00, 11, 8, 8),
    (0x00, 7, 7, 1),
    (0x00, 6, 6, 1),
    // tunnel_stateless_gre, tunnel_stateless_vxlan
    (0x00, 1, 1, 1),
    (0x00, 0, 0, 1),
    // cqe_checksum_full, tunnel_stateless_ip_over_ip
    (0x04, 28, 28, 1),
    (0x04, 22, 22, 1),
    // max_vxlan_udp_ports
    (0x04, 15, 8, crate::obj::port::MAX_VXLAN_PORTS as u32),
    // lro_timer_supported_periods, in microseconds. The driver takes the shortest that is at least 32, in which an emulated machine
    // hardly sends two packets.
    (0x30, 31, 0, 1024),
    (0x34, 31, 0, 2048),
    (0x38, 31, 0, 4096),
    (0x3c, 31, 0, 8192),
];

/// `struct mlx5_ifc_flow_table_nic_cap_bits`: the receive properties, which start at 0x40.
const FLOW_TABLE: &[Capability] = &[
    // ft_support, flow_modify_en, modify_root, identified_miss_table_mode, flow_table_modify
    (0x40, 31, 31, 1),
    (0x40, 28, 28, 1),
    (0x40, 27, 27, 1),
    (0x40, 26, 26, 1),
    (0x40, 25, 25, 1),
    // log_max_ft_size, max_ft_level
    (0x44, 29, 24, 24),
    (0x44, 7, 0, 64),
    // log_max_ft_num, log_max_destination (one a rule), log_max_flow
    (0x4c, 7, 0, 8),
    (0x50, 7, 0, 0),
    (0x54, 7, 0, 16),
    // ft_field_support: dmac, smac, ether_type, ip_version, first_vid
    (0x60, 31, 31, 1),
    (0x60, 30, 30, 1),
    (0x60, 29, 29, 1),
    (0x60, 28, 28, 1),
    (0x60, 25, 25, 1),
    // source and destination address, ip_protocol, UDP and TCP ports
    (0x60, 19, 19, 1),
    (0x60, 18, 18, 1),
    (0x60, 16, 16, 1),
    (0x60, 13, 12, 3),
    (0x60, 11, 10, 3),
];
