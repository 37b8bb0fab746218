// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sizes on the command line: `64M` is 64 MiB.

use std::fmt;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

impl Size {
    /// So many MiB.
    pub const fn mebibytes(count: usize) -> Self {
        Self(count << 20)
    }

    /// For clap.
    ///
    /// # Errors
    ///
    /// What is wrong with `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        parse_size::Config::new()
            .with_binary()
            .parse_size(text)
            .map_err(|error| error.to_string())
            .and_then(|bytes| usize::try_from(bytes).map_err(|error| error.to_string()))
            .map(Self)
    }
}

impl fmt::Display for Size {
    /// In the largest unit that it is a whole number of.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("G", 30), ("M", 20), ("K", 10)];
        let whole = units
            .iter()
            .find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        match whole {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_binary() {
        assert_eq!(Size::parse("64M"), Ok(Size::mebibytes(64)));
        assert_eq!(Size::parse("64MiB"), Ok(Size::mebibytes(64)));
        assert_eq!(Size::parse("4096"), Ok(Size(4096)));
        assert!(Size::parse("many").is_err());
        assert!(Size::parse("-1").is_err());
    }

    #[test]
    fn sizes_survive_being_printed() {
        for bytes in [0, 1, 1024, 4096, 64 << 20, 3 << 30, (1 << 20) + 1] {
            assert_eq!(Size::parse(&Size(bytes).to_string()), Ok(Size(bytes)));
        }
    }
}
