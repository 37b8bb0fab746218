// SPDX-License-Identifier: GPL-2.0

//! What the administrator sees of contexts: a file for each in the directory `netgpu` of debugfs, named by its number, with a line
//! for the context and one for each region, queue and socket. Addresses are those of user space; what else there is to know of a
//! socket, the kernel tells in /proc/net/tcp and by sock_diag(7), of its inode.

use crate::{
    context::{
        Context,
        Part, //
    },
    ffi::{
        late::Late,
        module, //
    },
    stats, //
};
use kernel::{
    debugfs::File,
    fmt,
    prelude::*,
    str::CString, //
};

/// The file of a context, for as long as this lives.
pub(crate) type ContextFile = Pin<KBox<File<Late<Context>>>>;

/// Shows `context`. [`None`]: there is no debugfs.
pub(crate) fn show(context: &Late<Context>) -> Result<Option<ContextFile>> {
    let Some(dir) = module::debugfs() else {
        return Ok(None);
    };
    let id = context.id();
    let name = CString::try_from_fmt(fmt!("{id}"))?;
    let file = KBox::pin_init(
        dir.read_callback_file(&name, context.clone(), &|context, f| write(context, f)),
        GFP_KERNEL_ACCOUNT,
    )?;
    Ok(Some(file))
}

/// Writes fields of a structure, each behind its name, and ends the line.
macro_rules! fields {
    ($f:ident, $stats:expr, $($field:ident)*) => {{
        let stats = $stats;
        $(write!($f, concat!(" ", stringify!($field), " {}"), stats.$field)?;)*
        writeln!($f)
    }};
}

fn write(context: &Late<Context>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "context {}", context.id())?;
    if let Ok(device) = context.device() {
        write!(f, " ifindex {}", device.ifindex())?;
    }
    fields!(f, stats::of_context(context),
        regions queues sockets buffer_size attached aborted revoked donated free
        rx_zerocopy rx_copied_split rx_copied_no_room rx_copied_unsplit rx_zerocopy_packets rx_copied_packets
        tx_zerocopy tx_sends tx_copied tx_copied_sends bad_addr bad_return empty)?;
    context.visit(|part| match part {
        Part::Region(attachment) => {
            let stats = stats::of_region(attachment);
            write!(f, "region {:#x}", stats.addr)?;
            fields!(f, stats, len rx_zerocopy rx_copied tx_zerocopy bad_return free)
        }
        Part::Queue(queue) => {
            let stats = stats::of_queue(queue);
            write!(f, "queue {} index {}", stats.id, queue.index())?;
            fields!(f, stats, filled refilled drained bad_addr bad_return empty rx_zerocopy rx_packets)
        }
        Part::Socket(socket) => {
            let stats = stats::of_socket(context, socket);
            write!(f, "socket {} inode {}", stats.id, socket.inode())?;
            fields!(f, stats,
                rx_zerocopy rx_copied_split rx_copied_no_room rx_copied_unsplit rx_zerocopy_packets rx_copied_packets
                rx_stalled_ring rx_stalled_share rx_stalled_buffer rx_stalled_pause rx_stalled_memory
                tx_zerocopy tx_sends tx_copied tx_copied_sends tx_refused tx_pending held share)
        }
    })
}
