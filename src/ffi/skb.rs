// SPDX-License-Identifier: GPL-2.0

//! Packets: what received ones are made of.

use super::{
    abi,
    late::Late,
    pages::{
        niov_of,
        queue_of,
        Buffer,
        Map, //
    }, //
};
use crate::{
    attach::Attachment,
    context::Context,
    queue::Queue, //
};
use core::marker::PhantomData;
use kernel::prelude::*;

/// The part of a packet behind its buffer.
///
/// # Safety
///
/// `skb` is a packet.
pub(super) unsafe fn shared_info(skb: *const abi::sk_buff) -> *mut abi::skb_shared_info {
    // SAFETY: By this function's requirements: `end` is where the buffer at `head` ends.
    unsafe { (*skb).head.add((*skb).end as usize).cast() }
}

/// Received bytes in a buffer of the context.
pub(crate) struct Part<'a> {
    pub(crate) attachment: &'a Attachment,
    /// Of the buffer.
    pub(crate) index: u32,
    /// In the buffer.
    pub(crate) offset: u32,
    pub(crate) len: u32,
    /// What the NIC received them through.
    pub(crate) queue: Option<&'a Queue>,
    /// The stack's reference to the buffer.
    netmem: abi::netmem_ref,
}

/// Received bytes.
pub(crate) enum Piece<'a> {
    /// In a buffer of the context.
    Part(Part<'a>),
    /// Kernel memory.
    Bytes(&'a [u8]),
    /// Memory that the context has nothing to do with, or that the packet does not hold.
    Foreign,
}

/// Bytes of a packet that are being read.
///
/// # Invariants
///
/// Bytes `at` to `end` are in the packet `skb` itself, not in those on its list, and that is there for `'a`.
pub(crate) struct Pieces<'a> {
    skb: *const abi::sk_buff,
    at: u32,
    end: u32,
    _packet: PhantomData<&'a abi::sk_buff>,
}

impl<'a> Pieces<'a> {
    /// The pieces in order, as seen by `context`.
    pub(crate) fn iter<'b>(&'b self, context: &'b Late<Context>) -> PieceIter<'b> {
        // SAFETY: By the type invariants.
        let (shared, head) = unsafe { (shared_info(self.skb), head_len(self.skb)) };
        // SAFETY: As above: the array has that many fragments, and is not written to while the packet is read.
        let frags = unsafe {
            core::slice::from_raw_parts(
                (&raw const (*shared).frags).cast::<abi::skb_frag_t>(),
                (*shared).nr_frags.into(),
            )
        };
        // SAFETY: As above.
        let (head, holds) = unsafe {
            (
                core::slice::from_raw_parts((*self.skb).data, head as usize),
                (*self.skb).pp_recycle() != 0,
            )
        };
        PieceIter {
            context,
            holds,
            head,
            frags: frags.iter(),
            start: head.len() as u32,
            at: self.at,
            end: self.end,
            home: None,
        }
    }
}

/// See [`Pieces::iter`].
#[derive(Clone)]
pub(crate) struct PieceIter<'a> {
    context: &'a Late<Context>,
    /// Whether each fragment that is a buffer has a reference to it, and not only to what that lies in. Who gets a head of its own (NAT, a
    /// mirror, IP options) while there is a clone has none: the clone keeps those, and when it goes the NIC gets the buffers back.
    holds: bool,
    head: &'a [u8],
    frags: core::slice::Iter<'a, abi::skb_frag_t>,
    /// Where in the packet the next of `frags` starts.
    start: u32,
    at: u32,
    end: u32,
    /// What the last fragment lies in, of the context: mostly the next does, too.
    home: Option<&'a Attachment>,
}

impl<'a> PieceIter<'a> {
    /// `len` bytes from `offset` of a fragment.
    #[inline(always)]
    fn frag(&mut self, frag: &'a abi::skb_frag_t, offset: u32, len: u32) -> Piece<'a> {
        let Some(niov) = niov_of(frag.netmem) else {
            // SAFETY: A fragment that is no net_iov is kernel memory, and `len` bytes from `offset` on are in it.
            return Piece::Bytes(unsafe {
                let data = abi::netgpu_skb_frag_address(frag).cast::<u8>();
                core::slice::from_raw_parts(data.add(offset as usize), len as usize)
            });
        };
        // SAFETY: The packet holds its fragments.
        let near = self
            .home
            .and_then(|home| Some((home, unsafe { home.map.index_of(niov) }?)));
        // SAFETY: As above.
        let Some((attachment, index)) = near.or_else(|| unsafe { self.find(niov) }) else {
            return Piece::Foreign;
        };
        Piece::Part(Part {
            attachment,
            index,
            offset: frag.offset + offset,
            len,
            // SAFETY: As above, it is one of ours, and `find()` has seen that the packet has a reference to each of those.
            queue: unsafe { queue_of(niov) },
            netmem: frag.netmem,
        })
    }

    /// Takes what is next if that lies in the buffer of `part`, which came last: where in the buffer, and how many bytes.
    #[inline(always)]
    pub(crate) fn next_in(&mut self, part: &Part<'a>) -> Option<(u32, u32)> {
        let left = self.end - self.at;
        let same = |frag: &&abi::skb_frag_t| left != 0 && frag.netmem == part.netmem;
        let frag = self.frags.as_slice().first().filter(same)?;
        Some((frag.offset, self.take(frag, left)))
    }

    /// Takes `frag`, which is next, or the `left` bytes of it that are to be read. Returns how many. What came before was taken to its
    /// end: `at` is the start of this one.
    #[inline(always)]
    fn take(&mut self, frag: &abi::skb_frag_t, left: u32) -> u32 {
        self.frags.next();
        let len = frag.len.min(left);
        self.start += frag.len;
        self.at += len;
        len
    }

    /// Takes what is next if that, like `part`, which came last, lies in a buffer of that attachment and came through that queue.
    #[inline(always)]
    pub(crate) fn next_like(&mut self, part: &Part<'a>) -> Option<Part<'a>> {
        let left = self.end - self.at;
        let frag = self.frags.as_slice().first().filter(|_| left != 0)?;
        let niov = niov_of(frag.netmem)?;
        // SAFETY: The packet holds its fragments.
        let index = unsafe { part.attachment.map.index_of(niov) }?;
        // SAFETY: As above, and it is one of ours. As there was a `part`, the packet has a reference to it: see `frag()`.
        let queue = unsafe { queue_of(niov) };
        if queue.map(core::ptr::from_ref) != part.queue.map(core::ptr::from_ref) {
            return None;
        }
        Some(Part {
            attachment: part.attachment,
            index,
            offset: frag.offset,
            len: self.take(frag, left),
            queue,
            netmem: frag.netmem,
        })
    }

    /// What is next, without taking it.
    #[inline(never)]
    pub(crate) fn peek(&self) -> Option<Piece<'a>> {
        self.clone().next()
    }

    /// The buffer that is `niov`, if it is one of the context and the packet has a reference to it.
    ///
    /// # Safety
    ///
    /// It is there for as long as the packet.
    #[cold]
    unsafe fn find(&mut self, niov: *const abi::net_iov) -> Option<(&'a Attachment, u32)> {
        if !self.holds {
            return None;
        }
        // SAFETY: By this function's requirements.
        let buffer = unsafe { Buffer::of(niov) }?;
        let attachment = buffer.attachment_of(self.context)?;
        self.home = Some(attachment);
        Some((attachment, buffer.index))
    }
}

impl<'a> Iterator for PieceIter<'a> {
    type Item = Piece<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Piece<'a>> {
        let at = self.at;
        if at >= self.end {
            return None;
        }
        if let Some(rest) = self.head.get(at as usize..).filter(|rest| !rest.is_empty()) {
            let data = rest.get(..(self.end - at) as usize).unwrap_or(rest);
            self.at += data.len() as u32;
            return Some(Piece::Bytes(data));
        }
        loop {
            let frag = self.frags.next()?;
            let start = self.start;
            self.start += frag.len;
            if at < self.start {
                let len = self.start.min(self.end) - at;
                self.at += len;
                return Some(self.frag(frag, at - start, len));
            }
        }
    }
}

/// Bytes in the packet's own buffer.
///
/// # Safety
///
/// `skb` is a packet.
unsafe fn head_len(skb: *const abi::sk_buff) -> u32 {
    // SAFETY: By this function's requirements.
    unsafe { (*skb).len - (*skb).data_len }
}

/// The packet after this one on a list, or null.
///
/// # Safety
///
/// `skb` is a packet on the list of another.
unsafe fn next(skb: *const abi::sk_buff) -> *mut abi::sk_buff {
    // SAFETY: By this function's requirements.
    unsafe { (*skb).__bindgen_anon_1.__bindgen_anon_1.next }
}

/// Bytes of the packet that are not in one on its list.
///
/// # Safety
///
/// `skb` is a packet.
unsafe fn own_len(skb: *const abi::sk_buff) -> u32 {
    // SAFETY: By this function's requirements; what is on a packet's list are packets.
    unsafe {
        let mut len = (*skb).len;
        let mut sub = (*shared_info(skb)).frag_list;
        while !sub.is_null() {
            len -= (*sub).len;
            sub = next(sub);
        }
        len
    }
}

/// Hands bytes `offset` to `offset + len` of a packet to `take`, which says how many it took, until it takes less than it got.
/// Returns how many it took in all, or its error if it took nothing.
///
/// # Safety
///
/// `skb` is a packet that has these bytes.
pub(super) unsafe fn read<F: FnMut(&Pieces<'_>) -> Result<u32>>(
    skb: *const abi::sk_buff,
    offset: u32,
    len: u32,
    take: &mut F,
) -> Result<u32> {
    // SAFETY: By this function's requirements; what is on a packet's list are packets.
    let mut sub = unsafe { (*shared_info(skb)).frag_list };
    // SAFETY: As above.
    let own = unsafe { own_len(skb) };

    let mut done = 0;
    if offset < own {
        let end = own.min(offset + len);
        // INVARIANT: `end` is at most `own`.
        let pieces = Pieces {
            skb,
            at: offset,
            end,
            _packet: PhantomData,
        };
        done = take(&pieces)?;
        if offset + done < end {
            return Ok(done);
        }
    }
    let mut start = own;
    while !sub.is_null() && done < len {
        let at = offset + done;
        // SAFETY: As above.
        let end = start + unsafe { (*sub).len };
        if at < end {
            let want = (end - at).min(len - done);
            // SAFETY: As above, with these bytes.
            match unsafe { read(sub, at - start, want, take) } {
                Ok(got) => {
                    done += got;
                    if got < want {
                        break;
                    }
                }
                Err(err) if done == 0 => return Err(err),
                Err(_) => break,
            }
        }
        start = end;
        // SAFETY: As above.
        sub = unsafe { next(sub) };
    }
    Ok(done)
}

/// Whether `is` says so of a buffer of ours that a packet refers to which `sk` has yet to send, or which the peer has not acknowledged.
///
/// # Safety
///
/// `sk` is a TCP socket whose lock the task owns.
pub(super) unsafe fn unacknowledged(sk: *mut abi::sock, is: impl Fn(&Buffer<'_>) -> bool) -> bool {
    // SAFETY: By this function's requirements the queues are ours to look at, and what is on them are packets.
    unsafe {
        let queue = &raw mut (*sk).sk_write_queue;
        let mut skb = (*queue).__bindgen_anon_1.__bindgen_anon_1.next;
        while skb != queue.cast() {
            if refers_to(skb, &is) {
                return true;
            }
            skb = next(skb);
        }
        skb = abi::netgpu_tcp_rtx_queue_head(sk);
        while !skb.is_null() {
            if refers_to(skb, &is) {
                return true;
            }
            skb = abi::netgpu_skb_rb_next(skb);
        }
    }
    false
}

/// # Safety
///
/// `skb` is a packet.
unsafe fn refers_to(skb: *const abi::sk_buff, is: &impl Fn(&Buffer<'_>) -> bool) -> bool {
    // SAFETY: By this function's requirements: the array has that many fragments, which the packet holds.
    unsafe {
        let shared = shared_info(skb);
        let frags = core::slice::from_raw_parts(
            (&raw const (*shared).frags).cast::<abi::skb_frag_t>(),
            (*shared).nr_frags.into(),
        );
        frags
            .iter()
            .filter_map(|frag| Buffer::of(niov_of(frag.netmem)?))
            .any(|buffer| is(&buffer))
    }
}

/// Whether a packet on `queue`, or one on such a packet's list, refers to `map`.
///
/// # Safety
///
/// `queue` is a queue of packets that the caller may look at.
pub(super) unsafe fn queue_refers_to(queue: *mut abi::sk_buff_head, map: &Map) -> bool {
    let is = |buffer: &Buffer<'_>| buffer.is_of(map);
    // SAFETY: By this function's requirements; what is on a packet's list are packets.
    unsafe {
        let mut skb = (*queue).__bindgen_anon_1.__bindgen_anon_1.next;
        while skb != queue.cast() {
            let mut sub = (*shared_info(skb)).frag_list;
            while !sub.is_null() && !refers_to(sub, &is) {
                sub = next(sub);
            }
            if !sub.is_null() || refers_to(skb, &is) {
                return true;
            }
            skb = next(skb);
        }
    }
    false
}

#[kunit_tests(netgpu_skb)]
mod tests {
    use super::*;

    /// Two packets on the list of a third: 20 and 30 bytes behind 10 of its own.
    struct Packets {
        skbs: [abi::sk_buff; 3],
        shared: [abi::skb_shared_info; 3],
    }

    impl Packets {
        fn new() -> Result<KBox<Self>> {
            let mut this = KBox::new(
                Self {
                    skbs: Default::default(),
                    shared: Default::default(),
                },
                GFP_KERNEL,
            )?;
            let Self { skbs, shared } = &mut *this;
            let [second, third] = [&raw mut skbs[1], &raw mut skbs[2]];
            skbs[1].__bindgen_anon_1.__bindgen_anon_1.next = third;
            shared[0].frag_list = second;
            for ((skb, shared), len) in skbs.iter_mut().zip(shared).zip([60, 20, 30]) {
                skb.len = len;
                skb.head = core::ptr::from_mut(shared).cast();
            }
            Ok(this)
        }

        /// Reads `len` bytes from `offset`, of which `limit` are taken; tells the parts that were asked for.
        fn read(&self, offset: u32, len: u32, limit: u32) -> (Result<u32>, KVec<(u32, u32)>) {
            let mut parts = KVec::new();
            let mut left = limit;
            let mut take = |pieces: &Pieces<'_>| {
                let _ = parts.push((pieces.at, pieces.end), GFP_KERNEL);
                let taken = left.min(pieces.end - pieces.at);
                left -= taken;
                if taken > 0 {
                    Ok(taken)
                } else {
                    Err(EFAULT)
                }
            };
            // SAFETY: The packets are as `new()` made them, and have these bytes.
            let result = unsafe { read(&self.skbs[0], offset, len, &mut take) };
            (result, parts)
        }
    }

    #[test]
    fn reads_what_lies_in_the_packet_and_on_its_list() -> Result {
        let packets = Packets::new()?;
        for (offset, len, expected) in [
            (0, 60, &[(0, 10), (0, 20), (0, 30)][..]),
            (0, 10, &[(0, 10)]),
            (9, 2, &[(9, 10), (0, 1)]),
            (10, 20, &[(0, 20)]),
            (15, 30, &[(5, 20), (0, 15)]),
            (59, 1, &[(29, 30)]),
        ] {
            let (result, parts) = packets.read(offset, len, u32::MAX);
            assert_eq!(result, Ok(len));
            assert_eq!(&parts[..], expected);
        }
        Ok(())
    }

    #[test]
    fn stops_where_bytes_are_left_and_tells_an_error_only_of_the_first() -> Result {
        let packets = Packets::new()?;
        for (limit, result, parts) in [
            (0, Err(EFAULT), 1),
            (4, Ok(4), 1),
            (10, Ok(10), 2),
            (15, Ok(15), 2),
            (30, Ok(30), 3),
            (60, Ok(60), 3),
        ] {
            let (got, asked) = packets.read(0, 60, limit);
            assert_eq!(got, result);
            assert_eq!(asked.len(), parts);
        }
        Ok(())
    }
}
