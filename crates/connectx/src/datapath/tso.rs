// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segmentation offload: the headers of the packets that one large send is cut into.

use super::packet::{Ip, Layers, Layout, Transport};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// One packet of a large send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its number, from zero.
    pub index: u32,
    /// Payload bytes before it.
    pub offset: u32,
    /// Payload bytes in it.
    pub length: usize,
    /// There is none after it.
    pub last: bool,
}

/// Segment `index` of `payload` bytes cut every `mss` bytes. No payload makes one empty segment.
pub fn segment(index: u32, payload: usize, mss: u16) -> Option<Segment> {
    let mss = usize::from(mss);
    let offset = (index as usize).checked_mul(mss)?;
    if offset >= payload && index > 0 {
        return None;
    }
    let length = mss.min(payload - offset);
    Some(Segment {
        index,
        offset: offset as u32,
        length,
        last: offset + length == payload,
    })
}

/// Turns the headers of a large send, in `bytes`, into those of one segment, in all `layers`. Checksums are left.
pub fn cut(bytes: &mut [u8], segment: &Segment, layers: &mut Layers) {
    let end = bytes.len() + segment.length;
    for layer in layers.iter_mut() {
        cut_layer(bytes, segment, layer);
        layer.set_ip_end(end as u32);
    }
}

fn cut_layer(bytes: &mut [u8], segment: &Segment, layer: &Layout) {
    let end = bytes.len() + segment.length;
    match layer.ip() {
        Some((Ip::V4, at)) => {
            set16(bytes, at + 2, (end - at) as u16);
            let id = u16::from_be_bytes([bytes[at + 4], bytes[at + 5]]);
            set16(bytes, at + 4, id.wrapping_add(segment.index as u16));
        }
        Some((Ip::V6, at)) => set16(bytes, at + 4, (end - at - 40) as u16),
        None => {}
    }
    match layer.transport() {
        Some((Transport::Tcp, at)) => {
            let sequence = std::array::from_fn(|i| bytes[at + 4 + i]);
            let sequence = u32::from_be_bytes(sequence).wrapping_add(segment.offset);
            bytes[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
            if !segment.last {
                bytes[at + 13] &= !(FIN | PSH);
            }
            if segment.index > 0 {
                bytes[at + 13] &= !CWR;
            }
        }
        Some((Transport::Udp, at)) => set16(bytes, at + 4, (end - at) as u16),
        None => {}
    }
}

fn set16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bits::Fields;
    use crate::datapath::packet::tests::{tagged, tcp4, udp6};
    use proptest::prelude::*;

    fn pieces(payload: usize, mss: u16) -> Vec<Segment> {
        (0..)
            .map_while(|index| segment(index, payload, mss))
            .collect()
    }

    #[test]
    fn sequence_identification_and_flags() {
        let mut template = tcp4(0);
        template[18..20].copy_from_slice(&0xffffu16.to_be_bytes());
        template[38..42].copy_from_slice(&0xffff_ff00u32.to_be_bytes());
        template[47] = 0x10 | FIN | PSH | CWR;
        let cuts: Vec<Vec<u8>> = pieces(2500, 1000)
            .iter()
            .map(|segment| {
                let mut bytes = template.clone();
                cut(&mut bytes, segment, &mut Layers::parse(&template, &[]));
                bytes
            })
            .collect();
        let word = |at| cuts.iter().map(|b| Fields(b).u16(at)).collect::<Vec<_>>();
        assert_eq!(word(16), [1040, 1040, 540], "total length");
        assert_eq!(word(18), [0xffff, 0, 1], "identification");
        let sequence: Vec<u32> = cuts.iter().map(|b| Fields(&b[38..]).u32(0)).collect();
        assert_eq!(sequence, [0xffff_ff00, 0x2e8, 0x6d0]);
        let flags: Vec<u8> = cuts.iter().map(|b| b[47]).collect();
        assert_eq!(flags, [0x10 | CWR, 0x10, 0x10 | FIN | PSH]);
    }

    #[test]
    fn lengths_of_udp_over_ipv6() {
        let mut bytes = udp6(0);
        let mut layers = Layers::parse(&bytes, &[]);
        cut(&mut bytes, &segment(1, 300, 200).unwrap(), &mut layers);
        assert_eq!(Fields(&bytes).u16(18), 108);
        assert_eq!(Fields(&bytes).u16(58), 108);
    }

    fn tcp6() -> Vec<u8> {
        let mut bytes = udp6(0)[..54].to_vec();
        bytes[20] = 6;
        bytes.extend(&tcp4(0)[34..]);
        bytes
    }

    /// The headers of all segments, by the loops of Linux's `tcp_gso_segment()` or `__udp_gso_segment()`, and
    /// `inet_gso_segment()` or `ipv6_gso_segment()`, without checksums. The IP header is at `ip`.
    fn segmented_by_linux(template: &[u8], ip: usize, payload: usize, mss: usize) -> Vec<Vec<u8>> {
        let ipv4 = template[ip] >> 4 == 4;
        let (l4, protocol) = if ipv4 {
            (ip + 20, template[ip + 9])
        } else {
            (ip + 40, template[ip + 6])
        };
        let header = if protocol == 6 { 20 } else { 8 };
        let mut id = Fields(template).u16(ip + 4);
        let mut seq = Fields(&template[l4 + 4..]).u32(0);
        let (mut rest, mut cwr_allowed) = (payload, true);
        let mut all = Vec::new();
        while rest > 0 {
            let length = rest.min(mss);
            rest -= length;
            let mut bytes = template.to_vec();
            if protocol == 6 {
                if rest > 0 {
                    bytes[l4 + 13] &= !(FIN | PSH);
                }
                if !cwr_allowed {
                    bytes[l4 + 13] &= !CWR;
                }
                cwr_allowed = false;
                bytes[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
                seq = seq.wrapping_add(mss as u32);
            } else {
                bytes[l4 + 4..l4 + 6].copy_from_slice(&((8 + length) as u16).to_be_bytes());
            }
            let length = (header + length) as u16;
            if ipv4 {
                bytes[ip + 2..ip + 4].copy_from_slice(&(20 + length).to_be_bytes());
                bytes[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
                id = id.wrapping_add(1);
            } else {
                bytes[ip + 4..ip + 6].copy_from_slice(&length.to_be_bytes());
            }
            all.push(bytes);
        }
        all
    }

    fn udp4() -> Vec<u8> {
        let mut bytes = tcp4(0)[..34].to_vec();
        bytes[23] = 17;
        bytes.extend(&udp6(0)[54..]);
        bytes
    }

    #[test]
    fn no_payload_is_one_segment() {
        assert_eq!(
            pieces(0, 1000),
            [Segment {
                index: 0,
                offset: 0,
                length: 0,
                last: true
            }]
        );
    }

    proptest! {
        /// Payloads are as long as Linux makes them with large `gso_max_size`, where it leaves the length of the whole out.
        #[test]
        fn headers_are_those_that_linux_would_make(
            ipv4 in any::<bool>(), tcp in any::<bool>(), tag in prop::option::of(any::<u16>()),
            id in any::<u16>(), sequence in any::<u32>(), flags in any::<u8>(),
            payload in prop_oneof![3 => 1usize..70_000, 1 => 70_000usize..530_000], mss in 88u16..9_000,
        ) {
            let mut template = match (ipv4, tcp) {
                (true, true) => tcp4(0),
                (false, true) => tcp6(),
                (true, false) => udp4(),
                (false, false) => udp6(0),
            };
            if ipv4 {
                template[16..18].fill(0);
                template[18..20].copy_from_slice(&id.to_be_bytes());
            } else {
                template[18..20].fill(0);
            }
            if tcp {
                let at = if ipv4 { 34 } else { 54 };
                template[at + 4..at + 8].copy_from_slice(&sequence.to_be_bytes());
                template[at + 13] = flags;
            }
            let mut ip = 14;
            if let Some(tci) = tag {
                template = tagged(&template, 0x8100, tci);
                ip += 4;
            }
            let cuts: Vec<Vec<u8>> = pieces(payload, mss)
                .iter()
                .map(|segment| {
                    let mut bytes = template.clone();
                    cut(&mut bytes, segment, &mut Layers::parse(&template, &[]));
                    bytes
                })
                .collect();
            prop_assert_eq!(cuts, segmented_by_linux(&template, ip, payload, usize::from(mss)));
        }

        #[test]
        fn segments_cover_the_payload_once(payload in 1usize..70_000, mss in 1u16..10_000) {
            let pieces = pieces(payload, mss);
            let mut next = 0;
            for (index, piece) in pieces.iter().enumerate() {
                prop_assert_eq!((piece.index as usize, piece.offset as usize), (index, next));
                prop_assert!(piece.length > 0 && piece.length <= usize::from(mss));
                next += piece.length;
                prop_assert_eq!(piece.last, next == payload);
            }
            prop_assert_eq!(next, payload);
        }
    }
}
