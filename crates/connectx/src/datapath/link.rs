// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cable between the two ports, and what both sides share.

use std::time::Duration;

use parking_lot::RwLock;

use super::engine::Bell;
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
        }
    }
}

/// The other end.
pub fn peer(port: usize) -> usize {
    1 - port
}

/// Brings the link up when both ends want it up, and down when one does not; tells both drivers.
pub fn update(ports: &mut [Port; 2]) {
    let up = ports.iter().all(|port| port.hca.vport.admin_up);
    for port in ports {
        port.set_link(up);
    }
}
