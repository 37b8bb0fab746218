/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the shim share; Rust never sees it. */
#ifndef NETGPU_SHIM_PRIVATE_H
#define NETGPU_SHIM_PRIVATE_H

#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <linux/scatterlist.h>
#include <net/netdev_queues.h>
#include <net/netmem.h>
#include <net/page_pool/memory_provider.h>
#include <net/page_pool/types.h>
#include <net/tcp.h>

#include "netgpu_shim.h"

/*
 * The kernel exports these with patches/ only. Weak references let the module load without them, so that it can say
 * which patch is missing instead of "Unknown symbol".
 */
int netif_mp_open_rxq(struct net_device *dev, unsigned int rxq_idx, const struct pp_memory_provider_params *p,
		      struct netlink_ext_ack *extack) __weak;
void netif_mp_close_rxq(struct net_device *dev, unsigned int rxq_idx,
			const struct pp_memory_provider_params *old_p) __weak;
bool net_mp_ops_valid(const struct memory_provider_ops *mp_ops) __weak;
bool net_mp_niov_set_dma_addr(struct net_iov *niov, dma_addr_t addr) __weak;
void net_mp_niov_set_page_pool(struct page_pool *pool, struct net_iov *niov) __weak;
void net_mp_niov_clear_page_pool(struct net_iov *niov) __weak;
struct device *netdev_queue_get_dma_dev(struct net_device *dev, unsigned int idx, enum netdev_queue_type type) __weak;

struct netgpu_device {
	struct notifier_block nb;
	bool watched;
	struct mutex lock;		/* guards @netdev */
	struct net_device *netdev;	/* NULL once the device is gone */
	netdevice_tracker tracker;
	struct device *dma;
	void *context;
};

/* The network device with a reference for the caller, or NULL when it is gone. */
struct net_device *netgpu_netdev_get(struct netgpu_device *dev, netdevice_tracker *tracker);

struct netgpu_map {
	struct net_iov_area nia;
	struct page **pages;
	void *context;
	void *attachment;
	struct device *dma;
	const struct net_device *tx_dev;	/* an identity; NULL: must not be sent */
	struct sg_table sgt;
	bool mapped;
};

/* The map that @niov is of, or NULL when it is none of ours. */
struct netgpu_map *netgpu_map_of(const struct net_iov *niov);

/* What hangs on a socket of ours, from attaching until the socket is destroyed. */
struct netgpu_ulp {
	struct proto *base;		/* the protocol's own functions */
	void (*data_ready)(struct sock *sk);
	void *socket;
	bool attached;			/* guarded by the socket lock */
};

static inline struct netgpu_ulp *netgpu_ulp_of(const struct sock *sk)
{
	return (__force struct netgpu_ulp *)READ_ONCE(inet_csk(sk)->icsk_ulp_data);
}

/* provider.c */
extern const struct memory_provider_ops netgpu_mp_ops;

/* proto functions and callback of rx.c and tx.c. */
int netgpu_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags);
bool netgpu_sock_is_readable(struct sock *sk);
void netgpu_data_ready(struct sock *sk);
int netgpu_sendmsg(struct sock *sk, struct msghdr *msg, size_t size);

#endif /* NETGPU_SHIM_PRIVATE_H */
