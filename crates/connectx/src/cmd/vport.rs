// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about the virtual port.

use super::{Input, Output, Result};
use crate::bits::Fields;
use crate::bits::op::{Refusal, Status};
use crate::obj::port::{MAX_VXLAN_PORTS, Mac, Port};

/// Offsets in `struct mlx5_ifc_nic_vport_context_bits`.
mod context {
    pub const MTU: usize = 0x24;
    pub const LIST: usize = 0xf0;
    pub const MAC: usize = 0xf6;
    pub const ENTRIES: usize = 0x100;
}

/// Types of address lists.
#[derive(Clone, Copy, PartialEq, Eq)]
enum List {
    Unicast,
    Multicast,
    Vlan,
}

impl TryFrom<u32> for List {
    type Error = Refusal;

    fn try_from(value: u32) -> std::result::Result<Self, Refusal> {
        match value {
            0 => Ok(Self::Unicast),
            1 => Ok(Self::Multicast),
            2 => Ok(Self::Vlan),
            _ => Err(Refusal::param("no such address list")),
        }
    }
}

pub fn query_state(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    let admin = u32::from(port.hca.vport.admin_up);
    output.0.set_bits(0x0c, 7, 4, admin);
    output.0.set_bits(0x0c, 3, 0, u32::from(port.link_up()));
    Ok(())
}

pub fn query_context(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    const AT: usize = 0x10;
    let vport = &port.hca.vport;
    let list = input.0.bits(0x0c, 26, 24);
    let entries: Vec<[u8; 8]> = match List::try_from(list)? {
        List::Unicast => vport.unicast.iter().map(mac_entry).collect(),
        List::Multicast => vport.multicast.iter().map(mac_entry).collect(),
        List::Vlan => vport
            .vlans
            .iter()
            .map(|vlan| (u64::from(*vlan) << 32).to_be_bytes())
            .collect(),
    };
    output
        .0
        .set_bits(AT + context::MTU, 15, 0, u32::from(vport.mtu));
    output
        .0
        .set_bits(AT + context::LIST, 31, 29, vport.promiscuous);
    output.0.set_bits(AT + context::LIST, 26, 24, list);
    output
        .0
        .set_bits(AT + context::LIST, 15, 0, entries.len() as u32);
    output.0.set_bytes(AT + context::MAC, &vport.mac);
    for (i, entry) in entries.iter().enumerate() {
        output.0.set_bytes(AT + context::ENTRIES + 8 * i, entry);
    }
    Ok(())
}

fn mac_entry(mac: &Mac) -> [u8; 8] {
    let mut entry = [0; 8];
    entry[2..].copy_from_slice(mac);
    entry
}

pub fn modify_context(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    /// Bits of the field selection, `struct mlx5_ifc_modify_nic_vport_field_select_bits`.
    const MTU: u32 = 0x40;
    const PROMISCUOUS: u32 = 0x10;
    const MAC: u32 = 0x08;
    const ADDRESSES: u32 = 0x04;
    let select = input.0.u32(0x0c);
    let context = input.0.from(0x100);
    if select & !(MTU | PROMISCUOUS | MAC | ADDRESSES) != 0 {
        return Err(Refusal::param("vport context: this cannot be changed"));
    }
    let vport = &mut port.hca.vport;
    if select & ADDRESSES != 0 {
        let entries = entries(context)?;
        let macs = || {
            entries
                .iter()
                .map(|entry| std::array::from_fn(|i| entry[2 + i]))
                .collect()
        };
        match List::try_from(context.bits(context::LIST, 26, 24))? {
            List::Unicast => vport.unicast = macs(),
            List::Multicast => vport.multicast = macs(),
            List::Vlan => {
                let vlan = |entry: &[u8; 8]| Fields(entry).bits(0, 11, 0) as u16;
                vport.vlans = entries.iter().map(vlan).collect();
            }
        }
    }
    if select & MTU != 0 {
        vport.mtu = context.bits(context::MTU, 15, 0) as u16;
    }
    if select & PROMISCUOUS != 0 {
        vport.promiscuous = context.bits(context::LIST, 31, 29);
    }
    if select & MAC != 0 {
        vport.mac = context.array(context::MAC);
    }
    Ok(())
}

/// The entries of the list in a context.
fn entries(context: Fields<'_>) -> std::result::Result<Vec<[u8; 8]>, Refusal> {
    let count = context.bits(context::LIST, 15, 0) as usize;
    if context.len() < context::ENTRIES + 8 * count {
        return Err(Refusal::new(
            Status::BadInputLength,
            "vport context: list too short",
        ));
    }
    Ok((0..count)
        .map(|i| context.array(context::ENTRIES + 8 * i))
        .collect())
}

pub fn add_vxlan_port(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let (ports, added) = (&mut port.hca.vxlan_ports, input.0.u16(0x0e));
    // The driver adds IANA's, too.
    if !ports.contains(&added) {
        if ports.len() == MAX_VXLAN_PORTS {
            return Err(Refusal::new(Status::ExceedsLimit, "too many VXLAN ports"));
        }
        ports.push(added);
    }
    Ok(())
}

pub fn delete_vxlan_port(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let (ports, deleted) = (&mut port.hca.vxlan_ports, input.0.u16(0x0e));
    let at = ports.iter().position(|port| *port == deleted);
    ports.swap_remove(at.ok_or(Refusal::resource("no such VXLAN port"))?);
    Ok(())
}
