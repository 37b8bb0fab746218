// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * zcrx DEVICE QUEUE PORT BYTES [PAGES [LENGTH]]: receives and checks so much of the stream with io_uring's zero copy receive, in
 * an area of PAGES pages, in buffers of LENGTH bytes. Prints how much the kernel had to copy. Buffers larger than a page
 * take huge pages: then PAGES must be a multiple of those.
 */
#include <linux/io_uring.h>
#include <net/if.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "stream.h"

#define ENTRIES 512
#define REFILL_ENTRIES 4096
#define PAGE 4096UL

static struct {
	int fd;
	_Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
	uint32_t sq_mask, cq_mask, *sq_array;
	struct io_uring_sqe *sqes;
	struct io_uring_cqe *cqes; /* of two slots each */
} ring;

static struct {
	uint8_t *area;
	uint64_t area_token;
	uint32_t id;
	_Atomic uint32_t *head, *tail;
	struct io_uring_zcrx_rqe *rqes;
	const struct zcrx_stats *stats;
} zcrx;

static void ring_open(void)
{
	struct io_uring_params p = {
		.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQE32 | IORING_SETUP_CQSIZE,
		.cq_entries = 8 * ENTRIES,
	};
	uint8_t *map;

	ring.fd = sys(syscall(SYS_io_uring_setup, ENTRIES, &p));
	map = mmap(NULL, p.cq_off.cqes + p.cq_entries * 2 * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
	ring.sqes = mmap(NULL, p.sq_entries * sizeof(struct io_uring_sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
			 ring.fd, IORING_OFF_SQES);
	if (map == MAP_FAILED || ring.sqes == MAP_FAILED)
		die("mapping the rings: %s", strerror(errno));

	ring.sq_tail = (void *)(map + p.sq_off.tail);
	ring.sq_mask = *(uint32_t *)(map + p.sq_off.ring_mask);
	ring.sq_array = (void *)(map + p.sq_off.array);
	ring.cq_head = (void *)(map + p.cq_off.head);
	ring.cq_tail = (void *)(map + p.cq_off.tail);
	ring.cq_mask = *(uint32_t *)(map + p.cq_off.ring_mask);
	ring.cqes = (void *)(map + p.cq_off.cqes);
}

/*
 * Gives the area its pages in such an order that neighbours do not lie side by side in memory: each is mapped for the NIC on its own, as
 * in a program that has run for a while. Of what is mapped in one, CONFIG_DMA_API_DEBUG looks for the beginning whenever a page of it is
 * handed over, 8 KiB at a time, and the kernel hardly does anything else.
 */
static void scatter(volatile uint8_t *area, size_t pages)
{
	const size_t stride = 16;

	madvise((void *)area, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t first = 0; first < stride; first++)
		for (size_t i = first; i < pages; i += stride)
			area[i * PAGE] = 0;
}

static void zcrx_open(const char *dev, int queue, size_t pages, uint32_t length)
{
	size_t refill_size = PAGE + REFILL_ENTRIES * sizeof(struct io_uring_zcrx_rqe) + PAGE;
	struct zcrx_event_desc events = { .flags = ZCRX_EVENT_DESC_FLAG_STATS, .stats_offset = refill_size - PAGE };
	struct io_uring_region_desc region = { .size = refill_size, .flags = IORING_MEM_REGION_TYPE_USER };
	struct io_uring_zcrx_area_reg area = { .len = pages * PAGE };
	struct io_uring_zcrx_ifq_reg reg = {
		.if_idx = if_nametoindex(dev),
		.if_rxq = queue,
		.rq_entries = REFILL_ENTRIES,
		.area_ptr = (uintptr_t)&area,
		.region_ptr = (uintptr_t)&region,
		.event_desc = (uintptr_t)&events,
		.rx_buf_len = length,
	};
	uint8_t *refill;

	zcrx.area = mmap(NULL, area.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | (length > PAGE ? MAP_HUGETLB : 0), -1, 0);
	refill = mmap(NULL, refill_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (zcrx.area == MAP_FAILED || refill == MAP_FAILED)
		die("no memory");
	if (length <= PAGE)
		scatter(zcrx.area, pages);
	area.addr = (uintptr_t)zcrx.area;
	region.user_addr = (uintptr_t)refill;

	if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_ZCRX_IFQ, &reg, 1) < 0)
		die("binding queue %d of %s: %s", queue, dev, strerror(errno));

	zcrx.area_token = area.rq_area_token;
	zcrx.id = reg.zcrx_id;
	zcrx.head = (void *)(refill + reg.offsets.head);
	zcrx.tail = (void *)(refill + reg.offsets.tail);
	zcrx.rqes = (void *)(refill + reg.offsets.rqes);
	zcrx.stats = (void *)(refill + events.stats_offset);
}

static void submit_recv(int fd)
{
	uint32_t tail = atomic_load_explicit(ring.sq_tail, memory_order_relaxed);
	struct io_uring_sqe *sqe = &ring.sqes[tail & ring.sq_mask];

	*sqe = (struct io_uring_sqe){ .opcode = IORING_OP_RECV_ZC, .fd = fd, .ioprio = IORING_RECV_MULTISHOT };
	ring.sq_array[tail & ring.sq_mask] = tail & ring.sq_mask;
	atomic_store_explicit(ring.sq_tail, tail + 1, memory_order_release);
	sys(syscall(SYS_io_uring_enter, ring.fd, 1, 0, 0, NULL, 0));
}

static void give_back(uint64_t off, uint32_t len)
{
	uint32_t tail = atomic_load_explicit(zcrx.tail, memory_order_relaxed);
	struct zcrx_ctrl flush = { .zcrx_id = zcrx.id, .op = ZCRX_CTRL_FLUSH_RQ };

	/* The kernel looks at the entries only when the queue needs buffers. */
	if (tail - atomic_load_explicit(zcrx.head, memory_order_acquire) == REFILL_ENTRIES)
		sys(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_ZCRX_CTRL, &flush, 0));

	zcrx.rqes[tail % REFILL_ENTRIES] = (struct io_uring_zcrx_rqe){ .off = off | zcrx.area_token, .len = len };
	atomic_store_explicit(zcrx.tail, tail + 1, memory_order_release);
}

/* Returns the new position in the stream. */
static uint64_t take(int fd, const struct io_uring_cqe *cqe, uint64_t pos)
{
	uint64_t off = ((const struct io_uring_zcrx_cqe *)(cqe + 1))->off & ~IORING_ZCRX_AREA_MASK;

	/* The completion queue was full. */
	if (cqe->res == -ENOSPC) {
		submit_recv(fd);
		return pos;
	}
	if (cqe->res < 0)
		die("receive: %s, after %llu bytes", strerror(-cqe->res), (unsigned long long)pos);
	if (!(cqe->flags & IORING_CQE_F_MORE)) {
		if (!cqe->res)
			die("the stream ends after %llu bytes", (unsigned long long)pos);
		submit_recv(fd);
	}

	stream_check(zcrx.area + off, cqe->res, pos);
	give_back(off, cqe->res);
	return pos + cqe->res;
}

int main(int argc, char **argv)
{
	uint64_t bytes, pos = 0;
	int fd, listener;

	if (argc < 5)
		die("usage: zcrx DEVICE QUEUE PORT BYTES [PAGES [LENGTH]]");
	bytes = strtoull(argv[4], NULL, 0);
	ring_open();
	zcrx_open(argv[1], atoi(argv[2]), argc > 5 ? strtoul(argv[5], NULL, 0) : 8192,
		  argc > 6 ? strtoul(argv[6], NULL, 0) : 0);
	listener = stream_listen(atoi(argv[3]));
	fd = sys(accept(listener, NULL, NULL));
	submit_recv(fd);

	while (pos < bytes) {
		uint32_t head = atomic_load_explicit(ring.cq_head, memory_order_relaxed);

		sys(syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0));
		for (; pos < bytes && head != atomic_load_explicit(ring.cq_tail, memory_order_acquire); head++)
			pos = take(fd, &ring.cqes[2 * (head & ring.cq_mask)], pos);
		atomic_store_explicit(ring.cq_head, head, memory_order_release);
	}
	if (pos != bytes)
		die("%llu bytes instead of %llu", (unsigned long long)pos, (unsigned long long)bytes);

	printf("received %llu copied %llu\n", (unsigned long long)bytes, (unsigned long long)zcrx.stats->copy_bytes);
	return 0;
}
