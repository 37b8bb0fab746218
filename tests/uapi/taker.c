// SPDX-License-Identifier: GPL-2.0
/*
 * What stands for another part of the kernel that takes sockets of programs: it does not look whether somebody has them, as iSCSI does not,
 * and gives back the callback that it found.
 */
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/net.h>
#include <net/sock.h>

#include "taker.h"

struct taker {
	struct mutex lock;
	struct socket *sock;	/* NULL: none */
	void (*data_ready)(struct sock *sk);
};

static void taker_data_ready(struct sock *sk)
{
}

static void taker_give_back(struct taker *t)
{
	struct sock *sk;

	if (!t->sock)
		return;
	sk = t->sock->sk;
	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_user_data = NULL;
	sk->sk_data_ready = t->data_ready;
	write_unlock_bh(&sk->sk_callback_lock);
	sockfd_put(t->sock);
	t->sock = NULL;
}

static int taker_take(struct taker *t, int fd)
{
	struct sock *sk;
	int err = 0;

	if (t->sock)
		return -EBUSY;
	t->sock = sockfd_lookup(fd, &err);
	if (!t->sock)
		return err;
	sk = t->sock->sk;
	write_lock_bh(&sk->sk_callback_lock);
	sk->sk_user_data = t;
	t->data_ready = sk->sk_data_ready;
	sk->sk_data_ready = taker_data_ready;
	write_unlock_bh(&sk->sk_callback_lock);
	return 0;
}

static long taker_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct taker *t = file->private_data;
	s32 fd;

	guard(mutex)(&t->lock);
	switch (cmd) {
	case TAKER_TAKE:
		if (copy_from_user(&fd, (void __user *)arg, sizeof(fd)))
			return -EFAULT;
		return taker_take(t, fd);
	case TAKER_GIVE_BACK:
		taker_give_back(t);
		return 0;
	default:
		return -ENOTTY;
	}
}

static int taker_open(struct inode *inode, struct file *file)
{
	struct taker *t = kzalloc(sizeof(*t), GFP_KERNEL);

	if (!t)
		return -ENOMEM;
	mutex_init(&t->lock);
	file->private_data = t;
	return 0;
}

static int taker_release(struct inode *inode, struct file *file)
{
	taker_give_back(file->private_data);
	kfree(file->private_data);
	return 0;
}

static const struct file_operations taker_fops = {
	.owner = THIS_MODULE,
	.open = taker_open,
	.release = taker_release,
	.unlocked_ioctl = taker_ioctl,
};

static struct miscdevice taker = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "taker",
	.fops = &taker_fops,
};
module_misc_device(taker);

MODULE_DESCRIPTION("Takes sockets, for tests of netgpu");
MODULE_LICENSE("GPL");
