// SPDX-License-Identifier: GPL-2.0

//! Memory that its owner may take back: whether it may be used, who may still use it, and how the context learns that it is wanted.

use super::{
    inline::peek,
    late::Late,
    module::work_queue, //
};
use crate::{
    attach::Attachment,
    context::Context, //
};
use kernel::{
    ffi::c_void,
    impl_has_work,
    new_work,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc, //
    },
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

/// Memory of others that an attachment has.
pub(super) struct Loan {
    /// Cleared when the owner wants the memory back, or when the device goes.
    live: Atomic<bool>,
    /// Fragments under way that the device may read.
    fragments: Atomic<u32>,
    withdrawal: Arc<Withdrawal>,
}

impl Loan {
    /// Memory for `attachment` of `context`.
    pub(super) fn new(context: &Late<Context>, attachment: *const Attachment) -> Result<Self> {
        let withdrawal = Arc::pin_init(
            pin_init!(Withdrawal {
                context: context.as_raw(),
                attachment,
                work <- new_work!("netgpu::Withdrawal"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(Self {
            live: Atomic::new(true),
            fragments: Atomic::new(0),
            withdrawal,
        })
    }

    /// Whether the memory may be used. Who does, under RCU, is done a grace period after it may not.
    pub(super) fn is_live(&self) -> bool {
        peek(&self.live)
    }

    /// The memory may not be used any more.
    pub(super) fn end(&self) {
        self.live.store(false, Relaxed);
    }

    /// The owner wants the memory back: it may not be used any more, and the context is told, by [`Context::withdraw`] on the
    /// module's work queue, unless that was so before, or the context is about to retire, which gives all of it back.
    ///
    /// # Safety
    ///
    /// The context has not been freed.
    pub(super) unsafe fn recall(&self) {
        if !self.live.xchg(false, Full) {
            return;
        }
        // SAFETY: By this function's requirements.
        if let Some(context) = unsafe { Late::<Context>::upgrade(self.withdrawal.context) } {
            // INVARIANT: For the work, which is queued once, as the above happens once.
            let _ = context.into_raw();
            let _ = work_queue().enqueue(self.withdrawal.clone());
        }
    }

    /// Another fragment refers to the memory.
    pub(super) fn get(&self) {
        self.fragments.add(1, Relaxed);
    }

    /// A fragment refers to the memory no longer.
    pub(super) fn put(&self) {
        self.fragments.fetch_sub(1, Release);
    }

    /// Whether fragments refer to the memory.
    pub(super) fn is_sent(&self) -> bool {
        self.fragments.load(Acquire) != 0
    }
}

/// The work of giving memory back.
///
/// # Invariants
///
/// `context` is a context. Its reference is held while the work is queued, until it runs.
#[pin_data]
struct Withdrawal {
    context: *mut c_void,
    attachment: *const Attachment,
    #[pin]
    work: Work<Withdrawal>,
}

// SAFETY: Contexts are `Send` and `Sync`; the other pointer is compared only.
unsafe impl Send for Withdrawal {}
// SAFETY: As above.
unsafe impl Sync for Withdrawal {}

impl_has_work! {
    impl HasWork<Self> for Withdrawal { self.work }
}

impl WorkItem for Withdrawal {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        // SAFETY: By the type invariants the reference is there, and now ours.
        let context = unsafe { Late::<Context>::from_raw(this.context) };
        context.withdraw(this.attachment);
    }
}
