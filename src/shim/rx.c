// SPDX-License-Identifier: GPL-2.0
/* Received bytes: from the socket's queue to Rust, and what read(2) and poll(2) see of it. */
#include <net/tcp.h>

#include "shim.h"

struct netgpu_rx_reader {
	struct sock *sk;
	void *socket;
};

static void netgpu_rx_frag(const skb_frag_t *frag, u32 offset, struct netgpu_piece *piece)
{
	struct netgpu_map *map;
	struct net_iov *niov;

	if (!skb_frag_is_net_iov(frag)) {
		piece->data = skb_frag_address(frag) + offset;
		return;
	}
	niov = netmem_to_net_iov(frag->netmem);
	map = netgpu_map_of(niov);
	if (!map)
		return;
	piece->context = map->context;
	piece->attachment = map->attachment;
	piece->index = net_iov_idx(niov);
	piece->offset = skb_frag_off(frag) + offset;
}

/* Feeds [@offset, @offset + @len) of @skb. Returns how much was taken, or an error if nothing was. */
static int netgpu_rx_skb(struct netgpu_rx_reader *reader, struct sk_buff *skb, u32 offset, u32 len)
{
	struct netgpu_piece pieces[MAX_SKB_FRAGS + 1];
	u32 start = skb_headlen(skb), want = 0, n = 0;
	struct sk_buff *sub;
	int used = 0, got;

	if (offset < start) {
		u32 take = min(start - offset, len);

		pieces[n++] = (struct netgpu_piece){ .data = skb->data + offset, .len = take };
		want += take;
	}
	for (u32 i = 0; i < skb_shinfo(skb)->nr_frags && want < len; i++) {
		const skb_frag_t *frag = &skb_shinfo(skb)->frags[i];
		u32 end = start + skb_frag_size(frag), at = offset + want;

		if (at < end) {
			pieces[n] = (struct netgpu_piece){ .len = min(end - at, len - want) };
			netgpu_rx_frag(frag, at - start, &pieces[n]);
			want += pieces[n++].len;
		}
		start = end;
	}
	if (n) {
		used = netgpu_rx_pieces(reader->socket, reader->sk, pieces, n);
		if (used < 0 || used < want)
			return used;
	}

	skb_walk_frags(skb, sub) {
		u32 end = start + sub->len, at = offset + used;

		if (used == len)
			break;
		if (at < end) {
			u32 take = min(end - at, len - used);

			got = netgpu_rx_skb(reader, sub, at - start, take);
			if (got < 0)
				return used ?: got;
			used += got;
			if (got < take)
				break;
		}
		start = end;
	}
	return used;
}

static int netgpu_rx_actor(read_descriptor_t *desc, struct sk_buff *skb, unsigned int offset, size_t len)
{
	return netgpu_rx_skb(desc->arg.data, skb, offset, len);
}

void netgpu_rx_read(struct sock *sk, void *socket)
{
	struct netgpu_rx_reader reader = { .sk = sk, .socket = socket };
	read_descriptor_t desc = { .arg.data = &reader, .count = 1 };

	/* Urgent data is part of the stream, as with SO_OOBINLINE; else reading would stop in front of it for good. */
	WRITE_ONCE(tcp_sk(sk)->urg_data, 0);
	tcp_read_sock(sk, &desc, netgpu_rx_actor);
}

void netgpu_rx_wake(struct sock *sk, void *socket)
{
	netgpu_ulp_of(sk)->data_ready(sk);
}

void netgpu_stream(struct sock *sk, struct netgpu_stream *out)
{
	out->waiting = !skb_queue_empty(&sk->sk_receive_queue);
	out->told = sock_flag(sk, SOCK_DONE);
	out->shut = sk->sk_shutdown & RCV_SHUTDOWN;
	out->closed = sk->sk_state == TCP_CLOSE;
}

int netgpu_sock_error(struct sock *sk)
{
	return sock_error(sk);
}

/*
 * Socket lock held: by softirq, or owned by the task that works off the backlog. TCP is done with the packet when it
 * calls this, so both may read.
 */
void netgpu_data_ready(struct sock *sk)
{
	struct netgpu_ulp *ulp = netgpu_ulp_of(sk);

	if (netgpu_rx_enabled(ulp->socket))
		netgpu_rx_ready(ulp->socket, sk);
	else
		ulp->data_ready(sk);
}

bool netgpu_sock_is_readable(struct sock *sk)
{
	return netgpu_rx_readable(netgpu_ulp_of(sk)->socket);
}

int netgpu_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags)
{
	struct netgpu_ulp *ulp = netgpu_ulp_of(sk);
	int err;

	if (!netgpu_rx_enabled(ulp->socket) || flags & MSG_ERRQUEUE)
		return ulp->base->recvmsg(sk, msg, len, flags);

	lock_sock(sk);
	if (!ulp->attached) {
		release_sock(sk);
		return ulp->base->recvmsg(sk, msg, len, flags);
	}
	err = netgpu_rx_recv(ulp->socket, sk);
	release_sock(sk);
	return err;
}
