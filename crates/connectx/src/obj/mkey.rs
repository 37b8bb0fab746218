// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory keys: what memory a queue may reach, and under which addresses.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::bits::Fields;
use crate::bits::umr::{MTT, Umr};
use crate::mem::{Access, Fault, GuestMemory, Slice};

/// A memory key.
#[derive(Debug)]
pub struct Mkey {
    /// Protection domain of the queues that may use it.
    pub pd: u32,
    /// Low byte of the key.
    pub variant: u8,
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
    /// The driver may change it by UMR.
    pub umr: bool,
    /// The addresses under it.
    pub space: Space,
}

/// Addresses under a key.
#[derive(Debug)]
pub enum Space {
    /// Those of the bus, all of them.
    Bus,
    /// Pages of the bus.
    Pages(Pages),
}

/// Addresses that are translated page by page (access mode MTT).
///
/// UMR changes them while receive queues use others of them. Which of two values an entry has for a
/// packet that meets its change is the driver's affair: it posts a receive entry only after it has
/// seen the completion of the UMR, and the completion is written after the entry.
#[derive(Debug)]
pub struct Pages {
    free: AtomicBool,
    start: u64,
    length: u64,
    log_page: u32,
    /// Bus addresses, with flags in the bits below the page.
    table: Box<[AtomicU64]>,
}

/// Why memory under a key cannot be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// There is no such key, or it is not for this queue or access.
    #[error("memory key {0:#x} does not exist or does not allow this")]
    Key(u32),
    /// The key has no such address.
    #[error("memory key has no address {0:#x}")]
    Range(u64),
    /// The host's memory is not there.
    #[error(transparent)]
    Bus(#[from] Fault),
}

impl Pages {
    /// `length` bytes from address `start` on, in pages of 2^`log_page` bytes. A key that is `free`
    /// has no memory until a UMR says otherwise.
    pub fn new(free: bool, start: u64, length: u64, log_page: u32, table: Vec<u64>) -> Self {
        Self {
            free: AtomicBool::new(free),
            start,
            length,
            log_page,
            table: table.into_iter().map(AtomicU64::new).collect(),
        }
    }

    /// The bus address of `address`, and how many of the bytes from there on are in its page.
    fn translate(&self, address: u64) -> Option<(u64, u64)> {
        let offset = address.checked_sub(self.start)?;
        if offset >= self.length || self.free.load(Ordering::Relaxed) {
            return None;
        }
        let size = 1 << self.log_page;
        let entry = self
            .table
            .get(usize::try_from(offset >> self.log_page).ok()?)?;
        let inside = offset & (size - 1);
        let page = entry.load(Ordering::Relaxed) & !(size - 1);
        Some((page | inside, (size - inside).min(self.length - offset)))
    }

    /// Appends the pieces of `memory` that make up `length` bytes at `address`.
    fn slices<'m>(
        &self,
        memory: &'m GuestMemory,
        mut address: u64,
        mut length: usize,
        access: Access,
        pieces: &mut Vec<Slice<'m>>,
    ) -> Result<(), KeyFault> {
        while length > 0 {
            let (bus, there) = self.translate(address).ok_or(KeyFault::Range(address))?;
            let here = length.min(usize::try_from(there).unwrap_or(usize::MAX));
            memory.slices(bus, here, access, pieces)?;
            address = address.wrapping_add(here as u64);
            length -= here;
        }
        Ok(())
    }

    fn update(&self, umr: &Umr<'_>) -> bool {
        let entries = umr.translations.chunks_exact(MTT);
        let end = umr.first.saturating_add(entries.len());
        let Some(table) = self.table.get(umr.first..end) else {
            return false;
        };
        for (old, new) in table.iter().zip(entries) {
            old.store(Fields(new).u64(0), Ordering::Relaxed);
        }
        if let Some(free) = umr.free {
            self.free.store(free, Ordering::Relaxed);
        }
        true
    }
}

impl Mkey {
    /// Whether a queue of `pd` that presents a key with low byte `variant` has `access`.
    pub fn allows(&self, pd: u32, variant: u8, access: Access) -> bool {
        self.pd == pd
            && self.variant == variant
            && match access {
                Access::Read => self.read,
                Access::Write => self.write,
            }
    }

    /// Appends the pieces of `memory` that make up `length` bytes at `address` of this key.
    #[inline]
    pub fn slices<'m>(
        &self,
        memory: &'m GuestMemory,
        address: u64,
        length: usize,
        access: Access,
        pieces: &mut Vec<Slice<'m>>,
    ) -> Result<(), KeyFault> {
        match &self.space {
            Space::Bus => Ok(memory.slices(address, length, access, pieces)?),
            Space::Pages(pages) => pages.slices(memory, address, length, access, pieces),
        }
    }

    /// Changes translations as `umr`, from a queue of `pd`, says. Returns whether it may.
    pub fn update(&self, pd: u32, umr: &Umr<'_>) -> bool {
        match &self.space {
            Space::Pages(pages) if self.umr && self.pd == pd && self.variant == umr.key as u8 => {
                pages.update(umr)
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::umr::tests::umr;
    use crate::mem::tests::memory;

    /// Four pages of 2^`log_page` bytes, free.
    fn key(log_page: u32) -> Mkey {
        Mkey {
            pd: 5,
            variant: 7,
            read: true,
            write: true,
            umr: true,
            space: Space::Pages(Pages::new(
                true,
                0x1000,
                4 << log_page,
                log_page,
                vec![0; 4],
            )),
        }
    }

    fn lengths(key: &Mkey, address: u64, length: usize) -> Result<Vec<usize>, KeyFault> {
        let memory = memory(0x4_0000);
        let mut pieces = Vec::new();
        key.slices(&memory, address, length, Access::Write, &mut pieces)?;
        Ok(pieces.iter().map(|piece| piece.len()).collect())
    }

    #[test]
    fn a_key_has_no_memory_before_its_umr() {
        let key = key(12);
        assert_eq!(lengths(&key, 0x1000, 1), Err(KeyFault::Range(0x1000)));
        let entry = umr(0x1207, 0, &[0x5000, 0x3000, 0x4000, 0x9000]);
        assert!(key.update(5, &Umr::decode(&entry).unwrap()));
        assert_eq!(lengths(&key, 0x1000, 0x1000), Ok(vec![0x1000]));
    }

    #[test]
    fn addresses_are_translated_by_page() {
        let key = key(12);
        let entry = umr(0x1207, 0, &[0x5000, 0x3000, 0x4000, 0x9000]);
        assert!(key.update(5, &Umr::decode(&entry).unwrap()));
        let memory = memory(0x1_0000);
        memory.write(0x5fff, &[1]).unwrap();
        memory.write(0x3000, &[2; 0x2000]).unwrap();
        memory.write(0x9000, &[3]).unwrap();
        let mut pieces = Vec::new();
        key.slices(&memory, 0x1fff, 0x2002, Access::Read, &mut pieces)
            .unwrap();
        let ends: Vec<u8> = pieces
            .iter()
            .map(|piece| {
                let mut byte = [0];
                piece.read(&mut byte);
                byte[0]
            })
            .collect();
        assert_eq!(ends, [1, 2, 2, 3]);
    }

    #[test]
    fn pages_may_be_large() {
        let key = key(15);
        let entry = umr(0x1207, 2, &[0x1_8000, 0x2_0000]);
        assert!(key.update(5, &Umr::decode(&entry).unwrap()));
        let address = 0x1000 + 2 * 0x8000 + 0x7ff0;
        assert_eq!(lengths(&key, address, 0x20), Ok(vec![0x10, 0x10]));
        assert_eq!(
            lengths(&key, address, 0x1_0000),
            Err(KeyFault::Range(0x1000 + 4 * 0x8000)),
            "past the end"
        );
    }

    #[test]
    fn a_page_that_the_host_does_not_have() {
        let key = key(12);
        let entry = umr(0x1207, 0, &[0x10_0000, 0x3000]);
        assert!(key.update(5, &Umr::decode(&entry).unwrap()));
        assert_eq!(
            lengths(&key, 0x1000, 1),
            Err(KeyFault::Bus(Fault::Unmapped(0x10_0000)))
        );
    }

    #[test]
    fn an_update_needs_the_right_and_the_room() {
        let key = key(12);
        let entry = umr(0x1207, 2, &[0x5000, 0x3000]);
        let good = Umr::decode(&entry).unwrap();
        assert!(key.update(5, &good));
        assert!(!key.update(6, &good), "another domain");
        assert!(
            !key.update(
                5,
                &Umr {
                    key: 0x1208,
                    ..good
                }
            ),
            "another key"
        );
        assert!(!key.update(5, &Umr { first: 3, ..good }), "too long");
        assert!(!key.update(
            5,
            &Umr {
                first: usize::MAX,
                ..good
            }
        ));
        let fixed = Mkey { umr: false, ..key };
        assert!(!fixed.update(5, &good), "not for UMR");
        let bus = Mkey {
            umr: true,
            space: Space::Bus,
            ..fixed
        };
        assert!(!bus.update(5, &good), "no translations");
    }
}
