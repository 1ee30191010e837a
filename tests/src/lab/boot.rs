//! The boot configuration that the appliance is started with.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    internet::{FIRST_VPC, GATEWAY, Internet, WAN, WAN_ROUTER},
    name::Name,
};

/// What a lab decides; everything else is the appliance's default.
pub struct Boot<'a> {
    /// The appliance's name.
    pub name: &'a Name,
    /// Where control listens on loopback.
    pub control_port: u16,
    /// A tracing filter.
    pub log_filter: &'a str,
    /// The program that tasks of image `gatehouse/whoami` run.
    pub binary: &'a Path,
    /// More images, lines of TOML.
    pub more_images: &'a str,
    /// More TOML.
    pub more: &'a str,
}

impl Boot<'_> {
    /// Writes the file into the lab's directory.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, internet: &Internet) -> Result<PathBuf> {
        let path = self.name.directory().join("gatehouse.toml");
        fs::write(&path, self.text(internet.gateway().name(), internet.router().name()))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }

    fn text(&self, gateway: &str, router: &str) -> String {
        let Self { name, control_port, log_filter, binary, more_images, more } = self;
        let binary = binary.display();
        let directory = name.directory();
        let directory = directory.display();
        format!(
            r#"name = "{name}"
state_dir = "{directory}/state"
run_dir = "{directory}/run"

[control]
listen = "127.0.0.1:{control_port}"

[gateway]
namespace = "{gateway}"
listen = ["{GATEWAY}:443"]
lanes = "{GATEWAY}:8443"

[network]
driver = "virtual"

[network.uplink]
namespace = "{router}"
bridge = "{WAN}"
cidr = "192.0.2.0/24"
first_host = {FIRST_VPC}
router = "{WAN_ROUTER}"

[tasks.images]
"gatehouse/whoami" = ["{binary}", "whoami"]
{more_images}

[log]
filter = "{log_filter}"

{more}
"#
        )
    }
}

/// A loopback port that nobody has. Somebody may take it before control does; then control says so and ends.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr().context("looking for a free port")?.port())
}

/// Where the appliance says that control serves, in the lab's directory.
pub const READY_FILE: &str = "run/ready.json";
