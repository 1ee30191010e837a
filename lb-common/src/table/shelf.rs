//! A table in memory that userspace can reach: its own, or the kernel's, mapped.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::{Crossing, Packed, Slots};
use crate::abi::{Flow, FlowKey, TableShape};

/// Slots one after the other, and behind those of IPv4 what they say beyond.
#[derive(Clone, Copy)]
pub struct Shelf<'words> {
    words: &'words [AtomicU64],
    crossings: &'words [AtomicU64],
    seed: u64,
    mask: u32,
}

/// Entries, and the slot where the walk goes on.
pub type Walked<A> = (Vec<(FlowKey<A>, Flow<A>)>, Option<u32>);

impl<'words> Shelf<'words> {
    /// A table of this shape; `words` and `crossings` have room for its slots, and what has no room is not there.
    pub const fn new(words: &'words [AtomicU64], crossings: &'words [AtomicU64], shape: TableShape) -> Self {
        Self { words, crossings, seed: shape.seed, mask: shape.mask }
    }

    /// The entries of so many slots from this one on; where the walk goes on, if there are more slots.
    pub fn walk<A: Packed>(&self, from: u32, slots: u32) -> Walked<A> {
        let end = from.saturating_add(slots).min(self.mask.saturating_add(1));
        let entries = (from..end).filter_map(|index| super::entry(self, index)).collect();
        (entries, (end <= self.mask).then_some(end))
    }

    #[cfg(test)]
    pub(super) fn tag_of<A: Packed>(&self, index: u32) -> u64 {
        self.words[index as usize * A::WORDS + A::TAG].load(Ordering::Acquire)
    }

    fn change(&self, at: usize, change: impl Fn(u64) -> u64) {
        if let Some(word) = self.words.get(at) {
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(change(old)));
        }
    }
}

impl<A: Packed> Slots<A> for Shelf<'_> {
    /// The place of its first word.
    type Slot = usize;

    fn shape(&self) -> TableShape {
        TableShape { seed: self.seed, mask: self.mask, pad: 0 }
    }

    fn at(&self, index: u32) -> Option<usize> {
        let first = index as usize * A::WORDS;
        (first + A::WORDS <= self.words.len()).then_some(first)
    }

    fn read(&self, slot: usize, word: usize) -> u64 {
        self.words.get(slot + word).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn write(&self, slot: usize, word: usize, value: u64) {
        if let Some(word) = self.words.get(slot + word) {
            word.store(value, Ordering::Release);
        }
    }

    fn write_half(&self, slot: usize, word: usize, value: u32) {
        self.change(slot + word, |old| old & !0xffff_ffff | u64::from(value));
    }

    fn write_quarter(&self, slot: usize, word: usize, quarter: usize, value: u16) {
        let shift = quarter * 16;
        self.change(slot + word, |old| old & !(0xffff << shift) | u64::from(value) << shift);
    }

    fn write_last(&self, slot: usize, word: usize, value: u8) {
        self.change(slot + word, |old| old & !(0xff << 56) | u64::from(value) << 56);
    }

    fn swap(&self, slot: usize, word: usize, old: u64, new: u64) -> bool {
        self.words
            .get(slot + word)
            .is_some_and(|word| word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    fn crossing(&self, index: u32) -> Crossing {
        let word = |at: usize| {
            self.crossings
                .get(index as usize * 2 + at)
                .map_or(0, |word: &AtomicU64| word.load(Ordering::Acquire))
        };
        Crossing::of_words([word(0), word(1)])
    }

    fn cross(&self, index: u32, crossing: Crossing) {
        for (at, value) in crossing.words().into_iter().enumerate() {
            if let Some(word) = self.crossings.get(index as usize * 2 + at) {
                word.store(value, Ordering::Release);
            }
        }
    }
}
