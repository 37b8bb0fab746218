// SPDX-License-Identifier: MIT OR Apache-2.0
//! The memory that payload is in.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use netgpu::{HostMemory, MemoryArea, Region};
use netgpu_cuda::{Gpu, GpuMemory};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::measure::Measurement;

/// Where payload is.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Memory {
    /// Ordinary memory.
    Host,
    /// Memory of the first NVIDIA GPU.
    Gpu,
}

impl Memory {
    /// As rows have it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Gpu => "gpu",
        }
    }

    /// Memory of `len` bytes that netgpu can register; of the host in pages of that size.
    pub(crate) fn allocate(
        self,
        len: usize,
        size: Size,
        measurement: &mut Measurement,
    ) -> Result<Allocated> {
        Ok(match self {
            Self::Host => {
                let pages = Pages::anonymous(len, size)?;
                measurement.watch(&pages)?;
                Allocated::Host(pages)
            }
            Self::Gpu => {
                measurement.watch_gpu()?;
                Allocated::Gpu(Gpu::open(0)?.allocate(len)?)
            }
        })
    }
}

/// Memory that is not registered yet.
pub(crate) enum Allocated {
    Host(Pages),
    Gpu(GpuMemory),
}

impl Allocated {
    /// Registers it.
    pub(crate) fn register(self, area: &MemoryArea) -> Result<Region> {
        Ok(match self {
            Self::Host(pages) => area.add(pages.into_host_memory())?,
            Self::Gpu(memory) => area.add_cuda(memory)?,
        })
    }
}

/// Sizes of pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    /// 4 KiB, never more.
    Base,
    /// 2 MiB.
    Huge,
}

impl Size {
    /// What receive buffers of so many bytes are in, each in one piece.
    pub(crate) fn for_buffers(bytes: usize) -> Self {
        if bytes > rustix::param::page_size() {
            Self::Huge
        } else {
            Self::Base
        }
    }
}

/// A mapping whose pages are there, filled with zeros.
///
/// # Invariants
///
/// `len` bytes are mapped at `start`, readable and writable, until the value is dropped; and nothing but the value knows of them.
pub(crate) struct Pages {
    start: NonNull<u8>,
    len: usize,
}

impl Pages {
    /// Of no file.
    pub(crate) fn anonymous(len: usize, size: Size) -> Result<Self> {
        let flags = match size {
            Size::Base => MapFlags::PRIVATE,
            Size::Huge => MapFlags::PRIVATE | MapFlags::HUGETLB,
        };
        // SAFETY: Without a fixed address the new mapping touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        let start = start.context("no such memory")?;
        if size == Size::Base {
            // SAFETY: Advice changes nothing about what is in the mapping, which is new.
            unsafe { rustix::mm::madvise(start, len, Advice::LinuxNoHugepage) }?;
        }
        Self::touched(start.cast(), len)
    }

    /// Of a file of `len` bytes that nobody else writes to.
    fn of_file(file: BorrowedFd<'_>, len: usize) -> Result<Self> {
        // SAFETY: Without a fixed address the new mapping touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                file,
                0,
            )
        };
        Self::touched(start.context("cannot map the file")?.cast(), len)
    }

    /// `len` bytes have just been mapped at `start`.
    fn touched(start: *mut u8, len: usize) -> Result<Self> {
        let start = NonNull::new(start).context("memory at zero")?;
        // INVARIANT: By what the callers have done.
        let mut pages = Self { start, len };
        pages.fill(0);
        Ok(pages)
    }

    /// From now on the kernel and devices may write to it, too.
    pub(crate) fn share(self) -> Shared {
        Shared(self)
    }

    /// Hands it to the library, for good.
    pub(crate) fn into_host_memory(self) -> HostMemory {
        let pages = std::mem::ManuallyDrop::new(self);
        // SAFETY: By the type invariant it is mapped, initialised and nobody else's, and it is never unmapped.
        unsafe { HostMemory::from_raw(pages.start, pages.len) }
    }
}

impl Deref for Pages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: By the type invariant; the kernel has initialised the bytes.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: As for `deref()`, and `&mut self` excludes every other slice.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is our mapping, and nobody can refer to it after this.
        let gone = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(gone.is_ok(), "unmapping our own memory: {gone:?}");
    }
}

/// Memory that others write to at any time: no reference to it is ever made.
pub(crate) struct Shared(Pages);

impl Shared {
    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.0.start
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len
    }

    /// The byte at `offset`, of `len`.
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset <= self.0.len && len <= self.0.len - offset);
        // SAFETY: It is within the mapping.
        unsafe { self.0.start.as_ptr().add(offset) }
    }

    /// Copies what is at `offset`.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) {
        // SAFETY: The bytes are mapped; `data` is not among them, as no reference to them is ever made.
        unsafe {
            ptr::copy_nonoverlapping(self.at(offset, data.len()), data.as_mut_ptr(), data.len())
        };
    }

    /// Copies `data` to `offset`.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        // SAFETY: As for `read()`.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), self.at(offset, data.len()), data.len()) };
    }
}

/// Memory as a dma-buf.
pub(crate) struct DmaBuf {
    fd: OwnedFd,
    content: Content,
}

enum Content {
    Host(Shared),
    Gpu(GpuMemory),
}

impl DmaBuf {
    /// `len` bytes.
    pub(crate) fn new(memory: Memory, len: usize, measurement: &mut Measurement) -> Result<Self> {
        Ok(match memory {
            Memory::Host => {
                let (fd, pages) = udmabuf(len)?;
                measurement.watch(&pages)?;
                Self {
                    fd,
                    content: Content::Host(pages.share()),
                }
            }
            Memory::Gpu => {
                measurement.watch_gpu()?;
                let memory = Gpu::open(0)?.allocate(len)?;
                Self {
                    fd: memory.export()?,
                    content: Content::Gpu(memory),
                }
            }
        })
    }

    /// Copies what is at `offset`.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) -> Result<()> {
        match &self.content {
            Content::Host(pages) => pages.read(offset, data),
            Content::Gpu(memory) => memory.read(offset, data)?,
        }
        Ok(())
    }

    /// Copies `data` to `offset`.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) -> Result<()> {
        match &mut self.content {
            Content::Host(pages) => pages.write(offset, data),
            Content::Gpu(memory) => memory.write(offset, data)?,
        }
        Ok(())
    }
}

impl AsFd for DmaBuf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A dma-buf of ordinary memory, and that memory.
pub(crate) fn udmabuf(len: usize) -> Result<(OwnedFd, Pages)> {
    let memfd =
        rustix::fs::memfd_create("udmabuf", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memfd, len as u64)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
    let pages = Pages::of_file(memfd.as_fd(), len)?;
    let device = File::open("/dev/udmabuf").context("/dev/udmabuf")?;
    let fd = udmabuf::create(device.as_fd(), memfd.as_fd(), len as u64)
        .context("no udmabuf (see its size_limit_mb)")?;
    Ok((fd, pages))
}
