// SPDX-License-Identifier: GPL-2.0

//! Sends as the stack sees them, and the messages that they are made of.

use super::{
    abi,
    device::Device,
    late::Late,
    sock::LockedSocket, //
};
use crate::{
    context::Context,
    tx::{
        self,
        Send, //
    }, //
};
use core::{
    cell::UnsafeCell,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*, //
};

/// A send: the stack's `struct ubuf_info`, and ours behind it.
#[repr(C)]
struct Ubuf {
    head: UnsafeCell<abi::netgpu_ubuf>,
    send: Send,
}

/// The sender's reference to its send.
///
/// # Invariants
///
/// Holds an [`Ubuf`] from `KBox::into_raw()` that `netgpu_ubuf_init()` initialised, and the reference that
/// came with it. [`done`] frees it after the last reference.
pub(crate) struct SendRef(NonNull<Ubuf>);

impl SendRef {
    /// Makes `send` something that packets can refer to. [`Send::done`] is called after the last reference.
    pub(crate) fn new(send: Send) -> Result<Self> {
        let ubuf = KBox::new(
            Ubuf {
                head: UnsafeCell::new(Default::default()),
                send,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let ubuf = NonNull::from(KBox::leak(ubuf));
        // SAFETY: `head` is at the start of the allocation, which nobody else knows yet.
        unsafe { abi::netgpu_ubuf_init(ubuf.as_ptr().cast()) };
        // INVARIANT: `leak()` is `into_raw()` by another name; initialised by the call above.
        Ok(Self(ubuf))
    }
}

impl Deref for SendRef {
    type Target = Send;

    fn deref(&self) -> &Send {
        // SAFETY: By the type invariants the allocation is there, and `send` is only ever borrowed shared.
        unsafe { &(*self.0.as_ptr()).send }
    }
}

impl Drop for SendRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants the reference is ours.
        unsafe { abi::netgpu_ubuf_put(self.0.as_ptr().cast()) };
    }
}

/// The send that the stack knows as `ubuf`.
///
/// # Safety
///
/// `ubuf` is the head of an [`Ubuf`] of which the caller holds a reference for `'a`.
pub(super) unsafe fn borrow<'a>(ubuf: *mut abi::netgpu_ubuf) -> &'a Send {
    // SAFETY: By this function's requirements; `send` is only ever borrowed shared.
    unsafe { &(*ubuf.cast::<Ubuf>()).send }
}

/// Ends the send that the stack knows as `ubuf`.
///
/// # Safety
///
/// `ubuf` is the head of an [`Ubuf`] whose last reference has been dropped.
pub(super) unsafe fn done(ubuf: *mut abi::netgpu_ubuf) {
    // SAFETY: By the invariants of `SendRef` it is from `KBox::into_raw()`, and by this function's requirements
    // nobody else refers to it.
    let ubuf = unsafe { KBox::from_raw(ubuf.cast::<Ubuf>()) };
    ubuf.send.done();
}

/// Writes the parts of the `len` bytes at `addr` to `spans`, as far as there is room, and returns how many.
///
/// # Safety
///
/// `spans` has room for `max`.
pub(super) unsafe fn fill(
    send: &Send,
    addr: usize,
    len: usize,
    spans: *mut abi::netgpu_span,
    max: usize,
) -> usize {
    let mut n = 0;
    send.spans(addr, len, |span| {
        if n == max {
            return false;
        }
        // SAFETY: `n` is below `max`, for which there is room.
        unsafe {
            spans.add(n).write(abi::netgpu_span {
                map: span.attachment.map.as_raw(),
                index: span.index,
                offset: span.offset,
                len: span.len,
                reserved: 0,
            })
        };
        n += 1;
        true
    });
    n
}

/// A message of sendmsg(2).
///
/// # Invariants
///
/// Holds a message of `size` bytes whose addresses are user addresses, for as long as `'a`.
pub(crate) struct Message<'a> {
    raw: &'a mut abi::msghdr,
    size: usize,
}

impl<'a> Message<'a> {
    /// # Safety
    ///
    /// As the invariants say.
    pub(super) unsafe fn new(raw: &'a mut abi::msghdr, size: usize) -> Self {
        // INVARIANT: By this function's requirements.
        Self { raw, size }
    }

    /// Whether all bytes of the message lie in regions of `context`.
    pub(crate) fn lies_within(&self, context: &Late<Context>) -> bool {
        // SAFETY: By the type invariants; `contains()` gets the context back.
        unsafe { abi::netgpu_msg_within(self.raw, context.as_raw()) }
    }
}

/// What [`Message::lies_within`] asks of each span of addresses.
///
/// # Safety
///
/// `context` is a context that somebody holds.
pub(super) unsafe fn contains(context: *mut c_void, addr: usize, len: usize) -> bool {
    // SAFETY: By this function's requirements.
    let context = unsafe { Late::<Context>::borrow(context) };
    tx::contains(&context, addr, len)
}

impl LockedSocket<'_> {
    /// Whether the connection, if there is one yet, leads over `device`, which takes what we send.
    pub(crate) fn routed_over(&self, device: &Device) -> bool {
        // SAFETY: By the invariants of both types.
        unsafe { abi::netgpu_tx_routed(self.as_raw(), device.as_raw()) }
    }

    /// Queues `message`, in packets that refer to `send`. Returns how many bytes. Lets go of the socket's lock while it waits for
    /// room.
    pub(crate) fn queue(&mut self, message: &mut Message<'_>, send: &SendRef) -> Result<u32> {
        // SAFETY: By the type invariants of all three. Entry points that run while the lock is not held make a
        // `LockedSocket` of their own while `self` is lent to this call.
        let ret = unsafe {
            abi::netgpu_tx_queue(
                self.as_raw(),
                message.raw,
                message.size,
                send.0.as_ptr().cast(),
            )
        };
        to_result(ret)?;
        Ok(ret.unsigned_abs())
    }
}
