// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who else has a device or one of its receive queues: XDP, AF_XDP, io_uring, devmem TCP.
//!
//! Numbers are those of `include/uapi/linux/netdev.h` and `if_link.h`.

use std::fmt;

use anyhow::{Context, Result};
use neli::consts::nl::NlmF;
use neli::consts::rtnl::{Ifla, RtAddrFamily, Rtm};
use neli::consts::socket::NlFamily;
use neli::nl::NlPayload;
use neli::router::synchronous::NlRouter;
use neli::rtnl::{Ifinfomsg, IfinfomsgBuilder};
use neli::utils::Groups;

use super::genl::{Attributes, Family, attribute, find, refusal};

const NETDEV_CMD_QUEUE_GET: u8 = 10;
const NETDEV_A_QUEUE_ID: u16 = 1;
const NETDEV_A_QUEUE_IFINDEX: u16 = 2;
const NETDEV_A_QUEUE_TYPE: u16 = 3;
const NETDEV_A_QUEUE_DMABUF: u16 = 5;
const NETDEV_A_QUEUE_IO_URING: u16 = 6;
const NETDEV_A_QUEUE_XSK: u16 = 7;
const NETDEV_QUEUE_TYPE_RX: u32 = 0;

const IFLA_XDP_ATTACHED: u16 = 2;

/// Who has a receive queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    AfXdp,
    IoUring,
    Devmem,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AfXdp => "AF_XDP",
            Self::IoUring => "io_uring's zero copy receive",
            Self::Devmem => "devmem TCP",
        })
    }
}

/// Who has the receive queue; [`None`]: nobody of those that the kernel tells of.
pub(crate) fn owner(ifindex: u32, queue: u32) -> Result<Option<Owner>> {
    let mut request = Attributes::new();
    for (number, value) in [
        (NETDEV_A_QUEUE_IFINDEX, ifindex),
        (NETDEV_A_QUEUE_TYPE, NETDEV_QUEUE_TYPE_RX),
        (NETDEV_A_QUEUE_ID, queue),
    ] {
        request.push(attribute(number, value)?);
    }
    let reply = Family::open("netdev", "CONFIG_NET")?.request(NETDEV_CMD_QUEUE_GET, request)?;
    let owners = [
        (NETDEV_A_QUEUE_XSK, Owner::AfXdp),
        (NETDEV_A_QUEUE_IO_URING, Owner::IoUring),
        (NETDEV_A_QUEUE_DMABUF, Owner::Devmem),
    ];
    Ok(owners
        .into_iter()
        .find(|(number, _)| find(&reply, *number).is_some())
        .map(|(_, owner)| owner))
}

/// Whether an XDP program runs on the device.
pub(crate) fn runs_xdp(ifindex: u32) -> Result<bool> {
    const WHAT: &str = "cannot ask for the XDP programs of the device";
    let (router, _) = NlRouter::connect(NlFamily::Route, None, Groups::empty()).context(WHAT)?;
    let message = IfinfomsgBuilder::default()
        .ifi_family(RtAddrFamily::Unspecified)
        .ifi_index(i32::try_from(ifindex).context(WHAT)?)
        .build()
        .context(WHAT)?;
    let replies = router
        .send::<Rtm, Ifinfomsg, Rtm, Ifinfomsg>(
            Rtm::Getlink,
            NlmF::ACK,
            NlPayload::Payload(message),
        )
        .map_err(refusal)
        .context(WHAT)?;
    for reply in replies {
        let reply = reply.map_err(refusal).context(WHAT)?;
        let Some(link) = reply.get_payload() else {
            continue;
        };
        let links = link.rtattrs().get_attr_handle();
        let Ok(xdp) = links.get_nested_attributes::<u16>(Ifla::Xdp) else {
            continue;
        };
        if let Ok(mode) = xdp.get_attr_payload_as::<u8>(IFLA_XDP_ATTACHED) {
            return Ok(mode != 0);
        }
    }
    Ok(false)
}
