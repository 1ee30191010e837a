//! The project's own commands, one file a subcommand.
#![forbid(unsafe_code)]

/// Where the tree is, how commands are run and how the user is told.
mod shell;
/// Installs what the machine lacks.
mod setup;
/// Compiles the kernel programs, then the appliance.
mod build;
/// Makes the lab, deploys the example, serves or drives load.
mod run;
/// Measures beside the peers.
mod bench;
/// Runs every test, those of the kernel and the network included.
mod test;
/// Derives the tables of the AWS wire from botocore's models.
mod shapes;
/// Checks the rules of the tree that no compiler checks.
mod tidy;
/// Runs what every change passes before it lands.
mod ci;

use clap::{Parser, Subcommand};

/// Gatehouse's own commands. Each installs what it needs first.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install compilers, Debian packages and client tools this machine lacks; instant when nothing is missing
    Setup,
    /// Compile the kernel programs and the appliance in release mode
    Build,
    /// Build, make the lab, deploy the example, and serve until Ctrl-C (as root)
    Run {
        /// Drive each integration for this many seconds instead, print what it cost, and exit
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
        load: Option<u64>,
        /// Write one JSON object here once everything serves: endpoint, CA, credentials, namespaces, URLs
        #[arg(long, value_name = "PATH")]
        ready_file: Option<std::path::PathBuf>,
        /// Run this gatehouse instead of building one
        #[arg(long, value_name = "PATH")]
        binary: Option<std::path::PathBuf>,
    },
    /// Run every test, the kernel and network ones included (as root)
    Test {
        /// Run only tests whose names contain one of these
        filters: Vec<String>,
    },
    /// Measure beside the peers, print tables, and append to bench/results
    Bench {
        /// Only this one
        name: Option<String>,
    },
    /// Derive the shape tables of the AWS wire from botocore's models
    Shapes {
        /// A folder like botocore/data, in place of the one that the test clients brought
        #[arg(long)]
        models: Option<std::path::PathBuf>,
    },
    /// Check the rules of the tree: ranks, purity, heads, sizes, module lists
    Tidy,
    /// Format, lint, tidy, then the README's own test command: what every change passes
    Ci,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Setup => setup::setup().map(|_| ()),
        Command::Build => build::build(),
        Command::Run { load, ready_file, binary } => run::run(load, ready_file.as_deref(), binary),
        Command::Test { filters } => test::test(&filters),
        Command::Bench { name } => bench::bench(name.as_deref()),
        Command::Shapes { models } => shapes::shapes(models),
        Command::Tidy => tidy::tidy(),
        Command::Ci => ci::ci(),
    }
}
