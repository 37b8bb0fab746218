// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command interface: entries of the command queue to changes of objects.
//!
//! Every command is executed at once, when its doorbell is written, with the ports
//! borrowed mutably: it is a barrier for the datapath.

mod alloc;
mod hca;
mod physical;
mod plug;
mod queue;
mod receive;
mod register;
mod statistics;
mod steering;
mod vport;

pub mod iseg;

use tracing::{debug, error, trace, warn};

use crate::bits::event::{Eqe, EventType};
use crate::bits::op::{Delivery, Refusal, Status, entry, mailbox, opcode};
use crate::bits::{Fields, FieldsMut, iseg::LOG_CMDQ_SIZE, iseg::LOG_CMDQ_STRIDE};
use crate::datapath::link;
use crate::mem::GuestMemory;
use crate::obj::port::Port;

/// The longest message in either direction that the driver's mailbox caches can hold.
const MAX_MESSAGE: usize = entry::INLINE + 512 * mailbox::DATA;

/// Input of a command.
#[derive(Clone, Copy)]
struct Input<'a>(Fields<'a>);

impl Input<'_> {
    fn opcode(self) -> u16 {
        self.0.u16(0x00)
    }

    fn op_mod(self) -> u16 {
        self.0.u16(0x06)
    }

    /// Number of the object that the command is about, where nearly all commands have it.
    fn number(self) -> u32 {
        self.0.bits(0x08, 23, 0)
    }
}

/// Output of a command.
struct Output<'a>(FieldsMut<'a>);

impl Output<'_> {
    /// Number of a new object.
    fn set_number(&mut self, number: u32) {
        self.0.set_u32(0x08, number);
    }
}

type Result = std::result::Result<(), Refusal>;
type Handler = fn(&mut Port, Input<'_>, &mut Output<'_>) -> Result;

/// Executes the commands in the slots of `slots` of port `me`.
pub fn doorbell(ports: &mut [Port; 2], me: usize, slots: u32) {
    for slot in (0..1 << LOG_CMDQ_SIZE).filter(|slot| slots & 1 << slot != 0) {
        let port = &mut ports[me];
        // Neither the command that makes the command event queue nor the one that destroys it is
        // told of there.
        let events = has_command_events(port);
        let answered = run(port, slot);
        if answered && events && has_command_events(port) {
            port.event(EventType::Command, Eqe::command(1 << slot));
        }
        // After the command is done: the driver asks for the state when it hears of a change.
        link::update(ports);
    }
}

fn has_command_events(port: &Port) -> bool {
    port.hca.eqs.iter().any(|eq| eq.takes(EventType::Command))
}

/// Executes the command in `slot`. Returns whether it has an answer.
fn run(port: &mut Port, slot: u32) -> bool {
    if port.registers.assert() != 0 {
        return false;
    }
    if let Some(left) = port.faults.stuck_commands.checked_sub(1) {
        port.faults.stuck_commands = left;
        port.faults.stuck_slots |= 1 << slot;
        return false;
    }
    let address = port.registers.command_queue() + (u64::from(slot) << LOG_CMDQ_STRIDE);
    let mut bytes = [0; entry::SIZE];
    if let Err(fault) = port.bus.memory.read(address, &mut bytes) {
        error!(slot, %fault, "command queue cannot be read");
        return false;
    }
    let delivery = match deliver(port, &mut bytes) {
        Ok(()) => Delivery::Ok,
        Err(delivery) => {
            error!(slot, ?delivery, "command not delivered");
            delivery
        }
    };
    // Ownership goes back with the last word.
    FieldsMut(&mut bytes).set_bits(entry::STATUS_WORD, 7, 0, (delivery as u32) << 1);
    let written = port.bus.memory.publish(address, &bytes);
    if let Err(fault) = written {
        error!(slot, %fault, "command queue cannot be written");
    }
    written.is_ok()
}

/// Takes the message apart, executes it, and puts the answer together.
fn deliver(port: &mut Port, bytes: &mut [u8; entry::SIZE]) -> std::result::Result<(), Delivery> {
    let fields = Fields(bytes);
    let (in_length, in_mailbox) = (fields.u32(entry::IN_LEN), fields.u64(entry::IN_PTR));
    let (out_length, out_mailbox) = (fields.u32(entry::OUT_LEN), fields.u64(entry::OUT_PTR));
    if bytes[entry::TYPE] != entry::TYPE_PCI {
        return Err(Delivery::Descriptor);
    }
    // An entry always has room for the first bytes of both, used or not.
    let length =
        |given: u32| Some((given as usize).max(entry::INLINE)).filter(|n| *n <= MAX_MESSAGE);
    let mut input = vec![0; length(in_length).ok_or(Delivery::InLength)?];
    let mut output = vec![0; length(out_length).ok_or(Delivery::OutLength)?];

    let (head, rest) = input.split_at_mut(entry::INLINE);
    head.copy_from_slice(&bytes[entry::IN..entry::IN + entry::INLINE]);
    let memory = &port.bus.memory;
    let next = |mailbox: u64| read_u64(memory, mailbox.wrapping_add(mailbox::NEXT));
    let mut mailbox = in_mailbox;
    for data in rest.chunks_mut(mailbox::DATA) {
        memory
            .read(mailbox, data)
            .map_err(|_| Delivery::InPointer)?;
        mailbox = next(mailbox).ok_or(Delivery::InPointer)?;
    }

    execute(port, Input(Fields(&input)), &mut output);

    let (head, rest) = output.split_at(entry::INLINE);
    bytes[entry::OUT..entry::OUT + entry::INLINE].copy_from_slice(head);
    let memory = &port.bus.memory;
    let next = |mailbox: u64| read_u64(memory, mailbox.wrapping_add(mailbox::NEXT));
    let mut mailbox = out_mailbox;
    for data in rest.chunks(mailbox::DATA) {
        memory
            .write(mailbox, data)
            .map_err(|_| Delivery::OutPointer)?;
        mailbox = next(mailbox).ok_or(Delivery::OutPointer)?;
    }
    Ok(())
}

fn read_u64(memory: &GuestMemory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    memory.read(address, &mut bytes).ok()?;
    Some(u64::from_be_bytes(bytes))
}

/// Executes a command and writes status and syndrome.
fn execute(port: &mut Port, input: Input<'_>, output: &mut [u8]) {
    let (opcode, op_mod) = (input.opcode(), input.op_mod());
    trace!(
        "command {opcode:#x}.{op_mod:x} ({:#x} bytes)",
        input.0.len()
    );
    let result = match handler(opcode) {
        _ if port.faults.fails_command(opcode) => {
            Err(Refusal::new(Status::InternalError, "it was to fail"))
        }
        Some(handler) => handler(port, input, &mut Output(FieldsMut(output))),
        None => Err(Refusal::new(Status::BadOp, "no such command")),
    };
    if let Err(Refusal { status, why }) = result {
        match status {
            Status::BadOp => debug!("command {opcode:#x}.{op_mod:x} not known"),
            _ => warn!("command {opcode:#x}.{op_mod:x} refused ({status:?}): {why}"),
        }
        // A syndrome says in which line of the firmware; ours only that the answer is meant.
        const SYNDROME: u32 = 0x00c0_ffee;
        output.fill(0);
        output[0] = status as u8;
        FieldsMut(output).set_u32(0x04, SYNDROME);
    }
}

fn handler(opcode: u16) -> Option<Handler> {
    Some(match opcode {
        opcode::QUERY_HCA_CAP => hca::query_capabilities,
        opcode::SET_HCA_CAP => hca::set_capabilities,
        opcode::QUERY_ADAPTER => hca::query_adapter,
        opcode::QUERY_PAGES => hca::query_pages,
        opcode::QUERY_ISSI => hca::query_issi,
        opcode::SET_ISSI => hca::set_issi,
        opcode::ENABLE_HCA | opcode::DISABLE_HCA | opcode::INIT_HCA | opcode::MANAGE_PAGES => {
            hca::accept
        }
        opcode::TEARDOWN_HCA => hca::teardown,
        opcode::CREATE_MKEY => alloc::create_mkey,
        opcode::DESTROY_MKEY => alloc::destroy_mkey,
        opcode::ALLOC_PD => alloc::alloc_pd,
        opcode::DEALLOC_PD => alloc::dealloc_pd,
        opcode::ALLOC_UAR => alloc::alloc_uar,
        opcode::DEALLOC_UAR => alloc::dealloc_uar,
        opcode::ALLOC_TRANSPORT_DOMAIN => alloc::alloc_transport_domain,
        opcode::DEALLOC_TRANSPORT_DOMAIN => alloc::dealloc_transport_domain,
        opcode::CREATE_TIS => alloc::create_tis,
        opcode::DESTROY_TIS => alloc::destroy_tis,
        opcode::ALLOC_Q_COUNTER => alloc::alloc_counters,
        opcode::DEALLOC_Q_COUNTER => alloc::dealloc_counters,
        opcode::QUERY_Q_COUNTER => alloc::query_counters,
        opcode::CREATE_EQ => queue::create_eq,
        opcode::DESTROY_EQ => queue::destroy_eq,
        opcode::CREATE_CQ => queue::create_cq,
        opcode::DESTROY_CQ => queue::destroy_cq,
        opcode::MODIFY_CQ => queue::modify_cq,
        opcode::CREATE_SQ => queue::create_sq,
        opcode::MODIFY_SQ => queue::modify_sq,
        opcode::QUERY_SQ => queue::query_sq,
        opcode::DESTROY_SQ => queue::destroy_sq,
        opcode::CREATE_RQ => queue::create_rq,
        opcode::MODIFY_RQ => queue::modify_rq,
        opcode::QUERY_RQ => queue::query_rq,
        opcode::DESTROY_RQ => queue::destroy_rq,
        opcode::CREATE_RQT => receive::create_rqt,
        opcode::MODIFY_RQT => receive::modify_rqt,
        opcode::DESTROY_RQT => receive::destroy_rqt,
        opcode::CREATE_TIR => receive::create_tir,
        opcode::MODIFY_TIR => receive::modify_tir,
        opcode::DESTROY_TIR => receive::destroy_tir,
        opcode::SET_FLOW_TABLE_ROOT => steering::set_root,
        opcode::CREATE_FLOW_TABLE => steering::create_table,
        opcode::MODIFY_FLOW_TABLE => steering::modify_table,
        opcode::DESTROY_FLOW_TABLE => steering::destroy_table,
        opcode::CREATE_FLOW_GROUP => steering::create_group,
        opcode::DESTROY_FLOW_GROUP => steering::destroy_group,
        opcode::SET_FLOW_TABLE_ENTRY => steering::set_entry,
        opcode::DELETE_FLOW_TABLE_ENTRY => steering::delete_entry,
        opcode::QUERY_VPORT_STATE => vport::query_state,
        opcode::QUERY_NIC_VPORT_CONTEXT => vport::query_context,
        opcode::MODIFY_NIC_VPORT_CONTEXT => vport::modify_context,
        opcode::QUERY_VPORT_COUNTER => statistics::query_vport,
        opcode::ADD_VXLAN_UDP_DPORT => vport::add_vxlan_port,
        opcode::DELETE_VXLAN_UDP_DPORT => vport::delete_vxlan_port,
        opcode::QUERY_VNIC_ENV => statistics::query_vnic_environment,
        opcode::ACCESS_REG => register::access,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Model;

    /// A port of `model` without memory.
    pub(super) fn port_of(model: &'static dyn Model) -> Port {
        Port::new(model, [2, 0, 0, 0, 0, 1])
    }

    /// Executes a command; returns `length` bytes of output.
    pub(super) fn command(port: &mut Port, input: &[u8], length: usize) -> Vec<u8> {
        let mut output = vec![0; length];
        execute(port, Input(Fields(input)), &mut output);
        output
    }

    #[test]
    fn commands_fail_as_often_as_they_are_to() {
        let mut port = port_of(&crate::model::CX5);
        port.faults.failing_commands = Some((opcode::QUERY_ISSI, 2));
        let mut status = |opcode: u16| {
            let mut input = [0; 16];
            input[..2].copy_from_slice(&opcode.to_be_bytes());
            command(&mut port, &input, 0x70)[0]
        };
        assert_eq!(status(opcode::QUERY_ADAPTER), Status::Ok as u8);
        for expected in [Status::InternalError, Status::InternalError, Status::Ok] {
            assert_eq!(status(opcode::QUERY_ISSI), expected as u8);
        }
    }
}
