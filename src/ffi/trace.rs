// SPDX-License-Identifier: GPL-2.0

//! Trace events: `shim/netgpu_trace.h` says what each tells. One that nobody listens to costs an instruction that does nothing.

use super::abi;
use kernel::{
    bindings::tracepoint,
    jump_label::static_branch_unlikely, //
};

/// Makes a function for each event. As the kernel's `declare_trace!`, which knows the kernel's own events only.
macro_rules! events {
    ($($name:ident($($arg:ident: $type:ty),*);)*) => {$(
        #[inline(always)]
        pub(crate) fn $name($($arg: $type),*) {
            #[cfg(CONFIG_TRACEPOINTS)]
            // SAFETY: The key is one of an event of ours; integers will do for it, in any context.
            let listened = unsafe {
                kernel::macros::paste! {
                    static_branch_unlikely!(abi::[<__tracepoint_netgpu_ $name>], tracepoint, key)
                }
            };
            #[cfg(not(CONFIG_TRACEPOINTS))]
            let listened = false;
            if listened {
                // SAFETY: As above.
                unsafe { kernel::macros::paste! { abi::[<rust_do_trace_netgpu_ $name>]($($arg),*) } };
            }
        }
    )*};
}

events! {
    bind(context: u64, ifindex: u32);
    region_attach(context: u64, addr: u64, len: u64);
    region_revoke(context: u64, addr: u64, len: u64);
    queue_open(context: u64, queue: u32, index: u32);
    queue_close(context: u64, queue: u32, index: u32);
    queue_empty(context: u64, queue: u32, index: u32);
    bad_addr(context: u64, queue: u32, addr: u64);
    bad_return(context: u64, queue: u32, addr: u64);
    attach(context: u64, socket: u32);
    detach(context: u64, socket: u32, aborted: bool);
    deliver(context: u64, socket: u32, zerocopy: u32, split: u32, no_room: u32, unsplit: u32);
    stall(context: u64, socket: u32, reason: u32);
    send(context: u64, socket: u32, id: u32, len: u32);
    complete(context: u64, socket: u32, id: u32, copied: bool);
}
