/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* What bpftrace finds in the BTF of a kernel that has it; that of the tests has none. */
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef _Bool bool;
