// SPDX-License-Identifier: GPL-2.0
/* What fail_function of the kernel may have fail instead of run (CONFIG_FAIL_FUNCTION; tests/inject does). */
#include <linux/error-injection.h>

#include "shim.h"

ALLOW_ERROR_INJECTION(netgpu_ulp_init, ERRNO);
ALLOW_ERROR_INJECTION(netgpu_recvmsg, ERRNO);
ALLOW_ERROR_INJECTION(netgpu_sendmsg, ERRNO);
ALLOW_ERROR_INJECTION(netgpu_pool_init, ERRNO);
ALLOW_ERROR_INJECTION(netgpu_alloc_netmems, NULL);
ALLOW_ERROR_INJECTION(netgpu_send_fill, ERRNO);
ALLOW_ERROR_INJECTION(netgpu_send_link, ERRNO);
