/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Trace events, for administrators: names and fields stay. A context's number is that of struct netgpu_context_stats.
 * Addresses are those of user space.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM netgpu

#if !defined(NETGPU_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define NETGPU_TRACE_H

#include <linux/tracepoint.h>

/* A context is bound to a device. */
TRACE_EVENT(netgpu_bind,
	TP_PROTO(u64 context, u32 ifindex),
	TP_ARGS(context, ifindex),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, ifindex)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->ifindex = ifindex;
	),
	TP_printk("context=%llu ifindex=%u", __entry->context, __entry->ifindex)
);

DECLARE_EVENT_CLASS(netgpu_region,
	TP_PROTO(u64 context, u64 addr, u64 len),
	TP_ARGS(context, addr, len),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u64, addr)
		__field(u64, len)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->addr = addr;
		__entry->len = len;
	),
	TP_printk("context=%llu addr=0x%llx len=%llu", __entry->context, __entry->addr, __entry->len)
);

/* A region is attached. */
DEFINE_EVENT(netgpu_region, netgpu_region_attach, TP_PROTO(u64 context, u64 addr, u64 len), TP_ARGS(context, addr, len));
/* A region was taken back. */
DEFINE_EVENT(netgpu_region, netgpu_region_revoke, TP_PROTO(u64 context, u64 addr, u64 len), TP_ARGS(context, addr, len));

DECLARE_EVENT_CLASS(netgpu_queue,
	TP_PROTO(u64 context, u32 queue, u32 index),
	TP_ARGS(context, queue, index),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, queue)
		__field(u32, index)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->queue = queue;
		__entry->index = index;
	),
	TP_printk("context=%llu queue=%u index=%u", __entry->context, __entry->queue, __entry->index)
);

/* Queue @queue of the context, the device's receive queue @index, is open. */
DEFINE_EVENT(netgpu_queue, netgpu_queue_open, TP_PROTO(u64 context, u32 queue, u32 index), TP_ARGS(context, queue, index));
/* It is closed. */
DEFINE_EVENT(netgpu_queue, netgpu_queue_close, TP_PROTO(u64 context, u32 queue, u32 index), TP_ARGS(context, queue, index));
/* The NIC asked for buffers, and there was none. */
DEFINE_EVENT(netgpu_queue, netgpu_queue_empty, TP_PROTO(u64 context, u32 queue, u32 index), TP_ARGS(context, queue, index));

DECLARE_EVENT_CLASS(netgpu_entry,
	TP_PROTO(u64 context, u32 queue, u64 addr),
	TP_ARGS(context, queue, addr),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, queue)
		__field(u64, addr)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->queue = queue;
		__entry->addr = addr;
	),
	TP_printk("context=%llu queue=%u addr=0x%llx", __entry->context, __entry->queue, __entry->addr)
);

/* A fill entry names no buffer. */
DEFINE_EVENT(netgpu_entry, netgpu_bad_addr, TP_PROTO(u64 context, u32 queue, u64 addr), TP_ARGS(context, queue, addr));
/* A fill entry names a buffer that user space does not hold. */
DEFINE_EVENT(netgpu_entry, netgpu_bad_return, TP_PROTO(u64 context, u32 queue, u64 addr), TP_ARGS(context, queue, addr));

/* A socket is attached. */
TRACE_EVENT(netgpu_attach,
	TP_PROTO(u64 context, u32 socket),
	TP_ARGS(context, socket),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, socket)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->socket = socket;
	),
	TP_printk("context=%llu socket=%u", __entry->context, __entry->socket)
);

/* A socket is detached; @aborted: with its connection aborted. */
TRACE_EVENT(netgpu_detach,
	TP_PROTO(u64 context, u32 socket, bool aborted),
	TP_ARGS(context, socket, aborted),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, socket)
		__field(bool, aborted)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->socket = socket;
		__entry->aborted = aborted;
	),
	TP_printk("context=%llu socket=%u aborted=%d", __entry->context, __entry->socket, __entry->aborted)
);

/*
 * A packet, or a part of one, was delivered: so many bytes of it where DMA had put them, and copied, which is the sum of the last three;
 * for them see rx_copied_* in struct netgpu_socket_stats.
 */
TRACE_EVENT(netgpu_deliver,
	TP_PROTO(u64 context, u32 socket, u32 zerocopy, u32 split, u32 no_room, u32 unsplit),
	TP_ARGS(context, socket, zerocopy, split, no_room, unsplit),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, socket)
		__field(u32, zerocopy)
		__field(u32, copied)
		__field(u32, split)
		__field(u32, no_room)
		__field(u32, unsplit)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->socket = socket;
		__entry->zerocopy = zerocopy;
		__entry->copied = split + no_room + unsplit;
		__entry->split = split;
		__entry->no_room = no_room;
		__entry->unsplit = unsplit;
	),
	TP_printk("context=%llu socket=%u zerocopy=%u copied=%u split=%u no_room=%u unsplit=%u", __entry->context,
		  __entry->socket, __entry->zerocopy, __entry->copied, __entry->split, __entry->no_room,
		  __entry->unsplit)
);

/* Delivery stops. */
TRACE_EVENT(netgpu_stall,
	TP_PROTO(u64 context, u32 socket, u32 reason),
	TP_ARGS(context, socket, reason),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, socket)
		__field(u32, reason)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->socket = socket;
		__entry->reason = reason;
	),
	TP_printk("context=%llu socket=%u reason=%s", __entry->context, __entry->socket,
		  __print_symbolic(__entry->reason, { 0, "ring" }, { 1, "share" }, { 2, "buffer" }, { 3, "pause" },
				   { 4, "memory" }))
);

/* A send is queued. */
TRACE_EVENT(netgpu_send,
	TP_PROTO(u64 context, u32 socket, u32 id, u32 len),
	TP_ARGS(context, socket, id, len),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, socket)
		__field(u32, id)
		__field(u32, len)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->socket = socket;
		__entry->id = id;
		__entry->len = len;
	),
	TP_printk("context=%llu socket=%u id=%u len=%u", __entry->context, __entry->socket, __entry->id, __entry->len)
);

/* A send has finished; @copied: some of its bytes were copied on their way. */
TRACE_EVENT(netgpu_complete,
	TP_PROTO(u64 context, u32 socket, u32 id, bool copied),
	TP_ARGS(context, socket, id, copied),
	TP_STRUCT__entry(
		__field(u64, context)
		__field(u32, socket)
		__field(u32, id)
		__field(bool, copied)
	),
	TP_fast_assign(
		__entry->context = context;
		__entry->socket = socket;
		__entry->id = id;
		__entry->copied = copied;
	),
	TP_printk("context=%llu socket=%u id=%u copied=%d", __entry->context, __entry->socket, __entry->id, __entry->copied)
);

#endif /* NETGPU_TRACE_H */

/* This part must be outside protection. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE netgpu_trace
#include <trace/define_trace.h>
