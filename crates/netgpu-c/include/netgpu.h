/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * netgpu: zero-copy TCP between a NIC and memory that the program chose. `pkg-config --cflags --libs netgpu`.
 *
 * Register memory with a context of the NIC's network device, attach a TCP socket to the context, and the payload of the socket
 * goes by DMA between the NIC and that memory. To receive, take a receive queue of the device as well and donate memory to it:
 *
 *	netgpu_open_ctx(&ctx, "eth0");
 *	mem = netgpu_alloc_memory(len, MEMTYPE_HOST);
 *	netgpu_register_memory(ctx, mem, len, MEMTYPE_HOST);
 *	netgpu_open_ifq(&ifq, ctx, -1, len / 4096);
 *	netgpu_populate_ring(ifq, (uintptr_t)mem, len / 4096);
 *	netgpu_attach_socket(&skq, ctx, fd, 1024);
 *
 * then poll(2) `fd` and take pieces with netgpu_get_rx_batch(); or send with sendmsg(fd, ..., MSG_NETDMA) from other registered
 * memory and wait for netgpu_get_cq_batch(). examples/c has both, whole.
 *
 * Functions that return int return a negative errno value when they fail, and netgpu_last_error() then has the reason as text; those
 * that return nothing ignore what is not possible, and leave a text too. A pointer may be NULL: that is -EINVAL, or nothing to do.
 *
 * Handles are made by open and attach functions, which set them to NULL when they fail, and become NULL again by close and detach
 * functions. These can be called in any order: an object keeps what it needs. What else looks like a handle, such as a copy of one
 * that was closed, is not found out.
 *
 * An object may be used by one thread at a time, different ones by different threads at the same time; after fork(2), by the process
 * that has made it alone: the child leaves it as it is, also at its end. A defect of the library ends the process with abort(3); no
 * exception or unwinding comes out of it.
 *
 * The sources are in Rust (crates/netgpu-c); this file is made of them.
 */

#ifndef NETGPU_H
#define NETGPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/uio.h>

#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif

/* For sendmsg(2): send from registered memory. */
#define MSG_NETDMA MSG_ZEROCOPY

/**
 * Kinds of memory.
 */
enum netgpu_memtype {
        /**
         * The CPU's: anonymous, shared, memfd, huge pages.
         */
        MEMTYPE_HOST = 0,
        /**
         * An NVIDIA GPU's, at its address in CUDA.
         */
        MEMTYPE_CUDA = 1,
        /**
         * A dma-buf's, see netgpu_add_dmabuf(): no other function takes it.
         */
        MEMTYPE_DMABUF = 2,
        /**
         * The CPU's, to be allocated in huge pages of 2 MiB. Where memory is registered, it is the same as MEMTYPE_HOST.
         */
        MEMTYPE_HUGE = 3,
};

/**
 * A context: regions, receive queues and sockets of one network device.
 */
struct netgpu_ctx;

/**
 * A receive queue of the device, and its fill ring.
 */
struct netgpu_ifq;

/**
 * A memory area: spans of memory that are pinned, and independent of any device.
 */
struct netgpu_mem;

/**
 * An attached TCP socket: its ring of received pieces, and that of finished sends.
 */
struct netgpu_skq;

/**
 * Counters of a socket since it was attached, in bytes unless said otherwise. Later versions of the library append to it.
 */
struct netgpu_skq_stats {
        /**
         * Received where the NIC's DMA put them.
         */
        uint64_t rx_zerocopy;
        /**
         * Received after a copy by the CPU.
         */
        uint64_t rx_copied;
        /**
         * Times that delivery stopped: the ring was full, too many pieces were not given back, or there was nothing to copy into.
         */
        uint64_t rx_stalled;
        /**
         * Sent straight from attached memory, or on their way.
         */
        uint64_t tx_zerocopy;
        /**
         * Of those, bytes that were copied on their way.
         */
        uint64_t tx_copied;
        /**
         * Sends that have not finished, now.
         */
        uint64_t tx_pending;
};

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Allocates at least `size` bytes, page-aligned. MEMTYPE_HOST and MEMTYPE_HUGE: filled with zeros; the latter from the system's
 * pool of huge pages (vm.nr_hugepages). MEMTYPE_CUDA: of the calling thread's current GPU, as cudaSetDevice() has it, or else the
 * first, with CU_POINTER_ATTRIBUTE_SYNC_MEMOPS set; the CPU cannot use it.
 *
 * Returns NULL when there is not so much, and for MEMTYPE_DMABUF.
 */
void *netgpu_alloc_memory(size_t size, enum netgpu_memtype memtype);

/**
 * Frees what netgpu_alloc_memory() gave for the same `size` and `memtype`. If it is registered, the kernel and the device have it
 * until the areas and contexts that it is registered with are gone. NULL is ignored.
 */
void netgpu_free_memory(void *area, size_t size, enum netgpu_memtype memtype);

/**
 * Opens a context for the network device `ifname`, of the network namespace of the calling thread. A device can have several.
 *
 * Returns 0, or: -ENODEV, there is no such device; -ENOENT, the kernel module is not loaded; -EACCES; -EOPNOTSUPP, the device has
 * no DMA of its own, such as a bridge or lo; -EPROTONOSUPPORT, module and library are not of one version.
 */
int netgpu_open_ctx(struct netgpu_ctx **ctxp, const char *ifname);

/**
 * As netgpu_open_ctx(), for a context that receives into buffers of `buffer_size` bytes: a power of two from 4096, which
 * netgpu_open_ctx() takes, to 131072. The payload of many packets shares a larger one, which is less work for all;
 * but one comes back only when all pieces in it were given back. Some drivers have none, which netgpu_open_ifq() finds out. What is attached consists of whole buffers, each in one piece for the device: of memory of the host,
 * MEMTYPE_HUGE, or any behind an IOMMU; of memory of a GPU, pieces are 64 KiB as a rule.
 *
 * Returns what netgpu_open_ctx() returns, or: -EINVAL, there are no buffers of that size.
 */
int netgpu_open_ctx_buffers(struct netgpu_ctx **ctxp, const char *ifname, size_t buffer_size);

/**
 * Drops the context and sets `*ctxp` to NULL. Its queues and sockets can be used until they are closed; then the kernel lets go
 * of the memory that was attached.
 */
void netgpu_close_ctx(struct netgpu_ctx **ctxp);

/**
 * Maps span `idx` of `mem` for DMA by the context's device. The device can then send from it, and receive into what is given to a
 * queue of the context. An area can be attached to several contexts, and closed.
 *
 * Returns 0, or: -ENOENT, there is no such span; -EEXIST, it is attached to this context already; -EINVAL, it does not consist of
 * whole buffers of the context; -EIO, the device does not reach the memory without bounce buffers, or not in pieces of whole
 * buffers; -ENODEV, the device is gone; -ENOSPC, too many spans are attached.
 */
int netgpu_attach_region(struct netgpu_ctx *ctx, struct netgpu_mem *mem, int idx);

/**
 * netgpu_add_memarea() and netgpu_attach_region() in one, with an area of the context's own.
 *
 * Returns 0, or what those two return; then nothing has changed.
 */
int netgpu_register_memory(struct netgpu_ctx *ctx, void *va, size_t size, enum netgpu_memtype memtype);

/**
 * Opens a memory area without spans.
 *
 * Returns 0, or: -ENOENT, the kernel module is not loaded; -EACCES; -EPROTONOSUPPORT, module and library are not of one version.
 */
int netgpu_open_memarea(struct netgpu_mem **memp);

/**
 * Drops the memory area and sets `*memp` to NULL. Spans that are attached stay pinned and in use by those contexts.
 */
void netgpu_close_memarea(struct netgpu_mem **memp);

/**
 * Pins the `size` bytes at `va`: start and end round out to pages, of 4 KiB, or of 64 KiB with MEMTYPE_CUDA. They stay pinned
 * until the area and the contexts that they are attached to are gone, also when they are freed before. MEMTYPE_CUDA: `va` is an
 * address that cudaMalloc(), cuMemAlloc() or netgpu_alloc_memory() gave.
 *
 * Returns the number of the span in the area: 1, 2, 3 and so on. Or: -EEXIST, it overlaps a span that this process has
 * registered, in this area or another; -ENOMEM, RLIMIT_MEMLOCK or the memory is exhausted, or the GPU's BAR 1; -EFAULT, there is
 * no memory at `va`, or none that can be written; -EOPNOTSUPP, memory of this kind cannot be pinned; -EINVAL, `size` is zero,
 * there is no such memtype, or `va` is no memory of a GPU; -ENOSPC, too many spans; -ENODEV, there is no CUDA driver or no GPU;
 * -ENXIO, NVIDIA's kernel driver gives no memory to others.
 */
int netgpu_add_memarea(struct netgpu_mem *mem, void *va, size_t size, enum netgpu_memtype memtype);

/**
 * Adds `size` bytes at `offset` of the dma-buf `fd` as a span, whole pages both. The area has the dma-buf open by itself. `*va`
 * becomes the address that stands for the first byte, in pieces, in populated rings and in what is sent; nothing can be read or
 * written there.
 *
 * Returns the number of the span, as netgpu_add_memarea() does. Or: -EINVAL, `fd` is no dma-buf, or something is no whole page;
 * -EBADF; -EACCES, it is open for reading only; -ERANGE, it is not so long; -ENOMEM, there is not so much address space.
 */
int netgpu_add_dmabuf(struct netgpu_mem *mem, int fd, uint64_t offset, size_t size, void **va);

/**
 * Takes receive queue `queue_id` of the context's device, or with -1 the last one that is free. From here on the payload of what
 * the device puts on this queue goes into memory that was given to the context's queues. Header split is to be on in the device
 * (ethtool -G), other traffic kept away from the queue (ethtool -X) and the connections steered to it (ethtool -N).
 * `fill_entries` rounds up to a power of two, from 16 to 262144.
 *
 * Returns 0, or: -EPERM, CAP_NET_ADMIN is needed; -EBUSY, AF_XDP or another owner has the queue, or all of them; -ERANGE, there is
 * no such queue; -EINVAL, header split is off, or an argument is out of range; -EEXIST, an XDP program runs on the device;
 * -EOPNOTSUPP, the device or its driver cannot do it; -ENETDOWN, the interface is down; -ENODEV, the device is gone.
 */
int netgpu_open_ifq(struct netgpu_ifq **ifqp, struct netgpu_ctx *ctx, int queue_id, int fill_entries);

/**
 * As netgpu_open_ifq(), for a queue whose packets have headers of at most `hds_offset` bytes, from Ethernet to the options of TCP.
 * Devices that split packets at a fixed offset, such as ConnectX-4 to -6, do it there: what of the payload comes before is copied,
 * and packets with longer headers are lost. netgpu_open_ifq() takes 114, which fits IPv6 without extension headers; where all
 * connections are IPv4, 94 (14 + 20 + 60) saves 20 bytes for each packet.
 *
 * Returns what netgpu_open_ifq() returns.
 */
int netgpu_open_ifq_hds(struct netgpu_ifq **ifqp, struct netgpu_ctx *ctx, int queue_id, int fill_entries, int hds_offset);

/**
 * As netgpu_open_ifq_hds(), for a queue whose packets have headers of exactly `hds_offset` bytes, because their senders pad them
 * (`netgpu pad`). Where the device splits packets at a fixed offset, payload then lies in a row, and what netgpu_get_rx_batch() tells of
 * is that of many packets. Of payload behind shorter headers the first bytes are told of by themselves.
 *
 * Returns what netgpu_open_ifq() returns.
 */
int netgpu_open_ifq_padded(struct netgpu_ifq **ifqp, struct netgpu_ctx *ctx, int queue_id, int fill_entries, int hds_offset);

/**
 * Gives the queue back to the device's driver and sets `*ifqp` to NULL. Where the driver cannot take it, for want of memory for
 * example, it goes back when its context goes; opening it is -EBUSY until then.
 */
void netgpu_close_ifq(struct netgpu_ifq **ifqp);

/**
 * Number of the receive queue, as ethtool counts.
 *
 * Returns it, or -EINVAL.
 */
int netgpu_ifq_id(struct netgpu_ifq *ifq);

/**
 * Donates `count` buffers from `addr` on, which are attached to the context and were not donated before: pages of 4 KiB, or what
 * netgpu_open_ctx_buffers() was given. From now on they are the device's to write to, but for what netgpu_get_rx_batch() hands out.
 * What has no room on the ring waits in the library and follows with a later call of this function or of netgpu_recycle_complete();
 * so it is with what is given back. Seldom anything has to wait on a ring with as many entries as buffers are donated: each piece
 * is given back by an entry of its own, and several can lie in one buffer.
 */
void netgpu_populate_ring(struct netgpu_ifq *ifq, uint64_t addr, int count);

/**
 * Gives back a piece that netgpu_get_rx_batch() has handed out, by any address in it: once for each piece, also where several lie
 * in one buffer. The kernel sees it after netgpu_recycle_complete().
 */
void netgpu_recycle_buffer(struct netgpu_ifq *ifq, void *ptr);

/**
 * Gives back `count` pieces at once, as netgpu_recycle_buffer() does with one. Returns false, and gives none back, when the ring has
 * no room for all of them now: netgpu_recycle_buffer() takes them all the same, and has them wait in the library.
 */
bool netgpu_recycle_batch(struct netgpu_ifq *ifq, struct iovec **iov, int count);

/**
 * Shows the kernel what was given back.
 */
void netgpu_recycle_complete(struct netgpu_ifq *ifq);

/**
 * Attaches the TCP socket `fd` to the context: IPv4 or IPv6, connected or not, not listening. It gets SO_ZEROCOPY and is bound to
 * the device, and rings of `nentries` for received pieces and for sends, rounded up to a power of two from 16 to 262144. Received
 * bytes are then found by netgpu_get_rx_batch() alone; sendmsg(2) with MSG_NETDMA sends from memory that is attached to the
 * context.
 *
 * `fd` stays the caller's, who keeps it open as long as it calls netgpu_get_rx_batch(), which asks it for what waits, and closes it
 * before netgpu_detach_socket() or after. poll(2) and epoll(7) report it readable while there are pieces or finished sends, and while
 * there are bytes that cannot be delivered before pieces are given back: that wakes nobody, so who waits with EPOLLET calls
 * netgpu_get_rx_batch() after it. recv(2) with MSG_DONTWAIT answers 0 at the end of the stream.
 *
 * Returns 0, or: -EBADF; -ENOTSOCK; -EOPNOTSUPP, it is not TCP over IPv4 or IPv6, or its segments are signed; -EINVAL, it is listening, or an argument is out
 * of range; -EEXIST, it is or was attached, or has another upper layer protocol such as TLS; -EPERM, binding needs CAP_NET_RAW;
 * -ENODEV, the device is gone; -EXDEV, the socket is of another network namespace or bound to another device.
 */
int netgpu_attach_socket(struct netgpu_skq **skqp, struct netgpu_ctx *ctx, int fd, int nentries);

/**
 * Detaches the socket, if it was not closed before, and sets `*skqp` to NULL. It is an ordinary one again if nothing is under way:
 * else, when the peer has not ended its stream or sends are unfinished, its connection is aborted. Close the socket first where
 * it is to end in order.
 */
void netgpu_detach_socket(struct netgpu_skq **skqp);

/**
 * Makes `iov[0]`, `iov[1]` and so on point to the next received pieces, in the order of the stream, up to `count` of them. The
 * iovecs are the library's until the next call; the bytes are the caller's until it gives the piece back, by
 * netgpu_recycle_buffer() or netgpu_recycle_batch(). A socket whose pieces are not given back receives no more in the end.
 *
 * Returns how many, 0: none now. Or, when all that came before was handed out, why there is no more, once: -ECONNRESET,
 * -ETIMEDOUT and so on; -ECONNABORTED, the context or the memory is gone; -EOPNOTSUPP, there are bytes to be copied, and no memory
 * that the CPU writes to was donated; -EBADF, `fd` is closed; -EINVAL, an argument is out of range.
 */
int netgpu_get_rx_batch(struct netgpu_skq *skq, struct iovec **iov, int count);

/**
 * Makes `notify[0]`, `notify[1]` and so on point to the numbers of sends that have finished, up to `count` of them. The sends of a
 * socket with MSG_NETDMA that queued a byte are numbered from 0; they need not finish in order. The memory of a finished send can be
 * written again. The peer's TCP has the bytes, or the connection has failed: when all sends have finished, SO_ERROR says which,
 * unless a call has said it before. The numbers are the library's until the next call.
 *
 * Returns how many, 0: none now, or -EINVAL.
 */
int netgpu_get_cq_batch(struct netgpu_skq *skq, uint64_t **notify, int count);

/**
 * Reads the socket's counters into `*stats`, of which the caller knows `size` bytes: sizeof(*stats).
 *
 * Returns 0, or: -ENOENT, the socket is closed; -EINVAL.
 */
int netgpu_get_skq_stats(struct netgpu_skq *skq, struct netgpu_skq_stats *stats, size_t size);

/**
 * What happened, why, and what to do: text for the last call of this thread that failed, "" if none did. Stays until the next
 * call of this thread that fails.
 */
const char *netgpu_last_error(void);

/**
 * Of the library of 2020, whose ring of data about each receive no kernel has. Returns -EOPNOTSUPP.
 */
int netgpu_add_meta(struct netgpu_skq *skq, int fd, void *addr, size_t len, int nentries, int meta_len);

/**
 * See netgpu_add_meta(). Does nothing.
 */
void netgpu_populate_meta(struct netgpu_skq *skq, uint64_t addr, int count, int size);

/**
 * See netgpu_add_meta(). Does nothing.
 */
void netgpu_recycle_meta(struct netgpu_skq *skq, void *ptr);

/**
 * See netgpu_add_meta(). Does nothing.
 */
void netgpu_submit_meta(struct netgpu_skq *skq);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* NETGPU_H */
