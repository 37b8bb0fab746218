/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The border between the C shim and Rust: integers, opaque pointers and small
 * structures whose layout depends on no configuration. bindgen reads this file
 * (src/abi_generated.rs). Above each function: who calls it where, and what it
 * may do.
 *
 * "Objects" are pointers that only their owner looks into: struct netgpu_*
 * below belongs to the shim, void *context, *attachment, *queue and *socket to
 * Rust. Functions that return int answer 0 or a negative errno.
 */
#ifndef NETGPU_SHIM_H
#define NETGPU_SHIM_H

#include <linux/types.h>
#include <linux/netgpu.h>

struct file;
struct page;
struct page_pool;
struct sock;
struct spinlock;
struct vm_area_struct;

/* The ioctl numbers, as numbers. */
enum {
	NETGPU_CMD_INFO			= NETGPU_IOC_INFO,
	NETGPU_CMD_ADD_REGION		= NETGPU_IOC_ADD_REGION,
	NETGPU_CMD_BIND			= NETGPU_IOC_BIND,
	NETGPU_CMD_ATTACH_REGION	= NETGPU_IOC_ATTACH_REGION,
	NETGPU_CMD_OPEN_QUEUE		= NETGPU_IOC_OPEN_QUEUE,
	NETGPU_CMD_CLOSE_QUEUE		= NETGPU_IOC_CLOSE_QUEUE,
	NETGPU_CMD_ATTACH_SOCKET	= NETGPU_IOC_ATTACH_SOCKET,
	NETGPU_CMD_DETACH_SOCKET	= NETGPU_IOC_DETACH_SOCKET,
	NETGPU_CMD_QUEUE_STATS		= NETGPU_IOC_QUEUE_STATS,
	NETGPU_CMD_SOCKET_STATS		= NETGPU_IOC_SOCKET_STATS,
};

/* Bytes of a receive buffer: a page, which every driver can post. */
#define NETGPU_BUFFER_SIZE	4096
#define NETGPU_BUFFER_SHIFT	12

/* module.c */

/* Module init. Names the kernel patch without which this kernel cannot run us; NULL: none is missing. */
const char *netgpu_missing_patch(void);

/* Any context but hard interrupts. */
void netgpu_lock_bh(struct spinlock *lock);
void netgpu_unlock_bh(struct spinlock *lock);

/* memory.c: pinned pages, and what makes network memory of them */

struct netgpu_map;

/* Process context, mmap lock held. Whether a file system writes the mapping back: then it cannot be pinned for long. */
bool netgpu_vma_written_back(struct vm_area_struct *vma);

struct netgpu_device;

/*
 * Process context. Maps the @n @pages, one buffer each, for DMA in both directions and makes a net_iov of each. @pages
 * must outlive the map; @context and @attachment are handed back in the calls below. -EIO: only bounce buffers
 * would reach the memory.
 */
int netgpu_map_create(struct netgpu_device *dev, struct page **pages, u32 n, void *context, void *attachment,
		      struct netgpu_map **out);
/* Any context. From here on no fragment of the map may be sent. */
void netgpu_map_revoke(struct netgpu_map *map);
/* Process context, once; the device no longer uses the memory. */
void netgpu_map_unmap(struct netgpu_map *map);
/* Process context; nothing refers to any buffer. Unmaps if that has not been done. */
void netgpu_map_destroy(struct netgpu_map *map);

/*
 * A buffer's references are counted in its net_iov: one for each fragment of a packet, one for each count of user
 * space, one for the free list or the socket that copies into it. The functions below want @index below the number of
 * pages; softirq or process context.
 */
enum {
	NETGPU_BUFFER_IN_USE,	/* others hold it, or its pool took it back */
	NETGPU_BUFFER_POOLED,	/* the last reference: now in the cache of @pool */
	NETGPU_BUFFER_FREE,	/* the last reference: belongs to no pool, the caller has it */
};

/* Takes a reference; the caller knows of another. */
void netgpu_buffer_get(struct netgpu_map *map, u32 index);
/* Drops a reference. @pool: the pool that is asking for buffers, from its alloc op, with room in its cache; or NULL. */
u32 netgpu_buffer_put(struct netgpu_map *map, u32 index, struct page_pool *pool);
/* A buffer that the caller has moves into the cache of @pool, as above. */
void netgpu_buffer_give(struct netgpu_map *map, u32 index, struct page_pool *pool);
/* Copies @len bytes from @src to @offset of a buffer that the caller holds; they fit. */
void netgpu_buffer_write(struct netgpu_map *map, u32 index, u32 offset, const void *src, u32 len);

/* Rust. A fragment that is not of a receive pool takes or drops a reference to the map. Any context, never sleeps. */
void netgpu_context_get(void *context);
void netgpu_context_put(void *context);

/* device.c */

/*
 * Process context. Opens network device @ifindex of the caller's network namespace for @context. -ENODEV: no such
 * device; -EOPNOTSUPP: it has no DMA device.
 */
int netgpu_device_open(u32 ifindex, void *context, struct netgpu_device **out);
/* Process context, takes rtnl. From success on calls netgpu_device_gone(); -ENODEV: the device is going already. */
int netgpu_device_watch(struct netgpu_device *dev);
/* Process context, takes rtnl. Undoes that, if it was done; netgpu_device_gone() is not called any more. */
void netgpu_device_unwatch(struct netgpu_device *dev);
/* Process context. Drops the network device; idempotent. */
void netgpu_device_drop(struct netgpu_device *dev);
/* Process context. The device is neither watched nor held any more. */
void netgpu_device_free(struct netgpu_device *dev);
/*
 * Rust. Process context under rtnl. The device is shut down and about to go away: nothing may use it after the return,
 * and it must have been dropped.
 */
void netgpu_device_gone(void *context);
/* Process context. 0 if the caller has CAP_NET_ADMIN in the device's network namespace; -EPERM; -ENODEV: it is gone. */
int netgpu_device_permit(struct netgpu_device *dev);
/* Any context. The DMA device, as an identity; the same for the life of @dev. */
const void *netgpu_device_dma(struct netgpu_device *dev);

/* provider.c */

struct netgpu_queue_open {
	u32 queue;		/* number of the device's receive queue */
	u32 hds_offset;		/* longest header in bytes; 0: whatever the driver does */
	u32 headroom;		/* in: bytes wanted free in front of the payload, out: promised */
	char message[92];	/* out: why the device refused, or "" */
};

/*
 * Process context, takes the device's lock. Opens a receive queue with @queue as its memory provider; consumes one
 * reference to @queue, which netgpu_queue_close() or netgpu_queue_uninstalled() gives back, on success.
 */
int netgpu_queue_open(struct netgpu_device *dev, void *queue, struct netgpu_queue_open *open);
/* Process context, takes the device's lock. False: the device had closed the queue itself. */
bool netgpu_queue_close(struct netgpu_device *dev, void *queue, u32 index);

/*
 * Rust. Process context. A page pool is made for @queue: takes a reference to it if it will do. @dma is the device that
 * the pool's memory must be mapped for; @usable: the pool deals in buffers of our size that are mapped beforehand.
 */
int netgpu_pool_init(void *queue, const void *dma, bool usable);
/* Rust. Process context. A page pool is gone and gives its reference back. */
void netgpu_pool_destroy(void *queue);
/* Rust. Softirq mostly, never sleeps. Moves at most @max buffers into the empty cache of @pool; returns how many. */
u32 netgpu_pool_refill(void *queue, struct page_pool *pool, u32 max);
/* Rust. Softirq or process context. The pool gives a buffer back, which has one reference for its new owner. */
void netgpu_pool_release(void *attachment, u32 index);
/* Rust. Process context under the device's lock: the device closes the queue for good. */
void netgpu_queue_uninstalled(void *queue);

/* socket.c: the TCP upper layer protocol */

/* Module init and exit. */
int netgpu_ulp_register(void);
void netgpu_ulp_unregister(void);

/* Process context. The socket of file descriptor @fd, with a reference to its file in @file. */
int netgpu_socket_get(int fd, struct file **file, struct sock **sk);
/* Process context. Drops the reference of netgpu_socket_get(). */
void netgpu_socket_put(struct file *file);
/* Any context. References to the socket's memory. */
void netgpu_sock_hold(struct sock *sk);
void netgpu_sock_put(struct sock *sk);

/*
 * Process context. Makes @file's socket one of ours, bound to the device; consumes one reference to @socket on success,
 * given back by netgpu_socket_released().
 */
int netgpu_socket_attach(struct file *file, struct netgpu_device *dev, void *socket);
/*
 * Process context, takes the socket lock. Detaches and aborts the connection if netgpu_socket_unfinished()
 * says so. False: it was detached already.
 */
bool netgpu_socket_abort(struct sock *sk, void *socket);
/* Process context, takes the socket lock. Resets the connection, if there is one, also if no file refers to it. */
void netgpu_sock_reset(struct sock *sk);

/* Rust. Socket lock held, process context. Whether the connection cannot do without us. */
bool netgpu_socket_unfinished(void *socket, struct sock *sk);
/* Rust. Socket lock held, process context. First act of @socket's life on @sk. */
void netgpu_socket_attached(void *socket, struct sock *sk);
/*
 * Rust. Socket lock held, process context. Last act: no call with the socket lock held follows. Returns the socket's
 * context, with its reference.
 */
void *netgpu_socket_detached(void *socket, struct sock *sk);
/* Rust. Process context, no lock: the socket was closed and detached. Takes the reference to @context. */
void netgpu_socket_closed(void *socket, void *context);
/* Rust. Any context. The socket is destroyed; takes the reference of netgpu_socket_attach() back. */
void netgpu_socket_released(void *socket);

/* rx.c */

/* Some received bytes. */
struct netgpu_piece {
	void *context;		/* as given to netgpu_map_create() if the bytes lie in a buffer of ours, else NULL */
	void *attachment;	/* likewise */
	const void *data;	/* the bytes, if they lie in kernel memory; NULL with @context: memory of others */
	u32 index;		/* the buffer in the attachment */
	u32 offset;		/* where in the buffer */
	u32 len;
	u32 reserved;
};

/* Socket lock held. Feeds what waits on the socket to netgpu_rx_pieces(), until that stops it or all is read. */
void netgpu_rx_read(struct sock *sk, void *socket);
/* Socket lock held. Wakes who polls the socket. */
void netgpu_rx_wake(struct sock *sk, void *socket);
/* Rust. Socket lock held, softirq or process context. New bytes wait on the socket. Never sleeps. */
void netgpu_rx_ready(void *socket, struct sock *sk);
/*
 * Rust. Socket lock held, softirq or process context, below netgpu_rx_read(). Delivers pieces of one packet in order and
 * returns the number of bytes it took; -EFAULT: the next piece belongs to another context.
 */
int netgpu_rx_pieces(void *socket, struct sock *sk, const struct netgpu_piece *pieces, u32 n);

/* What TCP knows of the stream that is received. */
struct netgpu_stream {
	bool waiting;	/* bytes wait on the socket */
	bool told;	/* its end, or an error, was reported already */
	bool shut;	/* no more will come */
	bool closed;	/* there is no connection */
};

/* Socket lock held. */
void netgpu_stream(struct sock *sk, struct netgpu_stream *out);
/* Socket lock held. Takes the socket's pending error: 0 or a negative errno. */
int netgpu_sock_error(struct sock *sk);
/* Rust. Socket lock held, process context: recv(2). Returns 0 at the end of the stream, else an error. */
int netgpu_rx_recv(void *socket, struct sock *sk);
/* Rust. No lock. Whether the rx ring holds entries. */
bool netgpu_rx_readable(void *socket);
/* Rust. No lock. Whether the socket has an rx ring. */
bool netgpu_rx_enabled(void *socket);

/* tx.c */

struct msghdr;

/* Room for the stack's struct ubuf_info: what a send is to the stack. */
struct netgpu_ubuf {
	u64 opaque[2];
};

/* Some bytes to send: a part of a buffer. */
struct netgpu_span {
	struct netgpu_map *map;
	u32 index;
	u32 offset;
	u32 len;
	u32 reserved;
};

/* Any context. Makes @ubuf a send with one reference, the caller's. */
void netgpu_ubuf_init(struct netgpu_ubuf *ubuf);
/* Any context. Drops the caller's reference; the last one calls netgpu_tx_done(). */
void netgpu_ubuf_put(struct netgpu_ubuf *ubuf);
/* Process context. Whether netgpu_tx_contains() agrees to all addresses of @msg. */
bool netgpu_msg_within(const struct msghdr *msg, void *context);
/* Socket lock held. Whether the connection, if there is one yet, leads over @dev and takes fragments. */
bool netgpu_tx_routed(struct sock *sk, struct netgpu_device *dev);
/*
 * Socket lock held; drops it while it waits for room. Queues @msg, of @size bytes at addresses in regions, in packets that
 * hold references to @ubuf. Returns the number of bytes queued or an error.
 */
int netgpu_tx_queue(struct sock *sk, struct msghdr *msg, size_t size, struct netgpu_ubuf *ubuf);
/* Any context. Wakes who polls the socket for completions; harmless after it was closed. */
void netgpu_tx_wake(struct sock *sk);

/* Rust. No lock. Whether the socket has a completion ring. */
bool netgpu_tx_enabled(void *socket);
/*
 * Rust. Socket lock held, process context: sendmsg(2) with MSG_ZEROCOPY on a socket that is attached. Returns the number of
 * bytes queued or an error.
 */
int netgpu_tx_send(void *socket, struct sock *sk, struct msghdr *msg, size_t size);
/* Rust. Process context. Whether the @len bytes at user address @addr lie in regions of @context. */
bool netgpu_tx_contains(void *context, size_t addr, size_t len);
/*
 * Rust. Socket lock held. Cuts the @len bytes at user address @addr into parts of one buffer each, at most @max, and returns
 * how many: none if @addr lies in no region.
 */
u32 netgpu_tx_spans(struct netgpu_ubuf *ubuf, size_t addr, size_t len, struct netgpu_span *spans, u32 max);
/* Rust. Any context. Bytes of the send were copied on their way. */
void netgpu_tx_copied(struct netgpu_ubuf *ubuf);
/* Rust. Any context. Nothing refers to the send any longer; consumes it. */
void netgpu_tx_done(struct netgpu_ubuf *ubuf);

#endif /* NETGPU_SHIM_H */
