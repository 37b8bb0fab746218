// SPDX-License-Identifier: MIT OR Apache-2.0
//! With devmem TCP, as `tools/testing/selftests/drivers/net/hw/ncdevmem.c` of the kernel uses it, but with many sends on their way.

use std::net::TcpStream;
use std::ptr;

use anyhow::Result;

use super::zerocopy::Sends;
use super::{Arguments, Send, Slots};
use crate::measure::Measurement;
use crate::memory::DmaBuf;
use crate::netdev::Netdev;

/// `SCM_DEVMEM_DMABUF` of asm-generic/socket.h: a control message with the number of the dma-buf that addresses are offsets in.
const SCM_DEVMEM_DMABUF: libc::c_int = 79;

pub(super) struct Devmem {
    sends: Sends,
    dma_buf: DmaBuf,
    /// Dropping it unbinds the dma-buf.
    _netdev: Netdev,
    id: u32,
}

impl Send for Devmem {
    fn open(
        arguments: &Arguments,
        stream: TcpStream,
        slots: Slots,
        measurement: &mut Measurement,
    ) -> Result<Self> {
        let dma_buf = DmaBuf::new(arguments.common.memory, slots.len(), measurement)?;
        let netdev = Netdev::open(&arguments.common.dev)?;
        let id = netdev.bind_tx(&dma_buf)?;
        Ok(Self {
            sends: Sends::new(stream, slots)?,
            dma_buf,
            _netdev: netdev,
            id,
        })
    }

    fn send(&mut self, data: Option<&[u8]>) -> Result<()> {
        let at = self.sends.free_slot()?;
        if let Some(data) = data {
            self.dma_buf.write(at, data)?;
        }
        let id = self.id;
        self.sends.send(at, |fd, at, len| {
            let mut buffer = libc::iovec {
                iov_base: ptr::without_provenance_mut(at),
                iov_len: len,
            };
            let mut control = [0u64; 3];
            // SAFETY: All zeros is a message without anything.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = &raw mut buffer;
            message.msg_iovlen = 1;
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = size_of_val(&control);
            // SAFETY: The control buffer has room for this one message. The kernel takes the address for an offset in the dma-buf.
            unsafe {
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_SOCKET;
                (*header).cmsg_type = SCM_DEVMEM_DMABUF;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<u32>() as u32) as usize;
                libc::CMSG_DATA(header).cast::<u32>().write(id);
                libc::sendmsg(fd, &raw const message, libc::MSG_ZEROCOPY)
            }
        })
    }

    fn finish(&mut self) -> Result<Option<u64>> {
        self.sends.finish()
    }

    fn stream(&self) -> &TcpStream {
        &self.sends.stream
    }
}
