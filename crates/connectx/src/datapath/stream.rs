// SPDX-License-Identifier: MIT OR Apache-2.0
//! Streams of packets: most often a frame is of the stream of the one before, and then there is little to find out about it.

use super::packet::{Constants, Ip, Layers, Layout, Transport};

/// The first bytes of a frame, with all headers of a stream in them.
pub const HEAD: usize = 64;
const WORDS: usize = HEAD / 8;

/// A stream of TCP or UDP packets, by its headers. Its packets differ in length, identification, checksums and what comes behind the
/// ports, but not in TCP's flags: in nothing that says where the headers are, or that a flow rule compares.
#[derive(Debug)]
pub struct Stream {
    /// Its number. Two streams of a batch have different ones.
    pub number: u32,
    head: [u64; WORDS],
    /// The bits of `head` that are the same for all packets.
    mask: [u64; WORDS],
    layout: Layout,
    constants: Constants,
}

/// What is known of a packet that is of the stream of the one before.
#[derive(Clone, Copy, Debug)]
pub struct Recognised {
    /// The stream.
    pub stream: u32,
    /// Where the headers are.
    pub layout: Layout,
    /// Of the stream.
    pub constants: Constants,
}

#[inline(always)]
fn words(bytes: &[u8; HEAD]) -> [u64; WORDS] {
    let words: &[[u8; 8]] = bytes.as_chunks().0;
    std::array::from_fn(|i| u64::from_ne_bytes(words[i]))
}

impl Stream {
    /// The stream of a packet that starts with `head` and has headers of `layers`, if it is of one.
    pub fn of(number: u32, head: &[u8], layers: &Layers) -> Option<Self> {
        let (head, layout) = (head.first_chunk::<HEAD>()?, layers.outer);
        let ((version, ip), (transport, at)) = (layout.ip()?, layout.transport()?);
        let mut mask = [0; HEAD];
        mask.get_mut(..layout.end())?.fill(0xff);
        if layers.inner.is_some() {
            return None;
        }
        match version {
            // Total length, identification; checksum.
            Ip::V4 => {
                mask[ip + 2..ip + 6].fill(0);
                mask[ip + 10..ip + 12].fill(0);
            }
            // Payload length.
            Ip::V6 => mask[ip + 4..ip + 6].fill(0),
        }
        match transport {
            // Sequence and acknowledgement number; window, checksum, urgent pointer and options.
            Transport::Tcp => {
                mask[at + 4..at + 12].fill(0);
                mask[at + 14..layout.end()].fill(0);
            }
            // Length, checksum.
            Transport::Udp => mask[at + 4..at + 8].fill(0),
        }
        Some(Self {
            number,
            head: words(head),
            mask: words(&mask),
            layout,
            constants: layout.of(head).constants(),
        })
    }

    /// What is known of a packet that starts with `head`, if it is of this stream.
    #[inline(always)]
    pub fn recognise(&self, head: &[u8; HEAD]) -> Option<Recognised> {
        let words = words(head);
        let differ = |i: usize| (words[i] ^ self.head[i]) & self.mask[i];
        let same = (0..WORDS).fold(0, |bits, i| bits | differ(i)) == 0;
        same.then(|| Recognised {
            stream: self.number,
            layout: self.layout.again(head),
            constants: self.constants,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::Headers;
    use crate::datapath::packet::tests::{tagged, tcp4, udp6};
    use proptest::prelude::*;

    fn start(packet: &[u8]) -> &[u8; HEAD] {
        packet.first_chunk().unwrap()
    }

    proptest! {
        /// What a stream says about a packet is what looking at it says.
        #[test]
        fn packets_of_a_stream_have_their_headers_where_it_says(
            real in 0usize..4, options in 5u8..8, noise in prop::collection::vec((12usize..64, any::<u8>()), 0..4),
        ) {
            let mut packet = if real % 2 == 0 { tcp4(200) } else { udp6(200) };
            if real % 2 == 0 {
                packet[46] = options << 4;
            }
            packet.extend([0x55; 200]);
            if real > 1 {
                packet = tagged(&packet, 0x8100, 7);
            }
            let layers = Layers::parse(&packet, &[4789]);
            let stream = Stream::of(1, &packet, &layers);
            prop_assert_eq!(stream.is_some(), layers.outer.end() <= HEAD);
            let mut next = packet.clone();
            for (at, byte) in noise {
                next[at] ^= byte;
            }
            if let Some(known) = stream.and_then(|stream| stream.recognise(start(&next))) {
                let headers = Headers::parse(&next);
                prop_assert_eq!(known.layout, headers.layout());
                let (same, fresh) = (known.constants, headers.constants());
                prop_assert_eq!(same.pseudo_header(7).fold(), fresh.pseudo_header(7).fold());
                if let Some((Ip::V4, at)) = headers.ip() {
                    let (mut one, mut other) = (next.clone(), next.clone());
                    same.fill_ipv4(&mut one, at);
                    fresh.fill_ipv4(&mut other, at);
                    prop_assert_eq!(&one, &other);
                    prop_assert!(Headers::parse(&one).ip_intact());
                }
                prop_assert!(headers.inner(&[4789]).is_none());
                let first = Headers::parse(&packet);
                prop_assert!(headers.match_key() == first.match_key());
                prop_assert_eq!(headers.spi(), first.spi());
            }
        }
    }

    #[test]
    fn a_stream_goes_on_with_other_numbers_but_not_with_other_flags() {
        let mut packet = tcp4(1000);
        packet.extend([0; 1000]);
        let stream = Stream::of(1, &packet, &Layers::parse(&packet, &[])).unwrap();
        packet[16..18].copy_from_slice(&540u16.to_be_bytes());
        packet[18..20].fill(7);
        packet[38..46].fill(9);
        packet[48..54].fill(3);
        let known = stream.recognise(start(&packet)).expect("the same stream");
        assert_eq!(known.layout.of(&packet).ip_end(), 554);
        packet[47] |= 8;
        assert!(stream.recognise(start(&packet)).is_none(), "PSH");
        packet[47] &= !8;
        packet[37] ^= 1;
        assert!(stream.recognise(start(&packet)).is_none(), "another port");
    }

    #[test]
    fn what_has_no_ports_is_of_no_stream() {
        let mut fragment = tcp4(1000);
        fragment.extend([0; 100]);
        fragment[20] = 0x20;
        assert!(Stream::of(1, &fragment, &Layers::parse(&fragment, &[])).is_none());
    }
}
