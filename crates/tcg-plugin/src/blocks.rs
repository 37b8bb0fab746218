// SPDX-License-Identifier: MIT OR Apache-2.0
//! How often each block of the guest's code runs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::qemu::{self, Block, Counter};

/// A block, however often QEMU translates it: its address, and how many instructions it has.
type Key = (u64, usize);

/// The blocks that were translated.
pub(crate) struct Blocks {
    file: Mutex<File>,
    /// The instructions that each virtual CPU ran in a block, and how many those were when counting began.
    blocks: Mutex<HashMap<Key, (Counter, Vec<u64>)>>,
}

impl Blocks {
    /// To be written to a new file.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: Mutex::new(File::create(path)?),
            blocks: Mutex::default(),
        })
    }

    /// Counts a block.
    ///
    /// # Safety
    ///
    /// `block` is being translated.
    pub(crate) unsafe fn count(&self, block: *mut Block) {
        // SAFETY: By this function's requirements.
        let key = unsafe {
            (
                qemu::qemu_plugin_tb_vaddr(block),
                qemu::qemu_plugin_tb_n_insns(block),
            )
        };
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let (counter, _) = blocks.entry(key).or_insert_with(|| {
            // SAFETY: Any size will do.
            let score = unsafe { qemu::qemu_plugin_scoreboard_new(size_of::<u64>()) };
            (Counter { score, offset: 0 }, Vec::new())
        });
        // SAFETY: By this function's requirements; the counter is that of a scoreboard that is never freed.
        unsafe {
            qemu::qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
                block,
                qemu::INLINE_ADD_U64,
                *counter,
                key.1 as u64,
            );
        }
    }

    /// Counting begins.
    pub(crate) fn start(&self) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        for (counter, starts) in blocks.values_mut() {
            *starts = read(*counter);
        }
    }

    /// Counting is over: writes what the virtual CPU ran since.
    pub(crate) fn stop(&self, vcpu: usize) -> io::Result<()> {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = BufWriter::new(&*file);
        writeln!(file, "stop")?;
        for ((address, _), (counter, starts)) in &*blocks {
            // A block that was not there at the start had run for no instruction.
            let start = starts.get(vcpu).copied().unwrap_or(0);
            let instructions = read(*counter).get(vcpu).copied().unwrap_or(0) - start;
            if instructions > 0 {
                writeln!(file, "{address:x} {instructions}")?;
            }
        }
        file.flush()
    }
}

/// What each virtual CPU has counted up to now.
pub(crate) fn read(counter: Counter) -> Vec<u64> {
    // SAFETY: It asks for nothing.
    let vcpus = 0..unsafe { qemu::qemu_plugin_num_vcpus() }.cast_unsigned();
    vcpus
        // SAFETY: Every counter lies in elements of a scoreboard, of which each virtual CPU has one.
        .map(|vcpu| unsafe { qemu::qemu_plugin_u64_get(counter, vcpu) })
        .collect()
}
