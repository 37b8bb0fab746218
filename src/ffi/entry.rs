// SPDX-License-Identifier: GPL-2.0

//! What C calls. Each function turns pointers into borrows and calls a safe one; contexts and duties are
//! in `shim/netgpu_shim.h`.

use super::{
    abi,
    late::{
        Late,
        Quiet, //
    },
    pages::{
        Pieces,
        Pool, //
    },
    send::{
        self,
        Message, //
    },
    sock::LockedSocket, //
};
use crate::{
    attach::Attachment,
    context::Context,
    queue::Queue,
    rx,
    socket::Socket,
    tx, //
};
use core::ptr::NonNull;
use kernel::{
    error::from_result,
    ffi::{
        c_int,
        c_void, //
    },
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// Defines functions for C and checks them against the shim's prototypes.
macro_rules! entry_points {
    ($($(#[$doc:meta])* unsafe fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block)*) => {$(
        $(#[$doc])*
        #[no_mangle]
        unsafe extern "C" fn $name($($arg: $type),*) $(-> $ret)? $body

        const _: [unsafe extern "C" fn($($type),*) $(-> $ret)?; 2] = [$name, abi::$name];
    )*};
}

/// # Safety
///
/// `queue` is a queue that somebody holds for `'a`.
unsafe fn queue_of<'a>(queue: *mut c_void) -> ArcBorrow<'a, Queue> {
    // SAFETY: Queues reach C by `Arc::into_raw()` only; the rest is the caller's duty.
    unsafe { ArcBorrow::from_raw(queue.cast::<Queue>().cast_const()) }
}

/// Runs `f` with our side of a socket whose lock is held.
///
/// # Safety
///
/// The lock of `sk` is held and `sk` is attached to `socket`; see [`LockedSocket`].
unsafe fn with_locked<R>(
    socket: *mut c_void,
    sk: *mut abi::sock,
    f: impl FnOnce(&mut LockedSocket<'_>) -> R,
) -> Option<R> {
    // SAFETY: A socket that is attached holds a reference to its `socket`.
    let socket = unsafe { Late::<Socket>::borrow(socket) };
    let sk = NonNull::new(sk)?;
    // SAFETY: By this function's requirements.
    Some(f(&mut unsafe { LockedSocket::new(sk, &socket) }))
}

entry_points! {
    /// # Safety
    ///
    /// `context` is a context; the caller holds another reference to it.
    unsafe fn netgpu_context_get(context: *mut c_void) {
        // SAFETY: By this function's requirements.
        let context = unsafe { Late::<Context>::borrow(context) };
        let _ = (*context).clone().into_raw();
    }

    /// # Safety
    ///
    /// `context` is a context; gives up a reference of [`netgpu_context_get`].
    unsafe fn netgpu_context_put(context: *mut c_void) {
        // SAFETY: By this function's requirements.
        drop(unsafe { Late::<Context>::from_raw(context) });
    }

    /// # Safety
    ///
    /// `context` is a context that watches its device, which is shut down.
    unsafe fn netgpu_device_gone(context: *mut c_void) {
        // SAFETY: A context stops watching while the last reference to it is still there.
        let context = unsafe { Late::<Context>::borrow(context) };
        // SAFETY: By this function's requirements.
        context.device_gone(unsafe { Quiet::new() });
    }

    /// # Safety
    ///
    /// `queue` is a queue that is being opened or open, and so held.
    unsafe fn netgpu_pool_init(queue: *mut c_void, dma: *const c_void, usable: bool) -> c_int {
        // SAFETY: By this function's requirements.
        let queue = unsafe { queue_of(queue) };
        from_result(|| {
            queue.check_pool(dma, usable)?;
            let _ = Arc::into_raw(Arc::from(queue));
            Ok(0)
        })
    }

    /// # Safety
    ///
    /// `queue` is a queue; gives up a reference of [`netgpu_pool_init`].
    unsafe fn netgpu_pool_destroy(queue: *mut c_void) {
        // SAFETY: By this function's requirements.
        drop(unsafe { Arc::from_raw(queue.cast::<Queue>().cast_const()) });
    }

    /// # Safety
    ///
    /// `queue` is held by `pool`, whose alloc op is running with room for `max` buffers.
    unsafe fn netgpu_pool_refill(queue: *mut c_void, pool: *mut abi::page_pool, max: u32) -> u32 {
        let Some(pool) = NonNull::new(pool) else {
            return 0;
        };
        // SAFETY: By this function's requirements.
        unsafe { queue_of(queue).refill(&Pool::new(pool), max) }
    }

    /// # Safety
    ///
    /// `attachment` owns the buffer at `index`, which the pool gives back.
    unsafe fn netgpu_pool_release(attachment: *mut c_void, index: u32) {
        // SAFETY: Its context owns the attachment, and is held by the pool's queue.
        unsafe { &*attachment.cast::<Attachment>() }.free(index);
    }

    /// # Safety
    ///
    /// `queue` is a queue; gives up the reference of the device.
    unsafe fn netgpu_queue_uninstalled(queue: *mut c_void) {
        // SAFETY: By this function's requirements.
        drop(unsafe { Arc::from_raw(queue.cast::<Queue>().cast_const()) });
    }

    /// # Safety
    ///
    /// See [`with_locked`].
    unsafe fn netgpu_socket_unfinished(socket: *mut c_void, sk: *mut abi::sock) -> bool {
        // SAFETY: By this function's requirements.
        unsafe { with_locked(socket, sk, crate::socket::unfinished) }.unwrap_or(true)
    }

    /// # Safety
    ///
    /// See [`with_locked`].
    unsafe fn netgpu_socket_attached(socket: *mut c_void, sk: *mut abi::sock) {
        // SAFETY: By this function's requirements.
        let _ = unsafe { with_locked(socket, sk, crate::socket::attached) };
    }

    /// # Safety
    ///
    /// See [`with_locked`]; the last call of its kind.
    unsafe fn netgpu_socket_detached(socket: *mut c_void, sk: *mut abi::sock) -> *mut c_void {
        // SAFETY: By this function's requirements.
        unsafe { with_locked(socket, sk, crate::socket::detached) }
            .flatten()
            .map_or(core::ptr::null_mut(), Late::into_raw)
    }

    /// # Safety
    ///
    /// `socket` is our side of a socket that has not been destroyed; `context` is what [`netgpu_socket_detached`] returned.
    unsafe fn netgpu_socket_closed(socket: *mut c_void, context: *mut c_void) {
        // SAFETY: By this function's requirements; the socket holds its reference until it is destroyed.
        let socket = unsafe { Late::<Socket>::borrow(socket) };
        // SAFETY: By this function's requirements.
        unsafe { Late::<Context>::from_raw(context) }.forget(&socket);
    }

    /// # Safety
    ///
    /// `socket` is our side of a socket; gives up the reference of `netgpu_socket_attach()`.
    unsafe fn netgpu_socket_released(socket: *mut c_void) {
        // SAFETY: By this function's requirements.
        drop(unsafe { Late::<Socket>::from_raw(socket) });
    }

    /// # Safety
    ///
    /// See [`with_locked`].
    unsafe fn netgpu_rx_ready(socket: *mut c_void, sk: *mut abi::sock) {
        // SAFETY: By this function's requirements.
        let _ = unsafe { with_locked(socket, sk, rx::ready) };
    }

    /// # Safety
    ///
    /// See [`with_locked`]; `pieces` are `n` pieces of a packet that is being read.
    unsafe fn netgpu_rx_pieces(
        socket: *mut c_void,
        sk: *mut abi::sock,
        pieces: *const abi::netgpu_piece,
        n: u32,
    ) -> c_int {
        // SAFETY: By this function's requirements.
        let pieces = unsafe { core::slice::from_raw_parts(pieces, n as usize) };
        // SAFETY: As above.
        let pieces = unsafe { Pieces::new(pieces) };
        from_result(|| {
            // SAFETY: As above.
            unsafe { with_locked(socket, sk, |locked| rx::pieces(locked, &pieces)) }
                .ok_or(EINVAL)?
                .and_then(|taken| Ok(c_int::try_from(taken)?))
        })
    }

    /// # Safety
    ///
    /// See [`with_locked`].
    unsafe fn netgpu_rx_recv(socket: *mut c_void, sk: *mut abi::sock) -> c_int {
        from_result(|| {
            // SAFETY: By this function's requirements.
            unsafe { with_locked(socket, sk, rx::recv) }
                .ok_or(EINVAL)?
                .map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// `socket` is our side of a socket that has not been destroyed.
    unsafe fn netgpu_rx_readable(socket: *mut c_void) -> bool {
        // SAFETY: By this function's requirements.
        unsafe { Late::<Socket>::borrow(socket) }.readable()
    }

    /// # Safety
    ///
    /// `socket` is our side of a socket that has not been destroyed.
    unsafe fn netgpu_rx_enabled(socket: *mut c_void) -> bool {
        // SAFETY: By this function's requirements.
        unsafe { Late::<Socket>::borrow(socket) }.has_rx()
    }

    /// # Safety
    ///
    /// `socket` is our side of a socket that has not been destroyed.
    unsafe fn netgpu_tx_enabled(socket: *mut c_void) -> bool {
        // SAFETY: By this function's requirements.
        unsafe { Late::<Socket>::borrow(socket) }.completions().is_some()
    }

    /// # Safety
    ///
    /// See [`with_locked`]; `msg` is a message of `size` bytes at user addresses.
    unsafe fn netgpu_tx_send(
        socket: *mut c_void,
        sk: *mut abi::sock,
        msg: *mut abi::msghdr,
        size: usize,
    ) -> c_int {
        // SAFETY: By this function's requirements; nobody else uses the message before we return.
        let mut message = unsafe { Message::new(&mut *msg, size) };
        from_result(|| {
            // SAFETY: By this function's requirements.
            unsafe { with_locked(socket, sk, |locked| tx::send(locked, &mut message)) }
                .ok_or(EINVAL)?
                .and_then(|queued| Ok(c_int::try_from(queued)?))
        })
    }

    /// # Safety
    ///
    /// `context` is a context that somebody holds.
    unsafe fn netgpu_tx_contains(context: *mut c_void, addr: usize, len: usize) -> bool {
        // SAFETY: By this function's requirements.
        unsafe { send::contains(context, addr, len) }
    }

    /// # Safety
    ///
    /// `ubuf` is a send of which the caller holds a reference; `spans` has room for `max`.
    unsafe fn netgpu_tx_spans(
        ubuf: *mut abi::netgpu_ubuf,
        addr: usize,
        len: usize,
        spans: *mut abi::netgpu_span,
        max: u32,
    ) -> u32 {
        // SAFETY: By this function's requirements. The result is at most `max`.
        unsafe { send::fill(send::borrow(ubuf), addr, len, spans, max as usize) as u32 }
    }

    /// # Safety
    ///
    /// `ubuf` is a send of which the caller holds a reference.
    unsafe fn netgpu_tx_copied(ubuf: *mut abi::netgpu_ubuf) {
        // SAFETY: By this function's requirements.
        unsafe { send::borrow(ubuf) }.copied();
    }

    /// # Safety
    ///
    /// `ubuf` is a send whose last reference has been dropped.
    unsafe fn netgpu_tx_done(ubuf: *mut abi::netgpu_ubuf) {
        // SAFETY: By this function's requirements.
        unsafe { send::done(ubuf) };
    }
}
