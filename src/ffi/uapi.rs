// SPDX-License-Identifier: GPL-2.0

//! The user API's structures as plain data. `include/uapi/linux/netgpu.h` explains them.

use super::abi;
use kernel::transmute::{
    AsBytes,
    FromBytes, //
};

macro_rules! plain_data {
    ($($name:ident = $c:ident, $size:literal;)*) => {$(
        pub(crate) use abi::$c as $name;

        // The layout of the user API never changes, on any architecture.
        const _: () = assert!(core::mem::size_of::<$name>() == $size);

        // SAFETY: The structure is made of integers only, so any bytes are a value of it.
        unsafe impl FromBytes for $name {}

        // SAFETY: The structure is made of integers only and, as the header lays fields out at their
        // natural alignment up to a size that is the sum of theirs, has no padding.
        unsafe impl AsBytes for $name {}
    )*};
}

plain_data! {
    Info = netgpu_info, 64;
    AddRegion = netgpu_add_region, 64;
    Bind = netgpu_bind, 32;
    AttachRegion = netgpu_attach_region, 32;
    OpenQueue = netgpu_open_queue, 80;
    AttachSocket = netgpu_attach_socket, 88;
    Id = netgpu_id, 8;
    QueueStats = netgpu_queue_stats, 128;
    SocketStats = netgpu_socket_stats, 192;
    ContextStats = netgpu_context_stats, 256;
    RegionStats = netgpu_region_stats, 128;
    FillEntry = netgpu_fill_entry, 8;
    RxEntry = netgpu_rx_entry, 16;
    Completion = netgpu_completion, 8;
}

pub(crate) use abi::netgpu_ring as Ring;
pub(crate) use abi::{
    NETGPU_API_VERSION as API_VERSION,
    NETGPU_CMD_ADD_REGION as CMD_ADD_REGION,
    NETGPU_CMD_ATTACH_REGION as CMD_ATTACH_REGION,
    NETGPU_CMD_ATTACH_SOCKET as CMD_ATTACH_SOCKET,
    NETGPU_CMD_BIND as CMD_BIND,
    NETGPU_CMD_CLOSE_QUEUE as CMD_CLOSE_QUEUE,
    NETGPU_CMD_CONTEXT_STATS as CMD_CONTEXT_STATS,
    NETGPU_CMD_DETACH_SOCKET as CMD_DETACH_SOCKET,
    NETGPU_CMD_INFO as CMD_INFO,
    NETGPU_CMD_OPEN_QUEUE as CMD_OPEN_QUEUE,
    NETGPU_CMD_QUEUE_STATS as CMD_QUEUE_STATS,
    NETGPU_CMD_REGION_STATS as CMD_REGION_STATS,
    NETGPU_CMD_SOCKET_STATS as CMD_SOCKET_STATS,
    NETGPU_COMPLETION_COPIED as COMPLETION_COPIED,
    NETGPU_MAX_RING_ENTRIES as MAX_RING_ENTRIES,
    NETGPU_MIN_RING_ENTRIES as MIN_RING_ENTRIES,
    NETGPU_QUEUE_PADDED as QUEUE_PADDED,
    NETGPU_REGION_CUDA as REGION_CUDA,
    NETGPU_REGION_DMABUF as REGION_DMABUF,
    NETGPU_REGION_HOST as REGION_HOST,
    NETGPU_RING_ENTRIES as RING_ENTRIES, //
};

/// Bytes of a receive buffer, unless a context asks for larger ones: a page, which every driver can post.
pub(crate) const BUFFER_SIZE: u32 = 1 << 12;
/// Bytes of the largest one: what mlx5 takes, half of its largest receive WQE.
pub(crate) const MAX_BUFFER_SIZE: u32 = 1 << 17;

const _: () = assert!(abi::NETGPU_RING_STALLED == crate::ring::STALLED);
