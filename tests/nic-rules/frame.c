// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * frame DEVICE COUNT WHAT...: puts the same frame on DEVICE so many times. WHAT is, in any order,
 *
 *	to=MAC  from=MAC		addresses (default: broadcast, 02:00:00:00:00:99)
 *	svlan=TCI  vlan=TCI		tags, the outer one first
 *	type=NUMBER			a frame of this type, of zeros (default: 0x88b5, for experiments)
 *	ip4=FROM,TO  ip6=FROM,TO	an IP packet, of protocol=NUMBER (default: 253, for experiments) or
 *	tcp=FROM,TO  udp=FROM,TO	a segment or datagram between these ports, with right checksums
 *	spread=N			N source ports in turn, from that given on
 *	length=N			bytes of payload (default: 64)
 */
#include <arpa/inet.h>
#include <err.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ETHERTYPE_IPV4	0x0800
#define ETHERTYPE_IPV6	0x86dd
#define ETHERTYPE_VLAN	0x8100
#define ETHERTYPE_SVLAN	0x88a8
#define TCP		6
#define UDP		17

static struct {
	uint8_t to[6], from[6];
	int svlan, vlan, family;
	unsigned int type, protocol, ports[2], spread, length;
	uint8_t addresses[2][16];
} what = {
	.to = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff }, .from = { 2, 0, 0, 0, 0, 0x99 },
	.svlan = -1, .vlan = -1, .type = 0x88b5, .protocol = 253, .spread = 1, .length = 64,
};

static uint8_t frame[16384];

static void put16(size_t at, unsigned int value)
{
	frame[at] = value >> 8;
	frame[at + 1] = value;
}

static uint32_t sum(const uint8_t *bytes, size_t len, uint32_t total)
{
	for (size_t i = 0; i < len; i++)
		total += i % 2 ? bytes[i] : bytes[i] << 8;
	return total;
}

static unsigned int fold(uint32_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return ~total & 0xffff;
}

static size_t put_tag(size_t at, unsigned int type, int tci)
{
	if (tci < 0)
		return at;
	put16(at, type);
	put16(at + 2, tci);
	return at + 4;
}

/* An IP header for @len bytes behind it, at @at; returns the sum of its pseudo-header. */
static uint32_t put_ip(size_t at, size_t len)
{
	size_t size = what.family == AF_INET ? 4 : 16;
	size_t addresses = what.family == AF_INET ? at + 12 : at + 8;

	memcpy(frame + addresses, what.addresses[0], size);
	memcpy(frame + addresses + size, what.addresses[1], size);
	if (what.family == AF_INET) {
		frame[at] = 0x45;
		put16(at + 2, 20 + len);
		frame[at + 8] = 64;
		frame[at + 9] = what.protocol;
		put16(at + 10, fold(sum(frame + at, 20, 0)));
	} else {
		frame[at] = 0x60;
		put16(at + 4, len);
		frame[at + 6] = what.protocol;
		frame[at + 7] = 64;
	}
	return sum(frame + addresses, 2 * size, what.protocol + len);
}

/* Builds the frame with source port @port; returns its length. */
static size_t build(unsigned int port)
{
	size_t at = 12, l4, header = 0;
	uint32_t pseudo;

	memset(frame, 0, sizeof(frame));
	memcpy(frame, what.to, 6);
	memcpy(frame + 6, what.from, 6);
	at = put_tag(at, ETHERTYPE_SVLAN, what.svlan);
	at = put_tag(at, ETHERTYPE_VLAN, what.vlan);
	if (what.family)
		what.type = what.family == AF_INET ? ETHERTYPE_IPV4 : ETHERTYPE_IPV6;
	put16(at, what.type);
	at += 2;
	if (!what.family)
		return at + what.length;

	if (what.ports[1])
		header = what.protocol == TCP ? 20 : 8;
	pseudo = put_ip(at, header + what.length);
	l4 = at + (what.family == AF_INET ? 20 : 40);
	if (header) {
		size_t checksum = l4 + (what.protocol == TCP ? 16 : 6);

		put16(l4, port);
		put16(l4 + 2, what.ports[1]);
		if (what.protocol == TCP)
			put16(l4 + 12, 5 << 12 | 0x10);
		else
			put16(l4 + 4, header + what.length);
		put16(checksum, fold(sum(frame + l4, header + what.length, pseudo)));
	}
	return l4 + header + what.length;
}

static bool parse_mac(const char *text, uint8_t mac[6])
{
	return sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5]) == 6;
}

static bool parse_addresses(char *text, int family)
{
	char *to = strchr(text, ',');

	if (!to)
		return false;
	*to++ = 0;
	what.family = family;
	return inet_pton(family, text, what.addresses[0]) == 1 && inet_pton(family, to, what.addresses[1]) == 1;
}

static bool parse_ports(const char *text, unsigned int protocol)
{
	what.protocol = protocol;
	return sscanf(text, "%u,%u", &what.ports[0], &what.ports[1]) == 2 && what.ports[1];
}

static bool parse(char *arg)
{
	char *value = strchr(arg, '=');

	if (!value)
		return false;
	*value++ = 0;
	if (!strcmp(arg, "to"))
		return parse_mac(value, what.to);
	if (!strcmp(arg, "from"))
		return parse_mac(value, what.from);
	if (!strcmp(arg, "ip4"))
		return parse_addresses(value, AF_INET);
	if (!strcmp(arg, "ip6"))
		return parse_addresses(value, AF_INET6);
	if (!strcmp(arg, "tcp"))
		return parse_ports(value, TCP);
	if (!strcmp(arg, "udp"))
		return parse_ports(value, UDP);
	if (!strcmp(arg, "svlan"))
		return sscanf(value, "%i", &what.svlan) == 1;
	if (!strcmp(arg, "vlan"))
		return sscanf(value, "%i", &what.vlan) == 1;
	if (!strcmp(arg, "type"))
		return sscanf(value, "%i", (int *)&what.type) == 1;
	if (!strcmp(arg, "protocol"))
		return sscanf(value, "%u", &what.protocol) == 1;
	if (!strcmp(arg, "spread"))
		return sscanf(value, "%u", &what.spread) == 1 && what.spread;
	if (!strcmp(arg, "length"))
		return sscanf(value, "%u", &what.length) == 1 && what.length <= sizeof(frame) - 100;
	return false;
}

int main(int argc, char **argv)
{
	struct sockaddr_ll device = { .sll_family = AF_PACKET };
	int fd, count;

	if (argc < 3)
		errx(2, "usage: frame DEVICE COUNT WHAT...");
	device.sll_ifindex = if_nametoindex(argv[1]);
	if (!device.sll_ifindex)
		err(1, "%s", argv[1]);
	count = atoi(argv[2]);
	for (int i = 3; i < argc; i++) {
		char text[200];

		snprintf(text, sizeof(text), "%s", argv[i]);
		if (!parse(argv[i]))
			errx(2, "what is %s?", text);
	}
	fd = socket(AF_PACKET, SOCK_RAW, 0);
	if (fd < 0 || bind(fd, (void *)&device, sizeof(device)))
		err(1, "packet socket");
	for (int i = 0; i < count; i++) {
		size_t len = build(what.ports[0] + i % what.spread);

		if (send(fd, frame, len, 0) != (ssize_t)len)
			err(1, "send");
	}
	return 0;
}
