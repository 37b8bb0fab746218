// SPDX-License-Identifier: MIT OR Apache-2.0
//! The physical memory whose accesses are counted: asked at each of them.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use tcg_marker::PAGE;

/// Ranges that are watched for ever, and single pages that come and go.
#[derive(Debug)]
pub(crate) struct Watched {
    ranges: Vec<Range<u64>>,
    pages: RwLock<BTreeSet<u64>>,
}

impl Watched {
    pub(crate) fn new(ranges: Vec<Range<u64>>) -> Self {
        Self {
            ranges,
            pages: RwLock::default(),
        }
    }

    /// Watches the page at `address`.
    pub(crate) fn watch(&self, address: u64) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.insert(address / PAGE);
    }

    /// Watches the ranges only.
    pub(crate) fn forget(&self) {
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        pages.clear();
    }

    /// Whether the byte at `address` is watched.
    pub(crate) fn contains(&self, address: u64) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
            || self
                .pages
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .contains(&(address / PAGE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "it is one range")]
    fn pages_come_and_go_and_ranges_stay() {
        let watched = Watched::new(vec![0x1000..0x1004]);
        watched.watch(0x5678);
        for (address, there) in [
            (0xfff, false),
            (0x1003, true),
            (0x1004, false),
            (0x5000, true),
            (0x5fff, true),
            (0x6000, false),
        ] {
            assert_eq!(watched.contains(address), there, "{address:#x}");
        }
        watched.forget();
        assert!(!watched.contains(0x5000));
        assert!(watched.contains(0x1000));
    }
}
