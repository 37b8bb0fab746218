// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * What comes to a queue of netgpu's for somebody else: the socket is an ordinary one, and the CPU cannot read the payload. Whatever the
 * kernel is asked to do with it, it must not look. Needs the ports.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <linux/sockios.h>
#include <sys/syscall.h>

/* Steering rules: of the receiver that is there for its queue, and of the socket. */
#define RULE		7
#define OTHER_RULE	8
/* Of a packet, and more than can be left with its headers. */
#define LEN		1000

FIXTURE(others)
{
	struct receiver r;
	int pair[2];
	char data[LEN];
};

FIXTURE_SETUP(others)
{
	int queue = nic_queues() - 1;
	struct sockaddr_in local;
	socklen_t len = sizeof(local);

	pattern_fill(self->data, 0, LEN);
	ASSERT_EQ(0, nic_prepare(queue));
	ASSERT_EQ(0, receiver_open(&self->r, queue, RULE));
	ASSERT_EQ(0, tcp_pair(AF_INET, self->pair));
	ASSERT_EQ(0, getsockname(self->pair[0], (struct sockaddr *)&local, &len));
	ASSERT_EQ(0, sh("ethtool -N %s flow-type tcp4 dst-port %u action %d loc %d", nic_name(), ntohs(local.sin_port), queue, OTHER_RULE));
}

FIXTURE_TEARDOWN(others)
{
	close(self->pair[0]);
	close(self->pair[1]);
	EXPECT_EQ(0, sh("ethtool -N %s delete %d", nic_name(), OTHER_RULE));
	receiver_close(&self->r);
	nic_restore();
	EXPECT_TRUE(nic_works());
}

/* Bytes that wait to be read. */
static int waiting(int sock)
{
	int n;

	return ioctl(sock, SIOCINQ, &n) ? -errno : n;
}

/* The error that a socket has, until somebody has asked. */
static int error_of(int sock)
{
	int error = 0;
	socklen_t len = sizeof(error);

	return getsockopt(sock, SOL_SOCKET, SO_ERROR, &error, &len) ? errno : error;
}

TEST_F(others, read)
{
	char got[LEN];
	ssize_t n;

	ASSERT_EQ(LEN, send(self->pair[1], self->data, LEN, 0));
	ASSERT_TRUE(WAIT_FOR(waiting(self->pair[0]) == LEN, 5000));
	/* What was left with the headers is there to be read. */
	n = recv(self->pair[0], got, LEN, MSG_DONTWAIT);
	EXPECT_GT(LEN, n) TH_LOG("the CPU can read all of it: this test cannot tell");
	if (n > 0)
		n = recv(self->pair[0], got, LEN, MSG_DONTWAIT);
	EXPECT_EQ(-1, n);
	EXPECT_EQ(EFAULT, errno);
}

/* The kernel would fetch the last byte out of the packet. It stays in the stream. */
TEST_F(others, urgent_byte)
{
	char byte;

	ASSERT_EQ(LEN, send(self->pair[1], self->data, LEN, MSG_OOB));
	EXPECT_TRUE(WAIT_FOR(waiting(self->pair[0]) == LEN, 5000)) TH_LOG("%d bytes", waiting(self->pair[0]));
	EXPECT_EQ(-1, recv(self->pair[0], &byte, 1, MSG_OOB | MSG_DONTWAIT));
	EXPECT_EQ(EINVAL, errno);
	ASSERT_EQ(LEN, send(self->pair[1], self->data, LEN, 0));
	EXPECT_TRUE(WAIT_FOR(waiting(self->pair[0]) == 2 * LEN, 5000)) TH_LOG("%d bytes", waiting(self->pair[0]));
}

static int bpf(int command, union bpf_attr *attr)
{
	int result = syscall(SYS_bpf, command, attr, sizeof(*attr));

	return result < 0 ? -errno : result;
}

/* A sockmap whose @program, of @count instructions, decides about what arrives on its sockets. It has none yet. */
static int sockmap(struct bpf_insn *program, unsigned int count)
{
	union bpf_attr create = { .map_type = BPF_MAP_TYPE_SOCKMAP, .key_size = 4, .value_size = 4, .max_entries = 2 };
	union bpf_attr load = {
		.prog_type = BPF_PROG_TYPE_SK_SKB,
		.insns = (uintptr_t)program,
		.insn_cnt = count,
		.license = (uintptr_t)"GPL",
	};
	union bpf_attr attach = { .attach_type = BPF_SK_SKB_VERDICT };
	int map = bpf(BPF_MAP_CREATE, &create), prog, error;
	unsigned int i;

	if (map < 0)
		return map;
	for (i = 0; i < count; i++)
		if (program[i].code == (BPF_LD | BPF_DW | BPF_IMM) && program[i].src_reg == BPF_PSEUDO_MAP_FD)
			program[i].imm = map;
	prog = bpf(BPF_PROG_LOAD, &load);
	if (prog < 0)
		return prog;
	attach.target_fd = map;
	attach.attach_bpf_fd = prog;
	error = bpf(BPF_PROG_ATTACH, &attach);
	close(prog);
	return error ? error : map;
}

static int add_to(int map, unsigned int key, int sock)
{
	union bpf_attr put = { .map_fd = map, .key = (uintptr_t)&key, .value = (uintptr_t)&sock };

	return bpf(BPF_MAP_UPDATE_ELEM, &put);
}

/* The socket would have a list of pages to be read, and there are none: it has an error instead. */
TEST_F(others, passed_by_a_sockmap)
{
	struct bpf_insn pass[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = SK_PASS },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int map = sockmap(pass, ARRAY_LEN(pass));

	ASSERT_LE(0, map);
	ASSERT_EQ(0, add_to(map, 0, self->pair[0]));
	ASSERT_EQ(LEN, send(self->pair[1], self->data, LEN, 0));
	EXPECT_TRUE(WAIT_FOR(error_of(self->pair[0]) == EFAULT, 5000));
	close(map);
}

/* Another socket would send the pages. */
TEST_F(others, redirected_by_a_sockmap)
{
	struct bpf_insn redirect[] = {
		{ .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = BPF_REG_2, .src_reg = BPF_PSEUDO_MAP_FD },
		{},
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = 1 },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_4, .imm = 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_sk_redirect_map },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	int map = sockmap(redirect, ARRAY_LEN(redirect)), to[2];

	ASSERT_LE(0, map);
	ASSERT_EQ(0, loopback_pair(to));
	ASSERT_EQ(0, add_to(map, 0, self->pair[0]));
	ASSERT_EQ(0, add_to(map, 1, to[0]));
	ASSERT_EQ(LEN, send(self->pair[1], self->data, LEN, 0));
	EXPECT_TRUE(WAIT_FOR(error_of(to[0]) == EFAULT, 5000));
	close(map);
	close(to[0]);
	close(to[1]);
}

TEST_HARNESS_MAIN
