//! `gatehouse decap`: on a target that answers past its load balancers, the program that takes packets out of tunnels.

use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::cli::say;
use crate::network::{places, wait_until_free};
use crate::packet::attach::Put;
use crate::packet::{Decap, DecapError, Decapsulated};

/// `gatehouse decap`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Take packets out of the tunnels that they come to an interface in, until `detach` or the next boot
    Attach {
        /// Which interface
        #[command(flatten)]
        which: Which,
        /// A load balancer's address, or a range of them; others' tunnels are left as they are. Everybody's are opened if
        /// there is none. May be given several times
        #[arg(long, value_name = "ADDRESS[/LENGTH]", value_parser = range)]
        from: Vec<IpNet>,
    },
    /// Leave an interface as it was
    Detach {
        /// Which interface
        #[command(flatten)]
        which: Which,
    },
    /// The interfaces that have the program, and what came to them
    List {
        /// Where pins are
        #[command(flatten)]
        place: Place,
        /// JSON, one object a line
        #[arg(long)]
        json: bool,
    },
}

/// Which interface.
#[derive(clap::Args)]
pub struct Which {
    /// The interface that load balancers reach this machine by; no other is touched
    #[arg(long)]
    interface: String,
    #[command(flatten)]
    place: Place,
}

/// Where pins are.
#[derive(clap::Args)]
pub struct Place {
    /// A directory for what outlives this command, on a BPF file system
    #[arg(long, value_name = "DIRECTORY", default_value = PINS)]
    pins: PathBuf,
}

/// What else can go wrong than the packet path.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The file system of pins.
    #[error("mounting a BPF file system on {}", places::BPFFS)]
    Mount(#[source] std::io::Error),
    /// The link's last reference takes its time.
    #[error("{0} still has an XDP program; if it is not another's, it goes in a moment")]
    StillThere(String),
}

/// Does what the command line says.
///
/// # Errors
/// When the kernel refuses: not root, for example, or another program on the interface.
pub fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Attach { which: Which { interface, place }, from } => {
            if place.pins.starts_with(places::BPFFS) {
                places::mount_bpffs().map_err(CommandError::Mount)?;
            }
            match place.open()?.attach(&interface, &from)? {
                Put::Exchanged => say(&format!("exchanged the program on {interface}; no packet missed it")),
                Put::Native => say(&format!("attached to {interface}, natively")),
                Put::Generic(why) => {
                    say(&format!(
                        "attached to {interface}, generically: {GENERIC} (the driver said: {})",
                        reason(&why)
                    ));
                }
            }
            if from.is_empty() {
                say(ANYBODY);
            }
        }
        Command::Detach { which: Which { interface, place } } => {
            place.open()?.detach(&interface)?;
            if !wait_until_free(std::slice::from_ref(&interface)) {
                return Err(CommandError::StillThere(interface).into());
            }
            say(&format!("detached from {interface}"));
        }
        Command::List { place, json } => {
            for line in place.open()?.list()? {
                say(&if json { serde_json::to_string(&line)? } else { told(&line) });
            }
        }
    }
    Ok(())
}

impl Place {
    fn open(&self) -> Result<Decap, DecapError> {
        Decap::new(Path::new(&self.pins))
    }
}

fn told(line: &Decapsulated) -> String {
    let from = match line.from.as_slice() {
        [] => "everybody".to_owned(),
        ranges => ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    };
    let progress = line.progress;
    format!(
        "{} {} from {from}: {} packets out of IP, {} out of GUE, {} bytes; {} refused",
        line.interface,
        line.mode,
        progress.ipip_packets,
        progress.gue_packets,
        progress.bytes,
        progress.refused_packets
    )
}

/// The innermost cause.
fn reason(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// A range, or an address alone.
fn range(text: &str) -> Result<IpNet, String> {
    let alone = || text.parse().ok().map(|address: std::net::IpAddr| IpNet::from(address));
    text.parse().ok().or_else(alone).ok_or_else(|| format!("'{text}' is neither an address nor a range"))
}

/// Beside the appliance's own, whose names follow a hyphen.
const PINS: &str = "/sys/fs/bpf/gatehouse_decap";

/// What an operator must know of generic mode.
const GENERIC: &str = "no native XDP on this interface, so every packet, also those in no tunnel, first costs a socket \
     buffer and often a copy; turn GRO off on it, and lower its MTU to what its driver takes, or use another interface, to \
     have native XDP";

/// What it means to name nobody.
const ANYBODY: &str = "packets are taken out of anybody's tunnels: whoever reaches this interface can send packets from any \
     address, past filters that look at what is outside; --from names the load balancers";
