//! The packet's bounds, and the only way to a view of a header.
#![expect(unsafe_code, reason = "turns checked addresses into references; the rest of the crate cannot")]

use core::marker::PhantomData;

/// A type that any bytes are a value of, that needs no alignment, and that is written through shared references.
///
/// # Safety
/// All fields must be cells of bytes.
pub unsafe trait Wire {}

/// One packet, from its Ethernet header to its end.
///
/// Addresses instead of a slice, because the verifier wants to see the comparison with the packet's end.
pub struct Window<'packet> {
    start: usize,
    end: usize,
    packet: PhantomData<&'packet [core::cell::Cell<u8>]>,
}

impl<'packet> Window<'packet> {
    /// A packet in memory.
    pub fn new(packet: &'packet mut [u8]) -> Self {
        let length = packet.len();
        let start = packet.as_mut_ptr().expose_provenance();
        Self { start, end: start + length, packet: PhantomData }
    }

    /// A packet by its bounds.
    ///
    /// # Safety
    /// `start..end` must be memory that may be read and written for `'packet`, with exposed provenance, and that nothing
    /// else refers to meanwhile.
    #[inline(always)]
    pub const unsafe fn from_bounds(start: usize, end: usize) -> Self {
        Self { start, end, packet: PhantomData }
    }

    /// The header at `offset`; none if it is not all there.
    #[inline(always)]
    pub fn view<T: Wire>(&self, offset: usize) -> Option<&'packet T> {
        let at = self.start + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: in bounds by the comparison above, alignment 1 and any bytes valid by `Wire`.
        Some(unsafe { &*core::ptr::with_exposed_provenance::<T>(at) })
    }

    /// Whether the packet has at least `length` bytes.
    #[inline(always)]
    pub fn holds(&self, length: usize) -> bool {
        self.start + length <= self.end
    }
}
