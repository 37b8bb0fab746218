// SPDX-License-Identifier: GPL-2.0
/* What other modules call of this one. */
#include <linux/export.h>

#include "shim.h"

int netgpu_register_gpu(const struct netgpu_gpu_ops *ops)
{
	return netgpu_gpu_register(ops);
}
EXPORT_SYMBOL_NS_GPL(netgpu_register_gpu, "NETGPU");

void netgpu_unregister_gpu(void)
{
	netgpu_gpu_unregister();
}
EXPORT_SYMBOL_NS_GPL(netgpu_unregister_gpu, "NETGPU");
