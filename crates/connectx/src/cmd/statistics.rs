// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counters of the physical and of the virtual port.

use super::{Input, Output, Result};
use crate::bits::{Fields, FieldsMut};
use crate::obj::counter::Traffic;
use crate::obj::port::Port;

/// Statistics of the physical port, in groups. Groups, and counters, of what a cable in memory does not have are zero.
pub fn ppcnt(port: &Port, written: Fields<'_>, register: &mut FieldsMut<'_>) -> Result {
    let priority = written.bits(0x04, 2, 0) as usize;
    let counters = match written.bits(0x00, 5, 0) {
        0x00 => ieee_802_3(port),
        0x01 => rfc_2863(port),
        0x02 => rfc_2819(port),
        0x10 => by_priority(port, priority),
        0x12 => layers(port),
        0x23 => corrections(port),
        _ => Vec::new(),
    };
    const COUNTERS_AT: usize = 0x08;
    for (at, value) in counters {
        register.set_u64(COUNTERS_AT + at, value);
    }
    Ok(())
}

/// Offset in a group, and value.
type Counter = (usize, u64);

const UNICAST: usize = 0;
const MULTICAST: usize = 1;
const BROADCAST: usize = 2;

/// `struct mlx5_ifc_eth_802_3_cntrs_grp_data_layout_bits`.
fn ieee_802_3(port: &Port) -> Vec<Counter> {
    let counters = &port.physical.counters;
    let (received, sent) = (counters.received.get(), counters.sent.get());
    let (paused, pausing) = (counters.paused.get(), counters.pausing.get());
    vec![
        (0x00, sent.traffic.all_frames()),
        (0x08, received.traffic.all_frames()),
        (0x20, sent.octets()),
        (0x28, received.octets()),
        (0x30, sent.traffic.frames[MULTICAST]),
        (0x38, sent.traffic.frames[BROADCAST]),
        (0x40, received.traffic.frames[MULTICAST]),
        (0x48, received.traffic.frames[BROADCAST]),
        (0x60, counters.oversize.get()),
        (0x70, pausing),
        (0x78, paused),
        (0x88, paused),
        (0x90, pausing),
    ]
}

/// `struct mlx5_ifc_eth_2863_cntrs_grp_data_layout_bits`.
fn rfc_2863(port: &Port) -> Vec<Counter> {
    let counters = &port.physical.counters;
    let (received, sent) = (counters.received.get(), counters.sent.get());
    vec![
        (0x00, received.octets()),
        (0x08, received.traffic.frames[UNICAST]),
        (0x18, counters.oversize.get()),
        (0x28, sent.octets()),
        (0x30, sent.traffic.frames[UNICAST]),
        (0x38, counters.unsent.get()),
        (0x48, received.traffic.frames[MULTICAST]),
        (0x50, received.traffic.frames[BROADCAST]),
        (0x58, sent.traffic.frames[MULTICAST]),
        (0x60, sent.traffic.frames[BROADCAST]),
    ]
}

/// `struct mlx5_ifc_eth_2819_cntrs_grp_data_layout_bits`.
fn rfc_2819(port: &Port) -> Vec<Counter> {
    const SIZES_AT: usize = 0x58;
    let counters = &port.physical.counters;
    let received = counters.received.get();
    let mut group = vec![
        (0x08, received.octets()),
        (0x10, received.traffic.all_frames()),
        (0x18, received.traffic.frames[BROADCAST]),
        (0x20, received.traffic.frames[MULTICAST]),
        (0x38, counters.oversize.get()),
    ];
    let sizes = received.sizes.iter().enumerate();
    group.extend(sizes.map(|(i, &frames)| (SIZES_AT + 8 * i, frames)));
    group
}

/// `struct mlx5_ifc_eth_per_prio_grp_data_layout_bits`. Pause frames, which are for all priorities, are in the first.
fn by_priority(port: &Port, priority: usize) -> Vec<Counter> {
    let counters = &port.physical.counters;
    let (received, sent) = (counters.received.get(), counters.sent.get());
    let mut group = vec![
        (0x00, received.priority_octets(priority)),
        (0x20, received.priority_frames[priority]),
        (0x28, sent.priority_octets(priority)),
        (0x48, sent.priority_frames[priority]),
    ];
    if priority == 0 {
        group.extend([
            (0x50, counters.paused.get()),
            (0x58, counters.paused_us.get()),
            (0x60, counters.pausing.get()),
            (0x68, counters.pausing_us.get()),
        ]);
    }
    group
}

/// `struct mlx5_ifc_phys_layer_cntrs_bits`.
fn layers(port: &Port) -> Vec<Counter> {
    // link_down_events has 32 bits, and zero behind it.
    vec![(0xc0, port.physical.counters.link_downs.get() << 32)]
}

/// `struct mlx5_ifc_rs_histogram_cntrs_bits`: code words by wrong symbols, of which none has any. One carries 20 blocks of 256 bits,
/// and only frames make some.
fn corrections(port: &Port) -> Vec<Counter> {
    const OCTETS: u64 = 20 * 256 / 8;
    let octets = port.physical.counters.received.get().octets();
    vec![(0x00, octets.div_ceil(OCTETS))]
}

/// Counters of the virtual port (`struct mlx5_ifc_query_vport_counter_out_bits`).
pub fn query_vport(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    let counters = &port.counters;
    let (received, sent) = (counters.received.get(), counters.sent.get());
    // Each received and sent, packets and octets.
    let mut at = 0x70;
    for cast in [BROADCAST, UNICAST, MULTICAST] {
        for Traffic { frames, bytes } in [&received, &sent] {
            output.0.set_u64(at, frames[cast]);
            output.0.set_u64(at + 8, bytes[cast]);
            at += 16;
        }
    }
    let looped = counters.looped.get();
    output.0.set_u64(at, looped.all_frames());
    output.0.set_u64(at + 8, looped.all_bytes());
    Ok(())
}

/// What became of frames that no receive queue got (`struct mlx5_ifc_vnic_diagnostic_statistics_bits`).
pub fn query_vnic_environment(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    const AT: usize = 0x10;
    output.0.set_u64(AT + 0x10, port.counters.missed.get());
    output
        .0
        .set_u32(AT + 0x44, port.counters.too_large.get() as u32);
    Ok(())
}
