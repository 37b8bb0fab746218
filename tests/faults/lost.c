// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A region that is smaller than the NIC's ring and the socket's receive buffer: what comes behind a lost packet can hold all of it.
 */
#include "helpers.h"
#include "kselftest_harness.h"

#include <linux/filter.h>
#include <linux/tcp.h>

#define QUEUE	1
#define RULE	900

/* Bytes of the packet that is lost: the only one of that length. */
#define LOST	777
/* Bytes before it, so that the receiver's window has grown, and behind it: more than BUFFERS packets. */
#define FIRST	(4 << 20)
#define REST	(1 << 20)

/* Have TCP on @sock drop packets with LOST bytes of payload, like a cable that loses them. */
static int lose(int sock)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 12),		/* length of the TCP header in words, high nibble */
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 2),
		BPF_STMT(BPF_MISC | BPF_TAX, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0),
		BPF_STMT(BPF_ALU | BPF_SUB | BPF_X, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, LOST, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffff),
	};
	struct sock_fprog program = { .len = ARRAY_LEN(code), .filter = code };

	return setsockopt(sock, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) ? -errno : 0;
}

/* Packets that @sock has sent and its peer has, behind one that it has not. */
static unsigned int sacked(int sock)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	return getsockopt(sock, IPPROTO_TCP, TCP_INFO, &info, &len) ? 0 : info.tcpi_sacked;
}

TEST(lost)
{
	static char bytes[LOST + REST];
	struct netgpu_queue_stats stats;
	int size = 8 << 20;
	unsigned int had, has = 0;
	struct receiver r;
	long long end;
	size_t got, i;

	for (i = 0; i < sizeof(bytes); i++)
		bytes[i] = pattern(i);
	ASSERT_EQ(0, nic_prepare(QUEUE));
	/* So that enough is on its way behind the lost packet, however fast this machine is. */
	ASSERT_EQ(0, sh("ip netns exec peer ip route change 10.9.0.0/24 dev $NETGPU_PEER_DEV initcwnd 1000"));
	ASSERT_EQ(0, receiver_open(&r, QUEUE, RULE));
	ASSERT_EQ(0, setsockopt(r.pair[0], SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)));
	ASSERT_EQ(0, setsockopt(r.pair[1], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)));
	ASSERT_EQ(0, setsockopt(r.pair[1], IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)));
	ASSERT_EQ((size_t)FIRST, transfer(r.pair[0], r.pair[1], &r.fill, &r.rx, FIRST));

	ASSERT_EQ(0, lose(r.pair[0]));
	ASSERT_EQ(LOST, send(r.pair[1], bytes, LOST, MSG_NOSIGNAL));
	ASSERT_EQ(REST, send(r.pair[1], bytes + LOST, REST, MSG_NOSIGNAL));
	/* Until what is behind it has taken all that there is. */
	do {
		had = has;
		usleep(300000);
		has = sacked(r.pair[1]);
	} while (has != had);
	ASSERT_LT(0U, has);
	ASSERT_GT(REST / 1448U, has) TH_LOG("there was room for all of it");
	ASSERT_EQ(0, setsockopt(r.pair[0], SOL_SOCKET, SO_DETACH_FILTER, &(int){ 0 }, sizeof(int)));

	/* The lost packet comes again, into a buffer that was kept back, when its sender's timer says so. Nobody sends any more here. */
	end = now_ms() + 15000;
	do {
		got = transfer(r.pair[0], -1, &r.fill, &r.rx, sizeof(bytes));
	} while (!got && now_ms() < end);
	EXPECT_EQ(sizeof(bytes), got);
	EXPECT_EQ(0, ng_queue_stats(r.fd, r.queue_id, &stats));
	EXPECT_LT(0U, stats.empty);
	receiver_close(&r);
	EXPECT_EQ(0, sh("ip netns exec peer ip route change 10.9.0.0/24 dev $NETGPU_PEER_DEV"));
	nic_restore();
}

TEST_HARNESS_MAIN
