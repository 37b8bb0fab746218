// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QEMU plugin that counts, between two markers that a program in the guest sets, the guest's instructions and the
//! bytes that its CPUs load from and store to chosen physical memory.
//!
//! Arguments, after `-plugin file=…/libtcg_plugin.so`:
//!
//! - `accesses=on`: count accesses, which makes the guest several times slower; without it only instructions.
//! - `range=START:LENGTH`: watch this physical range, for example a BAR; in hexadecimal; may be repeated. A program
//!   can name pages, too, see the crate `tcg-marker`.
//! - `blocks=FILE`: append to this file, whenever counting stops, a line `stop`, then for each block that the counted CPU
//!   ran since the start its address in hexadecimal and the instructions that it ran there.
//!
//! Instructions are counted by blocks: one that an exception ends early counts in full, and each turn of a `rep` that
//! QEMU makes a block of its own counts once. An interrupt comes between two blocks.

mod arguments;
// The plugin's own tests are not run by QEMU, which is who has these functions.
#[cfg(not(test))]
mod blocks;
#[cfg(not(test))]
mod plugin;
#[cfg(not(test))]
mod qemu;
mod watched;
