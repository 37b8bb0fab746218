// SPDX-License-Identifier: MIT OR Apache-2.0
//! BAR 0: the initialisation segment (`struct mlx5_init_seg`) and the UAR pages.

/// Firmware revision, minor above major.
pub const FW_REV: u64 = 0x000;
/// Command interface revision above firmware sub-revision.
pub const CMDIF_REV: u64 = 0x004;
/// The command interface revision that Linux demands.
pub const CMDIF_REV_5: u32 = 5;
/// High half of the command queue address.
pub const CMDQ_ADDR_HIGH: u64 = 0x010;
/// Low half of the command queue address, `nic_interface`, queue size and stride.
pub const CMDQ_ADDR_LOW: u64 = 0x014;
/// Command doorbell: one bit an entry.
pub const CMD_DOORBELL: u64 = 0x018;
/// Health buffer: firmware version.
pub const HEALTH_FW_VER: u64 = 0x230;
/// Health buffer: hardware id.
pub const HEALTH_HW_ID: u64 = 0x234;
/// Health buffer: `rfr_severity` in its highest byte.
pub const HEALTH_SEVERITY: u64 = 0x238;
/// In it: the firmware asks to be reset (`MLX5_RFR_BIT_OFFSET`).
pub const RESET_REQUESTED: u32 = 1 << 31;
/// Health buffer: `irisc_index`, syndrome, and its extension.
pub const HEALTH_SYNDROME: u64 = 0x23c;
/// `initializing`: ready when its highest bit is clear.
pub const INITIALIZING: u64 = 0x1fc;
/// In it: the driver can reset the firmware (`MLX5_FW_RESET_SUPPORTED_OFFSET`).
pub const FIRMWARE_RESET: u32 = 1 << 30;
/// `nic_interface`: no driver (`MLX5_INITIAL_SEG_NIC_INTERFACE_DISABLED`).
pub const NIC_DISABLED: u32 = 1;
/// `nic_interface`: the driver asks for a reset of the firmware (`MLX5_INITIAL_SEG_NIC_INTERFACE_SW_RESET`).
pub const NIC_RESET: u32 = 7;
/// High half of the free-running timer.
pub const TIMER_HIGH: u64 = 0x1000;
/// Low half of the free-running timer.
pub const TIMER_LOW: u64 = 0x1004;
/// A counter that changes as long as the device is well.
pub const HEALTH_COUNTER: u64 = 0x1010;

/// Entries of the command queue, as a power of two.
pub const LOG_CMDQ_SIZE: u32 = 5;
/// Distance of two entries of the command queue, as a power of two.
pub const LOG_CMDQ_STRIDE: u32 = 6;

/// One UAR page; with capability `uar_4k` zero also the host's page.
pub const UAR_SIZE: u64 = 4096;
/// The first UAR page that may be handed out: pages 0 to 2 hold the init segment.
pub const FIRST_UAR: u32 = 0x10;
/// UAR register: arm a completion queue.
pub const UAR_CQ_ARM: u64 = 0x20;
/// UAR register: update the consumer index of an event queue and arm it.
pub const UAR_EQ_ARM: u64 = 0x40;
/// UAR register: update the consumer index of an event queue.
pub const UAR_EQ_UPDATE: u64 = 0x48;
/// UAR: the send doorbells fill the page from here on.
pub const UAR_SEND: u64 = 0x800;
/// Distance of two send doorbells, as a power of two (capability `log_bf_reg_size`).
pub const LOG_BF_REG_SIZE: u32 = 9;

/// What the low bits of a command queue address register hold besides the address.
pub const fn cmdq_low(address: u32, nic_interface: u32) -> u32 {
    (address & !0xfff) | (nic_interface & 7) << 8 | LOG_CMDQ_SIZE << 4 | LOG_CMDQ_STRIDE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_geometry_is_what_the_driver_accepts() {
        const { assert!(LOG_CMDQ_SIZE <= 5 && LOG_CMDQ_SIZE + LOG_CMDQ_STRIDE <= 12) };
        assert_eq!(cmdq_low(0x1234_5fff, 7), 0x1234_5756);
        assert_eq!(cmdq_low(0, 0) >> 4 & 0xf, 5);
    }
}
