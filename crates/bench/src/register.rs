// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long memory takes to be registered, and to be let go.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use netgpu::{Context, DmaBufMemory, HostMemory, MemoryArea, Region};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::Register;

/// Memory to register.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Memory {
    /// Ordinary pages, which are there.
    Host,
    /// Huge pages of 2 MiB.
    Huge,
    /// A dma-buf of ordinary pages.
    Udmabuf,
    /// Memory of a GPU that exports dma-bufs.
    GpuDmabuf,
    /// Memory of a GPU that does not, through NVIDIA's peer-to-peer interface.
    GpuP2p,
}

pub(crate) fn run(arguments: &Register) -> Result<()> {
    // Of who was measured before.
    until_unused()?;
    let area = MemoryArea::new()?;
    let context = Context::open(&arguments.dev)?;
    let len = arguments.mib << 20;
    let (region, added) = add(arguments.memory, &area, len)?;
    let start = Instant::now();
    context.attach(&region)?;
    let attached = start.elapsed();
    let start = Instant::now();
    drop((region, area, context));
    // What is left of it is the kernel's work, in the background.
    until_unused()?;
    let gone = start.elapsed();

    let name = arguments.memory.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    let gib = len as f64 / f64::from(1 << 30);
    for (metric, time) in [
        ("add-ms/GiB", added),
        ("attach-ms/GiB", attached),
        ("release-ms/GiB", gone),
    ] {
        println!(
            "row {name} reg 0 {metric} {}",
            time.as_secs_f64() * 1e3 / gib
        );
    }
    Ok(())
}

/// Adds `len` bytes; returns how long that took.
fn add(memory: Memory, area: &MemoryArea, len: usize) -> Result<(Region, Duration)> {
    let start;
    let region = match memory {
        Memory::Host | Memory::Huge => {
            let memory = host(memory == Memory::Huge, len)?;
            start = Instant::now();
            area.add(memory)?
        }
        Memory::Udmabuf => {
            let memory = DmaBufMemory::new(udmabuf(len)?, 0, len)?;
            start = Instant::now();
            area.add_dma_buf(memory)?
        }
        Memory::GpuDmabuf | Memory::GpuP2p => {
            let gpu = netgpu_cuda::Gpu::open(0)?;
            if gpu.has_dma_buf()? != (memory == Memory::GpuDmabuf) {
                bail!("this GPU's memory is registered in the other way");
            }
            let memory = gpu.allocate(len)?;
            start = Instant::now();
            area.add_cuda(memory)?
        }
    };
    Ok((region, start.elapsed()))
}

/// Memory of the host that has been touched, and stays until the process ends.
fn host(huge: bool, len: usize) -> Result<HostMemory> {
    let pages = if huge { libc::MAP_HUGETLB } else { 0 };
    // SAFETY: Without a fixed address the new mapping touches no existing memory.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | pages,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error()).context("no such memory");
    }
    let start = NonNull::new(start.cast()).context("memory at zero")?;
    // SAFETY: The mapping is new and never unmapped, and nobody else knows of it.
    Ok(unsafe { HostMemory::from_raw(start, len) })
}

/// A dma-buf of ordinary memory.
fn udmabuf(len: usize) -> Result<OwnedFd> {
    /// `struct udmabuf_create` of linux/udmabuf.h.
    #[repr(C)]
    struct Create {
        memfd: u32,
        flags: u32,
        offset: u64,
        size: u64,
    }
    /// `_IOW('u', 0x42, struct udmabuf_create)`
    const CREATE: libc::c_ulong = 0x4018_7542;

    let memfd =
        rustix::fs::memfd_create("udmabuf", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&memfd, len as u64)?;
    rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK)?;
    let device = fs::File::open("/dev/udmabuf").context("/dev/udmabuf")?;
    let create = Create {
        memfd: memfd.as_raw_fd().cast_unsigned(),
        flags: 1,
        offset: 0,
        size: len as u64,
    };
    // SAFETY: The argument is what this command of this device takes.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), CREATE, &raw const create) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("no udmabuf (see its size_limit_mb)");
    }
    // SAFETY: The kernel has just made the descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until netgpu.ko has no users but modules: each context and area is one, until the last of its memory is gone.
fn until_unused() -> Result<()> {
    let module = Path::new("/sys/module/netgpu");
    let start = Instant::now();
    loop {
        let count = fs::read_to_string(module.join("refcnt")).context("netgpu.ko is not loaded")?;
        if count.trim().parse() == Ok(fs::read_dir(module.join("holders"))?.count()) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(60),
            "memory is not let go"
        );
        thread::sleep(Duration::from_micros(200));
    }
}
