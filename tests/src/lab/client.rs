//! curl in the client's namespace, where API names resolve and the front door's CA is the only one trusted.

use std::{
    fmt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::netns::Netns;

/// The client's side of a lab.
pub struct Client<'a> {
    namespace: &'a Netns,
    ca_file: &'a Path,
}

/// What a request came back with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status; 0 if there was no answer.
    pub status: u16,
    /// Status line and headers as they came.
    pub head: String,
    /// The body; without an answer, what curl said.
    pub body: String,
}

impl<'a> Client<'a> {
    pub(super) fn new(namespace: &'a Netns, ca_file: &'a Path) -> Self {
        Self { namespace, ca_file }
    }

    /// GETs a URL.
    ///
    /// # Errors
    /// When curl cannot be started. That nobody answers is an answer: status 0.
    pub fn fetch(&self, url: &str) -> Result<Answer> {
        self.request(&[url])
    }

    /// Runs curl with these arguments.
    ///
    /// # Errors
    /// When curl cannot be started. That nobody answers is an answer: status 0.
    pub fn request(&self, arguments: &[&str]) -> Result<Answer> {
        let output = self
            .command("curl")
            .args(["--silent", "--show-error", "--include", "--max-time", LIMIT, "--cacert"])
            .arg(self.ca_file)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("starting curl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() || text.is_empty() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Ok(Answer { status: 0, head: String::new(), body: said });
        }
        Ok(Answer::of(&text))
    }

    /// A program on the client's machine, with its hosts file in place.
    pub fn command(&self, program: &str) -> Command {
        command(self.namespace, program)
    }
}

impl Answer {
    fn of(text: &str) -> Self {
        let mut rest = text;
        loop {
            let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
            let status = head.split_whitespace().nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            // Interim answers come before the one that counts.
            if (100..200).contains(&status) && !body.is_empty() {
                rest = body;
                continue;
            }
            return Self { status, head: head.to_owned(), body: body.to_owned() };
        }
    }

    /// A header's value, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status, self.body.trim())
    }
}

/// The host in a URL.
pub fn host_of(url: &str) -> Option<&str> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(authority.split(':').next().unwrap_or(authority)).filter(|host| !host.is_empty())
}

/// `ip netns exec`, because it lays the namespace's own hosts file over /etc/hosts.
pub(super) fn command(namespace: &Netns, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace.name(), program]);
    command
}

/// Seconds; longer than any integration's own limit.
const LIMIT: &str = "35";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_head_and_body() {
        let answer =
            Answer::of("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nServer: x\r\n\r\n{\"a\":1}");
        assert_eq!((answer.status, answer.body.as_str()), (404, "{\"a\":1}"));
        assert_eq!(answer.header("server"), Some("x"));
        assert_eq!(answer.header("absent"), None);
    }

    #[test]
    fn hosts_are_found_in_urls() {
        assert_eq!(host_of("https://a.example:8443/b?c"), Some("a.example"));
        assert_eq!(host_of("https://a.example"), Some("a.example"));
        assert_eq!(host_of("a.example"), None);
    }
}
