// SPDX-License-Identifier: MIT OR Apache-2.0
//! write(2).

use std::io::Write as _;
use std::net::TcpStream;

use anyhow::Result;

use super::{Arguments, Send, Slots};
use crate::measure::Measurement;

/// From one buffer, which stays in the caches.
pub(super) struct Write {
    stream: TcpStream,
    message: Vec<u8>,
}

impl Send for Write {
    fn open(
        _arguments: &Arguments,
        stream: TcpStream,
        slots: Slots,
        measurement: &mut Measurement,
    ) -> Result<Self> {
        let message = vec![1; slots.message];
        measurement.watch(&message)?;
        Ok(Self { stream, message })
    }

    fn send(&mut self, data: Option<&[u8]>) -> Result<()> {
        if let Some(data) = data {
            self.message.copy_from_slice(data);
        }
        Ok(self.stream.write_all(&self.message)?)
    }

    fn finish(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn stream(&self) -> &TcpStream {
        &self.stream
    }
}
