// SPDX-License-Identifier: GPL-2.0

//! From a file descriptor to the open file of this device behind it.

use crate::device::Handle;
use kernel::{
    error::code::EBADFD,
    fs::{
        file::LocalFile,
        File, //
    },
    prelude::*,
    sync::aref::ARef, //
};

/// An open file of this device, named by a file descriptor of the current process.
///
/// # Invariants
///
/// `file` is open on this device, so its private data is a [`Handle`].
pub(crate) struct HandleFile {
    file: ARef<LocalFile>,
}

impl HandleFile {
    /// Looks `fd` up; `own` is a file of this device.
    pub(crate) fn get(own: &File, fd: i32) -> Result<Self> {
        let file = LocalFile::fget(u32::try_from(fd).map_err(|_| EBADFD)?).map_err(|_| EBADFD)?;
        // SAFETY: Both files are open, and `f_op` does not change while they are.
        let same = unsafe { (*file.as_ptr()).f_op == (*own.as_ptr()).f_op };
        if !same {
            return Err(EBADFD);
        }
        // INVARIANT: Only files of this device have its operations.
        Ok(Self { file })
    }

    /// The file's state.
    pub(crate) fn handle(&self) -> &Handle {
        // SAFETY: By the type invariants the private data is what `MiscDevice::open()` returned, a pinned
        // box of `Handle`, until the file is released, which `self` prevents.
        unsafe { &*(*self.file.as_ptr()).private_data.cast::<Handle>() }
    }
}
