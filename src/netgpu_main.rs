// SPDX-License-Identifier: GPL-2.0

//! netgpu: zero-copy TCP between a NIC and memory that the application chose.

use kernel::{
    miscdevice::MiscDeviceRegistration,
    prelude::*, //
};

mod area;
mod attach;
mod buffers;
mod context;
mod debugfs;
mod device;
mod ffi;
mod ioctl;
mod nospec;
mod queue;
mod ring;
mod rx;
mod slots;
mod socket;
mod span;
mod stats;
mod tx;

module! {
    type: NetGpu,
    name: "netgpu",
    authors: ["the netgpu maintainers"],
    description: "Zero-copy TCP between a NIC and memory that the application chose",
    license: "GPL",
    alias: ["netgpu", "tcp-ulp-netgpu"],
    imports_ns: ["DMA_BUF", "NETDEV_INTERNAL"],
}

/// The module. Fields are set up in reverse order of their teardown, which is the order they are listed in.
#[pin_data]
struct NetGpu {
    #[pin]
    _device: MiscDeviceRegistration<device::Handle>,
    /// Before the work queues: this waits until nobody is in code of the module but their work.
    _ulp: ffi::ulp::Registration,
    _softirq_queue: ffi::module::WorkQueue,
    _work_queue: ffi::module::WorkQueue,
    _debugfs: ffi::module::DebugFs,
}

impl kernel::InPlaceModule for NetGpu {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(|| {
            ffi::patched::check_kernel()?;
            ffi::gpu::start();
            let debugfs = ffi::module::DebugFs::start();
            let work_queue = ffi::module::WorkQueue::start()?;
            let softirq_queue = ffi::module::WorkQueue::start_softirq()?;
            let ulp = ffi::ulp::Registration::new()?;
            Ok(try_pin_init!(Self {
                _device <- device::register(),
                _ulp: ulp,
                _softirq_queue: softirq_queue,
                _work_queue: work_queue,
                _debugfs: debugfs,
            }? Error))
        })
    }
}
