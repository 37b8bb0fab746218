// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's plugin interface, version 7, as far as it is used here: `include/plugins/qemu-plugin.h` of QEMU 11.1. QEMU
//! resolves the functions when it loads the plugin.

use std::ffi::{c_int, c_uint, c_void};

/// Asked for by QEMU before it calls `qemu_plugin_install`.
pub(crate) const VERSION: c_int = 7;

/// `QEMU_PLUGIN_CB_NO_REGS`: the callback reads no registers.
pub(crate) const CB_NO_REGS: c_int = 0;
/// `QEMU_PLUGIN_MEM_W`.
pub(crate) const MEM_W: c_int = 2;
/// `QEMU_PLUGIN_MEM_RW`.
pub(crate) const MEM_RW: c_int = 3;
/// `QEMU_PLUGIN_INLINE_ADD_U64`.
pub(crate) const INLINE_ADD_U64: c_int = 0;
/// `QEMU_PLUGIN_MEM_VALUE_U64`.
pub(crate) const MEM_VALUE_U64: c_int = 3;

/// `struct qemu_plugin_tb`: a block that is being translated.
#[repr(C)]
pub(crate) struct Block {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_insn`.
#[repr(C)]
pub(crate) struct Instruction {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_hwaddr`.
#[repr(C)]
pub(crate) struct HardwareAddress {
    _opaque: [u8; 0],
}

/// `struct qemu_plugin_scoreboard`: an element for each virtual CPU.
#[repr(C)]
pub(crate) struct Scoreboard {
    _opaque: [u8; 0],
}

/// `qemu_plugin_u64`: a counter in the elements of a scoreboard.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Counter {
    pub(crate) score: *mut Scoreboard,
    pub(crate) offset: usize,
}

// SAFETY: A scoreboard is QEMU's, which lets every thread of a virtual CPU use it, and none is ever freed here.
unsafe impl Send for Counter {}
// SAFETY: As for `Send`.
unsafe impl Sync for Counter {}

/// `qemu_plugin_mem_value`, of whose union the first eight bytes are what is used here.
#[repr(C)]
pub(crate) struct MemoryValue {
    pub(crate) kind: c_int,
    pub(crate) low: u64,
    _high: u64,
}

/// `GByteArray` of GLib, as far as it is public.
#[repr(C)]
pub(crate) struct ByteArray {
    pub(crate) data: *mut u8,
    pub(crate) len: c_uint,
}

/// `qemu_plugin_vcpu_tb_trans_cb_t`.
pub(crate) type TranslateCallback = unsafe extern "C" fn(*mut Block, *mut c_void);
/// `qemu_plugin_vcpu_mem_cb_t`: virtual CPU, kind of access, virtual address, user data.
pub(crate) type MemoryCallback = unsafe extern "C" fn(c_uint, u32, u64, *mut c_void);

unsafe extern "C" {
    pub(crate) fn qemu_plugin_register_vcpu_tb_trans_cb(
        id: u64,
        callback: TranslateCallback,
        data: *mut c_void,
    );
    pub(crate) fn qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
        block: *mut Block,
        op: c_int,
        entry: Counter,
        operand: u64,
    );
    pub(crate) fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Instruction,
        callback: MemoryCallback,
        flags: c_int,
        accesses: c_int,
        data: *mut c_void,
    );
    pub(crate) fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub(crate) fn qemu_plugin_tb_vaddr(block: *const Block) -> u64;
    pub(crate) fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub(crate) fn qemu_plugin_insn_size(instruction: *const Instruction) -> usize;
    pub(crate) fn qemu_plugin_insn_data(
        instruction: *const Instruction,
        destination: *mut c_void,
        len: usize,
    ) -> usize;
    pub(crate) fn qemu_plugin_mem_size_shift(info: u32) -> c_uint;
    pub(crate) fn qemu_plugin_mem_is_store(info: u32) -> bool;
    pub(crate) fn qemu_plugin_mem_get_value(info: u32) -> MemoryValue;
    pub(crate) fn qemu_plugin_get_hwaddr(info: u32, address: u64) -> *mut HardwareAddress;
    pub(crate) fn qemu_plugin_hwaddr_phys_addr(address: *const HardwareAddress) -> u64;
    pub(crate) fn qemu_plugin_write_memory_vaddr(address: u64, data: *mut ByteArray) -> bool;
    pub(crate) fn qemu_plugin_scoreboard_new(element: usize) -> *mut Scoreboard;
    pub(crate) fn qemu_plugin_u64_get(entry: Counter, vcpu: c_uint) -> u64;
    pub(crate) fn qemu_plugin_u64_add(entry: Counter, vcpu: c_uint, added: u64);
    pub(crate) fn qemu_plugin_num_vcpus() -> c_int;
}
