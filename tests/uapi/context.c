// SPDX-License-Identifier: MIT OR Apache-2.0
/* Contexts: binding to a network device and attaching regions. Needs the ports. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

FIXTURE(context)
{
	int fd;
	int area;
	size_t unit;
	char *mem;
	unsigned int region;
	long long pinned;
};

FIXTURE_SETUP(context)
{
	int ret;

	self->unit = buffer_size();
	self->pinned = pinned_pages();
	self->fd = ng_open();
	self->area = ng_open();
	ASSERT_LE(0, self->fd);
	ASSERT_LE(0, self->area);
	self->mem = memory(16 * self->unit);
	ret = ng_add_region(self->area, self->mem, 16 * self->unit);
	ASSERT_EQ(1, ret);
	self->region = ret;
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
}

FIXTURE_TEARDOWN(context)
{
	long long pinned = self->pinned;

	close(self->fd);
	close(self->area);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == pinned, 5000))
		TH_LOG("pinned pages: %lld before, %lld after", pinned, pinned_pages());
}

/* Binding. */

TEST_F(context, has_one_role)
{
	struct netgpu_info info;

	EXPECT_EQ(-EBADFD, ng_bind(self->fd, nic_index()));
	EXPECT_EQ(-EBADFD, ng_bind(self->fd, 9999));
	EXPECT_EQ(-EBADFD, ng_add_region(self->fd, memory(self->unit), self->unit));
	EXPECT_EQ(-EBADFD, ng_bind(self->area, nic_index()));
	EXPECT_EQ(0, ng_info(self->fd, &info));
}

TEST_F(context, several_on_one_device)
{
	int i, fds[16];

	for (i = 0; i < 16; i++) {
		fds[i] = ng_open();
		EXPECT_EQ(0, ng_bind(fds[i], nic_index()));
		EXPECT_EQ(0, ng_attach_region(fds[i], self->area, 1));
	}
	for (i = 0; i < 16; i++)
		close(fds[i]);
}

TEST_F(context, unknown_commands_stay_unknown)
{
	char arg[64] = {};

	EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IO(NETGPU_IOC_MAGIC, 0x20), arg));
	EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IOW(NETGPU_IOC_MAGIC, 0x03, char[16]), arg));
}

TEST(bind_a_device_without_dma)
{
	static const char * const kinds[] = { "dummy", "veth" };
	size_t i, len = buffer_size();

	for (i = 0; i < ARRAY_LEN(kinds); i++) {
		int fd = ng_open();

		ASSERT_EQ(0, sh("ip link add ngtest0 type %s", kinds[i]));
		EXPECT_EQ(-EOPNOTSUPP, ng_bind(fd, if_nametoindex("ngtest0"))) TH_LOG("%s", kinds[i]);
		EXPECT_EQ(0, sh("ip link del ngtest0"));
		/* No role was taken. */
		EXPECT_EQ(1, ng_add_region(fd, memory(len), len));
		close(fd);
	}
}

TEST(bind_sees_only_its_network_namespace)
{
	unsigned int ifindex = nic_index();
	int fd = ng_open(), status;
	pid_t child = fork();

	if (!child) {
		if (unshare(CLONE_NEWNET))
			_exit(2);
		_exit(ng_bind(fd, ifindex) == -ENODEV ? 0 : 1);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, ng_bind(fd, ifindex));
	close(fd);
}

TEST(bind_bad_pointers)
{
	size_t page = sysconf(_SC_PAGESIZE);
	int fd = ng_open();

	EXPECT_EQ(-EFAULT, ng_ioctl(fd, NETGPU_IOC_BIND, NULL));
	EXPECT_EQ(-EFAULT, ng_ioctl(fd, NETGPU_IOC_BIND, hole(page)));
	EXPECT_EQ(0, ng_bind(fd, nic_index()));
	close(fd);
}

/* Attaching regions. */

TEST_F(context, attach)
{
	EXPECT_EQ(0, ng_attach_region(self->fd, self->area, self->region));
	EXPECT_EQ(-EEXIST, ng_attach_region(self->fd, self->area, self->region));
}

/* Sizes of buffers. */

#define LARGE	(1UL << 16)

TEST_F(context, tells_the_size_of_its_buffers)
{
	struct netgpu_context_stats stats;
	size_t size;

	ASSERT_EQ(0, ng_context_stats(self->fd, &stats));
	EXPECT_EQ(self->unit, stats.buffer_size);
	for (size = self->unit; size <= 1 << 17; size *= 2) {
		int fd = ng_open();

		ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), size));
		EXPECT_EQ(0, ng_context_stats(fd, &stats));
		EXPECT_EQ(size, stats.buffer_size);
		close(fd);
	}
}

/* Regions are multiples of a page, and of a buffer only where they are attached. */
TEST_F(context, attach_in_larger_buffers)
{
	static const struct {
		size_t start;
		size_t end;
	} bad[] = {
		{ 0x1000, LARGE }, { 0, LARGE - 0x1000 }, { LARGE / 2, LARGE }, { LARGE / 2, LARGE + LARGE / 2 },
		{ LARGE, 2 * LARGE + 0x1000 },
	}, good[] = { { 0, LARGE }, { 0, HUGE }, { HUGE - LARGE, HUGE + LARGE }, };
	struct netgpu_region_stats region;
	struct netgpu_context_stats stats;
	int fd = ng_open(), area;
	char *mem;
	size_t i;

	if (!huge_pages(2))
		SKIP(return, "no huge pages");
	mem = huge_memory(2 * HUGE);
	ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), LARGE));
	for (i = 0; i < ARRAY_LEN(bad); i++) {
		area = ng_open();
		ASSERT_EQ(1, ng_add_region(area, mem + bad[i].start, bad[i].end - bad[i].start));
		EXPECT_EQ(-EINVAL, ng_attach_region(fd, area, 1)) TH_LOG("from %#zx to %#zx", bad[i].start, bad[i].end);
		/* For another context it is well. */
		EXPECT_EQ(0, ng_attach_region(self->fd, area, 1));
		close(area);
		close(self->fd);
		self->fd = ng_open();
		ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	}
	ASSERT_EQ(0, ng_context_stats(fd, &stats));
	EXPECT_EQ(0U, stats.regions);
	for (i = 0; i < ARRAY_LEN(good); i++) {
		area = ng_open();
		ASSERT_EQ(1, ng_add_region(area, mem + good[i].start, good[i].end - good[i].start));
		EXPECT_EQ(0, ng_attach_region(fd, area, 1)) TH_LOG("from %#zx to %#zx", good[i].start, good[i].end);
		EXPECT_EQ(0, ng_region_stats(fd, mem + good[i].end - 1, &region));
		EXPECT_EQ((uintptr_t)mem + good[i].start, region.addr);
		EXPECT_EQ(good[i].end - good[i].start, region.len);
		close(area);
		close(fd);
		fd = ng_open();
		ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), LARGE));
	}
	close(fd);
	munmap(mem, 2 * HUGE);
	huge_pages(0);
}

/* One page behind the other is not one piece, whatever pages they are: these are the same. */
TEST_F(context, attach_in_pieces_smaller_than_buffers)
{
	int fd = ng_open(), area = ng_open(), memfd = memfd_create("page", MFD_CLOEXEC);
	char *mem = (char *)(((uintptr_t)hole(2 * LARGE) + LARGE - 1) & ~(LARGE - 1));
	struct netgpu_context_stats stats;
	size_t i;

	ASSERT_EQ(0, ftruncate(memfd, self->unit));
	for (i = 0; i < LARGE; i += self->unit)
		ASSERT_EQ(mem + i, mmap(mem + i, self->unit, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0));
	ASSERT_EQ(1, ng_add_region(area, mem, LARGE));
	ASSERT_EQ(0, ng_bind_buffers(fd, nic_index(), LARGE));
	EXPECT_EQ(-EIO, ng_attach_region(fd, area, 1));
	EXPECT_EQ(-EIO, ng_attach_region(fd, area, 1));
	EXPECT_EQ(0, ng_context_stats(fd, &stats));
	EXPECT_EQ(0U, stats.regions);
	EXPECT_EQ(0, ng_attach_region(self->fd, area, 1));
	close(fd);
	close(area);
	close(memfd);
	munmap(mem, LARGE);
}

TEST_F(context, attach_no_such_region)
{
	EXPECT_EQ(-ENOENT, ng_attach_region(self->fd, self->area, 0));
	EXPECT_EQ(-ENOENT, ng_attach_region(self->fd, self->area, 2));
	EXPECT_EQ(-ENOENT, ng_attach_region(self->fd, self->area, 0x7fffffff));
	EXPECT_EQ(-ENOENT, ng_attach_region(self->fd, self->area, 0xffffffff));
	EXPECT_EQ(0, ng_attach_region(self->fd, self->area, 1));
}

TEST_F(context, attach_what_is_no_area)
{
	int pipes[2], closed = dup(self->area), fds[9], other = ng_open();
	size_t i;

	close(closed);
	ASSERT_EQ(0, pipe(pipes));
	fds[0] = open("/proc/self/exe", O_RDONLY);
	fds[1] = open("/dev/null", O_RDWR);
	fds[2] = open("/dev/fuse", O_RDWR);
	fds[3] = socket(AF_INET, SOCK_STREAM, 0);
	fds[4] = epoll_create1(0);
	fds[5] = eventfd(0, 0);
	fds[6] = memfd_create("x", 0);
	fds[7] = pipes[0];
	fds[8] = open("/tmp", O_PATH);
	for (i = 0; i < ARRAY_LEN(fds); i++)
		EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, fds[i], 1)) TH_LOG("descriptor kind %zu", i);
	EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, closed, 1));
	EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, -1, 1));
	EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, INT_MAX, 1));
	EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, INT_MIN, 1));
	/* Of this device, and yet no area: without role, a context, this very context. */
	EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, other, 1));
	ASSERT_EQ(0, ng_bind(other, nic_index()));
	EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, other, 1));
	EXPECT_EQ(-EBADFD, ng_attach_region(self->fd, self->fd, 1));
	EXPECT_EQ(0, ng_attach_region(self->fd, self->area, 1));
}

TEST_F(context, attach_overlapping)
{
	size_t unit = self->unit;
	int other = ng_open(), third = ng_open();

	/* Two areas may hold the same memory; one context takes each address once. */
	ASSERT_EQ(1, ng_add_region(other, self->mem + 8 * unit, 4 * unit));
	ASSERT_EQ(2, ng_add_region(other, memory(unit), unit));
	ASSERT_EQ(0, ng_attach_region(self->fd, self->area, 1));
	EXPECT_EQ(-EEXIST, ng_attach_region(self->fd, other, 1));
	EXPECT_EQ(0, ng_attach_region(self->fd, other, 2));
	ASSERT_EQ(0, ng_bind(third, nic_index()));
	EXPECT_EQ(0, ng_attach_region(third, other, 1));
	EXPECT_EQ(-EEXIST, ng_attach_region(third, self->area, 1));
	close(third);
	close(other);
}

TEST_F(context, attach_reserved)
{
	struct netgpu_attach_region good = { .area_fd = self->area, .index = 1 }, bad;
	size_t i;

	for (i = 0; i < 32; i++) {
		bad = good;
		bad.flags = 1U << i;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_REGION, &bad)) TH_LOG("flags bit %zu", i);
		bad = good;
		bad.reserved = 1U << i;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_REGION, &bad)) TH_LOG("reserved bit %zu", i);
	}
	for (i = 0; i < sizeof(bad.reserved2); i++) {
		bad = good;
		((char *)bad.reserved2)[i] = 1;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_REGION, &bad)) TH_LOG("reserved2 byte %zu", i);
	}
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_REGION, NULL));
	EXPECT_EQ(0, ng_ioctl(self->fd, NETGPU_IOC_ATTACH_REGION, &good));
}

TEST_F(context, attach_as_many_as_fit)
{
	unsigned int n, most = 1 << 16;
	size_t unit = self->unit;
	char *p = mmap(NULL, most * unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int ret = 0, area = -1;

	/* Of as many areas as it takes. */
	ASSERT_NE(MAP_FAILED, (void *)p);
	for (n = 0; n < most && !ret; n++) {
		int index = area < 0 ? -ENOSPC : ng_add_region(area, p + n * unit, unit);

		/* The context keeps what is attached. */
		if (index == -ENOSPC) {
			close(area);
			area = ng_open();
			ASSERT_LE(0, area);
			index = ng_add_region(area, p + n * unit, unit);
		}
		ASSERT_LT(0, index);
		ret = ng_attach_region(self->fd, area, index);
	}
	EXPECT_EQ(-ENOSPC, ret) TH_LOG("after %u regions", n - 1);
	EXPECT_LE(16U, n);
	close(area);
}

/* The context keeps what it uses: the area's file and the mapping may go first. */
TEST_F(context, keeps_a_region_alive)
{
	long long pages = 16 * self->unit / sysconf(_SC_PAGESIZE);
	int area = self->area;

	ASSERT_EQ(0, ng_attach_region(self->fd, area, 1));
	close(area);
	self->area = -1;
	ASSERT_EQ(0, munmap(self->mem, 16 * self->unit));
	/* Let what is freed late be freed. */
	usleep(100000);
	EXPECT_EQ(self->pinned + pages, pinned_pages());
}

TEST_F(context, goes_before_the_area)
{
	ASSERT_EQ(0, ng_attach_region(self->fd, self->area, 1));
	close(self->fd);
	self->fd = ng_open();
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	EXPECT_EQ(0, ng_attach_region(self->fd, self->area, 1));
}

/* One thread attaches while others do the same, or close the area: one answer each, and nothing is lost. */
struct racer {
	int fd;
	int area;
	int ret;
};

static void *race_attach(void *arg)
{
	struct racer *r = arg;

	r->ret = ng_attach_region(r->fd, r->area, 1);
	return NULL;
}

TEST_F(context, attaching_races)
{
	int round;

	for (round = 0; round < 50; round++) {
		int fd = ng_open();
		struct racer r[2] = { { fd, self->area, 0 }, { fd, self->area, 0 } };
		pthread_t other;

		ASSERT_EQ(0, ng_bind(fd, nic_index()));
		ASSERT_EQ(0, pthread_create(&other, NULL, race_attach, &r[0]));
		race_attach(&r[1]);
		ASSERT_EQ(0, pthread_join(other, NULL));
		ASSERT_EQ(-EEXIST, r[0].ret + r[1].ret) TH_LOG("answers %d and %d", r[0].ret, r[1].ret);
		close(fd);
	}
}

/* Numbers that nothing has. */
TEST_F(context, unknown_ids)
{
	static const unsigned int ids[] = { 0, 1, 2, 63, 64, 0x7fffffff, 0x80000000, 0xffffffff };
	struct netgpu_socket_stats socket_stats;
	struct netgpu_queue_stats queue_stats;
	size_t i;

	for (i = 0; i < ARRAY_LEN(ids); i++) {
		EXPECT_EQ(-ENOENT, ng_close_queue(self->fd, ids[i])) TH_LOG("id %u", ids[i]);
		EXPECT_EQ(-ENOENT, ng_detach_socket(self->fd, ids[i])) TH_LOG("id %u", ids[i]);
		EXPECT_EQ(-ENOENT, ng_queue_stats(self->fd, ids[i], &queue_stats)) TH_LOG("id %u", ids[i]);
		EXPECT_EQ(-ENOENT, ng_socket_stats(self->fd, ids[i], &socket_stats)) TH_LOG("id %u", ids[i]);
	}
}

TEST_F(context, mapping_nothing)
{
	static const long long offsets[] = { 0, 1LL << 12, 1LL << 20, 1LL << 31, 1LL << 32, 1LL << 40, 1LL << 52, 1LL << 62 };
	size_t page = sysconf(_SC_PAGESIZE), i;

	for (i = 0; i < ARRAY_LEN(offsets); i++) {
		EXPECT_EQ(MAP_FAILED, mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, offsets[i]));
		EXPECT_EQ(EINVAL, errno) TH_LOG("offset %#llx", offsets[i]);
	}
}

TEST_HARNESS_MAIN
