/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What Rust has of the kernel beyond the kernel crate. bindgen reads this file with the flags that C files of the
 * module are compiled with (src/abi_generated.rs), so that every structure has the layout of the kernel that the
 * module is built for. bindgen_parameters names what is taken of it.
 */
#ifndef NETGPU_SHIM_H
#define NETGPU_SHIM_H

#include <linux/dma-buf.h>
#include <linux/dma-fence.h>
#include <linux/dma-mapping.h>
#include <linux/dma-resv.h>
#include <linux/ethtool_netlink.h>
#include <linux/file.h>
#include <linux/netdevice.h>
#include <linux/poll.h>
#include <linux/rtnetlink.h>
#include <net/netdev_lock.h>
#include <net/netdev_queues.h>
#include <net/netdev_rx_queue.h>
#include <net/netmem.h>
#include <net/page_pool/helpers.h>
#include <net/page_pool/memory_provider.h>
#include <net/sch_generic.h>
#include <net/tcp.h>
#include <net/transp_v6.h>

#include <linux/netgpu.h>

#include "gpu.h"
#include "netgpu_trace.h"

/* Macros with casts in them, as numbers. */
enum {
	NETGPU_CMD_INFO			= NETGPU_IOC_INFO,
	NETGPU_CMD_ADD_REGION		= NETGPU_IOC_ADD_REGION,
	NETGPU_CMD_BIND			= NETGPU_IOC_BIND,
	NETGPU_CMD_ATTACH_REGION	= NETGPU_IOC_ATTACH_REGION,
	NETGPU_CMD_OPEN_QUEUE		= NETGPU_IOC_OPEN_QUEUE,
	NETGPU_CMD_CLOSE_QUEUE		= NETGPU_IOC_CLOSE_QUEUE,
	NETGPU_CMD_ATTACH_SOCKET	= NETGPU_IOC_ATTACH_SOCKET,
	NETGPU_CMD_DETACH_SOCKET	= NETGPU_IOC_DETACH_SOCKET,
	NETGPU_CMD_QUEUE_STATS		= NETGPU_IOC_QUEUE_STATS,
	NETGPU_CMD_SOCKET_STATS		= NETGPU_IOC_SOCKET_STATS,
	NETGPU_CMD_CONTEXT_STATS	= NETGPU_IOC_CONTEXT_STATS,
	NETGPU_CMD_REGION_STATS		= NETGPU_IOC_REGION_STATS,
	NETGPU_FMODE_WRITE		= (__force int)FMODE_WRITE,
	NETGPU_POLL_READABLE		= (__force int)(EPOLLIN | EPOLLRDNORM),
};

/* patched.c: functions that the kernel exports with patches/ only. NULL: it does not. */
struct netgpu_patched {
	typeof(netif_mp_open_rxq) *netif_mp_open_rxq;
	typeof(netif_mp_try_close_rxq) *netif_mp_try_close_rxq;
	typeof(net_mp_ops_valid) *net_mp_ops_valid;
	typeof(net_mp_niov_set_page_pool) *net_mp_niov_set_page_pool;
	typeof(net_mp_niov_clear_page_pool) *net_mp_niov_clear_page_pool;
	typeof(netdev_queue_get_dma_dev) *netdev_queue_get_dma_dev;
};

extern const struct netgpu_patched netgpu_patched;

/* src/ffi/gpu.rs, for exports.c. */
int netgpu_gpu_register(const struct netgpu_gpu_ops *ops);
void netgpu_gpu_unregister(void);

/* marker.c, and what it calls: src/ffi/drain.rs. */
bool netgpu_send_marker(struct net_device *dev, unsigned int index, void *arg);
void netgpu_marker_passed(void *arg);

/* src/ffi/ulp.rs, provider.rs and send.rs: what the kernel calls that can fail, for injection.c. */
int netgpu_ulp_init(struct sock *sk);
int netgpu_recvmsg(struct sock *sk, struct msghdr *msg, size_t len, int flags);
int netgpu_sendmsg(struct sock *sk, struct msghdr *msg, size_t size);
int netgpu_pool_init(struct page_pool *pool);
netmem_ref netgpu_alloc_netmems(struct page_pool *pool, gfp_t gfp);
int netgpu_send_fill(struct sk_buff *skb, struct iov_iter *from, size_t length);
int netgpu_send_link(struct sk_buff *packet, struct ubuf_info *ubuf);

/* helpers.c: inlines and macros of the kernel, each under its own name behind the prefix. */
void netgpu_spin_lock_bh(spinlock_t *lock);
void netgpu_spin_unlock_bh(spinlock_t *lock);
void netgpu_write_lock_bh(rwlock_t *lock);
void netgpu_write_unlock_bh(rwlock_t *lock);
void netgpu_netdev_hold(struct net_device *dev, netdevice_tracker *tracker, gfp_t gfp);
void netgpu_netdev_put(struct net_device *dev, netdevice_tracker *tracker);
void netgpu_netdev_lock(struct net_device *dev);
void netgpu_netdev_unlock(struct net_device *dev);
bool netgpu_netif_running(const struct net_device *dev);
bool netgpu_netif_active(const struct net_device *dev);
bool netgpu_qdisc_run_begin(struct Qdisc *qdisc);
void netgpu_qdisc_run_end(struct Qdisc *qdisc);
struct net *netgpu_dev_net(const struct net_device *dev);
struct net *netgpu_sock_net(const struct sock *sk);
const struct cred *netgpu_get_current_cred(void);
bool netgpu_net_capable(const struct cred *cred, const struct net *net, int cap);
void netgpu_synchronize_rcu_tasks(void);
bool netgpu_mapping_can_writeback(struct address_space *mapping);
bool netgpu_dma_need_sync(struct device *dev, dma_addr_t addr);
void netgpu_memcpy_to_page(struct page *page, size_t offset, const char *from, size_t len);
void netgpu_page_pool_fragment_netmem(netmem_ref netmem, long nr);
void netgpu_skb_add_rx_frag_netmem(struct sk_buff *skb, int i, netmem_ref netmem, int off, int size,
				   unsigned int truesize);
void *netgpu_skb_frag_address(const skb_frag_t *frag);
bool netgpu_sk_is_tcp(const struct sock *sk);
bool netgpu_sk_is_signed(const struct sock *sk);
void netgpu_sock_hold(struct sock *sk);
void netgpu_sock_put(struct sock *sk);
void netgpu_bh_lock_sock(struct sock *sk);
void netgpu_bh_unlock_sock(struct sock *sk);
bool netgpu_sock_owned_by_user(const struct sock *sk);
int netgpu_sock_error(struct sock *sk);
struct sk_buff *netgpu_tcp_rtx_queue_head(const struct sock *sk);
struct sk_buff *netgpu_skb_rb_next(const struct sk_buff *skb);
void netgpu_dma_fence_put(struct dma_fence *fence);
void netgpu_iosys_map_memcpy_to(const struct iosys_map *map, size_t offset, const void *from, size_t len);
bool netgpu_skwq_has_sleeper(struct socket_wq *wq);
int netgpu_request_gpu_module(void);
void *netgpu_ioremap_wc(phys_addr_t addr, size_t len);
void netgpu_iounmap(void *addr);
void netgpu_memcpy_toio(void *to, const void *from, size_t len);
unsigned long netgpu_folio_pages(struct page **pages, unsigned long count);
unsigned long netgpu_neighbour_pages(struct page **pages, unsigned long count);
void netgpu_sg_set_page(struct scatterlist *sg, struct page *page, unsigned int len);
void *netgpu_counters_alloc(u32 count);
void netgpu_counters_free(void *counters);
void netgpu_counters_add(void *counters, u32 i, u64 n);
u64 netgpu_counters_sum(void *counters, u32 i);

#endif /* NETGPU_SHIM_H */
