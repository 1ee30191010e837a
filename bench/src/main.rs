//! Benches with peers beside ours in one run.
//!
//! `gatehouse-bench NAME` prints a table and appends one JSON object a line to bench/results/NAME.jsonl. Everything is
//! measured in interleaved rounds of one run, and medians are kept: on a shared machine absolute figures drift, ratios do
//! not. A bench never fails for being slow.
#![forbid(unsafe_code)]

/// Results: the table and the JSON lines.
mod record;
/// Ctrl-C and its like.
mod interrupt;
/// Processes under measure.
mod process;
/// What the whole machine spends.
mod busy;
/// What control would send a node.
mod slice;
/// The target of the load.
mod target;
/// What a packet costs in the kernel, by the driver method.
mod packets;
/// The network load balancer beside nftables, HAProxy and nginx.
mod nlb;
/// The application load balancer beside nginx, HAProxy and a bare hyper proxy.
mod alb;
/// The three integrations beside a direct request.
mod integrations;

use anyhow::{Context as _, Result, bail};

/// As in the `gatehouse` binary: what is measured is what runs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["packets"] => packets::bench(None),
        ["packets", part] => packets::bench(Some(part)),
        ["nlb"] => nlb::bench(),
        ["alb"] => alb::bench(),
        ["integrations"] => integrations::bench(),
        // Processes that a bench starts to have something to measure.
        ["serve", "target", address] => target::serve(address.parse().context("an address")?),
        ["serve", "nlb", rest @ ..] => nlb::serve(rest),
        ["serve", part, rest @ ..] => alb::serve(part, rest),
        _ => bail!("name a bench: packets, nlb, alb, integrations"),
    }
}
