// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands about objects that are little more than a number.

use super::{Input, Output, Result};
use crate::bits::ctx::{MkeyContext, MkeyPages};
use crate::bits::op::Refusal;
use crate::obj::counter::QueueCounters;
use crate::obj::mkey::{Mkey, Pages, Space};
use crate::obj::port::Port;

pub fn alloc_pd(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    output.set_number(port.hca.pds.insert(())?);
    Ok(())
}

pub fn dealloc_pd(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    port.hca
        .pds
        .remove(input.number())
        .ok_or(Refusal::resource("no such protection domain"))
}

pub fn alloc_uar(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    output.set_number(port.hca.uars.insert(())?);
    Ok(())
}

pub fn dealloc_uar(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    port.hca
        .uars
        .remove(input.number())
        .ok_or(Refusal::resource("no such UAR"))
}

pub fn alloc_transport_domain(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    output.set_number(port.hca.transport_domains.insert(())?);
    Ok(())
}

pub fn dealloc_transport_domain(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let domains = &mut port.hca.transport_domains;
    domains
        .remove(input.number())
        .ok_or(Refusal::resource("no such transport domain"))
}

/// A TIS says which traffic class its send queues have; the cable has only one.
pub fn create_tis(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    output.set_number(port.hca.tiss.insert(())?);
    Ok(())
}

pub fn destroy_tis(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    port.hca
        .tiss
        .remove(input.number())
        .ok_or(Refusal::resource("no such TIS"))
}

pub fn create_mkey(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let MkeyContext {
        pd,
        variant,
        read,
        write,
        umr,
        pages,
    } = MkeyContext::decode(input.0.from(0x10), input.0.from(0x110))?;
    if port.hca.pds.get(pd).is_none() {
        return Err(Refusal::resource("memory key: no such protection domain"));
    }
    output.set_number(port.hca.mkeys.insert(Mkey {
        pd,
        variant,
        read,
        write,
        umr,
        space: pages.map_or(Space::Bus, |pages| {
            let MkeyPages {
                free,
                start,
                length,
                log_page,
                table,
            } = pages;
            Space::Pages(Pages::new(free, start, length, log_page, table))
        }),
    })?);
    Ok(())
}

pub fn destroy_mkey(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let key = port.hca.mkeys.remove(input.number());
    key.map(drop).ok_or(Refusal::resource("no such memory key"))
}

pub fn alloc_counters(port: &mut Port, _: Input<'_>, output: &mut Output<'_>) -> Result {
    output.set_number(port.hca.counters.insert(QueueCounters::default())?);
    Ok(())
}

pub fn dealloc_counters(port: &mut Port, input: Input<'_>, _: &mut Output<'_>) -> Result {
    let set = port.hca.counters.remove(input.0.bits(0x08, 7, 0));
    set.map(drop)
        .ok_or(Refusal::resource("no such counter set"))
}

pub fn query_counters(port: &mut Port, input: Input<'_>, output: &mut Output<'_>) -> Result {
    let clear = input.0.bit(0x18, 31);
    let set = port
        .hca
        .counters
        .get(input.0.bits(0x1c, 7, 0))
        .ok_or(Refusal::resource("no such counter set"))?;
    let out_of_buffer = if clear {
        set.out_of_buffer.take()
    } else {
        set.out_of_buffer.get()
    };
    // The counter has 32 bits and wraps.
    output.0.set_u32(0x30, out_of_buffer as u32);
    Ok(())
}
