// SPDX-License-Identifier: MIT OR Apache-2.0
//! With io_uring's zero copy receive, as `tools/testing/selftests/drivers/net/hw/iou-zcrx.c` of the kernel uses it.

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use io_uring::types::{
    Fd, IORING_MEM_REGION_TYPE_USER, IORING_ZCRX_AREA_MASK, io_uring_region_desc,
    io_uring_zcrx_area_reg, io_uring_zcrx_ifq_reg, io_uring_zcrx_rqe,
};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::io::Errno;

use super::{MEMORY, PAGE, Receive, Sink};
use crate::Recv;
use crate::measure::Measurement;
use crate::memory::{Pages, Shared, Size};
use crate::netdev::interface_index;

/// Entries of the refill ring: room for two pieces of each page of the memory.
const REFILL: u32 = 32768;
const COMPLETIONS: u32 = 4096;

/// `struct zcrx_event_desc` of linux/io_uring/zcrx.h, which the crate does not have yet.
#[repr(C)]
#[derive(Default)]
struct EventDesc {
    user_data: u64,
    type_mask: u32,
    flags: u32,
    stats_offset: u64,
    reserved: [u64; 9],
}

/// `ZCRX_EVENT_DESC_FLAG_STATS`: the kernel counts what it copies.
const STATS: u32 = 1;

pub(super) struct Zcrx {
    ring: IoUring<squeue::Entry, cqueue::Entry32>,
    area: Shared,
    refill: Refill,
    stream: Option<TcpStream>,
}

/// The ring by which buffers go back.
///
/// # Invariants
///
/// The offsets are the kernel's: within the region, and aligned.
struct Refill {
    region: Shared,
    /// Where the kernel's and our index are, and the entries.
    head: usize,
    tail: usize,
    entries: usize,
    /// What entries name the memory by.
    token: u64,
}

impl Refill {
    fn index(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: By the type invariant it is an index of the ring, which the kernel and we access as a whole.
        unsafe { AtomicU32::from_ptr(self.region.start().as_ptr().add(offset).cast()) }
    }

    fn push(&self, off: u64, len: u32) -> Result<()> {
        let tail = self.index(self.tail).load(Ordering::Relaxed);
        let used = tail.wrapping_sub(self.index(self.head).load(Ordering::Acquire));
        ensure!(used < REFILL, "the refill ring is full");
        let entry = io_uring_zcrx_rqe {
            off: off | self.token,
            len,
            __pad: 0,
        };
        let slot = (tail % REFILL) as usize * size_of::<io_uring_zcrx_rqe>();
        // SAFETY: By the type invariant so many entries lie there; the kernel does not look at this one before the index says so.
        unsafe {
            let entries = self.region.start().as_ptr().add(self.entries);
            entries.add(slot).cast::<io_uring_zcrx_rqe>().write(entry);
        }
        self.index(self.tail)
            .store(tail.wrapping_add(1), Ordering::Release);
        Ok(())
    }
}

impl Zcrx {
    /// Asks for all that comes from now on.
    fn submit(&mut self) -> Result<()> {
        let stream = self.stream.as_ref().context("not connected")?;
        let receive = opcode::RecvZc::new(Fd(stream.as_raw_fd()), 0).build();
        // SAFETY: The entry has no addresses; the stream stays open as long as the ring.
        unsafe { self.ring.submission().push(&receive) }.context("the ring is full")?;
        self.ring.submit()?;
        Ok(())
    }
}

impl Receive for Zcrx {
    fn open(arguments: &Recv, measurement: &mut Measurement) -> Result<Self> {
        let pages = Pages::anonymous(MEMORY, Size::for_buffers(arguments.buffer_size))?;
        measurement.watch(&pages)?;
        let area = pages.share();
        // Indices, entries, and a page of what the kernel counts.
        let len = PAGE + REFILL as usize * size_of::<io_uring_zcrx_rqe>() + PAGE;
        let region = Pages::anonymous(len, Size::Base)?.share();
        measurement.sets_up();

        let ring = IoUring::<squeue::Entry, cqueue::Entry32>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(64)
            .context("cannot set an io_uring up")?;
        let mut area_desc = io_uring_zcrx_area_reg {
            addr: area.start().as_ptr().expose_provenance() as u64,
            len: area.len() as u64,
            ..Default::default()
        };
        let mut region_desc = io_uring_region_desc {
            user_addr: region.start().as_ptr().expose_provenance() as u64,
            size: region.len() as u64,
            flags: IORING_MEM_REGION_TYPE_USER,
            ..Default::default()
        };
        let event_desc = EventDesc {
            flags: STATS,
            stats_offset: (len - PAGE) as u64,
            ..EventDesc::default()
        };
        let mut queue = io_uring_zcrx_ifq_reg {
            if_idx: interface_index(&arguments.common.dev)?,
            if_rxq: arguments.queue,
            rq_entries: REFILL,
            area_ptr: (&raw mut area_desc).expose_provenance() as u64,
            region_ptr: (&raw mut region_desc).expose_provenance() as u64,
            // `rx_buf_len` and `event_desc`, which the crate takes for reserved.
            __resv2: match arguments.buffer_size {
                PAGE => 0,
                bytes => u32::try_from(bytes)?,
            },
            ..Default::default()
        };
        queue.__resv[0] = (&raw const event_desc).expose_provenance() as u64;
        ring.submitter()
            .register_ifq(&queue)
            .context("cannot take the receive queue")?;
        Ok(Self {
            ring,
            area,
            // INVARIANT: The kernel has just filled the offsets in.
            refill: Refill {
                region,
                head: queue.offsets.head as usize,
                tail: queue.offsets.tail as usize,
                entries: queue.offsets.rqes as usize,
                token: area_desc.rq_area_token,
            },
            stream: None,
        })
    }

    fn connected(&mut self, stream: TcpStream) -> Result<()> {
        self.stream = Some(stream);
        self.submit()
    }

    fn receive(&mut self, sink: &mut impl Sink) -> Result<bool> {
        self.ring.submit_and_wait(1)?;
        let mut again = false;
        for completion in self.ring.completion() {
            let more = cqueue::more(completion.flags());
            let len = match u32::try_from(completion.result()) {
                Ok(0) if !more => return Ok(false),
                Ok(len) => len,
                // The completion queue was full.
                Err(_) if completion.result() == -Errno::NOSPC.raw_os_error() => {
                    again = true;
                    continue;
                }
                Err(_) => {
                    let error = std::io::Error::from_raw_os_error(-completion.result());
                    return Err(error).context("cannot receive");
                }
            };
            again |= !more;
            let off = completion.big_cqe()[0] & !IORING_ZCRX_AREA_MASK;
            sink.take(len as usize, |copy| {
                self.area.read(off as usize, copy);
                Ok(())
            })?;
            self.refill.push(off, len)?;
        }
        if again {
            self.submit()?;
        }
        Ok(true)
    }

    fn copied(&self) -> Result<Option<u64>> {
        let mut bytes = [0; 8];
        // Behind the number of copies, `struct zcrx_stats` has that of their bytes.
        let stats = self.refill.region.len() - PAGE;
        self.refill.region.read(stats + 8, &mut bytes);
        Ok(Some(u64::from_ne_bytes(bytes)))
    }
}
