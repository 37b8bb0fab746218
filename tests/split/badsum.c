// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * badsum SOURCE DESTINATION PORT COUNT: sends so many TCP segments over IPv4 whose checksum is wrong.
 */
#include <netinet/ip.h>
#include <netinet/tcp.h>

#include "stream.h"

int main(int argc, char **argv)
{
	struct {
		struct iphdr ip;
		struct tcphdr tcp;
		uint8_t payload[1000];
	} packet = {
		.ip = { .version = 4, .ihl = 5, .ttl = 64, .protocol = IPPROTO_TCP },
		.tcp = { .source = htons(1), .doff = 5, .ack = 1, .check = 0x1234 },
	};
	struct sockaddr_in to = { .sin_family = AF_INET };
	int fd, count;

	if (argc != 5)
		die("usage: badsum SOURCE DESTINATION PORT COUNT");
	if (inet_pton(AF_INET, argv[1], &packet.ip.saddr) != 1 || inet_pton(AF_INET, argv[2], &packet.ip.daddr) != 1)
		die("%s or %s is no IPv4 address", argv[1], argv[2]);
	to.sin_addr.s_addr = packet.ip.daddr;
	packet.tcp.dest = htons(atoi(argv[3]));
	count = atoi(argv[4]);

	/* The kernel fills in the length and the checksum of the IP header. */
	fd = sys(socket(AF_INET, SOCK_RAW, IPPROTO_RAW));
	while (count--)
		sys(sendto(fd, &packet, sizeof(packet), 0, (void *)&to, sizeof(to)));
	return 0;
}
