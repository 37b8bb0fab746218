// SPDX-License-Identifier: MIT OR Apache-2.0
//! Host memory that can be registered.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use rustix::fs::MemfdFlags;
use rustix::mm::MapFlags;

use crate::error::Error;
use crate::sys::{Mapping, Reservation};

/// Where host memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory.
    Anonymous,
    /// Shared memory behind a memfd that nobody else holds.
    Memfd,
    /// Huge pages of 2 MiB, from the system's pool (`vm.nr_hugepages`). What buffers take that are larger than a page, see
    /// [`Context::with_buffers`](crate::Context::with_buffers).
    Huge2M,
}

impl Backing {
    /// Bytes of its pages, which lengths are rounded up to.
    pub fn page(self) -> usize {
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
    /// Allocates at least `len` bytes: rounded up to whole pages of the backing. If they are whole buffers, of whatever size, they start
    /// where one can.
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
            let place = Reservation::new(len)?;
            match backing {
                Backing::Anonymous => place.map(MapFlags::PRIVATE, None),
                Backing::Memfd => {
                    let file = rustix::fs::memfd_create("netgpu", MemfdFlags::CLOEXEC)?;
                    rustix::fs::ftruncate(&file, len as u64)?;
                    // The file is closed below, so that nobody can truncate it under the mapping.
                    place.map(MapFlags::SHARED, Some(file.as_fd()))
                }
                Backing::Huge2M => {
                    let flags = MapFlags::PRIVATE | MapFlags::HUGETLB | MapFlags::HUGE_2MB;
                    place.map(flags, None)
                }
            }
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
    /// alone. NICs write to what was donated ([`Queue::donate`](crate::Queue::donate)): from then on, until all contexts that the region is
    /// attached to are gone, with their queues and sockets, nobody reads or writes it either, and it is not used for anything else.
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
    pub(crate) gpu: netgpu_cuda::Gpu,
    /// Locked for as long as a copy takes.
    memory: std::sync::Mutex<netgpu_cuda::GpuMemory>,
}

#[cfg(feature = "cuda")]
impl CudaMemory {
    pub(crate) fn new(memory: netgpu_cuda::GpuMemory) -> Self {
        Self {
            start: usize::try_from(memory.address()).expect("usize has 64 bits here"),
            len: memory.len(),
            gpu: memory.gpu(),
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
    fn whole_buffers_of_any_size_start_where_one_can() {
        for shift in 12..=17 {
            let size = 1 << shift;
            for backing in [Backing::Anonymous, Backing::Memfd] {
                let memory = HostMemory::new(3 * size, backing).expect("so little can be had");
                assert_eq!(memory.len(), 3 * size);
                assert_eq!(memory.start().as_ptr().addr() % size, 0, "{backing:?}");
                // SAFETY: It was mapped, and nobody else has it.
                let bytes = unsafe {
                    std::slice::from_raw_parts_mut(memory.start().as_ptr(), memory.len())
                };
                assert!(bytes.iter().all(|&byte| byte == 0));
                bytes.fill(1);
            }
            let fd = std::fs::File::open("/dev/null").expect("every system has it");
            let memory = DmaBufMemory::new(fd.into(), 0, 5 * size).expect("it is but addresses");
            assert_eq!(memory.place.start() % size, 0);
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
