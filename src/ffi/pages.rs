// SPDX-License-Identifier: GPL-2.0

//! Pages as network memory of a device, and what the stack hands us of it.

use super::{
    abi,
    device::Device,
    late::Late, //
};
use crate::{
    area::Region,
    attach::Attachment,
    buffers::{
        Buffers,
        Shares, //
    },
    context::Context, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    prelude::*,
    sync::Arc, //
};

/// What became of a buffer after a reference was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// Others hold it, or it went back to the pool it belongs to.
    InUse,
    /// It is in the cache of the pool that asks.
    Pooled,
    /// It was the last reference and no pool owns the buffer: it is the caller's.
    Free,
}

/// The page pool that asks for buffers.
///
/// # Invariants
///
/// Holds the pool whose alloc op is running, with room in its cache for as many buffers as were asked.
pub(crate) struct Pool(NonNull<abi::page_pool>);

impl Pool {
    /// # Safety
    ///
    /// As the invariants say, for as long as the result lives.
    pub(super) unsafe fn new(pool: NonNull<abi::page_pool>) -> Self {
        // INVARIANT: By this function's requirements.
        Self(pool)
    }
}

/// The pages of a region as buffers of a device: mapped for its DMA, a net_iov each.
///
/// # Invariants
///
/// Holds a map that `netgpu_map_create()` made of the pages of `region`.
pub(crate) struct Map {
    raw: NonNull<abi::netgpu_map>,
    region: Arc<Region>,
}

// SAFETY: Buffers are reference counted by atomics; unmapping is excluded by the context's state lock.
unsafe impl Send for Map {}
// SAFETY: As above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `region` for `device`, as part of `attachment`, which is part of `context`. The shim hands the pointers back and
    /// never looks into them.
    ///
    /// # Safety
    ///
    /// `attachment` points to the attachment that will own the map.
    unsafe fn new(
        device: &Device,
        region: Arc<Region>,
        context: &Late<Context>,
        attachment: *mut Attachment,
    ) -> Result<Self> {
        let mut out = core::ptr::null_mut();
        // SAFETY: `device` and the pages are valid by their invariants, and the pages stay: the result holds
        // their region. The rest is the caller's duty.
        to_result(unsafe {
            abi::netgpu_map_create(
                device.as_raw(),
                region.pages.as_raw(),
                region.span.buffers(),
                context.as_raw(),
                attachment.cast(),
                &mut out,
            )
        })?;
        // INVARIANT: Made by the call above.
        Ok(Self {
            raw: NonNull::new(out).ok_or(ENOMEM)?,
            region,
        })
    }

    /// Maps `region` for `device` and makes an attachment of `context` of it.
    ///
    /// The context keeps the attachment for as long as it lives once it has let anyone find it: buffers refer to their
    /// attachment, and what holds a buffer holds the context.
    pub(crate) fn attach(
        device: &Device,
        region: Arc<Region>,
        context: &Late<Context>,
        shares: Arc<Shares>,
    ) -> Result<Arc<Attachment>> {
        Arc::pin_init(
            try_pin_init!(&this in Attachment {
                // SAFETY: `this` is where the attachment will be.
                map: unsafe { Map::new(device, region.clone(), context, this.as_ptr()) }?,
                buffers <- Buffers::new(region.span.buffers()),
                shares,
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )
    }

    /// The region that is mapped.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Nothing of the map may be sent from here on.
    pub(crate) fn revoke(&self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_map_revoke(self.raw.as_ptr()) };
    }

    /// Ends the DMA mapping, as the device goes away. Sleeps.
    ///
    /// # Safety
    ///
    /// The device no longer uses the memory. Callers exclude one another.
    pub(crate) unsafe fn unmap(&self) {
        // SAFETY: By the type invariants and this function's requirements.
        unsafe { abi::netgpu_map_unmap(self.raw.as_ptr()) };
    }

    /// The map as the shim knows it.
    pub(super) fn as_raw(&self) -> *mut abi::netgpu_map {
        self.raw.as_ptr()
    }

    fn index(&self, index: u32) -> Result<u32> {
        (index < self.region.span.buffers())
            .then_some(index)
            .ok_or(EINVAL)
    }

    /// Takes a reference to a buffer of which another exists.
    pub(crate) fn get(&self, index: u32) {
        if let Ok(index) = self.index(index) {
            // SAFETY: By the type invariants; `index` is checked.
            unsafe { abi::netgpu_buffer_get(self.raw.as_ptr(), index) };
        }
    }

    /// Drops a reference to a buffer, on behalf of `pool` or of nobody.
    pub(crate) fn put(&self, index: u32, pool: Option<&Pool>) -> Put {
        let Ok(index) = self.index(index) else {
            return Put::InUse;
        };
        let pool = pool.map_or(core::ptr::null_mut(), |pool| pool.0.as_ptr());
        // SAFETY: By the invariants of both types; `index` is checked.
        match unsafe { abi::netgpu_buffer_put(self.raw.as_ptr(), index, pool) } {
            abi::NETGPU_BUFFER_POOLED => Put::Pooled,
            abi::NETGPU_BUFFER_FREE => Put::Free,
            _ => Put::InUse,
        }
    }

    /// Moves a buffer that is the caller's into the cache of `pool`.
    pub(crate) fn give(&self, index: u32, pool: &Pool) {
        if let Ok(index) = self.index(index) {
            // SAFETY: By the invariants of both types; `index` is checked.
            unsafe { abi::netgpu_buffer_give(self.raw.as_ptr(), index, pool.0.as_ptr()) };
        }
    }

    /// Copies `data` to `offset` of a buffer that the caller holds.
    pub(crate) fn write(&self, index: u32, offset: u32, data: &[u8]) -> Result {
        let index = self.index(index)?;
        let len = u32::try_from(data.len())?;
        let end = offset.checked_add(len).ok_or(EINVAL)?;
        if end > abi::NETGPU_BUFFER_SIZE {
            return Err(EINVAL);
        }
        // SAFETY: By the type invariants; index and range are checked.
        unsafe {
            abi::netgpu_buffer_write(self.raw.as_ptr(), index, offset, data.as_ptr().cast(), len)
        };
        Ok(())
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: By the type invariants. The context owns the map and lives while anything refers to a
        // buffer: pools hold their queue, fragments that are sent hold the context.
        unsafe { abi::netgpu_map_destroy(self.raw.as_ptr()) };
    }
}

/// Received bytes, from the shim.
pub(crate) enum Piece<'a> {
    /// A part of a buffer of the context.
    Buffer {
        attachment: &'a Attachment,
        index: u32,
        offset: u32,
        len: u32,
    },
    /// Kernel memory.
    Bytes(&'a [u8]),
    /// Memory that the context has nothing to do with.
    Foreign,
}

/// The pieces of a packet, in order.
///
/// # Invariants
///
/// The slice comes from the shim's read actor: pointers are null or what the shim's contract says.
pub(crate) struct Pieces<'a>(&'a [abi::netgpu_piece]);

impl<'a> Pieces<'a> {
    /// # Safety
    ///
    /// As the invariants say; the packet lives for `'a`.
    pub(super) unsafe fn new(raw: &'a [abi::netgpu_piece]) -> Self {
        // INVARIANT: By this function's requirements.
        Self(raw)
    }

    /// The piece at `at`, as seen by `context`.
    pub(crate) fn get(&self, at: usize, context: &'a Late<Context>) -> Option<Piece<'a>> {
        let raw = self.0.get(at)?;
        Some(
            if !raw.attachment.is_null() && raw.context == context.as_raw() {
                Piece::Buffer {
                    // SAFETY: The buffer's map was made with this context and an attachment of it. The context
                    // keeps its attachments for as long as it lives, which is all of `'a`.
                    attachment: unsafe { &*raw.attachment.cast::<Attachment>() },
                    index: raw.index,
                    offset: raw.offset,
                    len: raw.len,
                }
            } else if !raw.data.is_null() {
                // SAFETY: By the type invariants, `data` is `len` bytes of the packet.
                Piece::Bytes(unsafe {
                    core::slice::from_raw_parts(raw.data.cast(), raw.len as usize)
                })
            } else {
                Piece::Foreign
            },
        )
    }
}
