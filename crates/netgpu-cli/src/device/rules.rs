// SPDX-License-Identifier: MIT OR Apache-2.0
//! Steering rules (n-tuple filters) of a device, over ethtool's ioctl: the kernel has no netlink for them.
//!
//! Structures and numbers are those of `include/uapi/linux/ethtool.h`.

use std::io;
use std::mem::{offset_of, size_of};
use std::net::SocketAddr;

use super::ioctl::{Device, Request};

const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
const ETHTOOL_GRXCLSRULE: u32 = 0x2f;
const ETHTOOL_GRXCLSRLALL: u32 = 0x30;
const ETHTOOL_SRXCLSRLDEL: u32 = 0x31;
const ETHTOOL_SRXCLSRLINS: u32 = 0x32;

const TCP_V4_FLOW: u32 = 0x01;
const TCP_V6_FLOW: u32 = 0x05;

/// In the answer to `ETHTOOL_GRXCLSRLCNT`: the driver can choose the location itself.
const RX_CLS_LOC_SPECIAL: u64 = 0x8000_0000;
/// The location that leaves the choice to the driver.
const RX_CLS_LOC_ANY: u32 = 0xffff_ffff;

/// Offset of the destination port in `struct ethtool_tcpip4_spec`: behind two addresses and the source port.
const PORT_V4: usize = 4 + 4 + 2;
/// As [`PORT_V4`] in `struct ethtool_tcpip6_spec`.
const PORT_V6: usize = 16 + 16 + 2;

/// `struct ethtool_flow_ext`, of which nothing is used here.
type FlowExt = [u32; 5];

/// `struct ethtool_rx_flow_spec`: what to match and where to put it. The unions are taken as bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct FlowSpec {
    flow_type: u32,
    value: [u8; 52],
    value_ext: FlowExt,
    mask: [u8; 52],
    mask_ext: FlowExt,
    reserved: u32,
    ring_cookie: u64,
    location: u32,
    reserved2: u32,
}

/// Most rules that are looked through for one that is there already; odd, so that [`RxNfc`] has no padding.
const MOST_RULES: usize = 8191;

/// `struct ethtool_rxnfc` with room for a list of locations.
#[repr(C)]
struct RxNfc {
    cmd: u32,
    flow_type: u32,
    data: u64,
    fs: FlowSpec,
    rule_cnt: u32,
    rule_locs: [u32; MOST_RULES],
}

const _: () = assert!(size_of::<FlowSpec>() == 168);
const _: () = assert!(offset_of!(FlowSpec, ring_cookie) == 152);
const _: () = assert!(offset_of!(RxNfc, fs) == 16 && offset_of!(RxNfc, rule_locs) == 188);
const _: () = assert!(size_of::<RxNfc>() == 188 + 4 * MOST_RULES);

// SAFETY: All commands of this file have `struct ethtool_rxnfc`, followed by as many locations as `rule_cnt` says, which `list()`
// keeps within `RxNfc`. All of it is integers.
unsafe impl Request for RxNfc {}

/// A rule that [`Rules::steer`] has made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steered {
    /// As the device tells of it.
    ours: FlowSpec,
    /// The one that it has replaced: for the same packets, with another destination.
    replaced: Option<FlowSpec>,
}

/// The rules of one device.
pub(crate) struct Rules {
    device: Device,
}

impl Rules {
    pub(crate) fn open(device: &str) -> io::Result<Self> {
        Ok(Self {
            device: Device::open(device)?,
        })
    }

    /// How many rules there are. Fails where the device takes none.
    pub(crate) fn count(&self) -> io::Result<u32> {
        let mut counted = request(ETHTOOL_GRXCLSRLCNT);
        self.device.call(&mut *counted)?;
        Ok(counted.rule_cnt)
    }

    /// Sends TCP packets for the port of `address`, and for its host unless that is unspecified, to a receive queue.
    ///
    /// A rule for exactly these packets that is there already, perhaps of a run that was killed, is replaced. [`None`]: it does the same.
    pub(crate) fn steer(&self, address: SocketAddr, queue: u32) -> io::Result<Option<Steered>> {
        let mut wanted = flow(address, queue);
        let (rules, any_location, size) = self.list()?;
        let same_packets = rules.iter().find(|rule| {
            (rule.flow_type, rule.value, rule.mask) == (wanted.flow_type, wanted.value, wanted.mask)
                && rule.mask_ext == wanted.mask_ext
        });
        wanted.location = match same_packets {
            Some(rule) if rule.ring_cookie == wanted.ring_cookie => return Ok(None),
            Some(rule) => rule.location,
            None if any_location => RX_CLS_LOC_ANY,
            // As ethtool(8) does: from the end, where the rules of lowest priority are.
            None => (0..size)
                .rev()
                .find(|location| rules.iter().all(|rule| rule.location != *location))
                .ok_or(io::ErrorKind::StorageFull)?,
        };
        let placed = self.insert(wanted)?;
        Ok(Some(Steered {
            // What a driver does not keep of a rule, it does not tell.
            ours: self.at(placed.location).unwrap_or(placed),
            replaced: same_packets.copied(),
        }))
    }

    /// Puts back what was there before [`Rules::steer`]. Tells whether it could: what is not our rule any more stays.
    pub(crate) fn restore(&self, steered: Steered) -> io::Result<bool> {
        let Steered { ours, replaced } = steered;
        let (rules, ..) = self.list()?;
        if !rules.contains(&ours) {
            return Ok(false);
        }
        match replaced {
            Some(rule) => drop(self.insert(rule)?),
            None => {
                let mut request = request(ETHTOOL_SRXCLSRLDEL);
                request.fs.location = ours.location;
                self.device.call(&mut *request)?;
            }
        }
        Ok(true)
    }

    fn insert(&self, rule: FlowSpec) -> io::Result<FlowSpec> {
        let mut request = request(ETHTOOL_SRXCLSRLINS);
        request.fs = rule;
        self.device.call(&mut *request)?;
        // Where the driver chose the location, it is here now.
        Ok(request.fs)
    }

    /// The rule at a location.
    fn at(&self, location: u32) -> io::Result<FlowSpec> {
        let mut one = request(ETHTOOL_GRXCLSRULE);
        one.fs.location = location;
        self.device.call(&mut *one)?;
        Ok(one.fs)
    }

    /// All rules, whether the driver chooses locations, and the number of locations.
    fn list(&self) -> io::Result<(Vec<FlowSpec>, bool, u32)> {
        let mut counted = request(ETHTOOL_GRXCLSRLCNT);
        self.device.call(&mut *counted)?;
        let any_location = counted.data & RX_CLS_LOC_SPECIAL != 0;
        if counted.rule_cnt as usize > MOST_RULES {
            return Err(io::Error::other(format!(
                "the device has {} rules, more than the {MOST_RULES} that can be looked through",
                counted.rule_cnt
            )));
        }
        let mut listed = request(ETHTOOL_GRXCLSRLALL);
        listed.rule_cnt = counted.rule_cnt;
        self.device.call(&mut *listed)?;
        let size = u32::try_from(listed.data & !RX_CLS_LOC_SPECIAL).unwrap_or(u32::MAX);
        let locations = &listed.rule_locs[..(listed.rule_cnt as usize).min(MOST_RULES)];
        let rules = locations.iter().map(|&location| self.at(location));
        Ok((rules.collect::<io::Result<_>>()?, any_location, size))
    }
}

fn request(cmd: u32) -> Box<RxNfc> {
    let nothing = FlowSpec {
        flow_type: 0,
        value: [0; 52],
        value_ext: [0; 5],
        mask: [0; 52],
        mask_ext: [0; 5],
        reserved: 0,
        ring_cookie: 0,
        location: 0,
        reserved2: 0,
    };
    Box::new(RxNfc {
        cmd,
        flow_type: 0,
        data: 0,
        fs: nothing,
        rule_cnt: 0,
        rule_locs: [0; MOST_RULES],
    })
}

/// The rule without its location. Addresses and ports are in network order; ones in the mask are bits that must agree.
fn flow(address: SocketAddr, queue: u32) -> FlowSpec {
    let mut flow = request(0).fs;
    flow.ring_cookie = u64::from(queue);
    let port_at = match address {
        SocketAddr::V4(address) => {
            flow.flow_type = TCP_V4_FLOW;
            if !address.ip().is_unspecified() {
                // The destination follows the source.
                flow.value[4..8].copy_from_slice(&address.ip().octets());
                flow.mask[4..8].fill(0xff);
            }
            PORT_V4
        }
        SocketAddr::V6(address) => {
            flow.flow_type = TCP_V6_FLOW;
            if !address.ip().is_unspecified() {
                flow.value[16..32].copy_from_slice(&address.ip().octets());
                flow.mask[16..32].fill(0xff);
            }
            PORT_V6
        }
    };
    flow.value[port_at..port_at + 2].copy_from_slice(&address.port().to_be_bytes());
    flow.mask[port_at..port_at + 2].fill(0xff);
    flow
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_match_port_and_given_address() {
        let any = flow("0.0.0.0:5001".parse().expect("an address"), 3);
        assert_eq!((any.flow_type, any.ring_cookie), (TCP_V4_FLOW, 3));
        assert_eq!(any.value[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x13, 0x89]);
        assert_eq!(any.mask[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert!(
            any.value[12..]
                .iter()
                .chain(&any.mask[12..])
                .all(|&byte| byte == 0)
        );

        let one = flow("192.0.2.7:80".parse().expect("an address"), 0);
        assert_eq!(one.value[..12], [0, 0, 0, 0, 192, 0, 2, 7, 0, 0, 0, 80]);
        assert_eq!(one.mask[4..8], [0xff; 4]);

        let six = flow("[2001:db8::1]:443".parse().expect("an address"), 1);
        assert_eq!(six.flow_type, TCP_V6_FLOW);
        assert_eq!(six.value[16..20], [0x20, 0x01, 0x0d, 0xb8]);
        assert_eq!(
            (six.value[31], &six.value[34..36]),
            (1, &443u16.to_be_bytes()[..])
        );
        assert_eq!(six.mask[..16], [0; 16]);
        assert_eq!(
            (&six.mask[16..32], &six.mask[32..36]),
            (&[0xff; 16][..], &[0, 0, 0xff, 0xff][..])
        );
    }
}
