// SPDX-License-Identifier: MIT OR Apache-2.0
//! One family of generic netlink: requests about a network device, and the attributes that come back.

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

pub(super) type Attribute = Nlattr<u16, Buffer>;
pub(super) type Attributes = GenlBuffer<u16, Buffer>;

const WHAT: &str = "cannot build a netlink message";

/// A socket to one family.
pub(super) struct Family {
    router: NlRouter,
    number: u16,
}

impl Family {
    /// Connects to the family of that name. `option` is what a kernel without it was built without.
    pub(super) fn open(name: &str, option: &str) -> Result<Self> {
        let (router, _) = NlRouter::connect(NlFamily::Generic, None, Groups::empty())
            .context("cannot open a netlink socket")?;
        router
            .enable_ext_ack(true)
            .context("cannot ask netlink for its messages")?;
        let number = router.resolve_genl_family(name).with_context(|| {
            format!("this kernel does not offer the netlink family {name} ({option})")
        })?;
        Ok(Self { router, number })
    }

    /// Sends a command and returns the attributes of the answer, if it has one. The kernel's own words become the text of an
    /// error that has them.
    pub(super) fn request(&self, command: u8, attributes: Attributes) -> Result<Attributes> {
        let message = GenlmsghdrBuilder::<u8, u16, NoUserHeader>::default()
            .cmd(command)
            .version(1)
            .attrs(attributes)
            .build()
            .context(WHAT)?;
        let replies = self
            .router
            .send::<u16, Genlmsghdr<u8, u16>, u16, Genlmsghdr<u8, u16>>(
                self.number,
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

/// An attribute with a value.
pub(super) fn attribute(
    number: u16,
    payload: impl neli::Size + neli::ToBytes,
) -> Result<Attribute> {
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

/// An attribute that other attributes lie in.
pub(super) fn nested(
    number: u16,
    inside: impl IntoIterator<Item = Attribute>,
) -> Result<Attribute> {
    let number = AttrTypeBuilder::default()
        .nla_type(number)
        .nla_nested(true)
        .build()
        .context(WHAT)?;
    let empty: &[u8] = &[];
    let outer = NlattrBuilder::default()
        .nla_type(number)
        .nla_payload(empty)
        .build()
        .context(WHAT)?;
    inside.into_iter().try_fold(outer, |outer: Attribute, one| {
        outer.nest(&one).context(WHAT)
    })
}

/// The value of an attribute, if it is there.
pub(super) fn number<T>(attributes: &Attributes, number: u16) -> Option<T>
where
    T: neli::Size + for<'a> neli::FromBytes + neli::TypeSize,
{
    attributes
        .get_attr_handle()
        .get_attr_payload_as(number)
        .ok()
}

/// The attribute of that number, if it is there.
pub(super) fn find(attributes: &Attributes, number: u16) -> Option<&Attribute> {
    attributes
        .iter()
        .find(|attribute| *attribute.nla_type().nla_type() == number)
}

/// The kernel's own words, and its errno behind them.
pub(super) fn refusal<T, P>(error: RouterError<T, P>) -> anyhow::Error
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
