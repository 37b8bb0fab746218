// SPDX-License-Identifier: GPL-2.0

//! Functions that the kernel exports with the series in `patches/` only.

use super::{
    abi,
    provider, //
};
use kernel::prelude::*;

/// Calls a function of `struct netgpu_patched`, with the requirements that it has in the kernel.
macro_rules! patched {
    ($name:ident($($arg:expr),* $(,)?)) => {
        // `check_kernel()` has seen that there is one; the module does not load otherwise.
        ($crate::ffi::abi::netgpu_patched.$name.unwrap_unchecked())($($arg),*)
    };
}
pub(super) use patched;

/// Fails, saying why, on a kernel without the patches that the module stands on.
pub(crate) fn check_kernel() -> Result {
    // SAFETY: A constant of the shim.
    let abi::netgpu_patched {
        net_mp_ops_valid,
        netif_mp_open_rxq,
        netif_mp_try_close_rxq,
        net_mp_niov_set_page_pool,
        net_mp_niov_clear_page_pool,
        netdev_queue_get_dma_dev,
    } = unsafe { &abi::netgpu_patched };
    // SAFETY: The table is a constant.
    let ops_valid = net_mp_ops_valid.is_some_and(|valid| unsafe { valid(&provider::OPS) });
    let exported = netif_mp_open_rxq.is_some()
        && net_mp_niov_set_page_pool.is_some()
        && net_mp_niov_clear_page_pool.is_some()
        && netdev_queue_get_dma_dev.is_some();
    let patch = match (ops_valid, exported, netif_mp_try_close_rxq.is_some()) {
        (true, true, true) => return Ok(()),
        (false, ..) => "page_pool: accept memory provider ops of a module",
        (true, false, _) => "net: export the memory provider interface",
        (true, true, false) => "net: let a memory provider wait for its queue to close",
    };
    pr_err!("this kernel lacks the patch \"{patch}\"; apply the series in patches/ and boot it\n");
    Err(ENOSYS)
}
