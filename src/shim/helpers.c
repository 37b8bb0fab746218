// SPDX-License-Identifier: GPL-2.0
/* Inlines and macros of the kernel as functions, for Rust. */
#include <linux/backing-dev.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/kmod.h>
#include <linux/percpu.h>
#include <linux/rcupdate.h>
#include <linux/scatterlist.h>

#include "shim.h"

void netgpu_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

void netgpu_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}

void netgpu_write_lock_bh(rwlock_t *lock)
{
	write_lock_bh(lock);
}

void netgpu_write_unlock_bh(rwlock_t *lock)
{
	write_unlock_bh(lock);
}

void netgpu_netdev_hold(struct net_device *dev, netdevice_tracker *tracker, gfp_t gfp)
{
	netdev_hold(dev, tracker, gfp);
}

void netgpu_netdev_put(struct net_device *dev, netdevice_tracker *tracker)
{
	netdev_put(dev, tracker);
}

void netgpu_netdev_lock(struct net_device *dev)
{
	netdev_lock(dev);
}

void netgpu_netdev_unlock(struct net_device *dev)
{
	netdev_unlock(dev);
}

bool netgpu_netif_running(const struct net_device *dev)
{
	return netif_running(dev);
}

bool netgpu_netif_active(const struct net_device *dev)
{
	return netif_running(dev) && netif_device_present(dev);
}

bool netgpu_qdisc_run_begin(struct Qdisc *qdisc)
{
	return qdisc_run_begin(qdisc);
}

void netgpu_qdisc_run_end(struct Qdisc *qdisc)
{
	kfree_skb_list(qdisc_run_end(qdisc));
}

struct net *netgpu_dev_net(const struct net_device *dev)
{
	return dev_net(dev);
}

struct net *netgpu_sock_net(const struct sock *sk)
{
	return sock_net(sk);
}

const struct cred *netgpu_get_current_cred(void)
{
	return get_current_cred();
}

/* Whether who has @cred is capable of @cap over @net. */
bool netgpu_net_capable(const struct cred *cred, const struct net *net, int cap)
{
	const struct cred *old = override_creds(cred);
	bool capable = ns_capable(net->user_ns, cap);

	revert_creds(old);
	return capable;
}

void netgpu_synchronize_rcu_tasks(void)
{
	synchronize_rcu_tasks();
}

bool netgpu_mapping_can_writeback(struct address_space *mapping)
{
	return mapping_can_writeback(mapping);
}

bool netgpu_dma_need_sync(struct device *dev, dma_addr_t addr)
{
	/*
	 * Not dma_dev_need_sync(): with CONFIG_DMA_API_DEBUG that is true of every device, so that syncing can be checked, and
	 * then every address behind an IOMMU would need it.
	 */
#ifdef CONFIG_DMA_NEED_SYNC
	if (dev_dma_skip_sync(dev))
		return false;
#endif
	return dma_need_sync(dev, addr);
}

void netgpu_memcpy_to_page(struct page *page, size_t offset, const char *from, size_t len)
{
	memcpy_to_page(page, offset, from, len);
}

void netgpu_page_pool_fragment_netmem(netmem_ref netmem, long nr)
{
	page_pool_fragment_netmem(netmem, nr);
}

void netgpu_skb_add_rx_frag_netmem(struct sk_buff *skb, int i, netmem_ref netmem, int off, int size,
				   unsigned int truesize)
{
	skb_add_rx_frag_netmem(skb, i, netmem, off, size, truesize);
}

void *netgpu_skb_frag_address(const skb_frag_t *frag)
{
	return skb_frag_address(frag);
}

bool netgpu_sk_is_tcp(const struct sock *sk)
{
	return sk_is_tcp(sk);
}

/* Whether segments of a TCP socket may have to be signed: TCP-MD5, TCP-AO. The caller owns its lock. */
bool netgpu_sk_is_signed(const struct sock *sk)
{
#ifdef CONFIG_TCP_MD5SIG
	const struct tcp_md5sig_info *md5 = rcu_dereference_protected(tcp_sk(sk)->md5sig_info, lockdep_sock_is_held(sk));

	if (md5 && !hlist_empty(&md5->head))
		return true;
#endif
#ifdef CONFIG_TCP_AO
	if (rcu_access_pointer(tcp_sk(sk)->ao_info))
		return true;
#endif
	return false;
}

void netgpu_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void netgpu_sock_put(struct sock *sk)
{
	sock_put(sk);
}

void netgpu_bh_lock_sock(struct sock *sk)
{
	bh_lock_sock(sk);
}

void netgpu_bh_unlock_sock(struct sock *sk)
{
	bh_unlock_sock(sk);
}

bool netgpu_sock_owned_by_user(const struct sock *sk)
{
	return sock_owned_by_user_nocheck(sk);
}

int netgpu_sock_error(struct sock *sk)
{
	return sock_error(sk);
}

bool netgpu_skwq_has_sleeper(struct socket_wq *wq)
{
	return skwq_has_sleeper(wq);
}

struct sk_buff *netgpu_tcp_rtx_queue_head(const struct sock *sk)
{
	return tcp_rtx_queue_head(sk);
}

struct sk_buff *netgpu_skb_rb_next(const struct sk_buff *skb)
{
	return skb_rb_next(skb);
}

void netgpu_dma_fence_put(struct dma_fence *fence)
{
	dma_fence_put(fence);
}

void netgpu_iosys_map_memcpy_to(const struct iosys_map *map, size_t offset, const void *from, size_t len)
{
	struct iosys_map to = *map;

	iosys_map_memcpy_to(&to, offset, from, len);
}

int netgpu_request_gpu_module(void)
{
	return request_module("netgpu_nvidia");
}

/* Rust has no address spaces. */
void *netgpu_ioremap_wc(phys_addr_t addr, size_t len)
{
	return (__force void *)ioremap_wc(addr, len);
}

void netgpu_iounmap(void *addr)
{
	iounmap((__force void __iomem *)addr);
}

void netgpu_memcpy_toio(void *to, const void *from, size_t len)
{
	memcpy_toio((__force void __iomem *)to, from, len);
}

/* Here and not in Rust, this one and the next: a call for each page would cost more than the rest. */
unsigned long netgpu_folio_pages(struct page **pages, unsigned long count)
{
	struct folio *last = NULL;
	unsigned long sum = 0, i;

	for (i = 0; i < count; i++) {
		struct folio *folio = page_folio(pages[i]);

		if (folio != last)
			sum += folio_nr_pages(folio);
		last = folio;
	}
	return sum;
}

unsigned long netgpu_neighbour_pages(struct page **pages, unsigned long count)
{
	unsigned long first = page_to_pfn(pages[0]), n = 1;

	while (n < count && page_to_pfn(pages[n]) == first + n)
		n++;
	return n;
}

void netgpu_sg_set_page(struct scatterlist *sg, struct page *page, unsigned int len)
{
	sg_set_page(sg, page, len, 0);
}

void *netgpu_counters_alloc(u32 count)
{
	return (__force void *)__alloc_percpu_gfp(count * sizeof(u64), sizeof(u64), GFP_KERNEL_ACCOUNT);
}

void netgpu_counters_free(void *counters)
{
	free_percpu((__force u64 __percpu *)counters);
}

void netgpu_counters_add(void *counters, u32 i, u64 n)
{
	this_cpu_add(((__force u64 __percpu *)counters)[i], n);
}

u64 netgpu_counters_sum(void *counters, u32 i)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(*per_cpu_ptr((__force u64 __percpu *)counters + i, cpu));
	return sum;
}
