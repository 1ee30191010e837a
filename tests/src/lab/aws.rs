//! boto3 as the tests' client of the control endpoint: a persistent Python child that speaks JSON lines.
//!
//! Every call goes through the real client's signer, serializer and parser. What boto3 raises comes back as code,
//! message and status, so a test says `aws.call("ecs", "CreateCluster", json!({…}))` and checks what AWS's own clients
//! see.

use std::{
    fmt,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

/// Where the endpoint is and who calls it.
#[derive(Debug, Clone)]
pub struct AwsOptions {
    /// `https://127.0.0.1:8443`.
    pub endpoint: String,
    /// The certificate that the client trusts, PEM.
    pub ca_file: PathBuf,
    /// The region that the client signs for.
    pub region: String,
    /// An access key that control accepts.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
    /// A command that the client runs under, such as `nsenter --net=/var/run/netns/NAME`; empty for none.
    pub wrapper: Vec<String>,
}

/// A running boto3. Calls from several threads wait for each other.
pub struct Aws {
    pipes: Mutex<Pipes>,
    child: Mutex<Child>,
}

struct Pipes {
    requests: std::process::ChildStdin,
    answers: Receiver<String>,
}

/// What boto3 raised.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AwsError {
    /// The error's code (`LoadBalancerNotFound`), or the Python exception's name if there was no answer.
    pub code: String,
    /// Its message.
    pub message: String,
    /// The HTTP status; 0 if there was no answer.
    pub status: u16,
}

impl fmt::Display for AwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.status, self.message)
    }
}

impl std::error::Error for AwsError {}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(AwsError),
}

impl Aws {
    /// Starts boto3. Takes half a second, so share one among the tests of an endpoint.
    ///
    /// # Errors
    /// When Python is not there; `cargo xtask setup` brings it.
    pub fn start(options: &AwsOptions) -> Result<Self> {
        let python = python();
        let mut words = options.wrapper.iter().map(Into::into).chain([python.clone().into_os_string()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        let mut child = command
            .args(words)
            .args(["-u", "-c", DRIVER])
            .env("DRIVER_ENDPOINT", &options.endpoint)
            .env("DRIVER_CA_FILE", &options.ca_file)
            .env("DRIVER_REGION", &options.region)
            .env("DRIVER_ACCESS_KEY_ID", &options.access_key_id)
            .env("DRIVER_SECRET_ACCESS_KEY", &options.secret_access_key)
            // The machine's own AWS settings are none of the tests' business.
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env_remove("HTTPS_PROXY")
            .env_remove("https_proxy")
            .env_remove("AWS_ENDPOINT_URL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}; `cargo xtask setup` brings it", python.display()))?;
        let requests = child.stdin.take().context("no pipe to boto3")?;
        let lines = BufReader::new(child.stdout.take().context("no pipe from boto3")?).lines();
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { pipes: Mutex::new(Pipes { requests, answers }), child: Mutex::new(child) })
    }

    /// Calls an operation by its names in AWS's API: `call("elbv2", "DescribeLoadBalancers", json!({}))`.
    /// Bytes are `{"$bytes": "<base64>"}` both ways, times are seconds since the Unix epoch.
    ///
    /// # Errors
    /// What boto3 raised.
    pub fn call(&self, service: &str, operation: &str, params: Value) -> Result<Value, AwsError> {
        self.request(&json!({"service": service, "operation": operation, "params": params}))
    }

    /// Calls an operation as someone else: `who` may hold `access_key_id`, `secret_access_key` and `clock_offset_s`.
    ///
    /// # Errors
    /// What boto3 raised.
    pub fn call_as(
        &self,
        who: Value,
        service: &str,
        operation: &str,
        params: Value,
    ) -> Result<Value, AwsError> {
        self.request(&json!({"service": service, "operation": operation, "params": params, "who": who}))
    }

    /// Sends a request of any form, signed by botocore: `service` (the signing name), `method`, `path`, and optionally
    /// `headers`, `body`, `sign` (`header`, `query`, `no`), `after_signing` (headers to change), `body_after_signing`,
    /// `who`. The answer is `{"status", "headers", "body"}`.
    ///
    /// # Errors
    /// When no answer came.
    pub fn raw(&self, request: Value) -> Result<Value, AwsError> {
        let who = request.get("who").cloned().unwrap_or_else(|| json!({}));
        self.request(&json!({"raw": request, "who": who}))
    }

    fn request(&self, request: &Value) -> Result<Value, AwsError> {
        let mut pipes = self.pipes.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = |message: String| AwsError { code: "DriverFailed".to_owned(), message, status: 0 };
        writeln!(pipes.requests, "{request}").map_err(|error| broken(error.to_string()))?;
        let line = pipes.answers.recv_timeout(ANSWER_TIMEOUT).map_err(|error| broken(error.to_string()))?;
        match serde_json::from_str(&line).map_err(|error| broken(error.to_string()))? {
            Answer::Ok(value) => Ok(value),
            Answer::Error(error) => Err(error),
        }
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The Python that has boto3: `GATEHOUSE_PYTHON`, else the one that `cargo xtask setup` made.
pub fn python() -> PathBuf {
    match std::env::var_os("GATEHOUSE_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/venv/bin/python"),
    }
}

const DRIVER: &str = include_str!("boto3_driver.py");
/// Longer than the client's own read timeout.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);
