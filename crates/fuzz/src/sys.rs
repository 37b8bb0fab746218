// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything unsafe: memory that programs tear at, ioctls with any argument, forks, and kcov's buffer.
//!
//! Rust knows nothing of the memory that programs name by numbers: no reference to it is ever made, only system calls see it. The kernel
//! must answer whatever they are given, which is what this is for.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

use crate::program::{ARENA, ARENA_LEN};

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// Shared or private memory that is mapped as long as this lives.
///
/// # Invariants
///
/// `start` is the address of `len` mapped bytes, readable and writable, which nobody else unmaps. All access through it is atomic.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: A mapping belongs to the process, and what is in it is only reached by atomic operations.
unsafe impl Send for Mapping {}
// SAFETY: As for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a file from `offset` on.
    pub fn of_file(file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: Without a fixed address the new mapping touches no memory that is there.
        let start = unsafe {
            rustix::mm::mmap(ptr::null_mut(), len, prot, MapFlags::SHARED, file, offset)?
        };
        Self::new(start, len)
    }

    /// Maps zeros that children share.
    pub fn shared(len: usize) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: As in `of_file()`.
        let start =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len, prot, MapFlags::SHARED)? };
        Self::new(start, len)
    }

    fn new(start: *mut c_void, len: usize) -> io::Result<Self> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        // INVARIANT: Just mapped so, by our callers.
        Ok(Self { start, len })
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The 32-bit word at an index, if it is in the mapping.
    pub fn word(&self, index: usize) -> Option<&AtomicU32> {
        // SAFETY: Mapped and writable by the type invariant, and aligned as mappings are. Others only do atomic operations, the kernel
        // included.
        (index < self.len / 4)
            .then(|| unsafe { self.start.cast::<AtomicU32>().add(index).as_ref() })
    }

    /// The 64-bit word at an index, if it is in the mapping.
    pub fn long(&self, index: usize) -> Option<&AtomicU64> {
        // SAFETY: As in `word()`.
        (index < self.len / 8)
            .then(|| unsafe { self.start.cast::<AtomicU64>().add(index).as_ref() })
    }

    /// The 32-bit word at an index as a signed number, if it is in the mapping.
    pub fn result(&self, index: usize) -> Option<&AtomicI32> {
        // SAFETY: As in `word()`.
        (index < self.len / 4)
            .then(|| unsafe { self.start.cast::<AtomicI32>().add(index).as_ref() })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: By the type invariant it is ours, and nobody has a reference that lives longer.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// What becomes of a part of the arena.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Its pages are given up; the next access finds zeros.
    Forget,
    /// It is no more.
    Unmap,
    /// New pages are there instead.
    Renew,
    /// Nobody may touch it.
    Forbid,
    /// Nobody may write it.
    ReadOnly,
    /// It is writable again.
    Writable,
    /// New huge pages are there instead, as far as they lie in it.
    Huge,
}

/// Maps the arena.
pub fn arena() -> io::Result<()> {
    change_arena(ARENA, ARENA_LEN, Change::Renew)
}

/// Changes the part of a range that is in the arena.
pub fn change_arena(addr: u64, len: u64, change: Change) -> io::Result<()> {
    let page = match change {
        Change::Huge => 2 << 20,
        _ => PAGE as u64,
    };
    let from = (addr & !(page - 1)).clamp(ARENA, ARENA + ARENA_LEN);
    let to = addr.saturating_add(len).clamp(from, ARENA + ARENA_LEN);
    let len = (to - from).next_multiple_of(page) as usize;
    if len == 0 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let start = from as usize as *mut c_void;
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: The range lies in the arena, at a fixed address where the loader puts nothing, and of which no reference is ever made.
    unsafe {
        match change {
            Change::Forget => rustix::mm::madvise(start, len, rustix::mm::Advice::LinuxDontNeed)?,
            Change::Unmap => rustix::mm::munmap(start, len)?,
            Change::Renew => {
                let flags = MapFlags::PRIVATE | MapFlags::FIXED;
                rustix::mm::mmap_anonymous(start, len, prot, flags)?;
            }
            Change::Huge => {
                let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::HUGETLB;
                rustix::mm::mmap_anonymous(start, len, prot, flags)?;
            }
            Change::Forbid => rustix::mm::mprotect(start, len, MprotectFlags::empty())?,
            Change::ReadOnly => rustix::mm::mprotect(start, len, MprotectFlags::READ)?,
            Change::Writable => {
                rustix::mm::mprotect(start, len, MprotectFlags::READ | MprotectFlags::WRITE)?
            }
        }
    }
    Ok(())
}

/// Two pages for arguments of ioctls: the second is for reading only.
///
/// # Invariants
///
/// `pages` is the address of two pages that are mapped, the first of them writable, and that nobody else knows of.
pub struct Arguments {
    pages: NonNull<u8>,
}

// SAFETY: The pages belong to the process; they are changed under a lock.
unsafe impl Send for Arguments {}

/// Where an ioctl's argument lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Where it should.
    Memory,
    /// At address zero.
    Null,
    /// In memory that cannot be written.
    ReadOnly,
    /// Half in memory that cannot be written.
    Half,
    /// In the kernel's memory.
    Kernel,
}

impl Arguments {
    /// Maps the pages.
    pub fn new() -> io::Result<Self> {
        let mapping = Mapping::shared(2 * PAGE)?;
        let pages = mapping.start;
        // Mapped for good.
        std::mem::forget(mapping);
        // INVARIANT: Just mapped, and handed to nobody.
        Ok(Self { pages })
    }

    /// Calls ioctl(2) with `argument` at that place. It holds the answer afterwards, where there is one.
    pub fn ioctl<T: Plain>(
        &mut self,
        fd: RawFd,
        command: u32,
        argument: &mut T,
        at: At,
    ) -> io::Result<()> {
        let size = size_of::<T>();
        let offset = match at {
            At::ReadOnly => PAGE,
            At::Half => PAGE - (size / 2).next_multiple_of(8),
            _ => 0,
        };
        assert!(
            offset + size <= 2 * PAGE,
            "no argument is larger than a page"
        );
        // SAFETY: By the type invariant the pages are ours, and the place is in them: aligned by eight bytes, as the integers are of
        // which a `Plain` consists. The second page is made writable before it is written.
        unsafe {
            let second = self.pages.as_ptr().add(PAGE).cast();
            rustix::mm::mprotect(second, PAGE, MprotectFlags::READ | MprotectFlags::WRITE)?;
            let place = self.pages.as_ptr().add(offset);
            place.cast::<T>().write_unaligned(*argument);
            rustix::mm::mprotect(second, PAGE, MprotectFlags::READ)?;
            let pointer = match at {
                At::Null => 0,
                At::Kernel => 0xffff_8880_0000_1000,
                _ => place as usize as libc::c_ulong,
            };
            // The kernel writes to the place at most, or to addresses in `argument`, which are not Rust's.
            let done = libc::ioctl(fd, command.into(), pointer);
            *argument = place.cast::<T>().read_unaligned();
            check(done).map(drop)
        }
    }
}

/// Integers and nothing else, so that any bytes are a value.
///
/// # Safety
///
/// That must be so, with no padding.
pub unsafe trait Plain: Copy {}

fn check(done: i32) -> io::Result<i32> {
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(done)
    }
}

/// Sends from any addresses; the memory is the kernel's to check.
pub fn send(socket: BorrowedFd<'_>, parts: &[(u64, u64)], flags: i32) -> io::Result<usize> {
    let mut iovecs: Vec<libc::iovec> = parts
        .iter()
        .map(|&(addr, len)| libc::iovec {
            iov_base: addr as usize as *mut c_void,
            iov_len: len as usize,
        })
        .collect();
    // SAFETY: All zeros is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_mut_ptr();
    message.msg_iovlen = iovecs.len();
    // SAFETY: The kernel reads the message, which is live, and what it names, which it must check.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &message, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Sets the socket option of an integer or of bytes.
pub fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: The kernel reads `value`, which is live, for its length.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) })
        .map(drop)
}

/// Lets this process lock so many bytes, and no more.
pub fn limit_locked(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: bytes,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: The kernel reads `limit`.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }).map(drop)
}

/// Forks. Zero in the child, which has this thread alone.
pub fn fork() -> io::Result<i32> {
    // SAFETY: Children go on only with what is theirs: this thread, and locks that no other thread held, as programs are run by a process
    // of one thread, and a child of such a program does nothing but wait.
    check(unsafe { libc::fork() })
}

/// Ends this process, with nothing in between.
pub fn leave(status: i32) -> ! {
    // SAFETY: It does not return.
    unsafe { libc::_exit(status) }
}

/// Waits for the signal that ends this process, or for the end of its parent.
pub fn wait_for_the_end() -> ! {
    // SAFETY: Neither touches memory.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        loop {
            libc::pause();
        }
    }
}

/// What one task reaches in instrumented code, as kcov(4) of the kernel tells: Documentation/dev-tools/kcov.rst.
pub struct Kcov {
    file: File,
    words: Mapping,
}

/// Places that the kernel has room for.
const KCOV_WORDS: usize = 1 << 16;
/// `_IOR('c', 1, unsigned long)` of <linux/kcov.h>.
const KCOV_INIT_TRACE: u32 = rustix::ioctl::opcode::read::<libc::c_ulong>(b'c', 1);
/// `_IO('c', 100)`.
const KCOV_ENABLE: u32 = rustix::ioctl::opcode::none(b'c', 100);
/// `_IO('c', 101)`.
const KCOV_DISABLE: u32 = rustix::ioctl::opcode::none(b'c', 101);

impl Kcov {
    /// Opens it.
    pub fn open() -> io::Result<Self> {
        use std::os::fd::AsFd;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/sys/kernel/debug/kcov")?;
        // SAFETY: The argument is a number.
        check(unsafe { libc::ioctl(file.as_raw_fd(), KCOV_INIT_TRACE.into(), KCOV_WORDS) })?;
        let words = Mapping::of_file(file.as_fd(), 0, 8 * KCOV_WORDS)?;
        Ok(Self { file, words })
    }

    /// Forgets what was traced.
    pub fn clear(&self) {
        self.words.long(0).unwrap().store(0, Ordering::Relaxed);
    }

    /// From here on, what this thread does is traced.
    pub fn enable(&self) -> io::Result<()> {
        // SAFETY: The argument is a number, KCOV_TRACE_PC.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), KCOV_ENABLE.into(), 0) }).map(drop)
    }

    /// Until here.
    pub fn disable(&self) -> io::Result<()> {
        // SAFETY: The argument is zero.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), KCOV_DISABLE.into(), 0) }).map(drop)
    }

    /// The traced addresses, in order.
    pub fn trace(&self) -> impl Iterator<Item = u64> {
        let count = self.words.long(0).unwrap().load(Ordering::Relaxed) as usize;
        (1..=count.min(KCOV_WORDS - 1)).map(|n| self.words.long(n).unwrap().load(Ordering::Relaxed))
    }
}
