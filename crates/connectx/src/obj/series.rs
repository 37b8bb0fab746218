// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hardware GRO and LRO: which TCP segments continue which, so that their payloads lie one behind the other.
//!
//! Of hardware GRO the driver keeps the headers of the first segment, and of the others takes FIN and PSH, and
//! the identification of the second. So segments go together only if nothing else differs.

use crate::datapath::packet::{Headers, Ip, Transport};

/// The longest headers of a segment that can be merged: two tags, IPv6, TCP with all its options.
const MAX_HEADERS: usize = 14 + 8 + 40 + 60;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// Congestion signals: CWR and ECE.
const CONGESTION: u8 = 0xc0;

/// What merging has to know of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Headers, without what differs from segment to segment of a stream.
    headers: [u8; MAX_HEADERS],
    sequence: u32,
    /// Identification, of IPv4.
    id: u16,
    payload: u32,
    /// FIN or PSH: nothing is to wait for what follows.
    last: bool,
}

impl Segment {
    /// The segment whose headers are `headers` and start the frame `head`; nothing if it is one to leave alone.
    pub fn of(head: &[u8], headers: &Headers<'_>) -> Option<Self> {
        let (Transport::Tcp, tcp) = headers.transport_at()? else {
            return None;
        };
        let (version, ip) = headers.ip()?;
        let bytes = head.get(..headers.end())?;
        let payload = headers.ip_end().checked_sub(headers.end())?;
        let flags = bytes[tcp + 13];
        let ip_length = match version {
            Ip::V4 => 20,
            Ip::V6 => 40,
        };
        // The driver looks for the IP header right before that of TCP: no options, no extensions.
        if payload == 0 || flags & !(FIN | PSH | CONGESTION) != ACK || tcp - ip != ip_length {
            return None;
        }
        let mut same = [0; MAX_HEADERS];
        same.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let id = match version {
            Ip::V4 => {
                let id = u16::from_be_bytes([bytes[ip + 4], bytes[ip + 5]]);
                // Total length, identification; header checksum.
                same[ip + 2..ip + 6].fill(0);
                same[ip + 10..ip + 12].fill(0);
                id
            }
            Ip::V6 => {
                // Payload length.
                same[ip + 4..ip + 6].fill(0);
                0
            }
        };
        same[tcp + 4..tcp + 8].fill(0);
        same[tcp + 13] &= !(FIN | PSH);
        same[tcp + 16..tcp + 18].fill(0);
        let sequence = std::array::from_fn(|i| bytes[tcp + 4 + i]);
        Some(Self {
            headers: same,
            sequence: u32::from_be_bytes(sequence),
            id,
            payload: payload as u32,
            last: flags & (FIN | PSH) != 0,
        })
    }

    /// Whether nothing is to wait for what follows it.
    pub fn is_last(&self) -> bool {
        self.last
    }
}

/// Segments whose payloads lie one behind the other, and that one may still continue.
#[derive(Debug)]
pub struct Series {
    /// The last segment; the headers are those of all.
    last: Segment,
    /// Payload of the first segment. None is longer, and only the last is shorter.
    size: u32,
    /// How much the identification grows from segment to segment: not at all or by one.
    id_step: Option<u16>,
    /// Segments.
    count: u32,
}

impl Series {
    /// A series that starts with `segment`, unless that is the last one, too.
    pub fn start(segment: Segment) -> Option<Self> {
        (!segment.last).then_some(Self {
            last: segment,
            size: segment.payload,
            id_step: None,
            count: 1,
        })
    }

    /// Segments so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether `segment` continues the series.
    pub fn takes(&self, segment: &Segment) -> bool {
        let step = segment.id.wrapping_sub(self.last.id);
        segment.sequence == self.last.sequence.wrapping_add(self.last.payload)
            && segment.payload <= self.size
            && self.id_step.map_or(step <= 1, |expected| step == expected)
            && segment.headers == self.last.headers
    }

    /// The series with `segment`, which it [takes](Self::takes); nothing if it ends with that.
    pub fn with(self, segment: Segment) -> Option<Self> {
        let step = segment.id.wrapping_sub(self.last.id);
        (!segment.last && segment.payload == self.size).then_some(Self {
            last: segment,
            id_step: Some(step),
            count: self.count + 1,
            ..self
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::datapath::packet::tests::{tagged, tcp4};

    /// A frame's headers: sequence number, payload, identification.
    pub(crate) fn tcp(sequence: u32, payload: usize, id: u16) -> Vec<u8> {
        let mut bytes = tcp4(payload);
        bytes[18..20].copy_from_slice(&id.to_be_bytes());
        bytes[38..42].copy_from_slice(&sequence.to_be_bytes());
        // Whatever stands in them: the device has not filled them in yet.
        bytes[50..52].copy_from_slice(&(id ^ 0x5555).to_be_bytes());
        bytes
    }

    /// The same with an IPv6 header.
    fn tcp6(sequence: u32, payload: usize) -> Vec<u8> {
        let four = tcp(sequence, payload, 0);
        let mut bytes = four[..14].to_vec();
        bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend((20 + payload as u16).to_be_bytes());
        bytes.extend([6, 64]);
        bytes.extend([0xfd; 32]);
        bytes.extend(&four[34..]);
        bytes
    }

    /// `frame` with 12 bytes of TCP options: a timestamp.
    fn stamped(mut frame: Vec<u8>, stamp: u32) -> Vec<u8> {
        frame[46] = 8 << 4;
        let length = u16::from_be_bytes([frame[16], frame[17]]) + 12;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame.extend([1, 1, 8, 10]);
        frame.extend(stamp.to_be_bytes());
        frame.extend([0; 4]);
        frame
    }

    pub(crate) fn segment(frame: &[u8]) -> Option<Segment> {
        Segment::of(frame, &Headers::parse(frame))
    }

    fn with_flags(mut frame: Vec<u8>, flags: u8) -> Vec<u8> {
        frame[47] = flags;
        frame
    }

    fn series(frame: &[u8]) -> Series {
        Series::start(segment(frame).unwrap()).unwrap()
    }

    #[test]
    fn the_next_bytes_continue() {
        let series = series(&tcp(u32::MAX - 99, 1000, 7));
        let next = segment(&tcp(900, 1000, 8)).unwrap();
        assert!(series.takes(&next));
        let series = series.with(next).unwrap();
        assert_eq!(series.count(), 2);
        assert!(
            series.takes(&segment(&tcp(1900, 10, 9)).unwrap()),
            "shorter"
        );
        assert!(
            !series.takes(&segment(&tcp(900, 1000, 9)).unwrap()),
            "again"
        );
        assert!(
            !series.takes(&segment(&tcp(2900, 1000, 9)).unwrap()),
            "a gap"
        );
        assert!(
            !series.takes(&segment(&tcp(1900, 1001, 9)).unwrap()),
            "longer"
        );
    }

    #[test]
    fn ipv6_continues_too() {
        let series = series(&tcp6(100, 1000));
        let mut next = tcp6(1100, 1000);
        assert!(series.takes(&segment(&next).unwrap()));
        next[21] = 63;
        assert!(!series.takes(&segment(&next).unwrap()), "hop limit");
    }

    #[test]
    fn other_headers_do_not_continue() {
        let series = series(&tcp(0, 1000, 7));
        // Service, life time, address, port, acknowledgement, window.
        for at in [15, 22, 29, 35, 42, 48] {
            let mut frame = tcp(1000, 1000, 8);
            frame[at] ^= 1;
            assert!(!series.takes(&segment(&frame).unwrap()), "byte {at}");
        }
        let vlan = tagged(&tcp(1000, 1000, 8), 0x8100, 5);
        assert!(!series.takes(&segment(&vlan).unwrap()));
    }

    #[test]
    fn options_must_be_the_same() {
        let series = series(&stamped(tcp(0, 1000, 7), 50));
        let next = |stamp| segment(&stamped(tcp(1000, 1000, 8), stamp)).unwrap();
        assert!(series.takes(&next(50)));
        assert!(!series.takes(&next(51)), "another timestamp");
        assert!(
            !series.takes(&segment(&tcp(1000, 1000, 8)).unwrap()),
            "none"
        );
    }

    #[test]
    fn a_shorter_segment_or_a_flag_ends_the_series() {
        let first = tcp(0, 1000, 7);
        let short = segment(&tcp(1000, 999, 8)).unwrap();
        assert!(series(&first).with(short).is_none());
        for flag in [PSH, FIN] {
            let last = segment(&with_flags(tcp(1000, 1000, 8), ACK | flag)).unwrap();
            assert!(series(&first).takes(&last));
            assert!(series(&first).with(last).is_none());
            let alone = segment(&with_flags(first.clone(), ACK | flag)).unwrap();
            assert!(Series::start(alone).is_none());
        }
    }

    #[test]
    fn congestion_signals_are_merged_among_themselves() {
        // ECE, CWR.
        for signal in [0x40, 0x80] {
            let signalling = |sequence, id| with_flags(tcp(sequence, 1000, id), ACK | signal);
            let next = segment(&signalling(1000, 8)).unwrap();
            assert!(!series(&tcp(0, 1000, 7)).takes(&next), "it begins");
            let series = series(&signalling(0, 7));
            assert!(series.takes(&next), "it goes on");
            let series = series.with(next).unwrap();
            let without = segment(&tcp(2000, 1000, 9)).unwrap();
            assert!(!series.takes(&without), "it ends");
        }
    }

    #[test]
    fn the_identification_grows_by_one_or_not_at_all() {
        for step in [0, 1] {
            let id = |n: u16| 0xffff_u16.wrapping_add(n * step);
            let series = series(&tcp(0, 1000, id(0)));
            let second = segment(&tcp(1000, 1000, id(1))).unwrap();
            assert!(series.takes(&second));
            let series = series.with(second).unwrap();
            assert!(series.takes(&segment(&tcp(2000, 1000, id(2))).unwrap()));
            let other = id(1).wrapping_add(1 - step);
            assert!(!series.takes(&segment(&tcp(2000, 1000, other)).unwrap()));
        }
        let jump = segment(&tcp(1000, 1000, 9)).unwrap();
        assert!(!series(&tcp(0, 1000, 7)).takes(&jump));
    }

    #[test]
    fn what_is_left_alone() {
        assert!(segment(&tcp(0, 0, 1)).is_none(), "no payload");
        // SYN, RST, URG, no ACK.
        for flags in [ACK | 2, ACK | 4, ACK | 0x20, PSH] {
            let frame = with_flags(tcp(0, 1000, 1), flags);
            assert!(segment(&frame).is_none(), "{flags:#x}");
        }
        let mut options = tcp(0, 1000, 1);
        options[14] = 0x46;
        options.splice(34..34, [1, 1, 1, 0]);
        assert!(segment(&options).is_none(), "IP options");
        let mut fragment = tcp(0, 1000, 1);
        fragment[20] = 0x20;
        assert!(segment(&fragment).is_none(), "a fragment");
        let mut udp = tcp(0, 1000, 1);
        udp[23] = 17;
        assert!(segment(&udp).is_none(), "UDP");
        let mut lies = tcp(0, 1000, 1);
        lies[16..18].copy_from_slice(&30u16.to_be_bytes());
        assert!(segment(&lies).is_none(), "shorter than its headers");
    }
}
