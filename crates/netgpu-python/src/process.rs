// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of objects in a child after fork(2). It has them all, but rings are not mapped there, and what it would give back, detach
//! or close is the parent's.

use std::io;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// How many forks lie between this process and the one that has loaded the module.
static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// From now on forks are counted.
pub(crate) fn count_forks() -> io::Result<()> {
    // SAFETY: The function is one that a child may call, and the module that it lies in is never unloaded.
    match unsafe { libc::pthread_atfork(None, None, Some(forked)) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// What is of the process that has made it: others do not reach it, and leave it as it is. Its locks may be held there by threads that
/// are not.
pub(crate) struct Ours<T> {
    value: ManuallyDrop<T>,
    forks: u32,
}

impl<T> Ours<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: ManuallyDrop::new(value),
            forks: FORKS.load(Ordering::Relaxed),
        }
    }

    /// [`None`] in another process.
    pub(crate) fn here(&self) -> Option<&T> {
        (self.forks == FORKS.load(Ordering::Relaxed)).then(|| self.value.deref())
    }

    /// Fails in another process.
    pub(crate) fn get(&self) -> PyResult<&T> {
        self.here().ok_or_else(|| {
            PyValueError::new_err(
                "the object is of the process that has made it, and this one was forked later",
            )
        })
    }
}

impl<T> Drop for Ours<T> {
    fn drop(&mut self) {
        if self.here().is_some() {
            // SAFETY: Nobody uses it after this.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}
