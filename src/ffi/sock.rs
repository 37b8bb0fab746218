// SPDX-License-Identifier: GPL-2.0

//! Sockets, and state that a socket's lock guards.

use super::{
    abi,
    device::Device,
    late::Late, //
};
use crate::socket::{
    Locked as State,
    Socket, //
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    error::to_result,
    prelude::*, //
};

pub(crate) use abi::netgpu_stream as Stream;

/// The file of a TCP socket, as long as somebody works with its descriptor.
///
/// # Invariants
///
/// Holds what `netgpu_socket_get()` gave.
pub(crate) struct SocketFile {
    file: NonNull<abi::file>,
    sk: NonNull<abi::sock>,
}

impl SocketFile {
    /// Looks up `fd` in the current process.
    pub(crate) fn get(fd: i32) -> Result<Self> {
        let mut file = core::ptr::null_mut();
        let mut sk = core::ptr::null_mut();
        // SAFETY: Process context: user space is asking.
        to_result(unsafe { abi::netgpu_socket_get(fd, &mut file, &mut sk) })?;
        // INVARIANT: From the call above.
        Ok(Self {
            file: NonNull::new(file).ok_or(EBADF)?,
            sk: NonNull::new(sk).ok_or(EBADF)?,
        })
    }

    /// A reference to the socket itself.
    pub(crate) fn sock(&self) -> Sock {
        // SAFETY: By the type invariants the socket lives while its file does.
        unsafe { abi::netgpu_sock_hold(self.sk.as_ptr()) };
        // INVARIANT: Taken by the call above.
        Sock(self.sk)
    }

    /// Attaches the socket to `device`, with `socket` as our side of it.
    pub(crate) fn attach(&self, device: &Device, socket: &Late<Socket>) -> Result {
        let raw = socket.clone().into_raw();
        // SAFETY: By the invariants of both types; the reference in `raw` goes to the shim.
        let ret = unsafe { abi::netgpu_socket_attach(self.file.as_ptr(), device.as_raw(), raw) };
        to_result(ret).inspect_err(|_| {
            // SAFETY: On failure the reference is still ours.
            drop(unsafe { Late::<Socket>::from_raw(raw) });
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_socket_put(self.file.as_ptr()) };
    }
}

/// A reference to a socket, which keeps its memory but not its connection.
///
/// # Invariants
///
/// Holds a reference of `netgpu_sock_hold()`.
pub(crate) struct Sock(NonNull<abi::sock>);

// SAFETY: Socket references belong to no thread.
unsafe impl Send for Sock {}
// SAFETY: The methods are safe to call in parallel.
unsafe impl Sync for Sock {}

impl Sock {
    /// Detaches the socket from `socket` and aborts a connection that needs it. False: it was detached already. Sleeps.
    pub(crate) fn abort(&self, socket: &Late<Socket>) -> bool {
        // SAFETY: By the type invariants; process context by the caller, who may sleep.
        unsafe { abi::netgpu_socket_abort(self.0.as_ptr(), socket.as_raw()) }
    }

    /// Resets the connection, also one that goes on after its socket was closed. Sleeps.
    pub(crate) fn reset(&self) {
        // SAFETY: By the type invariants; process context by the caller, who may sleep.
        unsafe { abi::netgpu_sock_reset(self.0.as_ptr()) };
    }

    /// Wakes who polls the socket for completions. Any context, also after the socket was closed.
    pub(crate) fn wake(&self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_tx_wake(self.0.as_ptr()) };
    }
}

impl Drop for Sock {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_sock_put(self.0.as_ptr()) };
    }
}

/// State that the lock of the socket guards; reached through [`LockedSocket`] only.
pub(crate) struct SockCell(UnsafeCell<State>);

// SAFETY: All access is under the socket's lock, see `LockedSocket`.
unsafe impl Sync for SockCell {}

impl SockCell {
    /// Wraps `state`.
    pub(crate) fn new(state: State) -> Self {
        Self(UnsafeCell::new(state))
    }
}

/// Evidence that the lock of an attached socket is held by whoever runs.
///
/// # Invariants
///
/// The lock of `sk` is held, by its owner or by a softirq, for as long as `self` lives. `sk` is attached
/// to `socket`. No other `LockedSocket` of the socket is in use while `self` is: entry points make one
/// each, and code that calls into C which may call another entry point takes `&mut self` for that.
pub(crate) struct LockedSocket<'a> {
    sk: NonNull<abi::sock>,
    socket: &'a Late<Socket>,
}

impl<'a> LockedSocket<'a> {
    /// # Safety
    ///
    /// As the invariants say.
    pub(super) unsafe fn new(sk: NonNull<abi::sock>, socket: &'a Late<Socket>) -> Self {
        // INVARIANT: By this function's requirements.
        Self { sk, socket }
    }

    /// Our side of the socket.
    pub(crate) fn socket(&self) -> &'a Late<Socket> {
        self.socket
    }

    /// The socket itself.
    pub(super) fn as_raw(&self) -> *mut abi::sock {
        self.sk.as_ptr()
    }

    /// A reference to the socket.
    pub(crate) fn sock(&self) -> Sock {
        // SAFETY: By the type invariants the socket is there.
        unsafe { abi::netgpu_sock_hold(self.sk.as_ptr()) };
        // INVARIANT: Taken by the call above.
        Sock(self.sk)
    }

    /// What the lock guards.
    pub(crate) fn state(&mut self) -> &mut State {
        // SAFETY: By the type invariants the lock is held and no other `LockedSocket` is in use, so this is
        // the only way to the cell, and `&mut self` makes the reference the only one.
        unsafe { &mut *self.socket.locked.0.get() }
    }

    /// What TCP knows of the stream that is received.
    pub(crate) fn stream(&self) -> Stream {
        let mut stream = Stream::default();
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_stream(self.sk.as_ptr(), &mut stream) };
        stream
    }

    /// Takes the socket's pending error: whoever asks next does not see it.
    pub(crate) fn take_error(&mut self) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe { abi::netgpu_sock_error(self.sk.as_ptr()) })
    }

    /// Feeds what waits on the socket to [`crate::rx::pieces`].
    pub(crate) fn read(&mut self) {
        // SAFETY: By the type invariants. The entry point that this reaches makes a `LockedSocket` while
        // `self` is lent to this call.
        unsafe { abi::netgpu_rx_read(self.sk.as_ptr(), self.socket.as_raw()) };
    }

    /// Wakes who polls the socket.
    pub(crate) fn wake(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_rx_wake(self.sk.as_ptr(), self.socket.as_raw()) };
    }
}
