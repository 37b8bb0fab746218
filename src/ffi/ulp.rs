// SPDX-License-Identifier: GPL-2.0

//! The TCP upper layer protocol: how a socket becomes ours and stops being it, and what it does meanwhile.

use super::{
    abi,
    device::Device,
    late::Late,
    send::Message,
    sock::{
        LockedSocket,
        Sock,
        SockLock,
        SocketFile, //
    },
    soon::Soon,
    trace, //
};
use crate::{
    context::Context,
    rx,
    socket::{
        self,
        Socket, //
    },
    tx,
    LocalModule, //
};
use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    error::{
        code::{
            ECONNABORTED,
            EXDEV, //
        },
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_long,
        c_void, //
    },
    module::this_module,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed,
            Release, //
        },
        global_lock,
        Arc, //
    },
    task::Task,
    types::Opaque, //
};

/// What a socket calls on new bytes.
type DataReady = unsafe extern "C" fn(*mut abi::sock);

/// What hangs on a socket of ours, from attaching until the socket is destroyed.
///
/// # Invariants
///
/// `base` is the protocol that the socket had before it was attached, and `data_ready` its callback.
pub(super) struct Ulp {
    base: *const abi::proto,
    data_ready: Option<DataReady>,
    socket: Late<Socket>,
    /// What delivers, if the socket has an rx ring.
    soon: Option<Arc<Soon>>,
    /// Guarded by the socket lock.
    attached: Atomic<bool>,
}

impl Ulp {
    /// What hangs on a socket, or null.
    ///
    /// # Safety
    ///
    /// `sk` is a TCP socket that has no ULP or ours.
    unsafe fn as_raw(sk: *mut abi::sock) -> *mut Self {
        let icsk = sk.cast::<abi::inet_connection_sock>();
        // SAFETY: By this function's requirements; the field changes as a whole.
        unsafe { (&raw const (*icsk).icsk_ulp_data).read_volatile() }.cast()
    }

    /// What hangs on a socket.
    ///
    /// # Safety
    ///
    /// `sk` is a TCP socket that has no ULP or ours, and is not destroyed while `'a` lasts.
    pub(super) unsafe fn get<'a>(sk: NonNull<abi::sock>) -> Option<&'a Self> {
        // SAFETY: By this function's requirements; it goes when the socket is destroyed.
        unsafe { Self::as_raw(sk.as_ptr()).as_ref() }
    }

    /// What hangs on a socket that has been attached.
    ///
    /// # Safety
    ///
    /// As [`Self::get`] says, and the ULP is ours.
    unsafe fn of<'a>(sk: *mut abi::sock) -> (NonNull<abi::sock>, &'a Self) {
        // SAFETY: By this function's requirements; from attaching until the socket is destroyed there is one.
        unsafe {
            let sk = NonNull::new_unchecked(sk);
            (sk, Self::get(sk).unwrap_unchecked())
        }
    }

    /// Our side of the socket.
    pub(super) fn socket(&self) -> &Late<Socket> {
        &self.socket
    }

    /// The protocol's own functions.
    pub(super) fn base(&self) -> *const abi::proto {
        self.base
    }

    /// Whether the socket is attached. Settled under its lock.
    pub(super) fn is_attached(&self) -> bool {
        self.attached.load(Relaxed)
    }

    /// Does what the socket did on new bytes before it was attached.
    ///
    /// # Safety
    ///
    /// `self` hangs on `sk`, whose lock is held.
    pub(super) unsafe fn base_data_ready(&self, sk: NonNull<abi::sock>) {
        if let Some(data_ready) = self.data_ready {
            // SAFETY: By the type invariants and this function's requirements.
            unsafe { data_ready(sk.as_ptr()) };
        }
    }
}

/// Makes a socket ours: protocol and callback, which are looked at without its lock, and whose the callback is. False: it is another's
/// already, and nothing was written.
///
/// # Safety
///
/// `sk` is there and locked. `ulp` hangs on it, and `proto` will do for it.
unsafe fn take(sk: *mut abi::sock, ulp: *mut Ulp, proto: *const abi::proto) -> bool {
    // SAFETY: By this function's requirements.
    unsafe {
        abi::netgpu_write_lock_bh(&raw mut (*sk).sk_callback_lock);
        let free = (*sk).sk_user_data.is_null();
        if free {
            (&raw mut (*sk).sk_user_data).write_volatile(owner(ulp));
            (*sk).sk_data_ready = Some(data_ready);
            (&raw mut (*sk).__sk_common.skc_prot).write_volatile(proto.cast_mut());
        }
        abi::netgpu_write_unlock_bh(&raw mut (*sk).sk_callback_lock);
        free
    }
}

/// The opposite of [`take`]. Nobody else writes the protocol while the socket has a ULP. Its callback others have taken without a look at
/// whose it is, as iSCSI does; they have it yet, or have put ours there again.
///
/// # Safety
///
/// `sk` is there and locked, and has been taken. `ulp` hangs on it.
unsafe fn give_back(sk: *mut abi::sock, ulp: &Ulp) {
    let ours = owner(core::ptr::from_ref(ulp).cast_mut());
    // SAFETY: By this function's requirements; the socket gets back what it had.
    unsafe {
        abi::netgpu_write_lock_bh(&raw mut (*sk).sk_callback_lock);
        if (*sk).sk_user_data == ours {
            (&raw mut (*sk).sk_user_data).write_volatile(core::ptr::null_mut());
        }
        let is_ours = |here| core::ptr::fn_addr_eq::<DataReady, DataReady>(here, data_ready);
        if (*sk).sk_data_ready.is_some_and(is_ours) {
            (*sk).sk_data_ready = ulp.data_ready;
        }
        (&raw mut (*sk).__sk_common.skc_prot).write_volatile(ulp.base.cast_mut());
        abi::netgpu_write_unlock_bh(&raw mut (*sk).sk_callback_lock);
    }
}

/// What says in `sk_user_data` that the callback of a socket is ours: who else wants to have it (KCM, sockmap) looks there first. Nobody
/// follows it: it is not of those that its flags tell of, and no copy of the socket gets it.
fn owner(ulp: *mut Ulp) -> *mut c_void {
    ulp.map_addr(|addr| addr | abi::SK_USER_DATA_NOCOPY as usize)
        .cast()
}

/// The protocols that sockets come with, and a copy of each with functions of ours.
///
/// # Invariants
///
/// `ours` is written by [`Registration::new`] only, before any socket can be attached.
struct Proto {
    base: *mut abi::proto,
    ours: UnsafeCell<MaybeUninit<abi::proto>>,
}

// SAFETY: By the type invariants nothing of it changes while others see it.
unsafe impl Sync for Proto {}

impl Proto {
    const fn new(base: *mut abi::proto) -> Self {
        Self {
            base,
            ours: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Makes the copy.
    ///
    /// # Safety
    ///
    /// Nobody else sees it yet.
    unsafe fn fill(&self) {
        let ours = self.ours.get().cast::<abi::proto>();
        // SAFETY: By this function's requirements; `base` is a protocol of the kernel.
        unsafe {
            ours.copy_from_nonoverlapping(self.base, 1);
            (*ours).close = Some(close);
            (*ours).recvmsg = Some(netgpu_recvmsg);
            (*ours).sendmsg = Some(netgpu_sendmsg);
            (*ours).sock_is_readable = Some(sock_is_readable);
            (*ours).release_cb = Some(release_cb);
        }
    }
}

static PROTOS: [Proto; 1 + cfg!(CONFIG_IPV6) as usize] = [
    Proto::new(&raw mut abi::tcp_prot),
    #[cfg(CONFIG_IPV6)]
    Proto::new(&raw mut abi::tcpv6_prot),
];

struct Ops(Opaque<abi::tcp_ulp_ops>);

// SAFETY: Written by `Registration::new()` only, and then TCP's.
unsafe impl Sync for Ops {}

static OPS: Ops = Ops(Opaque::zeroed());

/// The TCP upper layer protocol's registration.
///
/// # Invariants
///
/// The only one, and [`OPS`] are registered.
pub(crate) struct Registration(());

impl Registration {
    /// Registers the protocol; sockets can be attached from here on. For module init, once.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: Module init calls us once, before anyone attaches a socket.
        unsafe { UNDERWAY.init() };
        for proto in &PROTOS {
            // SAFETY: As above.
            unsafe { proto.fill() };
        }
        let mut name = [0; 16];
        for (to, from) in name.iter_mut().zip(abi::NETGPU_ULP_NAME) {
            *to = *from;
        }
        let ops = abi::tcp_ulp_ops {
            init: Some(netgpu_ulp_init),
            release: Some(release),
            name,
            owner: this_module::<LocalModule>().as_ptr().cast(),
            ..Default::default()
        };
        // SAFETY: Nobody knows the operations before they are registered.
        unsafe { OPS.0.get().write(ops) };
        // SAFETY: They stay until the module goes.
        to_result(unsafe { abi::tcp_register_ulp(OPS.0.get()) })?;
        // INVARIANT: Registered just now.
        Ok(Self(()))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. Each socket of the protocol holds the module, so there is none.
        unsafe { abi::tcp_unregister_ulp(OPS.0.get()) };
        // Whoever gave up the last reference may be in code of the module yet, on its way out. That has waited for those in softirq; these
        // are tasks, preempted there.
        // SAFETY: This is a task, which may sleep.
        unsafe { abi::netgpu_synchronize_rcu_tasks() };
    }
}

/// What [`netgpu_ulp_init`] is to attach.
struct Attach<'a> {
    sk: NonNull<abi::sock>,
    netdev: *mut abi::net_device,
    socket: &'a Late<Socket>,
}

/// An attach that is under way.
struct Underway {
    task: *mut bindings::task_struct,
    /// The [`Attach`], which the task keeps on its stack.
    attach: *const c_void,
}

// SAFETY: Pointers, which only the task itself follows.
unsafe impl Send for Underway {}

global_lock! {
    /// The attaches that are under way. ULP init has no argument: it knows its own attach by the task and the socket. Held to look at
    /// them only: an attach waits for the lock of its socket, which a program may keep for as long as it likes.
    unsafe(uninit) static UNDERWAY: Mutex<KVec<Underway>> = KVec::new();
}

impl SocketFile {
    /// Attaches the socket to `device`, with `socket` as our side of it.
    pub(crate) fn attach(&self, device: &Device, socket: &Late<Socket>) -> Result {
        let netdev = device.netdev()?;
        let attach = Attach {
            sk: self.sk(),
            netdev: netdev.as_raw(),
            socket,
        };
        let mut name = *abi::NETGPU_ULP_NAME;
        let mut value = abi::sockptr_t {
            __bindgen_anon_1: abi::sockptr_t__bindgen_ty_1 {
                kernel: name.as_mut_ptr().cast(),
            },
            ..Default::default()
        };
        value.set_is_kernel(true);

        let task = Task::current_raw();
        let underway = Underway {
            task,
            attach: (&raw const attach).cast(),
        };
        UNDERWAY.lock().push(underway, GFP_KERNEL)?;
        let raw = self.as_raw();
        // SAFETY: The socket lives while its file does, and its operations with it.
        let result = match unsafe { (*(&raw const (*raw).ops).read_volatile()).setsockopt } {
            // SAFETY: As above; the name is there, of that length.
            Some(setsockopt) => to_result(unsafe {
                setsockopt(
                    raw,
                    abi::SOL_TCP as c_int,
                    abi::TCP_ULP as c_int,
                    value,
                    name.len() as u32,
                )
            }),
            None => Err(EOPNOTSUPP),
        };
        let mut underway = UNDERWAY.lock();
        underway.retain(|here| here.task != task);
        if underway.is_empty() {
            // With its memory: the module may be next to go.
            *underway = KVec::new();
        }
        result
    }
}

/// The socket becomes ours, if the current task is attaching it.
///
/// # Safety
///
/// `sk` is a TCP socket without a ULP, and the current task owns its lock.
#[no_mangle]
unsafe extern "C" fn netgpu_ulp_init(sk: *mut abi::sock) -> c_int {
    from_result(|| {
        let task = Task::current_raw();
        let attach = UNDERWAY
            .lock()
            .iter()
            .find(|here| here.task == task)
            .map(|here| here.attach);
        // TCP_ULP from user space: a socket is attached through the context only.
        let attach = attach.ok_or(EOPNOTSUPP)?;
        // SAFETY: The task is below `SocketFile::attach()`, where what it named is still on its stack.
        let attach = unsafe { &*attach.cast::<Attach<'_>>() };
        if attach.sk.as_ptr() != sk {
            return Err(EOPNOTSUPP);
        }
        // SAFETY: By this function's requirements; the device is held by `SocketFile::attach()`.
        unsafe { start(attach) }.map(|()| 0)
    })
}

/// # Safety
///
/// `attach.sk` is a TCP socket without a ULP, and the current task owns its lock. `attach.netdev` is there.
unsafe fn start(attach: &Attach<'_>) -> Result {
    let sk = attach.sk.as_ptr();
    // SAFETY: By this function's requirements.
    let (base, bound, base_data_ready, ifindex) = unsafe {
        (
            (*sk).__sk_common.skc_prot,
            (*sk).__sk_common.skc_bound_dev_if,
            (*sk).sk_data_ready,
            (*attach.netdev).ifindex,
        )
    };
    let proto = PROTOS.iter().find(|proto| core::ptr::eq(proto.base, base));
    let proto = proto.ok_or(EOPNOTSUPP)?;
    // What lies in registered memory is not the CPU's to read.
    // SAFETY: As above.
    if unsafe { abi::netgpu_sk_is_signed(sk) } {
        return Err(EOPNOTSUPP);
    }
    // SAFETY: As above.
    let near = unsafe { abi::netgpu_sock_net(sk) == abi::netgpu_dev_net(attach.netdev) };
    if !near || (bound != 0 && bound != ifindex) {
        return Err(EXDEV);
    }
    let soon = match attach.socket.has_rx() {
        // SAFETY: As above.
        true => Some(Soon::new(unsafe { Sock::hold(attach.sk) })?),
        false => None,
    };
    // INVARIANT: As the socket has it.
    let ulp = KBox::new(
        Ulp {
            base,
            data_ready: base_data_ready,
            socket: attach.socket.clone(),
            soon,
            attached: Atomic::new(true),
        },
        GFP_KERNEL_ACCOUNT,
    )?;

    let ulp = KBox::into_raw(ulp);
    // SAFETY: By this function's requirements. The protocol is the copy of the one that the socket has, and `release()` takes
    // back what hangs on the socket from here on.
    unsafe {
        set_ulp_data(sk, ulp);
        if !take(sk, ulp, proto.ours.get().cast()) {
            set_ulp_data(sk, core::ptr::null_mut());
            drop(KBox::from_raw(ulp));
            return Err(EBUSY);
        }
    }
    if bound == 0 {
        // Last, as a command that fails changes nothing, and who may bind a socket may not undo that. Whoever has it may bind one that is
        // bound to nothing, to a device that there is: this does not fail.
        // SAFETY: As above.
        let _ = unsafe { abi::sock_bindtoindex(sk, ifindex, false) };
    }
    // SAFETY: By this function's requirements, and attached just now.
    socket::attached(&mut unsafe { LockedSocket::new(attach.sk, &*ulp) });
    Ok(())
}

/// Writes what hangs on a socket.
///
/// # Safety
///
/// `sk` is a TCP socket; nobody else changes that.
unsafe fn set_ulp_data(sk: *mut abi::sock, ulp: *mut Ulp) {
    let icsk = sk.cast::<abi::inet_connection_sock>();
    // SAFETY: By this function's requirements; who reads the field without a lock does so in one access.
    unsafe { Atomic::from_ptr(&raw mut (*icsk).icsk_ulp_data) }.store(ulp.cast(), Release);
}

impl LockedSocket<'_> {
    /// The socket is an ordinary one again. Returns the context that it holds no longer.
    pub(super) fn detach(mut self) -> Option<Late<Context>> {
        let ulp = self.ulp;
        // SAFETY: By the type invariants.
        unsafe { give_back(self.as_raw(), ulp) };
        ulp.attached.store(false, Relaxed);
        socket::detached(&mut self)
    }
}

/// The socket is destroyed, in any context; `close()` has detached it.
///
/// # Safety
///
/// `sk` has been attached, and nobody else uses it.
unsafe extern "C" fn release(sk: *mut abi::sock) {
    // SAFETY: By this function's requirements; `start()` made it of a box.
    unsafe {
        let ulp = Ulp::as_raw(sk);
        set_ulp_data(sk, core::ptr::null_mut());
        drop(KBox::from_raw(ulp));
    }
}

/// close(2). Process context.
///
/// # Safety
///
/// `sk` has been attached; the last use of it by user space.
unsafe extern "C" fn close(sk: *mut abi::sock, timeout: c_long) {
    // SAFETY: By this function's requirements.
    let (unlocked, ulp) = unsafe { Ulp::of(sk) };
    let base = ulp.base;
    // SAFETY: By this function's requirements.
    let mut lock = unsafe { SockLock::new(unlocked) };
    let context = lock.attached().and_then(LockedSocket::detach);
    drop(lock);
    if let Some(context) = context {
        trace::detach(context.id(), ulp.socket.id(), false);
        context.forget(&ulp.socket);
    }
    // SAFETY: `base` is a protocol of the kernel.
    if let Some(close) = unsafe { (*base).close } {
        // SAFETY: By this function's requirements it is the socket's protocol.
        unsafe { close(sk, timeout) };
    }
}

/// recv(2). Process context.
///
/// # Safety
///
/// `sk` has been attached; the rest is as the protocol has it.
#[no_mangle]
unsafe extern "C" fn netgpu_recvmsg(
    sk: *mut abi::sock,
    msg: *mut abi::msghdr,
    len: usize,
    flags: c_int,
) -> c_int {
    // SAFETY: By this function's requirements.
    let (unlocked, ulp) = unsafe { Ulp::of(sk) };
    if ulp.socket.has_rx() && flags & abi::MSG_ERRQUEUE as c_int == 0 {
        // SAFETY: By this function's requirements.
        let mut lock = unsafe { SockLock::new(unlocked) };
        if let Some(mut locked) = lock.attached() {
            return from_result(|| rx::recv(&mut locked).map(|()| 0));
        }
    }
    // SAFETY: `base` is a protocol of the kernel.
    match unsafe { (*ulp.base).recvmsg } {
        // SAFETY: By this function's requirements it is the socket's protocol.
        Some(recvmsg) => unsafe { recvmsg(sk, msg, len, flags) },
        None => EOPNOTSUPP.to_errno(),
    }
}

/// send(2). Process context.
///
/// # Safety
///
/// `sk` has been attached; the rest is as the protocol has it.
#[no_mangle]
unsafe extern "C" fn netgpu_sendmsg(
    sk: *mut abi::sock,
    msg: *mut abi::msghdr,
    size: usize,
) -> c_int {
    // SAFETY: By this function's requirements.
    let (unlocked, ulp) = unsafe { Ulp::of(sk) };
    // SAFETY: By this function's requirements; nobody else uses the message before we return.
    let message = unsafe { Message::new(&mut *msg, size) };
    match message.filter(|_| ulp.socket.completions().is_some()) {
        Some(mut message) => {
            // SAFETY: By this function's requirements.
            let mut lock = unsafe { SockLock::new(unlocked) };
            from_result(|| {
                let mut locked = lock.attached().ok_or(ECONNABORTED)?;
                Ok(c_int::try_from(tx::send(&mut locked, &mut message)?)?)
            })
        }
        // SAFETY: `base` is a protocol of the kernel.
        None => match unsafe { (*ulp.base).sendmsg } {
            // SAFETY: By this function's requirements it is the socket's protocol.
            Some(sendmsg) => unsafe { sendmsg(sk, msg, size) },
            None => EOPNOTSUPP.to_errno(),
        },
    }
}

/// poll(2). No lock.
///
/// # Safety
///
/// `sk` has been attached.
unsafe extern "C" fn sock_is_readable(sk: *mut abi::sock) -> abi::bool_ {
    // SAFETY: By this function's requirements.
    let (_, ulp) = unsafe { Ulp::of(sk) };
    ulp.socket.readable()
}

/// New bytes wait on the socket. Never sleeps. TCP is done with the packet when it calls this, so both may read.
///
/// # Safety
///
/// `sk` has been attached; others may have put this there again since it was detached, see [`give_back`]. Its lock is held: by softirq, or
/// owned by the task that works off the backlog.
unsafe extern "C" fn data_ready(sk: *mut abi::sock) {
    // SAFETY: By this function's requirements.
    let (sk, ulp) = unsafe { Ulp::of(sk) };
    if let (Some(soon), true) = (&ulp.soon, ulp.is_attached()) {
        // SAFETY: By this function's requirements, and it is attached.
        soon.ready(&mut unsafe { LockedSocket::new(sk, ulp) });
    } else {
        // SAFETY: By this function's requirements.
        unsafe { ulp.base_data_ready(sk) };
    }
}

/// A task gives the socket's lock back, or works off the backlog. Never sleeps.
///
/// # Safety
///
/// `sk` is attached, and the task owns its lock and has the spin lock in it.
unsafe extern "C" fn release_cb(sk: *mut abi::sock) {
    // SAFETY: By this function's requirements.
    let (unlocked, ulp) = unsafe { Ulp::of(sk) };
    if let Some(soon) = &ulp.soon {
        // SAFETY: By this function's requirements.
        soon.released(&mut unsafe { LockedSocket::new(unlocked, ulp) });
    }
    // SAFETY: `base` is a protocol of the kernel.
    if let Some(release_cb) = unsafe { (*ulp.base).release_cb } {
        // SAFETY: By this function's requirements it is the socket's protocol.
        unsafe { release_cb(sk) };
    }
}
