// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preparing a network device for a receiver, and putting everything back.

mod facts;
#[cfg(test)]
mod fake;
mod genl;
mod ioctl;
mod netlink;
mod occupancy;
mod rules;
mod shared;
mod standing;

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

pub(crate) use facts::{Fact, Facts};
#[cfg(test)]
pub(crate) use netlink::{Channels, Features};
pub(crate) use netlink::{DataSplit, Rings};
#[cfg(test)]
pub(crate) use occupancy::Owner;
pub(crate) use standing::{Snapshot, Standing};

use netlink::Ethtool;
use rules::Rules;
use shared::{Settings, Share};

/// A device that is prepared: payload of the connections to one port arrives on one queue, apart from its headers, and
/// nothing else does.
///
/// Dropping it puts everything back that was changed and that no other receiver needs, in reverse order. What cannot be put
/// back is told.
pub(crate) struct Prepared {
    queue: u32,
    undo: Vec<Undo>,
}

struct Undo {
    what: String,
    action: Box<dyn FnOnce() -> Result<()>>,
}

impl Prepared {
    /// Prepares `device` for connections to `address`, on `queue` or else the last one.
    pub(crate) fn new(device: &str, queue: Option<u32>, address: SocketAddr) -> Result<Self> {
        let queues = Ethtool::open(device)?
            .receive_queues()
            .with_context(|| format!("cannot read the number of receive queues of {device}"))?;
        let queue = queue.unwrap_or(queues.saturating_sub(1));
        if queues < 2 {
            bail!(
                "{device} has {queues} receive queue in use, and two are needed: one for netgpu and one for all other \
                 traffic; `ethtool -L {device} combined 2` gives it two"
            );
        }
        if queue >= queues {
            bail!("{device} has no receive queue {queue}: {queues} are in use, counted from 0");
        }
        // From here on every change is undone when a later one fails.
        let mut prepared = Self {
            queue,
            undo: Vec::new(),
        };
        prepared.share(device, address)?;
        prepared.steer(device, address)?;
        Ok(prepared)
    }

    /// The receive queue.
    pub(crate) fn queue(&self) -> u32 {
        self.queue
    }

    /// Header split on, and no other connections on the queue.
    fn share(&mut self, device: &str, address: SocketAddr) -> Result<()> {
        let share = Share::join(device, self.queue, address)?;
        self.undo(format!("header split and RSS of {device}"), move || {
            share.leave()
        });
        Ok(())
    }

    fn steer(&mut self, device: &str, address: SocketAddr) -> Result<()> {
        let failed = || {
            format!(
                "cannot steer TCP port {} to queue {} of {device}; \
                 on some devices `ethtool -K {device} ntuple on` is needed first",
                address.port(),
                self.queue
            )
        };
        let rules = Rules::open(device).with_context(failed)?;
        let folder = shared::folder_of(device)?;
        // Two that look for a free place at once would find the same.
        let _exclusive = shared::lock(&folder)?;
        let steered = rules.steer(address, self.queue).with_context(failed)?;
        tracing::info!(
            "{device}: TCP port {} steered to queue {}",
            address.port(),
            self.queue
        );
        if let Some(steered) = steered {
            let what = format!("the steering rules of {device}");
            self.undo(what.clone(), move || {
                let _exclusive = shared::lock(&folder)?;
                if !rules.restore(steered)? {
                    tracing::warn!("{what} were changed meanwhile and stay as they are");
                }
                Ok(())
            });
        }
        Ok(())
    }

    fn undo(&mut self, what: String, action: impl FnOnce() -> Result<()> + 'static) {
        self.undo.push(Undo {
            what,
            action: Box::new(action),
        });
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        for Undo { what, action } in self.undo.drain(..).rev() {
            match action() {
                Ok(()) => tracing::info!("{what}: put back"),
                Err(error) => tracing::warn!("cannot put back {what}: {}", crate::chain(&error)),
            }
        }
    }
}

/// The number of a network device in the network namespace of this process.
fn index_of(device: &str) -> Result<u32> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .context("cannot open a socket")?;
    rustix::net::netdevice::name_to_index(socket, device).with_context(|| no_device(device))
}

/// What is said where there is no such network device.
pub(crate) fn no_device(device: &str) -> String {
    format!("there is no network device {device}; `ip link` lists those that are")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_undone_in_reverse() {
        use std::cell::RefCell;
        use std::rc::Rc;
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut prepared = Prepared {
            queue: 1,
            undo: Vec::new(),
        };
        for step in 0..3 {
            let order = order.clone();
            prepared.undo(format!("step {step}"), move || {
                order.borrow_mut().push(step);
                // A step that fails does not keep the others from being undone.
                if step == 1 {
                    bail!("step 1 fails")
                } else {
                    Ok(())
                }
            });
        }
        drop(prepared);
        assert_eq!(*order.borrow(), [2, 1, 0]);
    }
}
