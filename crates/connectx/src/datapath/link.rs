// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cable between the two ports, and what both sides share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::engine::Bell;
use crate::fault::wire::{Fates, Wire};
use crate::model::Model;
use crate::obj::port::Port;

/// Two ports and the cable between them.
///
/// Engines hold the lock shared for one batch of packets. Whoever changes objects or mappings
/// holds it exclusively: when a destroy command or an unmap is done, no engine is using what is
/// gone, and none will.
pub struct Cable {
    /// The ends.
    pub ports: RwLock<[Port; 2]>,
    /// How engines are woken, by port.
    pub bells: [Bell; 2],
    /// How long a sender waits for a receiver without buffers, as a pause frame makes it wait,
    /// before its packets are dropped.
    pub pause: Duration,
    /// What frames go through instead of straight into the other port's memory, by port that sends, and whether they do.
    wires: [(AtomicBool, Mutex<Wire>); 2],
}

impl Cable {
    /// Two ports of `model`, powered on, with a cable between them.
    pub fn new(model: &'static dyn Model, pause: Duration) -> Self {
        // Locally administered addresses: "CX", and the port.
        let port = |index| Port::new(model, [0x02, 0x43, 0x58, 0, 0, index]);
        Self {
            ports: RwLock::new([port(1), port(2)]),
            bells: Default::default(),
            pause,
            wires: [0, 1].map(|port| (AtomicBool::new(false), Mutex::new(Wire::new(port)))),
        }
    }

    /// The wire that frames of port `from` have to go through, if they have to.
    pub fn wire(&self, from: usize) -> Option<MutexGuard<'_, Wire>> {
        let (needed, wire) = &self.wires[from];
        needed.load(Ordering::Relaxed).then(|| wire.lock())
    }

    /// Frames of port `from` need not go through `wire` any longer, if that is so.
    pub fn release(&self, from: usize, wire: &Wire) {
        self.wires[from]
            .0
            .store(wire.is_needed(), Ordering::Relaxed);
    }

    /// Changes the wire that frames of port `from` go through.
    pub fn change_wire(&self, from: usize, change: impl FnOnce(&mut Wire)) {
        let mut wire = self.wires[from].1.lock();
        change(&mut wire);
        self.release(from, &wire);
    }

    /// What has become of the frames of port `from` that went through its wire.
    pub fn fates(&self, from: usize) -> Fates {
        self.wires[from].1.lock().fates()
    }
}

/// The other end.
pub fn peer(port: usize) -> usize {
    1 - port
}

/// Brings the link up when both ends want it up, give light and agree on how, and down when one does not want it or is dark;
/// tells both drivers. A link that is up stays as it is.
pub fn update(ports: &mut [Port; 2]) {
    let lit = ports.iter().all(|port| {
        let faults = &port.faults;
        let well = port.registers.assert() == 0;
        port.hca.vport.admin_up && !faults.dark && !faults.unplugged && well
    });
    let [a, b] = ports;
    if !lit || a.link_up() != b.link_up() {
        a.set_link(None);
        b.set_link(None);
    }
    if lit && !a.link_up() {
        a.set_link(a.physical.agree(&b.physical));
        b.set_link(b.physical.agree(&a.physical));
    }
}
