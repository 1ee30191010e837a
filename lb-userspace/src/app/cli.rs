//! What the command line can say, and the one place that prints.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use super::{control, deploy, supervisor, whoami};
use crate::config::{Config, LogConfig, LogFormat};

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

Any AWS client drives a running appliance: its ready file names the endpoint, the CA and the credentials.";

#[derive(Subcommand)]
enum Command {
    /// Start every role of the appliance on this host and keep them running (as root)
    Run(Boot),
    /// Create a stack from a CloudFormation template and wait until it stands
    Deploy(deploy::Arguments),
    /// A small HTTP server that says who it is and what it received, for tasks to run
    Whoami(whoami::Arguments),
    /// The control role: AWS's APIs, state, certificates
    #[command(next_help_heading = "Roles, started by `run`")]
    Control(Boot),
}

#[derive(Args)]
struct Boot {
    /// The boot configuration, TOML
    #[arg(short, long, env = "GATEHOUSE_CONFIG", default_value = "/etc/gatehouse/gatehouse.toml")]
    config: PathBuf,
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
        Command::Control(boot) => control::run(start(&boot)?)?,
        Command::Whoami(arguments) => runtime()?.block_on(whoami::serve(&arguments))?,
        Command::Deploy(arguments) => runtime()?.block_on(deploy::deploy(&arguments))?,
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

/// Prints one line for the person at the terminal.
#[expect(clippy::print_stdout, reason = "the one place of this binary that prints")]
pub fn say(line: &str) {
    println!("{line}");
}
