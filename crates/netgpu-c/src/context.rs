// SPDX-License-Identifier: MIT OR Apache-2.0
//! `struct netgpu_ctx`.

use std::ffi::{c_char, c_int, c_void};
use std::mem::MaybeUninit;

use netgpu::{Context, MemoryArea};

use crate::area::{add, netgpu_mem};
use crate::arguments;
use crate::error::{Failure, answer};
use crate::memory::Memtype;

/// A context: regions, receive queues and sockets of one network device.
#[derive(Debug)]
pub struct netgpu_ctx {
    pub(crate) context: Context,
}

pub(crate) const NO_CONTEXT: Failure = Failure::Argument("the context is NULL");

/// Opens a context for the network device `ifname`, of the network namespace of the calling thread. A device can have several.
///
/// Returns 0, or: -ENODEV, there is no such device; -ENOENT, the kernel module is not loaded; -EACCES; -EOPNOTSUPP, the device has
/// no DMA of its own, such as a bridge or lo; -EPROTONOSUPPORT, module and library are not of one version.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netgpu_open_ctx(
    ctxp: Option<&mut MaybeUninit<Option<Box<netgpu_ctx>>>>,
    ifname: *const c_char,
) -> c_int {
    // SAFETY: What C owes: it is a string, or NULL.
    let name = unsafe { arguments::text(ifname) };
    answer(open(ctxp, || Ok(Context::open(name?)?)))
}

/// As netgpu_open_ctx(), for a context that receives into buffers of `buffer_size` bytes: a power of two from 4096, which
/// netgpu_open_ctx() takes, to 131072. The payload of many packets shares a larger one, which is less work for all;
/// but one comes back only when all pieces in it were given back. Some drivers have none, which netgpu_open_ifq() finds out. What is attached consists of whole buffers, each in one piece for the device: of memory of the host,
/// MEMTYPE_HUGE, or any behind an IOMMU; of memory of a GPU, pieces are 64 KiB as a rule.
///
/// Returns what netgpu_open_ctx() returns, or: -EINVAL, there are no buffers of that size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn netgpu_open_ctx_buffers(
    ctxp: Option<&mut MaybeUninit<Option<Box<netgpu_ctx>>>>,
    ifname: *const c_char,
    buffer_size: usize,
) -> c_int {
    // SAFETY: What C owes: it is a string, or NULL.
    let name = unsafe { arguments::text(ifname) };
    answer(open(ctxp, || {
        Ok(Context::with_buffers(name?, buffer_size)?)
    }))
}

fn open(
    ctxp: Option<&mut MaybeUninit<Option<Box<netgpu_ctx>>>>,
    make: impl FnOnce() -> Result<Context, Failure>,
) -> Result<c_int, Failure> {
    let ctxp = ctxp.ok_or(NO_CONTEXT)?;
    ctxp.write(None);
    let context = make()?;
    ctxp.write(Some(Box::new(netgpu_ctx { context })));
    Ok(0)
}

/// Drops the context and sets `*ctxp` to NULL. Its queues and sockets can be used until they are closed; then the kernel lets go
/// of the memory that was attached.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_close_ctx(ctxp: Option<&mut Option<Box<netgpu_ctx>>>) {
    if let Some(ctxp) = ctxp {
        *ctxp = None;
    }
}

/// Maps span `idx` of `mem` for DMA by the context's device. The device can then send from it, and receive into what is given to a
/// queue of the context. An area can be attached to several contexts, and closed.
///
/// Returns 0, or: -ENOENT, there is no such span; -EEXIST, it is attached to this context already; -EINVAL, it does not consist of
/// whole buffers of the context; -EIO, the device does not reach the memory without bounce buffers, or not in pieces of whole
/// buffers; -ENODEV, the device is gone; -ENOSPC, too many spans are attached.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_attach_region(
    ctx: Option<&mut netgpu_ctx>,
    mem: Option<&mut netgpu_mem>,
    idx: c_int,
) -> c_int {
    let attach = || {
        let ctx = ctx.ok_or(NO_CONTEXT)?;
        let mem = mem.ok_or(crate::area::NO_AREA)?;
        ctx.context.attach(mem.region(idx)?)?;
        Ok(0)
    };
    answer(attach())
}

/// netgpu_add_memarea() and netgpu_attach_region() in one, with an area of the context's own.
///
/// Returns 0, or what those two return; then nothing has changed.
#[unsafe(no_mangle)]
pub extern "C" fn netgpu_register_memory(
    ctx: Option<&mut netgpu_ctx>,
    va: *mut c_void,
    size: usize,
    memtype: Memtype,
) -> c_int {
    let register = || {
        let ctx = ctx.ok_or(NO_CONTEXT)?;
        // The context keeps the region, and that its area. One for all could not give a region back that cannot be attached.
        let area = MemoryArea::new()?;
        ctx.context.attach(&add(&area, va, size, memtype)?)?;
        Ok(0)
    };
    answer(register())
}
