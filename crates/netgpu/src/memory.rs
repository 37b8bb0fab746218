// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host memory that can be registered.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr::{self, NonNull};

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::Error;
use crate::sys::{Mapping, Reservation};

/// Where host memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// Shared memory behind a memfd that nobody else holds.
    Memfd,
    /// Huge pages of 2 MiB, from the system's pool (`vm.nr_hugepages`).
    Huge2M,
}

impl Backing {
    /// Lengths are rounded up to a multiple of this many bytes.
    fn page(self) -> usize {
        match self {
            Self::Anonymous | Self::Memfd => rustix::param::page_size(),
            Self::Huge2M => 2 << 20,
        }
    }
}

/// A span of host memory that nothing else in the process refers to.
///
/// Becomes a region with [`MemoryArea::add`](crate::MemoryArea::add). Its content is zero at first, unless it comes
/// from [`HostMemory::from_raw`].
#[derive(Debug)]
pub struct HostMemory {
    span: Owner,
}

#[derive(Debug)]
enum Owner {
    Mapped(Mapping),
    /// The caller of `from_raw` answers for it.
    ///
    /// # Invariants
    ///
    /// By that caller's promise, as [`Mapping`] has them whenever the bytes are reached; freed by that caller.
    Borrowed(NonNull<u8>, usize),
}

// SAFETY: Memory belongs to the process, not to a thread; the address is all that is here.
unsafe impl Send for Owner {}
// SAFETY: As for `Send`; nothing changes the value.
unsafe impl Sync for Owner {}

impl HostMemory {
    /// Allocates at least `len` bytes: rounded up to whole pages of the backing.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when `len` is zero or there is no such memory.
    pub fn new(len: usize, backing: Backing) -> Result<Self, Error> {
        let map = || -> io::Result<Mapping> {
            let len = len
                .checked_next_multiple_of(backing.page())
                .filter(|&len| len != 0)
                .ok_or(io::ErrorKind::InvalidInput)?;
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let start = match backing {
                // SAFETY: Without a fixed address the new mapping touches no existing memory.
                Backing::Anonymous => unsafe {
                    rustix::mm::mmap_anonymous(ptr::null_mut(), len, access, MapFlags::PRIVATE)
                },
                Backing::Huge2M => {
                    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
                    // SAFETY: As above.
                    unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, access, flags) }
                }
                Backing::Memfd => {
                    let file = rustix::fs::memfd_create("netgpu", MemfdFlags::CLOEXEC)?;
                    rustix::fs::ftruncate(&file, len as u64)?;
                    // SAFETY: As above. The file is closed below, so that nobody can truncate it under the mapping.
                    unsafe {
                        rustix::mm::mmap(ptr::null_mut(), len, access, MapFlags::SHARED, &file, 0)
                    }
                }
            }?;
            // SAFETY: The call above has just made this mapping, and nobody else knows of it.
            Ok(unsafe { Mapping::from_raw(start.cast(), len) })
        };
        map()
            .map(|mapping| Self {
                span: Owner::Mapped(mapping),
            })
            .map_err(|source| Error::Memory {
                len,
                backing,
                source,
            })
    }

    /// Gives the memory away: its address and how many bytes it has, to be freed by munmap(2) if it comes from
    /// [`HostMemory::new`].
    pub fn into_raw(self) -> (NonNull<u8>, usize) {
        let raw = (self.start(), self.len());
        std::mem::forget(self);
        raw
    }

    /// Takes memory that the caller owns, for example from malloc(3).
    ///
    /// # Safety
    ///
    /// As long as there is a [`Span`](crate::Span), a [`Payload`](crate::Payload) or a [`Piece`](crate::Piece) of the region made
    /// of the memory, the `len` initialised bytes at `start` stay mapped, readable and writable, and are accessed through those
    /// alone.
    pub unsafe fn from_raw(start: NonNull<u8>, len: usize) -> Self {
        // INVARIANT: By the caller's promise.
        Self {
            span: Owner::Borrowed(start, len),
        }
    }

    /// Address of the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        match &self.span {
            Owner::Mapped(mapping) => mapping.start(),
            Owner::Borrowed(start, _) => *start,
        }
    }

    /// Number of bytes.
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> usize {
        match &self.span {
            Owner::Mapped(mapping) => mapping.len(),
            Owner::Borrowed(_, len) => *len,
        }
    }
}

/// A part of a dma-buf: memory that another driver has, for example that of a GPU.
///
/// Becomes a region with [`MemoryArea::add_dma_buf`](crate::MemoryArea::add_dma_buf). The CPU does not reach its bytes by
/// way of that.
#[derive(Debug)]
pub struct DmaBufMemory {
    fd: OwnedFd,
    offset: u64,
    /// The addresses that stand for the bytes.
    place: Reservation,
}

impl DmaBufMemory {
    /// The `len` bytes at `offset` of the dma-buf `fd`, whole pages both.
    ///
    /// # Errors
    ///
    /// [`Error::Memory`] when `len` is zero or there is not so much address space.
    pub fn new(fd: OwnedFd, offset: u64, len: usize) -> Result<Self, Error> {
        let place = Reservation::new(len).map_err(|source| Error::Memory {
            len,
            backing: Backing::Anonymous,
            source,
        })?;
        Ok(Self { fd, offset, place })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }
}

/// What a region is made of.
#[derive(Debug)]
pub(crate) enum Memory {
    Host(HostMemory),
    DmaBuf(DmaBufMemory),
    #[cfg(feature = "cuda")]
    Cuda(CudaMemory),
}

/// Memory of a GPU.
#[cfg(feature = "cuda")]
#[derive(Debug)]
pub(crate) struct CudaMemory {
    /// Where CUDA has it, and how much.
    pub(crate) start: usize,
    pub(crate) len: usize,
    memory: std::sync::Mutex<netgpu_cuda::GpuMemory>,
}

#[cfg(feature = "cuda")]
impl CudaMemory {
    pub(crate) fn new(memory: netgpu_cuda::GpuMemory) -> Self {
        Self {
            start: usize::try_from(memory.address()).expect("usize has 64 bits here"),
            len: memory.len(),
            memory: memory.into(),
        }
    }

    /// The memory itself, for copies.
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, netgpu_cuda::GpuMemory> {
        // Nothing of it changes while a copy could panic.
        self.memory
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Memory {
    /// The address that stands for the first byte.
    pub(crate) fn start(&self) -> usize {
        match self {
            Self::Host(memory) => memory.start().as_ptr().expose_provenance(),
            Self::DmaBuf(memory) => memory.place.start(),
            #[cfg(feature = "cuda")]
            Self::Cuda(memory) => memory.start,
        }
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Host(memory) => memory.len(),
            Self::DmaBuf(memory) => memory.place.len(),
            #[cfg(feature = "cuda")]
            Self::Cuda(memory) => memory.len,
        }
    }

    /// Whether it is memory of a GPU, as far as we know.
    pub(crate) fn is_gpu(&self) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => true,
            _ => false,
        }
    }

    /// The memory, if the CPU reaches it.
    pub(crate) fn host(&self) -> Option<&HostMemory> {
        match self {
            Self::Host(memory) => Some(memory),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_round_up_to_pages() {
        let page = rustix::param::page_size();
        for backing in [Backing::Anonymous, Backing::Memfd] {
            let memory = HostMemory::new(1, backing).expect("one page can be had");
            assert_eq!(memory.len(), page);
            assert_eq!(memory.start().as_ptr().addr() % page, 0);
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for len in [0, usize::MAX, usize::MAX / 2] {
            assert!(matches!(
                HostMemory::new(len, Backing::Anonymous),
                Err(Error::Memory { .. })
            ));
        }
    }
}
