// SPDX-License-Identifier: GPL-2.0

//! The memory provider of receive queues.

use super::{
    abi,
    device::Device,
    pages::{
        niov_of,
        Buffer,
        Pool, //
    },
    patched::patched,
    uapi::BUFFER_SIZE, //
};
use crate::{
    queue::Queue,
    span::BufferSize, //
};
use core::ptr::NonNull;
use kernel::{
    error::{
        code,
        from_result,
        to_result, //
    },
    ffi::{
        c_int,
        c_void, //
    },
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::{
        Arc,
        ArcBorrow, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

/// How a queue is to be opened.
#[derive(Clone, Copy)]
pub(crate) struct QueueParams {
    /// Number of the device's receive queue.
    pub(crate) index: u32,
    /// Longest header that must stay in kernel memory, in bytes, or 0.
    pub(crate) hds_offset: u16,
    /// Bytes kept free in front of the payload, or 0.
    pub(crate) headroom: u16,
    /// Whether the payload of packets is to lie in a row, where the device does not pack it anyway.
    pub(crate) packed: bool,
}

/// That a device did not open a queue, and what is known about it.
pub(crate) struct Refusal {
    /// What the core or the driver says.
    pub(crate) error: Error,
    /// What it says in words, which may be none; [`None`]: there was no memory for them.
    pub(crate) text: Option<CString>,
    /// The name of the device; [`None`] likewise.
    pub(crate) name: Option<CString>,
    /// Whether the device has that queue.
    pub(crate) exists: bool,
    /// Whether the queue has a memory provider.
    pub(crate) provided: bool,
    /// Whether the device splits headers off.
    pub(crate) split: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            error,
            text: None,
            name: None,
            exists: true,
            provided: false,
            split: true,
        }
    }
}

fn pool_params(queue: &Arc<Queue>) -> abi::pp_memory_provider_params {
    abi::pp_memory_provider_params {
        mp_priv: Arc::as_ptr(queue).cast_mut().cast(),
        mp_ops: &OPS,
        ..Default::default()
    }
}

impl Device {
    /// Opens a receive queue; the device holds `queue` until [`Self::close_queue`] or until it goes away. Returns the
    /// headroom that the device promises.
    pub(crate) fn open_queue(
        &self,
        queue: &Arc<Queue>,
        wanted: QueueParams,
    ) -> core::result::Result<u32, Refusal> {
        let netdev = self.netdev()?;
        let params = abi::pp_memory_provider_params {
            hds_offset: wanted.hds_offset,
            hds_headroom: wanted.headroom,
            hds_packed: wanted.packed,
            // A device that has no choice of them need not be asked.
            rx_page_size: match queue.buffer_size().bytes() {
                BUFFER_SIZE => 0,
                bytes => bytes,
            },
            ..pool_params(queue)
        };
        let mut extack = abi::netlink_ext_ack::default();

        let lock = netdev.lock();
        let raw = lock.as_raw();
        // Whoever has to ask this again, as the device has moved, finds the queue: see `evict()`.
        // SAFETY: The device is there and locked.
        if !unsafe { queue.opener().may_administer(raw) } {
            return Err(EPERM.into());
        }
        let result = if netdev.is_registered() {
            // SAFETY: The device is there, locked and registered. `queue` stays: while it is being opened it is borrowed, then
            // the device has a reference.
            to_result(unsafe {
                patched!(netif_mp_open_rxq(raw, wanted.index, &params, &mut extack))
            })
        } else {
            Err(ENODEV)
        };
        if let Err(error) = result {
            // SAFETY: The device is there and locked; a text comes from code that the device holds.
            return Err(unsafe { refusal(raw, wanted.index, error, &extack) });
        }
        // The reference of the device.
        let _ = Arc::into_raw(queue.clone());
        // A device that merges in hardware ignores the wish: it packs the payload of packets one behind the other.
        // SAFETY: The device is there and locked.
        let merges = unsafe { (*raw).features } & (1 << abi::NETIF_F_GRO_HW_BIT) != 0;
        Ok(if merges { 0 } else { wanted.headroom.into() })
    }

    /// Closes a queue that is open, unless the device has gone away and done so. Fails, and changes nothing,
    /// where the device cannot restart the queue with memory of its own, mostly because there is none.
    pub(crate) fn close_queue(&self, queue: &Arc<Queue>) -> Result {
        let Ok(netdev) = self.netdev() else {
            return Ok(());
        };
        let lock = netdev.lock();
        // SAFETY: The device is there and locked, and had a queue of that number, of which it keeps the structure.
        unsafe { close(lock.as_raw(), queue) }
    }

    /// Takes all buffers from a queue that is open, and gives it others. Sleeps, for as long as the device cannot: mostly there is no
    /// memory to do it. Ends when the queue is closed meanwhile.
    pub(super) fn restart_queue(&self, queue: &Arc<Queue>) {
        let params = pool_params(queue);
        loop {
            let Ok(netdev) = self.netdev() else {
                return;
            };
            let lock = netdev.lock();
            let raw = lock.as_raw();
            // SAFETY: As in `close_queue()`.
            let rxq = unsafe { &*(*raw)._rx.add(queue.index() as usize) };
            if rxq.mp_params.mp_priv != params.mp_priv {
                return;
            }
            // A driver may have fewer queues than there were. It says so under the device's lock, and has closed those that it had before
            // it gives that back: no queue of that number uses buffers.
            // SAFETY: The device is there and locked.
            if queue.index() >= unsafe { (*raw).real_num_rx_queues } {
                return;
            }
            // SAFETY: The device is there and locked, and has that queue.
            match to_result(unsafe { abi::netdev_rx_queue_restart(raw, queue.index()) }) {
                // A device that is down uses no buffers.
                Ok(()) | Err(code::ENETDOWN) => return,
                Err(_) => {}
            }
            drop(lock);
            fsleep(Delta::from_millis(10));
        }
    }
}

/// Closes `queue`, unless that was done: see [`Device::close_queue`].
///
/// # Safety
///
/// `netdev` is there and locked, and has the structure of a queue of that number.
unsafe fn close(netdev: *mut abi::net_device, queue: &Arc<Queue>) -> Result {
    let params = pool_params(queue);
    // SAFETY: By this function's requirements.
    let rxq = unsafe { (*netdev)._rx.add(queue.index() as usize) };
    // SAFETY: As above.
    if unsafe { (*rxq).mp_params.mp_priv } == params.mp_priv {
        // SAFETY: As above; the queue is open with these operations.
        to_result(unsafe { patched!(netif_mp_try_close_rxq(netdev, queue.index(), &params)) })?;
        // SAFETY: The device has given up the reference of `open_queue()`: it has forgotten it, also where it has no queue of
        // that number at present.
        drop(unsafe { Arc::from_raw(params.mp_priv.cast::<Queue>().cast_const()) });
    }
    Ok(())
}

/// Closes the queues of a device whose openers may not administer it where it is now.
///
/// # Safety
///
/// `netdev` is there, and locked if it has queues of ours.
pub(super) unsafe fn evict(netdev: *mut abi::net_device) {
    // SAFETY: By this function's requirements; the number does not change.
    for index in 0..unsafe { (*netdev).num_rx_queues } as usize {
        // SAFETY: By this function's requirements; there are that many.
        let (ops, queue) = unsafe {
            let params = &raw const (*(*netdev)._rx.add(index)).mp_params;
            ((*params).mp_ops, (*params).mp_priv)
        };
        if !core::ptr::eq(ops, &OPS) {
            continue;
        }
        // SAFETY: The queue is open, so the device holds it, and is locked by this function's requirements.
        let queue = Arc::from(unsafe { queue_of(queue) });
        // SAFETY: As above.
        if unsafe { queue.opener().may_administer(netdev) } {
            continue;
        }
        // At once: the device is down, so that nobody's packets have come yet.
        // SAFETY: As above.
        let _ = unsafe { close(netdev, &queue) };
        // Its context is told later, or has it tried again: that takes locks that come before the device's.
        queue.close_later();
    }
}

/// # Safety
///
/// `netdev` is there and locked. `extack` has a text that is there, or none.
unsafe fn refusal(
    netdev: *mut abi::net_device,
    index: u32,
    error: Error,
    extack: &abi::netlink_ext_ack,
) -> Refusal {
    let copy = |text: *const kernel::ffi::c_char| {
        let text = match text.is_null() {
            true => c"",
            // SAFETY: Below it is called with a string or null.
            false => unsafe { CStr::from_char_ptr(text) },
        };
        CString::try_from(text).ok()
    };
    // SAFETY: By this function's requirements.
    let (queues, split) = unsafe { ((*netdev).real_num_rx_queues, (*(*netdev).cfg).hds_config) };
    let exists = index < queues;
    Refusal {
        error,
        text: copy(extack._msg),
        // SAFETY: By this function's requirements.
        name: copy(unsafe { &raw const (*netdev).name }.cast()),
        exists,
        // SAFETY: By this function's requirements, and there is that queue.
        provided: exists && unsafe { abi::netif_rxq_has_unreadable_mp(netdev, index) },
        split: u32::from(split) == abi::ethtool_tcp_data_split_ETHTOOL_TCP_DATA_SPLIT_ENABLED,
    }
}

/// What page pools call.
pub(super) static OPS: abi::memory_provider_ops = abi::memory_provider_ops {
    alloc_netmems: Some(netgpu_alloc_netmems),
    release_netmem: Some(release_netmem),
    init: Some(netgpu_pool_init),
    destroy: Some(destroy),
    nl_fill: Some(nl_fill),
    uninstall: Some(uninstall),
};

/// # Safety
///
/// `queue` is the private data of [`OPS`], a queue that somebody holds for `'a`.
unsafe fn queue_of<'a>(queue: *mut c_void) -> ArcBorrow<'a, Queue> {
    // SAFETY: By this function's requirements; see `pool_params()`.
    unsafe { ArcBorrow::from_raw(queue.cast::<Queue>().cast_const()) }
}

/// A page pool is made: it takes a reference to its queue. Process context.
///
/// # Safety
///
/// `pool` is a pool of a queue of ours that is being opened or open.
#[no_mangle]
unsafe extern "C" fn netgpu_pool_init(pool: *mut abi::page_pool) -> c_int {
    // SAFETY: By this function's requirements; nobody uses the pool yet.
    let (queue, params, maps) = unsafe {
        (
            (*pool).mp_priv,
            &(*pool).p,
            abi::page_pool::dma_map_raw(pool),
        )
    };
    // SAFETY: By this function's requirements the device or who opens the queue holds it.
    let queue = unsafe { queue_of(queue) };
    let usable = maps && params.dma_dir == abi::dma_data_direction_DMA_FROM_DEVICE;
    from_result(|| {
        if !usable {
            return Err(EOPNOTSUPP);
        }
        let bytes = PAGE_SIZE.checked_shl(params.order).unwrap_or(0);
        queue.check_pool(params.dev.cast_const().cast(), bytes)?;
        // What needs it cannot be attached, and an exporter's mapping is not ours to sync.
        // SAFETY: By this function's requirements; nobody uses the pool yet.
        unsafe {
            abi::page_pool::set_dma_sync_raw(pool, false);
            abi::page_pool::set_dma_sync_for_cpu_raw(pool, false);
        }
        let _ = Arc::into_raw(Arc::from(queue));
        Ok(0)
    })
}

/// A page pool is gone. Process context.
///
/// # Safety
///
/// `pool` is a pool of ours; gives up the reference of [`netgpu_pool_init`].
unsafe extern "C" fn destroy(pool: *mut abi::page_pool) {
    // SAFETY: By this function's requirements.
    drop(unsafe { Arc::from_raw((*pool).mp_priv.cast::<Queue>().cast_const()) });
}

/// How many buffers a page pool gets at once: as many bytes as it otherwise takes in pages, or a few.
fn batch(size: BufferSize) -> u32 {
    (abi::PP_ALLOC_CACHE_REFILL / (size.bytes() / PAGE_SIZE as u32)).max(8)
}

/// A page pool, whose cache is empty, wants a buffer. Softirq mostly, never sleeps.
///
/// # Safety
///
/// `pool` is a pool of ours.
#[no_mangle]
unsafe extern "C" fn netgpu_alloc_netmems(
    pool: *mut abi::page_pool,
    _gfp: abi::gfp_t,
) -> abi::netmem_ref {
    let Some(pool) = NonNull::new(pool) else {
        return 0;
    };
    // SAFETY: A pool holds its queue.
    let queue = unsafe { queue_of((*pool.as_ptr()).mp_priv) };
    // SAFETY: This is the alloc op, and the empty cache takes more than that.
    let mut cache = unsafe { Pool::new(pool) };
    if queue.refill(&cache, batch(queue.buffer_size())) == 0 {
        return 0;
    }
    cache.take().unwrap_or(0)
}

/// A page pool gives a buffer back: one reference is left, for its new owner. Softirq or process context.
///
/// # Safety
///
/// `netmem` is a buffer of ours in `pool`, and nothing refers to it.
unsafe extern "C" fn release_netmem(
    _pool: *mut abi::page_pool,
    netmem: abi::netmem_ref,
) -> abi::bool_ {
    if let Some(niov) = niov_of(netmem) {
        // SAFETY: By this function's requirements.
        unsafe {
            patched!(net_mp_niov_clear_page_pool(niov));
            abi::netgpu_page_pool_fragment_netmem(netmem, 1);
        }
        // SAFETY: By this function's requirements; the pool holds it through its queue.
        if let Some(buffer) = unsafe { Buffer::of(niov) } {
            buffer.attachment().free(buffer.index);
        }
    }
    false
}

/// Nothing of ours is worth telling in a queue's description.
///
/// # Safety
///
/// None.
unsafe extern "C" fn nl_fill(
    _queue: *mut c_void,
    _response: *mut abi::sk_buff,
    _rxq: *mut abi::netdev_rx_queue,
) -> c_int {
    0
}

/// The device closes the queue for good. Process context, under the device's lock.
///
/// # Safety
///
/// `rxq` is open with `queue`, which gives up the reference of [`Device::open_queue`].
unsafe extern "C" fn uninstall(queue: *mut c_void, rxq: *mut abi::netdev_rx_queue) {
    // SAFETY: By this function's requirements.
    let params = unsafe { &mut (*rxq).mp_params };
    params.mp_ops = core::ptr::null();
    params.mp_priv = core::ptr::null_mut();
    // SAFETY: By this function's requirements.
    drop(unsafe { Arc::from_raw(queue.cast::<Queue>().cast_const()) });
}
