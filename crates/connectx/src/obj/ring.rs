// SPDX-License-Identifier: MIT OR Apache-2.0
//! A ring of entries in guest pages.

use crate::bits::Fields;
use crate::bits::ctx::{PAGE, page_list};
use crate::bits::op::Refusal;
use crate::mem::{Access, Fault, GuestMemory, Slice};

/// The most entries a ring can have, as a power of two.
const LOG_MAX_SIZE: u32 = 22;

/// A ring of a power of two of entries, each a power of two of bytes and inside one page.
#[derive(Debug)]
pub struct Ring {
    pages: Box<[u64]>,
    log_size: u32,
    log_stride: u32,
}

impl Ring {
    /// A ring in the pages that `input` lists from byte `at` on.
    pub fn new(
        input: Fields<'_>,
        at: usize,
        log_size: u32,
        log_stride: u32,
    ) -> Result<Self, Refusal> {
        if log_size > LOG_MAX_SIZE || 1 << log_stride > PAGE {
            return Err(Refusal::param("queue: too large"));
        }
        let pages = page_list(input, at, 1 << (log_size + log_stride))?;
        Ok(Self {
            pages,
            log_size,
            log_stride,
        })
    }

    /// Entries in the ring.
    pub fn size(&self) -> u32 {
        1 << self.log_size
    }

    /// Bytes in an entry.
    pub fn stride(&self) -> usize {
        1 << self.log_stride
    }

    /// The owner bit of the entry that counter `producer` is about to write.
    pub fn owner(&self, producer: u32) -> u8 {
        (producer >> self.log_size & 1) as u8
    }

    /// Bus address of the entry of counter `counter`, which wraps.
    #[inline(always)]
    pub fn address(&self, counter: u32) -> u64 {
        let offset = ((counter & (self.size() - 1)) as usize) << self.log_stride;
        // The list has a page for every entry; an address list is never empty.
        self.pages
            .get(offset / PAGE)
            .map_or(0, |page| page + (offset % PAGE) as u64)
    }

    /// The entry of `counter`, to be read; the one behind it is asked for, too.
    #[inline(always)]
    pub fn entry<'m>(&self, memory: &'m GuestMemory, counter: u32) -> Result<Slice<'m>, Fault> {
        let entry = memory.piece(self.address(counter), self.stride(), Access::Read)?;
        entry.prefetch_behind();
        Ok(entry)
    }

    /// Reads as many bytes as `to` has, from the entry of `counter` on.
    pub fn read(&self, memory: &GuestMemory, mut counter: u32, to: &mut [u8]) -> Result<(), Fault> {
        for part in to.chunks_mut(self.stride()) {
            memory.read(self.address(counter), part)?;
            counter = counter.wrapping_add(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::tests::memory;

    fn ring(log_size: u32, log_stride: u32, pages: &[u64]) -> Result<Ring, Refusal> {
        let list: Vec<u8> = pages.iter().flat_map(|page| page.to_be_bytes()).collect();
        Ring::new(Fields(&list), 0, log_size, log_stride)
    }

    #[test]
    fn counters_wrap_round_the_pages() {
        let ring = ring(7, 6, &[0x5000, 0x3000]).unwrap();
        assert_eq!(ring.address(0), 0x5000);
        assert_eq!(ring.address(63), 0x5fc0);
        assert_eq!(ring.address(64), 0x3000);
        assert_eq!(ring.address(128), 0x5000);
        assert_eq!(ring.address(0xffff_ffff), 0x3fc0);
        assert_eq!(
            [ring.owner(127), ring.owner(128), ring.owner(256)],
            [0, 1, 0]
        );
    }

    #[test]
    fn an_entry_may_go_round_the_end() {
        let memory = memory(0x2000);
        memory.write(0x1fc0, &[1; 64]).unwrap();
        memory.write(0x0000, &[2; 64]).unwrap();
        let ring = ring(7, 6, &[0, 0x1000]).unwrap();
        let mut bytes = [0; 128];
        ring.read(&memory, 127, &mut bytes).unwrap();
        assert_eq!((bytes[63], bytes[64]), (1, 2));
    }

    #[test]
    fn sizes_are_checked() {
        assert!(ring(23, 6, &[]).is_err());
        assert!(ring(7, 6, &[0x1000]).is_err(), "a page is missing");
        assert!(ring(31, 6, &[0x1000]).is_err());
    }
}
