// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * devmem DEVICE QUEUE PORT BYTES [PAGES [gpu]]: receives and checks so much of the stream with devmem TCP, in a dma-buf of PAGES
 * pages of ordinary memory, or of the stand-in GPU. Prints how much did not land in the dma-buf.
 */
#define _GNU_SOURCE
/* dmabuf_cmsg is here, next to an iovec like the C library's. */
#define iovec kernel_iovec
#include <linux/uio.h>
#undef iovec

#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netdev.h>
#include <linux/netlink.h>
#include <linux/udmabuf.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../standin/standin_gpu.h"
#include "stream.h"

#define PAGE 4096UL
#define MAX_TOKENS 128

#ifndef MSG_SOCK_DEVMEM
#define MSG_SOCK_DEVMEM 0x2000000
#endif
#ifndef SO_DEVMEM_LINEAR
#define SO_DEVMEM_LINEAR 78
#define SO_DEVMEM_DMABUF 79
#define SO_DEVMEM_DONTNEED 80
#endif

static const uint8_t *dmabuf;
static uint64_t linear_bytes;

static int dmabuf_create(size_t len)
{
	int memfd = sys(memfd_create("devmem", MFD_ALLOW_SEALING)), dev = sys(open("/dev/udmabuf", O_RDWR));
	struct udmabuf_create create = { .memfd = memfd, .size = len };
	int fd;

	sys(ftruncate(memfd, len));
	sys(fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
	dmabuf = mmap(NULL, len, PROT_READ, MAP_SHARED, memfd, 0);
	if (dmabuf == MAP_FAILED)
		die("mapping the memory: %s", strerror(errno));
	fd = sys(ioctl(dev, UDMABUF_CREATE, &create));
	close(dev);
	close(memfd);
	return fd;
}

static int dmabuf_of_gpu(size_t len)
{
	struct standin_export export = { .len = len, .flags = STANDIN_STATIC };
	int gpu = sys(open(STANDIN_GPU_PATH, O_RDWR));

	sys(ioctl(gpu, STANDIN_EXPORT, &export));
	dmabuf = mmap(NULL, len, PROT_READ, MAP_SHARED, gpu, 0);
	if (dmabuf == MAP_FAILED)
		die("mapping the GPU's memory: %s", strerror(errno));
	close(gpu);
	return export.fd;
}

/* A generic netlink request under construction. */
struct request {
	struct nlmsghdr nl;
	struct genlmsghdr genl;
	uint8_t attrs[256];
};

static void *request_put(struct request *req, uint16_t type, const void *data, uint16_t len)
{
	struct nlattr *attr = (void *)((uint8_t *)req + req->nl.nlmsg_len);

	attr->nla_type = type;
	attr->nla_len = NLA_HDRLEN + len;
	if (len)
		memcpy(attr + 1, data, len);
	req->nl.nlmsg_len += NLA_HDRLEN + NLA_ALIGN(len);
	return attr;
}

static void request_put_u32(struct request *req, uint16_t type, uint32_t value)
{
	request_put(req, type, &value, sizeof(value));
}

static void request_start(struct request *req, uint16_t family, uint8_t cmd)
{
	*req = (struct request){
		.nl = { .nlmsg_len = NLMSG_HDRLEN + GENL_HDRLEN, .nlmsg_type = family, .nlmsg_flags = NLM_F_REQUEST },
		.genl = { .cmd = cmd, .version = 1 },
	};
}

/* Sends @req; the answer replaces it. Returns 0 or a negative errno. */
static int request_send(int fd, struct request *req)
{
	static union {
		struct nlmsghdr nl;
		uint8_t bytes[8192];
	} answer;
	ssize_t len;

	sys(send(fd, req, req->nl.nlmsg_len, 0));
	len = sys(recv(fd, &answer, sizeof(answer), 0));
	if (!NLMSG_OK(&answer.nl, len))
		die("bad netlink message");
	if (answer.nl.nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA(&answer.nl))->error;
	memcpy(req, &answer, answer.nl.nlmsg_len < sizeof(*req) ? answer.nl.nlmsg_len : sizeof(*req));
	return 0;
}

static uint16_t family_id(int fd, const char *name)
{
	struct request req;

	request_start(&req, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	request_put(&req, CTRL_ATTR_FAMILY_NAME, name, strlen(name) + 1);
	if (request_send(fd, &req))
		die("no netlink family %s", name);

	for (uint8_t *p = req.attrs; p + NLA_HDRLEN <= req.attrs + sizeof(req.attrs);) {
		struct nlattr *attr = (void *)p;

		if (attr->nla_type == CTRL_ATTR_FAMILY_ID)
			return *(uint16_t *)(attr + 1);
		p += NLA_ALIGN(attr->nla_len);
	}
	die("netlink family %s has no id", name);
}

/* The binding lives as long as the socket which is returned. */
static int queue_bind(const char *dev, uint32_t queue, int dmabuf_fd)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK };
	int err, fd = sys(socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC));
	struct request req;
	struct nlattr *nest;

	sys(bind(fd, (void *)&addr, sizeof(addr)));
	request_start(&req, family_id(fd, NETDEV_FAMILY_NAME), NETDEV_CMD_BIND_RX);
	request_put_u32(&req, NETDEV_A_DMABUF_IFINDEX, if_nametoindex(dev));
	request_put_u32(&req, NETDEV_A_DMABUF_FD, dmabuf_fd);
	nest = request_put(&req, NETDEV_A_DMABUF_QUEUES | NLA_F_NESTED, NULL, 0);
	request_put_u32(&req, NETDEV_A_QUEUE_ID, queue);
	request_put_u32(&req, NETDEV_A_QUEUE_TYPE, NETDEV_QUEUE_TYPE_RX);
	nest->nla_len = (uint8_t *)&req + req.nl.nlmsg_len - (uint8_t *)nest;
	err = request_send(fd, &req);
	if (err)
		die("binding queue %u of %s: %s", queue, dev, strerror(-err));
	return fd;
}

static uint64_t take(int fd, uint64_t pos)
{
	static uint8_t linear[1 << 16], control[MAX_TOKENS * CMSG_SPACE(sizeof(struct dmabuf_cmsg))];
	struct iovec iov = { linear, sizeof(linear) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	ssize_t len = sys(recvmsg(fd, &msg, MSG_SOCK_DEVMEM));
	uint64_t end = pos + len;
	size_t used = 0;

	if (!len)
		die("the stream ends after %llu bytes", (unsigned long long)pos);

	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
		struct dmabuf_cmsg piece;
		struct dmabuf_token token;

		if (cmsg->cmsg_level != SOL_SOCKET)
			continue;
		memcpy(&piece, CMSG_DATA(cmsg), sizeof(piece));
		if (cmsg->cmsg_type == SO_DEVMEM_LINEAR) {
			stream_check(linear + used, piece.frag_size, pos);
			used += piece.frag_size;
		} else if (cmsg->cmsg_type == SO_DEVMEM_DMABUF) {
			stream_check(dmabuf + piece.frag_offset, piece.frag_size, pos);
			token = (struct dmabuf_token){ piece.frag_token, 1 };
			if (setsockopt(fd, SOL_SOCKET, SO_DEVMEM_DONTNEED, &token, sizeof(token)) != 1)
				die("returning a fragment: %s", strerror(errno));
		} else {
			continue;
		}
		pos += piece.frag_size;
	}

	/* What no control message told about is an ordinary packet. */
	stream_check(linear + used, end - pos, pos);
	linear_bytes += used + (end - pos);
	return end;
}

int main(int argc, char **argv)
{
	uint64_t bytes, pos = 0;
	int fd, listener;
	size_t len;

	if (argc < 5)
		die("usage: devmem DEVICE QUEUE PORT BYTES [PAGES [gpu]]");
	bytes = strtoull(argv[4], NULL, 0);
	len = (argc > 5 ? strtoul(argv[5], NULL, 0) : 8192) * PAGE;
	queue_bind(argv[1], atoi(argv[2]), argc > 6 ? dmabuf_of_gpu(len) : dmabuf_create(len));
	listener = stream_listen(atoi(argv[3]));
	fd = sys(accept(listener, NULL, NULL));
	while (pos < bytes)
		pos = take(fd, pos);

	printf("received %llu copied %llu\n", (unsigned long long)bytes, (unsigned long long)linear_bytes);
	return 0;
}
