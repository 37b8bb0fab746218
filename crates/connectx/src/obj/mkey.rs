// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory keys: which queues may reach memory by bus address.

use crate::mem::Access;

/// A key for the whole bus address space.
#[derive(Clone, Copy, Debug)]
pub struct Mkey {
    /// Protection domain of the queues that may use it.
    pub pd: u32,
    /// Low byte of the key.
    pub variant: u8,
    /// The device may read.
    pub read: bool,
    /// The device may write.
    pub write: bool,
}

impl Mkey {
    /// Whether a queue of `pd` that presents a key with low byte `variant` has `access`.
    pub fn allows(&self, pd: u32, variant: u8, access: Access) -> bool {
        self.pd == pd
            && self.variant == variant
            && match access {
                Access::Read => self.read,
                Access::Write => self.write,
            }
    }
}
