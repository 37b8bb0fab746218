// SPDX-License-Identifier: MIT OR Apache-2.0
//! The objects that commands create, one file each, and the port that owns them.
//!
//! Objects are created, changed and destroyed with the port borrowed mutably; the
//! datapath borrows it shared. What the datapath itself changes sits behind a lock
//! in the object. A thread that takes several of these takes them in this order:
//! send queue, receive queue, completion queue, event queue.

pub mod counter;
pub mod cq;
pub mod eq;
pub mod flow;
pub mod lro;
pub mod mkey;
pub mod physical;
pub mod port;
pub mod registers;
pub mod ring;
pub mod rq;
pub mod series;
pub mod sq;
pub mod striding;
pub mod tir;

use crate::bits::op::{Refusal, Status};

/// Objects of one kind by number.
///
/// Numbers go round, so that a destroyed object's number is not soon another's:
/// what is still on its way for the old one finds nothing.
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<Option<T>>,
    first: u32,
    limit: usize,
    next: usize,
}

impl<T> Table<T> {
    /// A table of at most `limit` objects with numbers from `first` on.
    pub fn new(first: u32, limit: usize) -> Self {
        Self {
            slots: Vec::new(),
            first,
            limit,
            next: 0,
        }
    }

    /// Adds the object that `make` makes of its number, and returns the number.
    pub fn insert_with(&mut self, make: impl FnOnce(u32) -> T) -> Result<u32, Refusal> {
        // A table grows to its limit before a number comes back.
        let length = self.slots.len();
        let slot = if length < self.limit {
            self.slots.push(None);
            length
        } else {
            (0..length)
                .map(|i| (self.next + i) % length)
                .find(|&slot| self.slots[slot].is_none())
                .ok_or(Refusal::new(
                    Status::ExceedsLimit,
                    "too many objects of a kind",
                ))?
        };
        let number = self.first + slot as u32;
        self.slots[slot] = Some(make(number));
        self.next = slot + 1;
        Ok(number)
    }

    /// Adds `object` and returns its number.
    pub fn insert(&mut self, object: T) -> Result<u32, Refusal> {
        self.insert_with(|_| object)
    }

    /// The object with `number`.
    pub fn get(&self, number: u32) -> Option<&T> {
        self.slots
            .get(number.checked_sub(self.first)? as usize)?
            .as_ref()
    }

    /// The object with `number`, to change it.
    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.slots
            .get_mut(number.checked_sub(self.first)? as usize)?
            .as_mut()
    }

    /// Takes the object with `number` out.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        self.slots
            .get_mut(number.checked_sub(self.first)? as usize)?
            .take()
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_start_at_the_first_and_are_not_soon_reused() {
        let mut table = Table::new(3, 4);
        assert_eq!(table.insert('a'), Ok(3));
        assert_eq!(table.insert('b'), Ok(4));
        assert_eq!(table.remove(3), Some('a'));
        assert_eq!(table.insert('c'), Ok(5));
        assert_eq!(table.insert('d'), Ok(6));
        assert_eq!(table.insert('e'), Ok(3), "only now the number comes back");
        assert!(table.insert('f').is_err());
        assert_eq!(table.get(3), Some(&'e'));
    }

    #[test]
    fn numbers_that_were_never_given_are_not_found() {
        let mut table = Table::new(3, 4);
        table.insert('a').unwrap();
        assert_eq!(table.get(2), None);
        assert_eq!(table.get(4), None);
        assert_eq!(table.get_mut(u32::MAX), None);
        assert_eq!(table.remove(0), None);
    }
}
