// SPDX-License-Identifier: GPL-2.0

//! Sockets, and state that a socket's lock guards.

use super::{
    abi,
    late::Late,
    pages::Map,
    skb,
    trace,
    ulp::Ulp, //
};
use crate::{
    rx,
    socket::{
        Locked as State,
        Socket, //
    },
    stats::OfContext, //
};
use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        code::ECONNABORTED,
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_uint, //
    },
    prelude::*,
    sync::rcu, //
};

/// The file of a TCP socket, as long as somebody works with its descriptor.
///
/// # Invariants
///
/// Holds a reference to the file of `socket`.
pub(crate) struct SocketFile {
    socket: NonNull<abi::socket>,
}

impl SocketFile {
    /// Looks up `fd` in the current process.
    pub(crate) fn get(fd: i32) -> Result<Self> {
        let mut err = 0;
        // SAFETY: Process context: user space is asking.
        let socket = unsafe { abi::sockfd_lookup(fd, &mut err) };
        let Some(socket) = NonNull::new(socket) else {
            return Err(Error::from_errno(err));
        };
        // INVARIANT: From the call above.
        let this = Self { socket };
        // SAFETY: The socket lives while its file does.
        if !unsafe { abi::netgpu_sk_is_tcp(this.sk().as_ptr()) } {
            return Err(EOPNOTSUPP);
        }
        Ok(this)
    }

    pub(super) fn as_raw(&self) -> *mut abi::socket {
        self.socket.as_ptr()
    }

    /// The socket itself, which lives while its file does.
    pub(super) fn sk(&self) -> NonNull<abi::sock> {
        // SAFETY: By the type invariants; a socket that has a file has this too.
        unsafe { NonNull::new_unchecked((*self.as_raw()).sk) }
    }

    /// A reference to the socket itself.
    pub(crate) fn sock(&self) -> Sock {
        // SAFETY: By the type invariants the socket lives while its file does.
        unsafe { Sock::hold(self.sk()) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::fput((*self.as_raw()).file.cast()) };
    }
}

/// A reference to a socket, which keeps its memory but not its connection.
///
/// # Invariants
///
/// Holds a reference to the socket's memory.
pub(crate) struct Sock(NonNull<abi::sock>);

// SAFETY: Socket references belong to no thread.
unsafe impl Send for Sock {}
// SAFETY: The methods are safe to call in parallel.
unsafe impl Sync for Sock {}

impl Sock {
    /// # Safety
    ///
    /// `sk` is a socket that somebody holds.
    pub(super) unsafe fn hold(sk: NonNull<abi::sock>) -> Self {
        // SAFETY: By this function's requirements.
        unsafe { abi::netgpu_sock_hold(sk.as_ptr()) };
        // INVARIANT: Taken by the call above.
        Self(sk)
    }

    /// Detaches the socket from `socket` and aborts a connection that needs it. False: it was detached already. Sleeps.
    pub(crate) fn abort(&self, socket: &Late<Socket>) -> bool {
        let sk = self.0.as_ptr();
        let mine = |locked: &LockedSocket<'_>| locked.socket().as_raw() == socket.as_raw();
        // SAFETY: By the type invariants; process context by the caller, who may sleep.
        let mut lock = unsafe { SockLock::new(self.0) };
        let Some(mut locked) = lock.attached().filter(mine) else {
            return false;
        };
        let unfinished = crate::socket::unfinished(&mut locked);
        // Before it is detached: nobody is to read from the connection as an ordinary one. And not by disconnect(), during which
        // there is another error to be seen.
        let mut reset = false;
        if unfinished {
            drop(lock);
            reset = self.reset();
            // SAFETY: As above.
            lock = unsafe { SockLock::new(self.0) };
            let Some(again) = lock.attached().filter(mine) else {
                return false;
            };
            locked = again;
        }
        let base = locked.ulp.base();
        let context = locked.detach();
        if let Some(context) = &context {
            trace::detach(context.id(), socket.id(), unfinished);
        }
        if unfinished {
            if let Some(context) = &context {
                context.stats().add(OfContext::Aborted, 1);
            }
            // Threads that wait for room are to see that there is no connection, whoever takes the error.
            // SAFETY: The socket is locked.
            unsafe { (*sk).sk_disconnects = (*sk).sk_disconnects.wrapping_add(1) };
            // Takes what was received.
            // SAFETY: `base` is the socket's protocol.
            if let Some(disconnect) = unsafe { (*base).disconnect } {
                // SAFETY: As above, and the socket is locked.
                unsafe { disconnect(sk, 0) };
            }
        }
        if unfinished && !reset {
            // SAFETY: The socket is locked.
            unsafe {
                (&raw mut (*sk).sk_err).write_volatile(-ECONNABORTED.to_errno());
                abi::sk_error_report(sk);
            }
        }
        true
    }

    /// Whether packets that are to be sent, or that the peer has not acknowledged, refer to `map`. Sleeps.
    pub(crate) fn sends_from(&self, map: &Map) -> bool {
        // SAFETY: By the type invariants; process context by the caller, who may sleep.
        let _lock = unsafe { SockLock::new(self.0) };
        // SAFETY: By the type invariants it is a TCP socket, and it is locked.
        unsafe { skb::unacknowledged(self.0.as_ptr(), |buffer| buffer.is_of(map)) }
    }

    /// Resets the connection, also one that goes on after its socket was closed. False: there is none any more. Sleeps.
    pub(crate) fn reset(&self) -> bool {
        // SAFETY: By the type invariants; process context by the caller, who may sleep.
        unsafe { abi::tcp_abort(self.0.as_ptr(), -ECONNABORTED.to_errno()) == 0 }
    }

    /// Number of its inode, 0 after it was closed.
    pub(crate) fn inode(&self) -> u64 {
        // SAFETY: By the type invariants. It may change meanwhile, as a whole.
        unsafe { (&raw const (*self.0.as_ptr()).sk_ino).read_volatile() }
    }

    /// Wakes who polls the socket for completions. Any context, also after the socket was closed.
    pub(crate) fn wake(&self) {
        let _guard = rcu::read_lock();
        // SAFETY: By the type invariants; the queue goes a grace period after it was taken from the socket.
        unsafe {
            let wq = (&raw const (*self.0.as_ptr()).__bindgen_anon_1.sk_wq).read_volatile();
            if abi::netgpu_skwq_has_sleeper(wq) {
                let key = core::ptr::without_provenance_mut(abi::NETGPU_POLL_READABLE as usize);
                let _ = abi::__wake_up(&raw mut (*wq).wait, abi::TASK_INTERRUPTIBLE, 1, key);
            }
        }
    }
}

impl Drop for Sock {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_sock_put(self.0.as_ptr()) };
    }
}

/// The lock of a socket, held by the current task.
///
/// # Invariants
///
/// The task owns the lock of `sk`.
pub(super) struct SockLock(NonNull<abi::sock>);

impl SockLock {
    /// Takes the lock. Sleeps.
    ///
    /// # Safety
    ///
    /// `sk` is a socket that somebody holds for as long as the result lives.
    pub(super) unsafe fn new(sk: NonNull<abi::sock>) -> Self {
        // SAFETY: By this function's requirements.
        unsafe { abi::lock_sock_nested(sk.as_ptr(), 0) };
        // INVARIANT: Locked by the call above.
        Self(sk)
    }

    /// Our side of the socket, if it is attached.
    pub(super) fn attached(&mut self) -> Option<LockedSocket<'_>> {
        // SAFETY: By the type invariants; a socket that is locked is not destroyed.
        let ulp = unsafe { Ulp::get(self.0) }.filter(|ulp| ulp.is_attached())?;
        // SAFETY: As above; the result borrows `self`.
        Some(unsafe { LockedSocket::new(self.0, ulp) })
    }
}

impl Drop for SockLock {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::release_sock(self.0.as_ptr()) };
    }
}

/// The lock of a socket as a softirq takes it: that a task may own it nevertheless is to be looked at.
///
/// # Invariants
///
/// Holds the spin lock that is part of it.
pub(super) struct SoftLock<'a>(&'a Sock);

impl<'a> SoftLock<'a> {
    /// Takes the lock. In softirq only.
    pub(super) fn new(sock: &'a Sock) -> Self {
        // SAFETY: By the type invariants of `Sock`.
        unsafe { abi::netgpu_bh_lock_sock(sock.0.as_ptr()) };
        // INVARIANT: Taken by the call above.
        Self(sock)
    }

    /// Whether a task owns the lock.
    pub(super) fn is_owned(&self) -> bool {
        // SAFETY: By the type invariants of `Sock`, and by ours.
        unsafe { abi::netgpu_sock_owned_by_user(self.0 .0.as_ptr()) }
    }

    /// Our side of the socket, if it is attached and no task owns the lock.
    pub(super) fn attached(&mut self) -> Option<LockedSocket<'_>> {
        if self.is_owned() {
            return None;
        }
        // SAFETY: By the type invariants, and as no task owns the lock; a socket that is locked is not destroyed.
        let ulp = unsafe { Ulp::get(self.0 .0) }.filter(|ulp| ulp.is_attached())?;
        // SAFETY: As above; the result borrows `self`.
        Some(unsafe { LockedSocket::new(self.0 .0, ulp) })
    }
}

impl Drop for SoftLock<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_bh_unlock_sock(self.0 .0.as_ptr()) };
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

/// What TCP knows of the stream that is received.
pub(crate) struct Stream {
    /// Bytes wait on the socket.
    pub(crate) waiting: bool,
    /// Its end, or an error, was reported already.
    pub(crate) told: bool,
    /// No more will come.
    pub(crate) shut: bool,
    /// There is no connection.
    pub(crate) closed: bool,
}

/// Evidence that the lock of an attached socket is held by whoever runs.
///
/// # Invariants
///
/// The lock of `sk` is held, by its owner or by a softirq, for as long as `self` lives. `ulp` is what hangs on `sk`, and is
/// attached until [`Self::detach`]. No other `LockedSocket` of the socket is in use while `self` is: functions that the
/// stack calls make one each, and code that calls into C which may call another such takes `&mut self` for that.
pub(crate) struct LockedSocket<'a> {
    sk: NonNull<abi::sock>,
    pub(super) ulp: &'a Ulp,
}

impl<'a> LockedSocket<'a> {
    /// # Safety
    ///
    /// As the invariants say.
    pub(super) unsafe fn new(sk: NonNull<abi::sock>, ulp: &'a Ulp) -> Self {
        // INVARIANT: By this function's requirements.
        Self { sk, ulp }
    }

    /// Our side of the socket.
    pub(crate) fn socket(&self) -> &'a Late<Socket> {
        self.ulp.socket()
    }

    /// The socket itself.
    pub(super) fn as_raw(&self) -> *mut abi::sock {
        self.sk.as_ptr()
    }

    /// What the lock guards.
    pub(crate) fn state(&mut self) -> &mut State {
        // SAFETY: By the type invariants the lock is held and no other `LockedSocket` is in use, so this is
        // the only way to the cell, and `&mut self` makes the reference the only one.
        unsafe { &mut *self.socket().locked.0.get() }
    }

    /// Whether it is a task that owns the lock, not a softirq that holds it.
    pub(super) fn is_owned(&self) -> bool {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_sock_owned_by_user(self.as_raw()) }
    }

    /// Bytes that wait on the socket.
    pub(super) fn waiting(&self) -> u32 {
        let tcp = self.as_raw().cast::<abi::tcp_sock>();
        // SAFETY: By the type invariants the socket is there and locked; only TCP sockets are attached.
        unsafe { (*tcp).rcv_nxt.wrapping_sub((*tcp).copied_seq) }
    }

    /// What TCP knows of the stream that is received.
    pub(crate) fn stream(&self) -> Stream {
        let sk = self.as_raw();
        // SAFETY: By the type invariants the socket is there and locked.
        let (queue, first, flags, shutdown, state) = unsafe {
            (
                &raw const (*sk).sk_receive_queue,
                (*sk)
                    .sk_receive_queue
                    .__bindgen_anon_1
                    .__bindgen_anon_1
                    .next,
                (*sk).__sk_common.__bindgen_anon_5.skc_flags,
                (*sk).sk_shutdown,
                (*sk).__sk_common.skc_state,
            )
        };
        Stream {
            // An empty queue points to itself.
            waiting: first.cast_const().cast() != queue,
            told: flags & (1 << abi::sock_flags_SOCK_DONE) != 0,
            shut: u32::from(shutdown) & abi::RCV_SHUTDOWN != 0,
            closed: u32::from(state) == abi::TCP_CLOSE,
        }
    }

    /// Takes the socket's pending error: whoever asks next does not see it.
    pub(crate) fn take_error(&mut self) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe { abi::netgpu_sock_error(self.as_raw()) })
    }

    /// Feeds what waits on the socket to [`rx::pieces`], until that stops it or all is read.
    pub(crate) fn read(&mut self) {
        let sk = self.as_raw();
        let mut desc = abi::read_descriptor_t {
            count: 1,
            arg: abi::read_descriptor_t__bindgen_ty_1 {
                data: core::ptr::from_mut(self).cast(),
            },
            ..Default::default()
        };
        // Urgent data is part of the stream, as with SO_OOBINLINE; else reading would stop in front of it for good.
        // SAFETY: By the type invariants; only TCP sockets are attached.
        unsafe { (&raw mut (*sk.cast::<abi::tcp_sock>()).urg_data).write_volatile(0) };
        // SAFETY: By the type invariants. `self` is lent to `read_actor()` meanwhile.
        let _ = unsafe { abi::tcp_read_sock(sk, &mut desc, Some(read_actor)) };
    }

    /// Wakes who polls the socket.
    pub(crate) fn wake(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { self.ulp.base_data_ready(self.sk) };
    }
}

/// Takes bytes of a packet that waits on a socket. Returns how many, or an error if it took none.
///
/// # Safety
///
/// Called below [`LockedSocket::read`], whose `desc` it is, for a packet that has these bytes.
unsafe extern "C" fn read_actor(
    desc: *mut abi::read_descriptor_t,
    packet: *mut abi::sk_buff,
    offset: c_uint,
    len: usize,
) -> c_int {
    // SAFETY: By this function's requirements it is lent to us.
    let locked = unsafe { &mut *(*desc).arg.data.cast::<LockedSocket<'_>>() };
    let mut take = |pieces: &skb::Pieces<'_>| rx::pieces(locked, pieces);
    // SAFETY: By this function's requirements. A packet has no more bytes than fit.
    let result = unsafe { skb::read(packet, offset, len as u32, &mut take) };
    from_result(|| Ok(c_int::try_from(result?)?))
}
