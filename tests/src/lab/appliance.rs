//! The appliance: `gatehouse run` as a child, until dropped; `gatehouse deploy` as its client.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    name::process_file,
    netns::{Netns, command_in},
    ready::Control,
    wait::Wait,
};

/// A running appliance. Dropped, it is asked to stop, and killed if it does not.
pub struct Appliance {
    binary: PathBuf,
    /// The network namespace that is its host; none is this machine's own.
    host: Option<String>,
    child: Child,
    log: PathBuf,
}

impl Appliance {
    /// Starts every role; returns at once.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(binary: &Path, boot_file: &Path, directory: &Path) -> Result<Self> {
        Self::start_on(None, binary, boot_file, directory)
    }

    /// Starts every role in a network namespace that stands for a host; returns at once.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_on(host: Option<&Netns>, binary: &Path, boot_file: &Path, directory: &Path) -> Result<Self> {
        let host = host.map(|host| host.name().to_owned());
        let log = directory.join("gatehouse.log");
        let file = fs::File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("writing {}", log.display()))?;
        // Ends with the lab's process, however that ends.
        let child = command(host.as_deref(), "setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(binary)
            .args(["run", "--config"])
            .arg(boot_file)
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("sharing the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let recorded = process_file(directory);
        fs::write(&recorded, format!("{}\n", child.id()))
            .with_context(|| format!("writing {}", recorded.display()))?;
        Ok(Self { binary: binary.to_owned(), host, child, log })
    }

    /// Process id of the supervisor.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its end, if it has ended.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("watching the appliance")
    }

    /// Waits until control serves, and returns how to reach it.
    ///
    /// # Errors
    /// When the appliance ends or does not serve in time, with its log.
    pub fn wait_until_control_serves(&mut self, ready_file: &Path, wait: &Wait) -> Result<Control> {
        let child = &mut self.child;
        let served = wait.until("control that serves", START, || {
            if let Some(status) = child.try_wait().context("watching the appliance")? {
                bail!("the appliance ended: {status}");
            }
            match fs::read(ready_file) {
                Ok(text) => {
                    Ok(Some(serde_json::from_slice(&text).context("reading the appliance's ready file")?))
                }
                Err(_) => Ok(None),
            }
        });
        served.with_context(|| self.log_tail())
    }

    /// Deploys a template and waits until its stack stands; returns the stack's outputs.
    ///
    /// # Errors
    /// When the stack fails, with what `gatehouse deploy` said and the appliance's log.
    pub fn deploy(
        &self,
        template: &Path,
        boot_file: &Path,
        wait: &Wait,
        progress: &dyn Fn(&str),
    ) -> Result<BTreeMap<String, String>> {
        let mut deploy = self
            .gatehouse()
            .args(["deploy", "--config"])
            .arg(boot_file)
            .arg(template)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        let said = deploy.stdout.take().context("reading what deploy says")?;
        let complained = deploy.stderr.take().context("reading what deploy says")?;
        let complaints = thread::spawn(move || lines(complained).collect::<Vec<_>>());
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || lines(said).try_for_each(|line| sender.send(line)));
        let mut outputs = BTreeMap::new();
        let mut hear = |line: String| {
            progress(&line);
            if let Some((key, value)) = line.split_once(" = ") {
                outputs.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        };
        let ended = wait.until("end of the deployment", DEPLOY, || {
            receiver.try_iter().for_each(&mut hear);
            Ok(deploy.try_wait()?)
        });
        if ended.is_err() {
            let _ = deploy.kill();
            let _ = deploy.wait();
        }
        receiver.iter().for_each(&mut hear);
        let complaints = complaints.join().unwrap_or_default().join("\n");
        let status = ended.with_context(|| self.log_tail())?;
        ensure!(
            status.success(),
            "deploying {}: {status}\n{complaints}\n{}",
            template.display(),
            self.log_tail()
        );
        Ok(outputs)
    }

    /// Asks the appliance to stop and waits until it has.
    ///
    /// # Errors
    /// When it does not within what its roles allow themselves; it is killed then.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.try_wait().context("watching the appliance")?.is_some() {
            return Ok(());
        }
        let id = Pid::from_raw(i32::try_from(self.child.id()).context("naming the appliance's process")?);
        kill(id, Signal::SIGTERM).context("stopping the appliance")?;
        Wait::default().end_of("the appliance", STOP, &mut self.child).map(|_| ())
    }

    /// Ends the appliance without a word.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing the appliance")?;
        self.child.wait().context("killing the appliance")?;
        Ok(())
    }

    /// Runs `gatehouse down`: ends the appliance and removes what it made.
    ///
    /// # Errors
    /// With what it said, when something would not go.
    pub fn down(&mut self, boot_file: &Path) -> Result<()> {
        let output = self.gatehouse().args(["down", "--config"]).arg(boot_file).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("starting {}", self.binary.display()))?;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "gatehouse down: {}: {said}", output.status);
        Wait::default().end_of("the appliance", STOP, &mut self.child).map(|_| ())
    }

    /// The program, on the appliance's host.
    fn gatehouse(&self) -> Command {
        command(self.host.as_deref(), &self.binary)
    }

    /// Process ids of a role: the supervisor's children that it started as such.
    pub fn role(&self, role: &str) -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        processes
            .filter(|id| {
                let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
                let parent =
                    stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
                let line = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
                parent == Some(self.child.id()) && line.split('\0').nth(1) == Some(role)
            })
            .collect()
    }

    /// Sends a signal to every process of a role, and answers how many there were.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, role: &str, signal: Signal) -> Result<usize> {
        let processes = self.role(role);
        for id in &processes {
            let id = Pid::from_raw(i32::try_from(*id).context("naming a role's process")?);
            kill(id, signal).with_context(|| format!("signalling {role}"))?;
        }
        Ok(processes.len())
    }

    /// Everything the appliance logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The end of the log, for an error.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL);
        format!("the appliance logged last:\n{}", lines.get(from..).unwrap_or_default().join("\n"))
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.kill();
        }
    }
}

/// The `gatehouse` to run: `$GATEHOUSE_BIN`, else the one that was built beside the running program.
///
/// # Errors
/// When there is none.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("GATEHOUSE_BIN") {
        return Ok(path.into());
    }
    let own = env::current_exe().context("finding the running program")?;
    // Tests run in a folder below the one that binaries are put in.
    let beside =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("gatehouse")).find(|path| path.is_file());
    beside.context(
        "there is no gatehouse beside this program: build it (`cargo build`), or name it in GATEHOUSE_BIN",
    )
}

/// Puts the program into the lab's directory: where it was built, tasks may not be allowed to look, being nobody.
///
/// # Errors
/// When it can be neither linked nor copied.
pub fn install(binary: &Path, directory: &Path) -> Result<PathBuf> {
    let installed = directory.join("gatehouse");
    fs::hard_link(binary, &installed)
        .or_else(|_| fs::copy(binary, &installed).map(|_| ()))
        .with_context(|| format!("copying {} to {}", binary.display(), installed.display()))?;
    Ok(installed)
}

fn command(host: Option<&str>, program: impl AsRef<OsStr>) -> Command {
    match host {
        Some(host) => command_in(host, program),
        None => Command::new(program),
    }
}

fn lines(from: impl std::io::Read) -> impl Iterator<Item = String> {
    BufReader::new(from).lines().map_while(Result::ok)
}

/// From start to control that serves: keys, state, certificates, on a slow machine.
const START: Duration = Duration::from_secs(30);
/// A stack of some thirty resources, with its tasks running.
const DEPLOY: Duration = Duration::from_secs(150);
/// Longer than every role's own limit, one after the other.
const STOP: Duration = Duration::from_secs(60);
/// Lines of log that an error shows.
const TAIL: usize = 40;
