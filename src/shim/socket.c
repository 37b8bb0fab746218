// SPDX-License-Identifier: GPL-2.0
/* The TCP upper layer protocol: how a socket becomes ours and stops being it. */
#include <linux/file.h>
#include <linux/net.h>
#include <linux/slab.h>
#include <net/tcp.h>
#include <net/transp_v6.h>

#include "shim.h"

/* One copy for each protocol that sockets come with, made when the module is loaded. */
static struct {
	struct proto *base;
	struct proto ours;
} netgpu_protos[] = {
	{ .base = &tcp_prot },
#if IS_ENABLED(CONFIG_IPV6)
	{ .base = &tcpv6_prot },
#endif
};

/* The attach under way. ULP init has no argument: it knows its own attach by the task and the socket. */
static struct {
	struct mutex lock;	/* held while an attach is under way */
	struct task_struct *task;
	struct sock *sk;
	struct netgpu_ulp *ulp;
	struct net_device *netdev;
} netgpu_pending = {
	.lock = __MUTEX_INITIALIZER(netgpu_pending.lock),
};

int netgpu_socket_get(int fd, struct file **file, struct sock **sk)
{
	struct socket *sock;
	int err;

	sock = sockfd_lookup(fd, &err);
	if (!sock)
		return err;
	if (!sk_is_tcp(sock->sk)) {
		sockfd_put(sock);
		return -EOPNOTSUPP;
	}
	*file = sock->file;
	*sk = sock->sk;
	return 0;
}

void netgpu_socket_put(struct file *file)
{
	fput(file);
}

void netgpu_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void netgpu_sock_put(struct sock *sk)
{
	sock_put(sk);
}

static struct proto *netgpu_proto_for(struct proto *base)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(netgpu_protos); i++)
		if (netgpu_protos[i].base == base)
			return &netgpu_protos[i].ours;
	return NULL;
}

static int netgpu_ulp_init(struct sock *sk)
{
	int ifindex, err;
	struct netgpu_ulp *ulp;
	struct proto *proto;

	/* TCP_ULP from user space: a socket is attached through the context only. */
	if (READ_ONCE(netgpu_pending.task) != current || netgpu_pending.sk != sk)
		return -EOPNOTSUPP;
	ulp = netgpu_pending.ulp;
	proto = netgpu_proto_for(sk->sk_prot);
	if (!proto)
		return -EOPNOTSUPP;

	ifindex = netgpu_pending.netdev->ifindex;
	if (sock_net(sk) != dev_net(netgpu_pending.netdev) || (sk->sk_bound_dev_if && sk->sk_bound_dev_if != ifindex))
		return -EXDEV;
	if (!sk->sk_bound_dev_if) {
		err = sock_bindtoindex(sk, ifindex, false);
		if (err)
			return err;
	}
	/* A probe would carry fragments of several sends without what tells their end. */
	inet_csk(sk)->icsk_mtup.enabled = 0;

	write_lock_bh(&sk->sk_callback_lock);
	ulp->base = sk->sk_prot;
	ulp->data_ready = sk->sk_data_ready;
	ulp->attached = true;
	rcu_assign_pointer(inet_csk(sk)->icsk_ulp_data, ulp);
	sk->sk_data_ready = netgpu_data_ready;
	WRITE_ONCE(sk->sk_prot, proto);
	write_unlock_bh(&sk->sk_callback_lock);

	netgpu_socket_attached(ulp->socket, sk);
	return 0;
}

int netgpu_socket_attach(struct file *file, struct netgpu_device *dev, void *socket)
{
	struct socket *sock = sock_from_file(file);
	netdevice_tracker tracker;
	struct net_device *netdev = netgpu_netdev_get(dev, &tracker);
	struct netgpu_ulp *ulp;
	int err;

	if (!netdev)
		return -ENODEV;
	err = -ENOMEM;
	ulp = kzalloc_obj(*ulp, GFP_KERNEL_ACCOUNT);
	if (!ulp)
		goto out;
	ulp->socket = socket;

	mutex_lock(&netgpu_pending.lock);
	netgpu_pending.sk = sock->sk;
	netgpu_pending.ulp = ulp;
	netgpu_pending.netdev = netdev;
	WRITE_ONCE(netgpu_pending.task, current);
	err = READ_ONCE(sock->ops)->setsockopt(sock, SOL_TCP, TCP_ULP, KERNEL_SOCKPTR(NETGPU_ULP_NAME),
					       sizeof(NETGPU_ULP_NAME));
	WRITE_ONCE(netgpu_pending.task, NULL);
	mutex_unlock(&netgpu_pending.lock);
	if (err)
		kfree(ulp);
out:
	netdev_put(netdev, &tracker);
	return err;
}

/* Socket lock held. Returns the context, for the caller to let go of. */
static void *netgpu_detach(struct sock *sk, struct netgpu_ulp *ulp)
{
	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_data_ready = ulp->data_ready;
	WRITE_ONCE(sk->sk_prot, ulp->base);
	write_unlock_bh(&sk->sk_callback_lock);
	ulp->attached = false;
	return netgpu_socket_detached(ulp->socket, sk);
}

bool netgpu_socket_abort(struct sock *sk, void *socket)
{
	bool attached, unfinished;
	struct netgpu_ulp *ulp;

	lock_sock(sk);
	ulp = netgpu_ulp_of(sk);
	attached = ulp && ulp->attached && ulp->socket == socket;
	if (attached) {
		unfinished = netgpu_socket_unfinished(socket, sk);
		netgpu_context_put(netgpu_detach(sk, ulp));
		if (unfinished) {
			ulp->base->disconnect(sk, 0);
			WRITE_ONCE(sk->sk_err, ECONNABORTED);
			sk_error_report(sk);
		}
	}
	release_sock(sk);
	return attached;
}

void netgpu_sock_reset(struct sock *sk)
{
	tcp_abort(sk, ECONNABORTED);
}

static void netgpu_close(struct sock *sk, long timeout)
{
	struct netgpu_ulp *ulp = netgpu_ulp_of(sk);
	struct proto *base = ulp->base;
	void *context = NULL;

	lock_sock(sk);
	if (ulp->attached)
		context = netgpu_detach(sk, ulp);
	release_sock(sk);
	if (context)
		netgpu_socket_closed(ulp->socket, context);
	base->close(sk, timeout);
}

/* The socket is being destroyed, in any context; close() has detached it. */
static void netgpu_ulp_release(struct sock *sk)
{
	struct netgpu_ulp *ulp = netgpu_ulp_of(sk);

	rcu_assign_pointer(inet_csk(sk)->icsk_ulp_data, NULL);
	netgpu_socket_released(ulp->socket);
	kfree(ulp);
}

static struct tcp_ulp_ops netgpu_ulp_ops __read_mostly = {
	.name		= NETGPU_ULP_NAME,
	.owner		= THIS_MODULE,
	.init		= netgpu_ulp_init,
	.release	= netgpu_ulp_release,
};

int netgpu_ulp_register(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(netgpu_protos); i++) {
		struct proto *ours = &netgpu_protos[i].ours;

		*ours = *netgpu_protos[i].base;
		ours->close = netgpu_close;
		ours->recvmsg = netgpu_recvmsg;
		ours->sendmsg = netgpu_sendmsg;
		ours->sock_is_readable = netgpu_sock_is_readable;
	}
	return tcp_register_ulp(&netgpu_ulp_ops);
}

void netgpu_ulp_unregister(void)
{
	tcp_unregister_ulp(&netgpu_ulp_ops);
}
