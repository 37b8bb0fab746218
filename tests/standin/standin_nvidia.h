/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* /dev/standin_nvidia, see standin_nvidia.c: memory of the stand-in GPU for a process, for as long as the file is open. */
#ifndef STANDIN_NVIDIA_H
#define STANDIN_NVIDIA_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define STANDIN_NVIDIA_PATH	"/dev/standin_nvidia"
#define STANDIN_NVIDIA_PAGE	65536

/* Memory that the process knows at @addr from now on; both are whole pages. -ENOMEM: there is none left. */
struct standin_alloc {
	__aligned_u64 addr;
	__aligned_u64 len;
	__aligned_u64 offset;	/* out: where in the memory that /dev/standin_gpu has */
};

#define STANDIN_ALLOC	_IOWR(0xEB, 0x00, struct standin_alloc)
/* By its address. */
#define STANDIN_FREE	_IOW(0xEB, 0x01, __u64)

#endif
