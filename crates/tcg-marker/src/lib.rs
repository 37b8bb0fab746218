// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a program in an emulated guest talks to `tcg-plugin`.
//!
//! A *marker* is one store instruction of a fixed encoding, [`MARKER`], of a word into a [`Mailbox`]. The plugin
//! recognises the instruction when QEMU translates it, takes the word as a command, and answers in the mailbox's other
//! words. Without the plugin it is a store like any other, and the answer never comes.

use std::cell::UnsafeCell;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// `mov [rdi + 0x4e475055], rsi`. Compilers have no use for such a displacement.
pub const MARKER: [u8; 7] = [0x48, 0x89, 0xb7, 0x55, 0x50, 0x47, 0x4e];
/// The displacement in [`MARKER`].
const DISPLACEMENT: usize = 0x4e47_5055;

/// First word of an answer: "tcgplug" and the version of the protocol.
pub const MAGIC: u64 = u64::from_be_bytes(*b"tcgplug\x01");

/// Bytes of a page of guest memory.
pub const PAGE: u64 = 4096;

/// Command: counts begin at zero.
pub const START: u64 = 1;
/// Command: the answer is what was counted since [`START`].
pub const STOP: u64 = 2;
/// Command, together with the physical address of a page: count the accesses to this page, too.
pub const WATCH: u64 = 3;
/// Command: watch no page that [`WATCH`] named.
pub const FORGET: u64 = 4;

/// Words of an answer: [`MAGIC`], then the fields of [`Counts`] in their order.
pub const ANSWER_WORDS: usize = 7;

/// What was counted between two markers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions in user mode on the CPU that executed the marker.
    pub user: u64,
    /// Instructions in the kernel on that CPU.
    pub kernel: u64,
    /// Instructions of all CPUs, either mode.
    pub all: u64,
    /// Bytes that any CPU loaded from watched memory; always zero if the plugin counts no accesses.
    pub loaded: u64,
    /// Bytes that any CPU stored to watched memory; as `loaded`.
    pub stored: u64,
    /// One if the plugin counts accesses, else zero.
    pub accesses: u64,
}

impl Counts {
    /// The fields as an answer.
    pub fn to_words(self) -> [u64; ANSWER_WORDS] {
        [
            MAGIC,
            self.user,
            self.kernel,
            self.all,
            self.loaded,
            self.stored,
            self.accesses,
        ]
    }

    /// The fields of an answer; [`None`] if it is none.
    pub fn from_words(words: [u64; ANSWER_WORDS]) -> Option<Self> {
        let [MAGIC, user, kernel, all, loaded, stored, accesses] = words else {
            return None;
        };
        Some(Self {
            user,
            kernel,
            all,
            loaded,
            stored,
            accesses,
        })
    }
}

/// Where markers are stored to: the command, then the answer.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Mailbox {
    words: UnsafeCell<[u64; 1 + ANSWER_WORDS]>,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins to count.
    pub fn start(&mut self) {
        self.mark(START);
    }

    /// What was counted since [`Mailbox::start`]; [`None`] if no plugin is there to count.
    pub fn stop(&mut self) -> Option<Counts> {
        *self.words.get_mut() = [0; 1 + ANSWER_WORDS];
        let [_, answer @ ..] = self.mark(STOP);
        Counts::from_words(answer)
    }

    /// Counts the accesses to the pages under `memory`, too. They must be there, and stay where they are: pinned.
    ///
    /// # Errors
    ///
    /// Without the right to read /proc/self/pagemap (CAP_SYS_ADMIN), or if a page is not there.
    pub fn watch(&mut self, memory: &[u8]) -> io::Result<()> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        let pagemap = File::open("/proc/self/pagemap")?;
        let start = memory.as_ptr().addr() as u64;
        for page in start / PAGE..(start + memory.len() as u64).div_ceil(PAGE) {
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, page * 8)?;
            let entry = u64::from_ne_bytes(entry);
            if entry & PRESENT == 0 || entry & FRAME == 0 {
                return Err(io::Error::other(
                    "a page to watch has no known physical address: touch it first, and be root",
                ));
            }
            self.mark(((entry & FRAME) * PAGE) | WATCH);
        }
        Ok(())
    }

    /// Counts the accesses to the pages at the physical addresses `memory`, too.
    pub fn watch_physical(&mut self, memory: Range<u64>) {
        for page in memory.start / PAGE..memory.end.div_ceil(PAGE) {
            self.mark((page * PAGE) | WATCH);
        }
    }

    /// Counts the accesses to the memory that /proc/iomem calls `name`, too.
    ///
    /// # Errors
    ///
    /// When there is none of that name, or without the right to know where it is (CAP_SYS_ADMIN).
    pub fn watch_device(&mut self, name: &str) -> io::Result<()> {
        let memory = ranges(&fs::read_to_string("/proc/iomem")?, name);
        // Who may not know the addresses sees zeros.
        if memory.is_empty() || memory.iter().any(|range| range.start == 0) {
            return Err(io::Error::other(format!(
                "/proc/iomem has no memory of the name {name}, or does not say where it is"
            )));
        }
        for range in memory {
            self.watch_physical(range);
        }
        Ok(())
    }

    /// Watches no page any longer.
    pub fn forget(&mut self) {
        self.mark(FORGET);
    }

    /// Executes the marker; returns the mailbox as it is afterwards.
    fn mark(&mut self, command: u64) -> [u64; 1 + ANSWER_WORDS] {
        let words = self.words.get();
        // SAFETY: The instruction stores to the first of the words, whose address is `rdi` plus the displacement, and the
        // plugin to all of them, to which `self` is the only reference.
        unsafe {
            std::arch::asm!(
                // Spelled out, so that it is this encoding.
                ".byte 0x48, 0x89, 0xb7, 0x55, 0x50, 0x47, 0x4e",
                in("rdi") words.wrapping_byte_sub(DISPLACEMENT),
                in("rsi") command,
                options(nostack, preserves_flags)
            );
            words.read_volatile()
        }
    }
}

/// The addresses that `iomem` has by the name `name`.
fn ranges(iomem: &str, name: &str) -> Vec<Range<u64>> {
    iomem
        .lines()
        .filter_map(|line| {
            let (addresses, found) = line.split_once(" : ")?;
            let (first, last) = addresses.trim().split_once('-')?;
            let number = |text| u64::from_str_radix(text, 16).ok();
            let range = number(first)?..number(last)?.checked_add(1)?;
            (found == name).then_some(range)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_as_they_went() {
        let counts = Counts {
            user: 1,
            kernel: 2,
            all: 3,
            loaded: 4,
            stored: 5,
            accesses: 1,
        };
        assert_eq!(Counts::from_words(counts.to_words()), Some(counts));
        assert_eq!(Counts::from_words([0; ANSWER_WORDS]), None);
    }

    #[test]
    fn without_a_plugin_a_marker_is_a_store() {
        let mut mailbox = Mailbox::new();
        mailbox.start();
        assert_eq!(mailbox.mark(FORGET), [FORGET, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(mailbox.stop(), None);
    }

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "it is one range")]
    fn memory_is_found_by_its_whole_name() {
        let iomem = "\
00000000-00000fff : Reserved
380000000000-3807ffffffff : PCI Bus 0000:00
  380000000000-38000fffffff : 0000:00:05.0
    380000000000-38000fffffff : gpu
  380010000000-38001fffffff : 0000:00:06.0
    380010000000-38001fffffff : gpu copies
";
        assert_eq!(ranges(iomem, "gpu"), [0x3800_0000_0000..0x3800_1000_0000]);
        assert_eq!(ranges(iomem, "pu"), []);
    }
}
