// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes over the cable, as a pcapng file that Wireshark and tcpdump read.
//!
//! Each port is an interface of its own; a frame belongs to the one that sent it, and carries what
//! the cable did to it as its comment.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use pcap_file::DataLink;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use tracing::error;

/// `epb_flags`: outbound.
const OUTBOUND: u32 = 2;
/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;

/// A file that both directions of a cable write to.
#[derive(Clone)]
pub struct Capture(Arc<Mutex<PcapNgWriter<Box<dyn Write + Send>>>>);

impl Capture {
    /// Starts a new file at `path`.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::new(Box::new(BufWriter::new(File::create(path)?)))
    }

    fn new(to: Box<dyn Write + Send>) -> io::Result<Self> {
        let mut writer = PcapNgWriter::new(to).map_err(io::Error::other)?;
        for port in ["port0", "port1"] {
            let interface = InterfaceDescriptionBlock {
                linktype: DataLink::ETHERNET,
                snaplen: 0,
                options: vec![
                    InterfaceDescriptionOption::IfName(Cow::Borrowed(port)),
                    InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                ],
            };
            writer
                .write_pcapng_block(interface)
                .map_err(io::Error::other)?;
        }
        Ok(Self(Arc::new(Mutex::new(writer))))
    }

    /// Writes a frame that port `port` has sent, with what became of it.
    pub fn frame(&self, port: usize, bytes: &[u8], fate: &str) {
        let timestamp = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut options = vec![EnhancedPacketOption::Flags(OUTBOUND)];
        if !fate.is_empty() {
            options.push(EnhancedPacketOption::Comment(Cow::Borrowed(fate)));
        }
        let packet = EnhancedPacketBlock {
            interface_id: port as u32,
            timestamp,
            original_len: bytes.len() as u32,
            data: Cow::Borrowed(bytes),
            options,
        };
        if let Err(error) = self.0.lock().write_pcapng_block(packet) {
            error!("a frame is missing in the capture: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_can_be_read_back_with_port_and_fate() {
        let file = Shared::default();
        let capture = Capture::new(Box::new(file.clone())).unwrap();
        capture.frame(1, &[7; 60], "dropped");
        capture.frame(0, &[8; 61], "");
        let bytes = file.0.lock().clone();
        let mut reader = PcapNgReader::new(bytes.as_slice()).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap().into_owned() {
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(text) => Some(text.to_string()),
                    _ => None,
                });
                seen.push((packet.interface_id, packet.data.to_vec(), comment));
            }
        }
        assert_eq!(
            seen,
            [
                (1, vec![7; 60], Some("dropped".into())),
                (0, vec![8; 61], None)
            ]
        );
    }
}
