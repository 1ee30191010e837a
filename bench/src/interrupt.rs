//! Ctrl-C and its like: what waits is told to stop, so that guards remove what a bench made.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::{Context as _, Result};
use gatehouse_tests::lab::wait::Wait;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// A flag that signals set, and waits that end then.
pub(crate) fn watch() -> Result<(Arc<AtomicBool>, Wait)> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).context("listening for signals")?;
    }
    let wait = Wait::new(Some(stop.clone()));
    Ok((stop, wait))
}
