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
    // Where the start may be moved to; the kernel keeps its own.
    floor: usize,
    packet: PhantomData<&'packet [core::cell::Cell<u8>]>,
}

impl<'packet> Window<'packet> {
    /// A packet in memory.
    pub fn new(packet: &'packet mut [u8]) -> Self {
        let length = packet.len();
        let start = packet.as_mut_ptr().expose_provenance();
        Self { start, end: start + length, floor: start, packet: PhantomData }
    }

    /// A packet in memory, behind `headroom` bytes that it may grow into.
    pub fn with_headroom(buffer: &'packet mut [u8], headroom: usize) -> Self {
        let whole = Self::new(buffer);
        Self { start: whole.end.min(whole.start + headroom), ..whole }
    }

    /// The same packet with `grow` bytes more at its start, or less; none if there is no room.
    pub fn moved(&self, grow: i32) -> Option<Self> {
        let start = self.start.checked_add_signed(-isize::try_from(grow).ok()?)?;
        (self.floor..=self.end).contains(&start).then_some(Self { start, ..*self })
    }

    /// A packet by its bounds.
    ///
    /// # Safety
    /// `start..end` must be memory that may be read and written for `'packet`, with exposed provenance, and that nothing
    /// else refers to meanwhile.
    #[inline(always)]
    pub const unsafe fn from_bounds(start: usize, end: usize) -> Self {
        Self { start, end, floor: start, packet: PhantomData }
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
