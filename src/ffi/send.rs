// SPDX-License-Identifier: GPL-2.0

//! Sends as the stack sees them, and the messages that they are made of.

use super::{
    abi,
    device::Device,
    late::Late,
    pages::{
        netmem_of,
        niov_of,
        Map, //
    },
    skb::shared_info,
    sock::LockedSocket,
    ubuf::Ubuf, //
};
use crate::{
    context::Context,
    tx::{
        self,
        Send,
        Span, //
    }, //
};
use core::{
    mem::MaybeUninit,
    ops::Deref,
    ptr::{
        null_mut,
        NonNull, //
    }, //
};
use kernel::{
    container_of,
    error::{
        code::{
            EEXIST,
            EMSGSIZE, //
        },
        from_result,
        to_result, //
    },
    ffi::c_int,
    page::PAGE_SIZE,
    prelude::*,
    sync::rcu, //
};

/// A send, and what its packets refer to.
#[repr(C)]
struct Sending {
    ubuf: Ubuf,
    send: Send,
}

/// Memory for a send.
pub(crate) struct Room(KBox<MaybeUninit<Sending>>);

// SAFETY: It is memory with nothing in it.
unsafe impl core::marker::Send for Room {}

impl Room {
    /// Allocates it.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(KBox::new_uninit(GFP_KERNEL_ACCOUNT)?))
    }

    /// Takes a send out of its memory.
    ///
    /// # Safety
    ///
    /// `sending` is from [`SendRef::new`], and nobody refers to it any longer.
    unsafe fn of(sending: *mut Sending) -> (Send, Self) {
        // SAFETY: By this function's requirements.
        let sending = unsafe { KBox::from_raw(sending) };
        // SAFETY: As the box forgets what is in it, it is there once.
        let send = unsafe { core::ptr::read(&sending.send) };
        // SAFETY: It is a box of that size, which need not have anything in it.
        let room = unsafe { KBox::from_raw(KBox::into_raw(sending).cast()) };
        (send, Self(room))
    }
}

/// The sender's reference to its send.
///
/// # Invariants
///
/// Holds a [`Sending`] from `KBox::into_raw()`, and a reference of its [`Ubuf`]. [`put`] takes it with the last.
pub(crate) struct SendRef(NonNull<Sending>);

impl SendRef {
    /// Makes `send` something that packets can refer to. [`tx::done`] gets it after the last reference.
    pub(crate) fn new(send: Send, room: Room) -> Self {
        let ubuf = Ubuf::new(&UBUF_OPS);
        let sending = KBox::write(room.0, Sending { ubuf, send });
        // INVARIANT: `leak()` is `into_raw()` by another name; the one reference is ours.
        Self(NonNull::from(KBox::leak(sending)))
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
        unsafe { put(self.0.as_ptr().cast()) };
    }
}

/// Drops a reference to a send; the last one ends it, and may end those that follow it. Any context.
///
/// # Safety
///
/// `ubuf` is the head of a [`Sending`], of which the caller gives up a reference.
unsafe fn put(ubuf: *mut Ubuf) {
    // SAFETY: By this function's requirements.
    if let Some(ended) = unsafe { Ubuf::put(ubuf) } {
        tx::done(ended.map(|(ubuf, copied)| {
            // SAFETY: What follows a send is one, too, and nobody refers to these any longer.
            let (send, room) = unsafe { Room::of(ubuf.cast()) };
            (send, room, copied)
        }));
    }
}

static UBUF_OPS: abi::ubuf_info_ops = abi::ubuf_info_ops {
    complete: Some(complete),
    link_skb: Some(netgpu_send_link),
    unreadable: true,
};

/// Once for each reference that is dropped: by acknowledged packets, by the device. Any context. Without `zerocopy` bytes were
/// copied on their way.
///
/// # Safety
///
/// `ubuf` is the head of a [`Sending`], of which the caller gives up a reference.
unsafe extern "C" fn complete(
    _packet: *mut abi::sk_buff,
    ubuf: *mut abi::ubuf_info,
    zerocopy: abi::bool_,
) {
    let ubuf = ubuf.cast::<Ubuf>();
    if !zerocopy {
        // SAFETY: By this function's requirements.
        unsafe { (*ubuf).set_copied() };
    }
    // SAFETY: By this function's requirements.
    unsafe { put(ubuf) };
}

/// The bytes of a send are to go to the end of `packet`.
///
/// # Safety
///
/// Called below [`LockedSocket::queue`], for the send that is queued there, and a packet of its socket that nobody has sent yet.
#[no_mangle]
unsafe extern "C" fn netgpu_send_link(
    packet: *mut abi::sk_buff,
    ubuf: *mut abi::ubuf_info,
) -> c_int {
    // SAFETY: By this function's requirements.
    let shared = unsafe { &*shared_info(packet) };
    // The stack has it refer to the send.
    if u32::from(shared.flags) & abi::SKBFL_ZEROCOPY_ENABLE == 0 {
        return 0;
    }
    // SAFETY: The packet refers to it, as the flag says.
    let other = unsafe { shared.__bindgen_anon_2.destructor_arg }.cast::<abi::ubuf_info>();
    if other == ubuf {
        return 0;
    }
    // SAFETY: As above. What has our operations is the head of a `Sending`: of the same socket, as the packet is, which is locked.
    let ours = unsafe {
        core::ptr::eq((*other).ops, &UBUF_OPS) && Ubuf::follow(ubuf.cast(), other.cast())
    };
    match ours {
        true => 0,
        false => EEXIST.to_errno(),
    }
}

/// Fills `skb` with the next `length` bytes of a message, as far as it has room for fragments.
///
/// # Safety
///
/// Called below [`LockedSocket::queue`], whose message `from` is part of, for a packet of its socket.
#[no_mangle]
unsafe extern "C" fn netgpu_send_fill(
    skb: *mut abi::sk_buff,
    from: *mut abi::iov_iter,
    length: usize,
) -> c_int {
    from_result(|| {
        // SAFETY: By this function's requirements; the send is held by `LockedSocket::queue()`.
        let send = unsafe {
            let msg = container_of!(from, abi::msghdr, msg_iter);
            &(*(*msg).msg_ubuf.cast::<Sending>()).send
        };
        // SAFETY: By this function's requirements.
        unsafe { fill_from(send, skb, &mut *from, length) }.map(|()| 0)
    })
}

/// # Safety
///
/// `skb` is a packet that is being made, and `from` a part of a message of user addresses.
unsafe fn fill_from(
    send: &Send,
    skb: *mut abi::sk_buff,
    from: &mut abi::iov_iter,
    mut length: usize,
) -> Result {
    // SAFETY: By this function's requirements.
    let mut packet = unsafe { Packet::new(skb) }?;
    let mut any = false;
    // SAFETY: By this function's requirements.
    while let Some((addr, len)) = unsafe { segment(from) }.filter(|_| length > 0) {
        let len = len.min(length);
        let mut done = 0;
        send.spans(addr, len, |span| {
            let taken = packet.add(&span);
            done += taken;
            taken
        });
        any |= done > 0;
        // SAFETY: By this function's requirements; not more than what is there.
        unsafe { abi::iov_iter_advance(from, done) };
        length -= done;
        if done < len {
            return match (any, packet.is_full()) {
                // What is in the packet already is sent; the next one has the error, if it is one.
                (true, _) => Ok(()),
                (false, true) => Err(EMSGSIZE),
                (false, false) => Err(EFAULT),
            };
        }
    }
    Ok(())
}

const MANAGED: u8 = abi::SKBFL_MANAGED_FRAG_REFS as u8;

/// A packet that is being made.
///
/// # Invariants
///
/// `skb` is a packet to which fragments may be added, of sends from one context. `managed`: it has `SKBFL_MANAGED_FRAG_REFS`, so that
/// fragments hold no buffers; the send that it refers to, and holds, has the context, and that the memory.
struct Packet {
    skb: *mut abi::sk_buff,
    managed: bool,
    full: bool,
}

impl Packet {
    /// # Safety
    ///
    /// `skb` is a packet that is being made, of sends of one socket.
    unsafe fn new(skb: *mut abi::sk_buff) -> Result<Self> {
        // SAFETY: By this function's requirements.
        let (shared, readable) = unsafe {
            let headers = (*skb).__bindgen_anon_4.headers.as_ref();
            (&*shared_info(skb), headers.unreadable() == 0)
        };
        // Copied bytes and ours do not share a packet: only as a whole it is readable or not.
        if shared.nr_frags != 0 && readable {
            return Err(EMSGSIZE);
        }
        // INVARIANT: By this function's requirements: all sends of a socket are from its context.
        Ok(Self {
            skb,
            managed: shared.flags & MANAGED != 0,
            full: false,
        })
    }

    /// Whether it has had no room for something.
    fn is_full(&self) -> bool {
        self.full
    }

    /// Where the last fragment ends for the device, if it is of `map`.
    fn end(&self, map: &Map) -> Option<usize> {
        // SAFETY: By the type invariants.
        let shared = unsafe { &*shared_info(self.skb) };
        let last = usize::from(shared.nr_frags).checked_sub(1)?;
        let last = shared.frags.get(last)?;
        let niov = niov_of(last.netmem)?;
        // SAFETY: It is a net_iov, which the packet holds, and of which the address does not change.
        unsafe {
            map.index_of(niov)?;
            Some((*niov).desc.dma_addr + last.offset as usize + last.len as usize)
        }
    }

    /// Adds bytes. Returns how many it had room for. What are neighbours for the device, too, is one fragment.
    fn add(&mut self, span: &Span<'_>) -> usize {
        let map = &span.attachment.map;
        let mut end = self.end(map);
        // SAFETY: By the type invariants.
        let shared = unsafe { &mut *shared_info(self.skb) };
        // Memory that may be taken back has its fragments counted.
        let managed = !map.is_lent();
        if shared.nr_frags == 0 {
            // INVARIANT: It has no fragments yet.
            self.managed = managed;
            shared.flags &= !MANAGED;
            if managed {
                shared.flags |= MANAGED;
            }
        } else if self.managed && !managed {
            self.full = true;
            return 0;
        }
        let mut i = usize::from(shared.nr_frags);
        let size = map.size().bytes() as usize;
        let mut offset = span.offset as usize;
        let mut done = 0;
        let mut pages = 0;
        for niov in map.niovs(span.index) {
            let len = (span.len - done).min(size - offset);
            if len == 0 {
                break;
            }
            // SAFETY: By the invariants of the map it is a net_iov, of which the address does not change.
            let addr = unsafe { (*niov).desc.dma_addr } + offset;
            match shared.frags.get_mut(i.wrapping_sub(1)) {
                Some(last) if end == Some(addr) => last.len += len as u32,
                _ => {
                    let Some(frag) = shared.frags.get_mut(i) else {
                        self.full = true;
                        break;
                    };
                    let netmem = netmem_of(niov);
                    if !self.managed {
                        // SAFETY: As above.
                        unsafe { abi::__get_netmem(netmem) };
                    }
                    *frag = abi::skb_frag {
                        netmem,
                        len: len as u32,
                        offset: offset as u32,
                    };
                    i += 1;
                }
            }
            end = Some(addr + len);
            pages += (offset % PAGE_SIZE + len).div_ceil(PAGE_SIZE);
            offset = 0;
            done += len;
        }
        if done == 0 {
            return 0;
        }
        shared.nr_frags = i as u8;
        // SAFETY: By the type invariants. As skb_add_rx_frag_netmem() for each page.
        unsafe {
            let skb = &mut *self.skb;
            skb.__bindgen_anon_4.headers.as_mut().set_unreadable(1);
            skb.len += done as u32;
            skb.data_len += done as u32;
            skb.truesize += (pages * PAGE_SIZE) as u32;
        }
        done
    }
}

/// Where the iterator is: an address and the length of the segment there; [`None`] at its end.
///
/// # Safety
///
/// `iter` is of user addresses.
unsafe fn segment(iter: &abi::iov_iter) -> Option<(usize, usize)> {
    // SAFETY: By this function's requirements these are the fields in use.
    unsafe {
        let count = iter.__bindgen_anon_1.__bindgen_anon_1.count;
        if count == 0 {
            return None;
        }
        let iov = match u32::from(iter.iter_type) {
            abi::iter_type_ITER_UBUF => {
                let base = iter.__bindgen_anon_1.__ubuf_iovec.iov_base;
                return Some((base.addr() + iter.iov_offset, count));
            }
            _ => {
                &*iter
                    .__bindgen_anon_1
                    .__bindgen_anon_1
                    .__bindgen_anon_1
                    .__iov
            }
        };
        let len = iov.iov_len - iter.iov_offset;
        Some((iov.iov_base.addr() + iter.iov_offset, len.min(count)))
    }
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
    /// The message, if it is one that we send: with `MSG_ZEROCOPY`, not empty, of user addresses, and nobody else's send.
    ///
    /// # Safety
    ///
    /// `raw` is a message of `size` bytes.
    pub(super) unsafe fn new(raw: &'a mut abi::msghdr, size: usize) -> Option<Self> {
        let user = matches!(
            raw.msg_iter.iter_type.into(),
            abi::iter_type_ITER_UBUF | abi::iter_type_ITER_IOVEC
        );
        let ours =
            raw.msg_flags & abi::MSG_ZEROCOPY != 0 && size != 0 && raw.msg_ubuf.is_null() && user;
        // INVARIANT: By this function's requirements, and as checked.
        ours.then_some(Self { raw, size })
    }

    /// Whether all bytes of the message lie in regions of `context`.
    pub(crate) fn lies_within(&self, context: &Late<Context>) -> bool {
        let mut iter = self.raw.msg_iter;
        // SAFETY: By the type invariants, of which a copy of the iterator makes no difference.
        while let Some((addr, len)) = unsafe { segment(&iter) } {
            if len > 0 && !tx::contains(context, addr, len) {
                return false;
            }
            // SAFETY: As above.
            unsafe { abi::iov_iter_advance(&mut iter, len) };
        }
        true
    }
}

impl LockedSocket<'_> {
    /// Whether the connection, if there is one yet, leads over `device`, which takes what we send.
    pub(crate) fn routed_over(&self, device: &Device) -> bool {
        let sk = self.as_raw();
        let _guard = rcu::read_lock();
        // SAFETY: By the type invariants the socket is there and locked; routes and what they lead over go a grace period after
        // they are no longer named.
        unsafe {
            let gathers = (*sk).sk_route_caps & (1 << abi::NETIF_F_SG_BIT) != 0;
            let dst = (&raw const (*sk).sk_dst_cache).read_volatile();
            if dst.is_null() {
                // TCP forgets routes that do not get through, not what they could.
                let state = (&raw const (*sk).__sk_common.skc_state).read_volatile();
                let connected = [abi::TCP_ESTABLISHED, abi::TCP_CLOSE_WAIT];
                return gathers || !connected.map(|state| state as u8).contains(&state);
            }
            let netdev = (&raw const (*dst).__bindgen_anon_1.dev_rcu).read_volatile();
            netdev.cast_const() == device.identity() && gathers
        }
    }

    /// Whether `message` is to open the connection (TCP Fast Open). TCP copies what goes with a SYN, from where the process has its
    /// addresses, whatever the region there is of.
    pub(crate) fn is_opened_by(&self, message: &Message<'_>) -> bool {
        let sk = self.as_raw().cast::<abi::tcp_sock>();
        // SAFETY: By the type invariants the socket is there, and one of TCP. Others change bits of the word by atomics.
        let flags = unsafe { (&raw const (*sk).inet_conn.icsk_inet.inet_flags).read_volatile() };
        message.raw.msg_flags & abi::MSG_FASTOPEN != 0
            || flags & (1 << abi::INET_FLAGS_DEFER_CONNECT) != 0
    }

    /// Whether segments have to be signed, for which the CPU would have to read what is sent.
    pub(crate) fn is_signed(&self) -> bool {
        // SAFETY: By the type invariants the socket is there, one of TCP, and locked.
        unsafe { abi::netgpu_sk_is_signed(self.as_raw()) }
    }

    /// Queues `message`, in packets that refer to `send`. Returns how many bytes. Lets go of the socket's lock while it waits for
    /// room.
    pub(crate) fn queue(&mut self, message: &mut Message<'_>, send: &SendRef) -> Result<u32> {
        message.raw.msg_ubuf = send.0.as_ptr().cast();
        message.raw.sg_from_iter = Some(netgpu_send_fill);
        // SAFETY: By the type invariants of all three. Functions that run while the lock is not held make a `LockedSocket` of
        // their own while `self` is lent to this call.
        let ret = unsafe { abi::tcp_sendmsg_locked(self.as_raw(), message.raw, message.size) };
        // Packets hold `send` by references of their own. The message is the caller's, who may send it again: io_uring does.
        message.raw.msg_ubuf = null_mut();
        message.raw.sg_from_iter = None;
        to_result(ret)?;
        Ok(ret.unsigned_abs())
    }
}
