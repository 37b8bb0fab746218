// SPDX-License-Identifier: MIT OR Apache-2.0
//! From memory registered with netgpu.

use std::net::TcpStream;
use std::os::fd::AsFd;

use anyhow::{Context as _, Result};
use netgpu::{Context, MemoryArea, Socket, SocketConfig, Span};
use rustix::event::{PollFd, PollFlags, poll};

use super::{Arguments, Send, Slots};
use crate::measure::Measurement;
use crate::memory::Size;

pub(super) struct Netgpu {
    socket: Socket,
    slots: Slots,
    free: Vec<Span>,
}

impl Send for Netgpu {
    fn open(
        arguments: &Arguments,
        stream: TcpStream,
        slots: Slots,
        measurement: &mut Measurement,
    ) -> Result<Self> {
        let common = &arguments.common;
        let memory = common
            .memory
            .allocate(slots.len(), Size::Base, measurement)?;
        let region = memory.register(&MemoryArea::new()?)?;
        let context = Context::open(&common.dev)?;
        context.attach(&region)?;
        let config = SocketConfig {
            send: true,
            ..SocketConfig::default()
        };
        Ok(Self {
            socket: context.attach_socket(stream, config)?,
            slots,
            free: std::iter::from_fn(|| region.take(slots.step))
                .take(slots.count)
                .collect(),
        })
    }

    fn send(&mut self, data: Option<&[u8]>) -> Result<()> {
        while let Some(done) = self.socket.try_completion()? {
            self.free.extend(done.payload.into_span());
        }
        while self.free.is_empty() {
            let done = self.socket.completion()?.context("nothing is on its way")?;
            self.free.extend(done.payload.into_span());
        }
        let mut span = self.free.pop().context("no span")?;
        if let Some(data) = data {
            span.write(0, data)?;
        }
        let mut payload = span.into_payload(0..self.slots.message);
        while !payload.is_empty() {
            if self.socket.try_send(&mut payload)? == 0 {
                let fd = self.socket.stream().as_fd();
                poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None)?;
            }
        }
        // Its last bytes may be sent already, and nobody else has them then.
        drop(payload);
        Ok(())
    }

    fn finish(&mut self) -> Result<Option<u64>> {
        while self.socket.in_flight() > 0 {
            self.socket.completion()?;
        }
        Ok(Some(self.socket.statistics()?.tx_copied))
    }

    fn stream(&self) -> &TcpStream {
        self.socket.stream()
    }
}
