// SPDX-License-Identifier: MIT OR Apache-2.0
//! What QEMU calls.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use tcg_marker::{Counts, FORGET, MARKER, PAGE, START, STOP, WATCH};

use crate::arguments::Arguments;
use crate::blocks::Blocks;
use crate::qemu::{self, Block, ByteArray, Counter};
use crate::watched::Watched;

/// Version of the interface that this plugin is written for.
#[unsafe(no_mangle)]
pub static qemu_plugin_version: c_int = qemu::VERSION;

/// An element of the scoreboard: what one virtual CPU has done since it was made.
#[repr(C)]
struct Element {
    user: u64,
    kernel: u64,
    loaded: u64,
    stored: u64,
}

/// Where the counters lie in an [`Element`].
struct Counters {
    user: Counter,
    kernel: Counter,
    loaded: Counter,
    stored: Counter,
}

impl Counters {
    fn new() -> Self {
        // SAFETY: Any size will do.
        let score = unsafe { qemu::qemu_plugin_scoreboard_new(size_of::<Element>()) };
        let at = |offset| Counter { score, offset };
        Self {
            user: at(std::mem::offset_of!(Element, user)),
            kernel: at(std::mem::offset_of!(Element, kernel)),
            loaded: at(std::mem::offset_of!(Element, loaded)),
            stored: at(std::mem::offset_of!(Element, stored)),
        }
    }

    /// What each virtual CPU has counted up to now.
    fn read(&self) -> Vec<Counts> {
        // SAFETY: It asks for nothing.
        let vcpus = 0..unsafe { qemu::qemu_plugin_num_vcpus() }.cast_unsigned();
        vcpus
            .map(|vcpu| {
                // SAFETY: The counters lie in elements of the scoreboard, of which each virtual CPU has one.
                let get = |counter| unsafe { qemu::qemu_plugin_u64_get(counter, vcpu) };
                Counts {
                    user: get(self.user),
                    kernel: get(self.kernel),
                    loaded: get(self.loaded),
                    stored: get(self.stored),
                    ..Counts::default()
                }
            })
            .collect()
    }
}

struct Plugin {
    accesses: bool,
    watched: Watched,
    blocks: Option<Blocks>,
    counters: Counters,
    /// Between the markers.
    counting: AtomicBool,
    /// What each virtual CPU had counted at the marker for the start.
    starts: Mutex<Vec<Counts>>,
}

static PLUGIN: OnceLock<Plugin> = OnceLock::new();

/// Called once, before the guest runs.
///
/// # Safety
///
/// `argv` are `argc` strings that live as long as the plugin, which QEMU grants.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let arguments = (0..usize::try_from(argc).unwrap_or(0)).map(|index| {
        // SAFETY: By the contract of this function.
        let argument = unsafe { CStr::from_ptr(*argv.add(index)) };
        argument.to_str().unwrap_or("(not UTF-8)")
    });
    let arguments = match Arguments::parse(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("tcg-plugin: {error}");
            return -1;
        }
    };
    let blocks = match arguments.blocks.as_deref().map(Blocks::new).transpose() {
        Ok(blocks) => blocks,
        Err(error) => {
            eprintln!("tcg-plugin: cannot write the file that blocks= names: {error}");
            return -1;
        }
    };
    let plugin = Plugin {
        accesses: arguments.accesses,
        watched: Watched::new(arguments.ranges),
        blocks,
        counters: Counters::new(),
        counting: AtomicBool::new(false),
        starts: Mutex::default(),
    };
    if PLUGIN.set(plugin).is_err() {
        eprintln!("tcg-plugin: it is loaded already; load it once");
        return -1;
    }
    // SAFETY: The callback has the type that QEMU calls, and needs no data.
    unsafe { qemu::qemu_plugin_register_vcpu_tb_trans_cb(id, translate, ptr::null_mut()) };
    0
}

/// Instruments a block.
unsafe extern "C" fn translate(block: *mut Block, _data: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    // SAFETY: QEMU hands in a block that is valid during this call, as are its instructions; the counters are those of our
    // scoreboard, which is never freed; the callbacks have the types that QEMU calls.
    unsafe {
        let instructions = qemu::qemu_plugin_tb_n_insns(block);
        // In the upper half of the address space there is only the kernel.
        let counter = if qemu::qemu_plugin_tb_vaddr(block) >> 63 == 0 {
            plugin.counters.user
        } else {
            plugin.counters.kernel
        };
        qemu::qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
            block,
            qemu::INLINE_ADD_U64,
            counter,
            instructions as u64,
        );
        if let Some(blocks) = &plugin.blocks {
            blocks.count(block);
        }
        for index in 0..instructions {
            let instruction = qemu::qemu_plugin_tb_get_insn(block, index);
            let mut bytes = [0; MARKER.len()];
            let is_marker = qemu::qemu_plugin_insn_size(instruction) == MARKER.len()
                && qemu::qemu_plugin_insn_data(instruction, bytes.as_mut_ptr().cast(), bytes.len())
                    == MARKER.len()
                && bytes == MARKER;
            let (callback, accesses): (qemu::MemoryCallback, _) = if is_marker {
                (marker, qemu::MEM_W)
            } else if plugin.accesses {
                (access, qemu::MEM_RW)
            } else {
                continue;
            };
            qemu::qemu_plugin_register_vcpu_mem_cb(
                instruction,
                callback,
                qemu::CB_NO_REGS,
                accesses,
                ptr::null_mut(),
            );
        }
    }
}

/// The guest has loaded or stored something.
unsafe extern "C" fn access(vcpu: c_uint, info: u32, address: u64, _data: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    if !plugin.counting.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: We are in a callback for the access that `info` and `address` tell of.
    unsafe {
        let hardware = qemu::qemu_plugin_get_hwaddr(info, address);
        if hardware.is_null()
            || !plugin
                .watched
                .contains(qemu::qemu_plugin_hwaddr_phys_addr(hardware))
        {
            return;
        }
        let counter = if qemu::qemu_plugin_mem_is_store(info) {
            plugin.counters.stored
        } else {
            plugin.counters.loaded
        };
        qemu::qemu_plugin_u64_add(counter, vcpu, 1 << qemu::qemu_plugin_mem_size_shift(info));
    }
}

/// The guest has set a marker: its store is done.
unsafe extern "C" fn marker(vcpu: c_uint, info: u32, address: u64, _data: *mut c_void) {
    let Some(plugin) = PLUGIN.get() else { return };
    // SAFETY: We are in a callback for the access that `info` tells of.
    let value = unsafe { qemu::qemu_plugin_mem_get_value(info) };
    if value.kind != qemu::MEM_VALUE_U64 {
        return;
    }
    let mut starts = plugin.starts.lock().unwrap_or_else(PoisonError::into_inner);
    match value.low % PAGE {
        START => {
            *starts = plugin.counters.read();
            if let Some(blocks) = &plugin.blocks {
                blocks.start();
            }
            plugin.counting.store(true, Ordering::Relaxed);
        }
        STOP => {
            plugin.counting.store(false, Ordering::Relaxed);
            let counts = since(&starts, &plugin.counters.read(), vcpu as usize);
            if let Some(Err(error)) = plugin
                .blocks
                .as_ref()
                .map(|blocks| blocks.stop(vcpu as usize))
            {
                eprintln!("tcg-plugin: cannot write how often blocks ran: {error}");
            }
            let counts = Counts {
                accesses: plugin.accesses.into(),
                ..counts
            };
            let mut answer = counts.to_words().map(u64::to_le_bytes);
            let mut answer = ByteArray {
                data: answer.as_mut_ptr().cast(),
                len: size_of_val(&answer) as c_uint,
            };
            // SAFETY: `answer` is as many bytes as it says, of which QEMU only reads.
            unsafe { qemu::qemu_plugin_write_memory_vaddr(address + 8, &raw mut answer) };
        }
        WATCH => plugin.watched.watch(value.low),
        FORGET => plugin.watched.forget(),
        _ => {}
    }
}

/// What was counted between two readings, seen from one virtual CPU.
fn since(starts: &[Counts], ends: &[Counts], vcpu: usize) -> Counts {
    let mut counts = Counts::default();
    for (number, (start, end)) in starts.iter().zip(ends).enumerate() {
        let (user, kernel) = (end.user - start.user, end.kernel - start.kernel);
        if number == vcpu {
            (counts.user, counts.kernel) = (user, kernel);
        }
        counts.all += user + kernel;
        counts.loaded += end.loaded - start.loaded;
        counts.stored += end.stored - start.stored;
    }
    counts
}
