// SPDX-License-Identifier: MIT OR Apache-2.0
/* What is queued for one device and would leave by another does not leave at all, until the way is right again. Needs the ports. */
#include "helpers.h"
#include "kselftest_harness.h"

#include <arpa/inet.h>
#include <linux/bpf.h>
#include <net/if.h>
#include <netinet/tcp.h>

#define OTHER	"other0"

/* The packets and bytes that another device, which takes everything, has sent. */
static long long other_sent(const char *what)
{
	char path[128];
	long long n = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/net/" OTHER "/statistics/%s", what);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%lld", &n) != 1)
		n = -1;
	if (f)
		fclose(f);
	return n;
}

FIXTURE(routes)
{
	int area;
	int fd;
	int pair[2];
	char *mem;
	size_t len;
	size_t sent;	/* so far */
	struct netgpu_attach_socket a;
};

FIXTURE_SETUP(routes)
{
	size_t i;

	ASSERT_EQ(0, sh("ip link add " OTHER " type dummy && echo 1 >/proc/sys/net/ipv6/conf/" OTHER "/disable_ipv6 && ip link set " OTHER " up"));
	self->len = 1 << 18;
	self->mem = memory(self->len);
	for (i = 0; i < self->len; i++)
		self->mem[i] = pattern(i);
	self->area = ng_open();
	self->fd = ng_open();
	ASSERT_EQ(1, ng_add_region(self->area, self->mem, self->len));
	ASSERT_EQ(0, ng_bind(self->fd, nic_index()));
	ASSERT_EQ(0, ng_attach_region(self->fd, self->area, 1));
	ASSERT_EQ(0, tcp_pair(AF_INET, self->pair));
	ASSERT_EQ(0, ng_attach_socket(self->fd, self->pair[0], 0, RING, &self->a));
}

FIXTURE_TEARDOWN(routes)
{
	close(self->pair[0]);
	close(self->pair[1]);
	close(self->fd);
	close(self->area);
	sh("ip link del " OTHER);
	EXPECT_TRUE(nic_works());
}

/* Sends the next @len bytes, or as many as TCP has room for. */
static ssize_t send_more(FIXTURE_DATA(routes) *self, size_t len)
{
	ssize_t n = send(self->pair[0], self->mem + self->sent, len, MSG_ZEROCOPY | MSG_DONTWAIT);

	if (n > 0)
		self->sent += n;
	return n;
}

/* Whether all of that comes, and nothing else. */
static bool arrives(FIXTURE_DATA(routes) *self)
{
	static char data[1 << 16];
	size_t got = 0, i;
	long long end = now_ms() + 20000;

	while (got < self->sent && now_ms() < end) {
		ssize_t n = recv(self->pair[1], data, sizeof(data), MSG_DONTWAIT);

		if (n <= 0) {
			usleep(1000);
			continue;
		}
		for (i = 0; i < (size_t)n; i++)
			if (data[i] != pattern(got + i))
				return false;
		got += n;
	}
	return got == self->sent;
}

/* Queued while the cable is out, so that all of it waits in TCP; then the socket is bound to the other device, and back. */
TEST_F_TIMEOUT(routes, socket_is_bound_elsewhere, 60)
{
	ASSERT_EQ(0, sh("ip netns exec peer ip link set $NETGPU_PEER_DEV down"));
	ASSERT_LT(0, send_more(self, 60000));
	ASSERT_EQ(0, sh("ip route add $NETGPU_PEER_ADDR4/32 dev " OTHER));
	ASSERT_EQ(0, sh("ip neighbour add $NETGPU_PEER_ADDR4 lladdr 02:00:00:00:00:01 dev " OTHER));
	ASSERT_EQ(0, setsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, OTHER, sizeof(OTHER)));
	/* Retransmissions go there now. */
	usleep(1500000);
	EXPECT_EQ(0, other_sent("tx_packets")) TH_LOG("%lld bytes", other_sent("tx_bytes"));
	/* And new ones are refused, whenever TCP has a route; until then it may append to what waits. */
	EXPECT_TRUE(WAIT_FOR(send_more(self, 10) < 0 && errno == ENODEV, 5000));
	EXPECT_EQ(0, other_sent("tx_packets"));
	ASSERT_EQ(0, sh("ip route del $NETGPU_PEER_ADDR4/32 dev " OTHER));
	ASSERT_EQ(0, setsockopt(self->pair[0], SOL_SOCKET, SO_BINDTODEVICE, nic_name(), strlen(nic_name())));
	ASSERT_EQ(0, sh("ip netns exec peer ip link set $NETGPU_PEER_DEV up"));
	sh("ip netns exec peer ip -6 address replace $NETGPU_PEER_ADDR6/64 dev $NETGPU_PEER_DEV nodad");
	ASSERT_TRUE(nic_works());
	EXPECT_TRUE(arrives(self));
}

/* What is sent with a SYN would be copied, from whatever the process has at the addresses of the region. */
TEST_F(routes, fast_open)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9) };
	struct netgpu_attach_socket a;
	int one = 1, fds[2];

	ASSERT_EQ(1, inet_pton(AF_INET, getenv("NETGPU_PEER_ADDR4"), &to.sin_addr));
	/* Also without a cookie. */
	ASSERT_EQ(0, sh("echo 0x5 >/proc/sys/net/ipv4/tcp_fastopen"));
	for (int i = 0; i < 2; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		ASSERT_EQ(0, ng_attach_socket(self->fd, fds[i], 0, RING, &a));
	}
	EXPECT_EQ(-1, sendto(fds[0], self->mem, 100, MSG_ZEROCOPY | MSG_FASTOPEN, (struct sockaddr *)&to, sizeof(to)));
	EXPECT_EQ(EOPNOTSUPP, errno);
	/* The same, when connect(2) leaves it to the first send. */
	ASSERT_EQ(0, setsockopt(fds[1], IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof(one)));
	ASSERT_EQ(0, connect(fds[1], (struct sockaddr *)&to, sizeof(to)));
	EXPECT_EQ(-1, send(fds[1], self->mem, 100, MSG_ZEROCOPY));
	EXPECT_EQ(EOPNOTSUPP, errno);
	for (int i = 0; i < 2; i++)
		close(fds[i]);
	ASSERT_EQ(0, sh("echo 0x1 >/proc/sys/net/ipv4/tcp_fastopen"));
}

/* A link that holds a program which sends what leaves by device @from over device @to. */
static int redirect(unsigned int from, unsigned int to)
{
	struct bpf_insn insns[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_1, .imm = to },
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_2, .imm = 0 },
		{ .code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr program = { .prog_type = BPF_PROG_TYPE_SCHED_CLS };

	return bpf_attach(&program, insns, ARRAY_LEN(insns), BPF_TCX_EGRESS, from, 0);
}

/* The packets are sent to the other device behind TCP's back. */
TEST_F_TIMEOUT(routes, packets_are_redirected, 60)
{
	long long before;
	int link;

	link = redirect(nic_index(), if_nametoindex(OTHER));
	ASSERT_LE(0, link) TH_LOG("%s", strerror(-link));
	before = other_sent("tx_bytes");
	ASSERT_LT(0, send_more(self, 60000));
	usleep(1000000);
	EXPECT_GT(before + 3000, other_sent("tx_bytes"));
	close(link);
	EXPECT_TRUE(arrives(self));
}

TEST_HARNESS_MAIN
