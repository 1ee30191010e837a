//! What the command line can say, and the one place that prints.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::{
    ask, capture, control, decap, deploy, down, gateway, host, install, link, node, prepare, supervise,
    supervisor, whoami,
};
use crate::config::{Config, LogConfig, LogFormat};
use crate::model::id::{VpcId, VpcLinkId};
use crate::snapshot::envelope::RoleId;

/// An L4/L7 load-balancer appliance: HTTP APIs, VPC links, ALB, NLB (XDP), Cloud Map and ECS on your own hosts.
#[derive(Parser)]
#[command(name = "gatehouse", version, max_term_width = 110, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  gatehouse run -c /etc/gatehouse/gatehouse.toml      start every role on this host
  gatehouse deploy examples/private-integrations.yaml create what a CloudFormation template describes
  gatehouse down -c /etc/gatehouse/gatehouse.toml     stop it and remove all that it made but its state
  gatehouse install -c /etc/gatehouse/gatehouse.toml  write systemd units that start every role at boot

Any AWS client drives a running appliance: its ready file names the endpoint, the CA and the credentials.";

#[derive(Subcommand)]
enum Command {
    /// Start every role of the appliance on this host and keep them running (as root)
    Run(Boot),
    /// Create a stack from a CloudFormation template and wait until it stands
    Deploy(deploy::Arguments),
    /// Stop the appliance and remove every namespace, address, pin, cgroup and task that it made; its state stays (as root)
    Down(Boot),
    /// Write a systemd unit for each role (as root); `systemctl enable --now gatehouse.target` starts them
    Install(install::InstallArguments),
    /// Stop the units that `install` wrote and remove them; state stays (as root)
    Uninstall(install::UninstallArguments),
    /// The control role: AWS's APIs, state, certificates
    #[command(next_help_heading = "Roles, started by `run`")]
    Control(Boot),
    /// The gateway role: public HTTP APIs
    Gateway(Boot),
    /// The host role: namespaces, addresses, tasks
    Host(Boot),
    /// The node role of one VPC: NLB, ALB, health checks
    Node {
        /// The VPC
        #[arg(long)]
        vpc: String,
        /// The network namespace to work in; waits until the host role has made it. None is this one
        #[arg(long)]
        namespace: Option<String>,
        #[command(flatten)]
        boot: Boot,
    },
    /// The link role: carries lanes into a VPC
    Link {
        /// The VPC link
        #[arg(long)]
        link: String,
        #[command(flatten)]
        inside: Inside,
    },
    /// The flows of network load balancers on this host (as root)
    #[command(next_help_heading = "Looking inside")]
    Flows(ask::FlowArguments),
    /// What would happen, and why (as root)
    #[command(subcommand)]
    Explain(ask::Explain),
    /// On a target that answers past its load balancers: take packets out of tunnels (as root)
    #[command(subcommand)]
    Decap(decap::Command),
    /// Packets of network load balancers on this host as they came, into a file for tshark or tcpdump (as root)
    Capture(capture::Arguments),
    /// Under systemd: start and stop the units of nodes and links that the state asks for
    Supervise(Boot),
    /// Make the directories that roles work in, before one starts (as root)
    #[command(hide = true)]
    Prepare {
        #[command(flatten)]
        whose: Whose,
        #[command(flatten)]
        boot: Boot,
    },
    /// A small HTTP server that answers who it is and what it received: something to put behind a load balancer
    Whoami(whoami::Arguments),
}

#[derive(Args)]
struct Boot {
    /// The boot configuration, TOML
    #[arg(short, long, env = "GATEHOUSE_CONFIG", default_value = "/etc/gatehouse/gatehouse.toml")]
    config: PathBuf,
}

/// Whose directories, beside those that all have.
#[derive(Args)]
#[group(multiple = false)]
struct Whose {
    /// `gateway`, `host` or `supervisor`
    #[arg(long)]
    role: Option<FixedRole>,
    /// The node of this VPC
    #[arg(long)]
    node: Option<String>,
    /// This VPC link
    #[arg(long)]
    link: Option<String>,
}

/// A role that there is one of on a host.
#[derive(Clone, Copy, ValueEnum)]
enum FixedRole {
    Gateway,
    Host,
    Supervisor,
}

impl Whose {
    fn role(self) -> Option<RoleId> {
        let fixed = self.role.map(|role| match role {
            FixedRole::Gateway => RoleId::Gateway,
            FixedRole::Host => RoleId::Host,
            FixedRole::Supervisor => RoleId::Supervisor,
        });
        fixed
            .or_else(|| self.node.map(|vpc| RoleId::Node(VpcId(vpc))))
            .or_else(|| self.link.map(|link| RoleId::Link(VpcLinkId(link))))
    }
}

#[derive(Args)]
struct Inside {
    /// The network namespace to work in; waits until the host role has made it
    #[arg(long)]
    namespace: String,
    #[command(flatten)]
    boot: Boot,
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            say(&format!("gatehouse: {text}"));
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Run(boot) => {
            let config = start(&boot)?;
            runtime()?.block_on(supervisor::run(&config, &boot.config))?;
        }
        Command::Down(boot) => {
            let config = start(&boot)?;
            runtime()?.block_on(down::down(&config))?;
        }
        Command::Control(boot) => control::run(start(&boot)?)?,
        Command::Gateway(boot) => gateway::run(start(&boot)?)?,
        Command::Host(boot) => host::run(start(&boot)?)?,
        Command::Node { vpc, namespace, boot } => node::run(start(&boot)?, VpcId(vpc), namespace.as_deref())?,
        Command::Link { link, inside } => {
            link::run(start(&inside.boot)?, VpcLinkId(link), &inside.namespace)?
        }
        Command::Flows(arguments) => runtime()?.block_on(ask::flows(arguments))?,
        Command::Explain(what) => runtime()?.block_on(ask::explain(what))?,
        Command::Decap(what) => decap::run(what)?,
        Command::Capture(arguments) => runtime()?.block_on(capture::capture(arguments))?,
        Command::Install(arguments) => install::install(&arguments)?,
        Command::Uninstall(arguments) => install::uninstall(&arguments)?,
        Command::Supervise(boot) => runtime()?.block_on(supervise::run(&start(&boot)?))?,
        Command::Prepare { whose, boot } => {
            let config = start(&boot)?;
            prepare::common(&config)?;
            if let Some(role) = whose.role() {
                prepare::role(&config, &role)?;
            }
        }
        Command::Deploy(arguments) => runtime()?.block_on(deploy::deploy(&arguments))?,
        Command::Whoami(arguments) => {
            tracing_to_stderr(&LogConfig::default());
            runtime()?.block_on(whoami::serve(&arguments))?;
        }
    }
    Ok(())
}

fn start(boot: &Boot) -> Result<Config, Failure> {
    let config = Config::read(&boot.config)?;
    tracing_to_stderr(&config.log);
    Ok(config)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn tracing_to_stderr(config: &LogConfig) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A subscriber that is already there (a test's) stays.
    let _ = match config.format {
        LogFormat::Text => lines.with_ansi(false).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Prints one line for the person at the terminal beside what goes into a pipe.
#[expect(clippy::print_stderr, reason = "the other place of this binary that prints")]
pub fn say_aside(line: &str) {
    eprintln!("{line}");
}

/// Prints one line for the person at the terminal.
#[expect(clippy::print_stdout, reason = "the one place of this binary that prints")]
pub fn say(line: &str) {
    println!("{line}");
}
