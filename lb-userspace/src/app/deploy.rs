//! `gatehouse deploy`: a thin client of the appliance's own CloudFormation API, for those who have no other at hand.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::cli::say;
use crate::config::Config;
use crate::sigv4::{self, AccessKey, SecretKey};

/// How often a stack's progress is asked for.
const POLL: Duration = Duration::from_millis(200);

/// What `gatehouse deploy` is told.
#[derive(Args)]
pub struct Arguments {
    /// The template, YAML or JSON
    template: PathBuf,
    /// Name of the stack; by default the template's file name without its ending
    #[arg(long)]
    stack_name: Option<String>,
    /// A parameter of the template; may be given several times
    #[arg(long = "parameter", value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// Boot configuration of the appliance on this host, which names all that follows and counts more than variables of
    /// the environment
    #[arg(short, long, env = "GATEHOUSE_CONFIG")]
    config: Option<PathBuf>,
    /// The control endpoint, otherwise AWS_ENDPOINT_URL
    #[arg(long)]
    endpoint: Option<String>,
    /// The CA that the endpoint's certificate chains to, PEM; otherwise AWS_CA_BUNDLE
    #[arg(long)]
    ca_file: Option<PathBuf>,
    /// Access keys, in the form of `~/.aws/credentials`; otherwise AWS_SHARED_CREDENTIALS_FILE
    #[arg(long)]
    credentials_file: Option<PathBuf>,
    /// The region, otherwise AWS_REGION
    #[arg(long)]
    region: Option<String>,
    /// Seconds to wait until the stack stands
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// Why a deployment did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DeployError {
    /// Something that must be known is not.
    #[error("{0} is not known; name it, or the appliance's configuration with --config")]
    Missing(&'static str),
    /// A value that cannot be.
    #[error("{0}")]
    Value(String),
    /// A file.
    #[error("reading {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The endpoint cannot be reached or does not speak HTTP over TLS.
    #[error("talking to {endpoint}")]
    Endpoint {
        /// The endpoint.
        endpoint: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The API refused.
    #[error("{code}: {message}")]
    Refused {
        /// AWS's error code.
        code: String,
        /// What it says.
        message: String,
    },
    /// The stack failed.
    #[error("stack is {status}: {reason}")]
    Failed {
        /// Its status.
        status: String,
        /// Why.
        reason: String,
    },
    /// The stack does not stand in time.
    #[error("stack is still {0} after the timeout")]
    Timeout(String),
}

/// Creates the stack, tells its events as they come, and prints its outputs.
///
/// # Errors
/// When the endpoint cannot be reached, refuses, or the stack fails or does not stand in time.
pub async fn deploy(arguments: &Arguments) -> Result<(), DeployError> {
    let client = Client::new(arguments)?;
    let template = read(&arguments.template)?;
    let name = match &arguments.stack_name {
        Some(name) => name.clone(),
        None => {
            arguments.template.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
        }
    };
    let mut form = vec![
        ("Action".to_owned(), "CreateStack".to_owned()),
        ("StackName".to_owned(), name.clone()),
        ("TemplateBody".to_owned(), template),
        ("Capabilities.member.1".to_owned(), "CAPABILITY_NAMED_IAM".to_owned()),
    ];
    for (at, parameter) in arguments.parameters.iter().enumerate() {
        let (key, value) = parameter
            .split_once('=')
            .ok_or_else(|| DeployError::Value(format!("--parameter {parameter}: must be KEY=VALUE")))?;
        form.push((format!("Parameters.member.{}.ParameterKey", at + 1), key.to_owned()));
        form.push((format!("Parameters.member.{}.ParameterValue", at + 1), value.to_owned()));
    }
    client.call(form).await?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(arguments.timeout);
    let mut told = BTreeSet::new();
    loop {
        let events: EventsAnswer = client.ask("DescribeStackEvents", &name).await?;
        for event in events.result.events.members.iter().rev() {
            if told.insert(event.id.clone()) {
                let reason = event.reason.as_deref().map_or(String::new(), |reason| format!("  {reason}"));
                say(&format!(
                    "{:<20} {:<44} {}{reason}",
                    event.status, event.resource_type, event.logical_id
                ));
            }
        }
        let stacks: StacksAnswer = client.ask("DescribeStacks", &name).await?;
        let stack = stacks.result.stacks.members.into_iter().next();
        let Some(stack) = stack else {
            return Err(DeployError::Value(format!("stack {name} is gone")));
        };
        match stack.status.as_str() {
            "CREATE_COMPLETE" => {
                for output in stack.outputs.unwrap_or_default().members {
                    say(&format!("{} = {}", output.key, output.value));
                }
                return Ok(());
            }
            "CREATE_IN_PROGRESS" | "ROLLBACK_IN_PROGRESS" if tokio::time::Instant::now() > deadline => {
                return Err(DeployError::Timeout(stack.status));
            }
            "CREATE_IN_PROGRESS" | "ROLLBACK_IN_PROGRESS" => tokio::time::sleep(POLL).await,
            _ => {
                let reason = stack.reason.unwrap_or_default();
                return Err(DeployError::Failed { status: stack.status, reason });
            }
        }
    }
}

struct Client {
    endpoint: String,
    uri: Uri,
    server: ServerName<'static>,
    address: String,
    connector: TlsConnector,
    key: AccessKey,
    region: String,
}

impl Client {
    fn new(arguments: &Arguments) -> Result<Self, DeployError> {
        let config = match &arguments.config {
            Some(path) => Some(Config::read(path).map_err(|error| DeployError::Value(error.to_string()))?),
            None => None,
        };
        let config = config.as_ref();
        let endpoint = arguments
            .endpoint
            .clone()
            .or_else(|| config.map(|config| format!("https://{}", config.control.listen)))
            .or_else(|| variable("AWS_ENDPOINT_URL"))
            .ok_or(DeployError::Missing("the endpoint"))?;
        let ca_file = arguments
            .ca_file
            .clone()
            .or_else(|| config.map(Config::ca_file))
            .or_else(|| variable("AWS_CA_BUNDLE").map(PathBuf::from))
            .ok_or(DeployError::Missing("the CA file"))?;
        let credentials = arguments
            .credentials_file
            .clone()
            .or_else(|| config.map(Config::credentials_file))
            .or_else(|| variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from))
            .ok_or(DeployError::Missing("the credentials file"))?;
        let region = arguments
            .region
            .clone()
            .or_else(|| config.map(|config| config.region.clone()))
            .or_else(|| variable("AWS_REGION"))
            .ok_or(DeployError::Missing("the region"))?;
        let wrong = |problem: &str| DeployError::Value(format!("endpoint {endpoint}: {problem}"));
        let uri: Uri = endpoint.parse().map_err(|_| wrong("is not a URL"))?;
        let host = uri.host().ok_or_else(|| wrong("names no host"))?.trim_matches(['[', ']']).to_owned();
        let server = ServerName::try_from(host.clone()).map_err(|_| wrong("names no host"))?;
        let address = format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
        Ok(Self {
            connector: connector(&ca_file)?,
            key: access_key(&read(&credentials)?).ok_or_else(|| {
                DeployError::Value(format!("{} holds no access key", credentials.display()))
            })?,
            endpoint,
            uri,
            server,
            address,
            region,
        })
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, action: &str, stack: &str) -> Result<T, DeployError> {
        let form = vec![("Action".to_owned(), action.to_owned()), ("StackName".to_owned(), stack.to_owned())];
        let text = self.call(form).await?;
        quick_xml::de::from_str(&text).map_err(|error| self.failed(error))
    }

    async fn call(&self, mut form: Vec<(String, String)>) -> Result<String, DeployError> {
        form.push(("Version".to_owned(), "2010-05-15".to_owned()));
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let body: Vec<_> =
            form.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
        let body = body.join("&");
        let request = Request::post("/")
            .header("content-type", "application/x-www-form-urlencoded; charset=utf-8")
            .header("host", self.uri.authority().map_or("", |authority| authority.as_str()));
        let (mut parts, ()) = request.body(()).map_err(|error| self.failed(error))?.into_parts();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        sigv4::sign(&mut parts, body.as_bytes(), &self.key, &self.region, "cloudformation", now)
            .map_err(|error| self.failed(error))?;
        let stream = TcpStream::connect(&self.address).await.map_err(|error| self.failed(error))?;
        let stream =
            self.connector.connect(self.server.clone(), stream).await.map_err(|error| self.failed(error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.failed(error))?;
        let connection = tokio::spawn(connection);
        let request = Request::from_parts(parts, Full::new(Bytes::from(body)));
        let response = sender.send_request(request).await.map_err(|error| self.failed(error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| self.failed(error))?.to_bytes();
        connection.abort();
        let text = String::from_utf8_lossy(&body).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        let answer: ErrorAnswer = quick_xml::de::from_str(&text).map_err(|error| self.failed(error))?;
        Err(DeployError::Refused { code: answer.error.code, message: answer.error.message })
    }

    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> DeployError {
        DeployError::Endpoint { endpoint: self.endpoint.clone(), source: Box::new(source) }
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn connector(ca_file: &Path) -> Result<TlsConnector, DeployError> {
    let wrong = |problem: String| DeployError::Value(format!("{}: {problem}", ca_file.display()));
    let pem = read(ca_file)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// The first access key of a credentials file.
fn access_key(text: &str) -> Option<AccessKey> {
    let value = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| key.trim() == name)
            .map(|(_, value)| value.trim().to_owned())
    };
    Some(AccessKey { id: value("aws_access_key_id")?, secret: SecretKey(value("aws_secret_access_key")?) })
}

fn read(path: &Path) -> Result<String, DeployError> {
    std::fs::read_to_string(path).map_err(|source| DeployError::File { path: path.to_owned(), source })
}

#[derive(Deserialize)]
struct ErrorAnswer {
    #[serde(rename = "Error")]
    error: ErrorBody,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ErrorBody {
    code: String,
    message: String,
}

#[derive(Deserialize)]
struct StacksAnswer {
    #[serde(rename = "DescribeStacksResult")]
    result: StacksResult,
}

#[derive(Deserialize)]
struct StacksResult {
    #[serde(rename = "Stacks")]
    stacks: Members<StackBody>,
}

#[derive(Deserialize)]
struct StackBody {
    #[serde(rename = "StackStatus")]
    status: String,
    #[serde(rename = "StackStatusReason")]
    reason: Option<String>,
    #[serde(rename = "Outputs")]
    outputs: Option<Members<OutputBody>>,
}

#[derive(Deserialize)]
struct OutputBody {
    #[serde(rename = "OutputKey")]
    key: String,
    #[serde(rename = "OutputValue")]
    value: String,
}

#[derive(Deserialize)]
struct EventsAnswer {
    #[serde(rename = "DescribeStackEventsResult")]
    result: EventsResult,
}

#[derive(Deserialize)]
struct EventsResult {
    #[serde(rename = "StackEvents")]
    events: Members<EventBody>,
}

#[derive(Deserialize)]
struct EventBody {
    #[serde(rename = "EventId")]
    id: String,
    #[serde(rename = "LogicalResourceId")]
    logical_id: String,
    #[serde(rename = "ResourceType")]
    resource_type: String,
    #[serde(rename = "ResourceStatus")]
    status: String,
    #[serde(rename = "ResourceStatusReason")]
    reason: Option<String>,
}

/// A list in query XML: `<member>` elements.
#[derive(Deserialize)]
struct Members<T> {
    #[serde(rename = "member", default = "Vec::new")]
    members: Vec<T>,
}

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self { members: Vec::new() }
    }
}
