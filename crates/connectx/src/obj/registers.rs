// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a host reads of a function without asking for anything to be done: configuration space, and the registers of
//! the initialisation segment.
//!
//! A processor stands still until a read is answered. So these are not behind the lock of the ports: a read never waits
//! for traffic, for a command, or for the other port.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::model::Model;
use crate::pci::ConfigSpace;

/// The registers of a function. Each stands for itself: nothing follows from the order in which two of them change.
pub struct Registers {
    /// Generation of the hardware.
    pub model: &'static dyn Model,
    /// PCI configuration space.
    pub config: Mutex<ConfigSpace>,
    command_queue: AtomicU64,
    nic_interface: AtomicU32,
    assert: AtomicU8,
    absent: AtomicBool,
}

impl Registers {
    /// Those of a function of `model` after power-on.
    pub fn new(model: &'static dyn Model) -> Self {
        Self {
            model,
            config: Mutex::new(ConfigSpace::new(model)),
            command_queue: AtomicU64::new(0),
            nic_interface: AtomicU32::new(0),
            assert: AtomicU8::new(0),
            absent: AtomicBool::new(false),
        }
    }

    /// Function-level reset. A firmware that has stopped is not started by that.
    pub fn reset(&self) {
        *self.config.lock() = ConfigSpace::new(self.model);
        self.set_command_queue(0);
        self.set_nic_interface(0);
    }

    /// Bus address of the command queue.
    pub fn command_queue(&self) -> u64 {
        self.command_queue.load(Relaxed)
    }

    /// The driver has put the command queue at `address`.
    pub fn set_command_queue(&self, address: u64) {
        self.command_queue.store(address, Relaxed);
    }

    /// `nic_interface`: what state the driver has put the device in.
    pub fn nic_interface(&self) -> u32 {
        self.nic_interface.load(Relaxed)
    }

    /// The driver has put the device in another state.
    pub fn set_nic_interface(&self, state: u32) {
        self.nic_interface.store(state, Relaxed);
    }

    /// Syndrome of the firmware assert that has stopped the device, or 0 (`struct health_buffer`, `synd`).
    pub fn assert(&self) -> u8 {
        self.assert.load(Relaxed)
    }

    /// The firmware stops with `syndrome`, or with 0 is well again.
    pub fn set_assert(&self, syndrome: u8) {
        self.assert.store(syndrome, Relaxed);
    }

    /// Whether there is no card in the slot: all of it reads as ones.
    pub fn absent(&self) -> bool {
        self.absent.load(Relaxed)
    }

    /// The card has been pulled out, or one has been put in.
    pub fn set_absent(&self, absent: bool) {
        self.absent.store(absent, Relaxed);
    }
}
