/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * netgpu: zero-copy TCP between a NIC and memory that the application chose.
 *
 * User API of /dev/netgpu. An open file of that device starts without a role
 * and takes one, once:
 *
 *  - a memory area (first NETGPU_IOC_ADD_REGION): a set of spans of memory, the
 *    regions, independent of any network device;
 *  - a context (NETGPU_IOC_BIND): regions attached to one network device,
 *    receive queues of that device, and TCP sockets.
 *
 * All structures have one layout on every architecture. Reserved fields and
 * unknown flag bits must be zero on input (-EINVAL otherwise) and are zero on
 * output. An unknown command answers -ENOTTY, a command that the file's role
 * does not know -EBADFD, a pointer that cannot be read or written -EFAULT.
 * A command that fails changes nothing.
 *
 * Whoever can open the device may use it within RLIMIT_MEMLOCK and with sockets
 * and network devices that are the caller's to use anyway; only taking a receive
 * queue asks for more, see struct netgpu_open_queue. What is asked for are the
 * rights of the process that calls, not of the one that has opened the file.
 */
#ifndef _UAPI_LINUX_NETGPU_H
#define _UAPI_LINUX_NETGPU_H

#include <linux/ioctl.h>
#include <linux/types.h>

/*
 * Version of this interface, see struct netgpu_info. What is added to it shows in
 * struct netgpu_info; the version changes when something that was there does.
 */
#define NETGPU_API_VERSION	2

/* Name of the TCP upper layer protocol that attached sockets carry. */
#define NETGPU_ULP_NAME		"netgpu"

/*
 * Rings
 *
 * A ring is shared memory with one producer and one consumer. It starts with
 * a struct netgpu_ring; its entries follow at NETGPU_RING_ENTRIES. Indices run
 * freely and wrap at 2^32; the slot of index i is i & (entries - 1). The
 * producer writes entries first and then @producer with release semantics; the
 * consumer reads @producer with acquire semantics, then the entries, then
 * writes @consumer with release semantics.
 *
 * The kernel keeps its own copy of everything that it must be able to trust:
 * what user space writes into its own side of a ring can lose that user's
 * data, nothing else.
 */

/* Byte offset of the first entry of a ring in its mapping. */
#define NETGPU_RING_ENTRIES	128

/* The kernel has more to deliver than had room: recv(2) on the socket resumes. */
#define NETGPU_RING_STALLED	(1U << 0)

/**
 * struct netgpu_ring - the head of every ring mapping
 * @producer: index of the next entry to be written; the producer's word
 * @flags: NETGPU_RING_* bits, written by the kernel only. The kernel sets
 *	NETGPU_RING_STALLED and looks at @consumer again, with a full barrier
 *	between; a consumer moves @consumer and looks at @flags, with a full
 *	barrier between. So one of the two sees the other.
 * @reserved0: fills the producer's cache line
 * @consumer: index of the next entry to be read; the consumer's word
 * @reserved1: fills the consumer's cache line
 */
struct netgpu_ring {
	__u32 producer;
	__u32 flags;
	__u32 reserved0[14];
	__u32 consumer;
	__u32 reserved1[15];
};

/**
 * struct netgpu_fill_entry - user to kernel: a buffer is given (back)
 * @addr: any address inside the buffer
 *
 * Each buffer has a count of what user space holds. It is one when the region
 * is attached: user space owns the buffer. Each rx entry that points into the
 * buffer adds one, each fill entry takes one away; at zero the buffer is the
 * kernel's and may be written by the NIC at any time. So a buffer is donated
 * once to start it, and every rx entry is returned once. Entries that name no
 * buffer, or a buffer that user space does not hold, are counted in the
 * queue's statistics and otherwise ignored.
 */
struct netgpu_fill_entry {
	__aligned_u64 addr;
};

/**
 * struct netgpu_rx_entry - kernel to user: received bytes, laid out as an iovec
 * @addr: address of the first byte, in the address range of a region
 * @len: number of bytes, never zero
 *
 * Entries are in stream order and each lies in one buffer.
 */
struct netgpu_rx_entry {
	__aligned_u64 addr;
	__aligned_u64 len;
};

/* The bytes of this send, or some of them, were copied on their way. */
#define NETGPU_COMPLETION_COPIED	(1U << 0)

/**
 * struct netgpu_completion - kernel to user: a send has finished
 * @id: sends with MSG_ZEROCOPY on the socket that queued at least one byte are
 *	numbered from zero, in order; this is the number
 * @flags: NETGPU_COMPLETION_* bits
 *
 * The peer has acknowledged the bytes of the send, or the connection is gone,
 * and no device reads the memory any longer: it may be written again.
 * Completions come in order of completion, which need not be that of sending.
 */
struct netgpu_completion {
	__u32 id;
	__u32 flags;
};

/* Limits of ring sizes, in entries. A size must be a power of two. */
#define NETGPU_MIN_RING_ENTRIES	16
#define NETGPU_MAX_RING_ENTRIES	(1U << 18)

/**
 * struct netgpu_info - NETGPU_IOC_INFO: what this kernel offers; any role
 * @version: NETGPU_API_VERSION of the kernel
 * @buffer_size: bytes of a receive buffer, unless a context asks for larger ones;
 *	addresses and lengths of regions are multiples of it
 * @region_types: bit mask of the NETGPU_REGION_* types that can be added
 * @buffer_sizes: the sizes of buffers that a context can ask for, added up, as each
 *	is a power of two. A device may know fewer
 * @reserved: zero
 */
struct netgpu_info {
	__u32 version;
	__u32 buffer_size;
	__aligned_u64 region_types;
	__aligned_u64 buffer_sizes;
	__aligned_u64 reserved[5];
};

/* Host memory: anonymous, shared memory, memfd, huge pages. */
#define NETGPU_REGION_HOST	0
/* A part of a dma-buf, for instance memory of a GPU. */
#define NETGPU_REGION_DMABUF	1
/* Memory of an NVIDIA GPU, by its address in CUDA. */
#define NETGPU_REGION_CUDA	2

/**
 * struct netgpu_add_region - NETGPU_IOC_ADD_REGION: add a span of memory
 * @addr: start of the span, a multiple of netgpu_info.buffer_size
 * @len: bytes, a multiple of that, not zero
 * @type: NETGPU_REGION_*
 * @flags: zero
 * @index: out: number of the region in its area, counted from one
 * @dmabuf_fd: the dma-buf; zero for other types
 * @dmabuf_offset: where in it the region starts, a multiple of that, too; zero
 *	for other types
 * @reserved: zero
 *
 * Gives the file the role of a memory area if it has none.
 *
 * NETGPU_REGION_HOST: the pages are pinned and charged to RLIMIT_MEMLOCK until
 * the area and everything that it is attached to are gone; unmapping the span
 * does not release them. A huge page of which a part is in the region stays in
 * memory as a whole, and is charged as a whole, once. Those with CAP_IPC_LOCK are
 * not limited.
 *
 * NETGPU_REGION_DMABUF: the span is the addresses under which user space knows
 * the bytes, in rx entries, fill entries and iovecs. Nothing need be mapped
 * there, and nothing that is mapped there is touched. The dma-buf is held, and
 * not charged to anybody here. Bytes that did not come by DMA are written by the
 * CPU if the exporter lets it, else they go to buffers of another region: see
 * struct netgpu_attach_socket.
 *
 * NETGPU_REGION_CUDA: memory of a GPU that the calling process has allocated, by
 * cuMemAlloc() or cudaMalloc(). @addr and @len are multiples of 64 KiB. It is held,
 * whether the process frees it or not, as long as pinned pages would be; where the
 * driver cannot do that (MIG, vGPU), freeing it is as if a dma-buf were taken back:
 * see struct netgpu_attach_region. Not charged to anybody here.
 *
 * Errors: -EINVAL zero or unaligned @addr, @len or @dmabuf_offset, or a sum that
 * overflows, or @dmabuf_fd is no dma-buf; -EFAULT the span is not mapped, not
 * writable, or no memory of a GPU; -EEXIST it overlaps a region of this area; -EOPNOTSUPP unknown
 * @type, or memory that cannot be pinned for long (files on a disk); -ENOMEM
 * RLIMIT_MEMLOCK or memory is exhausted, or the GPU's BAR; -ENOSPC too many regions; -EBADF
 * @dmabuf_fd is not open; -EACCES it is open for reading only; -ERANGE the
 * region reaches past the end of the dma-buf; -ENXIO no driver gives memory of
 * GPUs to other devices, for which the kernel's log has the reason; -EBADFD the
 * file is a context.
 */
struct netgpu_add_region {
	__aligned_u64 addr;
	__aligned_u64 len;
	__u32 type;
	__u32 flags;
	__u32 index;
	__s32 dmabuf_fd;
	__aligned_u64 dmabuf_offset;
	__aligned_u64 reserved[3];
};

/**
 * struct netgpu_bind - NETGPU_IOC_BIND: make the file a context of a device
 * @ifindex: network device, in the caller's network namespace
 * @flags: zero
 * @buffer_size: bytes of a receive buffer, one of netgpu_info.buffer_sizes; 0:
 *	netgpu_info.buffer_size
 * @reserved: zero
 * @reserved2: zero
 *
 * The regions of the context are cut into buffers of that size. A device needs
 * fewer of them if they are larger, as many packets share one, and where it packs
 * payload (hardware GRO) an rx entry has more bytes; but a buffer comes back only
 * as a whole.
 * Each is in one piece for the device: host memory is in huge pages, or behind an
 * IOMMU.
 *
 * Errors: -ENODEV no such device; -EOPNOTSUPP it has no DMA device; -EINVAL
 * @buffer_size is not offered; -EBADFD the file has a role already.
 */
struct netgpu_bind {
	__u32 ifindex;
	__u32 flags;
	__u32 buffer_size;
	__u32 reserved;
	__aligned_u64 reserved2[2];
};

/**
 * struct netgpu_attach_region - NETGPU_IOC_ATTACH_REGION: use a region here
 * @area_fd: file of the memory area
 * @index: number of the region in it
 * @flags: zero
 * @reserved: zero
 *
 * Maps the region for DMA by the context's device and cuts it into buffers,
 * all of which user space owns at first. Context command.
 *
 * The exporter of a dma-buf may take its memory back, and so may a GPU's driver.
 * The region is detached then, here alone: the device stops using it, its
 * addresses name no buffers any more and can be attached anew. Connections with
 * unfinished sends from it are aborted and report ECONNABORTED. When bytes that
 * lie in it come next on a socket, recv(2) answers -ECONNABORTED. When no region
 * is left, all sockets of the context are detached. Everything else goes on.
 *
 * Errors: -EBADFD @area_fd is no open file of this device, or no memory area;
 * -ENOENT no such region; -EINVAL its address or length is no multiple of the
 * context's buffer size; -EEXIST its addresses overlap a region that is attached;
 * -ENOMEM memory is exhausted, or the region has more than 33554431 buffers; -EIO
 * the device cannot reach the memory without bounce buffers, or only in pieces
 * that are no whole buffers; -ENODEV the device is gone; -ENOSPC too many regions;
 * for memory of others also what they answer.
 */
struct netgpu_attach_region {
	__s32 area_fd;
	__u32 index;
	__u32 flags;
	__u32 reserved;
	__aligned_u64 reserved2[2];
};

/* netgpu_open_queue.flags: all headers have the length of @hds_offset */
#define NETGPU_QUEUE_PADDED	(1U << 0)

/**
 * struct netgpu_open_queue - NETGPU_IOC_OPEN_QUEUE: take a receive queue
 * @queue: number of the device's receive queue
 * @flags: NETGPU_QUEUE_PADDED or zero
 * @fill_entries: size of the fill ring in entries, a power of two
 * @hds_offset: longest header in bytes, from the Ethernet header to the end of
 *	the TCP options, on devices that split at a fixed offset; 0: a length
 *	that fits every IPv4 and IPv6 header without extension headers
 * @message: address of a buffer for the reason, as text ending in a zero byte,
 *	when the command fails and there is one; or 0
 * @message_len: bytes at @message
 * @id: out: number of the queue in the context, for NETGPU_IOC_CLOSE_QUEUE
 * @mmap_offset: out: where the fill ring is mapped from
 * @mmap_len: out: length of the mapping
 * @reserved: zero
 *
 * From here on the payload of packets that the device puts on this queue goes
 * into the context's buffers. Keep other traffic away from it (RSS) and steer
 * the context's connections to it (n-tuple rules). Context command; needs
 * CAP_NET_ADMIN in the network namespace of the device. When the device moves to
 * another one, the queue is closed unless whoever opened it has that right there.
 *
 * Where a device splits at a fixed offset, bytes of the payload that come before it
 * are copied in front of the others, for which some room is left there. With
 * NETGPU_QUEUE_PADDED none is, and the payload of packets of full length lies in a
 * row in each buffer, so that an rx entry has that of many. Senders are to pad the
 * options of TCP, so that all headers are as long as @hds_offset says: of payload
 * behind shorter ones the first bytes are copied to elsewhere.
 *
 * Errors: -EPERM; -EINVAL bad ring size or offset, buffers of a size that the
 * device does not know, or header split is off on the device; -ERANGE no such queue; -EBUSY AF_XDP or another owner has the queue;
 * -EEXIST XDP runs on the device; -EOPNOTSUPP the device cannot do it;
 * -ENETDOWN it is down and cannot do it then; -ENODEV it is gone. Where the
 * device refused, @message tells why.
 */
struct netgpu_open_queue {
	__u32 queue;
	__u32 flags;
	__u32 fill_entries;
	__u32 hds_offset;
	__aligned_u64 message;
	__u32 message_len;
	__u32 id;
	__aligned_u64 mmap_offset;
	__aligned_u64 mmap_len;
	__aligned_u64 reserved[4];
};

/**
 * struct netgpu_attach_socket - NETGPU_IOC_ATTACH_SOCKET: attach a TCP socket
 * @fd: the socket: TCP over IPv4 or IPv6, not listening, without another upper
 *	layer protocol
 * @flags: zero
 * @rx_entries: size of the rx ring in entries, a power of two; 0: none,
 *	receiving stays with read(2)
 * @completion_entries: size of the completion ring in entries, a power of two;
 *	0: none, sending stays with write(2)
 * @id: out: number of the socket in the context, for NETGPU_IOC_DETACH_SOCKET
 * @reserved: zero
 * @rx_mmap_offset: out: where the rx ring is mapped from
 * @rx_mmap_len: out: length of that mapping
 * @completion_mmap_offset: out: where the completion ring is mapped from
 * @completion_mmap_len: out: length of that mapping
 * @reserved2: zero
 *
 * With an rx ring, received bytes appear on it, urgent ones in their place in
 * the stream. recv(2) takes back what the context's fill rings hold, moves what
 * is waiting to the rx ring and then answers 0 at the end of the stream,
 * -EAGAIN before it, or the socket's error. poll(2) reports POLLIN while the
 * ring holds entries or bytes are waiting, also those that cannot be delivered:
 * who waits for buffers to be given back would be woken all the time. Nobody
 * but recv(2) looks for those, so giving them back wakes nobody.
 *
 * A socket stops delivering, and so closes its TCP window, when its rx ring is
 * full, when it has delivered its share of buffers and they have not been given
 * back, or when there is no buffer to copy into. The share is half of the
 * buffers that were ever donated to the context, divided by the number of its
 * sockets with an rx ring. Up to an eighth of the donated buffers, at most 128,
 * are kept for copies of what did not come through a queue of the context. Only
 * buffers that the CPU can write are; when there are bytes to copy and no region
 * of the context has such buffers, recv(2) answers -EOPNOTSUPP. When the next
 * bytes cannot be delivered at all it answers -EFAULT, for good: they lie in
 * memory that is not the context's, or something in the kernel has cloned their
 * packet and changed it.
 *
 * With a completion ring, sendmsg(2) with MSG_ZEROCOPY sends from the context's
 * regions: -EFAULT when some byte lies outside, -ENOBUFS while as many sends
 * are unfinished or unread as the ring has entries, -ENODEV when the connection
 * does not lead over the context's device, -EOPNOTSUPP when the send would open it
 * (TCP Fast Open), or would have to be signed (TCP-MD5, TCP-AO). poll(2) reports POLLIN while the ring holds entries, so read(2)
 * on such a socket should not block. Without MSG_ZEROCOPY data is copied as on any
 * socket.
 *
 * Whoever else takes bytes of the stream, as splice(2) does, takes them away from
 * the rx ring.
 *
 * The socket is bound to the context's device. When the context or the device
 * goes, or the socket is detached, it is an ordinary one again. If it had an rx
 * ring and the stream has not ended, or sends are unfinished, its connection is
 * aborted and it reports ECONNABORTED; received bytes that were not delivered
 * are lost.
 *
 * Segments that are signed cannot come to registered memory, where the CPU cannot
 * verify them: they are dropped as if their signature were wrong.
 *
 * Errors: -EBADF; -ENOTSOCK; -EOPNOTSUPP not TCP over IPv4 or IPv6, or its segments
 * are signed; -EBUSY another part of the kernel has the socket; -EINVAL listening,
 * or bad ring sizes, or both zero; -EEXIST another upper layer protocol, or
 * attached already, or ever before; -EPERM as for SO_BINDTODEVICE; -ENODEV the device is gone; -EXDEV the socket is in another
 * network namespace than the device, or is bound to another device.
 */
struct netgpu_attach_socket {
	__s32 fd;
	__u32 flags;
	__u32 rx_entries;
	__u32 completion_entries;
	__u32 id;
	__u32 reserved;
	__aligned_u64 rx_mmap_offset;
	__aligned_u64 rx_mmap_len;
	__aligned_u64 completion_mmap_offset;
	__aligned_u64 completion_mmap_len;
	__aligned_u64 reserved2[4];
};

/**
 * struct netgpu_id - names a queue or socket of a context
 * @id: its number
 * @reserved: zero
 *
 * Argument of NETGPU_IOC_CLOSE_QUEUE and NETGPU_IOC_DETACH_SOCKET; -ENOENT for
 * an unknown number. Ring mappings stay until they are unmapped, and are dead.
 *
 * Closing a queue restarts it with memory of the kernel's: -ENOMEM, or what the
 * driver says, when that fails, and the queue stays open. When the context's
 * file is closed the kernel tries until it succeeds; until then the memory
 * stays pinned.
 */
struct netgpu_id {
	__u32 id;
	__u32 reserved;
};

/*
 * Counters
 *
 * They only grow, from zero, unless they say "now". A packet is what TCP has of
 * one or several of the wire that were merged; one that is delivered in parts
 * counts once for each.
 */

/**
 * struct netgpu_queue_stats - NETGPU_IOC_QUEUE_STATS: counters of a queue
 * @id: in: number of the queue
 * @reserved: zero
 * @filled: buffers taken from the fill ring for the NIC
 * @bad_addr: fill entries that name no buffer of the context
 * @bad_return: fill entries for a buffer that user space does not hold
 * @empty: times that the NIC asked for buffers and there was none
 * @refilled: buffers that the NIC got when the fill ring was empty, of those
 *	that nobody had, or that were kept for copies when it went without for long
 * @drained: buffers taken from the fill ring that the NIC did not get: it did
 *	not ask for as many, or they are in use still, or kept for copies
 * @rx_zerocopy: bytes delivered where the NIC's DMA put them, through this queue
 * @rx_packets: packets with such bytes
 * @reserved2: zero
 */
struct netgpu_queue_stats {
	__u32 id;
	__u32 reserved;
	__aligned_u64 filled;
	__aligned_u64 bad_addr;
	__aligned_u64 bad_return;
	__aligned_u64 empty;
	__aligned_u64 refilled;
	__aligned_u64 drained;
	__aligned_u64 rx_zerocopy;
	__aligned_u64 rx_packets;
	__aligned_u64 reserved2[7];
};

/**
 * struct netgpu_socket_stats - NETGPU_IOC_SOCKET_STATS: counters of a socket
 * @id: in: number of the socket
 * @reserved: zero
 * @rx_zerocopy: bytes delivered where the NIC's DMA put them
 * @rx_copied: bytes delivered after a copy by the CPU, the sum of the next three
 * @rx_copied_split: bytes that a split at a fixed offset had left with their
 *	header, and that were copied in front of the others of their packet
 * @rx_copied_no_room: the same, where there was no room in front of the others,
 *	or where the CPU cannot write
 * @rx_copied_unsplit: bytes of packets without payload in a region: too short for
 *	the split, or of another queue or device
 * @rx_zerocopy_packets: packets of which nothing was copied
 * @rx_copied_packets: the other packets
 * @rx_stalled: times that delivery stopped, the sum of the next five
 * @rx_stalled_ring: the rx ring was full
 * @rx_stalled_share: the socket's share of buffers was used up
 * @rx_stalled_buffer: there was no buffer to copy into
 * @rx_stalled_pause: so much had been copied that others had to have their turn
 * @rx_stalled_memory: the next bytes could not be delivered at all: they lie in
 *	memory that is not the context's, or no longer, or no buffer can be copied
 *	into
 * @tx_zerocopy: bytes queued for sending straight from a region
 * @tx_sends: sends that queued them
 * @tx_copied: bytes of finished sends that were copied on their way
 * @tx_copied_sends: those sends
 * @tx_refused: sends that found no room on the completion ring
 * @tx_pending: sends that have not finished, now
 * @held: buffers that user space has from this socket, now
 * @share: how many it may have, now
 * @reserved2: zero
 */
struct netgpu_socket_stats {
	__u32 id;
	__u32 reserved;
	__aligned_u64 rx_zerocopy;
	__aligned_u64 rx_copied;
	__aligned_u64 rx_copied_split;
	__aligned_u64 rx_copied_no_room;
	__aligned_u64 rx_copied_unsplit;
	__aligned_u64 rx_zerocopy_packets;
	__aligned_u64 rx_copied_packets;
	__aligned_u64 rx_stalled;
	__aligned_u64 rx_stalled_ring;
	__aligned_u64 rx_stalled_share;
	__aligned_u64 rx_stalled_buffer;
	__aligned_u64 rx_stalled_pause;
	__aligned_u64 rx_stalled_memory;
	__aligned_u64 tx_zerocopy;
	__aligned_u64 tx_sends;
	__aligned_u64 tx_copied;
	__aligned_u64 tx_copied_sends;
	__aligned_u64 tx_refused;
	__aligned_u64 tx_pending;
	__aligned_u64 held;
	__aligned_u64 share;
	__aligned_u64 reserved2[2];
};

/**
 * struct netgpu_context_stats - NETGPU_IOC_CONTEXT_STATS: counters of a context
 * @id: number of the context, of which no two ever had the same: its name in
 *	debugfs and in the trace events
 * @regions: attached regions, now
 * @queues: open queues, now
 * @sockets: attached sockets, now
 * @buffer_size: bytes of a receive buffer
 * @attached: sockets that were ever attached
 * @aborted: connections that were aborted because socket or context went
 * @revoked: regions that were taken back
 * @donated: buffers that user space has given to the kernel, now: those that it
 *	got back through a socket are among them
 * @free: buffers of those that neither user space, nor a socket, nor the NIC has,
 *	and that can be copied into, now
 * @rx_zerocopy: sum over all sockets, also those that are gone; and likewise
 *	to @tx_copied_sends
 * @rx_copied_split: see struct netgpu_socket_stats
 * @rx_copied_no_room: see there
 * @rx_copied_unsplit: see there
 * @rx_zerocopy_packets: see there
 * @rx_copied_packets: see there
 * @tx_zerocopy: see there
 * @tx_sends: see there
 * @tx_copied: see there
 * @tx_copied_sends: see there
 * @bad_addr: sum over all queues, also those that are closed; and likewise the
 *	next two
 * @bad_return: see struct netgpu_queue_stats
 * @empty: see there
 * @reserved2: zero
 */
struct netgpu_context_stats {
	__aligned_u64 id;
	__u32 regions;
	__u32 queues;
	__u32 sockets;
	__u32 buffer_size;
	__aligned_u64 attached;
	__aligned_u64 aborted;
	__aligned_u64 revoked;
	__aligned_u64 donated;
	__aligned_u64 free;
	__aligned_u64 rx_zerocopy;
	__aligned_u64 rx_copied_split;
	__aligned_u64 rx_copied_no_room;
	__aligned_u64 rx_copied_unsplit;
	__aligned_u64 rx_zerocopy_packets;
	__aligned_u64 rx_copied_packets;
	__aligned_u64 tx_zerocopy;
	__aligned_u64 tx_sends;
	__aligned_u64 tx_copied;
	__aligned_u64 tx_copied_sends;
	__aligned_u64 bad_addr;
	__aligned_u64 bad_return;
	__aligned_u64 empty;
	__aligned_u64 reserved2[11];
};

/**
 * struct netgpu_region_stats - NETGPU_IOC_REGION_STATS: counters of a region
 * @addr: in: an address in an attached region; out: the first one
 * @len: out: bytes of the region
 * @rx_zerocopy: out: bytes that the NIC's DMA put there and that were delivered
 * @rx_copied: out: bytes that the CPU wrote there and that were delivered
 * @tx_zerocopy: out: bytes that packets were made of
 * @bad_return: out: fill entries for a buffer of it that user space did not hold
 * @free: out: buffers that neither user space, nor a socket, nor the NIC has, now
 * @reserved: zero
 *
 * What the region did in this context. -ENOENT: no region is attached there, or
 * it was taken back.
 */
struct netgpu_region_stats {
	__aligned_u64 addr;
	__aligned_u64 len;
	__aligned_u64 rx_zerocopy;
	__aligned_u64 rx_copied;
	__aligned_u64 tx_zerocopy;
	__aligned_u64 bad_return;
	__aligned_u64 free;
	__aligned_u64 reserved[9];
};

#define NETGPU_IOC_MAGIC		0xE9

#define NETGPU_IOC_INFO			_IOR(NETGPU_IOC_MAGIC, 0x00, struct netgpu_info)
#define NETGPU_IOC_ADD_REGION		_IOWR(NETGPU_IOC_MAGIC, 0x01, struct netgpu_add_region)
#define NETGPU_IOC_BIND			_IOW(NETGPU_IOC_MAGIC, 0x02, struct netgpu_bind)
#define NETGPU_IOC_ATTACH_REGION	_IOW(NETGPU_IOC_MAGIC, 0x03, struct netgpu_attach_region)
#define NETGPU_IOC_OPEN_QUEUE		_IOWR(NETGPU_IOC_MAGIC, 0x04, struct netgpu_open_queue)
#define NETGPU_IOC_CLOSE_QUEUE		_IOW(NETGPU_IOC_MAGIC, 0x05, struct netgpu_id)
#define NETGPU_IOC_ATTACH_SOCKET	_IOWR(NETGPU_IOC_MAGIC, 0x06, struct netgpu_attach_socket)
#define NETGPU_IOC_DETACH_SOCKET	_IOW(NETGPU_IOC_MAGIC, 0x07, struct netgpu_id)
#define NETGPU_IOC_QUEUE_STATS		_IOWR(NETGPU_IOC_MAGIC, 0x08, struct netgpu_queue_stats)
#define NETGPU_IOC_SOCKET_STATS		_IOWR(NETGPU_IOC_MAGIC, 0x09, struct netgpu_socket_stats)
#define NETGPU_IOC_CONTEXT_STATS	_IOR(NETGPU_IOC_MAGIC, 0x0a, struct netgpu_context_stats)
#define NETGPU_IOC_REGION_STATS		_IOWR(NETGPU_IOC_MAGIC, 0x0b, struct netgpu_region_stats)

#endif /* _UAPI_LINUX_NETGPU_H */
