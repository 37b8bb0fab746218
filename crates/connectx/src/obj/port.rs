// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port: one PCI function with everything behind it.

use std::sync::Arc;

use tracing::debug;

use super::Table;
use super::counter::{QueueCounters, VportCounters};
use super::cq::Cq;
use super::eq::{Eq, Interrupts};
use super::flow::Steering;
use super::mkey::{KeyFault, Mkey};
use super::physical::{Agreement, Physical};
use super::registers::Registers;
use super::rq::Rq;
use super::sq::Sq;
use super::tir::{Rqt, Tir};
use crate::bits::Fields;
use crate::bits::event::{Eqe, EventType, PortChange};
use crate::bits::iseg::FIRST_UAR;
use crate::fault::PortFaults;
use crate::mem::{Access, GuestMemory, Slice};
use crate::model::{CapabilityType, Model, capability_structure};
use crate::pci::MSIX_TABLE;

/// What the device sees of its host.
#[derive(Default)]
pub struct Bus {
    /// Memory.
    pub memory: GuestMemory,
    /// Interrupts.
    pub interrupts: Interrupts,
}

/// A hardware address.
pub type Mac = [u8; 6];

/// Length of the largest frame that the port can be set to, FCS included.
pub const MAX_MTU: u16 = 10000;

/// The UDP port that IANA gave to VXLAN: known without being told.
const VXLAN_PORT: u16 = 4789;

/// How many UDP ports the device can know for VXLAN.
pub const MAX_VXLAN_PORTS: usize = 4;

/// One PCI function with everything behind it.
pub struct Port {
    /// Generation of the hardware.
    pub model: &'static dyn Model,
    /// The address that the port was made with.
    pub mac: Mac,
    /// What its host can read at any time.
    pub registers: Arc<Registers>,
    /// Host.
    pub bus: Bus,
    /// What the driver has created. Starting over drops all of it.
    pub hca: Hca,
    /// The physical port.
    pub physical: Physical,
    /// Statistics of the virtual port.
    pub counters: VportCounters,
    /// What goes wrong in it, on demand.
    pub faults: PortFaults,
}

/// A driver's objects and settings.
pub struct Hca {
    /// General capabilities, as the driver has set them.
    pub general: Vec<u8>,
    /// UAR pages.
    pub uars: Table<()>,
    /// Protection domains.
    pub pds: Table<()>,
    /// Transport domains.
    pub transport_domains: Table<()>,
    /// Transport interface send objects.
    pub tiss: Table<()>,
    /// Memory keys.
    pub mkeys: Table<Mkey>,
    /// Event queues.
    pub eqs: Table<Eq>,
    /// Completion queues.
    pub cqs: Table<Cq>,
    /// Send queues.
    pub sqs: Table<Sq>,
    /// Receive queues.
    pub rqs: Table<Rq>,
    /// Indirection tables.
    pub rqts: Table<Rqt>,
    /// Transport interface receive objects.
    pub tirs: Table<Tir>,
    /// Counter sets.
    pub counters: Table<QueueCounters>,
    /// Flow tables.
    pub steering: Steering,
    /// What the driver has said about its virtual port.
    pub vport: Vport,
    /// UDP ports whose packets carry Ethernet frames in VXLAN.
    pub vxlan_ports: Vec<u16>,
}

/// Settings of the virtual and of the physical port.
#[derive(Clone, Debug)]
pub struct Vport {
    /// The driver wants the link up.
    pub admin_up: bool,
    /// Largest frame, physical port.
    pub port_mtu: u16,
    /// Largest frame, virtual port.
    pub mtu: u16,
    /// Address of the function.
    pub mac: Mac,
    /// Unicast addresses that the function receives.
    pub unicast: Vec<Mac>,
    /// Multicast addresses.
    pub multicast: Vec<Mac>,
    /// VLANs.
    pub vlans: Vec<u16>,
    /// The three promiscuous bits: unicast, multicast, all.
    pub promiscuous: u32,
}

impl Hca {
    fn new(model: &dyn Model, mac: Mac) -> Self {
        // The UAR pages end where the MSI-X table starts.
        let uars = (MSIX_TABLE >> 12) as usize - FIRST_UAR as usize;
        Self {
            general: capability_structure(model, CapabilityType::General),
            uars: Table::new(FIRST_UAR, uars),
            pds: Table::new(1, 1 << 12),
            transport_domains: Table::new(1, 1 << 12),
            tiss: Table::new(1, 1 << 8),
            // Key 0x100, of index 1, ends a scatter list.
            mkeys: Table::new(0x10, 1 << 12),
            // Event queue numbers have eight bits.
            eqs: Table::new(1, 1 << 7),
            cqs: Table::new(1, 1 << 14),
            sqs: Table::new(1, 1 << 14),
            rqs: Table::new(1, 1 << 14),
            rqts: Table::new(1, 1 << 14),
            tirs: Table::new(1, 1 << 14),
            // Eight bits, and zero is none.
            counters: Table::new(1, 255),
            steering: Steering::default(),
            vport: Vport {
                admin_up: false,
                port_mtu: MAX_MTU,
                mtu: MAX_MTU,
                mac,
                unicast: Vec::new(),
                multicast: Vec::new(),
                vlans: Vec::new(),
                promiscuous: 0,
            },
            vxlan_ports: vec![VXLAN_PORT],
        }
    }

    /// Whether the driver has set bit `bit` of the word at byte `at` of the general capabilities.
    pub fn can(&self, at: usize, bit: u32) -> bool {
        Fields(&self.general).bit(at, bit)
    }
}

impl Port {
    /// A port after power-on.
    pub fn new(model: &'static dyn Model, mac: Mac) -> Self {
        Self {
            model,
            mac,
            registers: Arc::new(Registers::new(model)),
            bus: Bus::default(),
            hca: Hca::new(model, mac),
            physical: Physical::new(model.rates()),
            counters: VportCounters::default(),
            faults: PortFaults::default(),
        }
    }

    /// Drops everything that a driver has made: it starts over, or is gone. Nothing of this port
    /// touches guest memory from here on.
    pub fn start_over(&mut self) {
        debug!("objects dropped");
        self.hca = Hca::new(self.model, self.mac);
        self.faults.stuck_slots = 0;
        self.lose_link();
    }

    /// Function-level reset.
    pub fn reset(&mut self) {
        self.start_over();
        self.physical.reset();
        self.registers.reset();
    }

    /// The memory key `key`, if a queue of `pd` may use it for `access`.
    #[inline(always)]
    pub fn mkey(&self, key: u32, pd: u32, access: Access) -> Result<&Mkey, KeyFault> {
        let mkey = self.hca.mkeys.get(key >> 8);
        mkey.filter(|mkey| mkey.allows(pd, key as u8, access))
            .ok_or(KeyFault::Key(key))
    }

    /// Appends the pieces of memory that a queue of `pd` may use for `access` under `key`: `length` bytes at `address`.
    #[inline(always)]
    pub fn slices<'p>(
        &'p self,
        key: u32,
        pd: u32,
        access: Access,
        address: u64,
        length: usize,
        pieces: &mut Vec<Slice<'p>>,
    ) -> Result<(), KeyFault> {
        let mkey = self.mkey(key, pd, access)?;
        mkey.slices(&self.bus.memory, address, length, access, pieces)
    }

    /// Posts an event that is not a completion to the queue that takes its kind, if there is one.
    pub fn event(&self, kind: EventType, event: Eqe) {
        if let Some(eq) = self.hca.eqs.iter().find(|eq| eq.takes(kind)) {
            eq.post(&self.bus, event);
        }
    }

    /// Pulls the card out of its slot, or puts in one that nobody has used before.
    pub fn seat(&mut self, on: bool) {
        if self.registers.absent() != on {
            return;
        }
        self.registers.set_absent(!on);
        self.registers.set_assert(0);
        self.reset();
        self.physical = Physical::new(self.model.rates());
        self.counters = VportCounters::default();
    }

    /// Pulls the plug of the cable out, or puts it in, and tells the driver of a change.
    pub fn plug(&mut self, on: bool) {
        if self.faults.unplugged == on {
            self.faults.unplugged = !on;
            self.event(EventType::PortModule, Eqe::port_module(on));
        }
    }

    /// Whether the cable carries signal.
    pub fn link_up(&self) -> bool {
        self.physical.link.is_some()
    }

    /// Brings the link up or down, and tells the driver of a change.
    pub fn set_link(&mut self, link: Option<Agreement>) {
        let change = match (self.link_up(), link) {
            (false, Some(_)) => {
                self.physical.link = link;
                PortChange::Active
            }
            (true, None) => {
                self.lose_link();
                PortChange::Down
            }
            _ => return,
        };
        self.event(EventType::PortChange, Eqe::port_change(change));
    }

    fn lose_link(&mut self) {
        if self.physical.link.take().is_some() {
            self.physical.counters.link_downs.add(1);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::mem::tests::memory;
    use crate::model::CX5;

    /// A host with `size` bytes of memory at zero.
    pub(crate) fn bus(size: u64) -> Bus {
        Bus {
            memory: memory(size),
            ..Bus::default()
        }
    }

    /// A port of such a host.
    pub(crate) fn port(size: u64) -> Port {
        let mut port = Port::new(&CX5, [2, 0, 0, 0, 0, 1]);
        port.bus = bus(size);
        port
    }

    #[test]
    fn starting_over_leaves_nothing_behind() {
        let mut port = port(0x1000);
        port.hca.pds.insert(()).unwrap();
        port.hca.vport.admin_up = true;
        port.set_link(port.physical.agree(&port.physical));
        assert!(port.link_up());
        port.registers.set_command_queue(0x1000);
        port.start_over();
        assert!(port.hca.pds.get(1).is_none());
        assert!(!port.hca.vport.admin_up && !port.link_up());
        assert_eq!(
            port.registers.command_queue(),
            0x1000,
            "the new queue's address stays"
        );
        assert_eq!(
            port.bus.memory.load(0),
            Ok(0),
            "memory is the host's, not the driver's"
        );
    }
}
