// SPDX-License-Identifier: MIT OR Apache-2.0
/* Who may do what. /dev/netgpu belongs to group GROUP, see run.sh. Needs the ports. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <grp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define GROUP	1234
#define QUEUE	1

static int become(const gid_t *groups, size_t n)
{
	return setgroups(n, groups) || setresgid(NOBODY, NOBODY, NOBODY) || setresuid(NOBODY, NOBODY, NOBODY) ? -errno : 0;
}

static const gid_t group = GROUP;

TEST(strangers_may_nothing)
{
	ASSERT_EQ(0, become(NULL, 0));
	EXPECT_EQ(-EACCES, ng_open());
}

/* All but taking a queue, which changes what the device does with packets of others. */
TEST(members_of_the_group)
{
	size_t unit = buffer_size();
	char *mem = memory(16 * unit);
	struct netgpu_attach_socket a;
	struct netgpu_open_queue q;
	struct netgpu_info info;
	char sink[4096];
	int fd, area, pair[2];

	ASSERT_EQ(0, tcp_pair(AF_INET, pair));
	ASSERT_EQ(0, limit_memlock(16 * unit));
	ASSERT_EQ(0, become(&group, 1));
	fd = ng_open();
	area = ng_open();
	ASSERT_LE(0, fd);
	EXPECT_EQ(0, ng_info(fd, &info));
	EXPECT_EQ(1, ng_add_region(area, mem, 16 * unit));
	EXPECT_EQ(0, ng_bind(fd, nic_index()));
	EXPECT_EQ(0, ng_attach_region(fd, area, 1));
	EXPECT_EQ(-EPERM, ng_open_queue(fd, QUEUE, FILL, &q));
	EXPECT_EQ(0, ng_attach_socket(fd, pair[0], RING, RING, &a));
	EXPECT_EQ(4096, send(pair[0], mem, 4096, MSG_ZEROCOPY));
	EXPECT_EQ((ssize_t)sizeof(sink), recv(pair[1], sink, sizeof(sink), MSG_WAITALL));
	EXPECT_EQ(0, memcmp(sink, mem, sizeof(sink)));
}

/* A context that somebody else has opened is used with one's own rights. */
TEST(rights_are_those_of_the_caller)
{
	struct netgpu_open_queue q;
	int fd = ng_open(), status;
	pid_t child;

	ASSERT_EQ(0, nic_prepare(QUEUE));
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	child = fork();
	if (!child)
		_exit(become(NULL, 0) || ng_open_queue(fd, QUEUE, FILL, &q) != -EPERM);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(0, ng_open_queue(fd, QUEUE, FILL, &q));
	close(fd);
	nic_restore();
}

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	close(fd);
	return done;
}

/* Becomes root of a user namespace of its own, with a network namespace that belongs to that. */
static bool become_root_of_nothing(void)
{
	char map[32];

	snprintf(map, sizeof(map), "0 %u 1", NOBODY);
	/* Else what is below /proc/self would be the former user's. */
	if (become(&group, 1) || unshare(CLONE_NEWUSER | CLONE_NEWNET) || prctl(PR_SET_DUMPABLE, 1))
		return false;
	return write_file("/proc/self/setgroups", "deny") && write_file("/proc/self/uid_map", map) &&
	       write_file("/proc/self/gid_map", map);
}

/* CAP_NET_ADMIN of one's own namespaces does not count for a device of another. */
TEST(root_of_another_namespace)
{
	unsigned int index = nic_index();
	struct netgpu_open_queue q;
	int fd = ng_open(), status;
	pid_t child;

	ASSERT_EQ(0, nic_prepare(QUEUE));
	ASSERT_EQ(0, ng_bind(fd, index));
	child = fork();
	if (!child) {
		int own = ng_open();

		if (!become_root_of_nothing()) {
			perror("# namespaces");
			_exit(1);
		}
		/* It does not even see the device. */
		if (ng_bind(own, index) != -ENODEV)
			_exit(2);
		_exit(ng_open_queue(fd, QUEUE, FILL, &q) == -EPERM ? 0 : 3);
	}
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, WEXITSTATUS(status));
	close(fd);
	nic_restore();
}

/* It does for a device that was given to them, and for as long as they have it. */
TEST(root_of_the_namespace_of_the_device)
{
	unsigned int index = nic_index();
	struct netgpu_open_queue q;
	int ready[2], go[2], status, fd;
	char byte;
	pid_t child;

	ASSERT_EQ(0, nic_prepare(QUEUE));
	ASSERT_EQ(0, pipe(ready));
	ASSERT_EQ(0, pipe(go));
	child = fork();
	if (!child) {
		struct netgpu_context_stats stats;

		fd = ng_open();
		if (!become_root_of_nothing() || write(ready[1], "", 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(1);
		if (sh("ip link set %s up", nic_name()))
			_exit(2);
		if (ng_bind(fd, index))
			_exit(3);
		if (ng_open_queue(fd, QUEUE, FILL, &q))
			_exit(4);
		/* It has the queue still, and nobody the namespace. */
		if (unshare(CLONE_NEWNET) || write(ready[1], "", 1) != 1 || read(go[0], &byte, 1) != 1)
			_exit(5);
		if (!WAIT_FOR(!ng_context_stats(fd, &stats) && !stats.queues, 5000))
			_exit(6);
		_exit(ng_open_queue(fd, QUEUE, FILL, &q) == -EPERM ? 0 : 7);
	}
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	EXPECT_EQ(0, sh("ip link set %s netns %d", nic_name(), child));
	ASSERT_EQ(1, write(go[1], "", 1));
	ASSERT_EQ(1, read(ready[0], &byte, 1));
	/* With the namespace gone it comes back. */
	ASSERT_TRUE(WAIT_FOR(nic_index(), 20000));
	ASSERT_EQ(0, sh("ip address replace $NETGPU_ADDR4/24 dev %s && ip -6 address replace $NETGPU_ADDR6/64 dev %s nodad && ip link set %s up",
			nic_name(), nic_name(), nic_name()));
	/* And so does its queue. */
	fd = ng_open();
	ASSERT_EQ(0, ng_bind(fd, nic_index()));
	EXPECT_EQ(0, ng_open_queue(fd, QUEUE, FILL, &q));
	ASSERT_EQ(1, write(go[1], "", 1));
	ASSERT_EQ(child, waitpid(child, &status, 0));
	EXPECT_EQ(0, WEXITSTATUS(status));
	close(fd);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* A part of a huge page keeps all of it in memory: it is charged as a whole, and once for all parts of a region. */
TEST(huge_pages_count_once)
{
	const size_t huge = 2 << 20, unit = buffer_size();
	char *mem;
	int fd;

	ASSERT_EQ(0, sh("echo 4 >/proc/sys/vm/nr_hugepages"));
	mem = mmap(NULL, 2 * huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	ASSERT_NE(MAP_FAILED, (void *)mem);
	memset(mem, 1, 2 * huge);
	ASSERT_EQ(0, limit_memlock(huge));
	fd = ng_open();
	ASSERT_EQ(0, become(&group, 1));
	/* Two pages' halves are two pages. */
	EXPECT_EQ(-ENOMEM, ng_add_region(fd, mem + huge / 2, huge));
	EXPECT_EQ(1, ng_add_region(fd, mem, huge));
	EXPECT_EQ((long long)huge, status_bytes("VmPin:"));
	EXPECT_EQ(-ENOMEM, ng_add_region(fd, mem + huge, unit));
	close(fd);
	EXPECT_TRUE(WAIT_FOR(!status_bytes("VmPin:"), 5000));
}

TEST_HARNESS_MAIN
