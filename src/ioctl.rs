// SPDX-License-Identifier: GPL-2.0

//! The commands of /dev/netgpu as typed requests: each is read from user space once and fully checked here.

use crate::{
    area::Source,
    ffi::uapi,
    span::{
        BufferSize,
        Span, //
    }, //
};
use kernel::{
    error::code::EOPNOTSUPP,
    prelude::*, //
};

fn zero(words: &[u64]) -> Result {
    words
        .iter()
        .all(|&word| word == 0)
        .then_some(())
        .ok_or(EINVAL)
}

fn ring_entries(entries: u32) -> Result<u32> {
    let fits = (uapi::MIN_RING_ENTRIES..=uapi::MAX_RING_ENTRIES).contains(&entries);
    (fits && entries.is_power_of_two())
        .then_some(entries)
        .ok_or(EINVAL)
}

/// A ring that may be left out.
fn optional_ring(entries: u32) -> Result<Option<u32>> {
    (entries != 0).then(|| ring_entries(entries)).transpose()
}

/// `NETGPU_IOC_ADD_REGION`: the span, and what is to be there.
pub(crate) fn add_region(raw: &uapi::AddRegion) -> Result<(Span, Source)> {
    zero(&[raw.flags.into()])?;
    zero(&raw.reserved)?;
    let source = match raw.type_ {
        uapi::REGION_HOST | uapi::REGION_CUDA => {
            zero(&[raw.dmabuf_fd as u64, raw.dmabuf_offset])?;
            match raw.type_ {
                uapi::REGION_HOST => Source::Host,
                _ => Source::Gpu,
            }
        }
        uapi::REGION_DMABUF => Source::DmaBuf {
            fd: raw.dmabuf_fd,
            offset: usize::try_from(raw.dmabuf_offset)
                .ok()
                .filter(|offset| offset % uapi::BUFFER_SIZE as usize == 0)
                .ok_or(EINVAL)?,
        },
        _ => return Err(EOPNOTSUPP),
    };
    Ok((Span::new(raw.addr, raw.len)?, source))
}

/// `NETGPU_IOC_BIND`: the network device's index, and the size of buffers.
pub(crate) fn bind(raw: &uapi::Bind) -> Result<(u32, BufferSize)> {
    zero(&[raw.flags.into(), raw.reserved.into()])?;
    zero(&raw.reserved2)?;
    let bytes = match raw.buffer_size {
        0 => uapi::BUFFER_SIZE,
        bytes => bytes,
    };
    Ok((raw.ifindex, BufferSize::new(bytes)?))
}

/// `NETGPU_IOC_ATTACH_REGION`: the area's file descriptor and the region's number.
pub(crate) fn attach_region(raw: &uapi::AttachRegion) -> Result<(i32, u32)> {
    zero(&[raw.flags.into(), raw.reserved.into()])?;
    zero(&raw.reserved2)?;
    Ok((raw.area_fd, raw.index))
}

/// `NETGPU_IOC_OPEN_QUEUE`.
pub(crate) struct OpenQueue {
    /// Number of the device's receive queue.
    pub(crate) queue: u32,
    /// Size of the fill ring.
    pub(crate) entries: u32,
    /// Longest header in bytes, if user space cares.
    pub(crate) hds_offset: Option<u16>,
    /// Whether all headers are that long.
    pub(crate) padded: bool,
}

/// `NETGPU_IOC_OPEN_QUEUE`: without the place for the message, which changes nothing.
pub(crate) fn open_queue(raw: &uapi::OpenQueue) -> Result<OpenQueue> {
    zero(&[(raw.flags & !uapi::QUEUE_PADDED).into()])?;
    zero(&raw.reserved)?;
    // What the kernel can hand to a driver.
    let hds_offset = u16::try_from(raw.hds_offset)?;
    Ok(OpenQueue {
        queue: raw.queue,
        entries: ring_entries(raw.fill_entries)?,
        hds_offset: (hds_offset != 0).then_some(hds_offset),
        padded: raw.flags & uapi::QUEUE_PADDED != 0,
    })
}

/// `NETGPU_IOC_ATTACH_SOCKET`.
pub(crate) struct AttachSocket {
    /// The socket's file descriptor.
    pub(crate) fd: i32,
    /// Size of the rx ring, if there is to be one.
    pub(crate) rx_entries: Option<u32>,
    /// Size of the completion ring, if there is to be one.
    pub(crate) completion_entries: Option<u32>,
}

/// `NETGPU_IOC_ATTACH_SOCKET`.
pub(crate) fn attach_socket(raw: &uapi::AttachSocket) -> Result<AttachSocket> {
    zero(&[raw.flags.into(), raw.reserved.into()])?;
    zero(&raw.reserved2)?;
    let request = AttachSocket {
        fd: raw.fd,
        rx_entries: optional_ring(raw.rx_entries)?,
        completion_entries: optional_ring(raw.completion_entries)?,
    };
    if request.rx_entries.is_none() && request.completion_entries.is_none() {
        return Err(EINVAL);
    }
    Ok(request)
}

/// A number alone.
pub(crate) fn id(raw: &uapi::Id) -> Result<u32> {
    zero(&[raw.reserved.into()])?;
    Ok(raw.id)
}

/// `NETGPU_IOC_QUEUE_STATS`: the queue's number.
pub(crate) fn queue_stats(raw: &uapi::QueueStats) -> Result<u32> {
    zero(&[raw.reserved.into()])?;
    zero(&raw.reserved2)?;
    Ok(raw.id)
}

/// `NETGPU_IOC_SOCKET_STATS`: the socket's number.
pub(crate) fn socket_stats(raw: &uapi::SocketStats) -> Result<u32> {
    zero(&[raw.reserved.into()])?;
    zero(&raw.reserved2)?;
    Ok(raw.id)
}

/// `NETGPU_IOC_REGION_STATS`: an address in the region.
pub(crate) fn region_stats(raw: &uapi::RegionStats) -> Result<usize> {
    zero(&raw.reserved)?;
    usize::try_from(raw.addr).map_err(|_| ENOENT)
}

/// A ring of a context, as mmap names it: the kind in the top byte of the offset, the number below that, and the low
/// half zero, in which a mapping of any size has room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingId {
    /// The fill ring of a queue.
    Fill(u32),
    /// The rx ring of a socket.
    Rx(u32),
    /// The completion ring of a socket.
    Completion(u32),
}

impl RingId {
    /// The offset that mmap is to be called with.
    pub(crate) fn offset(self) -> u64 {
        let (kind, id) = match self {
            Self::Fill(id) => (1, id),
            Self::Rx(id) => (2, id),
            Self::Completion(id) => (3, id),
        };
        kind << 56 | u64::from(id) << 32
    }

    /// The ring at an offset.
    pub(crate) fn at(offset: u64) -> Result<Self> {
        let id = (offset >> 32) as u32 & 0x00ff_ffff;
        let ring = match offset >> 56 {
            1 => Self::Fill(id),
            2 => Self::Rx(id),
            3 => Self::Completion(id),
            _ => return Err(EINVAL),
        };
        (ring.offset() == offset).then_some(ring).ok_or(EINVAL)
    }
}

#[kunit_tests(netgpu_ioctl)]
mod tests {
    use super::*;

    #[test]
    fn regions() {
        let good = || uapi::AddRegion {
            addr: 0x10000,
            len: 0x4000,
            ..Default::default()
        };
        assert!(add_region(&good()).is_ok());
        // What the kernel writes is not read.
        assert!(add_region(&uapi::AddRegion { index: 7, ..good() }).is_ok());
        for bad in [
            uapi::AddRegion { flags: 1, ..good() },
            uapi::AddRegion {
                reserved: [0, 0, 1],
                ..good()
            },
            uapi::AddRegion {
                dmabuf_fd: 1,
                ..good()
            },
            uapi::AddRegion {
                dmabuf_offset: 0x1000,
                ..good()
            },
            uapi::AddRegion { len: 0, ..good() },
            uapi::AddRegion {
                addr: 0x10001,
                ..good()
            },
        ] {
            assert_eq!(add_region(&bad), Err(EINVAL));
        }
        let unknown = uapi::AddRegion { type_: 3, ..good() };
        assert_eq!(add_region(&unknown), Err(EOPNOTSUPP));
    }

    #[test]
    fn regions_of_dmabufs() {
        let good = || uapi::AddRegion {
            addr: 0x10000,
            len: 0x4000,
            type_: uapi::REGION_DMABUF,
            dmabuf_fd: 7,
            dmabuf_offset: 0x3000,
            ..Default::default()
        };
        let offset = 0x3000;
        assert!(
            add_region(&good()).is_ok_and(|(_, source)| source == Source::DmaBuf { fd: 7, offset })
        );
        let bad = uapi::AddRegion {
            dmabuf_offset: 0x3001,
            ..good()
        };
        assert_eq!(add_region(&bad), Err(EINVAL));
    }

    #[test]
    fn regions_of_gpus() {
        let good = || uapi::AddRegion {
            addr: 0x10000,
            len: 0x10000,
            type_: uapi::REGION_CUDA,
            ..Default::default()
        };
        assert!(add_region(&good()).is_ok_and(|(_, source)| source == Source::Gpu));
        let bad = uapi::AddRegion {
            dmabuf_fd: 1,
            ..good()
        };
        assert_eq!(add_region(&bad), Err(EINVAL));
    }

    #[test]
    fn contexts_have_buffers_of_a_size_that_is_offered() {
        let raw = |buffer_size| uapi::Bind {
            ifindex: 2,
            buffer_size,
            ..Default::default()
        };
        for (bytes, size) in [(0, 4096), (4096, 4096), (1 << 17, 1 << 17)] {
            assert_eq!(
                bind(&raw(bytes)),
                BufferSize::new(size).map(|size| (2, size))
            );
        }
        for bad in [
            raw(2048),
            raw(12288),
            raw(1 << 18),
            uapi::Bind { flags: 1, ..raw(0) },
            uapi::Bind {
                reserved: 1,
                ..raw(0)
            },
            uapi::Bind {
                reserved2: [0, 1],
                ..raw(0)
            },
        ] {
            assert_eq!(bind(&bad), Err(EINVAL));
        }
    }

    #[test]
    fn rings_are_powers_of_two_in_bounds() {
        for entries in [16, 32, 1 << 18] {
            assert_eq!(ring_entries(entries), Ok(entries));
            assert_eq!(optional_ring(entries), Ok(Some(entries)));
        }
        for entries in [1, 8, 15, 17, 48, 1 << 19, u32::MAX] {
            assert_eq!(ring_entries(entries), Err(EINVAL));
            assert_eq!(optional_ring(entries), Err(EINVAL));
        }
        assert_eq!(ring_entries(0), Err(EINVAL));
        assert_eq!(optional_ring(0), Ok(None));
    }

    #[test]
    fn queues() {
        let good = || uapi::OpenQueue {
            fill_entries: 64,
            ..Default::default()
        };
        assert!(open_queue(&good()).is_ok_and(|r| r.hds_offset.is_none() && !r.padded));
        let padded = uapi::OpenQueue { flags: 1, ..good() };
        assert!(open_queue(&padded).is_ok_and(|r| r.padded));
        let offset = uapi::OpenQueue {
            hds_offset: 94,
            ..good()
        };
        assert!(open_queue(&offset).is_ok_and(|r| r.hds_offset == Some(94)));
        for bad in [
            uapi::OpenQueue { flags: 2, ..good() },
            uapi::OpenQueue {
                fill_entries: 0,
                ..good()
            },
            uapi::OpenQueue {
                hds_offset: 1 << 16,
                ..good()
            },
            uapi::OpenQueue {
                reserved: [0, 0, 1, 0],
                ..good()
            },
        ] {
            assert!(open_queue(&bad).is_err());
        }
    }

    #[test]
    fn sockets_have_at_least_one_ring() {
        let raw = |rx_entries, completion_entries| uapi::AttachSocket {
            rx_entries,
            completion_entries,
            ..Default::default()
        };
        assert!(attach_socket(&raw(16, 0)).is_ok());
        assert!(attach_socket(&raw(0, 16)).is_ok());
        assert!(attach_socket(&raw(16, 16)).is_ok());
        assert!(attach_socket(&raw(0, 0)).is_err());
        assert!(attach_socket(&raw(16, 5)).is_err());
        let bad = uapi::AttachSocket {
            reserved: 1,
            ..raw(16, 0)
        };
        assert!(attach_socket(&bad).is_err());
    }

    #[test]
    fn offsets_name_rings() {
        for ring in [
            RingId::Fill(0),
            RingId::Rx(5),
            RingId::Completion(0x00ff_ffff),
        ] {
            assert_eq!(RingId::at(ring.offset()), Ok(ring));
            assert!(RingId::at(ring.offset() + 4096).is_err());
        }
        for offset in [0, 1 << 32, 4 << 56, u64::MAX] {
            assert!(RingId::at(offset).is_err());
        }
    }
}
