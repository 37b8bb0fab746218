// SPDX-License-Identifier: GPL-2.0

//! What the packets of a send refer to, and how sends share a packet.
//!
//! A packet refers to one `struct ubuf_info`: that of the send whose bytes were its first. Sends whose bytes TCP appends to it follow
//! that send, which holds them until it is done itself. So none is done before its bytes are, nor waits for a send that began behind it:
//!
//! ```text
//!  packets    [ A A A ] [ A B C ] [ C C C ] [ C D ]
//!  refer to       A         A         C        C        A holds B and C, C holds D
//! ```
//!
//! # Locks
//!
//! Sends are made to follow another under the lock of their socket, while a packet on its queue holds that other. Whoever drops the last
//! reference to a send has the list of those that follow it alone.

use super::{
    abi,
    inline::peek, //
};
use core::{
    cell::UnsafeCell,
    ptr::null_mut, //
};
use kernel::{
    bindings,
    prelude::*,
    sync::atomic::{
        Atomic,
        Relaxed, //
    },
    types::Opaque, //
};

/// A `struct ubuf_info`, and what belongs to it.
#[repr(C)]
pub(super) struct Ubuf {
    head: Opaque<abi::ubuf_info>,
    copied: Atomic<bool>,
    links: UnsafeCell<Links>,
}

struct Links {
    /// Those that follow it. Holds a reference to each.
    followers: List,
    /// The one behind on the list that this one is on.
    next: *mut Ubuf,
    /// It is on a list, or has been.
    follows: bool,
}

/// # Invariants
///
/// Both are null, or the ends of a list that is linked by [`Links::next`].
struct List {
    first: *mut Ubuf,
    last: *mut Ubuf,
}

impl List {
    const fn new() -> Self {
        // INVARIANT: It is empty.
        Self {
            first: null_mut(),
            last: null_mut(),
        }
    }

    /// # Safety
    ///
    /// `ubuf` is there, and on no list; the caller has it and the list alone.
    unsafe fn append(&mut self, ubuf: *mut Ubuf) {
        // SAFETY: By this function's requirements, and by the type invariants.
        unsafe {
            (*(*ubuf).links.get()).next = null_mut();
            match self.last.as_ref() {
                Some(last) => (*last.links.get()).next = ubuf,
                None => self.first = ubuf,
            }
        }
        // INVARIANT: It is behind what was the last, or the only one.
        self.last = ubuf;
    }

    /// Takes the first out.
    ///
    /// # Safety
    ///
    /// There is one.
    unsafe fn pop(&mut self) {
        // SAFETY: By this function's requirements, and by the type invariants.
        let next = unsafe { (*(*self.first).links.get()).next };
        // INVARIANT: What was behind it is the first; if there was nothing, it was the last, too.
        self.first = next;
        if next.is_null() {
            self.last = null_mut();
        }
    }
}

impl Ubuf {
    /// With one reference.
    pub(super) fn new(ops: &'static abi::ubuf_info_ops) -> Self {
        let mut head = abi::ubuf_info {
            ops,
            // As `SKBFL_ZEROCOPY_FRAG`, and who queues packets need not copy them.
            flags: (abi::SKBFL_ZEROCOPY_ENABLE | abi::SKBFL_SHARED_FRAG | abi::SKBFL_DONT_ORPHAN)
                as u8,
            ..Default::default()
        };
        // SAFETY: Nobody else knows it yet.
        unsafe { bindings::refcount_set((&raw mut head.refcnt).cast(), 1) };
        Self {
            head: Opaque::new(head),
            copied: Atomic::new(false),
            links: UnsafeCell::new(Links {
                followers: List::new(),
                next: null_mut(),
                follows: false,
            }),
        }
    }

    /// The count of references.
    ///
    /// # Safety
    ///
    /// `this` is there.
    unsafe fn count(this: *mut Self) -> *mut bindings::refcount_t {
        // SAFETY: By this function's requirements.
        unsafe { &raw mut (*this.cast::<abi::ubuf_info>()).refcnt }.cast()
    }

    /// Bytes were copied on their way.
    pub(super) fn set_copied(&self) {
        self.copied.store(true, Relaxed);
    }

    /// Has `this`, whose bytes are to be appended to a packet that refers to `other`, follow that. False: it cannot, as it has followed one
    /// already, or is followed, possibly by `other`, which would wait for itself.
    ///
    /// # Safety
    ///
    /// The two are not the same. The caller has the lock of the socket whose sends they are, and holds `this`; a packet on the
    /// socket's queue holds `other`.
    pub(super) unsafe fn follow(this: *mut Self, other: *mut Self) -> bool {
        // SAFETY: By this function's requirements nobody else looks at the links of either.
        unsafe {
            let links = (*this).links.get();
            if (*links).follows || !(*links).followers.first.is_null() {
                return false;
            }
            (*links).follows = true;
            bindings::refcount_inc(Self::count(this));
            (*(*other).links.get()).followers.append(this);
        }
        true
    }

    /// Drops a reference. If it is the last one, returns what nobody refers to any more: `this`, and whatever followed it and has no other
    /// reference, and so on. Any context.
    ///
    /// # Safety
    ///
    /// The caller gives up a reference of `this`.
    pub(super) unsafe fn put(this: *mut Self) -> Option<Ended> {
        // SAFETY: By this function's requirements.
        if !unsafe { bindings::refcount_dec_and_test(Self::count(this)) } {
            return None;
        }
        let mut list = List::new();
        // SAFETY: That was the last reference: `this` is on no list.
        unsafe { list.append(this) };
        // INVARIANT: As above.
        Some(Ended(list))
    }
}

/// What nobody refers to any longer, in the order in which it was sent, each with whether bytes of it were copied: it is the caller's, who
/// takes all of it.
///
/// # Invariants
///
/// Nobody refers to what is on the list.
pub(super) struct Ended(List);

impl Iterator for Ended {
    type Item = (*mut Ubuf, bool);

    fn next(&mut self) -> Option<Self::Item> {
        let this = self.0.first;
        // SAFETY: By the type invariants, and by those of the list, it is there, and ours.
        let ubuf = unsafe { this.as_ref() }?;
        let copied = peek(&ubuf.copied);
        // SAFETY: As above. The reference of each follower is given up; what is behind it is read before, as the last one may be
        // somebody else's.
        unsafe {
            let links = ubuf.links.get();
            let mut follower = (*links).followers.first;
            while !follower.is_null() {
                let next = (*(*follower).links.get()).next;
                if copied {
                    (*follower).set_copied();
                }
                if bindings::refcount_dec_and_test(Ubuf::count(follower)) {
                    // INVARIANT: That was the last reference.
                    self.0.append(follower);
                }
                follower = next;
            }
            self.0.pop();
        }
        Some((this, copied))
    }
}

#[kunit_tests(netgpu_ubuf)]
mod tests {
    use super::*;

    static OPS: abi::ubuf_info_ops = abi::ubuf_info_ops {
        complete: None,
        link_skb: None,
        unreadable: true,
    };

    /// Sends, and those that are done, each with whether it was copied.
    struct Sends {
        all: KVec<Ubuf>,
        done: KVec<(usize, bool)>,
    }

    impl Sends {
        fn new(count: usize) -> Result<Self> {
            let mut all = KVec::with_capacity(count, GFP_KERNEL)?;
            for _ in 0..count {
                all.push_within_capacity(Ubuf::new(&OPS))
                    .map_err(|_| ENOMEM)?;
            }
            Ok(Self {
                all,
                done: KVec::with_capacity(count, GFP_KERNEL)?,
            })
        }

        fn ubuf(&mut self, index: usize) -> *mut Ubuf {
            &raw mut self.all[index]
        }

        fn get(&mut self, index: usize) {
            // SAFETY: It is there.
            unsafe { bindings::refcount_inc(Ubuf::count(self.ubuf(index))) };
        }

        fn follow(&mut self, index: usize, other: usize) -> bool {
            let other = self.ubuf(other);
            // SAFETY: Both are there, and nobody else knows of them.
            unsafe { Ubuf::follow(self.ubuf(index), other) }
        }

        /// Drops a reference; returns how many are done by now.
        fn put(&mut self, index: usize) -> usize {
            let first = self.ubuf(0).cast_const();
            let this = self.ubuf(index);
            let done = &mut self.done;
            // SAFETY: As above. The test has a reference.
            for (ubuf, copied) in unsafe { Ubuf::put(this) }.into_iter().flatten() {
                // SAFETY: Both are in the array.
                let index = unsafe { ubuf.cast_const().offset_from(first) } as usize;
                let _ = done.push_within_capacity((index, copied));
            }
            self.done.len()
        }
    }

    #[test]
    fn sends_that_share_a_packet_are_done_with_it_in_order() -> Result {
        let mut sends = Sends::new(4)?;
        for index in 1..4 {
            assert!(sends.follow(index, 0));
            // The sender is done with it.
            assert_eq!(sends.put(index), 0);
        }
        assert_eq!(sends.put(0), 4);
        assert!(sends
            .done
            .iter()
            .copied()
            .eq((0..4).map(|index| (index, false))));
        Ok(())
    }

    #[test]
    fn a_send_waits_for_its_own_packets_too_and_for_none_behind_it() -> Result {
        let mut sends = Sends::new(5)?;
        // 1 and 2 are in the last packet of 0; 2 has another, which 3 is in as well; that of 4 is its own.
        assert!(sends.follow(1, 0) && sends.follow(2, 0));
        sends.get(2);
        assert!(sends.follow(3, 2));
        for index in 1..4 {
            assert_eq!(sends.put(index), 0);
        }
        assert_eq!(sends.put(4), 1);
        assert_eq!(sends.put(0), 3);
        assert_eq!(sends.put(2), 5);
        assert!(sends.done.iter().map(|done| done.0).eq([4, 0, 1, 2, 3]));
        Ok(())
    }

    #[test]
    fn a_packet_that_was_cut_holds_all_that_share_it_until_the_last_part_is_gone() -> Result {
        let mut sends = Sends::new(3)?;
        sends.get(0);
        assert!(sends.follow(1, 0) && sends.follow(2, 0));
        assert_eq!((sends.put(1), sends.put(2)), (0, 0));
        assert_eq!(sends.put(0), 0);
        assert_eq!(sends.put(0), 3);
        Ok(())
    }

    #[test]
    fn no_send_waits_for_itself() -> Result {
        let mut sends = Sends::new(3)?;
        assert!(sends.follow(1, 0));
        // The last packet of the second is the tail when the first, which has slept, goes on.
        assert!(!sends.follow(0, 1));
        // It has followed one: there is one place on a list.
        assert!(!sends.follow(1, 2));
        assert_eq!((sends.put(1), sends.put(0), sends.put(2)), (0, 2, 3));
        // Not even when that one is done.
        let mut sends = Sends::new(3)?;
        assert!(sends.follow(1, 0));
        assert_eq!(sends.put(0), 1);
        assert!(!sends.follow(1, 2));
        assert_eq!((sends.put(1), sends.put(2)), (2, 3));
        Ok(())
    }

    #[test]
    fn whoever_shares_a_packet_that_was_copied_was_copied() -> Result {
        let mut sends = Sends::new(4)?;
        assert!(sends.follow(1, 0) && sends.follow(2, 1));
        sends.all[1].set_copied();
        assert_eq!((sends.put(1), sends.put(2), sends.put(3)), (0, 0, 1));
        assert_eq!(sends.put(0), 4);
        assert!(sends
            .done
            .iter()
            .copied()
            .eq([(3, false), (0, false), (1, true), (2, true)]));
        Ok(())
    }
}
