// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a device is like now, read at once, so that it can be judged without asking it again.

use anyhow::{Context, Result};

use super::netlink::{Channels, Ethtool, Features, Rings};
use super::occupancy::{self, Owner};
use super::rules::Rules;
use super::shared::Settings;
use super::{index_of, ioctl};

/// A fact, or why it could not be read.
pub(crate) type Fact<T> = Result<T, String>;

/// What a device is like.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) device: String,
    /// Name of the driver, and version of the firmware.
    pub(crate) driver: Fact<(String, String)>,
    pub(crate) channels: Fact<Channels>,
    pub(crate) features: Fact<Features>,
    pub(crate) rings: Fact<Rings>,
    pub(crate) rss: Fact<Vec<u32>>,
    /// Number of steering rules.
    pub(crate) rules: Fact<u32>,
    pub(crate) xdp: Fact<bool>,
    /// The receive queue that netgpu would take, and who has it.
    pub(crate) queue: u32,
    pub(crate) owner: Fact<Option<Owner>>,
}

impl Facts {
    /// Reads them; `queue` is the receive queue that netgpu is to have, or else the last one.
    ///
    /// # Errors
    ///
    /// There is no such device, or the kernel has no way to ask.
    pub(crate) fn of(device: &str, queue: Option<u32>) -> Result<Self> {
        let index = index_of(device)?;
        let ethtool = Ethtool::open(device)?;
        let channels = ethtool.channels();
        let queues = channels
            .as_ref()
            .map_or(0, |channels| channels.combined + channels.receive);
        let queue = queue.unwrap_or(queues.saturating_sub(1));
        Ok(Self {
            device: device.to_owned(),
            driver: fact(ioctl::driver(device).context("ethtool -i")),
            channels: fact(channels),
            features: fact(ethtool.features()),
            rings: fact(ethtool.rings()),
            rss: fact(ethtool.rss_table()),
            rules: fact(
                Rules::open(device)
                    .and_then(|rules| rules.count())
                    .context("ethtool -n"),
            ),
            xdp: fact(occupancy::runs_xdp(index)),
            queue,
            owner: fact(occupancy::owner(index, queue)),
        })
    }
}

fn fact<T>(result: Result<T>) -> Fact<T> {
    result.map_err(|error| crate::chain(&error))
}
