// SPDX-License-Identifier: MIT OR Apache-2.0
//! `struct netgpu_mem`.

use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};

use netgpu::{DmaBufMemory, HostMemory, MemoryArea, Region};
use netgpu_cuda::GpuMemory;

use crate::error::{Failure, answer};
use crate::fd;
use crate::memory::{Memtype, backing, netgpu_memtype};

/// A memory area: spans of memory that are pinned, and independent of any device.
#[derive(Debug)]
pub struct netgpu_mem {
    area: MemoryArea,
    /// By number, from one.
    regions: Vec<Region>,
}

pub(crate) const NO_AREA: Failure = Failure::Argument("the memory area is NULL");

/// Other devices get a GPU's memory in pages of so many bytes.
const GPU_PAGE: usize = 64 << 10;

impl netgpu_mem {
    pub(crate) fn region(&self, idx: c_int) -> Result<&Region, Failure> {
        let index = usize::try_from(idx).ok().and_then(|idx| idx.checked_sub(1));
        index
            .and_then(|index| self.regions.get(index))
            .ok_or(Failure::Errno(
                libc::ENOENT,
                "the memory area has no span of this number",
            ))
    }

    /// Keeps what was added; returns its number.
    fn keep(&mut self, region: Region) -> c_int {
        self.regions.push(region);
        c_int::try_from(self.regions.len()).unwrap_or(c_int::MAX)
    }
}

/// Adds memory of the caller's to `area`.
pub(crate) fn add(
    area: &MemoryArea,
    va: *mut c_void,
    size: usize,
    memtype: Memtype,
) -> Result<Region, Failure> {
    if backing(memtype).is_some() {
        let (start, len) = whole_pages(va, size, rustix::param::page_size())?;
        let start = NonNull::new(start).ok_or(Failure::Argument("the address is NULL"))?;
        // SAFETY: Nothing here makes a span, a payload or a piece of the region.
        let memory = unsafe { HostMemory::from_raw(start, len) };
        Ok(area.add(memory)?)
    } else if memtype == netgpu_memtype::MEMTYPE_CUDA as Memtype {
        let (start, len) = whole_pages(va, size, GPU_PAGE)?;
        // SAFETY: It is exported right here, and not used any more. CUDA says what is no memory of a GPU; what is in one page
        // with it is one allocation's as far as the caller says, which the export finds out.
        let memory = unsafe { GpuMemory::from_raw(start.addr() as u64, len) }?;
        Ok(area.add_cuda(memory)?)
    } else if memtype == netgpu_memtype::MEMTYPE_DMABUF as Memtype {
        Err(Failure::Argument(
            "a dma-buf has no address: netgpu_add_dmabuf() takes it",
        ))
    } else {
        Err(Failure::Argument("there is no such kind of memory"))
    }
}

/// Rounds a span out to whole pages.
fn whole_pages(va: *mut c_void, size: usize, page: usize) -> Result<(*mut u8, usize), Failure> {
    let start = va.addr() / page * page;
    let end = va
        .addr()
        .checked_add(size)
        .and_then(|end| end.checked_next_multiple_of(page))
        .filter(|_| size != 0)
        .ok_or(Failure::Argument(
            "the size is zero, or larger than what is behind the address",
        ))?;
    Ok((va.cast::<u8>().with_addr(start), end - start))
}

/// Opens a memory area without spans.
///
/// Returns 0, or: -ENOENT, the kernel module is not loaded; -EACCES; -EPROTONOSUPPORT, module and library are not of one version.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_open_memarea(
    memp: Option<&mut MaybeUninit<Option<Box<netgpu_mem>>>>,
) -> c_int {
    let Some(memp) = memp else {
        return answer(Err(NO_AREA));
    };
    memp.write(None);
    answer(MemoryArea::new().map_err(Failure::from).map(|area| {
        let regions = Vec::new();
        memp.write(Some(Box::new(netgpu_mem { area, regions })));
        0
    }))
}

/// Drops the memory area and sets `*memp` to NULL. Spans that are attached stay pinned and in use by those contexts.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_close_memarea(memp: Option<&mut Option<Box<netgpu_mem>>>) {
    if let Some(memp) = memp {
        *memp = None;
    }
}

/// Pins the `size` bytes at `va`: start and end round out to pages, of 4 KiB, or of 64 KiB with MEMTYPE_CUDA. They stay pinned
/// until the area and the contexts that they are attached to are gone, also when they are freed before. MEMTYPE_CUDA: `va` is an
/// address that cudaMalloc(), cuMemAlloc() or netgpu_alloc_memory() gave.
///
/// Returns the number of the span in the area: 1, 2, 3 and so on. Or: -EEXIST, it overlaps a span that this process has
/// registered, in this area or another; -ENOMEM, RLIMIT_MEMLOCK or the memory is exhausted, or the GPU's BAR 1; -EFAULT, there is
/// no memory at `va`, or none that can be written; -EOPNOTSUPP, memory of this kind cannot be pinned; -EINVAL, `size` is zero,
/// there is no such memtype, or `va` is no memory of a GPU; -ENOSPC, too many spans; -ENODEV, there is no CUDA driver or no GPU;
/// -ENXIO, NVIDIA's kernel driver gives no memory to others.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_add_memarea(
    mem: Option<&mut netgpu_mem>,
    va: *mut c_void,
    size: usize,
    memtype: Memtype,
) -> c_int {
    let add = || {
        let mem = mem.ok_or(NO_AREA)?;
        let region = add(&mem.area, va, size, memtype)?;
        Ok(mem.keep(region))
    };
    answer(add())
}

/// Adds `size` bytes at `offset` of the dma-buf `fd` as a span, whole pages both. The area has the dma-buf open by itself. `*va`
/// becomes the address that stands for the first byte, in pieces, in populated rings and in what is sent; nothing can be read or
/// written there.
///
/// Returns the number of the span, as netgpu_add_memarea() does. Or: -EINVAL, `fd` is no dma-buf, or something is no whole page;
/// -EBADF; -EACCES, it is open for reading only; -ERANGE, it is not so long; -ENOMEM, there is not so much address space.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_add_dmabuf(
    mem: Option<&mut netgpu_mem>,
    fd: c_int,
    offset: u64,
    size: usize,
    va: Option<&mut MaybeUninit<*mut c_void>>,
) -> c_int {
    let add = || {
        let mem = mem.ok_or(NO_AREA)?;
        let va = va.ok_or(Failure::Argument("the place for the address is NULL"))?;
        let fd = fd::duplicate(fd)
            .map_err(|_| Failure::Errno(libc::EBADF, "the file descriptor is not open"))?;
        let region = mem.area.add_dma_buf(DmaBufMemory::new(fd, offset, size)?)?;
        va.write(ptr::without_provenance_mut(region.address()));
        Ok(mem.keep(region))
    };
    answer(add())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_round_out() {
        let at = |va: usize, size| {
            whole_pages(ptr::without_provenance_mut(va), size, 4096)
                .map(|(start, len)| (start.addr(), len))
                .ok()
        };
        assert_eq!(at(0x1000, 0x1000), Some((0x1000, 0x1000)));
        assert_eq!(at(0x1fff, 2), Some((0x1000, 0x2000)));
        assert_eq!(at(0x1800, 1), Some((0x1000, 0x1000)));
        assert_eq!(at(0x1000, 0), None);
        assert_eq!(at(usize::MAX, 2), None);
        assert_eq!(at(0x1000, usize::MAX - 0x1000), None);
    }
}
