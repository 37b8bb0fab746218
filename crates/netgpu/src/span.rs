// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of regions and who may touch them: owned ([`Span`]), being sent ([`Payload`]), received ([`Held`]).
//!
//! The kernel's devices read and write registered memory behind the compiler's back. What makes slices of it sound is
//! that each buffer is in one hand at a time:
//!
//! - A [`Span`] owns its buffers alone. The kernel has never been given them, so no device writes to them.
//! - A span that is donated is gone: no safe code can name its bytes again but through what the kernel delivers.
//! - Delivered bytes belong to user space until they are returned (the rule at `struct netgpu_fill_entry` in the
//!   header of the user API). [`Held`] is made of one delivery, and dropping it is the return.
//! - Sending only reads. A [`Payload`] gives out shared slices, and keeps its span until the send has finished.

use std::collections::BTreeMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use crate::area::RegionShared;
use crate::error::Error;
use crate::memory::{HostMemory, Memory};
use crate::queue::QueueShared;
use crate::ring::Delivery;
use crate::socket::Piece;

/// The free buffers of a region: first buffer to number of buffers, no two of them touching.
#[derive(Debug)]
pub(crate) struct Extents {
    free: BTreeMap<usize, usize>,
}

impl Extents {
    /// All of the `buffers` buffers are free.
    pub(crate) fn new(buffers: usize) -> Self {
        let free = (buffers > 0).then_some((0, buffers));
        Self {
            free: free.into_iter().collect(),
        }
    }

    /// Takes `count` neighbouring buffers, from the lowest place where there are as many; returns the first one.
    pub(crate) fn take(&mut self, count: usize) -> Option<usize> {
        if count == 0 {
            return None;
        }
        let (&first, &found) = self.free.iter().find(|&(_, &found)| found >= count)?;
        self.free.remove(&first);
        if found > count {
            self.free.insert(first + count, found - count);
        }
        Some(first)
    }

    /// Gives `count` buffers from `first` on back, which were taken and not given back since.
    pub(crate) fn give(&mut self, mut first: usize, mut count: usize) {
        if count == 0 {
            return;
        }
        if let Some(behind) = self.free.remove(&(first + count)) {
            count += behind;
        }
        if let Some((&before, &found)) = self.free.range(..first).next_back()
            && before + found == first
        {
            first = before;
            count += found;
        }
        self.free.insert(first, count);
    }
}

/// Whole buffers of a region that the holder owns alone.
///
/// Dereferences to its bytes, if they are the CPU's ([`Region::is_host`](crate::Region::is_host)). Dropping it frees the buffers for [`Region::take`](crate::Region::take).
///
/// # Invariants
///
/// There is no other reference to the buffers.
pub struct Span(Arc<Buffers>);

/// Whole buffers of a region. Dropping it frees them.
///
/// # Invariants
///
/// They lie in the region, were taken from its free ones, and no other value names them.
struct Buffers {
    region: Arc<RegionShared>,
    first: usize,
    count: usize,
}

impl Buffers {
    /// First byte of the region that is theirs.
    fn offset(&self) -> usize {
        self.first * self.region.buffer_size()
    }

    /// The address that stands for the first byte.
    fn address(&self) -> usize {
        self.region.memory().start() + self.offset()
    }

    /// # Panics
    ///
    /// When the memory is not the CPU's.
    fn start(&self) -> NonNull<u8> {
        let start = host(&self.region).start();
        // SAFETY: The offset is that of a buffer of the region, by the type invariant.
        unsafe { start.add(self.offset()) }
    }

    /// Number of bytes.
    fn len(&self) -> usize {
        self.count * self.region.buffer_size()
    }

    /// # Panics
    ///
    /// When the memory is not the CPU's.
    fn bytes(&self) -> &[u8] {
        // SAFETY: The bytes are mapped as long as `region` is, which `self` keeps, and initialised (by the kernel with
        // zeros, or by the promise of `HostMemory::from_raw`). By the type invariant only who has a reference to `self` has them:
        // nobody has a mutable slice of them but through a span borrowed mutably, which has the only reference, and no device
        // writes to them, since it was not given them.
        unsafe { slice::from_raw_parts(self.start().as_ptr(), self.len()) }
    }
}

impl fmt::Debug for Buffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Span({:#x}, {} bytes)", self.address(), self.len())
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        self.region.free().give(self.first, self.count);
    }
}

impl Span {
    /// `count` buffers from `first` on have just been taken from the free ones of `region`.
    pub(crate) fn new(region: Arc<RegionShared>, first: usize, count: usize) -> Self {
        // INVARIANT: By what `Extents::take` returns, and the reference is the only one.
        Self(Arc::new(Buffers {
            region,
            first,
            count,
        }))
    }

    /// The address that stands for the first byte. What lies there is reached through the span alone.
    pub fn address(&self) -> usize {
        self.0.address()
    }

    /// Number of bytes.
    #[expect(
        clippy::len_without_is_empty,
        reason = "a span is empty only where nobody sees it"
    )]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Copies `data` to `offset`, to whatever memory it is.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`]; [`Error::NoCopy`] for a dma-buf.
    ///
    /// # Panics
    ///
    /// When it does not fit.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Result<(), Error> {
        assert!(offset <= self.len() && data.len() <= self.len() - offset);
        match self.region().memory() {
            Memory::Host(_) => self[offset..][..data.len()].copy_from_slice(data),
            Memory::DmaBuf(_) => return Err(Error::NoCopy),
            #[cfg(feature = "cuda")]
            Memory::Cuda(memory) => memory.lock().write(self.0.offset() + offset, data)?,
        }
        Ok(())
    }

    /// Fills `data` with a copy of what is at `offset`, of whatever memory it is.
    ///
    /// # Errors
    ///
    /// [`Error::Cuda`]; [`Error::NoCopy`] for a dma-buf.
    ///
    /// # Panics
    ///
    /// When there is not so much.
    pub fn read(&self, offset: usize, data: &mut [u8]) -> Result<(), Error> {
        assert!(offset <= self.len() && data.len() <= self.len() - offset);
        match self.region().memory() {
            Memory::Host(_) => data.copy_from_slice(&self[offset..][..data.len()]),
            Memory::DmaBuf(_) => return Err(Error::NoCopy),
            #[cfg(feature = "cuda")]
            Memory::Cuda(memory) => memory.lock().read(self.0.offset() + offset, data)?,
        }
        Ok(())
    }

    /// Gives the bytes up for good, so that they are nobody's in this process as long as the region lives; returns the
    /// addresses of the buffers of `size` in them, for the fill ring.
    pub(crate) fn surrender(mut self, size: usize) -> impl Iterator<Item = u64> + use<> {
        let start = self.address() as u64;
        let end = start + self.len() as u64;
        let buffers = Arc::get_mut(&mut self.0).expect("a span has the only reference");
        // INVARIANT: None are named from here on, and dropping it frees nothing.
        buffers.count = 0;
        (start..end).step_by(size)
    }

    pub(crate) fn region(&self) -> &Arc<RegionShared> {
        &self.0.region
    }

    /// Turns the bytes in `range` into a payload to send. From then on nobody can write to them, until
    /// [`Payload::into_span`] gives the span back:
    ///
    /// ```compile_fail,E0382
    /// fn prepare(mut span: netgpu::Span) -> netgpu::Payload {
    ///     let payload = span.into_payload(0..5);
    ///     span[..5].copy_from_slice(b"later");
    ///     payload
    /// }
    /// ```
    ///
    /// # Panics
    ///
    /// When `range` is not within the span.
    #[inline]
    pub fn into_payload(self, range: Range<usize>) -> Payload {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "{range:?} is not within a span of {} bytes",
            self.len()
        );
        Payload {
            buffers: self.0,
            range,
        }
    }
}

impl Deref for Span {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl DerefMut for Span {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: As for `Buffers::bytes()`. By the type invariant there is no other reference to the buffers, and `&mut self` excludes
        // every other slice.
        unsafe { slice::from_raw_parts_mut(self.0.start().as_ptr(), self.len()) }
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Bytes of a [`Span`] that are to be sent, or on their way.
///
/// Clones share the span. When the last one is back, [`Payload::into_span`] gives the span back to be filled anew.
#[derive(Debug, Clone)]
pub struct Payload {
    buffers: Arc<Buffers>,
    range: Range<usize>,
}

impl Payload {
    /// Number of bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// The address that stands for the first byte.
    #[inline]
    pub fn address(&self) -> usize {
        self.buffers.address() + self.range.start
    }

    /// Leaves the first `count` bytes out from now on.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(
            count <= self.len(),
            "a payload of {} bytes cannot advance by {count}",
            self.len()
        );
        self.range.start += count;
    }

    /// The first `count` bytes, as a payload of their own.
    ///
    /// # Panics
    ///
    /// When there are fewer.
    #[inline]
    pub fn head(&self, count: usize) -> Self {
        assert!(
            count <= self.len(),
            "a payload of {} bytes has no {count}",
            self.len()
        );
        let range = self.range.start..self.range.start + count;
        Self {
            buffers: self.buffers.clone(),
            range,
        }
    }

    /// The whole span, if no other payload shares it.
    ///
    /// # Errors
    ///
    /// The payload itself, if there are others.
    #[inline]
    pub fn into_span(mut self) -> Result<Span, Self> {
        match Arc::get_mut(&mut self.buffers) {
            // INVARIANT: There is no other reference.
            Some(_) => Ok(Span(self.buffers)),
            None => Err(self),
        }
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffers.bytes()[self.range.clone()]
    }
}

/// The regions of a context, for finding those that deliveries lie in.
///
/// # Invariants
///
/// All of `regions` are of the context of `queue`, which keeps them; `last` is one of them.
#[derive(Debug)]
pub(crate) struct Finder {
    queue: Arc<QueueShared>,
    /// Those of when some was last looked for in vain, sorted by their addresses: looking needs no lock.
    regions: Vec<Arc<RegionShared>>,
    /// The region that was last found, of which the next delivery mostly is, too.
    last: Option<Found>,
}

/// A region, from [`Arc::as_ptr`], and its addresses.
#[derive(Debug, Clone, Copy)]
struct Found {
    region: NonNull<RegionShared>,
    start: usize,
    len: usize,
}

// SAFETY: It stands for a shared borrow of a region, which threads may share.
unsafe impl Send for Found {}
// SAFETY: As above.
unsafe impl Sync for Found {}

impl Finder {
    /// Of deliveries that are to be returned through `queue`.
    pub(crate) fn new(queue: Arc<QueueShared>) -> Self {
        // INVARIANT: There are none.
        Self {
            queue,
            regions: Vec::new(),
            last: None,
        }
    }

    pub(crate) fn queue(&self) -> &Arc<QueueShared> {
        &self.queue
    }

    /// Takes `delivery` over; [`None`] if it lies in no region of the context.
    #[inline]
    pub(crate) fn hold(&mut self, delivery: &Delivery) -> Option<Held> {
        let region = self.region_of(delivery)?;
        // INVARIANT: It lies in that region, which is the context's by the type invariant, and a `Delivery` is a claim of the kernel
        // that nobody else holds.
        Some(Held {
            region,
            address: delivery.address() as usize,
            len: delivery.len() as usize,
            queue: self.queue.clone(),
        })
    }

    /// The region that all of `delivery` lies in.
    #[inline]
    fn region_of(&mut self, delivery: &Delivery) -> Option<NonNull<RegionShared>> {
        let address = usize::try_from(delivery.address()).ok()?;
        let len = usize::try_from(delivery.len()).ok()?;
        let within = |found: &Found| {
            let offset = address.wrapping_sub(found.start);
            offset < found.len && len <= found.len - offset
        };
        match self.last {
            Some(last) if within(&last) => Some(last.region),
            _ => self.find(address).filter(within).map(|found| found.region),
        }
    }

    /// The region that `address` lies in, if it lies in one.
    #[cold]
    fn find(&mut self, address: usize) -> Option<Found> {
        self.last = self.look(address).or_else(|| {
            // INVARIANT: The queue's context has these, and keeps what it has.
            self.regions = self.queue.context().regions();
            self.look(address)
        });
        self.last
    }

    fn look(&self, address: usize) -> Option<Found> {
        let behind = self
            .regions
            .partition_point(|region| region.memory().start() <= address);
        let region = self.regions[..behind].last()?;
        let (start, len) = (region.memory().start(), region.memory().len());
        (address - start < len).then(|| Found {
            region: NonNull::new(Arc::as_ptr(region).cast_mut())
                .expect("no reference points to null"),
            start,
            len,
        })
    }
}

/// Delivered bytes that user space holds.
///
/// # Invariants
///
/// `len` bytes at `address` of `region` are a delivery that has not been returned. `region` is from [`Arc::as_ptr`] of one of the context
/// of `queue`, so that it stays as long as `self`: a context keeps its regions, and a queue its context.
#[derive(Debug)]
pub(crate) struct Held {
    region: NonNull<RegionShared>,
    address: usize,
    len: usize,
    queue: Arc<QueueShared>,
}

// SAFETY: What it has of the region is a shared borrow, and threads may share regions; the rest is `Send`.
unsafe impl Send for Held {}
// SAFETY: As above; the rest is `Sync`.
unsafe impl Sync for Held {}

impl Held {
    fn region(&self) -> &RegionShared {
        // SAFETY: By the type invariant it is there as long as `self`, and only ever borrowed shared.
        unsafe { self.region.as_ref() }
    }

    /// The region, for who keeps it.
    pub(crate) fn shared_region(&self) -> Arc<RegionShared> {
        let region = self.region.as_ptr().cast_const();
        // SAFETY: By the type invariants it is from `Arc::as_ptr()`, and there is a reference for as long as `self`.
        unsafe {
            Arc::increment_strong_count(region);
            Arc::from_raw(region)
        }
    }

    /// The address that stands for the first byte.
    pub(crate) fn start(&self) -> usize {
        self.address
    }

    /// Number of bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn offset(&self) -> usize {
        self.address - self.region().memory().start()
    }

    /// Fills `data`, which is as long, with the bytes, of whatever memory it is.
    pub(crate) fn read(&self, data: &mut [u8]) -> Result<(), Error> {
        match self.region().memory() {
            Memory::Host(_) => data.copy_from_slice(self.bytes()),
            Memory::DmaBuf(_) => return Err(Error::NoCopy),
            #[cfg(feature = "cuda")]
            Memory::Cuda(memory) => memory.lock().read(self.offset(), data)?,
        }
        Ok(())
    }

    /// The bytes.
    ///
    /// # Panics
    ///
    /// When the memory is not the CPU's.
    pub(crate) fn bytes(&self) -> &[u8] {
        let start = host(self.region()).start();
        // SAFETY: By the type invariants the bytes lie in a region, which `self` keeps mapped, and are user space's
        // until they are returned: by the kernel's rule at `struct netgpu_fill_entry` no device writes to them, and
        // the kernel delivers bytes of donated buffers only, of which no `Span` exists.
        unsafe { slice::from_raw_parts(start.as_ptr().add(self.offset()), self.len) }
    }
}

impl Drop for Held {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: Nobody looks at the bytes after this.
        unsafe { self.queue.give_back(self.address as u64) };
    }
}

/// Deliveries that are only looked at, and returned some at a time.
pub(crate) struct Lent<'a> {
    finder: &'a mut Finder,
    /// Of which nobody looks at the bytes any longer: the first `count`.
    addresses: [u64; 32],
    count: usize,
}

impl<'a> Lent<'a> {
    /// Of those that `finder` finds the regions of.
    #[inline]
    pub(crate) fn new(finder: &'a mut Finder) -> Self {
        Self {
            finder,
            addresses: [0; 32],
            count: 0,
        }
    }

    /// Has `look` see `delivery`; [`None`] if that lies in no region of the context.
    #[inline]
    pub(crate) fn show<R>(
        &mut self,
        delivery: &Delivery,
        look: impl FnOnce(&Piece) -> R,
    ) -> Option<R> {
        /// What returns the delivery at `address` with the others when it was looked at, or when `look` has panicked.
        struct Seen<'a, 'b>(&'a mut Lent<'b>, u64);

        impl Drop for Seen<'_, '_> {
            #[inline]
            fn drop(&mut self) {
                let Self(lent, address) = self;
                lent.addresses[lent.count] = *address;
                lent.count += 1;
                if lent.count == lent.addresses.len() {
                    lent.give_back();
                }
            }
        }

        let region = self.finder.region_of(delivery)?;
        let seen = Seen(self, delivery.address());
        // SAFETY: The copy of the reference is never dropped, and the original stays as long as it is looked at.
        let queue = unsafe { std::ptr::read(&seen.0.finder.queue) };
        // INVARIANT: As in `Finder::hold()`. It is returned after `piece` was last used, by `seen`.
        let piece = ManuallyDrop::new(Piece::new(Held {
            region,
            address: delivery.address() as usize,
            len: delivery.len() as usize,
            queue,
        }));
        Some(look(&piece))
    }

    #[inline(never)]
    fn give_back(&mut self) {
        let addresses = &self.addresses[..self.count];
        self.count = 0;
        // SAFETY: `show()` has lent the bytes for a call that is over.
        unsafe { self.finder.queue.give_back_all(addresses) };
    }
}

impl Drop for Lent<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.count != 0 {
            self.give_back();
        }
    }
}

/// The memory of `region`, which must be the CPU's.
fn host(region: &RegionShared) -> &HostMemory {
    region
        .memory()
        .host()
        .expect("memory that is not the CPU's is reached by copies alone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn nothing_comes_out_of_nothing() {
        assert_eq!(Extents::new(0).take(1), None);
        assert_eq!(Extents::new(4).take(0), None);
        assert_eq!(Extents::new(4).take(5), None);
    }

    proptest! {
        /// Whatever is taken and given in whatever order: no buffer is in two hands, and all of them come home as one.
        #[test]
        fn extents_never_overlap(steps in vec((any::<bool>(), 1usize..9, any::<prop::sample::Index>()), 1..200)) {
            const BUFFERS: usize = 32;
            let mut extents = Extents::new(BUFFERS);
            let mut taken: Vec<(usize, usize)> = Vec::new();
            let mut in_use = [false; BUFFERS];
            for (take, count, which) in steps {
                if take {
                    let Some(first) = extents.take(count) else {
                        let longest = in_use.split(|&used| used).map(<[bool]>::len).max();
                        prop_assert!(longest.unwrap_or(0) < count, "refused {count} although {longest:?} are free");
                        continue;
                    };
                    for used in &mut in_use[first..first + count] {
                        prop_assert!(!std::mem::replace(used, true), "a buffer was given out twice");
                    }
                    taken.push((first, count));
                } else if !taken.is_empty() {
                    let (first, count) = taken.swap_remove(which.index(taken.len()));
                    extents.give(first, count);
                    in_use[first..first + count].fill(false);
                }
            }
            for (first, count) in taken {
                extents.give(first, count);
            }
            prop_assert_eq!(extents.take(BUFFERS), Some(0));
        }
    }
}
