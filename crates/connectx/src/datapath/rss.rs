// SPDX-License-Identifier: MIT OR Apache-2.0
//! Receive side scaling: the hash that chooses a queue.

use super::packet::{Headers, Ip, Transport};
use crate::bits::ctx::{HashContext, HashFunction};

/// Two IPv6 addresses and two ports.
const MAX_INPUT: usize = 36;
/// Input is looked up four bits at a time.
const NIBBLES: usize = 2 * MAX_INPUT;

/// Field selection bits of a TIR.
mod select {
    pub const SOURCE: u32 = 1;
    pub const DESTINATION: u32 = 2;
    pub const SOURCE_PORT: u32 = 4;
    pub const DESTINATION_PORT: u32 = 8;
    pub const SPI: u32 = 16;
}

/// A hash function with its key.
#[derive(Debug)]
pub struct Hasher {
    function: Function,
    symmetric: bool,
    fields: u32,
}

#[derive(Debug)]
enum Function {
    None,
    InvertedXor8,
    Toeplitz(Box<Toeplitz>),
}

/// Toeplitz: for each set bit of the input the 32 key bits from there on, exclusive-ored. The
/// table has that for every value of every half byte.
#[derive(Debug)]
struct Toeplitz([[u32; 16]; NIBBLES]);

impl Toeplitz {
    fn new(key: &[u8; 40]) -> Self {
        // The 32 bits of the key from bit `bit` on.
        let window = |bit: usize| {
            (bit..bit + 32).fold(0u32, |window, bit| {
                window << 1 | u32::from(key[bit / 8] >> (7 - bit % 8) & 1)
            })
        };
        Self(std::array::from_fn(|nibble| {
            let windows: [u32; 4] = std::array::from_fn(|bit| window(4 * nibble + bit));
            std::array::from_fn(|value| {
                (0..4)
                    .filter(|bit| value >> (3 - bit) & 1 != 0)
                    .fold(0, |hash, bit| hash ^ windows[bit])
            })
        }))
    }

    fn hash(&self, input: &[u8]) -> u32 {
        let nibbles = input.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        self.0
            .iter()
            .zip(nibbles)
            .fold(0, |hash, (row, value)| hash ^ row[usize::from(value)])
    }
}

impl Hasher {
    /// The hash that `context` describes.
    pub fn new(context: &HashContext) -> Self {
        let function = match context.function {
            HashFunction::None => Function::None,
            HashFunction::InvertedXor8 => Function::InvertedXor8,
            HashFunction::Toeplitz => Function::Toeplitz(Box::new(Toeplitz::new(&context.key))),
        };
        Self {
            function,
            symmetric: context.symmetric,
            fields: context.fields,
        }
    }

    /// The hash of a packet and its type for the completion; both zero if the packet has none of
    /// the fields.
    pub fn hash(&self, headers: &Headers) -> (u32, u8) {
        let mut input = [0; MAX_INPUT];
        let (length, kind) = self.input(headers, &mut input);
        let input = &input[..length];
        if input.is_empty() {
            return (0, 0);
        }
        match &self.function {
            Function::None => (0, 0),
            Function::InvertedXor8 => (
                u32::from(!input.iter().fold(0, |hash, byte| hash ^ byte)),
                kind,
            ),
            Function::Toeplitz(toeplitz) => (toeplitz.hash(input), kind),
        }
    }

    /// Collects the selected fields; returns their length and the hash type.
    fn input(&self, headers: &Headers, input: &mut [u8; MAX_INPUT]) -> (usize, u8) {
        let mut collect = Collector { input, length: 0 };
        let mut kind = 0;
        let (Some((version, _)), Some((source, destination))) = (headers.ip(), headers.addresses())
        else {
            return (0, 0);
        };
        let wanted = [select::SOURCE, select::DESTINATION].map(|bit| self.fields & bit != 0);
        if wanted != [false; 2] {
            collect.pair(source, destination, wanted, self.symmetric);
            kind |= match version {
                Ip::V4 => 1 << 2,
                Ip::V6 => 2 << 2,
            };
        }
        let wanted =
            [select::SOURCE_PORT, select::DESTINATION_PORT].map(|bit| self.fields & bit != 0);
        if let (Some((transport, _)), Some((source, destination))) =
            (headers.transport_at(), headers.ports())
            && wanted != [false; 2]
        {
            let (source, destination) = (source.to_be_bytes(), destination.to_be_bytes());
            collect.pair(&source, &destination, wanted, self.symmetric);
            kind |= match transport {
                Transport::Tcp => 1 << 6,
                Transport::Udp => 2 << 6,
            };
        }
        if let Some(spi) = headers.spi()
            && self.fields & select::SPI != 0
        {
            collect.add(spi.into_iter());
            kind |= 3 << 6;
        }
        (collect.length, kind)
    }
}

/// The input of a hash, as it grows.
struct Collector<'a> {
    input: &'a mut [u8; MAX_INPUT],
    length: usize,
}

impl Collector<'_> {
    /// Adds two fields of the same length, or the wanted one of them.
    ///
    /// Symmetric: their or and their exclusive or take their places, as
    /// `RXH_XFRM_SYM_OR_XOR` of Linux describes it, so both directions are the same.
    fn pair(&mut self, a: &[u8], b: &[u8], wanted: [bool; 2], symmetric: bool) {
        if symmetric && wanted == [true; 2] {
            self.add(a.iter().zip(b).map(|(a, b)| a | b));
            self.add(a.iter().zip(b).map(|(a, b)| a ^ b));
            return;
        }
        for (field, wanted) in [a, b].into_iter().zip(wanted) {
            if wanted {
                self.add(field.iter().copied());
            }
        }
    }

    fn add(&mut self, bytes: impl Iterator<Item = u8>) {
        for (to, byte) in self.input[self.length..].iter_mut().zip(bytes) {
            *to = byte;
            self.length += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::packet::tests::{tcp4, udp6};
    use std::net::Ipv6Addr;

    /// The key of Microsoft's "Verifying the RSS Hash Calculation".
    const KEY: [u8; 40] = [
        0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f,
        0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30,
        0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
    ];

    fn context(function: HashFunction, symmetric: bool, fields: u32) -> HashContext {
        HashContext {
            function,
            symmetric,
            key: KEY,
            fields,
        }
    }

    fn hash(fields: u32, packet: &[u8]) -> (u32, u8) {
        Hasher::new(&context(HashFunction::Toeplitz, false, fields)).hash(&Headers::parse(packet))
    }

    fn packet4(source: [u8; 4], sport: u16, destination: [u8; 4], dport: u16) -> Vec<u8> {
        let mut packet = tcp4(0);
        packet[26..30].copy_from_slice(&source);
        packet[30..34].copy_from_slice(&destination);
        packet[34..36].copy_from_slice(&sport.to_be_bytes());
        packet[36..38].copy_from_slice(&dport.to_be_bytes());
        packet
    }

    fn packet6(source: &str, sport: u16, destination: &str, dport: u16) -> Vec<u8> {
        let octets = |address: &str| address.parse::<Ipv6Addr>().unwrap().octets();
        let mut packet = udp6(0);
        packet[22..38].copy_from_slice(&octets(source));
        packet[38..54].copy_from_slice(&octets(destination));
        packet[54..56].copy_from_slice(&sport.to_be_bytes());
        packet[56..58].copy_from_slice(&dport.to_be_bytes());
        packet
    }

    /// The published vectors of Microsoft's "Verifying the RSS Hash Calculation", IPv4.
    #[test]
    fn toeplitz_ipv4_vectors() {
        #[rustfmt::skip]
        let vectors = [
            ([66, 9, 149, 187], 2794, [161, 142, 100, 80], 1766, 0x323e_8fc2, 0x51cc_c178),
            ([199, 92, 111, 2], 14230, [65, 69, 140, 83], 4739, 0xd718_262a, 0xc626_b0ea),
            ([24, 19, 198, 95], 12898, [12, 22, 207, 184], 38024, 0xd2d0_a5de, 0x5c2b_394a),
            ([38, 27, 205, 30], 48228, [209, 142, 163, 6], 2217, 0x8298_9176, 0xafc7_327f),
            ([153, 39, 163, 191], 44251, [202, 188, 127, 2], 1303, 0x5d18_09c5, 0x10e8_28a2),
        ];
        for (source, sport, destination, dport, addresses, ports) in vectors {
            let packet = packet4(source, sport, destination, dport);
            assert_eq!(hash(3, &packet), (addresses, 0x04), "{source:?}");
            assert_eq!(hash(15, &packet), (ports, 0x44), "{source:?}");
        }
    }

    /// The published vectors for IPv6. They are of TCP; the hash does not depend on that.
    #[test]
    fn toeplitz_ipv6_vectors() {
        #[rustfmt::skip]
        let vectors = [
            ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766,
             0x2cc1_8cd5, 0x4020_7d3d),
            ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739,
             0x0f0c_461c, 0xdde5_1bbf),
            ("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024,
             0x4b61_e985, 0x02d1_feef),
        ];
        for (source, sport, destination, dport, addresses, ports) in vectors {
            let packet = packet6(source, sport, destination, dport);
            assert_eq!(hash(3, &packet), (addresses, 0x08), "{source}");
            assert_eq!(hash(15, &packet), (ports, 0x88), "{source}");
        }
    }

    #[test]
    fn symmetric_means_both_directions_alike() {
        let hasher = Hasher::new(&context(HashFunction::Toeplitz, true, 15));
        let there = packet4([10, 0, 0, 1], 1000, [10, 0, 0, 2], 80);
        let back = packet4([10, 0, 0, 2], 80, [10, 0, 0, 1], 1000);
        let other = packet4([10, 0, 0, 1], 1001, [10, 0, 0, 2], 80);
        let hash = |packet: &[u8]| hasher.hash(&Headers::parse(packet)).0;
        assert_eq!(hash(&there), hash(&back));
        assert_ne!(hash(&there), hash(&other));
    }

    #[test]
    fn a_packet_without_the_fields_has_no_hash() {
        assert_eq!(hash(15, &[0; 60]), (0, 0));
        assert_eq!(hash(0, &tcp4(0)), (0, 0));
        let none = Hasher::new(&context(HashFunction::None, false, 15));
        assert_eq!(none.hash(&Headers::parse(&tcp4(0))), (0, 0));
    }

    #[test]
    fn inverted_xor_of_all_bytes() {
        let xor = Hasher::new(&context(HashFunction::InvertedXor8, false, 3));
        let packet = packet4([1, 2, 4, 8], 0, [16, 32, 64, 0], 0);
        assert_eq!(xor.hash(&Headers::parse(&packet)).0, 0x80);
    }
}
