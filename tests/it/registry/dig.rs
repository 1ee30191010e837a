//! dig, and what it said.

use std::process::{Command, Stdio};

/// What dig printed of one answer; without an answer all is empty.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// `NOERROR`, `NXDOMAIN`, ….
    pub(super) status: String,
    /// `qr aa rd`.
    pub(super) flags: String,
    /// `NAME TTL TYPE DATA`, sorted.
    pub(super) answer: Vec<String>,
    pub(super) authority: Vec<String>,
    pub(super) additional: Vec<String>,
    /// All of it.
    pub(super) text: String,
}

impl Said {
    /// The data of the answer's records.
    pub(super) fn data(&self) -> Vec<&str> {
        self.answer.iter().filter_map(|record| record.splitn(4, ' ').nth(3)).collect()
    }
}

/// Runs dig, started by `command`, with these words; it asks once and waits for no longer than a second.
pub(super) fn dig(mut command: Command, words: &str) -> Said {
    let output = command
        .args(["+tries=1", "+time=1", "+nocookie"])
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    read(&String::from_utf8_lossy(&output.stdout))
}

fn read(text: &str) -> Said {
    let mut said = Said { text: text.to_owned(), ..Said::default() };
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix(";; ").and_then(|line| line.strip_suffix(" SECTION:")) {
            section = name;
        } else if line.is_empty() {
            section = "";
        } else if let Some((_, rest)) = line.split_once("status: ") {
            said.status = rest.split(',').next().unwrap_or_default().to_owned();
        } else if let Some(rest) = line.strip_prefix(";; flags: ") {
            said.flags = rest.split(';').next().unwrap_or_default().to_owned();
        } else if !line.starts_with(';') {
            // NAME TTL CLASS TYPE DATA, with any white space between them.
            let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "IN").collect();
            match section {
                "ANSWER" => said.answer.push(words.join(" ")),
                "AUTHORITY" => said.authority.push(words.join(" ")),
                "ADDITIONAL" => said.additional.push(words.join(" ")),
                _ => {}
            }
        }
    }
    said.answer.sort();
    said.additional.sort();
    said
}
