// SPDX-License-Identifier: MIT OR Apache-2.0
/* RLIMIT_MEMLOCK: what regions are charged, to whom, and until when. Needs no network device. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <sys/wait.h>

FIXTURE(limit)
{
	int fds[8];
	size_t unit;
	size_t limit;
	char *mem;
};

FIXTURE_SETUP(limit)
{
	unsigned int i;

	self->unit = buffer_size();
	self->limit = 16 * self->unit;
	self->mem = memory(2 * self->limit);
	for (i = 0; i < ARRAY_LEN(self->fds); i++) {
		self->fds[i] = ng_open();
		ASSERT_LE(0, self->fds[i]);
	}
}

FIXTURE_TEARDOWN(limit)
{
}

/* A call that fails has charged nothing, so the limit fits to the page afterwards. */
TEST_F(limit, of_locked_memory)
{
	size_t unit = self->unit, limit = self->limit;
	char *p = self->mem;
	int fd = self->fds[0];

	ASSERT_EQ(0, become_nobody());
	ASSERT_EQ(0, limit_memlock(limit));
	EXPECT_EQ(-ENOMEM, ng_add_region(fd, p, limit + unit));
	EXPECT_EQ(-EFAULT, ng_add_region(fd, hole(unit), unit));
	EXPECT_EQ(-EINVAL, ng_add_region(fd, p + 1, unit));
	ASSERT_EQ(0, mprotect(p + 8 * unit, unit, PROT_READ));
	EXPECT_EQ(-EFAULT, ng_add_region(fd, p, 16 * unit));
	ASSERT_EQ(0, mprotect(p + 8 * unit, unit, PROT_READ | PROT_WRITE));
	EXPECT_EQ(1, ng_add_region(fd, p, limit - unit));
	EXPECT_EQ(-EEXIST, ng_add_region(fd, p, unit));
	EXPECT_EQ(-ENOMEM, ng_add_region(fd, p + limit, 2 * unit));
	EXPECT_EQ(2, ng_add_region(fd, p + limit - unit, unit));
	EXPECT_EQ(-ENOMEM, ng_add_region(fd, p + limit, unit));
	/* The limit is the user's, not the area's. */
	EXPECT_EQ(-ENOMEM, ng_add_region(self->fds[1], p + limit, unit));
	/* Unmapping gives nothing back. */
	ASSERT_EQ(0, munmap(p, limit));
	EXPECT_EQ(-ENOMEM, ng_add_region(fd, p + limit, unit));
}

TEST_F(limit, charge_returns_on_close)
{
	unsigned int round;

	ASSERT_EQ(0, become_nobody());
	ASSERT_EQ(0, limit_memlock(self->limit));
	for (round = 0; round < ARRAY_LEN(self->fds); round++) {
		int ret;

		EXPECT_TRUE(WAIT_FOR((ret = ng_add_region(self->fds[round], self->mem, self->limit)) != -ENOMEM, 5000));
		EXPECT_EQ(1, ret) TH_LOG("round %u", round);
		close(self->fds[round]);
	}
}

/* Another process of the same user, in memory of its own, counts too; its end alone gives nothing back. */
TEST_F(limit, is_shared_by_processes)
{
	pid_t child;
	int status;

	ASSERT_EQ(0, become_nobody());
	ASSERT_EQ(0, limit_memlock(self->limit));
	child = fork();
	if (!child)
		_exit(ng_add_region(self->fds[0], memory(self->limit), self->limit) == 1 ? 0 : 1);
	ASSERT_EQ(child, waitpid(child, &status, 0));
	ASSERT_EQ(0, status);
	EXPECT_EQ(-ENOMEM, ng_add_region(self->fds[1], self->mem, self->unit));
	close(self->fds[0]);
	EXPECT_TRUE(WAIT_FOR(ng_add_region(self->fds[1], self->mem, self->limit) == 1, 5000));
}

/* Locked memory as the process sees it. */
TEST_F(limit, shows_as_pinned)
{
	long long before = status_bytes("VmPin:");

	ASSERT_EQ(1, ng_add_region(self->fds[0], self->mem, self->limit));
	EXPECT_EQ(before + (long long)self->limit, status_bytes("VmPin:"));
	EXPECT_EQ(-EEXIST, ng_add_region(self->fds[0], self->mem, self->limit));
	EXPECT_EQ(before + (long long)self->limit, status_bytes("VmPin:"));
	close(self->fds[0]);
	EXPECT_TRUE(WAIT_FOR(status_bytes("VmPin:") == before, 5000));
}

TEST_F(limit, does_not_bind_the_privileged)
{
	ASSERT_EQ(0, limit_memlock(0));
	EXPECT_EQ(1, ng_add_region(self->fds[0], self->mem, self->limit));
}

TEST_F(limit, of_nothing)
{
	ASSERT_EQ(0, become_nobody());
	ASSERT_EQ(0, limit_memlock(0));
	EXPECT_EQ(-ENOMEM, ng_add_region(self->fds[0], self->mem, self->unit));
	ASSERT_EQ(-EPERM, limit_memlock(self->unit));
}

TEST_HARNESS_MAIN
