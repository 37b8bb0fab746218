// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong: one enum, whose messages say what happened, why, and what to do.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::memory::Backing;
use crate::sys;

/// What [`Error::Socket`] says of received bytes.
pub(crate) const RECEIVING: &str = "cannot receive";

/// An error of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device could not be opened.
    #[error("cannot open {}: {}", sys::DEVICE, device_hint(source))]
    Device {
        /// What open(2) answered.
        source: io::Error,
    },

    /// The kernel module speaks another version of the user API.
    #[error(
        "the kernel module has version {kernel} of the user API and this program version {library}: \
         install the two from one release"
    )]
    Version {
        /// The kernel's.
        kernel: u32,
        /// This library's.
        library: u32,
    },

    /// Memory could not be allocated.
    #[error("cannot allocate {len} bytes of memory{}", backing_hint(*.backing, *.len, source))]
    Memory {
        /// Bytes asked for.
        len: usize,
        /// Kind of memory asked for.
        backing: Backing,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The CUDA driver cannot do what is needed.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] netgpu_cuda::Error),

    /// The CPU does not reach the memory, and there is no other way to copy.
    #[error("the memory is a dma-buf, which this program cannot copy; its exporter can")]
    NoCopy,

    /// There is no network device of this name in the network namespace of the process.
    #[error("there is no network device {name:?} here; `ip link` lists those that are")]
    Interface {
        /// The name.
        name: String,
        /// What the kernel answered.
        source: io::Error,
    },

    /// The kernel module has no receive buffers of this size.
    #[error(
        "the kernel module has receive buffers of {offered:?} bytes, and none of {wanted}; take one of these, or a newer module"
    )]
    BufferSize {
        /// Bytes asked for.
        wanted: usize,
        /// The sizes that there are.
        offered: Vec<usize>,
    },

    /// Memory to be donated is not in whole buffers of the queue's context.
    #[error(
        "the memory begins or ends within a receive buffer, of {buffer_size} bytes in this context; \
         donate whole ones, or all of the region"
    )]
    PartOfBuffer {
        /// Bytes of a buffer.
        buffer_size: usize,
    },

    /// The kernel refused a command.
    #[error("{command} {subject}: {}", refusal(*.command, detail.as_deref(), source))]
    Refused {
        /// The command.
        command: Command,
        /// What the command was about.
        subject: String,
        /// The kernel's own words, where it had any.
        detail: Option<String>,
        /// The errno.
        source: io::Error,
    },

    /// A socket call failed: the connection is gone, or the call was not possible.
    #[error("{what}: {}", socket_hint(what, source))]
    Socket {
        /// What was tried.
        what: &'static str,
        /// The errno.
        source: io::Error,
    },

    /// The kernel delivered bytes that lie in no attached region. The connection cannot be used any further.
    #[error(
        "the kernel delivered {len} bytes at {address:#x}, which is in no attached region; \
         this is a defect of netgpu, please report it"
    )]
    Stray {
        /// Address of the first byte.
        address: u64,
        /// Number of bytes.
        len: u64,
    },

    /// Two objects do not belong together: they come from different contexts.
    #[error("the {object} belongs to another context; open both from the same one", object = .0)]
    ForeignContext(&'static str),

    /// Not all sends of the socket with `MSG_ZEROCOPY` were made by this library, which can no longer tell which of its own have finished.
    #[error(
        "somebody else has sent on the socket with MSG_ZEROCOPY, so that it cannot be told which sends have finished; \
         send all through the library, or without that flag"
    )]
    ForeignSend,

    /// The socket was attached without the ring that the call needs.
    #[error("the socket was attached without a ring for {what}; see SocketConfig", what = .0)]
    NoRing(&'static str),
}

impl Error {
    pub(crate) fn refused(command: Command, subject: impl Into<String>, source: io::Error) -> Self {
        Self::Refused {
            command,
            subject: subject.into(),
            detail: None,
            source,
        }
    }

    /// The errno behind the error, or what says as much; [`None`] for a mistake of the caller that no call has found.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Device { source }
            | Self::Memory { source, .. }
            | Self::Interface { source, .. }
            | Self::Refused { source, .. }
            | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Version { .. } => Some(Errno::PROTONOSUPPORT.raw_os_error()),
            Self::BufferSize { .. } | Self::PartOfBuffer { .. } => {
                Some(Errno::INVAL.raw_os_error())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(error) => Some(error.errno()),
            Self::NoCopy
            | Self::Stray { .. }
            | Self::ForeignContext(_)
            | Self::ForeignSend
            | Self::NoRing(_) => None,
        }
    }
}

/// A command of `/dev/netgpu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Ask for the version.
    Info,
    /// Pin memory.
    AddRegion,
    /// Pin memory of a GPU.
    AddGpuRegion,
    /// Make a context for a network device.
    Bind,
    /// Attach a region to a context.
    AttachRegion,
    /// Attach a region of a GPU's memory to a context.
    AttachGpuRegion,
    /// Take a receive queue.
    OpenQueue,
    /// Give a receive queue back.
    CloseQueue,
    /// Attach a TCP socket.
    AttachSocket,
    /// Map a ring.
    MapRing,
    /// Read counters.
    Statistics,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "cannot ask for the version of",
            Self::AddRegion => "cannot pin",
            Self::AddGpuRegion => "cannot register GPU memory of",
            Self::Bind => "cannot make a context for",
            Self::AttachRegion => "cannot attach the memory to",
            Self::AttachGpuRegion => "cannot attach the GPU's memory to",
            Self::OpenQueue => "cannot take",
            Self::CloseQueue => "cannot give back",
            Self::AttachSocket => "cannot attach the TCP socket to",
            Self::MapRing => "cannot map",
            Self::Statistics => "cannot read the counters of",
        })
    }
}

/// The reason of a refusal: the kernel's own words, else the meaning that the header of the user API gives to the
/// errno of this command, else the errno's usual text.
fn refusal(command: Command, detail: Option<&str>, source: &io::Error) -> String {
    let meaning = source
        .raw_os_error()
        .and_then(|errno| meaning(command, Errno::from_raw_os_error(errno)));
    match (detail, meaning) {
        (Some(detail), Some(meaning)) => format!("{detail} ({meaning})"),
        (Some(detail), None) => detail.to_owned(),
        (None, Some(meaning)) => meaning.to_owned(),
        (None, None) => source.to_string(),
    }
}

/// What an errno of a command means and what to do about it, from the "Errors" of `include/uapi/linux/netgpu.h`.
fn meaning(command: Command, errno: Errno) -> Option<&'static str> {
    use Command as C;
    Some(match (command, errno) {
        (C::Info, Errno::NOTTY) => {
            "the device is not netgpu's; is another module loaded under its name?"
        }

        (C::AddGpuRegion | C::AttachGpuRegion, Errno::NOMEM | Errno::NOSPC) => {
            "other devices see a GPU's memory through its BAR 1, which has no room for so much, or the machine has no memory \
             left; `nvidia-smi -q -d MEMORY` shows how large it is and how much is in use. Register less, or turn on \
             Resizable BAR in the firmware"
        }
        (C::AddGpuRegion, errno) => return meaning(C::AddRegion, errno),
        (C::AttachGpuRegion, errno) => return meaning(C::AttachRegion, errno),

        (C::AddRegion, Errno::NOMEM) => {
            "RLIMIT_MEMLOCK does not allow so much pinned memory, or there is not as much; \
             raise the limit (`ulimit -l`) or register less"
        }
        (C::AddRegion, Errno::INVAL) => {
            "its address or length is not a multiple of the buffer size"
        }
        (C::AddRegion, Errno::FAULT) => "it is not mapped, not writable, or no memory of a GPU",
        (C::AddRegion, Errno::NXIO) => {
            "no driver gives memory of GPUs to other devices: NVIDIA's has to be loaded, in its open flavour; \
             `dmesg` says more, and /sys/module/nvidia/taint has a P for the closed one"
        }
        (C::AddRegion, Errno::RANGE) => "it reaches past the end of the dma-buf",
        (C::AddRegion, Errno::ACCESS) => "the dma-buf is open for reading only",
        (C::AddRegion, Errno::EXIST) => "it overlaps memory that is registered already",
        (C::AddRegion, Errno::OPNOTSUPP) => {
            "memory of this kind cannot be pinned; use anonymous memory, a memfd or huge pages"
        }
        (C::AddRegion, Errno::NOSPC) => "the area has as many regions as it can have",

        (C::Bind, Errno::NODEV) => "the network device is gone",
        (C::Bind, Errno::OPNOTSUPP) => {
            "it is no device with DMA of its own; name the NIC's physical port, not a bridge, VLAN or tunnel on it"
        }

        (C::AttachRegion, Errno::EXIST) => {
            "its addresses overlap a region that is attached already"
        }
        (C::AttachRegion, Errno::INVAL) => {
            "its address or length is not a multiple of the context's buffer size"
        }
        (C::AttachRegion, Errno::IO) => {
            "the device cannot reach the memory by DMA without bounce buffers (boot without swiotlb=force or use a device with \
             64-bit DMA), or not in pieces as large as the context's buffers (use huge pages, or smaller buffers)"
        }
        (C::AttachRegion, Errno::NODEV) => "the network device is gone",
        (C::AttachRegion, Errno::NOSPC) => "the context has as many regions as it can have",

        (C::OpenQueue, Errno::PERM) => "CAP_NET_ADMIN is needed; run it as root",
        (C::OpenQueue, Errno::INVAL) => {
            "header split is off on the device, it has no buffers of the context's size, or the ring size or header length is out of \
             range; `ethtool -G DEVICE tcp-data-split on` turns header split on"
        }
        (C::OpenQueue, Errno::RANGE) => {
            "the device has no such receive queue, or no buffers as large as the context's; `ethtool -l DEVICE` shows how many \
             queues it has"
        }
        (C::OpenQueue, Errno::BUSY) => "AF_XDP or another owner has the queue; take another one",
        (C::OpenQueue, Errno::EXIST) => {
            "an XDP program runs on the device; `ip link set DEVICE xdp off` takes it off"
        }
        (C::OpenQueue, Errno::OPNOTSUPP) => {
            "the device or its driver cannot place payload in chosen memory, or not in buffers of the context's size"
        }
        (C::OpenQueue, Errno::NODEV) => "the network device is gone",
        (C::OpenQueue, Errno::NETDOWN) => {
            "the interface is down; `ip link set DEVICE up` brings it up"
        }

        (C::CloseQueue, Errno::NOMEM) => {
            "the driver has no memory for buffers of its own; the queue goes back when its context goes"
        }

        (C::AttachSocket, Errno::OPNOTSUPP) => {
            "it is not TCP over IPv4 or IPv6, or its segments are signed (TCP-MD5, TCP-AO), which the CPU would have to read them for"
        }
        (C::AttachSocket, Errno::BUSY) => "another part of the kernel has it, such as KCM",
        (C::AttachSocket, Errno::INVAL) => {
            "it is listening (attach the accepted one), or a ring size is no power of two or out of range"
        }
        (C::AttachSocket, Errno::EXIST) => {
            "it has another upper layer protocol such as TLS, or is attached already"
        }
        (C::AttachSocket, Errno::PERM) => {
            "binding it to the device needs CAP_NET_RAW; run it as root"
        }
        (C::AttachSocket, Errno::NODEV) => "the network device is gone",
        (C::AttachSocket, Errno::XDEV) => {
            "it is in another network namespace than the device, or bound to another device"
        }
        _ => return None,
    })
}

fn device_hint(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::NotFound => "the kernel module is not loaded; run `modprobe netgpu`".into(),
        io::ErrorKind::PermissionDenied => {
            "no permission; run it as root, or join the group netgpu: `usermod -a -G netgpu \"$USER\"`, and log in again".into()
        }
        _ => source.to_string(),
    }
}

fn backing_hint(backing: Backing, len: usize, source: &io::Error) -> String {
    match backing {
        Backing::Anonymous | Backing::Memfd => format!(": {source}"),
        Backing::Huge2M => {
            let pages = len.div_ceil(backing.page());
            format!(
                " in huge pages of 2 MiB: {source}; `echo {pages} > /proc/sys/vm/nr_hugepages` reserves the {pages} that it takes, where memory \
                 allows: more, if others use some"
            )
        }
    }
}

fn socket_hint(what: &str, source: &io::Error) -> String {
    match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::BADF) => "the descriptor is closed".into(),
        Some(Errno::CONNABORTED) => {
            "the netgpu context of the socket, or memory of it, is gone, or the module was removed"
                .into()
        }
        Some(Errno::OPNOTSUPP) if what == RECEIVING => {
            "some bytes have to be copied, and all memory that was donated is out of the CPU's reach; \
             donate some of the host's as well"
                .into()
        }
        Some(Errno::CONNRESET) => "the peer has reset the connection".into(),
        Some(Errno::PIPE) => "the peer does not take data any more".into(),
        Some(Errno::TIMEDOUT) => "the peer does not answer any more".into(),
        Some(Errno::NODEV) => {
            "the connection does not lead over the context's device; `ip route get ADDRESS` shows where it leads"
                .into()
        }
        Some(Errno::FAULT) => "the memory is not in a region attached to the context".into(),
        _ => source.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_why_and_what_to_do() {
        let refused = |detail: Option<&str>, errno: Errno| {
            Error::Refused {
                command: Command::OpenQueue,
                subject: "queue 3 of eth0".into(),
                detail: detail.map(Into::into),
                source: errno.into(),
            }
            .to_string()
        };
        assert_eq!(
            refused(None, Errno::RANGE),
            "cannot take queue 3 of eth0: the device has no such receive queue, or no buffers as large as the context's; \
             `ethtool -l DEVICE` shows how many queues it has"
        );
        assert_eq!(
            refused(Some("queue is leased"), Errno::NOTCONN),
            "cannot take queue 3 of eth0: queue is leased"
        );
        assert!(refused(Some("tcp-data-split is disabled"), Errno::INVAL).contains("ethtool -G"));
    }

    #[test]
    fn memory_that_a_gpu_does_not_show_is_told_from_memory_that_may_not_be_pinned() {
        let refused =
            |command| Error::refused(command, "8388608 bytes", Errno::NOMEM.into()).to_string();
        for command in [Command::AddGpuRegion, Command::AttachGpuRegion] {
            let text = refused(command);
            assert!(
                text.contains("BAR 1") && text.contains("nvidia-smi"),
                "{text}"
            );
        }
        assert!(refused(Command::AddRegion).contains("ulimit -l"));
        let text = Error::refused(Command::AddGpuRegion, "1 byte", Errno::NXIO.into()).to_string();
        assert!(text.contains("open flavour"), "{text}");
    }

    #[test]
    fn huge_pages_that_are_not_there_are_counted() {
        let error = |backing| Error::Memory {
            len: (64 << 20) + 1,
            backing,
            source: Errno::NOMEM.into(),
        };
        let text = error(Backing::Huge2M).to_string();
        assert!(
            text.contains("`echo 33 > /proc/sys/vm/nr_hugepages`"),
            "{text}"
        );
        assert!(!error(Backing::Anonymous).to_string().contains("huge"));
    }

    #[test]
    fn what_has_happened_to_a_socket_is_said() {
        let error = |what, errno: Errno| Error::Socket {
            what,
            source: errno.into(),
        };
        let text = error(RECEIVING, Errno::OPNOTSUPP).to_string();
        assert!(
            text.starts_with("cannot receive: ") && text.contains("donate"),
            "{text}"
        );
        assert!(
            !error("cannot send", Errno::OPNOTSUPP)
                .to_string()
                .contains("donate")
        );
    }

    #[test]
    fn errno_survives() {
        let error = Error::refused(Command::Bind, "eth0", Errno::NODEV.into());
        assert_eq!(error.errno(), Some(Errno::NODEV.raw_os_error()));
        assert_eq!(Error::ForeignContext("queue").errno(), None);
    }
}
