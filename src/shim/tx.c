// SPDX-License-Identifier: GPL-2.0
/* Sending from regions: how TCP gets its fragments, and how it says that it is done with them. */
#include <linux/skbuff.h>
#include <linux/socket.h>
#include <linux/uio.h>
#include <net/tcp.h>

#include "shim.h"

static_assert(sizeof(struct ubuf_info) <= sizeof(struct netgpu_ubuf));

static struct ubuf_info *netgpu_ubuf_info(struct netgpu_ubuf *ubuf)
{
	return (struct ubuf_info *)ubuf;
}

/* Once for each reference that is dropped: by acknowledged packets, by the device, by the sender itself. */
static void netgpu_ubuf_complete(struct sk_buff *skb, struct ubuf_info *uarg, bool zerocopy)
{
	struct netgpu_ubuf *ubuf = (struct netgpu_ubuf *)uarg;

	if (!zerocopy)
		netgpu_tx_copied(ubuf);
	if (refcount_dec_and_test(&uarg->refcnt))
		netgpu_tx_done(ubuf);
}

static const struct ubuf_info_ops netgpu_ubuf_ops = {
	.complete = netgpu_ubuf_complete,
};

void netgpu_ubuf_init(struct netgpu_ubuf *ubuf)
{
	struct ubuf_info *uarg = netgpu_ubuf_info(ubuf);

	uarg->ops = &netgpu_ubuf_ops;
	uarg->flags = SKBFL_ZEROCOPY_FRAG | SKBFL_DONT_ORPHAN;
	refcount_set(&uarg->refcnt, 1);
}

void netgpu_ubuf_put(struct netgpu_ubuf *ubuf)
{
	net_zcopy_put(netgpu_ubuf_info(ubuf));
}

/* Fills @skb with the next @length bytes of the message, as far as it has room for fragments. */
static int netgpu_fill_skb(struct sk_buff *skb, struct iov_iter *from, size_t length)
{
	struct msghdr *msg = container_of(from, struct msghdr, msg_iter);
	struct netgpu_ubuf *ubuf = (struct netgpu_ubuf *)msg->msg_ubuf;
	u32 i = skb_shinfo(skb)->nr_frags;

	/* Copied bytes and ours do not share a packet: only as a whole it is readable or not. */
	if (i && skb_frags_readable(skb))
		return -EMSGSIZE;

	while (length && iov_iter_count(from)) {
		size_t want = min(iter_iov_len(from), length);
		struct netgpu_span spans[MAX_SKB_FRAGS];
		u32 n, k;

		if (i == MAX_SKB_FRAGS)
			return -EMSGSIZE;
		n = netgpu_tx_spans(ubuf, (size_t)iter_iov_addr(from), want, spans, MAX_SKB_FRAGS - i);
		if (want && !n)
			return -EFAULT;
		for (k = 0, want = 0; k < n; k++, i++) {
			netmem_ref netmem = net_iov_to_netmem(&spans[k].map->nia.niovs[spans[k].index]);

			get_netmem(netmem);
			skb_add_rx_frag_netmem(skb, i, netmem, spans[k].offset, spans[k].len, PAGE_SIZE);
			want += spans[k].len;
		}
		iov_iter_advance(from, want);
		length -= want;
	}
	return 0;
}

bool netgpu_msg_within(const struct msghdr *msg, void *context)
{
	struct iov_iter it = msg->msg_iter;

	while (iov_iter_count(&it)) {
		size_t len = min(iter_iov_len(&it), iov_iter_count(&it));

		if (len && !netgpu_tx_contains(context, (size_t)iter_iov_addr(&it), len))
			return false;
		iov_iter_advance(&it, len);
	}
	return true;
}

bool netgpu_tx_routed(struct sock *sk, struct netgpu_device *dev)
{
	struct dst_entry *dst;

	guard(rcu)();
	dst = __sk_dst_get(sk);
	return !dst || (dst_dev_rcu(dst) == READ_ONCE(dev->netdev) && sk->sk_route_caps & NETIF_F_SG);
}

int netgpu_tx_queue(struct sock *sk, struct msghdr *msg, size_t size, struct netgpu_ubuf *ubuf)
{
	msg->msg_ubuf = netgpu_ubuf_info(ubuf);
	msg->sg_from_iter = netgpu_fill_skb;
	return tcp_sendmsg_locked(sk, msg, size);
}

int netgpu_sendmsg(struct sock *sk, struct msghdr *msg, size_t size)
{
	struct netgpu_ulp *ulp = netgpu_ulp_of(sk);
	int ret;

	if (!(msg->msg_flags & MSG_ZEROCOPY) || !size || msg->msg_ubuf || !user_backed_iter(&msg->msg_iter) ||
	    !netgpu_tx_enabled(ulp->socket))
		return ulp->base->sendmsg(sk, msg, size);

	lock_sock(sk);
	ret = ulp->attached ? netgpu_tx_send(ulp->socket, sk, msg, size) : -ECONNABORTED;
	release_sock(sk);
	return ret;
}

void netgpu_tx_wake(struct sock *sk)
{
	struct socket_wq *wq;

	guard(rcu)();
	wq = rcu_dereference(sk->sk_wq);
	if (skwq_has_sleeper(wq))
		wake_up_interruptible_poll(&wq->wait, EPOLLIN | EPOLLRDNORM);
}
