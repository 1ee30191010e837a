//! nftables, HAProxy and nginx, as whoever wants speed would set them up: on every core, without logs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result};
use gatehouse_tests::lab::netns::Netns;

use super::{
    BALANCER, PORT, TARGETS,
    bed::{DEVICE, log},
};
use crate::process::{Process, finish};

/// The kernel's own NAT: a target by the hash of the client, our address towards it.
pub(super) fn nftables(host: &Netns, directory: &Path) -> Result<Option<Process>> {
    host.set("net/ipv4/ip_forward", "1")?;
    // Client and targets are neighbours, and are not to find out.
    host.set("net/ipv4/conf/all/send_redirects", "0")?;
    host.set(&format!("net/ipv4/conf/{DEVICE}/send_redirects"), "0")?;
    let [first, second] = TARGETS;
    let rules = format!(
        "table ip balance {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    ip daddr {BALANCER} tcp dport {PORT} dnat ip addr . port to jhash ip saddr . tcp sport mod 2 map {{ \
           0 : {} . {}, 1 : {} . {} }}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ip daddr {{ {}, {} }} tcp dport {} snat to {BALANCER}
  }}
}}
",
        first.ip(),
        first.port(),
        second.ip(),
        second.port(),
        first.ip(),
        second.ip(),
        first.port(),
    );
    finish(host.command("nft").arg("-f").arg(written(directory, "nft.rules", &rules)?))?;
    Ok(None)
}

/// HAProxy in TCP mode: by default it has a thread for each core.
pub(super) fn haproxy(host: &Netns, directory: &Path) -> Result<Option<Process>> {
    let [first, second] = TARGETS;
    let config = format!(
        "global
  maxconn 4096
defaults
  mode tcp
  timeout client 60s
  timeout server 60s
  timeout connect 10s
frontend in
  bind {BALANCER}:{PORT}
  default_backend targets
backend targets
  balance roundrobin
  server one {first}
  server two {second}
"
    );
    let file = written(directory, "haproxy.cfg", &config)?;
    start(host.command("haproxy").arg("-db").arg("-f").arg(file), directory)
}

/// nginx's stream module, which Debian packs apart.
pub(super) fn nginx(host: &Netns, directory: &Path) -> Result<Option<Process>> {
    let [first, second] = TARGETS;
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off; user root; worker_processes auto; pid {dir}/nginx.pid; error_log stderr;
events {{ worker_connections 4096; }}
stream {{
  access_log off;
  upstream targets {{ server {first}; server {second}; }}
  server {{ listen {BALANCER}:{PORT} reuseport backlog=4096; proxy_pass targets; }}
}}
",
        dir = directory.display()
    );
    let file = written(directory, "nginx.conf", &config)?;
    start(host.command("nginx").args(["-e", "stderr", "-c"]).arg(file), directory)
}

fn start(command: &mut Command, directory: &Path) -> Result<Option<Process>> {
    Process::start_tree(command, &log(directory)).map(Some)
}

fn written(directory: &Path, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = directory.join(name);
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}
