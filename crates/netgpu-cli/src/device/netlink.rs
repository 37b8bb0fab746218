// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device settings over ethtool's generic netlink: channels, ring parameters, features, the RSS table.
//!
//! Numbers are those of `include/uapi/linux/ethtool_netlink_generated.h`.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::genl::{Attribute, Attributes, Family, attribute, find, nested, number};
use super::shared::Settings;

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_MSG_RINGS_GET: u8 = 15;
const ETHTOOL_MSG_RINGS_SET: u8 = 16;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
const ETHTOOL_MSG_CHANNELS_SET: u8 = 18;
const ETHTOOL_MSG_RSS_GET: u8 = 38;
const ETHTOOL_MSG_RSS_SET: u8 = 48;

/// Each message's first attribute is a header, which names the device.
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;

const ETHTOOL_A_RINGS_TCP_DATA_SPLIT: u16 = 11;
const ETHTOOL_A_RINGS_HDS_THRESH: u16 = 17;
const ETHTOOL_A_CHANNELS_COMBINED_MAX: u16 = 5;
const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;
const ETHTOOL_A_RSS_INDIR: u16 = 4;

const ETHTOOL_A_FEATURES_HW: u16 = 2;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// Whether the NIC puts headers and payload apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum DataSplit {
    /// The driver decides; it need not say what.
    Unknown,
    Off,
    On,
}

impl DataSplit {
    /// `ETHTOOL_TCP_DATA_SPLIT_*`
    fn number(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Off => 1,
            Self::On => 2,
        }
    }
}

impl fmt::Display for DataSplit {
    /// As ethtool(8) has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "auto",
            Self::Off => "off",
            Self::On => "on",
        })
    }
}

/// The ring parameters that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rings {
    pub(crate) data_split: DataSplit,
    /// Packets up to this length are not split, on devices that can be told so.
    pub(crate) split_threshold: Option<u32>,
}

impl Rings {
    /// These with `before` for each that is still as it was `set`.
    pub(super) fn unset(self, set: Self, before: Self) -> Self {
        Self {
            data_split: if self.data_split == set.data_split {
                before.data_split
            } else {
                self.data_split
            },
            split_threshold: if self.split_threshold == set.split_threshold {
                before.split_threshold
            } else {
                self.split_threshold
            },
        }
    }
}

/// Channels of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Channels {
    /// In use, for both directions.
    pub(crate) combined: u32,
    /// In use, for receiving only.
    pub(crate) receive: u32,
    /// Most combined ones that the device can have.
    pub(crate) most_combined: u32,
}

/// Features of a device (`ethtool -k`), by the kernel's names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Features {
    pub(crate) active: BTreeSet<String>,
    /// Those that can be turned on and off.
    pub(crate) changeable: BTreeSet<String>,
}

/// One device, as ethtool's netlink family sees it.
pub(crate) struct Ethtool {
    family: Family,
    device: String,
}

impl Ethtool {
    pub(crate) fn open(device: &str) -> Result<Self> {
        Ok(Self {
            family: Family::open("ethtool", "CONFIG_ETHTOOL_NETLINK")?,
            device: device.to_owned(),
        })
    }

    /// Sends a command about the device and returns the attributes of the answer, if it has one.
    fn request(
        &self,
        command: u8,
        attributes: impl IntoIterator<Item = Attribute>,
    ) -> Result<Attributes> {
        let name = attribute(ETHTOOL_A_HEADER_DEV_NAME, self.device.as_str())?;
        let mut all = Attributes::new();
        all.push(nested(ETHTOOL_A_HEADER, [name])?);
        for attribute in attributes {
            all.push(attribute);
        }
        self.family.request(command, all)
    }
}

impl Settings for Ethtool {
    fn channels(&self) -> Result<Channels> {
        let reply = self.request(ETHTOOL_MSG_CHANNELS_GET, [])?;
        let count = |attribute| number::<u32>(&reply, attribute).unwrap_or(0);
        Ok(Channels {
            combined: count(ETHTOOL_A_CHANNELS_COMBINED_COUNT),
            receive: count(ETHTOOL_A_CHANNELS_RX_COUNT),
            most_combined: count(ETHTOOL_A_CHANNELS_COMBINED_MAX),
        })
    }

    fn set_combined(&self, count: u32) -> Result<()> {
        let count = attribute(ETHTOOL_A_CHANNELS_COMBINED_COUNT, count)?;
        self.request(ETHTOOL_MSG_CHANNELS_SET, [count]).map(drop)
    }

    fn features(&self) -> Result<Features> {
        let reply = self.request(ETHTOOL_MSG_FEATURES_GET, [])?;
        let names = |attribute| {
            find(&reply, attribute)
                .map(names_of_set)
                .unwrap_or_default()
        };
        Ok(Features {
            active: names(ETHTOOL_A_FEATURES_ACTIVE),
            changeable: names(ETHTOOL_A_FEATURES_HW),
        })
    }

    fn set_feature(&self, name: &str, on: bool) -> Result<()> {
        let mut bit = vec![attribute(ETHTOOL_A_BITSET_BIT_NAME, name)?];
        if on {
            // A flag: that it is there is its value.
            let nothing: &[u8] = &[];
            bit.push(attribute(ETHTOOL_A_BITSET_BIT_VALUE, nothing)?);
        }
        let bits = nested(
            ETHTOOL_A_BITSET_BITS,
            [nested(ETHTOOL_A_BITSET_BITS_BIT, bit)?],
        )?;
        let wanted = nested(ETHTOOL_A_FEATURES_WANTED, [bits])?;
        self.request(ETHTOOL_MSG_FEATURES_SET, [wanted]).map(drop)
    }

    fn rings(&self) -> Result<Rings> {
        let reply = self.request(ETHTOOL_MSG_RINGS_GET, [])?;
        Ok(Rings {
            data_split: match number::<u8>(&reply, ETHTOOL_A_RINGS_TCP_DATA_SPLIT) {
                Some(1) => DataSplit::Off,
                Some(2) => DataSplit::On,
                _ => DataSplit::Unknown,
            },
            split_threshold: number(&reply, ETHTOOL_A_RINGS_HDS_THRESH),
        })
    }

    fn set_rings(&self, rings: Rings) -> Result<()> {
        let mut attributes = vec![attribute(
            ETHTOOL_A_RINGS_TCP_DATA_SPLIT,
            rings.data_split.number(),
        )?];
        if let Some(threshold) = rings.split_threshold {
            attributes.push(attribute(ETHTOOL_A_RINGS_HDS_THRESH, threshold)?);
        }
        self.request(ETHTOOL_MSG_RINGS_SET, attributes).map(drop)
    }

    fn rss_table(&self) -> Result<Vec<u32>> {
        let reply = self.request(ETHTOOL_MSG_RSS_GET, [])?;
        let bytes: Vec<u8> = find(&reply, ETHTOOL_A_RSS_INDIR)
            .map(|attribute| attribute.nla_payload().as_ref().to_vec())
            .unwrap_or_default();
        let (words, _) = bytes.as_chunks();
        Ok(words.iter().map(|&word| u32::from_ne_bytes(word)).collect())
    }

    fn set_rss_table(&self, table: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = table.iter().flat_map(|queue| queue.to_ne_bytes()).collect();
        let table = attribute(ETHTOOL_A_RSS_INDIR, bytes.as_slice())?;
        self.request(ETHTOOL_MSG_RSS_SET, [table]).map(drop)
    }
}

/// Names of the bits that are set, from a bit set in its verbose form: without a mask, it lists those.
fn names_of_set(set: &Attribute) -> BTreeSet<String> {
    let names = || {
        let set = set.get_attr_handle::<u16>().ok()?;
        let bits = set
            .get_nested_attributes::<u16>(ETHTOOL_A_BITSET_BITS)
            .ok()?;
        let names = bits.iter().filter_map(|bit| {
            bit.get_attr_handle::<u16>()
                .ok()?
                .get_attr_payload_as_with_len::<String>(ETHTOOL_A_BITSET_BIT_NAME)
                .ok()
        });
        Some(names.collect())
    };
    names().unwrap_or_default()
}
