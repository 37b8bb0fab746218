// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * stamp send|receive DEVICE ADDRESS PORT: sends a datagram to the IPv4 address, or waits for one there, and prints what the clock of
 * DEVICE says of it, in nanoseconds. Turns the device's time stamps on, and leaves them so.
 */
#include <arpa/inet.h>
#include <err.h>
#include <linux/errqueue.h>
#include <linux/net_tstamp.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void stamps_on(int fd, const char *device)
{
	struct hwtstamp_config config = { .tx_type = HWTSTAMP_TX_ON, .rx_filter = HWTSTAMP_FILTER_ALL };
	int flags = SOF_TIMESTAMPING_RAW_HARDWARE | SOF_TIMESTAMPING_TX_HARDWARE | SOF_TIMESTAMPING_RX_HARDWARE;
	struct ifreq request = { .ifr_data = (void *)&config };

	strncpy(request.ifr_name, device, sizeof(request.ifr_name) - 1);
	if (ioctl(fd, SIOCSHWTSTAMP, &request))
		err(1, "SIOCSHWTSTAMP");
	if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &flags, sizeof(flags)))
		err(1, "SO_TIMESTAMPING");
}

/* Prints the hardware's time of a message that is there, or comes within ten seconds. */
static void print_stamp(int fd, int flags)
{
	char data[256], control[512];
	struct iovec iov = { data, sizeof(data) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control) };
	struct pollfd wait = { fd, flags & MSG_ERRQUEUE ? 0 : POLLIN };

	if (poll(&wait, 1, 10000) != 1)
		errx(1, "nothing came");
	if (recvmsg(fd, &msg, flags) < 0)
		err(1, "recvmsg");
	for (struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
		struct scm_timestamping stamp;

		if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_TIMESTAMPING)
			continue;
		memcpy(&stamp, CMSG_DATA(cmsg), sizeof(stamp));
		printf("%lld\n", stamp.ts[2].tv_sec * 1000000000LL + stamp.ts[2].tv_nsec);
		return;
	}
	errx(1, "no time stamp");
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	if (argc != 5)
		errx(1, "usage: stamp send|receive DEVICE ADDRESS PORT");
	if (fd < 0)
		err(1, "socket");
	if (inet_pton(AF_INET, argv[3], &address.sin_addr) != 1)
		errx(1, "%s is no IPv4 address", argv[3]);
	address.sin_port = htons(atoi(argv[4]));
	stamps_on(fd, argv[2]);
	if (!strcmp(argv[1], "send")) {
		if (sendto(fd, argv, sizeof(*argv), 0, (void *)&address, sizeof(address)) < 0)
			err(1, "sendto");
		print_stamp(fd, MSG_ERRQUEUE);
		return 0;
	}
	if (bind(fd, (void *)&address, sizeof(address)))
		err(1, "bind");
	print_stamp(fd, 0);
	return 0;
}
