// SPDX-License-Identifier: MIT OR Apache-2.0
//! A device for tests.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::{Result, bail};

use super::netlink::{Channels, DataSplit, Features, Rings};
use super::shared::Settings;

/// How it splits headers at first.
pub(super) const OFF: Rings = Rings {
    data_split: DataSplit::Off,
    split_threshold: Some(256),
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) rings: Rings,
    pub(super) table: Vec<u32>,
    pub(super) channels: u32,
    pub(super) most_channels: u32,
    pub(super) features: Features,
    pub(super) refuses_split: bool,
    pub(super) lro_keeps_split_off: bool,
    /// How many changes it will take before it refuses all.
    pub(super) changes_left: Option<usize>,
}

impl Device {
    fn default_table(&self) -> Vec<u32> {
        (0..8).map(|index| index % self.channels).collect()
    }

    fn change(&mut self) -> Result<()> {
        match &mut self.changes_left {
            Some(0) => bail!("the device takes no more changes"),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

pub(super) type Shared = Rc<RefCell<Device>>;

/// A device that has so many channels, and spreads connections like this.
pub(super) fn device(channels: u32, table: &[u32]) -> Shared {
    let changeable = ["rx-ntuple-filter", "rx-lro", "rx-gro-hw"];
    Rc::new(RefCell::new(Device {
        rings: OFF,
        table: table.to_vec(),
        channels,
        most_channels: 8,
        features: Features {
            active: Default::default(),
            changeable: changeable.map(str::to_owned).into(),
        },
        refuses_split: false,
        lro_keeps_split_off: false,
        changes_left: None,
    }))
}

impl Settings for Shared {
    fn channels(&self) -> Result<Channels> {
        Ok(Channels {
            combined: self.borrow().channels,
            receive: 0,
            most_combined: self.borrow().most_channels,
        })
    }

    fn set_combined(&self, count: u32) -> Result<()> {
        let mut device = self.borrow_mut();
        device.change()?;
        let is_default = device.table == device.default_table();
        device.channels = count;
        if is_default {
            device.table = device.default_table();
        }
        Ok(())
    }

    fn features(&self) -> Result<Features> {
        Ok(self.borrow().features.clone())
    }

    fn set_feature(&self, name: &str, on: bool) -> Result<()> {
        let mut device = self.borrow_mut();
        device.change()?;
        if on {
            device.features.active.insert(name.to_owned());
        } else {
            device.features.active.remove(name);
        }
        Ok(())
    }

    fn rings(&self) -> Result<Rings> {
        Ok(self.borrow().rings)
    }

    fn set_rings(&self, rings: Rings) -> Result<()> {
        let mut device = self.borrow_mut();
        let merges = device.lro_keeps_split_off && device.features.active.contains("rx-lro");
        if rings.data_split == DataSplit::On && (device.refuses_split || merges) {
            bail!("no header split");
        }
        device.change()?;
        device.rings = rings;
        Ok(())
    }

    fn rss_table(&self) -> Result<Vec<u32>> {
        Ok(self.borrow().table.clone())
    }

    fn set_rss_table(&self, table: &[u32]) -> Result<()> {
        let mut device = self.borrow_mut();
        device.change()?;
        device.table = if table.is_empty() {
            device.default_table()
        } else {
            table.to_vec()
        };
        Ok(())
    }
}
