// SPDX-License-Identifier: MIT OR Apache-2.0
//! Flow steering: tables of rules that take a received packet to a TIR, or drop it.
//!
//! A table has groups, a range of indices each, and all rules of a group look at
//! the same header bits. So a group is a hash table over the masked header, and a
//! lookup costs a probe for each group that has rules, not one for each rule.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::Table;
use crate::bits::Fields;
use crate::bits::op::{Refusal, Status};

/// Header fields of a packet, or a mask over them: `struct mlx5_ifc_fte_match_set_lyr_2_4_bits`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MatchKey([u64; 8]);

impl MatchKey {
    /// The bytes of the structure.
    pub fn new(bytes: &[u8; 64]) -> Self {
        let words: &[[u8; 8]] = bytes.as_chunks().0;
        Self::of_words(std::array::from_fn(|i| u64::from_le_bytes(words[i])))
    }

    /// The same bytes as little-endian words.
    pub fn of_words(words: [u64; 8]) -> Self {
        Self(words)
    }

    /// The bits that `mask` selects.
    fn masked(&self, mask: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] & mask.0[i]))
    }
}

/// What a rule, or a table that no rule of matched, does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Drop it.
    Drop,
    /// Go on in another table.
    Table(u32),
    /// Receive it through a TIR.
    Tir(u32),
}

/// Why nobody receives a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwanted {
    /// No rule matches it.
    Missed,
    /// A rule says so, or leads nowhere.
    Dropped,
}

/// A rule: one entry of a table.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What happens to a packet.
    pub action: Action,
    /// Tag that the packet's completion carries.
    pub tag: u32,
}

/// Rules of one group that match the same header, by index. There is more than one only while
/// the driver replaces a rule.
type SameValue = BTreeMap<u32, Rule>;

#[derive(Debug)]
struct Group {
    id: u32,
    first: u32,
    last: u32,
    mask: MatchKey,
    rules: FxHashMap<MatchKey, SameValue>,
}

/// A flow table.
#[derive(Debug)]
pub struct FlowTable {
    size: u32,
    /// What happens to a packet that no rule matches.
    pub miss: Action,
    /// By first index, so that a lookup meets lower indices first.
    groups: Vec<Group>,
    next_group: u32,
    /// Group and value of each rule, by index.
    index: FxHashMap<u32, (u32, MatchKey)>,
}

impl FlowTable {
    /// An empty table of 2^`log_size` rules.
    pub fn new(log_size: u32, miss: Action) -> Result<Self, Refusal> {
        if log_size > 24 {
            return Err(Refusal::param("flow table: larger than log_max_ft_size"));
        }
        let (groups, index) = (Vec::new(), FxHashMap::default());
        Ok(Self {
            size: 1 << log_size,
            miss,
            groups,
            next_group: 1,
            index,
        })
    }

    /// Makes the indices `first..=last` a group that compares the bits of `mask`; returns its number.
    pub fn add_group(&mut self, first: u32, last: u32, mask: MatchKey) -> Result<u32, Refusal> {
        if first > last || last >= self.size {
            return Err(Refusal::param("flow group: indices outside the table"));
        }
        if self
            .groups
            .iter()
            .any(|group| group.first <= last && first <= group.last)
        {
            return Err(Refusal::param("flow group: overlaps another"));
        }
        let id = self.next_group;
        self.next_group += 1;
        let at = self.groups.partition_point(|group| group.first < first);
        self.groups.insert(
            at,
            Group {
                id,
                first,
                last,
                mask,
                rules: FxHashMap::default(),
            },
        );
        Ok(id)
    }

    /// Takes away an empty group.
    pub fn remove_group(&mut self, id: u32) -> Result<(), Refusal> {
        let at = self
            .groups
            .iter()
            .position(|group| group.id == id)
            .ok_or(Refusal::resource("flow group: no such group"))?;
        if !self.groups[at].rules.is_empty() {
            return Err(Refusal::new(Status::Busy, "flow group: still has rules"));
        }
        self.groups.remove(at);
        Ok(())
    }

    /// Puts a rule at `index`, in place of the one there.
    pub fn set_rule(
        &mut self,
        index: u32,
        group: u32,
        value: MatchKey,
        rule: Rule,
    ) -> Result<(), Refusal> {
        let group = self
            .groups
            .iter()
            .find(|candidate| candidate.id == group)
            .ok_or(Refusal::resource("flow rule: no such group"))?;
        if !(group.first..=group.last).contains(&index) {
            return Err(Refusal::param("flow rule: index outside its group"));
        }
        let (id, value) = (group.id, value.masked(&group.mask));
        self.remove_rule(index);
        if let Some(group) = self.groups.iter_mut().find(|group| group.id == id) {
            group.rules.entry(value).or_default().insert(index, rule);
            self.index.insert(index, (id, value));
        }
        Ok(())
    }

    /// The rule at `index`.
    pub fn rule_mut(&mut self, index: u32) -> Option<&mut Rule> {
        let (id, value) = self.index.get(&index)?;
        let group = self.groups.iter_mut().find(|group| group.id == *id)?;
        group.rules.get_mut(value)?.get_mut(&index)
    }

    /// Takes the rule at `index` away; returns whether there was one.
    pub fn remove_rule(&mut self, index: u32) -> bool {
        let Some((id, value)) = self.index.remove(&index) else {
            return false;
        };
        if let Some(group) = self.groups.iter_mut().find(|group| group.id == id)
            && let Some(same) = group.rules.get_mut(&value)
        {
            same.remove(&index);
            if same.is_empty() {
                group.rules.remove(&value);
            }
        }
        true
    }

    /// The first rule that matches `key`.
    fn lookup(&self, key: &MatchKey) -> Option<&Rule> {
        self.groups
            .iter()
            .filter(|group| !group.rules.is_empty())
            .find_map(|group| group.rules.get(&key.masked(&group.mask))?.values().next())
    }
}

/// All tables of a port's receive side.
#[derive(Debug)]
pub struct Steering {
    /// The tables.
    pub tables: Table<FlowTable>,
    /// Where a received packet starts.
    pub root: Option<u32>,
}

impl Default for Steering {
    fn default() -> Self {
        Self {
            tables: Table::new(1, 1 << 12),
            root: None,
        }
    }
}

/// More tables in a row than any driver chains: a loop.
const MAX_HOPS: usize = 64;

impl Steering {
    /// The TIR that receives a packet with header fields `key` and its flow tag, unless the
    /// packet is dropped.
    pub fn walk(&self, key: &MatchKey) -> Result<(u32, u32), Unwanted> {
        let mut number = self.root.ok_or(Unwanted::Missed)?;
        for _ in 0..MAX_HOPS {
            let table = self.tables.get(number).ok_or(Unwanted::Dropped)?;
            let rule = table.lookup(key);
            number = match rule.map_or(table.miss, |rule| rule.action) {
                Action::Tir(tir) => return Ok((tir, rule.map_or(0, |rule| rule.tag))),
                Action::Drop if rule.is_none() => return Err(Unwanted::Missed),
                Action::Drop => return Err(Unwanted::Dropped),
                Action::Table(next) => next,
            };
        }
        Err(Unwanted::Dropped)
    }
}

/// Reads the mask of a group: the outer headers of a `fte_match_param` at byte `at`, or nothing
/// if `enable` says that the group compares nothing.
pub fn group_mask(input: Fields<'_>, enable: u32, at: usize) -> Result<MatchKey, Refusal> {
    const OUTER: u32 = 1;
    if enable & !OUTER != 0 {
        return Err(Refusal::param(
            "flow group: only outer headers can be matched",
        ));
    }
    if enable == 0 {
        return Ok(MatchKey::default());
    }
    let mut bytes = input.array(at);
    // That the outermost tag is no C-tag means that there is none at all: an S-tag does not pass for no tag.
    if bytes[TAGS] & CVLAN_TAG != 0 {
        bytes[TAGS] |= SVLAN_TAG;
    }
    let mask = MatchKey::new(&bytes);
    if mask.masked(&MatchKey::new(&COMPARABLE)) != mask {
        return Err(Refusal::param(
            "flow group: mask over a field that is not compared",
        ));
    }
    Ok(mask)
}

/// The byte with `cvlan_tag` and `svlan_tag`, and these.
const TAGS: usize = 0x12;
const CVLAN_TAG: u8 = 0x80;
const SVLAN_TAG: u8 = 0x40;

/// The fields that [`crate::datapath::packet`] fills in: all but `ipv4_ihl`, `l4_type` and
/// reserved bits.
const COMPARABLE: [u8; 64] = {
    let mut mask = [0xff; 64];
    mask[0x18] = 0;
    mask[0x19] = 0;
    mask[0x1a] = 0;
    mask
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(bytes: &[(usize, u8)]) -> MatchKey {
        let mut all = [0; 64];
        for &(at, byte) in bytes {
            all[at] = byte;
        }
        MatchKey::new(&all)
    }

    fn rule(action: Action) -> Rule {
        Rule { action, tag: 0 }
    }

    #[test]
    fn only_masked_bits_are_compared() {
        let mut table = FlowTable::new(4, Action::Drop).unwrap();
        let group = table.add_group(0, 7, key(&[(8, 0xf0)])).unwrap();
        table
            .set_rule(0, group, key(&[(8, 0xa5), (9, 1)]), rule(Action::Tir(1)))
            .unwrap();
        assert!(table.lookup(&key(&[(8, 0xaf), (20, 7)])).is_some());
        assert!(table.lookup(&key(&[(8, 0xbf)])).is_none());
    }

    #[test]
    fn the_lowest_index_wins_and_the_next_one_follows_it() {
        let mut table = FlowTable::new(4, Action::Drop).unwrap();
        let all = table.add_group(8, 15, MatchKey::default()).unwrap();
        let exact = table.add_group(0, 7, key(&[(8, 0xff)])).unwrap();
        table
            .set_rule(8, all, MatchKey::default(), rule(Action::Tir(9)))
            .unwrap();
        table
            .set_rule(3, exact, key(&[(8, 1)]), rule(Action::Tir(3)))
            .unwrap();
        table
            .set_rule(2, exact, key(&[(8, 1)]), rule(Action::Tir(2)))
            .unwrap();
        let hit = |table: &FlowTable| table.lookup(&key(&[(8, 1)])).map(|rule| rule.action);
        assert_eq!(hit(&table), Some(Action::Tir(2)));
        assert!(table.remove_rule(2));
        assert_eq!(hit(&table), Some(Action::Tir(3)));
        assert!(table.remove_rule(3));
        assert_eq!(hit(&table), Some(Action::Tir(9)));
        assert!(!table.remove_rule(3));
    }

    #[test]
    fn misses_go_on_and_loops_end() {
        let mut steering = Steering::default();
        assert_eq!(steering.walk(&key(&[])), Err(Unwanted::Missed), "no root");
        let last = steering
            .tables
            .insert(FlowTable::new(0, Action::Drop).unwrap())
            .unwrap();
        let miss = Action::Table(last);
        let first = steering
            .tables
            .insert(FlowTable::new(0, miss).unwrap())
            .unwrap();
        steering.root = Some(first);
        assert_eq!(steering.walk(&key(&[])), Err(Unwanted::Missed));
        let table = steering.tables.get_mut(last).unwrap();
        let group = table.add_group(0, 0, MatchKey::default()).unwrap();
        let to = Rule {
            action: Action::Tir(5),
            tag: 0x77,
        };
        table.set_rule(0, group, MatchKey::default(), to).unwrap();
        assert_eq!(steering.walk(&key(&[])), Ok((5, 0x77)));
        *steering.tables.get_mut(last).unwrap().rule_mut(0).unwrap() = rule(Action::Table(first));
        let dropped = Err(Unwanted::Dropped);
        assert_eq!(steering.walk(&key(&[])), dropped, "a loop");
        *steering.tables.get_mut(last).unwrap().rule_mut(0).unwrap() = rule(Action::Drop);
        assert_eq!(steering.walk(&key(&[])), dropped, "a rule");
    }

    #[test]
    fn impossible_groups_and_rules_are_refused() {
        let mut table = FlowTable::new(3, Action::Drop).unwrap();
        assert!(table.add_group(0, 8, MatchKey::default()).is_err());
        assert!(table.add_group(3, 2, MatchKey::default()).is_err());
        let group = table.add_group(2, 4, MatchKey::default()).unwrap();
        assert!(
            table.add_group(4, 5, MatchKey::default()).is_err(),
            "overlap"
        );
        assert!(
            table
                .set_rule(5, group, MatchKey::default(), rule(Action::Drop))
                .is_err()
        );
        assert!(
            table
                .set_rule(2, group + 1, MatchKey::default(), rule(Action::Drop))
                .is_err()
        );
        table
            .set_rule(2, group, MatchKey::default(), rule(Action::Drop))
            .unwrap();
        assert!(table.remove_group(group).is_err(), "busy");
        table.remove_rule(2);
        table.remove_group(group).unwrap();
        assert!(FlowTable::new(25, Action::Drop).is_err());
    }

    #[test]
    fn masks_over_what_is_not_compared_are_refused() {
        let mut message = [0; 0x240];
        assert_eq!(
            group_mask(Fields(&message), 0, 0x40),
            Ok(MatchKey::default())
        );
        message[0x40 + 0x1b] = 0xff;
        assert_eq!(
            group_mask(Fields(&message), 1, 0x40),
            Ok(key(&[(0x1b, 0xff)]))
        );
        assert!(group_mask(Fields(&message), 3, 0x40).is_err());
        message[0x40 + 0x18] = 0x80;
        assert!(group_mask(Fields(&message), 1, 0x40).is_err());
    }

    /// As `MLX5E_VLAN_RULE_TYPE_UNTAGGED` of `en_fs.c` has it.
    #[test]
    fn no_c_tag_means_no_tag() {
        let mut message = [0; 0x240];
        message[0x40 + TAGS] = CVLAN_TAG;
        let mask = group_mask(Fields(&message), 1, 0x40).unwrap();
        let mut table = FlowTable::new(0, Action::Drop).unwrap();
        let group = table.add_group(0, 0, mask).unwrap();
        table
            .set_rule(0, group, key(&[]), rule(Action::Tir(1)))
            .unwrap();
        for (tags, found) in [(0, true), (SVLAN_TAG, false), (CVLAN_TAG, false)] {
            assert_eq!(table.lookup(&key(&[(TAGS, tags)])).is_some(), found);
        }
    }

    proptest! {
        /// The hash tables answer as a scan of all rules by index would.
        #[test]
        fn a_lookup_is_a_scan(
            rules in prop::collection::btree_map(0u32..16, (0u8..4, 0u8..4), 0..12),
            probe in (0u8..4, 0u8..4),
        ) {
            let masks = [key(&[(0, 3)]), key(&[(0, 3), (1, 1)]), key(&[])];
            let mut table = FlowTable::new(4, Action::Drop).unwrap();
            let ids = [0, 5, 10].map(|first| {
                let last = if first == 10 { 15 } else { first + 4 };
                table.add_group(first, last, masks[first as usize / 5]).unwrap()
            });
            let value = |(a, b)| key(&[(0, a), (1, b)]);
            for (&index, &pair) in &rules {
                let group = ids[(index as usize / 5).min(2)];
                table.set_rule(index, group, value(pair), rule(Action::Tir(index))).unwrap();
            }
            let scan = rules.iter().find(|&(&index, &pair)| {
                let mask = &masks[(index as usize / 5).min(2)];
                value(pair).masked(mask) == value(probe).masked(mask)
            });
            prop_assert_eq!(
                table.lookup(&value(probe)).map(|rule| rule.action),
                scan.map(|(&index, _)| Action::Tir(index))
            );
        }
    }
}
