// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands behind `-plugin file=…,` on QEMU's command line.

use std::ops::Range;
use std::path::PathBuf;

/// How to count.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// Count accesses to memory.
    pub(crate) accesses: bool,
    /// Physical addresses to watch from the beginning.
    pub(crate) ranges: Vec<Range<u64>>,
    /// Where to append how often each block ran, at each stop.
    pub(crate) blocks: Option<PathBuf>,
}

impl Arguments {
    /// Reads arguments of the form `name=value`; the error says what is wrong.
    pub(crate) fn parse<'a>(arguments: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut parsed = Self::default();
        for argument in arguments {
            match argument.split_once('=') {
                Some(("accesses", "on")) => parsed.accesses = true,
                Some(("accesses", "off")) => parsed.accesses = false,
                Some(("blocks", file)) if !file.is_empty() => parsed.blocks = Some(file.into()),
                Some(("range", range)) => {
                    parsed.ranges.push(parse_range(range).ok_or_else(|| {
                        format!("{argument:?} should be range=START:LENGTH, both in hexadecimal")
                    })?)
                }
                _ => {
                    return Err(format!(
                        "unknown argument {argument:?}; there are accesses=on|off, blocks=FILE and range=START:LENGTH"
                    ));
                }
            }
        }
        Ok(parsed)
    }
}

fn parse_range(text: &str) -> Option<Range<u64>> {
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok();
    let (start, len) = text.split_once(':')?;
    let start = number(start)?;
    Some(start..start.checked_add(number(len)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "it is one range")]
    fn ranges_and_switches() {
        assert_eq!(
            Arguments::parse(
                ["accesses=on", "range=0xf0000000:1000", "blocks=/tmp/blocks"].into_iter()
            ),
            Ok(Arguments {
                accesses: true,
                ranges: vec![0xf000_0000..0xf000_1000],
                blocks: Some("/tmp/blocks".into()),
            })
        );
        assert_eq!(Arguments::parse([].into_iter()), Ok(Arguments::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for wrong in [
            "range=1",
            "range=x:1",
            "range=ffffffffffffffff:1",
            "accesses=maybe",
            "blocks=",
            "on",
        ] {
            let error = Arguments::parse([wrong].into_iter()).expect_err("it is wrong");
            assert!(error.contains(wrong), "{error}");
        }
    }
}
