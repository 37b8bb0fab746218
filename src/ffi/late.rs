// SPDX-License-Identifier: GPL-2.0

//! Reference counting for objects that are let go in any context but freed in process context.

use super::{
    inline::{
        decrement,
        increment,
        increment_not_zero, //
    },
    module::work_queue, //
};
use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    ffi::c_void,
    impl_has_work,
    new_work,
    prelude::*,
    sync::{
        atomic::Atomic,
        Arc, //
    },
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

/// What a [`Late`] refers to.
///
/// # Invariants
///
/// `users` is the number of references to it. As long as there is one, they have the one [`Arc`] together; the last one to go hands
/// that to the work, which is not queued before, and frees the object.
#[pin_data]
struct Inner<T> {
    #[pin]
    value: T,
    /// So wide that it cannot overflow.
    users: Atomic<u64>,
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
///
/// # Invariants
///
/// Counted in `users` of what it points to.
pub(crate) struct Late<T: Retire>(NonNull<Inner<T>>);

// SAFETY: It gives `&T` to whoever has it, and drops a `T` in another task than the one that made it; both are what `Retire` asks for.
unsafe impl<T: Retire> Send for Late<T> {}
// SAFETY: As above.
unsafe impl<T: Retire> Sync for Late<T> {}

impl<T: Retire> Late<T> {
    /// Allocates a `T`.
    pub(crate) fn new(init: impl PinInit<T, Error>) -> Result<Self> {
        let arc = Arc::pin_init(
            try_pin_init!(Inner {
                value <- init,
                users: Atomic::new(1),
                work <- new_work!("netgpu::Late"),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        let ptr = Arc::into_raw(arc).cast_mut();
        // INVARIANT: The one that is counted.
        // SAFETY: An `Arc` is not null.
        Ok(Self(unsafe { NonNull::new_unchecked(ptr) }))
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: By the type invariants, and those of `Inner`, it is there.
        unsafe { self.0.as_ref() }
    }

    /// The object as C sees it, without a reference.
    pub(crate) fn as_raw(&self) -> *mut c_void {
        self.0.as_ptr().cast()
    }

    /// Hands the reference to C.
    pub(crate) fn into_raw(self) -> *mut c_void {
        ManuallyDrop::new(self).as_raw()
    }

    /// Takes a reference back from C.
    ///
    /// # Safety
    ///
    /// `ptr` comes from [`Self::into_raw`] of the same type, and that reference is given up with it.
    pub(crate) unsafe fn from_raw(ptr: *mut c_void) -> Self {
        // INVARIANT: By this function's requirements.
        // SAFETY: What comes from `into_raw()` is not null.
        Self(unsafe { NonNull::new_unchecked(ptr.cast()) })
    }

    /// A reference to an object of which there may be none any more: then there never will be.
    ///
    /// # Safety
    ///
    /// `ptr` comes from [`Self::as_raw`] or [`Self::into_raw`] of the same type, and the object has not been freed.
    pub(crate) unsafe fn upgrade(ptr: *mut c_void) -> Option<Self> {
        // SAFETY: By this function's requirements.
        let users = unsafe { &(*ptr.cast::<Inner<T>>()).users };
        // INVARIANT: Counted just now.
        // SAFETY: What comes from either is not null.
        increment_not_zero(users).then(|| Self(unsafe { NonNull::new_unchecked(ptr.cast()) }))
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
        increment(&self.inner().users);
        // INVARIANT: Counted just now.
        Self(self.0)
    }
}

impl<T: Retire> Deref for Late<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T: Retire> Drop for Late<T> {
    fn drop(&mut self) {
        if decrement(&self.inner().users) {
            // SAFETY: By the type invariants of `Inner`: it was the last one, and nobody makes another from nothing.
            let arc = unsafe { Arc::from_raw(self.0.as_ptr().cast_const()) };
            let _ = work_queue().enqueue(arc);
        }
    }
}
