//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624). Sums are in the packet's own byte order: the
//! one's complement sum does not care.

/// What replacing `old` by `new` adds to a sum.
#[inline(always)]
pub fn delta16(old: u16, new: u16) -> u32 {
    u32::from(!old) + u32::from(new)
}

/// What replacing `old` by `new` adds to a sum.
#[inline(always)]
pub fn delta32(old: u32, new: u32) -> u32 {
    (!old & 0xffff) + (!old >> 16) + (new & 0xffff) + (new >> 16)
}

/// A sum folded to 16 bits. Sums of up to 65,535 words fit.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // Twice is enough: the first leaves at most 0x1_fffe, the second at most 0xffff.
    (sum & 0xffff) as u16
}

//= https://www.rfc-editor.org/rfc/rfc1624#section-3
//# HC' = ~(~HC + ~m + m')
/// The checksum after a change that adds `delta` to the sum.
#[inline(always)]
pub fn update(checksum: u16, delta: u32) -> u16 {
    !fold(u32::from(!checksum) + delta)
}

/// The one's complement sum of bytes, an odd last one padded with zero. For the host; the kernel only ever updates.
pub fn sum(bytes: &[u8]) -> u32 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
        sum = u32::from(fold(sum)) + u32::from(u16::from_ne_bytes(word));
    }
    sum
}
