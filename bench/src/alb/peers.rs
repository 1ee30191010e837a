//! nginx and HAProxy, as whoever wants speed would set them up.

use std::{fs, net::SocketAddr, process::Command};

use anyhow::Result;

use super::proxy::Proxy;

/// One nginx process without a master.
pub(super) fn nginx(address: SocketAddr, target: SocketAddr) -> Result<Proxy> {
    let folder = tempfile::tempdir()?;
    let path = folder.path();
    let config = format!(
        "daemon off; master_process off; worker_processes 1; pid {dir}/pid; error_log /dev/null;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; server_tokens off;
  client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  upstream target {{ server {target}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {address} backlog=4096;
    location / {{
      proxy_pass http://target; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Port $server_port;
      proxy_set_header X-Amzn-Trace-Id Root=1-$request_id;
    }}
  }}
}}
",
        dir = path.display()
    );
    let file = path.join("nginx.conf");
    fs::write(&file, config)?;
    let mut command = Command::new("nginx");
    Proxy::start("nginx", address, command.arg("-c").arg(&file).arg("-p").arg(path), Some(folder))
}

/// One HAProxy process with one thread.
pub(super) fn haproxy(address: SocketAddr, target: SocketAddr) -> Result<Proxy> {
    let folder = tempfile::tempdir()?;
    let config = format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 10s
  option http-keep-alive
  http-reuse always
frontend in
  bind {address}
  option forwardfor
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Port %[dst_port]
  http-request set-header X-Amzn-Trace-Id Root=1-%[uuid()]
  default_backend target
backend target
  server target {target}
"
    );
    let file = folder.path().join("haproxy.cfg");
    fs::write(&file, config)?;
    let mut command = Command::new("haproxy");
    Proxy::start("haproxy", address, command.arg("-db").arg("-f").arg(&file), Some(folder))
}
