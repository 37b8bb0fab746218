// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packet headers: where they are, and what is in them.

use super::checksum::Sum;
use crate::bits::Fields;
use crate::mem::LINE;
use crate::obj::flow::MatchKey;

/// The most header bytes that are looked at.
pub const MAX_HEADERS: usize = 256;
/// Bytes of an Ethernet header without tags.
pub const ETHERNET: usize = 14;
/// Bytes of a VLAN tag.
pub const VLAN_TAG: usize = 4;
/// The smallest frame, without FCS.
pub const MIN_FRAME: usize = 60;

const TYPE_IPV4: u16 = 0x0800;
const TYPE_IPV6: u16 = 0x86dd;
const TYPE_CVLAN: u16 = 0x8100;
const TYPE_SVLAN: u16 = 0x88a8;
const TYPE_BRIDGED: u16 = 0x6558;
const IPV4_IN_IP: u8 = 4;
const TCP: u8 = 6;
const UDP: u8 = 17;
const IPV6_IN_IP: u8 = 41;
const GRE: u8 = 47;
const ESP: u8 = 50;
const AH: u8 = 51;

/// IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ip {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

/// Transport protocols whose headers are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where the headers of a packet are. Places are in the first [`MAX_HEADERS`] bytes, so that it is small enough to travel
/// with its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    ethertype: u16,
    /// The outermost tag: its type and its control information.
    vlan: Option<(u16, u16)>,
    /// IP version and where its header starts.
    ip: Option<(Ip, u16)>,
    /// Protocol behind the IP headers.
    protocol: u8,
    fragment: bool,
    /// Transport protocol and where its header starts. A fragment has none.
    transport: Option<(Transport, u16)>,
    /// Where the last understood header ends.
    end: u16,
    /// Where the IP header says that the packet ends.
    ip_end: u32,
}

/// The headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    /// The packet's first bytes.
    bytes: &'a [u8],
    layout: Layout,
}

/// Where the headers of a packet are, and those of the packet that it carries through a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Layers {
    /// Those of the packet.
    pub outer: Layout,
    /// Those in the tunnel.
    pub inner: Option<Layout>,
}

impl Layers {
    /// Those of a packet that carries no other one.
    #[inline(always)]
    pub fn single(outer: Layout) -> Self {
        Self { outer, inner: None }
    }

    /// Looks at the first bytes of a packet; VXLAN is what goes to a UDP port among `vxlan`.
    pub fn parse(bytes: &[u8], vxlan: &[u16]) -> Self {
        let outer = Headers::parse(bytes);
        Self {
            outer: outer.layout,
            inner: outer.inner(vxlan).map(|inner| inner.layout),
        }
    }

    /// How many bytes of the packet to keep apart: the headers, the index that IPsec has behind them ([`Headers::spi`]), and what
    /// is left of the last cache line, if the packet starts with one.
    pub fn head(&self) -> usize {
        const INDEX: usize = 8;
        let inner = self.inner.map_or(0, |inner| inner.end);
        (usize::from(self.outer.end.max(inner)) + INDEX).next_multiple_of(LINE)
    }

    /// All there are.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Layout> {
        std::iter::once(&mut self.outer).chain(&mut self.inner)
    }
}

impl Layout {
    /// The headers that are there in `bytes`: those that were parsed, with other values in their fields at most.
    #[inline(always)]
    pub fn of<'a>(&self, bytes: &'a [u8]) -> Headers<'a> {
        Headers {
            bytes: &bytes[..bytes.len().min(MAX_HEADERS)],
            layout: *self,
        }
    }

    /// IP version and where its header starts.
    #[inline(always)]
    pub fn ip(&self) -> Option<(Ip, usize)> {
        self.ip.map(|(version, at)| (version, at.into()))
    }

    /// Transport protocol and where its header starts.
    #[inline(always)]
    pub fn transport(&self) -> Option<(Transport, usize)> {
        self.transport.map(|(transport, at)| (transport, at.into()))
    }

    /// Where the last understood header ends.
    pub fn end(&self) -> usize {
        self.end.into()
    }

    /// The control information of the outermost tag if that is a C-tag.
    pub fn cvlan(&self) -> Option<u16> {
        self.vlan
            .filter(|(kind, _)| *kind == TYPE_CVLAN)
            .map(|(_, tci)| tci)
    }

    /// The same headers in the packet that starts with `bytes`: only its length may be another one.
    #[inline(always)]
    pub fn again(&self, bytes: &[u8]) -> Self {
        let (from, length_at) = match self.ip() {
            Some((Ip::V4, at)) => (at, at + 2),
            Some((Ip::V6, at)) => (at + 40, at + 4),
            None => return *self,
        };
        let length = be16(bytes, length_at).unwrap_or(0);
        Self {
            ip_end: from as u32 + u32::from(length),
            ..*self
        }
    }

    /// The IP header is to say that the packet ends at `end`.
    pub fn set_ip_end(&mut self, end: u32) {
        self.ip_end = end;
    }
}

/// A big-endian 16-bit word, or nothing past the end.
#[inline(always)]
fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

impl<'a> Headers<'a> {
    /// Looks at the first bytes of a packet. A header that is cut off or malformed ends the search.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let mut headers = Self::none(&bytes[..bytes.len().min(MAX_HEADERS)]);
        // Each step returns nothing where the packet ends too early.
        let _ = headers.ethernet(0).and_then(|at| headers.network(at));
        headers
    }

    /// The headers of the packet that this one carries through a tunnel: VXLAN to a UDP port among
    /// `vxlan`, GRE, or IP in IP.
    pub fn inner(&self, vxlan: &[u16]) -> Option<Self> {
        if self.layout.fragment {
            return None;
        }
        const VXLAN: usize = 8 + 8;
        let (ethertype, at) = match (self.transport_at(), self.layout.protocol) {
            (Some((Transport::Udp, at)), _) if vxlan.contains(&self.ports()?.1) => {
                (TYPE_BRIDGED, at + VXLAN)
            }
            (None, GRE) => self.gre()?,
            (None, IPV4_IN_IP) => (TYPE_IPV4, self.end()),
            (None, IPV6_IN_IP) => (TYPE_IPV6, self.end()),
            _ => return None,
        };
        let mut inner = Self::none(self.bytes);
        inner.layout.ethertype = ethertype;
        let at = match ethertype {
            TYPE_BRIDGED => inner.ethernet(at)?,
            _ => at,
        };
        let _ = inner.network(at);
        inner.layout.ip.map(|_| inner)
    }

    /// What a GRE header says to be behind it, and where.
    fn gre(&self) -> Option<(u16, usize)> {
        const CHECKSUM: u16 = 0x8000;
        const KEY: u16 = 0x2000;
        const SEQUENCE: u16 = 0x1000;
        const VERSION: u16 = 7;
        let flags = be16(self.bytes, self.end())?;
        if flags & VERSION != 0 {
            return None;
        }
        let options = (flags & (CHECKSUM | KEY | SEQUENCE)).count_ones() as usize;
        Some((
            be16(self.bytes, self.end() + 2)?,
            self.end() + 4 + 4 * options,
        ))
    }

    /// Nothing has been found yet.
    fn none(bytes: &'a [u8]) -> Self {
        let layout = Layout {
            ethertype: 0,
            vlan: None,
            ip: None,
            protocol: 0,
            fragment: false,
            transport: None,
            end: bytes.len().min(ETHERNET) as u16,
            ip_end: 0,
        };
        Self { bytes, layout }
    }

    fn ethernet(&mut self, start: usize) -> Option<usize> {
        let mut at = start + ETHERNET;
        self.layout.ethertype = be16(self.bytes, at - 2)?;
        while let TYPE_CVLAN | TYPE_SVLAN = self.layout.ethertype {
            let tag = (self.layout.ethertype, be16(self.bytes, at)?);
            self.layout.ethertype = be16(self.bytes, at + 2)?;
            self.layout.vlan.get_or_insert(tag);
            at += VLAN_TAG;
            self.layout.end = at as u16;
        }
        Some(at)
    }

    #[inline(always)]
    fn network(&mut self, at: usize) -> Option<()> {
        match self.layout.ethertype {
            TYPE_IPV4 => self.ipv4(at),
            TYPE_IPV6 => self.ipv6(at),
            _ => None,
        }
    }

    #[inline(always)]
    fn ipv4(&mut self, at: usize) -> Option<()> {
        let header: &[u8; 20] = self.bytes.get(at..)?.first_chunk()?;
        let length = usize::from(header[0] & 0xf) * 4;
        if header[0] >> 4 != 4 || length < 20 || self.bytes.len() < at + length {
            return None;
        }
        self.layout.ip = Some((Ip::V4, at as u16));
        self.layout.protocol = header[9];
        self.layout.end = (at + length) as u16;
        let total = u16::from_be_bytes([header[2], header[3]]);
        self.layout.ip_end = at as u32 + u32::from(total);
        // More fragments, or an offset.
        self.layout.fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
        self.transport(at + length)
    }

    fn ipv6(&mut self, at: usize) -> Option<()> {
        let header: &[u8; 40] = self.bytes.get(at..)?.first_chunk()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        self.layout.ip = Some((Ip::V6, at as u16));
        self.layout.protocol = header[6];
        let mut next = at + 40;
        self.layout.end = next as u16;
        let length = u16::from_be_bytes([header[4], header[5]]);
        self.layout.ip_end = next as u32 + u32::from(length);
        loop {
            // Hop-by-hop, routing and destination options: next header, length in 8 bytes.
            let length = match self.layout.protocol {
                0 | 43 | 60 => 8 + 8 * usize::from(*self.bytes.get(next + 1)?),
                44 => {
                    self.layout.fragment = true;
                    8
                }
                _ => break,
            };
            let header = self.bytes.get(next..next + length)?;
            self.layout.protocol = header[0];
            next += length;
            self.layout.end = next as u16;
        }
        self.transport(next)
    }

    fn transport(&mut self, at: usize) -> Option<()> {
        if self.layout.fragment {
            return None;
        }
        let (transport, length) = match self.layout.protocol {
            TCP => (
                Transport::Tcp,
                usize::from(*self.bytes.get(at + 12)? >> 4) * 4,
            ),
            UDP => (Transport::Udp, 8),
            _ => return None,
        };
        if length < 8
            || (transport == Transport::Tcp && length < 20)
            || self.bytes.len() < at + length
        {
            return None;
        }
        self.layout.transport = Some((transport, at as u16));
        self.layout.end = (at + length) as u16;
        Some(())
    }

    /// Where they are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Where the last understood header ends.
    pub fn end(&self) -> usize {
        self.layout.end.into()
    }

    /// Where the IP header says that the packet ends; what follows is padding. Zero without IP.
    pub fn ip_end(&self) -> usize {
        self.layout.ip_end as usize
    }

    /// IP version and where its header starts.
    pub fn ip(&self) -> Option<(Ip, usize)> {
        self.layout.ip()
    }

    /// Transport protocol and where its header starts.
    pub fn transport_at(&self) -> Option<(Transport, usize)> {
        self.layout.transport()
    }

    /// Source and destination address, 4 or 16 bytes each.
    pub fn addresses(&self) -> Option<(&'a [u8], &'a [u8])> {
        let (version, at) = self.ip()?;
        let (at, length) = match version {
            Ip::V4 => (at + 12, 4),
            Ip::V6 => (at + 8, 16),
        };
        Some((
            &self.bytes[at..at + length],
            &self.bytes[at + length..at + 2 * length],
        ))
    }

    /// Source and destination port.
    pub fn ports(&self) -> Option<(u16, u16)> {
        let (_, at) = self.transport_at()?;
        Some((be16(self.bytes, at)?, be16(self.bytes, at + 2)?))
    }

    /// Security parameter index of an IPsec header.
    pub fn spi(&self) -> Option<[u8; 4]> {
        let at = match self.layout.protocol {
            ESP if !self.layout.fragment => self.end(),
            AH if !self.layout.fragment => self.end() + 4,
            _ => return None,
        };
        Some(Fields(self.bytes.get(at..at + 4)?).array(0))
    }

    /// Whether the IPv4 header checksum is right. IPv6 has none.
    pub fn ip_intact(&self) -> bool {
        match self.ip() {
            Some((Ip::V4, at)) => ipv4_sum(self.bytes, at).fold() == 0xffff,
            Some((Ip::V6, _)) => true,
            None => false,
        }
    }

    /// What does not change from packet to packet of a stream.
    pub fn constants(&self) -> Constants {
        let bytes = self.bytes;
        let without = |at: usize| Sum::without(be16(bytes, at).unwrap_or(0));
        // Source and destination lie side by side.
        let (ip, addresses) = match self.ip() {
            Some((Ip::V4, at)) => (
                ipv4_sum(bytes, at)
                    .add(without(at + 2))
                    .add(without(at + 4))
                    .add(without(at + 10)),
                sum_of::<8>(bytes, at + 12),
            ),
            Some((Ip::V6, at)) => (Sum::default(), sum_of::<32>(bytes, at + 8)),
            None => Default::default(),
        };
        let protocol = Sum::word(u16::from(self.layout.protocol));
        Constants {
            ip,
            pseudo: addresses.unwrap_or_default().add(protocol),
        }
    }

    /// The fields that flow rules compare.
    #[inline(always)]
    pub fn match_key(&self) -> MatchKey {
        // What is longer than a word is read as words, as the fields lie in them.
        let be = |value: u16| u64::from(value.to_be());
        let mut words = [0; 8];
        if let Some(ethernet) = self.bytes.first_chunk::<12>() {
            let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| ethernet[at + i]));
            words[1] = word(0) & 0xffff_ffff_ffff;
            words[0] = word(4) >> 16;
        }
        words[0] |= be(self.layout.ethertype) << 48;
        // The word at 0x10: protocol, DSCP and ECN, kind of tag, fragment, IP version, TCP flags.
        let mut word = 0;
        if let Some((kind, tci)) = self.layout.vlan {
            words[1] |= be(tci) << 48;
            word |= u32::from(kind == TYPE_CVLAN) << 15 | u32::from(kind == TYPE_SVLAN) << 14;
        }
        if let Some((version, at)) = self.ip() {
            word |= u32::from(self.layout.protocol) << 24 | u32::from(self.layout.fragment) << 13;
            word |= self.match_ip(&mut words, version, at);
        }
        if let Some((transport, at)) = self.transport_at()
            && let Some(ports) = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk())
        {
            let ports = u64::from(u32::from_le_bytes(*ports)) << 32;
            match transport {
                Transport::Tcp => {
                    word |= u32::from(be16(self.bytes, at + 12).unwrap_or(0)) & 0x1ff;
                    words[2] = ports;
                }
                Transport::Udp => words[3] |= ports,
            }
        }
        words[2] |= u64::from(word.to_be());
        MatchKey::of_words(words)
    }

    /// Sets what belongs to the IP header that starts at `at`, and returns its bits of the word at 0x10.
    #[inline(always)]
    fn match_ip(&self, words: &mut [u64; 8], version: Ip, at: usize) -> u32 {
        let header = self.bytes.get(at..).unwrap_or_default();
        let (number, class, limit) = match version {
            Ip::V4 => {
                let Some(header) = header.first_chunk::<20>() else {
                    return 0;
                };
                // An IPv4 address is in the last bytes of its field.
                for (word, at) in [(5, 12), (7, 16)] {
                    let address = u32::from_le_bytes(std::array::from_fn(|i| header[at + i]));
                    words[word] = u64::from(address) << 32;
                }
                (4, header[1], header[8])
            }
            Ip::V6 => {
                let Some(header) = header.first_chunk::<40>() else {
                    return 0;
                };
                for (i, word) in words[4..].iter_mut().enumerate() {
                    *word = u64::from_le_bytes(std::array::from_fn(|j| header[8 + 8 * i + j]));
                }
                (6, header[0] << 4 | header[1] >> 4, header[7])
            }
        };
        words[3] |= u64::from(u32::from(limit).to_be());
        u32::from(class) << 16 | number << 9
    }
}

/// The control information of the outermost VLAN tag of the frame that starts with `head`, if it has one.
pub fn tag_of(head: &[u8]) -> Option<u16> {
    match be16(head, ETHERNET - 2)? {
        TYPE_CVLAN | TYPE_SVLAN => be16(head, ETHERNET),
        _ => None,
    }
}

/// The sum of the `N` bytes at `at`: of a fixed length it takes no loop.
fn sum_of<const N: usize>(bytes: &[u8], at: usize) -> Option<Sum> {
    let bytes: &[u8; N] = bytes.get(at..)?.first_chunk()?;
    Some(Sum::of(bytes))
}

/// The sum of the IPv4 header that starts at `at`, at most to the end of `bytes`.
#[inline(always)]
fn ipv4_sum(bytes: &[u8], at: usize) -> Sum {
    const PLAIN: u8 = 0x45;
    if bytes[at] == PLAIN
        && let Some(sum) = sum_of::<20>(bytes, at)
    {
        return sum;
    }
    let end = at + usize::from(bytes[at] & 0xf) * 4;
    Sum::of(&bytes[at..end.min(bytes.len())])
}

/// Sums over the fields of a packet that are the same for all packets of its stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Constants {
    /// Those of an IPv4 header: all but total length, identification and checksum.
    ip: Sum,
    /// Those of the pseudo-header of TCP and UDP: all but the length.
    pseudo: Sum,
}

impl Constants {
    /// Fills in the checksum of the IPv4 header that starts at `at`.
    #[inline(always)]
    pub fn fill_ipv4(&self, bytes: &mut [u8], at: usize) {
        let Some(header) = bytes
            .get_mut(at..)
            .and_then(|bytes| bytes.first_chunk_mut::<20>())
        else {
            return;
        };
        let length = Sum::word(u16::from_be_bytes([header[2], header[3]]));
        let id = Sum::word(u16::from_be_bytes([header[4], header[5]]));
        let checksum = !self.ip.add(length).add(id).fold();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The sum over the pseudo-header, for `length` bytes from the transport header on.
    #[inline(always)]
    pub fn pseudo_header(&self, length: usize) -> Sum {
        let [high, low] = [(length >> 16) as u16, length as u16];
        self.pseudo.add(Sum::word(high)).add(Sum::word(low))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bits::FieldsMut;
    use proptest::prelude::*;

    /// An Ethernet, IPv4 and TCP header for `payload` bytes, with a right IP checksum.
    pub(crate) fn tcp4(payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; ETHERNET + 20 + 20];
        bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        bytes[12..14].copy_from_slice(&TYPE_IPV4.to_be_bytes());
        bytes[14] = 0x45;
        bytes[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        bytes[22..24].copy_from_slice(&[64, TCP]);
        bytes[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        bytes[34..38].copy_from_slice(&[0x12, 0x34, 0x00, 0x50]);
        bytes[46] = 5 << 4;
        bytes[47] = 0x10;
        let constants = Headers::parse(&bytes).constants();
        constants.fill_ipv4(&mut bytes, 14);
        bytes
    }

    /// An Ethernet, IPv6 and UDP header for `payload` bytes.
    pub(crate) fn udp6(payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; ETHERNET + 40 + 8];
        bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        bytes[12..14].copy_from_slice(&TYPE_IPV6.to_be_bytes());
        bytes[14] = 0x60;
        bytes[18..20].copy_from_slice(&(8 + payload as u16).to_be_bytes());
        bytes[20..22].copy_from_slice(&[UDP, 64]);
        bytes[22] = 0xfd;
        bytes[37] = 1;
        bytes[38] = 0xfd;
        bytes[53] = 2;
        bytes[54..58].copy_from_slice(&[0x12, 0x34, 0x00, 0x35]);
        bytes[58..60].copy_from_slice(&(8 + payload as u16).to_be_bytes());
        bytes
    }

    /// `frame` with a tag of `kind` and `tci`.
    pub(crate) fn tagged(frame: &[u8], kind: u16, tci: u16) -> Vec<u8> {
        let mut bytes = frame[..12].to_vec();
        bytes.extend(kind.to_be_bytes());
        bytes.extend(tci.to_be_bytes());
        bytes.extend(&frame[12..]);
        bytes
    }

    #[test]
    fn tcp_over_ipv4() {
        let bytes = tcp4(100);
        let headers = Headers::parse(&bytes);
        assert_eq!(headers.ip(), Some((Ip::V4, 14)));
        assert_eq!(headers.transport_at(), Some((Transport::Tcp, 34)));
        assert_eq!((headers.end(), headers.ip_end()), (54, 154));
        assert_eq!(headers.ports(), Some((0x1234, 0x50)));
        assert!(headers.ip_intact());
    }

    #[test]
    fn udp_over_ipv6_with_options() {
        let mut bytes = udp6(0);
        bytes[20] = 0;
        bytes.splice(54..54, [UDP, 0, 1, 4, 0, 0, 0, 0]);
        let headers = Headers::parse(&bytes);
        assert_eq!(headers.transport_at(), Some((Transport::Udp, 62)));
        assert_eq!(headers.end(), 70);
    }

    #[test]
    fn a_fragment_has_no_transport_header() {
        let mut bytes = tcp4(100);
        bytes[20] = 0x20;
        let headers = Headers::parse(&bytes);
        assert_eq!((headers.transport_at(), headers.end()), (None, 34));
    }

    #[test]
    fn tags_are_stepped_over() {
        let bytes = tagged(&tagged(&tcp4(0), TYPE_CVLAN, 7), TYPE_SVLAN, 9);
        let headers = Headers::parse(&bytes);
        assert_eq!(headers.transport_at(), Some((Transport::Tcp, 42)));
        assert_eq!(headers.layout.cvlan(), None, "the outermost is an S-tag");
        assert_eq!(
            Headers::parse(&tagged(&tcp4(0), TYPE_CVLAN, 7))
                .layout
                .cvlan(),
            Some(7)
        );
    }

    #[test]
    fn a_packet_in_a_tunnel() {
        let inner = tcp4(10);
        let mut bytes = udp6(0);
        bytes[56..58].copy_from_slice(&4789u16.to_be_bytes());
        bytes.extend([8, 0, 0, 0, 0, 0, 1, 0]);
        bytes.extend(&inner);
        let outer = Headers::parse(&bytes);
        assert_eq!(outer.end(), 62);
        let found = outer.inner(&[1, 4789]).unwrap();
        assert_eq!(found.ip(), Some((Ip::V4, 84)));
        assert_eq!(found.transport_at(), Some((Transport::Tcp, 104)));
        assert_eq!((found.end(), found.ip_end()), (124, 134));
        assert_eq!(outer.inner(&[1]), None, "an ordinary port");
        assert_eq!(Headers::parse(&inner).inner(&[0x50]), None, "TCP");

        let mut bytes = tcp4(0)[..34].to_vec();
        bytes[23] = GRE;
        bytes.extend([0xb0, 0, 0x08, 0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]);
        bytes.extend(&inner[14..]);
        let found = Headers::parse(&bytes).inner(&[]).unwrap();
        assert_eq!(found.transport_at(), Some((Transport::Tcp, 70)));
        bytes[35] = 1;
        assert_eq!(Headers::parse(&bytes).inner(&[]), None, "PPTP's version");
        bytes[35] = 0;
        bytes[20] = 0x20;
        assert_eq!(Headers::parse(&bytes).inner(&[]), None, "a fragment");
        bytes.truncate(40);
        assert_eq!(Headers::parse(&bytes).inner(&[]), None, "cut off");
    }

    #[test]
    fn the_security_parameter_index_of_ipsec() {
        let mut bytes = tcp4(0);
        assert_eq!(Headers::parse(&bytes).spi(), None);
        bytes[23] = ESP;
        assert_eq!(Headers::parse(&bytes).spi(), Some([0x12, 0x34, 0x00, 0x50]));
        bytes[23] = AH;
        assert_eq!(Headers::parse(&bytes).spi(), Some([0; 4]));
        assert_eq!(Headers::parse(&bytes[..37]).spi(), None, "cut off");
    }

    /// Against the offsets of `struct mlx5_ifc_fte_match_set_lyr_2_4_bits`.
    #[test]
    fn match_fields_lie_where_the_driver_puts_them() {
        let mut expected = [0; 64];
        let mut fields = FieldsMut(&mut expected);
        fields.set_bytes(0x00, &[2, 0, 0, 0, 0, 1]);
        fields.set_bits(0x04, 15, 0, 0x0800);
        fields.set_bytes(0x08, &[2, 0, 0, 0, 0, 2]);
        fields.set_bits(0x0c, 15, 13, 3);
        fields.set_bits(0x0c, 11, 0, 5);
        fields.set_bits(0x10, 31, 24, 6);
        fields.set_bits(0x10, 15, 15, 1);
        fields.set_bits(0x10, 12, 9, 4);
        fields.set_bits(0x10, 8, 0, 0x10);
        fields.set_bits(0x14, 31, 16, 0x1234);
        fields.set_bits(0x14, 15, 0, 0x50);
        fields.set_bits(0x18, 7, 0, 64);
        fields.set_bytes(0x2c, &[10, 0, 0, 1]);
        fields.set_bytes(0x3c, &[10, 0, 0, 2]);
        let bytes = tagged(&tcp4(0), TYPE_CVLAN, 0x6005);
        assert_eq!(Headers::parse(&bytes).match_key(), MatchKey::new(&expected));
        let expected = Fields(&expected);
        assert_eq!(
            expected.u16(0x0e),
            0x6005,
            "priority, cfi and vid are the tag's"
        );
    }

    #[test]
    fn the_pseudo_header_of_rfc_793() {
        let bytes = tcp4(2);
        let sum = Headers::parse(&bytes).constants().pseudo_header(22);
        assert_eq!(
            sum.fold(),
            Sum::of(&[10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 22]).fold()
        );
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(bytes in prop::collection::vec(any::<u8>(), 0..300),
                                   real in 0usize..4, cut in 0usize..80) {
            let mut packet = match real {
                0 => bytes.clone(),
                1 => tcp4(bytes.len()),
                2 => udp6(bytes.len()),
                _ => tagged(&udp6(bytes.len()), TYPE_CVLAN, 1),
            };
            packet.truncate(cut.max(1));
            for (byte, noise) in packet.iter_mut().skip(12).zip(&bytes) {
                *byte ^= noise & (noise >> 4);
            }
            let headers = Headers::parse(&packet);
            prop_assert!(headers.end() <= packet.len());
            headers.match_key();
            headers.constants().pseudo_header(packet.len());
            headers.ip_intact();
            headers.ports();
        }

        /// What is kept apart of a packet says the same as all of it.
        #[test]
        fn the_head_has_all_headers(noise in prop::collection::vec(any::<u8>(), 200..300), real in 0usize..4,
                                    protocol in prop::sample::select(vec![0, 4, 6, 17, 41, 43, 44, 47, 50, 51, 60]),
                                    extension in prop::sample::select(vec![0, 6, 43, 44, 50, 51, 60]), tag in any::<bool>()) {
            let mut packet = if real % 2 == 0 { tcp4(200) } else { udp6(200) };
            packet[if real % 2 == 0 { 23 } else { 20 }] = protocol;
            packet.extend(&noise);
            if real > 1 {
                packet[54] = extension;
                packet[55] &= 3;
            }
            if tag {
                packet = tagged(&packet, TYPE_CVLAN, 1);
            }
            let layers = Layers::parse(&packet, &[]);
            let whole = Headers::parse(&packet);
            let head = Headers::parse(&packet[..layers.head().min(packet.len())]);
            prop_assert_eq!(head.layout, whole.layout);
            prop_assert_eq!(head.spi(), whole.spi());
            prop_assert!(head.match_key() == whole.match_key());
            prop_assert!(layers.inner.is_none_or(|inner| usize::from(inner.end) <= layers.head()));
        }
    }
}
