//! The same table: SYN floods of listeners that end in userspace, and SYN cookies against them.

use lb_common::abi::{DropReason, listener_flags};

use super::fixtures::{Fixture, story};
use super::given::LOCAL;
use super::segment::{ACK, COOKIE, FIN, PSH, RST, STAMP, SYN, Segment, client, client6};

pub(super) fn fixtures() -> Vec<Fixture> {
    [answers(), acknowledgements(), guards()].into_iter().flatten().collect()
}

/// A listener in a flood: no SYN is within its limit.
fn flood(name: &'static str) -> Fixture {
    story(name).given(|given| {
        for listener in [13, 28] {
            given.listeners[listener].3.syn_limit = 0;
        }
        given.pulse.cookie_scale = 8;
    })
}

/// What a SYN is answered with.
fn answer(syn: &Segment, largest: u16, options: &[u8]) -> Segment {
    client(0, SYN | ACK).with(|s| {
        (s.from, s.to) = (syn.to, syn.from);
        (s.from_mac, s.to_mac) = (syn.to_mac, syn.from_mac);
        (s.sequence, s.acknowledgement) = (COOKIE, syn.sequence.wrapping_add(1));
        (s.window, s.id) = (29_200, 0);
        s.tcp_options =
            [2, 4].into_iter().chain(largest.to_be_bytes()).chain(options.iter().copied()).collect();
    })
}

/// Options with a timestamp of the client's, and what is said of the own one.
fn stamped(told: u32, first: [u8; 2], rest: &[u8]) -> Vec<u8> {
    let mut options = first.to_vec();
    options.extend([8, 10]);
    options.extend((STAMP & !63 | told).to_be_bytes());
    options.extend(0x0a0b_0c0d_u32.to_be_bytes());
    options.extend(rest);
    options
}

const TIMESTAMP: [u8; 10] = [8, 10, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 0];

fn answers() -> Vec<Fixture> {
    let bare = client(LOCAL, SYN);
    let bare6 = client6(LOCAL, SYN);
    let with = |syn: &Segment, options: &[&[u8]]| syn.clone().with(|s| s.tcp_options = options.concat());
    // In the orders of Linux, of macOS, of Windows.
    let linux = with(&bare, &[&[2, 4, 5, 0xb4, 4, 2], &TIMESTAMP, &[1, 3, 3, 7]]);
    let linux6 = with(&bare6, &[&[2, 4, 5, 0xa0, 4, 2], &TIMESTAMP, &[1, 3, 3, 7]]);
    let apple = with(&bare, &[&[2, 4, 5, 0xb4, 1, 3, 3, 6, 1, 1], &TIMESTAMP, &[4, 2, 0, 0]]);
    let windows = with(&bare, &[&[2, 4, 5, 0xb4, 1, 3, 3, 8, 1, 1, 4, 2]]);
    let plain = with(&bare, &[&[1, 1], &TIMESTAMP]);
    let huge = with(&bare, &[&[3, 3, 200, 1, 1, 1], &TIMESTAMP]);
    let broken = with(&bare, &[&[2, 4, 5, 0xb4], &[8, 60, 0, 0], &TIMESTAMP, &[0, 0]]);
    let optional = linux.clone().with(|s| s.ip_options = vec![1, 1, 1, 0]);
    let data = linux.clone().payload(&[7; 900]);
    let padded = bare.clone().with(|s| s.padding = 6);
    let both = stamped(0x17, [4, 2], &[1, 3, 3, 7]);
    let one = |name, syn: &Segment, out: &Segment| {
        let listener = if syn.to.0.is_ipv4() { 13 } else { 28 };
        flood(name).cookies(syn, out).counts_cookies(listener, 1, 0, 0)
    };
    vec![
        story("a SYN within its listener's limit is the kernel's")
            .given(|given| given.listeners[13].3.syn_limit = 1)
            .passes(&bare)
            .cookies(&bare, &answer(&bare, 1_460, &[]))
            .counts_cookies(13, 1, 0, 0),
        story("a second later, a SYN is within the limit again")
            .given(|given| given.listeners[13].3.syn_limit = 1)
            .passes(&bare)
            .change(|given| given.pulse.tick += 1)
            .passes(&bare),
        one("a cookie without options", &bare, &answer(&bare, 1_460, &[])),
        one("IPv6: a cookie without options", &bare6, &answer(&bare6, 1_440, &[])),
        one("a padded SYN's cookie has no padding", &padded, &answer(&padded, 1_460, &[])),
        one("a cookie for Linux", &linux, &answer(&linux, 1_460, &both)),
        one("IPv6: a cookie for Linux", &linux6, &answer(&linux6, 1_440, &both)),
        one("a cookie for macOS", &apple, &answer(&apple, 1_460, &stamped(0x16, [4, 2], &[1, 3, 3, 7]))),
        one("a cookie without timestamps has no other options", &windows, &answer(&windows, 1_460, &[])),
        one("a cookie with timestamps alone", &plain, &answer(&plain, 1_460, &stamped(15, [1, 1], &[]))),
        one(
            "windows are not shifted by more than 14",
            &huge,
            &answer(&huge, 1_460, &stamped(14, [1, 1], &[1, 3, 3, 7])),
        ),
        one("options behind one that is too long are not read", &broken, &answer(&broken, 1_460, &[])),
        one("a SYN with IP options has an answer without", &optional, &answer(&optional, 1_460, &both)),
        one("a SYN with data is answered without", &data, &answer(&data, 1_460, &both)),
        flood("without timestamps of the node's own, a cookie has no options")
            .given(|given| given.pulse.cookie_scale = 0)
            .cookies(&linux, &answer(&linux, 1_460, &[]))
            .counts_cookies(13, 1, 0, 0),
        flood("a SYN to a port that nobody listens at is the kernel's")
            .given(|given| given.listeners[0].3.flags |= listener_flags::LOCAL)
            .given(|given| given.listeners[0].3.syn_limit = 0)
            .passes(&client(super::given::HTTP, SYN)),
    ]
}

fn acknowledgements() -> Vec<Fixture> {
    let syn = client(LOCAL, SYN);
    let syn6 = client6(LOCAL, SYN);
    let next = |s: &Segment, flags| Segment {
        flags,
        sequence: s.sequence.wrapping_add(1),
        acknowledgement: 1,
        ..s.clone()
    };
    let sent = |name| flood(name).cookies(&syn, &answer(&syn, 1_460, &[]));
    let (ack, data) = (next(&syn, ACK), next(&syn, PSH | ACK).payload(b"hello"));
    let out = |s: &Segment| s.reset().bytes();
    vec![
        sent("who acknowledges a cookie begins a connection").acknowledges(&ack).counts_cookies(13, 1, 1, 0),
        sent("data may acknowledge a cookie").acknowledges(&data).counts_cookies(13, 1, 1, 0),
        flood("IPv6: who acknowledges a cookie begins a connection")
            .cookies(&syn6, &answer(&syn6, 1_440, &[]))
            .acknowledges(&next(&syn6, ACK))
            .counts_cookies(28, 1, 1, 0),
        sent("who acknowledges something else is reset")
            .answers_bytes(ack.bytes(), out(&ack))
            .counts_cookies(13, 1, 0, 1),
        sent("a FIN of no connection is reset")
            .answers_bytes(next(&syn, FIN | ACK).bytes(), out(&next(&syn, FIN | ACK)))
            .counts_cookies(13, 1, 0, 1),
        flood("IPv6: who acknowledges something else is reset")
            .cookies(&syn6, &answer(&syn6, 1_440, &[]))
            .answers_bytes(next(&syn6, ACK).bytes(), out(&next(&syn6, ACK)))
            .counts_cookies(28, 1, 0, 1),
        sent("a RST is the kernel's").passes(&next(&syn, RST | ACK)).counts_cookies(13, 1, 0, 0),
        sent("when no cookie is good any more, nobody is asked")
            .change(|given| given.pulse.tick += 121)
            .passes(&ack)
            .counts_cookies(13, 1, 0, 0),
        sent("as long as cookies are good, acknowledgements are looked at")
            .change(|given| given.pulse.tick += 120)
            .answers_bytes(ack.bytes(), out(&ack))
            .counts_cookies(13, 1, 0, 1),
        flood("where no cookie was sent, nobody is asked").passes(&ack),
    ]
}

fn guards() -> Vec<Fixture> {
    let guarded = |name| flood(name).given(|given| given.listeners[13].3.flags |= listener_flags::GUARDED);
    vec![
        guarded("security groups come before cookies")
            .drops(&client(LOCAL, SYN), DropReason::SecurityGroup)
            .blocked(13, 1),
        flood("a flood of one listener is not another's")
            .cookies(&client(LOCAL, SYN), &answer(&client(LOCAL, SYN), 1_460, &[]))
            .forwards(
                &client(super::given::HTTP, SYN),
                &client(super::given::HTTP, SYN).at_target(super::segment::CLIENT_PORT),
            )
            .counts_cookies(13, 1, 0, 0)
            .flows(1),
    ]
}
