//! Fields of headers: cells of bytes, read and written as they are on the wire.

use core::cell::Cell;

/// One byte.
#[repr(transparent)]
pub struct Raw8(Cell<[u8; 1]>);

/// Two bytes.
#[repr(transparent)]
pub struct Raw16(Cell<[u8; 2]>);

/// Four bytes.
#[repr(transparent)]
pub struct Raw32(Cell<[u8; 4]>);

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
