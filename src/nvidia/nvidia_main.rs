// SPDX-License-Identifier: GPL-2.0

//! netgpu_nvidia: memory of NVIDIA's GPUs for netgpu, by the peer-to-peer interface of NVIDIA's kernel driver.
//!
//! netgpu.ko loads this module when the first region of such memory is added. All of it is a border to C:
//!
//! - [`abi`]: what bindgen makes of that interface and of the one to netgpu.ko
//! - [`driver`]: the functions of NVIDIA's driver
//! - [`pages`]: pinned memory, and its mappings

use kernel::prelude::*;

mod driver;
mod pages;

include!("../abi.rs");
abi!("abi_generated.rs");

module! {
    type: NetGpuNvidia,
    name: "netgpu_nvidia",
    authors: ["the netgpu maintainers"],
    description: "Memory of NVIDIA's GPUs for netgpu",
    license: "GPL",
    imports_ns: ["NETGPU"],
}

/// The module.
struct NetGpuNvidia {
    _registration: pages::Registration,
}

impl kernel::Module for NetGpuNvidia {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let driver = driver::Driver::find().inspect_err(|_| {
            pr_err!("nvidia.ko offers no peer-to-peer functions to this module: it is not loaded, or it is its closed flavour, which keeps them from modules under the GPL. Load the open flavour.\n");
        })?;
        Ok(Self {
            _registration: pages::Registration::new(driver)?,
        })
    }
}
