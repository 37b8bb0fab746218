// SPDX-License-Identifier: GPL-2.0

//! Numbered places for objects. A number is reserved before its object exists and shows it when that is complete.

use crate::nospec;
use kernel::prelude::*;

enum Slot<T> {
    Empty,
    Reserved,
    Used(T),
}

/// Objects by number.
pub(crate) struct Slots<T>(KVVec<Slot<T>>);

impl<T> Slots<T> {
    /// No objects yet.
    pub(crate) fn new() -> Self {
        Self(KVVec::new())
    }

    /// Reserves the lowest number below `max` that is not in use and that `fits`.
    pub(crate) fn reserve(&mut self, max: u32, fits: impl Fn(u32) -> bool) -> Result<u32> {
        for (id, slot) in (0..).zip(&mut self.0) {
            if matches!(slot, Slot::Empty) && fits(id) {
                *slot = Slot::Reserved;
                return Ok(id);
            }
        }
        while self.0.len() < max as usize {
            self.0.push(Slot::Empty, GFP_KERNEL_ACCOUNT)?;
            let id = (self.0.len() - 1) as u32;
            if fits(id) {
                self.0[id as usize] = Slot::Reserved;
                return Ok(id);
            }
        }
        Err(ENOSPC)
    }

    /// Shows `object` under a number that was reserved for it.
    pub(crate) fn fill(&mut self, id: u32, object: T) {
        if let Some(slot) = self.0.get_mut(id as usize) {
            *slot = Slot::Used(object);
        }
    }

    /// Empties the place of an object, and returns that.
    pub(crate) fn take(&mut self, id: u32) -> Option<T> {
        self.replace(id, Slot::Empty)
    }

    /// Takes an object out; its place stays reserved.
    pub(crate) fn hold(&mut self, id: u32) -> Option<T> {
        self.replace(id, Slot::Reserved)
    }

    fn replace(&mut self, id: u32, with: Slot<T>) -> Option<T> {
        let slot = nospec::get_mut(&mut self.0, id as usize)?;
        if !matches!(slot, Slot::Used(_)) {
            return None;
        }
        match core::mem::replace(slot, with) {
            Slot::Used(object) => Some(object),
            _ => None,
        }
    }

    /// Empties a place that is reserved; for who has reserved it.
    pub(crate) fn cancel(&mut self, id: u32) {
        if let Some(slot @ Slot::Reserved) = self.0.get_mut(id as usize) {
            *slot = Slot::Empty;
        }
    }

    /// The object with number `id`.
    pub(crate) fn get(&self, id: u32) -> Option<&T> {
        match nospec::get(&self.0, id as usize)? {
            Slot::Used(object) => Some(object),
            _ => None,
        }
    }

    /// The object with the lowest number that is at least `from`, and that number.
    pub(crate) fn next(&self, from: u32) -> Option<(u32, &T)> {
        (from..self.0.len() as u32).find_map(|id| Some((id, self.get(id)?)))
    }

    /// All objects.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(|slot| match slot {
            Slot::Used(object) => Some(object),
            _ => None,
        })
    }
}

#[kunit_tests(netgpu_slots)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_reserved_shown_and_reused() -> Result {
        let mut slots = Slots::new();
        assert_eq!(slots.reserve(2, |_| true), Ok(0));
        assert_eq!(slots.reserve(2, |_| true), Ok(1));
        assert_eq!(slots.reserve(2, |_| true), Err(ENOSPC));
        assert_eq!(slots.get(0), None);
        slots.fill(0, 'a');
        assert_eq!(slots.get(0), Some(&'a'));
        // Nobody else ends a reservation.
        assert_eq!(slots.take(1), None);
        assert_eq!(slots.hold(1), None);
        slots.cancel(0);
        assert_eq!(slots.reserve(2, |_| true), Err(ENOSPC));
        slots.cancel(1);
        assert_eq!(slots.reserve(2, |_| true), Ok(1));
        assert_eq!(slots.hold(0), Some('a'));
        assert_eq!(slots.reserve(2, |_| true), Err(ENOSPC));
        slots.fill(0, 'a');
        assert_eq!(slots.take(0), Some('a'));
        assert_eq!(slots.take(0), None);
        assert_eq!(slots.take(7), None);
        assert_eq!(slots.reserve(3, |id| id != 0), Ok(2));
        assert_eq!(slots.reserve(3, |_| true), Ok(0));
        slots.fill(2, 'c');
        assert_eq!(slots.iter().count(), 1);
        assert_eq!(slots.next(0), Some((2, &'c')));
        assert_eq!(slots.next(3), None);
        Ok(())
    }
}
