// SPDX-License-Identifier: GPL-2.0

//! The network device of a context.

use super::{
    abi,
    late::{
        Late,
        Quiet, //
    },
    pages::Map,
    patched::patched,
    provider, //
};
use crate::{
    context::Context,
    queue::Queue, //
};
use core::{
    mem::MaybeUninit,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    container_of,
    cred::Credential,
    error::to_result,
    ffi::{
        c_int,
        c_ulong,
        c_void, //
    },
    new_mutex,
    prelude::*,
    sync::{
        aref::ARef,
        atomic::{
            Atomic,
            Relaxed, //
        },
        rcu,
        Arc,
        Mutex, //
    },
    task::Task,
    types::Opaque, //
};

/// A reference to a network device.
///
/// # Invariants
///
/// Holds a reference to the device `raw`, which `tracker` tracks.
pub(super) struct Netdev {
    raw: NonNull<abi::net_device>,
    tracker: MaybeUninit<abi::netdevice_tracker>,
}

// SAFETY: References to network devices belong to no thread.
unsafe impl Send for Netdev {}

impl Netdev {
    /// The device with index `ifindex` in the network namespace of the current process.
    fn get(ifindex: u32) -> Option<Self> {
        let ifindex = c_int::try_from(ifindex).ok()?;
        let mut tracker = MaybeUninit::zeroed();
        // SAFETY: A task that runs has namespaces, which change by its own doing only.
        let net = unsafe { (*(*Task::current_raw()).nsproxy).net_ns };
        // SAFETY: The namespace is there by the above.
        let raw = unsafe {
            abi::netdev_get_by_index(
                net.cast(),
                ifindex,
                tracker.as_mut_ptr(),
                bindings::GFP_KERNEL,
            )
        };
        // INVARIANT: The call above took the reference.
        NonNull::new(raw).map(|raw| Self { raw, tracker })
    }

    /// Another reference.
    fn hold(&self) -> Self {
        let mut tracker = MaybeUninit::zeroed();
        // SAFETY: By the type invariants.
        unsafe {
            abi::netgpu_netdev_hold(self.as_raw(), tracker.as_mut_ptr(), bindings::GFP_KERNEL)
        };
        // INVARIANT: Taken by the call above.
        Self {
            raw: self.raw,
            tracker,
        }
    }

    pub(super) fn as_raw(&self) -> *mut abi::net_device {
        self.raw.as_ptr()
    }

    /// Takes the device's lock.
    pub(super) fn lock(&self) -> NetdevLock<'_> {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_netdev_lock(self.as_raw()) };
        // INVARIANT: Locked by the call above.
        NetdevLock(self)
    }

    /// Whether the device is neither on its way in nor out. Settled under rtnl or the device's lock.
    pub(super) fn is_registered(&self) -> bool {
        // SAFETY: By the type invariants.
        let state = unsafe { (&raw const (*self.as_raw()).reg_state).read_volatile() };
        u32::from(state) == abi::netdev_reg_state_NETREG_REGISTERED
    }

    /// The device that does the DMA.
    fn dma(&self) -> Option<DmaDevice> {
        let lock = self.lock();
        let raw = lock.as_raw();
        // SAFETY: The device is there and locked.
        let mut dma = unsafe {
            patched!(netdev_queue_get_dma_dev(
                raw,
                0,
                abi::netdev_queue_type_NETDEV_QUEUE_TYPE_RX
            ))
        };
        // A device that is down may have no queues to ask. Opening one checks again.
        // SAFETY: As above.
        if dma.is_null() && !unsafe { abi::netgpu_netif_running(raw) } {
            // SAFETY: As above. The parent outlives its child.
            dma = unsafe {
                let parent = (*raw).dev.parent;
                if parent.is_null() || (*parent).dma_mask.is_null() {
                    return None;
                }
                parent
            };
        }
        // SAFETY: Null, or a device that is there as long as the network device is locked or its child.
        let dma = NonNull::new(unsafe { bindings::get_device(dma.cast()) })?;
        // INVARIANT: Taken by the call above.
        Some(DmaDevice(dma.cast()))
    }
}

impl Drop for Netdev {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_netdev_put(self.raw.as_ptr(), self.tracker.as_mut_ptr()) };
    }
}

/// The lock of a network device, held.
///
/// # Invariants
///
/// The lock is held by the current task.
pub(super) struct NetdevLock<'a>(&'a Netdev);

impl NetdevLock<'_> {
    pub(super) fn as_raw(&self) -> *mut abi::net_device {
        self.0.as_raw()
    }
}

impl Drop for NetdevLock<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { abi::netgpu_netdev_unlock(self.0.as_raw()) };
    }
}

/// Who opens a queue, with the rights that it has at that time.
pub(crate) struct Opener(ARef<Credential>);

impl Opener {
    /// The current process.
    pub(crate) fn current() -> Self {
        // SAFETY: No requirements. A task has credentials.
        let cred = unsafe { NonNull::new_unchecked(abi::netgpu_get_current_cred().cast_mut()) };
        // SAFETY: The reference is of the call above.
        Self(unsafe { ARef::from_raw(cred.cast()) })
    }

    /// Whether it may administer a device, in the network namespace that this is in.
    ///
    /// # Safety
    ///
    /// `netdev` is there and locked: it may be on its way to another namespace, and the one to its end.
    pub(super) unsafe fn may_administer(&self, netdev: *const abi::net_device) -> bool {
        // SAFETY: By this function's requirements the namespace is there, and so is its owner.
        unsafe {
            let net = abi::netgpu_dev_net(netdev);
            abi::netgpu_net_capable(self.0.as_ptr().cast(), net, abi::CAP_NET_ADMIN as c_int)
        }
    }
}

/// A reference to a device that does DMA.
///
/// # Invariants
///
/// Holds a reference to the device.
struct DmaDevice(NonNull<abi::device>);

// SAFETY: References to devices belong to no thread.
unsafe impl Send for DmaDevice {}
// SAFETY: As above, and there is no more to it than the pointer.
unsafe impl Sync for DmaDevice {}

impl Drop for DmaDevice {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::put_device(self.0.as_ptr().cast()) };
    }
}

/// An open network device.
///
/// Its owner calls [`Self::unwatch`] and [`Self::gone`] before it drops it.
pub(crate) struct Device(Pin<KBox<Inner>>);

/// # Invariants
///
/// `context` is a context, which owns this. While `watched`, `notifier` is registered.
#[pin_data]
struct Inner {
    #[pin]
    notifier: Opaque<abi::notifier_block>,
    watched: Atomic<bool>,
    /// [`None`] once the device is gone.
    #[pin]
    netdev: Mutex<Option<Netdev>>,
    /// The network device, for comparing only. When another has got its address this one is [`Self::gone`], and with
    /// it everything that would compare.
    identity: *const abi::net_device,
    ifindex: u32,
    dma: DmaDevice,
    context: *mut c_void,
}

// SAFETY: `identity` is compared only; as to `context`, contexts are `Send` and `Sync`. The network stack guards what it
// changes of `notifier`.
unsafe impl Send for Inner {}
// SAFETY: As above.
unsafe impl Sync for Inner {}

impl Device {
    /// Opens the device with index `ifindex` in the network namespace of the current process.
    ///
    /// `context` owns the result and calls [`Self::unwatch`] when it retires.
    pub(crate) fn open(ifindex: u32, context: &Late<Context>) -> Result<Self> {
        let netdev = Netdev::get(ifindex).ok_or(ENODEV)?;
        let dma = netdev.dma().ok_or(EOPNOTSUPP)?;
        // INVARIANT: By this function's requirements; not watched yet.
        let inner = KBox::try_pin_init(
            try_pin_init!(Inner {
                notifier: Opaque::new(abi::notifier_block {
                    notifier_call: Some(netdev_event),
                    ..Default::default()
                }),
                watched: Atomic::new(false),
                identity: netdev.as_raw(),
                ifindex,
                netdev <- new_mutex!(Some(netdev), "netgpu::Device::netdev"),
                dma,
                context: context.as_raw(),
            }? Error),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(Self(inner))
    }

    /// The network device, unless it is gone.
    pub(super) fn netdev(&self) -> Result<Netdev> {
        let netdev = self.0.netdev.lock();
        netdev.as_ref().map(Netdev::hold).ok_or(ENODEV)
    }

    /// The index that the network device had when it was opened.
    pub(crate) fn ifindex(&self) -> u32 {
        self.0.ifindex
    }

    /// The network device, for comparing only.
    pub(super) fn identity(&self) -> *const abi::net_device {
        self.0.identity
    }

    /// The device that does the DMA; it is there as long as `self`.
    pub(super) fn dma(&self) -> *mut abi::device {
        self.0.dma.0.as_ptr()
    }

    /// Whether `dma` is the device that memory is mapped for.
    pub(crate) fn is_dma(&self, dma: *const c_void) -> bool {
        self.dma().cast_const().cast() == dma
    }

    /// Watches for the device to go away. Takes rtnl.
    pub(crate) fn watch(&self) -> Result {
        // SAFETY: The notifier is pinned and stays until `unwatch()`.
        to_result(unsafe { abi::register_netdevice_notifier(self.0.notifier.get()) })?;
        // INVARIANT: Registered just now.
        self.0.watched.store(true, Relaxed);
        // It may have begun to go before anyone watched.
        // SAFETY: No requirements.
        unsafe { abi::rtnl_lock() };
        let netdev = self.0.netdev.lock();
        let here = netdev.as_ref().is_some_and(Netdev::is_registered);
        drop(netdev);
        // SAFETY: Locked above.
        unsafe { abi::rtnl_unlock() };
        if here {
            Ok(())
        } else {
            Err(ENODEV)
        }
    }

    /// Stops watching for the device to go away. Takes rtnl.
    pub(crate) fn unwatch(&self) {
        if self.0.watched.load(Relaxed) {
            // SAFETY: By the type invariants it is registered.
            let _ = unsafe { abi::unregister_netdevice_notifier(self.0.notifier.get()) };
            self.0.watched.store(false, Relaxed);
        }
    }

    /// Ends the device's use of `map`, whose memory is wanted back. Sleeps, and for as long as a queue cannot be restarted.
    ///
    /// `queues` finds all queues that were open when `opening` was last taken, but for those that were closed since. It is held while
    /// one is opened.
    pub(crate) fn quiesce<'a>(
        &self,
        map: &'a Map,
        opening: &Mutex<()>,
        queues: impl Iterator<Item = Arc<Queue>>,
    ) -> Quiesced<'a> {
        map.revoke();
        // From here on no queue gets its buffers and no packet is made of them, and those that were made do not get past the check
        // of their device.
        rcu::synchronize_rcu();
        // One that was being opened may have got them before, and can be found now. Not held from here on: who wants to close a queue is
        // not to wait for another that cannot be restarted.
        drop(opening.lock());
        queues.for_each(|queue| self.restart_queue(&queue));
        // The device may be reading packets that got past it before: what was sent, and what was received and forwarded.
        if let Ok(netdev) = self.netdev() {
            netdev.drain(map);
        }
        // SAFETY: Receiving has ended by the above, and so has sending.
        unsafe { map.release() };
        // INVARIANT: As said.
        Quiesced(map)
    }

    /// Lets go of the network device: ends the mappings `maps`, which must be all that were made for it.
    ///
    /// Once; no map is made afterwards.
    pub(crate) fn gone<'a>(&self, _quiet: Quiet, maps: impl Iterator<Item = &'a Map> + Clone) {
        maps.clone().for_each(Map::revoke);
        // Packets that were let through before are past the check of their device when this returns.
        rcu::synchronize_rcu();
        // Before any lock of an exporter is taken, who may hold it while it waits for another of the maps.
        // SAFETY: Receiving has ended, as `_quiet` says, and sending by the above.
        maps.clone().for_each(|map| unsafe { map.release() });
        // SAFETY: As above.
        maps.for_each(|map| unsafe { map.unmap() });
        *self.0.netdev.lock() = None;
    }
}

/// A map that no device uses.
///
/// # Invariants
///
/// No device uses its memory, nor will; a grace period has passed since it was revoked.
pub(crate) struct Quiesced<'a>(&'a Map);

impl Quiesced<'_> {
    /// Ends the mapping. Takes the exporter's lock, which that may hold while it waits for other maps: nothing may be held that is
    /// taken to quiesce one.
    pub(crate) fn unmap(self) {
        // SAFETY: By the type invariants. Host memory is not wanted back, and not unmapped here.
        unsafe { self.0.unmap() };
    }
}

/// Something happens to a network device. Under rtnl.
///
/// # Safety
///
/// `nb` is the notifier of an [`Inner`], and `info` is what the network stack tells such.
unsafe extern "C" fn netdev_event(
    nb: *mut abi::notifier_block,
    event: c_ulong,
    info: *mut c_void,
) -> c_int {
    // SAFETY: By this function's requirements; it is there until it is unregistered.
    let inner =
        unsafe { &*container_of!(nb.cast::<Opaque<abi::notifier_block>>(), Inner, notifier) };
    // SAFETY: By this function's requirements.
    let netdev = unsafe { (*info.cast::<abi::netdev_notifier_info>()).dev };
    // SAFETY: As above.
    let state = u32::from(unsafe { (*netdev).reg_state });
    if netdev.cast_const() != inner.identity {
        return abi::NOTIFY_DONE as c_int;
    }
    // A device that moves to another namespace is unregistered for show only, and registered again when it is there.
    if event == abi::netdev_cmd_NETDEV_REGISTER as c_ulong {
        // SAFETY: By this function's requirements. The network stack holds the lock of a device that has queues with memory providers
        // when it tells this.
        unsafe { provider::evict(netdev) };
    } else if event == abi::netdev_cmd_NETDEV_UNREGISTER as c_ulong
        && state == abi::netdev_reg_state_NETREG_UNREGISTERING
    {
        // SAFETY: By the type invariants. A context stops watching while the last reference to it is still there.
        let context = unsafe { Late::<Context>::borrow(inner.context) };
        // SAFETY: The device is shut down before this is told.
        context.device_gone(unsafe { Quiet::new() });
    }
    abi::NOTIFY_DONE as c_int
}
