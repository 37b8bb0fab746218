// SPDX-License-Identifier: MIT OR Apache-2.0
//! Dma-bufs of ordinary memory, for whoever tries what is done with those of other devices.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Makes a dma-buf of the first `size` bytes of a memfd, which is sealed against shrinking. `device` is /dev/udmabuf.
///
/// # Errors
///
/// What the kernel says; EINVAL also for more than the module's parameter `size_limit_mb` allows.
pub fn create(device: BorrowedFd<'_>, memfd: BorrowedFd<'_>, size: u64) -> io::Result<OwnedFd> {
    /// `struct udmabuf_create` of linux/udmabuf.h.
    #[repr(C)]
    struct Create {
        memfd: u32,
        flags: u32,
        offset: u64,
        size: u64,
    }
    /// `UDMABUF_CREATE`, which is `_IOW('u', 0x42, struct udmabuf_create)`.
    const CREATE: libc::c_ulong = 0x4018_7542;
    /// `UDMABUF_FLAGS_CLOEXEC`
    const CLOEXEC: u32 = 1;

    let create = Create {
        memfd: memfd.as_raw_fd().cast_unsigned(),
        flags: CLOEXEC,
        offset: 0,
        size,
    };
    // SAFETY: The kernel reads `create`, which is what this command of that device takes, and lives. Another device finds at most bytes in it.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), CREATE, &raw const create) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: The kernel has just made the descriptor, for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
