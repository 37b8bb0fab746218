/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/* /dev/taker, see taker.c. */
#ifndef TAKER_H
#define TAKER_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define TAKER_PATH	"/dev/taker"

/* Takes a TCP socket, by its descriptor: one for each open file. */
#define TAKER_TAKE	_IOW(0xEB, 0x00, __s32)
/* Gives it back, as closing the file does. */
#define TAKER_GIVE_BACK	_IO(0xEB, 0x01)

#endif
