// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is asked of a network device: its MTU, and, for devmem TCP, to bind memory, over generic netlink.
//!
//! Numbers are those of `include/uapi/linux/netdev.h`.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::{Context as _, Result, anyhow};
use neli::consts::nl::NlmF;
use neli::consts::socket::NlFamily;
use neli::err::RouterError;
use neli::genl::{
    AttrTypeBuilder, Genlmsghdr, GenlmsghdrBuilder, Nlattr, NlattrBuilder, NoUserHeader,
};
use neli::nl::NlPayload;
use neli::router::synchronous::NlRouter;
use neli::types::{Buffer, GenlBuffer};
use neli::utils::Groups;
use rustix::net::{AddressFamily, SocketType, netdevice};

const NETDEV_CMD_BIND_RX: u8 = 13;
const NETDEV_CMD_BIND_TX: u8 = 15;

const NETDEV_A_DMABUF_IFINDEX: u16 = 1;
const NETDEV_A_DMABUF_QUEUES: u16 = 2;
const NETDEV_A_DMABUF_FD: u16 = 3;
const NETDEV_A_DMABUF_ID: u16 = 4;

const NETDEV_A_QUEUE_ID: u16 = 1;
const NETDEV_A_QUEUE_TYPE: u16 = 3;
const NETDEV_QUEUE_TYPE_RX: u32 = 0;

const MESSAGE: &str = "cannot build a netlink message";

type Attribute = Nlattr<u16, Buffer>;
type Attributes = GenlBuffer<u16, Buffer>;

/// The MTU of `device`, if there is one of this name.
pub(crate) fn mtu(device: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{device}/mtu")).ok()?;
    text.trim().parse().ok()
}

/// A netlink socket, which keeps what is bound through it.
pub(crate) struct Netdev {
    router: NlRouter,
    family: u16,
    index: u32,
}

impl Netdev {
    /// For the network device of that name.
    pub(crate) fn open(device: &str) -> Result<Self> {
        let (router, _) = NlRouter::connect(NlFamily::Generic, None, Groups::empty())
            .context("cannot open a netlink socket")?;
        let family = router
            .resolve_genl_family("netdev")
            .context("this kernel has no netlink family netdev")?;
        Ok(Self {
            router,
            family,
            index: interface_index(device)?,
        })
    }

    /// Payload of a receive queue goes to the dma-buf, until this is dropped.
    pub(crate) fn bind_rx(&self, dma_buf: &impl AsFd, queue: u32) -> Result<()> {
        let queues = attribute(NETDEV_A_DMABUF_QUEUES, Vec::<u8>::new().as_slice())?
            .nest(&attribute(NETDEV_A_QUEUE_ID, queue)?)
            .context(MESSAGE)?
            .nest(&attribute(NETDEV_A_QUEUE_TYPE, NETDEV_QUEUE_TYPE_RX)?)
            .context(MESSAGE)?;
        self.bind(NETDEV_CMD_BIND_RX, dma_buf, Some(queues))
            .map(drop)
    }

    /// The device may send from the dma-buf, until this is dropped; returns the number that sends name it by.
    pub(crate) fn bind_tx(&self, dma_buf: &impl AsFd) -> Result<u32> {
        self.bind(NETDEV_CMD_BIND_TX, dma_buf, None)?
            .context("the answer has no number")
    }

    fn bind(
        &self,
        command: u8,
        dma_buf: &impl AsFd,
        queues: Option<Attribute>,
    ) -> Result<Option<u32>> {
        let mut attributes = Attributes::new();
        attributes.push(attribute(NETDEV_A_DMABUF_IFINDEX, self.index)?);
        attributes.push(attribute(
            NETDEV_A_DMABUF_FD,
            dma_buf.as_fd().as_raw_fd().cast_unsigned(),
        )?);
        queues
            .into_iter()
            .for_each(|queues| attributes.push(queues));
        let message = GenlmsghdrBuilder::<u8, u16, NoUserHeader>::default()
            .cmd(command)
            .version(1)
            .attrs(attributes)
            .build()
            .context(MESSAGE)?;
        let replies = self
            .router
            .send::<u16, Genlmsghdr<u8, u16>, u16, Genlmsghdr<u8, u16>>(
                self.family,
                NlmF::ACK,
                NlPayload::Payload(message),
            )
            .map_err(refusal)?;
        let mut id = None;
        for reply in replies {
            let reply = reply.map_err(refusal)?;
            if let NlPayload::Payload(payload) = reply.nl_payload() {
                let attributes = payload.attrs().get_attr_handle();
                id = attributes.get_attr_payload_as(NETDEV_A_DMABUF_ID).ok();
            }
        }
        Ok(id)
    }
}

fn attribute(number: u16, payload: impl neli::Size + neli::ToBytes) -> Result<Attribute> {
    let number = AttrTypeBuilder::default()
        .nla_type(number)
        .build()
        .context(MESSAGE)?;
    NlattrBuilder::default()
        .nla_type(number)
        .nla_payload(payload)
        .build()
        .context(MESSAGE)
}

fn refusal<T, P>(error: RouterError<T, P>) -> anyhow::Error
where
    RouterError<T, P>: std::fmt::Display,
{
    const WHAT: &str = "cannot bind the dma-buf";
    match &error {
        RouterError::Nlmsgerr(refused) => {
            anyhow!(io::Error::from_raw_os_error(-refused.error())).context(WHAT)
        }
        _ => anyhow!("{WHAT}: {error}"),
    }
}

/// The number of a network device.
pub(crate) fn interface_index(name: &str) -> Result<u32> {
    let any = rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
    netdevice::name_to_index(any, name).with_context(|| format!("no network device {name}"))
}
