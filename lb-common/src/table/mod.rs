//! The flow table: where an entry lies, and how entries come and go while others read.
//!
//! An array of slots, each of whole cache lines, in which a key's place is found by its hash: a packet of a flow touches
//! one line (IPv6: two), where the kernel's own hash tables take three and a call. A key lies in the slot that its hash
//! names, its home, or up to [`FARTHEST`] slots behind it. Each home knows how far its keys reach, so what is not there
//! costs one line as well, and removing an entry is one word: nothing moves, and nothing is left behind.
//!
//! Readers never wait. Whoever inserts locks the key's home, so that no key is there twice, and takes a free slot by
//! compare-and-swap, because homes share slots. Userspace removes entries by compare-and-swap as well, through memory
//! that it shares with the kernel; it never locks, and may be killed at any moment.

#![expect(
    clippy::cast_possible_truncation,
    reason = "parts of words are taken on purpose, and a checked conversion is a branch that no packet needs"
)]

/// The words of a slot.
mod layout;
/// A table in memory that userspace can reach.
#[cfg(any(feature = "userspace", test))]
mod shelf;

pub use layout::{Crossing, Packed};
#[cfg(any(feature = "userspace", test))]
pub use shelf::{Shelf, Walked};

use crate::abi::{Flow, FlowKey, TableShape};
use layout::{BUSY, Tag, locked, reach};

/// Slots behind its home that a key may lie in. In a table that is half full, one key in a million has none left.
pub const FARTHEST: u32 = 63;

/// Why an entry could not be inserted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError {
    /// The key is there already, or somebody inserts it at this moment.
    Exists,
    /// No slot near the key's home is free.
    Full,
}

/// Memory of a table's slots. Words are read and written whole and in order; a swap is atomic.
pub trait Slots<A: Packed> {
    /// Where a slot is.
    type Slot: Copy;

    /// How many slots there are, and what hashes begin with.
    fn shape(&self) -> TableShape;
    /// The slot with this index.
    fn at(&self, index: u32) -> Option<Self::Slot>;
    /// A word of it.
    fn read(&self, slot: Self::Slot, word: usize) -> u64;
    /// Writes a word.
    fn write(&self, slot: Self::Slot, word: usize, value: u64);
    /// Writes the first half of a word.
    fn write_half(&self, slot: Self::Slot, word: usize, value: u32);
    /// Writes one of a word's quarters, 2 or 3, and leaves the others to whoever writes them meanwhile.
    fn write_quarter(&self, slot: Self::Slot, word: usize, quarter: usize, value: u16);
    /// Writes a word's last byte.
    fn write_last(&self, slot: Self::Slot, word: usize, value: u8);
    /// Writes a word if it is what it was; whether it did.
    fn swap(&self, slot: Self::Slot, word: usize, old: u64, new: u64) -> bool;
    /// What the entry in the slot with this index says beyond its slot.
    fn crossing(&self, index: u32) -> Crossing;
    /// Writes that.
    fn cross(&self, index: u32, crossing: Crossing);
}

/// Where an entry was found.
#[derive(Clone, Copy)]
pub struct Found<S> {
    /// The slot's index.
    pub index: u32,
    /// The slot.
    pub slot: S,
}

/// Finds a key.
#[inline(always)]
pub fn find<A: Packed, S: Slots<A>>(slots: &S, key: &FlowKey<A>) -> Option<Found<S::Slot>> {
    let shape = slots.shape();
    let home = layout::home(key, shape);
    let slot = slots.at(home)?;
    if holds(slots, slot, key) {
        return Some(Found { index: home, slot });
    }
    let reach = reach(slots.read(slot, A::OWNER));
    let mut distance = 0;
    while distance < FARTHEST {
        distance += 1;
        if distance > reach {
            return None;
        }
        let index = behind(home, distance, shape);
        let slot = slots.at(index)?;
        if holds(slots, slot, key) {
            return Some(Found { index, slot });
        }
    }
    None
}

/// What the entry that was found for this key says.
#[inline(always)]
pub fn flow<A: Packed, S: Slots<A>>(slots: &S, key: &FlowKey<A>, found: Found<S::Slot>) -> Flow<A> {
    layout::unpack(slots, key, found)
}

/// Notes what was seen of a flow.
#[inline(always)]
pub fn touch<A: Packed, S: Slots<A>>(slots: &S, slot: S::Slot, seen: u32, state: u8) {
    slots.write_half(slot, A::TIMES, seen);
    slots.write_last(slot, A::TAG, state);
}

/// The entry in a slot, if there is one.
pub fn entry<A: Packed, S: Slots<A>>(slots: &S, index: u32) -> Option<(FlowKey<A>, Flow<A>)> {
    let slot = slots.at(index)?;
    let tag = Tag(slots.read(slot, A::TAG));
    if tag.is_free() || tag.is_busy() {
        return None;
    }
    let key = layout::unpack_key(slots, slot, tag);
    Some((key, layout::unpack(slots, &key, Found { index, slot })))
}

/// Adds an entry; never overwrites one.
#[inline(always)]
pub fn insert<A: Packed, S: Slots<A>>(
    slots: &S,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> Result<(), InsertError> {
    let shape = slots.shape();
    let home = layout::home(key, shape);
    let Some(first) = slots.at(home) else { return Err(InsertError::Full) };
    let Some(reach) = lock(slots, first) else { return Err(InsertError::Exists) };
    let Some(needed) = look(slots, key, home, reach, shape) else {
        unlock(slots, first, reach);
        return Err(InsertError::Exists);
    };
    // Kept in the slot meanwhile: the verifier would follow each value that it knows.
    slots.write_quarter(first, A::OWNER, 3, layout::hold(needed));
    let Some(claimed) = claim(slots, home, shape) else {
        unlock(slots, first, layout::reach(slots.read(first, A::OWNER)));
        return Err(InsertError::Full);
    };
    let index = behind(home, claimed, shape);
    if let Some(slot) = slots.at(index) {
        layout::pack(slots, Found { index, slot }, key, flow, claimed);
    }
    let needed = layout::reach(slots.read(first, A::OWNER));
    unlock(slots, first, if claimed > needed { claimed } else { needed });
    Ok(())
}

/// Removes a key, if it is there.
#[inline(always)]
pub fn remove<A: Packed, S: Slots<A>>(slots: &S, key: &FlowKey<A>) {
    let Some(found) = find(slots, key) else { return };
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        // What was seen of the flow is in this word too, and may change.
        let tag = slots.read(found.slot, A::TAG);
        if !Tag(tag).names(key) || slots.swap(found.slot, A::TAG, tag, 0) {
            return;
        }
    }
}

/// How far the home's keys reach without the new one; none if the key is there.
#[inline(always)]
fn look<A: Packed, S: Slots<A>>(
    slots: &S,
    key: &FlowKey<A>,
    home: u32,
    reach: u32,
    shape: TableShape,
) -> Option<u32> {
    let mut needed = 0;
    let mut distance = 0;
    while distance <= FARTHEST {
        if distance > reach {
            break;
        }
        let Some(slot) = slots.at(behind(home, distance, shape)) else { break };
        let tag = Tag(slots.read(slot, A::TAG));
        if tag.names(key) && layout::is_between(slots, slot, key) {
            return None;
        }
        if !tag.is_free() && tag.distance() == distance {
            needed = distance;
        }
        distance += 1;
    }
    Some(needed)
}

/// Takes the first free slot; its distance, none if there is none.
#[inline(always)]
fn claim<A: Packed, S: Slots<A>>(slots: &S, home: u32, shape: TableShape) -> Option<u32> {
    let mut distance = 0;
    while distance <= FARTHEST {
        let slot = slots.at(behind(home, distance, shape))?;
        let tag = slots.read(slot, A::TAG);
        if Tag(tag).is_free() && slots.swap(slot, A::TAG, tag, BUSY) {
            return Some(distance);
        }
        distance += 1;
    }
    None
}

#[inline(always)]
fn holds<A: Packed, S: Slots<A>>(slots: &S, slot: S::Slot, key: &FlowKey<A>) -> bool {
    Tag(slots.read(slot, A::TAG)).names(key) && layout::is_between(slots, slot, key)
}

/// The reach of a home that is ours now; none if it is another's.
#[inline(always)]
fn lock<A: Packed, S: Slots<A>>(slots: &S, home: S::Slot) -> Option<u32> {
    let mut tries = 0;
    while tries < TRIES {
        tries += 1;
        let word = slots.read(home, A::OWNER);
        if locked(word) {
            return None;
        }
        if slots.swap(home, A::OWNER, word, layout::lock(word)) {
            return Some(reach(word));
        }
    }
    None
}

#[inline(always)]
fn unlock<A: Packed, S: Slots<A>>(slots: &S, home: S::Slot, reach: u32) {
    slots.write_quarter(home, A::OWNER, 3, reach as u16);
}

/// The slot so far behind a home; behind the last is the first.
#[inline(always)]
fn behind(home: u32, distance: u32, shape: TableShape) -> u32 {
    home.wrapping_add(distance) & shape.mask
}

/// An entry's words change while a slot is somebody else's: how often a swap is tried.
const TRIES: u32 = 4;

#[cfg(test)]
mod tests;
