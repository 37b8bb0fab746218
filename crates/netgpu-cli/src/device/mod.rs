// SPDX-License-Identifier: MIT OR Apache-2.0
//! Preparing a network device for a receiver, and putting everything back.

mod netlink;
mod rules;

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};

use netlink::{DataSplit, Ethtool, Rings};
use rules::Rules;

/// A device that is prepared: payload of the connections to one port arrives on one queue, apart from its headers, and
/// nothing else does.
///
/// Dropping it puts everything back that was changed, in reverse order. What cannot be put back is told.
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
        prepared.split_headers(device)?;
        prepared.keep_others_away(device)?;
        prepared.steer(device, address)?;
        Ok(prepared)
    }

    /// The receive queue.
    pub(crate) fn queue(&self) -> u32 {
        self.queue
    }

    fn split_headers(&mut self, device: &str) -> Result<()> {
        let ethtool = Ethtool::open(device)?;
        let before = ethtool
            .rings()
            .with_context(|| format!("cannot read the ring settings of {device}"))?;
        let wanted = Rings {
            data_split: DataSplit::On,
            split_threshold: before.split_threshold.map(|_| 0),
        };
        ethtool.set_rings(wanted).with_context(|| {
            format!(
                "cannot turn header split on at {device} (`ethtool -G {device} tcp-data-split on`); on some devices \
                 `ethtool -K {device} rx-gro-hw on` or `ethtool -K {device} lro off` is needed first"
            )
        })?;
        if before != wanted {
            tracing::info!("{device}: header split on");
            self.undo(format!("the header split of {device}"), move || {
                ethtool.set_rings(before)
            });
        }
        Ok(())
    }

    /// Takes the queue out of the table that spreads connections over all queues.
    fn keep_others_away(&mut self, device: &str) -> Result<()> {
        let ethtool = Ethtool::open(device)?;
        let before = ethtool
            .rss_table()
            .with_context(|| format!("cannot read the RSS table of {device}"))?;
        let Some(table) = without(&before, self.queue) else {
            return Ok(());
        };
        let queue = self.queue;
        ethtool.set_rss_table(&table).with_context(|| {
            format!("cannot take queue {queue} out of the RSS table of {device} (`ethtool -X {device} …`)")
        })?;
        tracing::info!("{device}: queue {queue} taken out of the RSS table");
        let queues = ethtool.receive_queues()?;
        self.undo(format!("the RSS table of {device}"), move || {
            // The kernel knows a default table from one that a user has set to the same, which it holds on to when the
            // number of queues changes. It does not tell which it was; the default is the better guess.
            let default = is_default(&before, queues);
            ethtool.set_rss_table(if default { &[] } else { &before })
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
        let before = rules.steer(address, self.queue).with_context(failed)?;
        tracing::info!(
            "{device}: TCP port {} steered to queue {}",
            address.port(),
            self.queue
        );
        self.undo(format!("the steering rules of {device}"), move || {
            Ok(rules.restore(before)?)
        });
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

/// The table with the entries of `queue` given to the other queues in turn; [`None`] if it has no such entry, or no
/// other queue.
fn without(table: &[u32], queue: u32) -> Option<Vec<u32>> {
    if !table.contains(&queue) {
        return None;
    }
    let mut others: Vec<u32> = table
        .iter()
        .copied()
        .filter(|&entry| entry != queue)
        .collect();
    others.sort_unstable();
    others.dedup();
    if others.is_empty() {
        // All connections went to this queue: let another one have them.
        others.push(u32::from(queue == 0));
    }
    let mut turn = others.iter().copied().cycle();
    Some(
        table
            .iter()
            .map(|&entry| {
                if entry == queue {
                    turn.next().unwrap_or(entry)
                } else {
                    entry
                }
            })
            .collect(),
    )
}

/// Whether the table is what `ethtool_rxfh_indir_default()` of `include/linux/ethtool.h` makes: all queues in turn.
fn is_default(table: &[u32], queues: u32) -> bool {
    (0..)
        .zip(table)
        .all(|(index, &entry): (u32, _)| entry == index % queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_leaves_the_table() {
        assert_eq!(
            without(&[0, 1, 2, 3, 0, 1, 2, 3], 3),
            Some(vec![0, 1, 2, 0, 0, 1, 2, 1])
        );
        assert_eq!(without(&[0, 1, 0, 1], 1), Some(vec![0; 4]));
        assert_eq!(without(&[0; 4], 0), Some(vec![1; 4]));
        assert_eq!(without(&[1; 4], 1), Some(vec![0; 4]));
        assert_eq!(without(&[0, 1], 2), None);
        assert_eq!(without(&[], 0), None);
    }

    #[test]
    fn the_default_table_is_recognised() {
        assert!(is_default(&[0, 1, 2, 0, 1, 2, 0, 1], 3));
        assert!(!is_default(&[0, 1, 2, 0], 4));
        assert!(!is_default(&[0, 0], 2));
    }

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
