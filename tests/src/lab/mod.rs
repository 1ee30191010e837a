//! Hosts made of network namespaces, an appliance between them, clients outside.
//!
//! Everything a lab makes carries the lab's name, which carries the process id: labs never meet, a guard removes what
//! one made, and what a killed one left is removed when the next lab of any process starts.

/// The name that everything of one lab carries, and what is left of labs that were killed.
pub mod name;
/// A network namespace that the lab makes itself, and programs started inside it.
pub mod netns;
/// boto3, driven line by line.
pub mod aws;
/// Waiting for an event with a deadline, and for nobody who wants to leave.
pub mod wait;
/// The internet between a client, the gateway's machine and the VPCs.
pub mod internet;
/// The boot configuration that the appliance is started with.
pub mod boot;
/// The appliance: `gatehouse run` as a child, until dropped.
pub mod appliance;
/// What the outside needs to know to drive a running lab.
pub mod ready;
/// curl in the client's namespace.
pub mod client;
/// wrk, and what it measured.
pub mod load;
/// Processor time by role.
pub mod cpu;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    sync::atomic::AtomicBool,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use appliance::Appliance;
use aws::Aws;
use boot::Boot;
use client::Client;
use cpu::CpuByRole;
use internet::Internet;
use load::Load;
use name::Name;
use ready::{Control, Ready};
use wait::Wait;

/// How a lab is started.
#[derive(Clone, Default)]
pub struct Options {
    /// The `gatehouse` to run; by default `$GATEHOUSE_BIN`, else the one beside the running test.
    pub binary: Option<PathBuf>,
    /// Where control is to listen on loopback; by default any free port.
    pub control_port: Option<u16>,
    /// What the appliance logs: a tracing filter; by default `info`.
    pub log_filter: Option<String>,
    /// More images for tasks, as lines of the boot configuration's table of them.
    pub more_images: String,
    /// More of the boot configuration, TOML, after the lab's own.
    pub more_boot: String,
    /// Set by whoever wants everything to stop soon.
    pub stop: Option<Arc<AtomicBool>>,
}

/// A client, an internet, a gateway's machine, and an appliance at work between them.
///
/// Dropped, it ends the appliance and removes everything that carries its name.
pub struct Lab {
    // In the order in which they go: the appliance first, the name with all that is left last.
    appliance: Appliance,
    internet: Internet,
    control: Control,
    urls: BTreeMap<String, String>,
    boot_file: PathBuf,
    wait: Wait,
    name: Guard,
}

/// Removes everything that carries a name.
struct Guard(Name);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.remove_everything();
    }
}

impl Lab {
    /// Makes the namespaces and starts the appliance; returns once control serves.
    ///
    /// # Errors
    /// When this is not root, a namespace cannot be made, or the appliance does not serve in time; its log is in the error.
    pub fn start(options: &Options) -> Result<Self> {
        let name = Guard(Name::fresh());
        let wait = Wait::new(options.stop.clone());
        let directory = name.0.directory();
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let internet = Internet::new(&name.0)?;
        let binary = options.binary.clone().map_or_else(appliance::binary, Ok)?;
        let binary = appliance::install(&binary, &directory)?;
        let boot = Boot {
            name: &name.0,
            control_port: options.control_port.map_or_else(boot::free_port, Ok)?,
            log_filter: options.log_filter.as_deref().unwrap_or("info"),
            binary: &binary,
            more_images: &options.more_images,
            more: &options.more_boot,
        };
        let boot_file = boot.write(&internet)?;
        let mut appliance = Appliance::start(&binary, &boot_file, &directory)?;
        let control = appliance.wait_until_control_serves(&directory.join(boot::READY_FILE), &wait)?;
        Ok(Self { appliance, internet, control, urls: BTreeMap::new(), boot_file, wait, name })
    }

    /// The name that everything of this lab carries.
    pub fn name(&self) -> &Name {
        &self.name.0
    }

    /// Where the lab keeps its files.
    pub fn directory(&self) -> PathBuf {
        self.name.0.directory()
    }

    /// How to reach control.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// boto3, as control's client. Takes half a second to start.
    ///
    /// # Errors
    /// When Python or the credentials are not there.
    pub fn aws(&self) -> Result<Aws> {
        Aws::start(&self.control.aws()?)
    }

    /// The hosts around the appliance.
    pub fn internet(&self) -> &Internet {
        &self.internet
    }

    /// The running appliance.
    pub fn appliance(&mut self) -> &mut Appliance {
        &mut self.appliance
    }

    /// Starts the appliance again, after it was stopped or killed; returns once control serves.
    ///
    /// # Errors
    /// When it does not serve in time; its log is in the error.
    pub fn start_again(&mut self) -> Result<()> {
        let ready_file = self.directory().join(boot::READY_FILE);
        // What a killed one left must not be taken for the new one's.
        let _ = fs::remove_file(&ready_file);
        let directory = self.directory();
        self.appliance = Appliance::start(&directory.join("gatehouse"), &self.boot_file, &directory)?;
        self.control = self.appliance.wait_until_control_serves(&ready_file, &self.wait)?;
        Ok(())
    }

    /// Ends the appliance and removes what it made, as an operator does: `gatehouse down`.
    ///
    /// # Errors
    /// With what it said, when something would not go.
    pub fn down(&mut self) -> Result<()> {
        self.appliance.down(&self.boot_file)
    }

    /// The boot configuration that the appliance runs with.
    pub fn boot_file(&self) -> &Path {
        &self.boot_file
    }

    /// The client's side: its own namespace, where API names resolve.
    pub fn client(&self) -> Client<'_> {
        Client::new(self.internet.client(), &self.control.ca_file)
    }

    /// URLs of the deployed integrations.
    pub fn urls(&self) -> &BTreeMap<String, String> {
        &self.urls
    }

    /// Deploys a template with `gatehouse deploy`, tells `progress` each line, and waits until every URL among the
    /// stack's outputs answers.
    ///
    /// # Errors
    /// When the stack fails, or a URL does not answer 200 in time.
    pub fn deploy(&mut self, template: &Path, progress: &dyn Fn(&str)) -> Result<()> {
        let outputs = self.appliance.deploy(template, &self.boot_file, &self.wait, progress)?;
        let urls: BTreeMap<String, String> = outputs
            .into_iter()
            .filter(|(_, value)| value.starts_with("https://"))
            .map(|(key, value)| (integration(&key), value))
            .collect();
        ensure!(!urls.is_empty(), "{} has no output that is a URL", template.display());
        self.internet.name_hosts(urls.values().filter_map(|url| client::host_of(url)))?;
        for (integration, url) in &urls {
            progress(&format!("waiting for {integration} at {url}"));
            self.serves(url)?;
        }
        self.urls.extend(urls);
        Ok(())
    }

    /// Waits until a URL answers 200.
    ///
    /// # Errors
    /// When it does not in time, with what it answered last and the appliance's log.
    pub fn serves(&self, url: &str) -> Result<()> {
        let mut last = String::new();
        let answered = self.wait.until(&format!("200 from {url}"), SERVING, || {
            let answer = self.client().fetch(url)?;
            last = answer.to_string();
            Ok((answer.status == 200).then_some(()))
        });
        answered.with_context(|| format!("it answered {last}\n{}", self.appliance.log_tail()))
    }

    /// What the outside needs to know, as the ready file says it.
    pub fn ready(&self) -> Ready {
        Ready::new(&self.control, self.name(), &self.internet, &self.urls)
    }

    /// Drives a URL with wrk for some seconds, and measures what it cost each role.
    ///
    /// # Errors
    /// When wrk cannot be run, or says what cannot be understood.
    pub fn load(&self, url: &str, seconds: u64) -> Result<(Load, CpuByRole)> {
        let before = CpuByRole::now(self);
        let load = load::run(&mut self.client().command("wrk"), url, load::CONNECTIONS, seconds, &self.wait)?;
        Ok((load, CpuByRole::now(self).since(&before)))
    }
}

/// The integration that a stack's output is about: `AlbUrl` is `alb`.
fn integration(output: &str) -> String {
    let text = output.to_lowercase();
    let known = [("alb", "alb"), ("nlb", "nlb"), ("map", "cloudmap"), ("discovery", "cloudmap")];
    known
        .iter()
        .find(|(part, _)| text.contains(part))
        .map_or_else(|| text.trim_end_matches("url").to_owned(), |(_, name)| (*name).to_owned())
}

/// From the stack's completion to the first answer: namespaces, tasks, and as many health checks as make a target
/// healthy, on a slow machine.
const SERVING: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_after_their_integration() {
        assert_eq!(integration("AlbUrl"), "alb");
        assert_eq!(integration("NLBInvokeURL"), "nlb");
        assert_eq!(integration("CloudMapUrl"), "cloudmap");
        assert_eq!(integration("OtherUrl"), "other");
    }
}
