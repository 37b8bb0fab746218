// SPDX-License-Identifier: GPL-2.0

//! Reference counting for objects that are let go in any context but freed in process context.

use super::module::work_queue;
use core::{
    mem::ManuallyDrop,
    ops::Deref, //
};
use kernel::{
    ffi::c_void,
    impl_has_work,
    new_work,
    prelude::*,
    sync::Arc,
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

/// Evidence that no device uses memory of the object that it comes with: nobody else refers to that, or the
/// device is shut down.
pub(crate) struct Quiet(());

impl Quiet {
    /// # Safety
    ///
    /// As the type says.
    pub(super) unsafe fn new() -> Self {
        Self(())
    }
}

/// What can be in a [`Late`].
pub(crate) trait Retire: Send + Sync + 'static {
    /// The last reference is gone. Runs before the drop, with the object still whole; may sleep.
    fn retire(&self, _quiet: Quiet) {}
}

#[pin_data]
struct Inner<T> {
    #[pin]
    value: T,
    #[pin]
    work: Work<Inner<T>>,
}

impl_has_work! {
    impl{T} HasWork<Inner<T>> for Inner<T> { self.work }
}

impl<T: Retire> WorkItem for Inner<T> {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.value.retire(Quiet(()));
        drop(this);
    }
}

/// A shared `T`. References may be dropped in any context; the `T` itself is dropped by the module's
/// work queue, where it may sleep and where module references may end.
pub(crate) struct Late<T: Retire>(ManuallyDrop<Arc<Inner<T>>>);

impl<T: Retire> Late<T> {
    /// Allocates a `T`.
    pub(crate) fn new(init: impl PinInit<T, Error>) -> Result<Self> {
        let arc = Arc::pin_init(
            try_pin_init!(Inner {
                value <- init,
                work <- new_work!("netgpu::Late"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        Ok(Self(ManuallyDrop::new(arc)))
    }

    /// The object as C sees it, without a reference.
    pub(crate) fn as_raw(&self) -> *mut c_void {
        Arc::as_ptr(&self.0).cast_mut().cast()
    }

    /// Hands the reference to C.
    pub(crate) fn into_raw(self) -> *mut c_void {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is never touched again.
        let arc = unsafe { ManuallyDrop::take(&mut this.0) };
        Arc::into_raw(arc).cast_mut().cast()
    }

    /// Takes a reference back from C.
    ///
    /// # Safety
    ///
    /// `ptr` comes from [`Self::into_raw`] of the same type, and that reference is given up with it.
    pub(crate) unsafe fn from_raw(ptr: *mut c_void) -> Self {
        // SAFETY: By this function's requirements.
        let arc = unsafe { Arc::from_raw(ptr.cast::<Inner<T>>().cast_const()) };
        Self(ManuallyDrop::new(arc))
    }

    /// Looks at an object of which somebody else holds a reference.
    ///
    /// # Safety
    ///
    /// `ptr` comes from [`Self::as_raw`] or [`Self::into_raw`] of the same type, and a reference exists
    /// for the whole of `'a`.
    pub(crate) unsafe fn borrow<'a>(ptr: *mut c_void) -> LateBorrow<'a, T> {
        // SAFETY: By this function's requirements; the extra reference is never dropped.
        LateBorrow(
            ManuallyDrop::new(unsafe { Self::from_raw(ptr) }),
            core::marker::PhantomData,
        )
    }
}

/// A [`Late`] without a reference of its own.
pub(crate) struct LateBorrow<'a, T: Retire>(
    ManuallyDrop<Late<T>>,
    core::marker::PhantomData<&'a T>,
);

impl<T: Retire> Deref for LateBorrow<'_, T> {
    type Target = Late<T>;

    fn deref(&self) -> &Late<T> {
        &self.0
    }
}

impl<T: Retire> Clone for Late<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Retire> Deref for Late<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T: Retire> Drop for Late<T> {
    fn drop(&mut self) {
        // SAFETY: `self` is not used after its drop.
        let arc = unsafe { ManuallyDrop::take(&mut self.0) };
        if let Some(last) = Arc::into_unique_or_drop(arc) {
            // Nobody else has a reference, so the work cannot be queued already.
            let _ = work_queue().enqueue(Arc::from(last));
        }
    }
}
