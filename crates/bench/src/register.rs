// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long memory takes to be registered, and to be let go.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use io_uring::IoUring;
use netgpu::{Context, DmaBufMemory, HostMemory, MemoryArea};
use netgpu_cuda::{Gpu, GpuMemory};
use tcg_marker::{Counts, Mailbox};

use crate::Register;
use crate::measure::Label;
use crate::memory::{Pages, Size, udmabuf};
use crate::receive::PAGE;

/// Memory to register, and with whom.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Pages of 4 KiB, which are there.
    Host,
    /// Huge pages of 2 MiB.
    Huge,
    /// A dma-buf of ordinary pages.
    Udmabuf,
    /// Memory of a GPU that exports dma-bufs.
    GpuDmabuf,
    /// Memory of a GPU that does not, through NVIDIA's peer-to-peer interface.
    GpuP2p,
    /// Pages of 4 KiB, which are there, as a buffer of io_uring.
    IoUring,
}

pub(crate) fn run(arguments: &Register) -> Result<()> {
    let len = arguments.mib << 20;
    let gib = len as f64 / f64::from(1 << 30);
    if arguments.memory == Kind::IoUring {
        let label = label(arguments, "io-uring", "host", "");
        io_uring(len)?.rows(&label, gib);
        return Ok(());
    }
    let name = arguments.memory.to_possible_value();
    let memory = name.as_ref().map_or("", |value| value.get_name());
    let tag = match arguments.buffer_size {
        PAGE => String::new(),
        bytes => format!("buffer-size={bytes}"),
    };
    let label = label(arguments, "netgpu", memory, &tag);
    // Of who was measured before.
    until_unused()?;
    let area = MemoryArea::new()?;
    let context = Context::with_buffers(&arguments.dev, arguments.buffer_size)?;
    let memory = Allocated::new(arguments.memory, len)?;

    let free = free_memory()?;
    let mut mailbox = Mailbox::new();
    mailbox.start();
    let start = Instant::now();
    let region = match memory {
        Allocated::Host(memory) => area.add(memory)?,
        Allocated::DmaBuf(memory) => area.add_dma_buf(memory)?,
        Allocated::Gpu(memory) => area.add_cuda(memory)?,
    };
    let added = start.elapsed();
    context.attach(&region)?;
    let registered = Cost::until_now(start, &mut mailbox);
    let used = free as f64 - free_memory()? as f64;

    let start = Instant::now();
    drop((region, area, context));
    // What is left of it is the kernel's work, in the background.
    until_unused()?;
    let gone = start.elapsed();
    label.row("add-ms/GiB", milliseconds(added) / gib);
    label.row("attach-ms/GiB", milliseconds(registered.time - added) / gib);
    registered.rows(&label, gib);
    label.row("release-ms/GiB", milliseconds(gone) / gib);
    // What was a dma-buf, or of another process before, may still be coming back meanwhile.
    if arguments.memory == Kind::Host {
        label.row("used-bytes/byte", used / len as f64);
    }
    Ok(())
}

fn label<'a>(arguments: &Register, path: &'a str, memory: &'a str, tag: &'a str) -> Label<'a> {
    Label {
        path,
        direction: "reg",
        memory,
        mtu: 0,
        tag,
        json: arguments.json,
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What it takes to register memory.
struct Cost {
    time: Duration,
    /// Of this CPU, where somebody counts them.
    instructions: Option<Counts>,
}

impl Cost {
    fn until_now(start: Instant, mailbox: &mut Mailbox) -> Self {
        let instructions = mailbox.stop();
        Self {
            time: start.elapsed(),
            instructions,
        }
    }

    fn rows(&self, label: &Label<'_>, gib: f64) {
        label.row("register-ms/GiB", milliseconds(self.time) / gib);
        if let Some(counts) = &self.instructions {
            label.instructions(counts, "GiB", gib);
        }
    }
}

/// Registers a buffer of io_uring.
fn io_uring(len: usize) -> Result<Cost> {
    let ring = IoUring::new(1)?;
    let memory = Pages::anonymous(len, Size::Base)?.share();
    let buffer = libc::iovec {
        iov_base: memory.start().as_ptr().cast(),
        iov_len: memory.len(),
    };
    let mut mailbox = Mailbox::new();
    mailbox.start();
    let start = Instant::now();
    // SAFETY: Nothing is done with the buffer, and the ring goes before it.
    unsafe { ring.submitter().register_buffers(&[buffer]) }
        .context("cannot register the buffer")?;
    let registered = Cost::until_now(start, &mut mailbox);
    drop(ring);
    Ok(registered)
}

/// What is about to be registered.
enum Allocated {
    Host(HostMemory),
    DmaBuf(DmaBufMemory),
    Gpu(GpuMemory),
}

impl Allocated {
    fn new(kind: Kind, len: usize) -> Result<Self> {
        Ok(match kind {
            Kind::Host | Kind::IoUring => {
                Self::Host(Pages::anonymous(len, Size::Base)?.into_host_memory())
            }
            Kind::Huge => Self::Host(Pages::anonymous(len, Size::Huge)?.into_host_memory()),
            Kind::Udmabuf => Self::DmaBuf(DmaBufMemory::new(udmabuf(len)?.0, 0, len)?),
            Kind::GpuDmabuf | Kind::GpuP2p => {
                let gpu = Gpu::open(0)?;
                if gpu.has_dma_buf()? != (kind == Kind::GpuDmabuf) {
                    bail!("this GPU's memory is registered in the other way");
                }
                Self::Gpu(gpu.allocate(len)?)
            }
        })
    }
}

/// Bytes of memory that nobody uses.
fn free_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemFree:")?.strip_suffix("kB"));
    let kib: u64 = kib
        .context("/proc/meminfo has no MemFree")?
        .trim()
        .parse()?;
    Ok(kib << 10)
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
