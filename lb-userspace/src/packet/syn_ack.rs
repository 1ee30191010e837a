//! What the node's own TCP would say in the SYN-ACKs that the kernel program sends for it, and settings without which it
//! would not know them again.

use std::fs;

/// Makes a namespace of the node's own one where SYN cookies carry options: on a host's, its own settings stand.
pub fn set_up() {
    for (setting, value) in [
        // Cookies while a socket's queue is full, and not before.
        ("net/ipv4/tcp_syncookies", "1"),
        // Timestamps as they are: by an offset that depends on the addresses, nobody else could make one.
        ("net/ipv4/tcp_timestamps", TIMESTAMPS_WITHOUT_OFFSETS),
    ] {
        if let Err(error) = fs::write(format!("/proc/sys/{setting}"), value) {
            tracing::warn!(setting, %error, "connections that begin by SYN cookies have neither window scaling nor SACK");
        }
    }
}

/// One more than the window scale that this namespace's TCP uses, or 0 if nobody else can make its timestamps.
pub fn cookie_scale() -> u32 {
    let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).ok();
    let numbers =
        |text: String| -> Vec<u32> { text.split_whitespace().filter_map(|word| word.parse().ok()).collect() };
    let is_on = |name: &str, value: &str| setting(name).is_some_and(|text| text.trim() == value);
    if !is_on("ipv4/tcp_timestamps", TIMESTAMPS_WITHOUT_OFFSETS)
        || !is_on("ipv4/tcp_window_scaling", "1")
        || !is_on("ipv4/tcp_sack", "1")
    {
        return 0;
    }
    let largest = |name: &str| setting(name).map(numbers).and_then(|all| all.last().copied());
    match (largest("ipv4/tcp_rmem"), largest("core/rmem_max")) {
        (Some(buffer), Some(most)) => window_scale(buffer.max(most)) + 1,
        _ => 0,
    }
}

/// How far windows are shifted of who may have so many bytes on their way (net/ipv4/tcp_output.c,
/// tcp_select_initial_window).
fn window_scale(bytes: u32) -> u32 {
    bytes.checked_ilog2().unwrap_or(0).saturating_sub(15).min(14)
}

const TIMESTAMPS_WITHOUT_OFFSETS: &str = "2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_shifted_so_that_all_that_fits_can_be_said() {
        for (bytes, scale) in
            [(0, 0), (65_535, 0), (65_536, 1), (6_291_456, 7), (33_554_432, 10), (u32::MAX, 14)]
        {
            assert_eq!(window_scale(bytes), scale, "{bytes}");
        }
    }
}
