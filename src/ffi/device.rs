// SPDX-License-Identifier: GPL-2.0

//! The network device of a context.

use super::{
    abi,
    late::{
        Late,
        Quiet, //
    },
    pages::Map, //
};
use crate::{
    context::Context,
    queue::Queue, //
};
use core::ptr::NonNull;
use kernel::{
    error::to_result,
    ffi::c_void,
    prelude::*,
    str::CStr,
    sync::{
        rcu,
        Arc, //
    }, //
};

/// An open network device.
///
/// Its owner calls [`Self::unwatch`] and [`Self::gone`] before it drops it.
///
/// # Invariants
///
/// Holds a device that `netgpu_device_open()` opened.
pub(crate) struct Device(NonNull<abi::netgpu_device>);

// SAFETY: The shim locks what may change.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

/// How a queue is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct QueueParams {
    /// Number of the device's receive queue.
    pub(crate) index: u32,
    /// Longest header that must stay in kernel memory, in bytes, or 0.
    pub(crate) hds_offset: u32,
    /// Bytes kept free in front of the payload, or 0.
    pub(crate) headroom: u32,
}

/// Why the device refused, as text; may be empty.
pub(crate) struct Message([u8; 92]);

impl Message {
    /// The text without its end mark.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        CStr::from_bytes_until_nul(&self.0).map_or(&[], |text| text.to_bytes())
    }
}

impl Device {
    /// Opens the device with index `ifindex` in the network namespace of the current process.
    ///
    /// `context` owns the result and calls [`Self::unwatch`] when it retires.
    pub(crate) fn open(ifindex: u32, context: &Late<Context>) -> Result<Self> {
        let mut out = core::ptr::null_mut();
        // SAFETY: Process context: user space is asking.
        to_result(unsafe { abi::netgpu_device_open(ifindex, context.as_raw(), &mut out) })?;
        // INVARIANT: Opened by the call above.
        Ok(Self(NonNull::new(out).ok_or(ENODEV)?))
    }

    pub(super) fn as_raw(&self) -> *mut abi::netgpu_device {
        self.0.as_ptr()
    }

    /// Checks that the current process may administer the device.
    pub(crate) fn permit(&self) -> Result {
        // SAFETY: By the type invariants.
        to_result(unsafe { abi::netgpu_device_permit(self.as_raw()) })
    }

    /// Whether `dma` is the device that memory is mapped for.
    pub(crate) fn is_dma(&self, dma: *const c_void) -> bool {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_device_dma(self.as_raw()) == dma }
    }

    /// Opens a receive queue; the device holds `queue` until [`Self::close_queue`] or until it goes away. Returns the
    /// headroom that the device promises; on failure tells why, as far as the device says.
    pub(crate) fn open_queue(
        &self,
        queue: &Arc<Queue>,
        params: QueueParams,
    ) -> core::result::Result<u32, (Error, Message)> {
        let mut open = abi::netgpu_queue_open {
            queue: params.index,
            hds_offset: params.hds_offset,
            headroom: params.headroom,
            message: [0; 92],
        };
        let raw = Arc::into_raw(queue.clone()).cast_mut();
        // SAFETY: By the type invariants; the reference in `raw` goes to the shim.
        let result =
            to_result(unsafe { abi::netgpu_queue_open(self.as_raw(), raw.cast(), &mut open) });
        result.map(|()| open.headroom).map_err(|err| {
            // SAFETY: On failure the reference is still ours.
            drop(unsafe { Arc::from_raw(raw) });
            (err, Message(open.message))
        })
    }

    /// Closes a queue, unless the device has gone away and done so.
    pub(crate) fn close_queue(&self, queue: &Arc<Queue>, index: u32) {
        let raw = Arc::as_ptr(queue).cast_mut();
        // SAFETY: By the type invariants; the queue was opened with this index.
        if unsafe { abi::netgpu_queue_close(self.as_raw(), raw.cast(), index) } {
            // SAFETY: The device has given up the reference of `open_queue()`.
            drop(unsafe { Arc::from_raw(raw) });
        }
    }

    /// Watches for the device to go away. Takes rtnl.
    pub(crate) fn watch(&self) -> Result {
        // SAFETY: By the type invariants; the context is the duty of who opened the device.
        to_result(unsafe { abi::netgpu_device_watch(self.as_raw()) })
    }

    /// Stops watching for the device to go away. Takes rtnl.
    pub(crate) fn unwatch(&self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_device_unwatch(self.as_raw()) };
    }

    /// Lets go of the network device: ends the mappings `maps`, which must be all that were made for it.
    ///
    /// Once; no map is made afterwards.
    pub(crate) fn gone<'a>(&self, _quiet: Quiet, maps: impl Iterator<Item = &'a Map> + Clone) {
        maps.clone().for_each(Map::revoke);
        // Packets that were let through before are past the check of their device when this returns.
        rcu::synchronize_rcu();
        // SAFETY: Receiving has ended, as `_quiet` says, and sending by the above.
        maps.for_each(|map| unsafe { map.unmap() });
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_device_drop(self.as_raw()) };
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: By the type invariants; the owner has called `unwatch()` and `gone()`.
        unsafe { abi::netgpu_device_free(self.as_raw()) };
    }
}
