//! `gatehouse capture`: packets as they came, into a file. The node finds them; this writes, with the rights of whoever
//! asks.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;

use super::admin::{Answer, Question};
use super::ask::{AskError, Conversation, Nodes};
use super::cli::say_aside;
use crate::packet::pcapng::{self, Packet};
use crate::packet::{Became, CaptureQuestion, CapturedPacket, Tally, WhichListener};

/// `gatehouse capture`.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    nodes: Nodes,
    /// Packets dropped for this reason, as metrics call it; may be repeated
    #[arg(long = "drop-reason", value_name = "REASON")]
    drop_reasons: Vec<String>,
    /// Packets that became this: pass, drop or transmit; may be repeated
    #[arg(long = "verdict", value_name = "VERDICT")]
    verdicts: Vec<Became>,
    /// Packets of a listener, both ways
    #[arg(long, value_name = "ARN|ADDRESS:PORT")]
    listener: Option<WhichListener>,
    /// Packets from these addresses
    #[arg(long, value_name = "CIDR|ADDRESS")]
    source: Option<Source>,
    /// One in so many packets that each CPU sees
    #[arg(long = "sample", value_name = "N", default_value_t = 1)]
    every: u32,
    /// How many packets at most
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    count: u32,
    /// How long at most
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// How many packets a second at most, of each CPU
    #[arg(long = "rate", value_name = "N", default_value_t = 1_000)]
    per_second: u32,
    /// Bytes of each packet at most
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    snap: u32,
    /// The file, pcapng; `-` is standard output
    #[arg(short, long = "write", value_name = "FILE")]
    write: PathBuf,
}

/// A range, or one address.
#[derive(Debug, Clone, Copy)]
struct Source(IpNet);

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(IpNet::from));
        range.map(Self).map_err(|_| format!("'{text}' is neither a range such as 10.0.0.0/8 nor an address"))
    }
}

/// Captures until there are enough packets, the time is over, or whoever waits has had enough (Ctrl-C).
///
/// # Errors
/// When not exactly one node can be asked, it refuses, or the file cannot be written.
pub async fn capture(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let snap = arguments.snap;
    let question = CaptureQuestion {
        drop_reasons: arguments.drop_reasons,
        verdicts: arguments.verdicts,
        listener: arguments.listener,
        source: arguments.source.map(|Source(range)| range),
        every: arguments.every,
        count: arguments.count,
        seconds: arguments.seconds,
        per_second: arguments.per_second,
        snap,
    };
    question.check()?;
    let sockets = arguments.nodes.sockets()?;
    let [socket] = sockets.as_slice() else {
        return Err(AskError::Failed("nodes of several VPCs run on this host: say --vpc".to_owned()).into());
    };
    let mut conversation = Conversation::begin(socket, &Question::Capture(question)).await?;
    // A question that is refused makes no file.
    match conversation.next().await? {
        Answer::Capturing => {}
        Answer::Failed(error) => return Err(AskError::Failed(error).into()),
        _ => return Err(AskError::Unfinished.into()),
    }
    let mut written = Written::begin(&arguments.write, snap)?;
    say_aside("capturing; Ctrl-C ends it");
    let mut is_waiting = true;
    loop {
        let answer = tokio::select! {
            answer = conversation.next() => answer?,
            _ = tokio::signal::ctrl_c(), if is_waiting => {
                is_waiting = false;
                conversation.enough().await?;
                continue;
            }
        };
        match answer {
            Answer::Packet(packet) => written.add(&packet)?,
            Answer::Captured(tally) => written.end(&tally)?,
            Answer::Done { .. } => return Ok(()),
            Answer::Failed(error) => return Err(AskError::Failed(error).into()),
            _ => return Err(AskError::Unfinished.into()),
        }
    }
}

/// A file in the making. Every packet is in it as soon as it is known, so that a reader at the other end of a pipe sees it.
struct Written {
    out: BufWriter<Box<dyn Write>>,
    snap: u32,
    devices: Vec<String>,
    packets: u64,
    last_ns: u64,
}

impl Written {
    fn begin(path: &Path, snap: u32) -> io::Result<Self> {
        let file: Box<dyn Write> =
            if path == Path::new("-") { Box::new(io::stdout()) } else { Box::new(File::create(path)?) };
        let mut out = BufWriter::new(file);
        out.write_all(&pcapng::section())?;
        out.flush()?;
        Ok(Self { out, snap, devices: Vec::new(), packets: 0, last_ns: 0 })
    }

    fn add(&mut self, packet: &CapturedPacket) -> Result<(), Box<dyn Error>> {
        let interface = self.interface(&packet.device)?;
        let bytes = STANDARD.decode(&packet.data)?;
        let block = Packet {
            interface,
            at_ns: packet.at_ns,
            length: packet.length,
            bytes: &bytes,
            verdict: packet.verdict,
            reason: packet.reason.as_deref(),
        };
        self.out.write_all(&block.block())?;
        self.out.flush()?;
        self.packets += 1;
        self.last_ns = packet.at_ns;
        Ok(())
    }

    fn interface(&mut self, device: &str) -> io::Result<u32> {
        let known = self.devices.iter().position(|known| known == device);
        let number = match known {
            Some(number) => number,
            None => {
                self.out.write_all(&pcapng::interface(device, self.snap))?;
                self.devices.push(device.to_owned());
                self.devices.len() - 1
            }
        };
        u32::try_from(number).map_err(io::Error::other)
    }

    fn end(&mut self, tally: &Tally) -> io::Result<()> {
        // Counted for all interfaces together: said of the first.
        if !self.devices.is_empty() {
            let lost = tally.lost + tally.limited;
            self.out.write_all(&pcapng::statistics(0, self.last_ns, tally.matched, lost))?;
            self.out.flush()?;
        }
        let Tally { matched, sampled, limited, lost } = *tally;
        say_aside(&format!(
            "{} packets written; {matched} matched, {sampled} were sampled, {limited} came faster than --rate, {lost} were \
             lost because nobody fetched them in time",
            self.packets
        ));
        Ok(())
    }
}
