// SPDX-License-Identifier: MIT OR Apache-2.0
//! Device settings over ethtool's generic netlink: channels, ring parameters, the RSS table.
//!
//! Numbers are those of `include/uapi/linux/ethtool_netlink_generated.h`.

use std::io;

use anyhow::{Context, Result, anyhow};
use neli::consts::nl::{NlmF, NlmsgerrAttr};
use neli::consts::socket::NlFamily;
use neli::err::RouterError;
use neli::genl::{
    AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder, NoUserHeader,
};
use neli::nl::NlPayload;
use neli::router::synchronous::NlRouter;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;
use serde::{Deserialize, Serialize};

use super::shared::Settings;

const ETHTOOL_MSG_RINGS_GET: u8 = 15;
const ETHTOOL_MSG_RINGS_SET: u8 = 16;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
const ETHTOOL_MSG_RSS_GET: u8 = 38;
const ETHTOOL_MSG_RSS_SET: u8 = 48;

/// Each message's first attribute is a header, which names the device.
const ETHTOOL_A_HEADER: u16 = 1;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;

const ETHTOOL_A_RINGS_TCP_DATA_SPLIT: u16 = 11;
const ETHTOOL_A_RINGS_HDS_THRESH: u16 = 17;
const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;
const ETHTOOL_A_RSS_INDIR: u16 = 4;

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

/// The ring parameters that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rings {
    pub(crate) data_split: DataSplit,
    /// Packets up to this length are not split, on devices that can be told so.
    pub(crate) split_threshold: Option<u32>,
}

type Attribute = Nlattr<u16, Buffer>;
type Attributes = GenlBuffer<u16, Buffer>;

/// One device, as ethtool's netlink family sees it.
pub(crate) struct Ethtool {
    router: NlRouter,
    family: u16,
    device: String,
}

impl Ethtool {
    pub(crate) fn open(device: &str) -> Result<Self> {
        let (router, _) = NlRouter::connect(NlFamily::Generic, None, Groups::empty())
            .context("cannot open a netlink socket")?;
        router
            .enable_ext_ack(true)
            .context("cannot ask netlink for its messages")?;
        let family = router
            .resolve_genl_family("ethtool")
            .context("this kernel does not offer ethtool's netlink (CONFIG_ETHTOOL_NETLINK)")?;
        Ok(Self {
            router,
            family,
            device: device.to_owned(),
        })
    }

    /// Sends a command about the device and returns the attributes of the answer, if it has one. The kernel's own
    /// words become the text of an error that has them.
    fn request(&self, command: u8, attributes: Attributes) -> Result<Attributes> {
        let header = attribute(ETHTOOL_A_HEADER, Vec::<u8>::new().as_slice())?
            .nest(&attribute(ETHTOOL_A_HEADER_DEV_NAME, self.device.as_str())?)
            .context("cannot build a netlink message")?;
        let mut all = Attributes::new();
        all.push(header);
        for attribute in attributes.iter() {
            all.push(attribute.clone());
        }
        let message = GenlmsghdrBuilder::<u8, u16, NoUserHeader>::default()
            .cmd(command)
            .version(1)
            .attrs(all)
            .build()
            .context("cannot build a netlink message")?;
        let replies = self
            .router
            .send::<u16, Genlmsghdr<u8, u16>, u16, Genlmsghdr<u8, u16>>(
                self.family,
                NlmF::ACK,
                NlPayload::Payload(message),
            )
            .map_err(refusal)?;
        let mut answer = Attributes::new();
        for reply in replies {
            let reply = reply.map_err(refusal)?;
            if let NlPayload::Payload(payload) = reply.nl_payload() {
                for attribute in payload.attrs().iter() {
                    answer.push(attribute.clone());
                }
            }
        }
        Ok(answer)
    }
}

impl Settings for Ethtool {
    /// Number of receive queues in use.
    fn receive_queues(&self) -> Result<u32> {
        let reply = self.request(ETHTOOL_MSG_CHANNELS_GET, Attributes::new())?;
        let count = |attribute| number::<u32>(&reply, attribute).unwrap_or(0);
        Ok(count(ETHTOOL_A_CHANNELS_COMBINED_COUNT) + count(ETHTOOL_A_CHANNELS_RX_COUNT))
    }

    fn rings(&self) -> Result<Rings> {
        let reply = self.request(ETHTOOL_MSG_RINGS_GET, Attributes::new())?;
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
        let mut attributes = Attributes::new();
        attributes.push(attribute(
            ETHTOOL_A_RINGS_TCP_DATA_SPLIT,
            rings.data_split.number(),
        )?);
        if let Some(threshold) = rings.split_threshold {
            attributes.push(attribute(ETHTOOL_A_RINGS_HDS_THRESH, threshold)?);
        }
        self.request(ETHTOOL_MSG_RINGS_SET, attributes).map(drop)
    }

    /// The table that spreads connections over queues: a queue number each. Empty where the device has none.
    fn rss_table(&self) -> Result<Vec<u32>> {
        let reply = self.request(ETHTOOL_MSG_RSS_GET, Attributes::new())?;
        let bytes: Vec<u8> = reply
            .iter()
            .find(|attribute| *attribute.nla_type().nla_type() == ETHTOOL_A_RSS_INDIR)
            .map(|attribute| attribute.nla_payload().as_ref().to_vec())
            .unwrap_or_default();
        let (words, _) = bytes.as_chunks();
        Ok(words.iter().map(|&word| u32::from_ne_bytes(word)).collect())
    }

    /// Sets the table; an empty one stands for the driver's default.
    fn set_rss_table(&self, table: &[u32]) -> Result<()> {
        let bytes: Vec<u8> = table.iter().flat_map(|queue| queue.to_ne_bytes()).collect();
        let mut attributes = Attributes::new();
        attributes.push(attribute(ETHTOOL_A_RSS_INDIR, bytes.as_slice())?);
        self.request(ETHTOOL_MSG_RSS_SET, attributes).map(drop)
    }
}

fn attribute(number: u16, payload: impl neli::Size + neli::ToBytes) -> Result<Attribute> {
    const WHAT: &str = "cannot build a netlink attribute";
    let number = AttrTypeBuilder::default()
        .nla_type(number)
        .build()
        .context(WHAT)?;
    NlattrBuilder::default()
        .nla_type(number)
        .nla_payload(payload)
        .build()
        .context(WHAT)
}

fn number<T>(attributes: &Attributes, number: u16) -> Option<T>
where
    T: neli::Size + for<'a> neli::FromBytes + neli::TypeSize,
{
    attributes
        .get_attr_handle()
        .get_attr_payload_as(number)
        .ok()
}

fn refusal<T, P>(error: RouterError<T, P>) -> anyhow::Error
where
    RouterError<T, P>: std::fmt::Display,
{
    let RouterError::Nlmsgerr(refused) = &error else {
        return anyhow!("netlink: {error}");
    };
    let cause = io::Error::from_raw_os_error(-refused.error());
    let words = refused
        .ext_ack()
        .get_attr_handle()
        .get_attr_payload_as_with_len::<String>(NlmsgerrAttr::Msg)
        .ok();
    match words {
        Some(words) => anyhow::Error::new(cause).context(words.trim_end().to_owned()),
        None => cause.into(),
    }
}
