// SPDX-License-Identifier: GPL-2.0

//! What belongs to the module as a whole: its work queue, its directory in debugfs, and references to its code.

use crate::LocalModule;
use core::ptr::NonNull;
use kernel::{
    bindings,
    debugfs::Dir,
    module::this_module,
    prelude::*,
    sync::{
        atomic::{
            Atomic,
            Relaxed, //
        },
        global_lock, //
    },
    workqueue::Queue, //
};

/// The work queue, from [`WorkQueue::start`] until the module is gone.
static WORK_QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(core::ptr::null_mut());

/// The one for softirq, likewise.
static SOFTIRQ_QUEUE: Atomic<*mut bindings::workqueue_struct> = Atomic::new(core::ptr::null_mut());

/// A work queue of the module's own: final drops happen on that of tasks (see [`super::late`]).
///
/// # Invariants
///
/// Holds a work queue that [`Self::start`] or [`Self::start_softirq`] made and that [`WORK_QUEUE`] or [`SOFTIRQ_QUEUE`] names.
pub(crate) struct WorkQueue(NonNull<bindings::workqueue_struct>);

// SAFETY: Work queues may be used from any thread.
unsafe impl Send for WorkQueue {}
// SAFETY: As above, and there are no methods on `&self`.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// Starts the work queue of tasks. For module init, before anything that could need it.
    pub(crate) fn start() -> Result<Self> {
        Self::new(c"netgpu", bindings::wq_flags_WQ_UNBOUND, &WORK_QUEUE)
    }

    /// Starts the work queue of softirq, likewise.
    pub(crate) fn start_softirq() -> Result<Self> {
        let flags = bindings::wq_flags_WQ_BH | bindings::wq_flags_WQ_PERCPU;
        Self::new(c"netgpu_bh", flags, &SOFTIRQ_QUEUE)
    }

    fn new(
        name: &CStr,
        flags: bindings::wq_flags,
        place: &Atomic<*mut bindings::workqueue_struct>,
    ) -> Result<Self> {
        // SAFETY: The names have no format directives.
        let wq = unsafe { bindings::alloc_workqueue_noprof(name.as_char_ptr(), flags, 0) };
        let wq = NonNull::new(wq).ok_or(ENOMEM)?;
        place.store(wq.as_ptr(), Relaxed);
        // INVARIANT: Stored just now, and by nobody else.
        Ok(Self(wq))
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is a work queue. The module is being unloaded, so nothing is left that
        // could queue work: each object that does holds the module. This waits for what is queued.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}

/// The module's work queue, for objects that hold the module.
pub(crate) fn work_queue() -> &'static Queue {
    let wq = WORK_QUEUE.load(Relaxed);
    // SAFETY: Callers hold objects that exist only between `WorkQueue::start()` and the end of the
    // module, which waits for them; so `wq` is a work queue, and stays one for as long as they need.
    unsafe { Queue::from_raw(wq) }
}

/// The same in softirq: what is queued there in one is run before that ends.
pub(super) fn softirq_queue() -> &'static Queue {
    let wq = SOFTIRQ_QUEUE.load(Relaxed);
    // SAFETY: As above.
    unsafe { Queue::from_raw(wq) }
}

global_lock! {
    /// The directory, from [`DebugFs::start`] until the module is gone.
    unsafe(uninit) static DEBUGFS: Mutex<Option<Dir>> = None;
}

/// The module's directory in debugfs.
pub(crate) struct DebugFs(());

impl DebugFs {
    /// Makes it. For module init, once, before any file is opened.
    pub(crate) fn start() -> Self {
        // SAFETY: Module init calls us once, before anyone else takes the lock.
        unsafe { DEBUGFS.init() };
        *DEBUGFS.lock() = Some(Dir::new(c"netgpu"));
        Self(())
    }
}

impl Drop for DebugFs {
    fn drop(&mut self) {
        *DEBUGFS.lock() = None;
    }
}

/// The module's directory in debugfs.
pub(crate) fn debugfs() -> Option<Dir> {
    DEBUGFS.lock().clone()
}

/// Keeps the module's code in memory.
///
/// Must be dropped on the module's work queue or under another reference, as [`super::late`] does: the
/// code that drops the last one must not be what it lets go.
pub(crate) struct ModuleRef(());

impl ModuleRef {
    /// Takes a reference; the caller runs in the module and so has another.
    pub(crate) fn new() -> Self {
        // SAFETY: Code of the module is running, so it is live.
        unsafe { bindings::__module_get(this_module::<LocalModule>().as_ptr()) };
        Self(())
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        // SAFETY: `new()` took the reference.
        unsafe { bindings::module_put(this_module::<LocalModule>().as_ptr()) };
    }
}
