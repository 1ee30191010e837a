//! Fields of headers: cells of bytes, read and written as they are on the wire.

#![expect(unsafe_code, reason = "Wire is an unsafe trait")]

use core::cell::Cell;

use super::Wire;

/// One byte.
#[repr(transparent)]
pub struct Raw8(Cell<[u8; 1]>);

/// Two bytes.
#[repr(transparent)]
pub struct Raw16(Cell<[u8; 2]>);

/// Four bytes.
#[repr(transparent)]
pub struct Raw32(Cell<[u8; 4]>);

/// Sixteen bytes, as four words.
#[repr(C)]
pub struct Raw128([Raw32; 4]);

// SAFETY: cells of bytes.
unsafe impl Wire for Raw16 {}

// SAFETY: cells of bytes.
unsafe impl Wire for Raw32 {}

// SAFETY: as its elements.
unsafe impl<T: Wire, const N: usize> Wire for [T; N] {}

impl Raw8 {
    /// Its value.
    #[inline(always)]
    pub fn get(&self) -> u8 {
        self.0.get()[0]
    }

    /// Changes it.
    #[inline(always)]
    pub fn set(&self, value: u8) {
        self.0.set([value]);
    }
}

impl Raw16 {
    /// Its bytes, not converted.
    #[inline(always)]
    pub fn get(&self) -> u16 {
        u16::from_ne_bytes(self.0.get())
    }

    /// As a number.
    #[inline(always)]
    pub fn number(&self) -> u16 {
        u16::from_be_bytes(self.0.get())
    }

    /// Changes it; the bytes are not converted.
    #[inline(always)]
    pub fn set(&self, value: u16) {
        self.0.set(value.to_ne_bytes());
    }

    /// Changes it to a number.
    #[inline(always)]
    pub fn set_number(&self, value: u16) {
        self.0.set(value.to_be_bytes());
    }
}

impl Raw32 {
    /// Its bytes, not converted.
    #[inline(always)]
    pub fn get(&self) -> u32 {
        u32::from_ne_bytes(self.0.get())
    }

    /// As a number.
    #[inline(always)]
    pub fn number(&self) -> u32 {
        u32::from_be_bytes(self.0.get())
    }

    /// Changes it; the bytes are not converted.
    #[inline(always)]
    pub fn set(&self, value: u32) {
        self.0.set(value.to_ne_bytes());
    }

    /// Changes it to a number.
    #[inline(always)]
    pub fn set_number(&self, value: u32) {
        self.0.set(value.to_be_bytes());
    }
}

impl Raw128 {
    /// Its words, their bytes not converted.
    #[inline(always)]
    pub fn get(&self) -> [u32; 4] {
        let [a, b, c, d] = &self.0;
        [a.get(), b.get(), c.get(), d.get()]
    }

    /// Changes it; the words' bytes are not converted.
    #[inline(always)]
    pub fn set(&self, words: [u32; 4]) {
        let [a, b, c, d] = &self.0;
        a.set(words[0]);
        b.set(words[1]);
        c.set(words[2]);
        d.set(words[3]);
    }
}
