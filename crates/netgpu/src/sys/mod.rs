// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one door to the kernel: the commands of `/dev/netgpu` and its mappings.
//!
//! Methods here are the commands of `include/uapi/linux/netgpu.h`, one to one; what they mean and answer is said there.

#[allow(non_camel_case_types, dead_code)]
#[rustfmt::skip]
mod uapi;

use std::ffi::c_void;
use std::io;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{Mode, OFlags};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::{MapFlags, ProtFlags};

pub(crate) use uapi::{
    NETGPU_API_VERSION, NETGPU_COMPLETION_COPIED, NETGPU_MAX_RING_ENTRIES, NETGPU_MIN_RING_ENTRIES,
    NETGPU_QUEUE_PADDED, NETGPU_REGION_CUDA, NETGPU_REGION_DMABUF, NETGPU_REGION_HOST,
    NETGPU_RING_ENTRIES, netgpu_add_region, netgpu_attach_region, netgpu_attach_socket,
    netgpu_bind, netgpu_completion, netgpu_context_stats, netgpu_fill_entry, netgpu_id,
    netgpu_info, netgpu_open_queue, netgpu_queue_stats, netgpu_region_stats, netgpu_ring,
    netgpu_rx_entry, netgpu_socket_stats,
};

/// Path of the character device.
pub(crate) const DEVICE: &str = "/dev/netgpu";

const MAGIC: u8 = uapi::NETGPU_IOC_MAGIC as u8;

/// An open file of [`DEVICE`].
#[derive(Debug)]
pub(crate) struct Device {
    fd: OwnedFd,
}

/// Which command takes a `T`.
///
/// # Invariants
///
/// The header pairs this opcode with a structure whose binding is `T`: integers only, so that any bytes are a value.
struct Code<T>(Opcode, PhantomData<fn(T)>);

// INVARIANT: Number, direction and type of each are those of the header's `NETGPU_IOC_*` macro of that name.
const INFO: Code<netgpu_info> = Code(opcode::read::<netgpu_info>(MAGIC, 0x00), PhantomData);
const ADD_REGION: Code<netgpu_add_region> = Code(
    opcode::read_write::<netgpu_add_region>(MAGIC, 0x01),
    PhantomData,
);
const BIND: Code<netgpu_bind> = Code(opcode::write::<netgpu_bind>(MAGIC, 0x02), PhantomData);
const ATTACH_REGION: Code<netgpu_attach_region> = Code(
    opcode::write::<netgpu_attach_region>(MAGIC, 0x03),
    PhantomData,
);
const OPEN_QUEUE: Code<netgpu_open_queue> = Code(
    opcode::read_write::<netgpu_open_queue>(MAGIC, 0x04),
    PhantomData,
);
const CLOSE_QUEUE: Code<netgpu_id> = Code(opcode::write::<netgpu_id>(MAGIC, 0x05), PhantomData);
const ATTACH_SOCKET: Code<netgpu_attach_socket> = Code(
    opcode::read_write::<netgpu_attach_socket>(MAGIC, 0x06),
    PhantomData,
);
const DETACH_SOCKET: Code<netgpu_id> = Code(opcode::write::<netgpu_id>(MAGIC, 0x07), PhantomData);
const QUEUE_STATS: Code<netgpu_queue_stats> = Code(
    opcode::read_write::<netgpu_queue_stats>(MAGIC, 0x08),
    PhantomData,
);
const SOCKET_STATS: Code<netgpu_socket_stats> = Code(
    opcode::read_write::<netgpu_socket_stats>(MAGIC, 0x09),
    PhantomData,
);
const CONTEXT_STATS: Code<netgpu_context_stats> = Code(
    opcode::read::<netgpu_context_stats>(MAGIC, 0x0a),
    PhantomData,
);
const REGION_STATS: Code<netgpu_region_stats> = Code(
    opcode::read_write::<netgpu_region_stats>(MAGIC, 0x0b),
    PhantomData,
);

/// One call of ioctl(2).
struct Call<'a, T> {
    code: Code<T>,
    argument: &'a mut T,
}

// SAFETY: By the invariant of `Code` the kernel reads or writes one `T` at the pointer, which `argument` makes valid
// for both, and whatever it writes is a `T`. `IS_MUTATING` holds for every direction.
unsafe impl<T> Ioctl for Call<'_, T> {
    type Output = ();
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.code.0
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self.argument).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

impl Device {
    /// Opens the device; the file has no role yet.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        Ok(Self {
            fd: rustix::fs::open(DEVICE, flags, Mode::empty())?,
        })
    }

    pub(crate) fn info(&self) -> io::Result<netgpu_info> {
        let mut info = netgpu_info::default();
        self.call(INFO, &mut info)?;
        Ok(info)
    }

    pub(crate) fn add_region(&self, argument: &mut netgpu_add_region) -> io::Result<()> {
        self.call(ADD_REGION, argument)
    }

    pub(crate) fn bind(&self, mut argument: netgpu_bind) -> io::Result<()> {
        self.call(BIND, &mut argument)
    }

    pub(crate) fn attach_region(&self, mut argument: netgpu_attach_region) -> io::Result<()> {
        self.call(ATTACH_REGION, &mut argument)
    }

    pub(crate) fn close_queue(&self, mut argument: netgpu_id) -> io::Result<()> {
        self.call(CLOSE_QUEUE, &mut argument)
    }

    pub(crate) fn attach_socket(&self, argument: &mut netgpu_attach_socket) -> io::Result<()> {
        self.call(ATTACH_SOCKET, argument)
    }

    pub(crate) fn detach_socket(&self, mut argument: netgpu_id) -> io::Result<()> {
        self.call(DETACH_SOCKET, &mut argument)
    }

    pub(crate) fn queue_stats(&self, argument: &mut netgpu_queue_stats) -> io::Result<()> {
        self.call(QUEUE_STATS, argument)
    }

    pub(crate) fn socket_stats(&self, argument: &mut netgpu_socket_stats) -> io::Result<()> {
        self.call(SOCKET_STATS, argument)
    }

    pub(crate) fn context_stats(&self) -> io::Result<netgpu_context_stats> {
        let mut stats = netgpu_context_stats::default();
        self.call(CONTEXT_STATS, &mut stats)?;
        Ok(stats)
    }

    pub(crate) fn region_stats(&self, argument: &mut netgpu_region_stats) -> io::Result<()> {
        self.call(REGION_STATS, argument)
    }

    fn call<T>(&self, code: Code<T>, argument: &mut T) -> io::Result<()> {
        // SAFETY: The command has no effect on this process but on `argument`, for which `Call` answers, and on the
        // `message` of `open_queue()`, which is a live buffer of the stated length.
        Ok(unsafe { rustix::ioctl::ioctl(&self.fd, Call { code, argument }) }?)
    }

    /// Opens a queue. A refusal comes with the kernel's own words for the reason, where it has any.
    pub(crate) fn open_queue(
        &self,
        argument: &mut netgpu_open_queue,
    ) -> Result<(), (io::Error, Option<String>)> {
        let mut message = [0u8; 256];
        argument.message = message.as_mut_ptr().expose_provenance() as u64;
        argument.message_len = message.len() as u32;
        let done = self.call(OPEN_QUEUE, argument);
        argument.message = 0;
        argument.message_len = 0;
        done.map_err(|error| {
            let text = message.split(|&byte| byte == 0).next().unwrap_or_default();
            let text = String::from_utf8_lossy(text).trim().to_owned();
            (error, (!text.is_empty()).then_some(text))
        })
    }

    /// Maps `len` bytes of the file from `offset` on, shared with the kernel.
    pub(crate) fn map(&self, offset: u64, len: u64) -> io::Result<Mapping> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidData)?;
        // SAFETY: Without a fixed address the new mapping touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &self.fd,
                offset,
            )
        }?;
        // SAFETY: The call above has just made this mapping, and nobody else knows of it.
        Ok(unsafe { Mapping::from_raw(start.cast(), len) })
    }
}

#[cfg(test)]
impl Device {
    /// A device that knows no command.
    pub(crate) fn fake() -> Self {
        let null = std::fs::File::open("/dev/null").expect("every system has it");
        Self { fd: null.into() }
    }

    /// A file of `len` bytes of memory in its place, to map.
    pub(crate) fn of_memory(len: u64) -> Self {
        let fd = rustix::fs::memfd_create("netgpu", rustix::fs::MemfdFlags::CLOEXEC)
            .and_then(|fd| rustix::fs::ftruncate(&fd, len).map(|()| fd))
            .expect("there is so much memory");
        Self { fd }
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Device {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.fd.as_raw_fd()
    }
}

/// Pages mapped into this process.
///
/// # Invariants
///
/// `start` is the address of `len` mapped bytes, readable and writable, that stay mapped as long as `self` lives. They
/// were not mapped for anybody else, and nobody else unmaps them.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: A mapping belongs to the process, not to a thread, and this type only hands out its address.
unsafe impl Send for Mapping {}
// SAFETY: As for `Send`; no method changes the value.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Takes over a mapping that mmap(2) has made.
    ///
    /// # Safety
    ///
    /// `start` and `len` are a readable, writable mapping that the caller gives away whole.
    pub(crate) unsafe fn from_raw(start: *mut u8, len: usize) -> Self {
        // INVARIANT: By the caller's promise. mmap(2) returns no address zero without MAP_FIXED.
        Self {
            start: NonNull::new(start)
                .expect("mmap(2) without a fixed address maps nothing at address zero"),
            len,
        }
    }

    /// Address of the first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Number of bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: The mapping is ours alone by the type invariant, and whoever uses it keeps `self` alive.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap(2) of a whole mapping cannot fail");
    }
}

/// Huge pages start there, and any buffer can.
const MAX_ALIGNMENT: usize = 2 << 20;

/// Address space that nothing is mapped at.
///
/// # Invariants
///
/// `start` is the address of `len` bytes, which are mapped without any access and for nobody else.
#[derive(Debug)]
pub(crate) struct Reservation {
    start: usize,
    len: usize,
}

impl Reservation {
    /// Reserves `len` bytes, whole pages. They start at a multiple of the largest power of two that `len` is a multiple of, up to
    /// [`MAX_ALIGNMENT`]: whole buffers, of whatever size, where a buffer can start.
    pub(crate) fn new(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let page = rustix::param::page_size();
        let alignment = (1 << len.trailing_zeros().min(MAX_ALIGNMENT.ilog2())).max(page);
        let sum = len
            .checked_add(alignment - page)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: Without a fixed address the new mapping touches no existing memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                sum,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        // INVARIANT: Made just now.
        let mut this = Self {
            start: start.expose_provenance(),
            len: sum,
        };
        let before = this.start.next_multiple_of(alignment) - this.start;
        this.cut(0, before);
        this.cut(len, this.len - len);
        Ok(this)
    }

    /// Gives up `count` bytes from `offset` on, which are all before the rest or all behind it.
    fn cut(&mut self, offset: usize, count: usize) {
        if count == 0 {
            return;
        }
        let start = ptr::with_exposed_provenance_mut(self.start + offset);
        // SAFETY: They are ours alone by the type invariant, and nobody can use them.
        let unmapped = unsafe { rustix::mm::munmap(start, count) };
        debug_assert!(
            unmapped.is_ok(),
            "munmap(2) of the end of a mapping cannot fail"
        );
        // INVARIANT: The rest is as it was.
        if offset == 0 {
            self.start += count;
        }
        self.len -= count;
    }

    /// Maps memory there, readable and writable: of `file`, from its start, or of nothing.
    pub(crate) fn map(self, flags: MapFlags, file: Option<BorrowedFd<'_>>) -> io::Result<Mapping> {
        // If that fails, nothing may be left there, and what comes there is another's.
        let this = ManuallyDrop::new(self);
        let start = ptr::with_exposed_provenance_mut(this.start);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = flags | MapFlags::FIXED;
        // SAFETY: What it is mapped over is ours alone by the type invariant, and nobody can use it.
        let start = unsafe {
            match file {
                Some(file) => rustix::mm::mmap(start, this.len, access, flags, file, 0),
                None => rustix::mm::mmap_anonymous(start, this.len, access, flags),
            }
        }?;
        // SAFETY: The call above has just made this mapping, and nobody else knows of it.
        Ok(unsafe { Mapping::from_raw(start.cast(), this.len) })
    }

    pub(crate) fn start(&self) -> usize {
        self.start
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: It is ours alone by the type invariant, and nobody can use it.
        let unmapped =
            unsafe { rustix::mm::munmap(ptr::with_exposed_provenance_mut(self.start), self.len) };
        debug_assert!(unmapped.is_ok(), "munmap(2) of a whole mapping cannot fail");
    }
}

/// send(2) with `MSG_ZEROCOPY` of bytes that lie in regions of the socket's context, without waiting.
pub(crate) fn send_zerocopy(
    socket: BorrowedFd<'_>,
    address: usize,
    len: usize,
) -> io::Result<usize> {
    let bytes = ptr::with_exposed_provenance(address);
    let flags = libc::MSG_ZEROCOPY | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: The kernel only reads the bytes, and answers with an error where it cannot.
    let sent = unsafe { libc::send(socket.as_raw_fd(), bytes, len, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::mem::size_of;

    /// The header, which bindgen does not take the command numbers from: they are function-like macros.
    const HEADER: &str = include_str!("../../../../include/uapi/linux/netgpu.h");

    #[test]
    fn command_numbers_are_the_headers() {
        let ours = BTreeMap::from([
            ("INFO", (INFO.0, size_of::<netgpu_info>())),
            ("ADD_REGION", (ADD_REGION.0, size_of::<netgpu_add_region>())),
            ("BIND", (BIND.0, size_of::<netgpu_bind>())),
            (
                "ATTACH_REGION",
                (ATTACH_REGION.0, size_of::<netgpu_attach_region>()),
            ),
            ("OPEN_QUEUE", (OPEN_QUEUE.0, size_of::<netgpu_open_queue>())),
            ("CLOSE_QUEUE", (CLOSE_QUEUE.0, size_of::<netgpu_id>())),
            (
                "ATTACH_SOCKET",
                (ATTACH_SOCKET.0, size_of::<netgpu_attach_socket>()),
            ),
            ("DETACH_SOCKET", (DETACH_SOCKET.0, size_of::<netgpu_id>())),
            (
                "QUEUE_STATS",
                (QUEUE_STATS.0, size_of::<netgpu_queue_stats>()),
            ),
            (
                "SOCKET_STATS",
                (SOCKET_STATS.0, size_of::<netgpu_socket_stats>()),
            ),
            (
                "CONTEXT_STATS",
                (CONTEXT_STATS.0, size_of::<netgpu_context_stats>()),
            ),
            (
                "REGION_STATS",
                (REGION_STATS.0, size_of::<netgpu_region_stats>()),
            ),
        ]);
        let mut theirs = 0;
        for line in HEADER.lines() {
            let Some((name, macro_call)) = line
                .strip_prefix("#define NETGPU_IOC_")
                .and_then(|rest| rest.split_once(char::is_whitespace))
                .filter(|(_, value)| value.trim().starts_with("_IO"))
            else {
                continue;
            };
            theirs += 1;
            let (opcode, size) = ours[name];
            let (direction, arguments) = macro_call.trim().split_once('(').expect("a macro call");
            let number = arguments.split(',').nth(1).expect("a number").trim();
            let number =
                u32::from_str_radix(number.trim_start_matches("0x"), 16).expect("in hexadecimal");
            // include/uapi/asm-generic/ioctl.h, as x86 has it: direction, 14 bits of size, letter, number.
            let direction = match direction {
                "_IOW" => 1,
                "_IOR" => 2,
                "_IOWR" => 3,
                other => panic!("{other} is no direction"),
            };
            let expected = direction << 30 | (size as u32) << 16 | 0xE9 << 8 | number;
            assert_eq!(opcode, expected, "{name}");
        }
        assert_eq!(
            theirs,
            ours.len(),
            "the header has commands that this file lacks"
        );
    }
}
