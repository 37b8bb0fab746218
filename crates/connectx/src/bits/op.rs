// SPDX-License-Identifier: MIT OR Apache-2.0
//! Command opcodes, statuses and the command queue entry.

/// Opcodes of the command interface (`mlx5_ifc.h`, `MLX5_CMD_OP_*`).
#[expect(missing_docs, reason = "the names are the driver's")]
pub mod opcode {
    pub const QUERY_HCA_CAP: u16 = 0x100;
    pub const QUERY_ADAPTER: u16 = 0x101;
    pub const INIT_HCA: u16 = 0x102;
    pub const TEARDOWN_HCA: u16 = 0x103;
    pub const ENABLE_HCA: u16 = 0x104;
    pub const DISABLE_HCA: u16 = 0x105;
    pub const QUERY_PAGES: u16 = 0x107;
    pub const MANAGE_PAGES: u16 = 0x108;
    pub const SET_HCA_CAP: u16 = 0x109;
    pub const QUERY_ISSI: u16 = 0x10a;
    pub const SET_ISSI: u16 = 0x10b;
    pub const CREATE_MKEY: u16 = 0x200;
    pub const DESTROY_MKEY: u16 = 0x202;
    pub const CREATE_EQ: u16 = 0x301;
    pub const DESTROY_EQ: u16 = 0x302;
    pub const CREATE_CQ: u16 = 0x400;
    pub const DESTROY_CQ: u16 = 0x401;
    pub const MODIFY_CQ: u16 = 0x403;
    pub const QUERY_VPORT_STATE: u16 = 0x750;
    pub const QUERY_NIC_VPORT_CONTEXT: u16 = 0x754;
    pub const MODIFY_NIC_VPORT_CONTEXT: u16 = 0x755;
    pub const QUERY_VNIC_ENV: u16 = 0x76f;
    pub const QUERY_VPORT_COUNTER: u16 = 0x770;
    pub const ALLOC_Q_COUNTER: u16 = 0x771;
    pub const DEALLOC_Q_COUNTER: u16 = 0x772;
    pub const QUERY_Q_COUNTER: u16 = 0x773;
    pub const ALLOC_PD: u16 = 0x800;
    pub const DEALLOC_PD: u16 = 0x801;
    pub const ALLOC_UAR: u16 = 0x802;
    pub const DEALLOC_UAR: u16 = 0x803;
    pub const ACCESS_REG: u16 = 0x805;
    pub const ALLOC_TRANSPORT_DOMAIN: u16 = 0x816;
    pub const DEALLOC_TRANSPORT_DOMAIN: u16 = 0x817;
    pub const CREATE_TIR: u16 = 0x900;
    pub const MODIFY_TIR: u16 = 0x901;
    pub const DESTROY_TIR: u16 = 0x902;
    pub const CREATE_SQ: u16 = 0x904;
    pub const MODIFY_SQ: u16 = 0x905;
    pub const DESTROY_SQ: u16 = 0x906;
    pub const QUERY_SQ: u16 = 0x907;
    pub const CREATE_RQ: u16 = 0x908;
    pub const MODIFY_RQ: u16 = 0x909;
    pub const DESTROY_RQ: u16 = 0x90a;
    pub const QUERY_RQ: u16 = 0x90b;
    pub const CREATE_TIS: u16 = 0x912;
    pub const DESTROY_TIS: u16 = 0x914;
    pub const CREATE_RQT: u16 = 0x916;
    pub const MODIFY_RQT: u16 = 0x917;
    pub const DESTROY_RQT: u16 = 0x918;
    pub const ADD_VXLAN_UDP_DPORT: u16 = 0x827;
    pub const DELETE_VXLAN_UDP_DPORT: u16 = 0x828;
    pub const SET_FLOW_TABLE_ROOT: u16 = 0x92f;
    pub const CREATE_FLOW_TABLE: u16 = 0x930;
    pub const DESTROY_FLOW_TABLE: u16 = 0x931;
    pub const CREATE_FLOW_GROUP: u16 = 0x933;
    pub const DESTROY_FLOW_GROUP: u16 = 0x934;
    pub const SET_FLOW_TABLE_ENTRY: u16 = 0x936;
    pub const DELETE_FLOW_TABLE_ENTRY: u16 = 0x938;
    pub const MODIFY_FLOW_TABLE: u16 = 0x93c;
}

/// Result of a command, byte 0 of its output (`cmd.c`, `MLX5_CMD_STAT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// The command has been executed.
    Ok = 0x00,
    /// The firmware is at a loss.
    InternalError = 0x01,
    /// There is no such command.
    BadOp = 0x02,
    /// A value in the command is out of range or not supported.
    BadParam = 0x03,
    /// An object that the command names does not exist.
    BadResource = 0x05,
    /// An object is still in use.
    Busy = 0x06,
    /// A limit of the device is reached.
    ExceedsLimit = 0x08,
    /// An object is not in the state that the command needs.
    BadResourceState = 0x09,
    /// The input is shorter than what it describes.
    BadInputLength = 0x50,
}

/// Why a command was not executed: the status for the driver, the reason for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the driver is told.
    pub status: Status,
    /// What a person is told.
    pub why: &'static str,
}

impl Refusal {
    /// A refusal with `status`, because of `why`.
    pub const fn new(status: Status, why: &'static str) -> Self {
        Self { status, why }
    }

    /// A value is out of range.
    pub const fn param(why: &'static str) -> Self {
        Self::new(Status::BadParam, why)
    }

    /// An object does not exist.
    pub const fn resource(why: &'static str) -> Self {
        Self::new(Status::BadResource, why)
    }
}

/// Command queue entry (`struct mlx5_cmd_layout`): offsets of its fields.
pub mod entry {
    /// Bytes in an entry.
    pub const SIZE: usize = 64;
    /// Transport type, one byte.
    pub const TYPE: usize = 0x00;
    /// The only transport type: PCI.
    pub const TYPE_PCI: u8 = 7;
    /// Input length in bytes, first 16 included.
    pub const IN_LEN: usize = 0x04;
    /// Address of the first input mailbox.
    pub const IN_PTR: usize = 0x08;
    /// First 16 bytes of input.
    pub const IN: usize = 0x10;
    /// First 16 bytes of output.
    pub const OUT: usize = 0x20;
    /// Address of the first output mailbox.
    pub const OUT_PTR: usize = 0x30;
    /// Output length in bytes, first 16 included.
    pub const OUT_LEN: usize = 0x38;
    /// The word with token, signature and, in its low byte, delivery status and ownership.
    pub const STATUS_WORD: usize = 0x3c;
    /// Bytes of input and of output in the entry itself.
    pub const INLINE: usize = 16;
}

/// Command mailbox (`struct mlx5_cmd_prot_block`): offsets of its fields.
pub mod mailbox {
    /// Bytes of data, at the start of a mailbox.
    pub const DATA: usize = 512;
    /// Address of the next mailbox of the chain.
    pub const NEXT: u64 = 0x230;
}

/// Delivery status in the entry (`MLX5_CMD_DELIVERY_STAT_*`): the command did not execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Delivery {
    /// Delivered.
    Ok = 0x0,
    /// An output mailbox cannot be reached.
    OutPointer = 0x4,
    /// An input mailbox cannot be reached.
    InPointer = 0x5,
    /// The input length is impossible.
    InLength = 0x7,
    /// The output length is impossible.
    OutLength = 0x8,
    /// The entry itself is malformed.
    Descriptor = 0x10,
}
