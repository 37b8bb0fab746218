// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steering as a whole, from the bytes of a packet to a TIR: tables of random rules do to random packets what a reading of the
//! rules one by one says, without bytes, masks or hash tables.

use connectx::bits::{Fields, FieldsMut};
use connectx::datapath::packet::Headers;
use connectx::obj::flow::{Action, FlowTable, MatchKey, Rule, Steering, Unwanted, group_mask};
use proptest::prelude::*;
use proptest::sample::select;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet in words. Values are few, so that rules and packets meet.
#[derive(Clone, Debug)]
struct Packet {
    to: u8,
    from: u8,
    /// Type and control information of the outermost tag, and whether there is one more below it.
    tag: Option<(u16, u16, bool)>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Other(u16),
    Ip {
        version: u8,
        class: u8,
        limit: u8,
        addresses: [u8; 2],
        protocol: u8,
        ports: [u16; 2],
        flags: u8,
    },
}

impl Packet {
    fn ethertype(&self) -> u16 {
        match self.content {
            Content::Other(ethertype) => ethertype,
            Content::Ip { version: 4, .. } => 0x0800,
            Content::Ip { .. } => 0x86dd,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0, 0, self.to, 2, 0, 0, 0, 0, self.from];
        if let Some((kind, tci, more)) = self.tag {
            bytes.extend([kind, tci].map(u16::to_be_bytes).concat());
            if more {
                bytes.extend([0x81, 0, 0, 99]);
            }
        }
        bytes.extend(self.ethertype().to_be_bytes());
        let Content::Ip {
            version,
            class,
            limit,
            addresses: [source, destination],
            protocol,
            ports,
            flags,
        } = self.content
        else {
            bytes.extend([0; 50]);
            return bytes;
        };
        match version {
            4 => {
                bytes.extend([0x45, class, 0, 60, 0, 0, 0, 0, limit, protocol, 0, 0]);
                bytes.extend([10, 0, 0, source, 10, 0, 0, destination]);
            }
            _ => {
                bytes.extend([0x60 | class >> 4, class << 4, 0, 0, 0, 40, protocol, limit]);
                for address in [source, destination] {
                    bytes.extend([0xfd, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, address]);
                }
            }
        }
        bytes.extend(ports.map(u16::to_be_bytes).concat());
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags]);
        bytes.extend([0; 26]);
        bytes
    }
}

/// What a rule wants of a packet.
#[derive(Clone, Debug)]
enum Want {
    To(u8, u8),
    From(u8, u8),
    Ethertype(u16),
    /// An outermost tag of this kind, or, for C-tags, no tag at all.
    Tagged(u16, bool),
    Vlan(u16),
    Version(u8),
    Class(u8),
    Limit(u8),
    Protocol(u8),
    Address(usize, u8, u8),
    Port(u8, usize, u16, u16),
    TcpFlags(u8, u8),
}

impl Want {
    fn holds(&self, packet: &Packet) -> bool {
        match *self {
            Self::To(value, mask) => packet.to & mask == value & mask,
            Self::From(value, mask) => packet.from & mask == value & mask,
            Self::Ethertype(ethertype) => packet.ethertype() == ethertype,
            Self::Tagged(0x8100, false) => packet.tag.is_none(),
            Self::Tagged(kind, is) => packet.tag.is_some_and(|(k, ..)| k == kind) == is,
            Self::Vlan(vid) => packet.tag.map_or(0, |(_, tci, _)| tci & 0xfff) == vid,
            ref want => match packet.content {
                Content::Ip {
                    version,
                    class,
                    limit,
                    addresses,
                    protocol,
                    ports,
                    flags,
                } => match *want {
                    Self::Version(wanted) => version == wanted,
                    Self::Class(wanted) => class == wanted,
                    Self::Limit(wanted) => limit == wanted,
                    Self::Protocol(wanted) => protocol == wanted,
                    Self::Address(which, value, mask) => addresses[which] & mask == value & mask,
                    Self::Port(of, which, value, mask) => {
                        let port = if of == protocol { ports[which] } else { 0 };
                        port & mask == value & mask
                    }
                    Self::TcpFlags(value, mask) => {
                        let flags = if protocol == TCP { flags } else { 0 };
                        flags & mask == value & mask
                    }
                    _ => unreachable!("looked at above"),
                },
                // A field that a packet does not have is zero.
                Content::Other(_) => match *want {
                    Self::Version(value)
                    | Self::Class(value)
                    | Self::Limit(value)
                    | Self::Protocol(value) => value == 0,
                    Self::Address(_, value, mask) => value & mask == 0,
                    Self::TcpFlags(value, mask) => value & mask == 0,
                    Self::Port(_, _, value, mask) => value & mask == 0,
                    _ => unreachable!("looked at above"),
                },
            },
        }
    }

    /// Puts mask and value where `struct mlx5_ifc_fte_match_set_lyr_2_4_bits` has them.
    fn write(&self, mask: &mut FieldsMut<'_>, value: &mut FieldsMut<'_>) {
        let mut set = |at, high, low, m: u32, v: u32| {
            mask.set_bits(at, high, low, m);
            value.set_bits(at, high, low, v);
        };
        match *self {
            Self::From(v, m) => set(0x04, 23, 16, m.into(), v.into()),
            Self::Ethertype(v) => set(0x04, 15, 0, 0xffff, v.into()),
            Self::To(v, m) => set(0x0c, 23, 16, m.into(), v.into()),
            Self::Vlan(v) => set(0x0c, 11, 0, 0xfff, v.into()),
            Self::Protocol(v) => set(0x10, 31, 24, 0xff, v.into()),
            Self::Class(v) => set(0x10, 23, 16, 0xff, v.into()),
            Self::Tagged(0x8100, v) => set(0x10, 15, 15, 1, v.into()),
            Self::Tagged(_, v) => set(0x10, 14, 14, 1, v.into()),
            Self::Version(v) => set(0x10, 12, 9, 0xf, v.into()),
            Self::TcpFlags(v, m) => set(0x10, 8, 0, m.into(), v.into()),
            Self::Limit(v) => set(0x18, 7, 0, 0xff, v.into()),
            Self::Address(which, v, m) => set(0x2c + 0x10 * which, 7, 0, m.into(), v.into()),
            Self::Port(of, which, v, m) => {
                let at = if of == TCP { 0x14 } else { 0x1c };
                let low = if which == 0 { 16 } else { 0 };
                set(at, low + 15, low, m.into(), v.into());
            }
        }
    }
}

/// What a table does, in words.
#[derive(Clone, Debug)]
struct TableOfRules {
    rules: Vec<(Vec<Want>, Action)>,
    /// Whether packets without a rule go on in the next table.
    goes_on: bool,
}

fn packets() -> impl Strategy<Value = Packet> {
    let ip = (
        select(vec![4u8, 6]),
        0u8..2,
        1u8..3,
        [0u8..4, 0u8..4],
        select(vec![TCP, UDP, 1, 253]),
        [0u16..4, 0u16..4],
        0u8..4,
    );
    let ip = ip.prop_map(
        |(version, class, limit, addresses, protocol, ports, flags)| Content::Ip {
            version,
            class,
            limit,
            addresses,
            protocol,
            ports,
            flags,
        },
    );
    let other = select(vec![0x0806u16, 0x88b5]).prop_map(Content::Other);
    let tag = (select(vec![0x8100u16, 0x88a8]), 0u16..3, any::<bool>());
    (
        0u8..4,
        0u8..4,
        prop::option::of(tag),
        prop_oneof![3 => ip, 1 => other],
    )
        .prop_map(|(to, from, tag, content)| Packet {
            to,
            from,
            tag,
            content,
        })
}

fn wants() -> impl Strategy<Value = Want> {
    prop_oneof![
        (0u8..4, 0u8..4).prop_map(|(v, m)| Want::To(v, m)),
        (0u8..4, 0u8..4).prop_map(|(v, m)| Want::From(v, m)),
        select(vec![0x0800u16, 0x86dd, 0x0806]).prop_map(Want::Ethertype),
        (select(vec![0x8100u16, 0x88a8]), any::<bool>()).prop_map(|(k, is)| Want::Tagged(k, is)),
        (0u16..3).prop_map(Want::Vlan),
        select(vec![4u8, 6]).prop_map(Want::Version),
        (0u8..2).prop_map(Want::Class),
        (1u8..3).prop_map(Want::Limit),
        select(vec![TCP, UDP, 253]).prop_map(Want::Protocol),
        (0usize..2, 0u8..4, 0u8..4).prop_map(|(w, v, m)| Want::Address(w, v, m)),
        (select(vec![TCP, UDP]), 0usize..2, 0u16..4, 0u16..4)
            .prop_map(|(of, w, v, m)| Want::Port(of, w, v, m)),
        (0u8..4, 0u8..4).prop_map(|(v, m)| Want::TcpFlags(v, m)),
    ]
}

/// Tables whose rules drop, receive, or go on in a later table.
fn tables() -> impl Strategy<Value = Vec<TableOfRules>> {
    const TABLES: u32 = 4;
    let action = prop_oneof![
        1 => Just(Action::Drop),
        3 => (1u32..100).prop_map(Action::Tir),
        2 => (1..=TABLES).prop_map(Action::Table),
    ];
    // One want of a kind: a second one would overwrite the first.
    let rule = prop::collection::vec(wants(), 0..4).prop_map(|mut wants| {
        let mut seen = Vec::new();
        wants.retain(|want| {
            let (mut mask, mut value) = ([0; 64], [0; 64]);
            let ones = FieldsMut(&mut mask);
            let place = match *want {
                Want::To(..) => Want::To(0, 0xff),
                Want::From(..) => Want::From(0, 0xff),
                Want::Address(which, ..) => Want::Address(which, 0, 0xff),
                Want::Port(of, which, ..) => Want::Port(of, which, 0, 0xffff),
                Want::TcpFlags(..) => Want::TcpFlags(0, 0xff),
                Want::Tagged(..) => Want::Tagged(0x8100, true),
                ref other => other.clone(),
            };
            place.write(&mut { ones }, &mut FieldsMut(&mut value));
            let new = !seen.contains(&mask);
            seen.push(mask);
            new
        });
        wants
    });
    let table = (prop::collection::vec((rule, action), 0..6), any::<bool>())
        .prop_map(|(rules, goes_on)| TableOfRules { rules, goes_on });
    prop::collection::vec(table, TABLES as usize)
}

/// The device's tables, numbered from one.
fn build(tables: &[TableOfRules]) -> Steering {
    let mut steering = Steering::default();
    for (number, table) in (1..).zip(tables) {
        let last = number == tables.len() as u32;
        let miss = if table.goes_on && !last {
            Action::Table(number + 1)
        } else {
            Action::Drop
        };
        let mut made = FlowTable::new(4, miss).unwrap();
        for (index, (wants, action)) in (0..).zip(&table.rules) {
            let (mut mask, mut value) = ([0; 64], [0; 64]);
            for want in wants {
                want.write(&mut FieldsMut(&mut mask), &mut FieldsMut(&mut value));
            }
            let enable = u32::from(!wants.is_empty());
            let mask = group_mask(Fields(&mask), enable, 0).unwrap();
            let group = made.add_group(index, index, mask).unwrap();
            let rule = Rule {
                action: *action,
                tag: index,
            };
            made.set_rule(index, group, MatchKey::new(&value), rule)
                .unwrap();
        }
        assert_eq!(steering.tables.insert(made), Ok(number));
    }
    steering.root = Some(1);
    steering
}

/// What a reader of the rules says.
fn read(tables: &[TableOfRules], packet: &Packet) -> Result<u32, Unwanted> {
    let mut number = 1;
    // A packet that comes into a table twice goes round for ever.
    for _ in 0..=tables.len() {
        let table = &tables[number - 1];
        let rule = table
            .rules
            .iter()
            .find(|(wants, _)| wants.iter().all(|want| want.holds(packet)));
        number = match rule {
            Some((_, Action::Drop)) => return Err(Unwanted::Dropped),
            Some((_, Action::Tir(tir))) => return Ok(*tir),
            Some((_, Action::Table(next))) => *next as usize,
            None if table.goes_on && number < tables.len() => number + 1,
            None => return Err(Unwanted::Missed),
        };
    }
    Err(Unwanted::Dropped)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn packets_go_where_the_rules_say(
        mut tables in tables(), packets in prop::collection::vec(packets(), 1..40),
        gone in prop::collection::vec((0usize..4, any::<prop::sample::Index>()), 0..4),
    ) {
        let mut steering = build(&tables);
        let check = |steering: &Steering, tables: &[TableOfRules]| {
            for packet in &packets {
                let key = Headers::parse(&packet.bytes()).match_key();
                let went = steering.walk(&key).map(|(tir, _)| tir);
                prop_assert_eq!(went, read(tables, packet), "{:?}", packet);
            }
            Ok(())
        };
        check(&steering, &tables)?;
        // Rules go, and others come in their place.
        for (table, which) in gone {
            if tables[table].rules.is_empty() {
                continue;
            }
            let index = which.index(tables[table].rules.len());
            let made = steering.tables.get_mut(table as u32 + 1).unwrap();
            // What was changed stays readable by its index: it wants nothing that can be.
            if made.remove_rule(index as u32) {
                tables[table].rules[index].0 = vec![Want::Tagged(0x8100, true), Want::Tagged(0x8100, false)];
            }
        }
        check(&steering, &tables)?;
    }
}
