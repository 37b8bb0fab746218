// SPDX-License-Identifier: MIT OR Apache-2.0
/* Memory areas: what can be a region, what cannot, and what is charged for it. Needs no network device. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <linux/fuse.h>
#include <linux/mman.h>
#include <signal.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

FIXTURE(region)
{
	int fd;
	size_t unit;
	long long pinned;
};

FIXTURE_SETUP(region)
{
	self->fd = ng_open();
	ASSERT_LE(0, self->fd);
	self->unit = buffer_size();
	self->pinned = pinned_pages();
}

FIXTURE_TEARDOWN(region)
{
	long long pinned = self->pinned;

	close(self->fd);
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == pinned, 5000))
		TH_LOG("pinned pages: %lld before, %lld after", pinned, pinned_pages());
}

/* Kinds of memory. */

static void *of_malloc(size_t len)
{
	return aligned_alloc(sysconf(_SC_PAGESIZE), len);
}

static void *of_mmap(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void *of_shared(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static void *of_memfd_flags(size_t len, unsigned int flags)
{
	int fd = memfd_create("region", MFD_CLOEXEC | flags);
	void *p;

	if (fd < 0 || ftruncate(fd, len))
		return MAP_FAILED;
	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return p;
}

static void *of_memfd(size_t len)
{
	return of_memfd_flags(len, 0);
}

static void *of_memfd_huge(size_t len)
{
	return of_memfd_flags(len, MFD_HUGETLB);
}

static void *of_huge(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
}

static void *of_transparent_huge(size_t len)
{
	char *p = mmap(NULL, len + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p = (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
	madvise(p, len, MADV_HUGEPAGE);
	return p;
}

static void *of_sysv(size_t len)
{
	int id = shmget(IPC_PRIVATE, len, IPC_CREAT | 0600);
	void *p = shmat(id, NULL, 0);

	shmctl(id, IPC_RMID, NULL);
	return p;
}

static void *of_private_file(size_t len)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);

	close(fd);
	return p;
}

FIXTURE(kind)
{
	int fd;
	long long pinned;
};

FIXTURE_VARIANT(kind)
{
	void *(*make)(size_t len);
	size_t len;
	bool huge;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(kind, malloc)		{ of_malloc, 1 << 20, false };
FIXTURE_VARIANT_ADD(kind, mmap)			{ of_mmap, 1 << 20, false };
FIXTURE_VARIANT_ADD(kind, shared)		{ of_shared, 1 << 20, false };
FIXTURE_VARIANT_ADD(kind, memfd)		{ of_memfd, 1 << 20, false };
FIXTURE_VARIANT_ADD(kind, sysv)			{ of_sysv, 1 << 20, false };
FIXTURE_VARIANT_ADD(kind, private_file)		{ of_private_file, 1 << 16, false };
FIXTURE_VARIANT_ADD(kind, transparent_huge)	{ of_transparent_huge, 2 * HUGE, false };
FIXTURE_VARIANT_ADD(kind, huge)			{ of_huge, 2 * HUGE, true };
FIXTURE_VARIANT_ADD(kind, memfd_huge)		{ of_memfd_huge, 2 * HUGE, true };
/* clang-format on */

FIXTURE_SETUP(kind)
{
	self->fd = ng_open();
	ASSERT_LE(0, self->fd);
	self->pinned = pinned_pages();
	if (variant->huge && !huge_pages(4))
		SKIP(return, "no huge pages to be had");
}

FIXTURE_TEARDOWN(kind)
{
	huge_pages(0);
}

TEST_F(kind, pins_and_lets_go)
{
	size_t page = sysconf(_SC_PAGESIZE);
	void *p = variant->make(variant->len);

	ASSERT_NE(MAP_FAILED, p);
	ASSERT_NE(NULL, p);
	ASSERT_EQ(1, ng_add_region(self->fd, p, variant->len));
	EXPECT_EQ(self->pinned + (long long)(variant->len / page), pinned_pages());
	EXPECT_EQ(0, close(self->fd));
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 5000))
		TH_LOG("pinned pages: %lld before, %lld after", self->pinned, pinned_pages());
}

/* Not a whole huge page, and not from its start. */
TEST_F(kind, part_of_it)
{
	size_t unit = buffer_size();
	char *p = variant->make(variant->len);

	ASSERT_NE(MAP_FAILED, (void *)p);
	EXPECT_EQ(1, ng_add_region(self->fd, p + unit, 2 * unit));
	EXPECT_EQ(2, ng_add_region(self->fd, p + 3 * unit, unit));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p + 2 * unit, 2 * unit));
	EXPECT_EQ(0, close(self->fd));
	EXPECT_TRUE(WAIT_FOR(pinned_pages() == self->pinned, 5000));
}

/* Bad spans. */

TEST_F(region, zero_and_unaligned)
{
	char *p = memory(4 * self->unit);

	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, NULL, self->unit));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, 0));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, NULL, 0));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p + 1, self->unit));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p + self->unit / 2, self->unit));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, 1));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, self->unit - 1));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, self->unit + 1));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, self->unit + self->unit / 2));
	EXPECT_EQ(self->pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, p, 4 * self->unit));
}

TEST_F(region, overflowing)
{
	char *p = memory(self->unit);
	uint64_t top = -(uint64_t)self->unit;

	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, top));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, -(uintptr_t)p));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, p, -(uintptr_t)p + self->unit));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, (void *)top, self->unit));
	EXPECT_EQ(-EINVAL, ng_add_region(self->fd, (void *)top, 2 * self->unit));
	EXPECT_EQ(self->pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, p, self->unit));
}

/* Larger than any machine; the answer may name the memory or the address, but must come, and soon. */
TEST_F(region, huge_sizes)
{
	char *p = memory(self->unit);
	unsigned int shift;

	for (shift = 36; shift < 63; shift++) {
		int ret = ng_add_region(self->fd, p, 1ULL << shift);

		EXPECT_TRUE(ret == -EFAULT || ret == -ENOMEM) TH_LOG("2^%u bytes: %d", shift, ret);
	}
	EXPECT_EQ(self->pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, p, self->unit));
}

TEST_F(region, not_mapped)
{
	size_t unit = self->unit;
	char *p = memory(8 * unit);

	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, hole(unit), unit));
	/* Kernel addresses, the first that user space does not own, and one that no hardware knows. */
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, (void *)0xffff888000000000, unit));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, (void *)0x0000800000000000, unit));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, (void *)0x00fffffffffff000, unit));
	/* A gap at the start, in the middle, at the end. */
	ASSERT_EQ(0, munmap(p + 3 * unit, unit));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p + 3 * unit, 2 * unit));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p, 8 * unit));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p, 4 * unit));
	EXPECT_EQ(self->pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, p, 3 * unit));
	EXPECT_EQ(2, ng_add_region(self->fd, p + 4 * unit, 4 * unit));
}

TEST_F(region, not_writable)
{
	size_t unit = self->unit;
	char *p = memory(8 * unit);
	int fd = memfd_create("sealed", MFD_CLOEXEC);
	void *shared;

	ASSERT_EQ(0, mprotect(p, unit, PROT_READ));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p, unit));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p, 8 * unit));
	ASSERT_EQ(0, mprotect(p, unit, PROT_NONE));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p, unit));
	ASSERT_EQ(0, mprotect(p + 7 * unit, unit, PROT_READ));
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p + unit, 7 * unit));
	/* Shared memory that this process may only read. */
	ASSERT_EQ(0, ftruncate(fd, unit));
	shared = mmap(NULL, unit, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, shared);
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, shared, unit));
	EXPECT_EQ(self->pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, p + unit, 6 * unit));
}

/* Past the end of its file, memory is mapped and is not there. */
TEST_F(region, past_the_end_of_a_memfd)
{
	size_t unit = self->unit;
	int fd = memfd_create("short", MFD_CLOEXEC);
	char *p;

	ASSERT_EQ(0, ftruncate(fd, unit));
	p = mmap(NULL, 2 * unit, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, (void *)p);
	EXPECT_EQ(-EFAULT, ng_add_region(self->fd, p, 2 * unit));
	EXPECT_EQ(self->pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, p, unit));
}

/* The device's own mappings and other memory without pages behind it. */
TEST_F(region, kernel_owned_pages)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[512];
	unsigned long start;

	ASSERT_NE(NULL, maps);
	while (fgets(line, sizeof(line), maps)) {
		if ((strstr(line, "[vvar]") || strstr(line, "[vdso]")) && sscanf(line, "%lx-", &start) == 1)
			EXPECT_EQ(-EFAULT, ng_add_region(self->fd, (void *)start, self->unit)) TH_LOG("%s", line);
	}
	fclose(maps);
}

TEST_F(region, overlapping)
{
	size_t unit = self->unit;
	char *p = memory(16 * unit);
	int other = ng_open();

	ASSERT_EQ(1, ng_add_region(self->fd, p + 4 * unit, 4 * unit));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p + 4 * unit, 4 * unit));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p + 3 * unit, 2 * unit));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p + 7 * unit, 2 * unit));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p + 5 * unit, 1 * unit));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p, 16 * unit));
	EXPECT_EQ(self->pinned + 4 * (long long)(unit / sysconf(_SC_PAGESIZE)), pinned_pages());
	/* Neighbours touch and do not overlap. */
	EXPECT_EQ(2, ng_add_region(self->fd, p + 8 * unit, 4 * unit));
	EXPECT_EQ(3, ng_add_region(self->fd, p, 4 * unit));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p + 11 * unit, 2 * unit));
	/* Another area does not mind. */
	EXPECT_EQ(1, ng_add_region(other, p, 16 * unit));
	close(other);
}

TEST_F(region, unknown_types)
{
	static const uint32_t types[] = { 1, 2, 31, 32, 63, 64, 0x80000000, 0xffffffff };
	struct netgpu_add_region r;
	void *p = memory(self->unit);
	struct netgpu_info info;
	size_t i;

	ASSERT_EQ(0, ng_info(self->fd, &info));
	for (i = 0; i < ARRAY_LEN(types); i++) {
		if (types[i] < 64 && (info.region_types & (1ULL << types[i])))
			continue;
		r = (struct netgpu_add_region){ .addr = (uintptr_t)p, .len = self->unit, .type = types[i] };
		EXPECT_EQ(-EOPNOTSUPP, ng_ioctl(self->fd, NETGPU_IOC_ADD_REGION, &r)) TH_LOG("type %u", types[i]);
	}
	EXPECT_EQ(1, ng_add_region(self->fd, p, self->unit));
}

TEST_F(region, as_many_as_fit)
{
	unsigned int most = 1 << 16, n;
	size_t unit = self->unit;
	char *p = mmap(NULL, most * unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int ret = 0;

	ASSERT_NE(MAP_FAILED, (void *)p);
	for (n = 0; n < most && ret >= 0; n++)
		ret = ng_add_region(self->fd, p + n * unit, unit);
	EXPECT_EQ(-ENOSPC, ret) TH_LOG("after %u regions", n - 1);
	EXPECT_LE(16U, n);
	/* Full is full, and says so again. */
	EXPECT_EQ(-ENOSPC, ng_add_region(self->fd, p + n * unit, unit));
}

/* Lifetime. */

TEST_F(region, outlives_its_mapping)
{
	void *p = memory(4 * self->unit);
	long long pages = 4 * self->unit / sysconf(_SC_PAGESIZE);

	ASSERT_EQ(1, ng_add_region(self->fd, p, 4 * self->unit));
	ASSERT_EQ(0, munmap(p, 4 * self->unit));
	EXPECT_EQ(self->pinned + pages, pinned_pages());
	/* The addresses are the area's: what is mapped there later is other memory. */
	ASSERT_EQ(p, mmap(p, self->unit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p, self->unit));
}

TEST_F(region, lives_until_the_last_descriptor)
{
	void *p = memory(self->unit);
	int copy = dup(self->fd), status;
	pid_t child;

	ASSERT_EQ(1, ng_add_region(self->fd, p, self->unit));
	child = fork();
	if (!child) {
		/* Inherited: the same area. It goes on when this process ends. */
		_exit(ng_add_region(self->fd, p, self->unit) == -EEXIST ? 0 : 1);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	close(copy);
	EXPECT_LT(self->pinned, pinned_pages());
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, p, self->unit));
}

/* Memory of a process that is gone stays pinned for the area that another process holds. */
TEST_F(region, added_by_a_child)
{
	long long pages = 4 * self->unit / sysconf(_SC_PAGESIZE);
	char *mem = memory(5 * self->unit);
	pid_t child = fork();
	int status;

	if (!child) {
		if (become_nobody())
			_exit(1);
		_exit(ng_add_region(self->fd, mem, 4 * self->unit) == 1 ? 0 : 2);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(self->pinned + pages, pinned_pages());
	/* An area has one set of addresses, whose process it was does not matter. */
	EXPECT_EQ(-EEXIST, ng_add_region(self->fd, mem, self->unit));
	EXPECT_EQ(2, ng_add_region(self->fd, mem + 4 * self->unit, self->unit));
}

TEST_F(region, passed_over_a_socket)
{
	char byte = 0;
	int pair[2], area = ng_open();
	void *p = memory(self->unit);

	ASSERT_EQ(0, socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	ASSERT_EQ(1, ng_add_region(area, p, self->unit));
	ASSERT_TRUE(send_fds(pair[0], &byte, 1, &area, 1));
	close(area);
	/* On its way only. */
	EXPECT_LT(self->pinned, pinned_pages());
	ASSERT_TRUE(receive_fds(pair[1], &byte, 1, &area, 1));
	EXPECT_EQ(-EEXIST, ng_add_region(area, p, self->unit));
	close(area);
	close(pair[0]);
	close(pair[1]);
}

/*
 * Files on a disk, as a FUSE file that this program serves itself: like those of any file system that writes pages back,
 * a shared mapping of it must not be pinned for long.
 */
static void fuse_serve(int fd)
{
	static char in[FUSE_MIN_READ_BUFFER + (1 << 17)];

	for (;;) {
		struct {
			struct fuse_out_header head;
			union {
				struct fuse_init_out init;
				struct fuse_attr_out attr;
				struct fuse_open_out open;
				char data[1 << 16];
			};
		} out = {};
		struct fuse_in_header *head = (void *)in;
		ssize_t n = read(fd, in, sizeof(in));
		size_t body = 0;

		if (n < 0 && (errno == EINTR || errno == ENOENT))
			continue;
		if (n < (ssize_t)sizeof(*head))
			return;
		switch (head->opcode) {
		case FUSE_INIT:
			out.init = (struct fuse_init_out){ .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
							   .max_write = 1 << 16 };
			body = sizeof(out.init);
			break;
		case FUSE_GETATTR:
		case FUSE_SETATTR:
			out.attr.attr = (struct fuse_attr){ .ino = 1, .size = 1 << 16, .mode = S_IFREG | 0600, .nlink = 1,
							    .blksize = 4096 };
			body = sizeof(out.attr);
			break;
		case FUSE_OPEN:
			body = sizeof(out.open);
			break;
		case FUSE_READ:
			body = ((struct fuse_read_in *)(head + 1))->size;
			break;
		case FUSE_FORGET:
			continue;
		default:
			out.head.error = -ENOSYS;
		}
		out.head.unique = head->unique;
		out.head.len = sizeof(out.head) + body;
		if (write(fd, &out, out.head.len) < 0 && errno != ENOENT)
			return;
	}
}

TEST_F(region, file_on_a_disk)
{
	char path[] = "/tmp/netgpu-file-XXXXXX", options[128];
	int mount_point = mkstemp(path), dev = open("/dev/fuse", O_RDWR | O_CLOEXEC), file;
	struct stat st;
	pid_t server;
	char *p;

	ASSERT_LE(0, mount_point);
	if (dev < 0)
		SKIP(return, "/dev/fuse: %s", strerror(errno));
	snprintf(options, sizeof(options), "fd=%d,rootmode=100600,user_id=0,group_id=0", dev);
	ASSERT_EQ(0, mount("netgpu-test", path, "fuse", MS_NOSUID | MS_NODEV, options));
	/* A process of its own: its end frees whoever waits for an answer. */
	server = fork();
	if (!server) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fuse_serve(dev);
		_exit(0);
	}
	close(dev);
	file = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_LE(0, file);
	/* Has the size fetched, too. */
	ASSERT_EQ(0, fstat(file, &st));
	p = mmap(NULL, self->unit, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	ASSERT_NE(MAP_FAILED, (void *)p);
	/* It is there and can be written; but not pinned. */
	p[0] = 1;
	EXPECT_EQ(-EOPNOTSUPP, ng_add_region(self->fd, p, self->unit));
	EXPECT_EQ(self->pinned, pinned_pages());
	EXPECT_EQ(1, ng_add_region(self->fd, memory(self->unit), self->unit));
	munmap(p, self->unit);
	close(file);
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
	umount2(path, MNT_DETACH);
	unlink(path);
}

TEST_HARNESS_MAIN
