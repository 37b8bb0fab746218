// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of contexts and of regions in them.

use crate::area::Region;
use crate::context::Context;
use crate::error::{Command, Error};
use crate::sys;

/// Counters of a context, of all sockets and queues that it ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextStatistics {
    /// Number of the context, of which no two ever had the same: its name in debugfs and in the trace events.
    pub id: u64,
    /// Attached regions, now.
    pub regions: u32,
    /// Open queues, now.
    pub queues: u32,
    /// Attached sockets, now.
    pub sockets: u32,
    /// Bytes of a receive buffer; 0 from a kernel that has them of one size.
    pub buffer_size: u32,
    /// Sockets that were ever attached.
    pub attached: u64,
    /// Connections that were aborted because socket or context went.
    pub aborted: u64,
    /// Regions that were taken back.
    pub revoked: u64,
    /// Buffers that were given to the kernel, of the regions that are attached now.
    pub donated: u64,
    /// Buffers that neither we, nor a socket, nor the NIC has, and that can be copied into, now.
    pub free: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub rx_zerocopy: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub rx_copied_split: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub rx_copied_no_room: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub rx_copied_unsplit: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub rx_zerocopy_packets: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub rx_copied_packets: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub tx_zerocopy: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub tx_sends: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub tx_copied: u64,
    /// As [`crate::SocketStatistics`] has it.
    pub tx_copied_sends: u64,
    /// Fill entries that named no buffer.
    pub bad_addr: u64,
    /// Fill entries for a buffer that we did not hold.
    pub bad_return: u64,
    /// Times that the NIC asked for buffers and there was none.
    pub empty: u64,
}

/// Counters of a region in a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegionStatistics {
    /// Bytes that the NIC's DMA put there and that were delivered.
    pub rx_zerocopy: u64,
    /// Bytes that the CPU wrote there and that were delivered.
    pub rx_copied: u64,
    /// Bytes that packets were made of.
    pub tx_zerocopy: u64,
    /// Fill entries for a buffer of it that we did not hold.
    pub bad_return: u64,
    /// Buffers that neither we, nor a socket, nor the NIC has, now.
    pub free: u64,
}

impl Context {
    /// Reads the context's counters.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`].
    pub fn statistics(&self) -> Result<ContextStatistics, Error> {
        let counters = self
            .device()
            .context_stats()
            .map_err(|error| Error::refused(Command::Statistics, self.interface(), error))?;
        let sys::netgpu_context_stats {
            id,
            regions,
            queues,
            sockets,
            buffer_size,
            attached,
            aborted,
            revoked,
            donated,
            free,
            rx_zerocopy,
            rx_copied_split,
            rx_copied_no_room,
            rx_copied_unsplit,
            rx_zerocopy_packets,
            rx_copied_packets,
            tx_zerocopy,
            tx_sends,
            tx_copied,
            tx_copied_sends,
            bad_addr,
            bad_return,
            empty,
            reserved2: _,
        } = counters;
        Ok(ContextStatistics {
            id,
            regions,
            queues,
            sockets,
            buffer_size,
            attached,
            aborted,
            revoked,
            donated,
            free,
            rx_zerocopy,
            rx_copied_split,
            rx_copied_no_room,
            rx_copied_unsplit,
            rx_zerocopy_packets,
            rx_copied_packets,
            tx_zerocopy,
            tx_sends,
            tx_copied,
            tx_copied_sends,
            bad_addr,
            bad_return,
            empty,
        })
    }

    /// Reads the counters of a region that is attached.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] when it is not.
    pub fn region_statistics(&self, region: &Region) -> Result<RegionStatistics, Error> {
        let mut counters = sys::netgpu_region_stats {
            addr: region.address() as u64,
            ..Default::default()
        };
        self.device()
            .region_stats(&mut counters)
            .map_err(|error| Error::refused(Command::Statistics, "the region", error))?;
        let sys::netgpu_region_stats {
            addr: _,
            len: _,
            rx_zerocopy,
            rx_copied,
            tx_zerocopy,
            bad_return,
            free,
            reserved: _,
        } = counters;
        Ok(RegionStatistics {
            rx_zerocopy,
            rx_copied,
            tx_zerocopy,
            bad_return,
            free,
        })
    }
}
