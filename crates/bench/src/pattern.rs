// SPDX-License-Identifier: MIT OR Apache-2.0
//! A stream that both ends know, for the runs that check what arrives.

use anyhow::{Result, ensure};

use crate::receive::Sink;

/// The byte at `position`. No two pages are alike within what a run sends.
fn byte(position: u64) -> u8 {
    (position ^ (position >> 8) ^ (position >> 16) ^ (position >> 24)) as u8
}

/// The next bytes of the stream, which `position` moves behind.
pub(crate) fn fill(position: &mut u64, memory: &mut [u8]) {
    for slot in memory {
        *slot = byte(*position);
        *position += 1;
    }
}

/// Compares what arrives.
#[derive(Default)]
pub(crate) struct Check {
    /// Bytes that were right.
    pub(crate) position: u64,
    copy: Vec<u8>,
}

impl Sink for Check {
    fn take(&mut self, len: usize, read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
        self.copy.resize(len, 0);
        read(&mut self.copy)?;
        for &found in &self.copy {
            let expected = byte(self.position);
            ensure!(
                found == expected,
                "byte {} of the stream is {found:#04x} instead of {expected:#04x}",
                self.position
            );
            self.position += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_is_found() {
        let mut stream = vec![0; 10_000];
        fill(&mut 0, &mut stream);
        let mut check = Check::default();
        for part in stream.chunks(999) {
            check
                .take(part.len(), |copy| {
                    copy.copy_from_slice(part);
                    Ok(())
                })
                .expect("it is the stream");
        }
        assert_eq!(check.position, 10_000);
        let error = check
            .take(1, |copy| {
                copy[0] = byte(10_000) ^ 1;
                Ok(())
            })
            .expect_err("the byte is wrong");
        assert!(error.to_string().contains("byte 10000 "), "{error}");
    }
}
