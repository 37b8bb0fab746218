// SPDX-License-Identifier: MIT OR Apache-2.0
/* /dev/netgpu itself: commands, roles, pointers, reserved fields. Needs no network device. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <pthread.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* Every command, with its argument's size and whether the kernel writes it. */
static const struct command {
	const char *name;
	unsigned long cmd;
	bool of_context;
} commands[] = {
	{ "INFO", NETGPU_IOC_INFO, false },
	{ "ADD_REGION", NETGPU_IOC_ADD_REGION, false },
	{ "BIND", NETGPU_IOC_BIND, false },
	{ "ATTACH_REGION", NETGPU_IOC_ATTACH_REGION, true },
	{ "OPEN_QUEUE", NETGPU_IOC_OPEN_QUEUE, true },
	{ "CLOSE_QUEUE", NETGPU_IOC_CLOSE_QUEUE, true },
	{ "ATTACH_SOCKET", NETGPU_IOC_ATTACH_SOCKET, true },
	{ "DETACH_SOCKET", NETGPU_IOC_DETACH_SOCKET, true },
	{ "QUEUE_STATS", NETGPU_IOC_QUEUE_STATS, true },
	{ "SOCKET_STATS", NETGPU_IOC_SOCKET_STATS, true },
};

FIXTURE(device)
{
	int fd;
};

FIXTURE_SETUP(device)
{
	self->fd = ng_open();
	ASSERT_LE(0, self->fd);
}

FIXTURE_TEARDOWN(device)
{
	EXPECT_EQ(0, close(self->fd));
}

TEST_F(device, is_a_misc_device)
{
	struct stat st;

	ASSERT_EQ(0, stat(NETGPU_PATH, &st));
	EXPECT_TRUE(S_ISCHR(st.st_mode));
	EXPECT_EQ(10U, major(st.st_rdev));
}

TEST_F(device, info)
{
	struct netgpu_info info;
	size_t i;

	memset(&info, 0xff, sizeof(info));
	ASSERT_EQ(0, ng_info(self->fd, &info));
	EXPECT_EQ(NETGPU_API_VERSION, info.version);
	EXPECT_LE((uint32_t)sysconf(_SC_PAGESIZE), info.buffer_size);
	EXPECT_EQ(0U, info.buffer_size & (info.buffer_size - 1));
	EXPECT_NE(0U, info.region_types & (1ULL << NETGPU_REGION_HOST));
	/* From the smallest on, up to 128 KiB. */
	EXPECT_EQ((2ULL << 17) - info.buffer_size, info.buffer_sizes);
	for (i = 0; i < ARRAY_LEN(info.reserved); i++)
		EXPECT_EQ(0U, info.reserved[i]);
}

TEST_F(device, info_leaves_the_role_open)
{
	struct netgpu_info info;
	size_t len = buffer_size();

	ASSERT_EQ(0, ng_info(self->fd, &info));
	ASSERT_EQ(1, ng_add_region(self->fd, memory(len), len));
	EXPECT_EQ(0, ng_info(self->fd, &info));
}

TEST_F(device, unknown_commands)
{
	static char arg[1 << 14];
	unsigned int nr, dir;
	size_t i;

	for (nr = 0; nr < 256; nr++) {
		for (dir = 0; dir < 4; dir++) {
			unsigned long cmd = _IOC(dir, NETGPU_IOC_MAGIC, nr, 8);
			bool known = false;

			for (i = 0; i < ARRAY_LEN(commands); i++)
				known |= commands[i].cmd == cmd;
			if (!known)
				EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, cmd, arg)) TH_LOG("command %#lx", cmd);
		}
	}
	for (i = 0; i < ARRAY_LEN(commands); i++) {
		unsigned long cmd = commands[i].cmd;
		unsigned int size = _IOC_SIZE(cmd);

		nr = _IOC_NR(cmd);
		dir = _IOC_DIR(cmd);
		/* Another size, direction or magic makes another command. */
		EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IOC(dir, NETGPU_IOC_MAGIC, nr, 0), arg)) TH_LOG("%s", commands[i].name);
		EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IOC(dir, NETGPU_IOC_MAGIC, nr, size - 8), arg)) TH_LOG("%s", commands[i].name);
		EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IOC(dir, NETGPU_IOC_MAGIC, nr, size + 8), arg)) TH_LOG("%s", commands[i].name);
		EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IOC(dir, NETGPU_IOC_MAGIC, nr, 0x3fff), arg)) TH_LOG("%s", commands[i].name);
		EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IOC(dir ^ _IOC_READ, NETGPU_IOC_MAGIC, nr, size), arg)) TH_LOG("%s", commands[i].name);
		EXPECT_EQ(-ENOTTY, ng_ioctl(self->fd, _IOC(dir, NETGPU_IOC_MAGIC ^ 1, nr, size), arg)) TH_LOG("%s", commands[i].name);
	}
	/* None of them took a role. */
	EXPECT_EQ(1, ng_add_region(self->fd, memory(buffer_size()), buffer_size()));
}

TEST_F(device, context_commands_without_role)
{
	size_t i;

	for (i = 0; i < ARRAY_LEN(commands); i++) {
		char arg[256] = {};

		if (commands[i].of_context)
			EXPECT_EQ(-EBADFD, ng_ioctl(self->fd, commands[i].cmd, arg)) TH_LOG("%s", commands[i].name);
	}
}

TEST_F(device, context_commands_on_an_area)
{
	size_t i, len = buffer_size();

	ASSERT_EQ(1, ng_add_region(self->fd, memory(len), len));
	for (i = 0; i < ARRAY_LEN(commands); i++) {
		char arg[256] = {};

		if (commands[i].of_context)
			EXPECT_EQ(-EBADFD, ng_ioctl(self->fd, commands[i].cmd, arg)) TH_LOG("%s", commands[i].name);
	}
	/* Loopback could not be bound anyhow; the role decides first. */
	EXPECT_EQ(-EBADFD, ng_bind(self->fd, 1));
	EXPECT_EQ(2, ng_add_region(self->fd, memory(len), len));
}

TEST_F(device, bad_pointers)
{
	size_t page = sysconf(_SC_PAGESIZE), i;
	char *pages = memory(2 * page);

	ASSERT_EQ(0, munmap(pages + page, page));
	for (i = 0; i < ARRAY_LEN(commands); i++) {
		unsigned long cmd = commands[i].cmd;

		if (commands[i].of_context)
			continue;
		EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, cmd, NULL)) TH_LOG("%s", commands[i].name);
		EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, cmd, hole(page))) TH_LOG("%s", commands[i].name);
		EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, cmd, (void *)~0xfffUL)) TH_LOG("%s", commands[i].name);
		/* The last byte is missing. */
		memset(pages, 0, page);
		EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, cmd, pages + page - _IOC_SIZE(cmd) + 1)) TH_LOG("%s", commands[i].name);
	}
	/* None of them took a role. */
	EXPECT_EQ(1, ng_add_region(self->fd, memory(buffer_size()), buffer_size()));
}

/* The result cannot be written: the region must not be there. */
TEST_F(device, read_only_argument_changes_nothing)
{
	size_t page = sysconf(_SC_PAGESIZE), len = buffer_size();
	struct netgpu_add_region *arg = memory(page);
	void *mem = memory(len);
	long long pinned = pinned_pages();

	*arg = (struct netgpu_add_region){ .addr = (uintptr_t)mem, .len = len };
	ASSERT_EQ(0, mprotect(arg, page, PROT_READ));
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_ADD_REGION, arg));
	EXPECT_EQ(-EFAULT, ng_ioctl(self->fd, NETGPU_IOC_INFO, arg));
	EXPECT_EQ(pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, mem, len));
}

TEST_F(device, reserved_fields_of_add_region)
{
	size_t len = buffer_size(), i;
	struct netgpu_add_region good = { .addr = (uintptr_t)memory(len), .len = len };
	struct netgpu_add_region bad;

	for (i = 0; i < 32; i++) {
		bad = good;
		bad.flags = 1U << i;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ADD_REGION, &bad)) TH_LOG("flags bit %zu", i);
		bad = good;
		bad.dmabuf_fd = 1U << i;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ADD_REGION, &bad)) TH_LOG("dmabuf_fd bit %zu", i);
		bad = good;
		bad.dmabuf_offset = len << i;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ADD_REGION, &bad)) TH_LOG("dmabuf_offset %zu", len << i);
	}
	for (i = 0; i < sizeof(bad.reserved); i++) {
		bad = good;
		((char *)bad.reserved)[i] = 0x10;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_ADD_REGION, &bad)) TH_LOG("reserved byte %zu", i);
	}
	/* What only comes out may hold anything on the way in; what is reserved comes out zero. */
	good.index = 0xdeadbeef;
	ASSERT_EQ(0, ng_ioctl(self->fd, NETGPU_IOC_ADD_REGION, &good));
	EXPECT_EQ(1U, good.index);
	for (i = 0; i < ARRAY_LEN(good.reserved); i++)
		EXPECT_EQ(0U, good.reserved[i]);
}

TEST_F(device, reserved_fields_of_bind)
{
	struct netgpu_bind bad;
	size_t i;

	for (i = 0; i < 32; i++) {
		bad = (struct netgpu_bind){ .ifindex = 1, .flags = 1U << i };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_BIND, &bad)) TH_LOG("flags bit %zu", i);
	}
	for (i = 0; i < 32; i++) {
		bad = (struct netgpu_bind){ .ifindex = 1, .reserved = 1U << i };
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_BIND, &bad)) TH_LOG("reserved bit %zu", i);
	}
	for (i = 0; i < sizeof(bad.reserved2); i++) {
		bad = (struct netgpu_bind){ .ifindex = 1 };
		((char *)bad.reserved2)[i] = 0x10;
		EXPECT_EQ(-EINVAL, ng_ioctl(self->fd, NETGPU_IOC_BIND, &bad)) TH_LOG("reserved2 byte %zu", i);
	}
	EXPECT_EQ(1, ng_add_region(self->fd, memory(buffer_size()), buffer_size()));
}

/* Loopback cannot be bound: what is asked for comes first. */
TEST_F(device, sizes_of_buffers)
{
	struct netgpu_info info;
	unsigned int i;

	ASSERT_EQ(0, ng_info(self->fd, &info));
	EXPECT_EQ(-EOPNOTSUPP, ng_bind_buffers(self->fd, 1, 0));
	for (i = 0; i < 32; i++) {
		unsigned int size = 1U << i;

		EXPECT_EQ(info.buffer_sizes & size ? -EOPNOTSUPP : -EINVAL, ng_bind_buffers(self->fd, 1, size)) TH_LOG("%u", size);
		/* Of two of them no buffers are made, nor of a byte more. */
		EXPECT_EQ(-EINVAL, ng_bind_buffers(self->fd, 1, size | size >> 1 | 1 << 11)) TH_LOG("%u", size);
		EXPECT_EQ(-EINVAL, ng_bind_buffers(self->fd, 1, size | 3)) TH_LOG("%u", size);
	}
	EXPECT_EQ(1, ng_add_region(self->fd, memory(buffer_size()), buffer_size()));
}

TEST_F(device, bind_without_device)
{
	EXPECT_EQ(-ENODEV, ng_bind(self->fd, 0));
	EXPECT_EQ(-ENODEV, ng_bind(self->fd, 9999));
	EXPECT_EQ(-ENODEV, ng_bind(self->fd, 0x7fffffff));
	EXPECT_EQ(-ENODEV, ng_bind(self->fd, 0xffffffff));
	/* Loopback has no DMA. */
	EXPECT_EQ(-EOPNOTSUPP, ng_bind(self->fd, 1));
	EXPECT_EQ(1, ng_add_region(self->fd, memory(buffer_size()), buffer_size()));
}

TEST_F(device, nothing_to_map_without_a_context)
{
	size_t page = sysconf(_SC_PAGESIZE), len = buffer_size();

	EXPECT_EQ(MAP_FAILED, mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, page, PROT_READ, MAP_PRIVATE, self->fd, 0));
	ASSERT_EQ(1, ng_add_region(self->fd, memory(len), len));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 0));
	EXPECT_EQ(MAP_FAILED, mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, self->fd, 1LL << 40));
}

/* Two threads race for the role of one file; it must end with exactly one. */
struct race {
	int fd;
	void *mem;
	size_t len;
	int ret;
};

static void *race_add(void *arg)
{
	struct race *r = arg;

	r->ret = ng_add_region(r->fd, r->mem, r->len);
	return NULL;
}

TEST(overlapping_adds_race)
{
	size_t len = buffer_size();
	void *mem = memory(len);
	int round;

	for (round = 0; round < 200; round++) {
		int fd = ng_open();
		struct race r[2] = { { fd, mem, len, 0 }, { fd, mem, len, 0 } };
		pthread_t other;

		ASSERT_LE(0, fd);
		ASSERT_EQ(0, pthread_create(&other, NULL, race_add, &r[0]));
		race_add(&r[1]);
		ASSERT_EQ(0, pthread_join(other, NULL));
		ASSERT_EQ(1 - EEXIST, r[0].ret + r[1].ret) TH_LOG("answers %d and %d", r[0].ret, r[1].ret);
		close(fd);
	}
}

TEST_HARNESS_MAIN
