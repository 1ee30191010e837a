//! `gatehouse install` and `gatehouse uninstall`: units for systemd, written and removed.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::cli::say;
use super::units::{MARK, NAMES, TARGET, units};
use crate::config::{Config, ConfigError};

/// What `gatehouse install` is told.
#[derive(Args)]
pub struct InstallArguments {
    /// The boot configuration, TOML
    #[arg(short, long, env = "GATEHOUSE_CONFIG", default_value = "/etc/gatehouse/gatehouse.toml")]
    config: PathBuf,
    /// Install below this directory, and tell no running systemd
    #[arg(long)]
    root: Option<PathBuf>,
    /// The program that the units start; by default this one, where it is
    #[arg(long)]
    program: Option<PathBuf>,
}

/// What `gatehouse uninstall` is told.
#[derive(Args)]
pub struct UninstallArguments {
    /// Uninstall below this directory, and tell no running systemd
    #[arg(long)]
    root: Option<PathBuf>,
}

/// Why nothing, or not all, was installed or removed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Roles read the configuration as their own users.
    #[error("{0} must be readable by the users of every role: chmod 0644")]
    Unreadable(PathBuf),
    /// Somebody else's file has the name of one of ours.
    #[error("{0} was not written by `gatehouse install`; it is left as it is")]
    Foreign(PathBuf),
    /// A file or a directory.
    #[error("{doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// systemctl.
    #[error("systemctl {words} did not succeed")]
    Systemctl {
        /// What it was told.
        words: String,
    },
}

/// Writes the units. Doing it again changes what is different and nothing else.
///
/// # Errors
/// When a file cannot be written, or is somebody else's; nothing is written then.
pub fn install(arguments: &InstallArguments) -> Result<(), InstallError> {
    let config_file = absolute(&arguments.config)?;
    let config = Config::read(&config_file)?;
    let mode = fs::metadata(&config_file).map_err(file("reading", &config_file))?.permissions().mode();
    if mode & 0o004 == 0 {
        return Err(InstallError::Unreadable(config_file));
    }
    let program = match &arguments.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(file("finding", Path::new("this program")))?,
    };
    let directory = directory(arguments.root.as_deref());
    let wanted = units(&config, &config_file, &program);
    let mut foreign = NAMES.iter().map(|name| directory.join(name)).filter(|path| is_foreign(path));
    if let Some(path) = foreign.next() {
        return Err(InstallError::Foreign(path));
    }
    fs::create_dir_all(&directory).map_err(file("making", &directory))?;
    for unit in &wanted {
        let path = directory.join(&unit.name);
        if fs::read_to_string(&path).is_ok_and(|text| text == unit.text) {
            continue;
        }
        write(&directory, &path, &unit.text).map_err(file("writing", &path))?;
        say(&format!("wrote {}", path.display()));
    }
    // Of another configuration.
    for name in NAMES.iter().filter(|name| wanted.iter().all(|unit| unit.name != **name)) {
        remove(&directory.join(name))?;
    }
    if arguments.root.is_none() && is_systemd_running() {
        systemctl(&["daemon-reload"])?;
    }
    say(&format!("start every role, now and at each boot: systemctl enable --now {TARGET}"));
    Ok(())
}

/// Stops the units and removes what `install` wrote. The appliance's state stays, and what it made on the host until
/// `gatehouse down`.
///
/// # Errors
/// When a file cannot be removed, or roles do not stop.
pub fn uninstall(arguments: &UninstallArguments) -> Result<(), InstallError> {
    let directory = directory(arguments.root.as_deref());
    let is_live = arguments.root.is_none() && is_systemd_running();
    if is_live && directory.join(TARGET).exists() && !is_foreign(&directory.join(TARGET)) {
        systemctl(&["disable", "--now", TARGET])?;
    }
    for name in NAMES {
        let path = directory.join(name);
        if is_foreign(&path) {
            say(&format!("left {}: it was not written by `gatehouse install`", path.display()));
        } else {
            remove(&path)?;
        }
    }
    if is_live {
        systemctl(&["daemon-reload"])?;
    }
    say("what the appliance made on this host is removed by `gatehouse down`; its state stays");
    Ok(())
}

fn directory(root: Option<&Path>) -> PathBuf {
    root.unwrap_or(Path::new("/")).join("etc/systemd/system")
}

/// Whether there is a file that `install` did not write.
fn is_foreign(path: &Path) -> bool {
    match fs::read(path) {
        Ok(bytes) => !bytes.starts_with(MARK.as_bytes()),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

fn write(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let mut draft = tempfile::NamedTempFile::new_in(directory)?;
    draft.write_all(text.as_bytes())?;
    draft.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    draft.persist(path)?;
    Ok(())
}

fn remove(path: &Path) -> Result<(), InstallError> {
    match fs::remove_file(path) {
        Ok(()) => say(&format!("removed {}", path.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(file("removing", path)(source)),
    }
    Ok(())
}

/// sd_booted(3).
fn is_systemd_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

fn systemctl(words: &[&str]) -> Result<(), InstallError> {
    let failed = || InstallError::Systemctl { words: words.join(" ") };
    let status = Command::new("systemctl").args(words).stdin(Stdio::null()).status().map_err(|_| failed())?;
    if status.success() { Ok(()) } else { Err(failed()) }
}

fn absolute(path: &Path) -> Result<PathBuf, InstallError> {
    std::path::absolute(path).map_err(file("finding", path))
}

fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError::File { doing, path, source }
}
