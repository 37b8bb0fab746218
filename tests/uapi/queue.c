// SPDX-License-Identifier: MIT OR Apache-2.0
/* Receive queues: who may take one, when, and what else on the device stands in the way. Needs the ports. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <poll.h>
#include <sys/wait.h>

FIXTURE(queue)
{
	int fd;
	int area;
	size_t unit;
	char *mem;
	int last;	/* the device's last receive queue */
};

FIXTURE_SETUP(queue)
{
	self->unit = buffer_size();
	self->mem = memory(64 * self->unit);
	self->last = nic_queues() - 1;
	ASSERT_LE(1, self->last) TH_LOG("the port has a single receive queue");
	ASSERT_EQ(0, sh("ethtool -G %s tcp-data-split on", nic_name()));
	self->area = ng_open();
	self->fd = ng_open();
	ASSERT_EQ(1, ng_add_region(self->area, self->mem, 64 * self->unit));
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(self->fd, self->area, 1));
}

FIXTURE_TEARDOWN(queue)
{
	close(self->fd);
	close(self->area);
	EXPECT_TRUE(nic_works());
}

/* A queue with everything right opens: so what failed before it changed nothing. */
#define EXPECT_OPENS(self) do {								\
	struct netgpu_open_queue __q;							\
	EXPECT_EQ(0, ng_open_queue((self)->fd, (self)->last, FILL, &__q));		\
	EXPECT_EQ(0, ng_close_queue((self)->fd, __q.id));				\
} while (0)

TEST_F(queue, opens_and_closes)
{
	struct netgpu_open_queue q;
	struct netgpu_queue_stats stats;
	int round;

	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, ng_open_queue(self->fd, self->last, FILL, &q));
		EXPECT_LE(NETGPU_RING_ENTRIES + FILL * sizeof(struct netgpu_fill_entry), q.mmap_len);
		EXPECT_EQ(0, ng_queue_stats(self->fd, q.id, &stats));
		EXPECT_EQ(0U, stats.filled);
		EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
		EXPECT_EQ(-ENOENT, ng_close_queue(self->fd, q.id));
		EXPECT_EQ(-ENOENT, ng_queue_stats(self->fd, q.id, &stats));
	}
}

TEST_F(queue, closes_with_its_context)
{
	struct netgpu_open_queue q;
	int round;

	for (round = 0; round < 3; round++) {
		ASSERT_EQ(0, ng_open_queue(self->fd, self->last, FILL, &q));
		close(self->fd);
		self->fd = ng_open();
		ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	}
}

TEST_F(queue, several_of_one_context)
{
	struct netgpu_open_queue a, b;

	ASSERT_EQ(0, ng_open_queue(self->fd, self->last, FILL, &a));
	ASSERT_EQ(0, ng_open_queue(self->fd, self->last - 1, FILL, &b));
	EXPECT_NE(a.id, b.id);
	EXPECT_NE(a.mmap_offset, b.mmap_offset);
	EXPECT_EQ(0, ng_close_queue(self->fd, a.id));
	EXPECT_EQ(0, ng_close_queue(self->fd, b.id));
}

TEST_F(queue, out_of_range)
{
	struct netgpu_open_queue q;

	EXPECT_EQ(-ERANGE, ng_open_queue(self->fd, self->last + 1, FILL, &q));
	EXPECT_EQ(-ERANGE, ng_open_queue(self->fd, 1 << 20, FILL, &q));
	EXPECT_EQ(-ERANGE, ng_open_queue(self->fd, 0x80000000, FILL, &q));
	EXPECT_EQ(-ERANGE, ng_open_queue(self->fd, 0xffffffff, FILL, &q));
	EXPECT_OPENS(self);
}

TEST_F(queue, ring_sizes)
{
	static const unsigned int bad[] = { 0, 1, 2, 8, 15, 17, 24, 255, 257, 768, NETGPU_MAX_RING_ENTRIES - 1,
		NETGPU_MAX_RING_ENTRIES + 1, 2 * NETGPU_MAX_RING_ENTRIES, 1U << 31, 0x80000001, 0xffffffff };
	static const unsigned int good[] = { NETGPU_MIN_RING_ENTRIES, 512, NETGPU_MAX_RING_ENTRIES };
	struct netgpu_open_queue q;
	size_t i;

	for (i = 0; i < ARRAY_LEN(bad); i++)
		EXPECT_EQ(-EINVAL, ng_open_queue(self->fd, self->last, bad[i], &q)) TH_LOG("%u entries", bad[i]);
	for (i = 0; i < ARRAY_LEN(good); i++) {
		EXPECT_EQ(0, ng_open_queue(self->fd, self->last, good[i], &q)) TH_LOG("%u entries", good[i]);
		EXPECT_LE(NETGPU_RING_ENTRIES + good[i] * sizeof(struct netgpu_fill_entry), q.mmap_len);
		EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
	}
}

TEST_F(queue, split_offsets)
{
	/* Shorter than any header of TCP; longer than any that the device looks for. */
	static const unsigned int bad[] = { 1, 13, 14, 53, 4096, 65535, 65536, 65536 + 94, 0x80000000, 0xffffffff };
	static const unsigned int good[] = { 94, 114 };
	struct netgpu_open_queue q;
	size_t i;

	for (i = 0; i < ARRAY_LEN(bad); i++) {
		q = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL, .hds_offset = bad[i] };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q)) TH_LOG("offset %u", bad[i]);
	}
	for (i = 0; i < ARRAY_LEN(good); i++) {
		q = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL, .hds_offset = good[i] };
		EXPECT_EQ(0, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q)) TH_LOG("offset %u", good[i]);
		EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
	}
}

/* The NIC is told how large they are, and works as before when it has pages again. */
TEST_F(queue, larger_buffers)
{
	struct netgpu_context_stats stats;
	struct netgpu_open_queue q;
	unsigned int size;

	for (size = 2 * buffer_size(); size <= 1 << 17; size *= 2) {
		int fd = ng_open();

		ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), size));
		ASSERT_EQ(0, ng_open_queue(fd, self->last, FILL, &q)) TH_LOG("%u", size);
		EXPECT_EQ(0, ng_context_stats(fd, &stats));
		EXPECT_EQ(size, stats.buffer_size);
		EXPECT_EQ(1U, stats.queues);
		EXPECT_EQ(0, ng_close_queue(fd, q.id));
		close(fd);
	}
	EXPECT_OPENS(self);
}

TEST_F(queue, reserved)
{
	struct netgpu_open_queue good = { .queue = self->last, .fill_entries = FILL }, bad;
	size_t i;

	for (i = 0; i < 32; i++) {
		bad = good;
		bad.flags = 1U << i;
		if (bad.flags & NETGPU_QUEUE_PADDED)
			continue;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &bad)) TH_LOG("flags bit %zu", i);
	}
	for (i = 0; i < sizeof(bad.reserved); i++) {
		bad = good;
		((char *)bad.reserved)[i] = 1;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &bad)) TH_LOG("reserved byte %zu", i);
	}
	/* Only out: anything goes in. */
	good.id = 0xdeadbeef;
	good.mmap_offset = good.mmap_len = -1;
	EXPECT_EQ(0, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &good));
	for (i = 0; i < ARRAY_LEN(good.reserved); i++)
		EXPECT_EQ(0U, good.reserved[i]);
	EXPECT_EQ(0, ng_close_queue(self->fd, good.id));
}

TEST_F(queue, reserved_of_ids_and_stats)
{
	struct netgpu_open_queue q;
	struct netgpu_queue_stats stats;
	struct netgpu_id id;
	size_t i;

	ASSERT_EQ(0, ng_open_queue(self->fd, self->last, FILL, &q));
	for (i = 0; i < 32; i++) {
		id = (struct netgpu_id){ .id = q.id, .reserved = 1U << i };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_CLOSE_QUEUE, &id)) TH_LOG("reserved bit %zu", i);
		stats = (struct netgpu_queue_stats){ .id = q.id, .reserved = 1U << i };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_QUEUE_STATS, &stats)) TH_LOG("reserved bit %zu", i);
	}
	for (i = 0; i < sizeof(stats.reserved2); i++) {
		stats = (struct netgpu_queue_stats){ .id = q.id };
		((char *)stats.reserved2)[i] = 1;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_QUEUE_STATS, &stats)) TH_LOG("reserved2 byte %zu", i);
	}
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_QUEUE_STATS, NULL));
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_CLOSE_QUEUE, NULL));
	EXPECT_EQ(0, ng_queue_stats(self->fd, q.id, &stats));
	EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
}

/* The answer cannot be written: the queue must not be taken. */
TEST_F(queue, bad_pointers)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct netgpu_open_queue *arg = memory(page);

	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, NULL));
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, hole(page)));
	*arg = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL };
	ASSERT_EQ(0, mprotect(arg, page, PROT_READ));
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, arg));
	EXPECT_OPENS(self);
}

TEST_F(queue, needs_net_admin)
{
	pid_t child = fork();
	int status;

	if (!child) {
		struct netgpu_open_queue q;

		if (become_nobody())
			_exit(1);
		_exit(ng_open_queue(self->fd, self->last, FILL, &q) == -EPERM ? 0 : 2);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_OPENS(self);
}

/* Owners of queues. */

TEST_F(queue, is_taken)
{
	struct netgpu_open_queue q, again;
	int other = ng_open();

	ASSERT_EQ(0, ng_bind(other, nic_index()));
	ASSERT_EQ(0, ng_open_queue(self->fd, self->last, FILL, &q));
	EXPECT_EQ(-EBUSY, ng_open_queue(self->fd, self->last, FILL, &again));
	EXPECT_EQ(-EBUSY, ng_open_queue(other, self->last, FILL, &again));
	ASSERT_EQ(0, ng_close_queue(self->fd, q.id));
	EXPECT_EQ(0, ng_open_queue(other, self->last, FILL, &again));
	close(other);
}

/* What the other side may not do while a queue is open. */
TEST_F(queue, holds_its_ground)
{
	struct netgpu_open_queue q;
	const char *nic = nic_name();

	ASSERT_EQ(0, ng_open_queue(self->fd, self->last, FILL, &q));
	EXPECT_NE(0, sh("ethtool -G %s tcp-data-split off", nic));
	EXPECT_NE(0, sh("ethtool -L %s combined %d", nic, self->last));
	EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
	EXPECT_EQ(0, sh("ethtool -G %s tcp-data-split off", nic));
	EXPECT_EQ(0, sh("ethtool -G %s tcp-data-split on", nic));
}

FIXTURE(split)
{
	int fd;
	int last;
};

FIXTURE_SETUP(split)
{
	self->last = nic_queues() - 1;
	self->fd = ng_open();
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	ASSERT_EQ(0, sh("ethtool -G %s tcp-data-split off", nic_name()));
}

FIXTURE_TEARDOWN(split)
{
	sh("ethtool -G %s tcp-data-split on", nic_name());
}

/* The text must say what to type. */
TEST_F(split, off)
{
	char text[512], command[128];
	struct netgpu_open_queue q = { .queue = self->last, .fill_entries = FILL, .message = (uintptr_t)text,
				       .message_len = sizeof(text) };

	memset(text, 'x', sizeof(text));
	EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
	ASSERT_NE(NULL, memchr(text, 0, sizeof(text)));
	snprintf(command, sizeof(command), "ethtool -G %s tcp-data-split on", nic_name());
	EXPECT_NE(NULL, strstr(text, command)) TH_LOG("message: %s", text);
	/* And typing it helps. */
	ASSERT_EQ(0, sh("%s", command));
	EXPECT_EQ(0, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
}

/* Short buffers get a cut, terminated text and are not overrun; bad ones do not hide the reason. */
TEST_F(split, off_with_odd_message_buffers)
{
	struct netgpu_open_queue q;
	char text[64];
	unsigned int len;
	size_t page = sysconf(_SC_PAGESIZE);
	char *end = memory(2 * page) + page;

	for (len = 0; len < 40; len++) {
		memset(text, 'x', sizeof(text));
		q = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL, .message = (uintptr_t)text,
						.message_len = len };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q)) TH_LOG("%u bytes", len);
		EXPECT_EQ('x', text[len]) TH_LOG("%u bytes", len);
		if (len)
			EXPECT_NE(NULL, memchr(text, 0, len)) TH_LOG("%u bytes", len);
	}
	/* No message wanted; too long a buffer for the memory behind it, though the text fits or not. */
	q = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL, .message_len = 64 };
	EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
	munmap(end, page);
	q = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL, .message = (uintptr_t)end - 512,
					.message_len = 0xffffffff };
	EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
	EXPECT_NE(NULL, memchr(end - 512, 0, 512));
	q = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL, .message = (uintptr_t)end, .message_len = 64 };
	EXPECT_GT(0, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
	q = (struct netgpu_open_queue){ .queue = self->last, .fill_entries = FILL, .message = 0xffff888000000000,
					.message_len = 64 };
	EXPECT_GT(0, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
}

/* AF_XDP and XDP. */

/* An AF_XDP socket on a queue. @mode: XDP_COPY, which every driver can, or XDP_ZEROCOPY. */
static int af_xdp(unsigned int queue, uint16_t mode)
{
	int fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0), entries = 64;
	struct xdp_umem_reg umem = { .addr = (uintptr_t)memory(64 * 4096), .len = 64 * 4096, .chunk_size = 4096 };
	struct sockaddr_xdp addr = { .sxdp_family = AF_XDP, .sxdp_flags = mode, .sxdp_ifindex = nic_index(),
				     .sxdp_queue_id = queue };
	int err;

	if (fd < 0)
		return -errno;
	if (setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof(umem)) ||
	    setsockopt(fd, SOL_XDP, XDP_UMEM_FILL_RING, &entries, sizeof(entries)) ||
	    setsockopt(fd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &entries, sizeof(entries)) ||
	    setsockopt(fd, SOL_XDP, XDP_RX_RING, &entries, sizeof(entries)) ||
	    bind(fd, (struct sockaddr *)&addr, sizeof(addr))) {
		err = -errno;
		close(fd);
		return err;
	}
	return fd;
}

/* A link that holds a program which passes every packet on. */
static int xdp_link(void)
{
	struct bpf_insn pass[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = XDP_PASS },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	/* One that cannot take packets in pieces is refused already for the header split. */
	union bpf_attr program = { .prog_type = BPF_PROG_TYPE_XDP, .prog_flags = BPF_F_XDP_HAS_FRAGS };

	return bpf_attach(&program, pass, ARRAY_LEN(pass), BPF_XDP, nic_index(), XDP_FLAGS_SKB_MODE);
}

TEST_F(queue, belongs_to_af_xdp)
{
	char text[256] = "";
	struct netgpu_open_queue q = { .queue = self->last, .fill_entries = FILL, .message = (uintptr_t)text,
				       .message_len = sizeof(text) };
	int xsk = af_xdp(self->last, XDP_COPY);

	ASSERT_LE(0, xsk) TH_LOG("AF_XDP: %s", strerror(-xsk));
	EXPECT_EQ(-EBUSY, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
	EXPECT_NE(NULL, strstr(text, "AF_XDP")) TH_LOG("message: %s", text);
	/* The other queues are nobody's. */
	EXPECT_EQ(0, ng_open_queue(self->fd, self->last - 1, FILL, &q));
	EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
	close(xsk);
	EXPECT_TRUE(WAIT_FOR(ng_open_queue(self->fd, self->last, FILL, &q) == 0, 5000));
	/* And the reverse; by copying there is no conflict. */
	EXPECT_EQ(-EBUSY, af_xdp(self->last, XDP_ZEROCOPY));
	EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
	xsk = af_xdp(self->last, XDP_COPY);
	EXPECT_LE(0, xsk);
	close(xsk);
}

TEST_F(queue, xdp_on_the_device)
{
	char text[256] = "";
	struct netgpu_open_queue q = { .queue = self->last, .fill_entries = FILL, .message = (uintptr_t)text,
				       .message_len = sizeof(text) };
	int link = xdp_link();

	ASSERT_LE(0, link) TH_LOG("XDP: %s", strerror(-link));
	EXPECT_EQ(-EEXIST, ng_ioctl(self->fd, NETGPU_IOC_OPEN_QUEUE, &q));
	EXPECT_NE(NULL, strstr(text, "XDP")) TH_LOG("message: %s", text);
	close(link);
	EXPECT_TRUE(WAIT_FOR(ng_open_queue(self->fd, self->last, FILL, &q) == 0, 5000));
	link = xdp_link();
	EXPECT_GT(0, link);
	EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
}

/* While the interface is down. */
TEST_F(queue, interface_down)
{
	struct netgpu_open_queue q;
	const char *nic = nic_name();
	int ret;

	ASSERT_EQ(0, sh("ip link set %s down", nic));
	ret = ng_open_queue(self->fd, self->last, FILL, &q);
	EXPECT_TRUE(ret == 0 || ret == -ENETDOWN) TH_LOG("answer %d", ret);
	EXPECT_EQ(0, sh("ip link set %s up", nic));
	EXPECT_EQ(0, sh("ip -6 address replace \"$NETGPU_ADDR6/64\" dev %s nodad", nic));
	if (ret)
		EXPECT_OPENS(self);
	else
		EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
}

/* The fill ring's mapping. */

TEST_F(queue, mapping)
{
	size_t page = sysconf(_SC_PAGESIZE), len;
	struct netgpu_open_queue q;
	struct netgpu_ring *ring;
	int rw = PROT_READ | PROT_WRITE, status;
	pid_t child;

	ASSERT_EQ(0, ng_open_queue(self->fd, self->last, FILL, &q));
	len = q.mmap_len;
	EXPECT_EQ(0U, len % page);
	EXPECT_EQ(MAP_FAILED, mmap(NULL, len + page, rw, MAP_SHARED, self->fd, q.mmap_offset));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, 1UL << 40, rw, MAP_SHARED, self->fd, q.mmap_offset));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, len, rw, MAP_SHARED, self->fd, q.mmap_offset + (1LL << 46)));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, len, rw, MAP_SHARED, self->fd, q.mmap_offset + page));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, len, rw, MAP_PRIVATE, self->fd, q.mmap_offset));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, len, rw | PROT_EXEC, MAP_SHARED, self->fd, q.mmap_offset));
	ring = mmap(NULL, len, rw, MAP_SHARED, self->fd, q.mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)ring);
	EXPECT_EQ(0U, ring->producer);
	EXPECT_EQ(0U, ring->consumer);
	EXPECT_EQ(-1, mprotect(ring, len, PROT_READ | PROT_EXEC));
	EXPECT_EQ(MAP_FAILED, mremap(ring, len, len + page, MREMAP_MAYMOVE));
	/* Not for children: they would be a second producer. */
	child = fork();
	if (!child) {
		unsigned char vec[1];

		_exit(mincore(ring, page, vec) == -1 && errno == ENOMEM ? 0 : 1);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	/* The mapping stays when queue and context are gone, and leads nowhere. */
	EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
	((volatile struct netgpu_ring *)ring)->producer = 7;
	EXPECT_EQ(MAP_FAILED, mmap(NULL, len, rw, MAP_SHARED, self->fd, q.mmap_offset));
	close(self->fd);
	self->fd = -1;
	((volatile struct netgpu_ring *)ring)->producer = 9;
	EXPECT_EQ(9U, ((volatile struct netgpu_ring *)ring)->producer);
	EXPECT_EQ(0, munmap(ring, len));
}

/* Halves of a mapping: the ring is one thing, but taking part of it away must be harmless. */
TEST_F(queue, mapping_in_pieces)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct netgpu_open_queue q;
	char *ring;

	ASSERT_EQ(0, ng_open_queue(self->fd, self->last, 4096, &q));
	ring = mmap(NULL, q.mmap_len, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, q.mmap_offset);
	ASSERT_NE(MAP_FAILED, (void *)ring);
	ASSERT_LT(2 * page, q.mmap_len);
	EXPECT_EQ(0, munmap(ring + page, page));
	ring[0] = 1;
	ring[2 * page] = 1;
	EXPECT_EQ(0, munmap(ring, q.mmap_len));
	EXPECT_EQ(0, ng_close_queue(self->fd, q.id));
}

TEST_HARNESS_MAIN
