// SPDX-License-Identifier: MIT OR Apache-2.0
//! User-mode memory registration: a send entry that changes a memory key (`struct mlx5e_umr_wqe`).

use super::Fields;
use super::event::Syndrome;

/// Bytes in a unit of translations ("octoword" in the interface's names).
pub const OCTOWORD: usize = 16;
/// Bytes in a translation by page (`struct mlx5_mtt`).
pub const MTT: usize = 8;

/// Where the control segment of the operation starts (`struct mlx5_wqe_umr_ctrl_seg`).
const CONTROL_AT: usize = 0x10;
/// Where the context of the key starts (`struct mlx5_mkey_seg`). Nothing of it is used but what the
/// mask names, and that is only whether the key is free.
const CONTEXT_AT: usize = 0x40;
/// Where the translations start.
const TRANSLATIONS_AT: usize = 0x80;

/// `MLX5_UMR_INLINE`: the translations are in the entry.
const INLINE: u8 = 1 << 7;
/// `MLX5_UMR_TRANSLATION_OFFSET_EN`: they replace those from an offset on.
const OFFSET: u8 = 1 << 4;
/// `MLX5_MKEY_MASK_FREE`.
const MASK_FREE: u64 = 1 << 29;

/// A change of a key's translations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Umr<'a> {
    /// The key.
    pub key: u32,
    /// What the key becomes, if that changes: free, or in use.
    pub free: Option<bool>,
    /// The first translation that is replaced.
    pub first: usize,
    /// New translations, [`MTT`] bytes each.
    pub translations: &'a [u8],
}

impl<'a> Umr<'a> {
    /// Reads an entry.
    pub fn decode(entry: &'a [u8]) -> Result<Self, Syndrome> {
        if entry.len() < TRANSLATIONS_AT {
            return Err(Syndrome::LocalLength);
        }
        let control = Fields(entry).from(CONTROL_AT);
        let [flags] = control.array(0);
        let mask = control.u64(8);
        if flags & !(INLINE | OFFSET) != 0 || flags & INLINE == 0 || mask & !MASK_FREE != 0 {
            return Err(Syndrome::LocalOperation);
        }
        let length = usize::from(control.u16(4)) * OCTOWORD;
        let offset = u64::from(control.u32(16)) << 16 | u64::from(control.u16(6));
        let first = if flags & OFFSET == 0 { 0 } else { offset };
        let free = Fields(entry).from(CONTEXT_AT).bit(0, 30);
        Ok(Self {
            key: Fields(entry).u32(0x0c),
            free: (mask & MASK_FREE != 0).then_some(free),
            first: usize::try_from(first)
                .ok()
                .and_then(|first| first.checked_mul(OCTOWORD / MTT))
                .ok_or(Syndrome::LocalOperation)?,
            translations: entry
                .get(TRANSLATIONS_AT..TRANSLATIONS_AT + length)
                .ok_or(Syndrome::LocalLength)?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bits::FieldsMut;

    /// An entry as the driver makes it (`mlx5e_build_umr_wqe`), for `key`, with `pages` from entry
    /// `first` on.
    pub(crate) fn umr(key: u32, first: u16, pages: &[u64]) -> Vec<u8> {
        let mut bytes = vec![0; TRANSLATIONS_AT];
        let mut fields = FieldsMut(&mut bytes);
        fields.set_u32(0x0c, key);
        fields.set_bytes(0x10, &[0x90]);
        fields.set_u16(0x14, (pages.len() / 2) as u16);
        fields.set_u16(0x16, first / 2);
        fields.set_u64(0x18, MASK_FREE);
        bytes.extend(pages.iter().flat_map(|page| (page | 2).to_be_bytes()));
        bytes
    }

    #[test]
    fn an_entry_of_the_driver() {
        let bytes = umr(0x1200, 72, &[0x5000, 0x3000]);
        let umr = Umr::decode(&bytes).unwrap();
        assert_eq!((umr.key, umr.first, umr.free), (0x1200, 72, Some(false)));
        assert_eq!(Fields(umr.translations).u64(8), 0x3002);
        assert_eq!(umr.translations.len(), 16);
    }

    #[test]
    fn a_wide_offset() {
        let mut bytes = umr(0x1200, 4, &[]);
        FieldsMut(&mut bytes).set_u32(0x20, 1);
        assert_eq!(Umr::decode(&bytes).unwrap().first, 2 * 0x1_0002);
    }

    #[test]
    fn an_entry_shorter_than_its_translations() {
        let bytes = umr(0x1200, 0, &[0, 0]);
        for length in [0, 0x7f, 0x80, 0x8f] {
            assert_eq!(Umr::decode(&bytes[..length]), Err(Syndrome::LocalLength));
        }
    }

    #[test]
    fn what_the_device_cannot_change() {
        let mut bytes = umr(0x1200, 0, &[0, 0]);
        FieldsMut(&mut bytes).set_u64(0x18, MASK_FREE | 1 << 4);
        assert_eq!(Umr::decode(&bytes), Err(Syndrome::LocalOperation), "mask");
        let mut bytes = umr(0x1200, 0, &[0, 0]);
        bytes[0x10] = 0x10;
        assert_eq!(
            Umr::decode(&bytes),
            Err(Syndrome::LocalOperation),
            "by pointer"
        );
    }
}
