//! What an operator can see of the NLB's packets: `gatehouse flows`, `explain packet` and `capture` beside a running
//! appliance.

use std::{
    io::Read as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use gatehouse_tests::lab::{Lab, appliance, wait::Wait};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{deployed, door::Door, tasks::nlb_addresses};

fn command(lab: &Lab, words: &[&str]) -> Command {
    let mut command = Command::new(appliance::binary().unwrap());
    command.args(words).arg("-c").arg(lab.boot_file());
    command
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Flows as JSON.
fn flows(lab: &Lab, filter: &[&str]) -> Vec<Value> {
    let output = command(lab, &["flows", "--json"]).args(filter).output().unwrap();
    said(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn flows_are_listed_by_listener_target_client_protocol_state_and_zone() {
    let lab = deployed();
    let mut connection = Door::of(&lab).open(&lab.urls()["nlb"]).unwrap();
    assert_eq!(connection.request("GET", "/", "").unwrap().status, 200);

    // The link's connection stays open for the next request.
    let all = flows(&lab, &[]);
    let flow = all.iter().find(|flow| flow["state"] == "established").unwrap_or_else(|| panic!("{all:#?}"));
    let text = |name: &str| flow[name].as_str().unwrap().to_owned();
    let (listener, client, target) = (text("listener"), text("client"), text("target"));
    let (arn, zone) = (text("listener_arn"), text("zone"));
    assert!(nlb_addresses(&lab.aws().unwrap()).iter().any(|own| listener.starts_with(&own.to_string())));
    assert!(arn.starts_with("arn:aws:elasticloadbalancing:"), "{arn}");

    let address = |end: &str| end.rsplit_once(':').unwrap().0.to_owned();
    let has = |filter: &[&str]| flows(&lab, filter).iter().any(|one| one["client"] == flow["client"]);
    for (name, own, other) in [
        ("--listener", listener.as_str(), "10.9.9.9:80"),
        ("--listener", &arn, "arn:aws:elasticloadbalancing:eu-central-1:0:listener/net/other/1/1"),
        ("--client", &format!("{}/32", address(&client)), "192.0.2.0/24"),
        ("--target", &target, ":1"),
        ("--protocol", "tcp", "udp"),
        ("--state", "established", "closing"),
        ("--zone", &zone, "mars-1a"),
    ] {
        assert!(has(&[name, own]), "{name} {own}: {all:#?}");
        assert!(!has(&[name, other]), "{name} {other}");
    }
    let plain = said(&command(&lab, &["flows", "--listener", &listener]).output().unwrap());
    assert!(plain.contains(&client) && plain.contains("established"), "{plain}");
}

#[test]
fn a_capture_beside_live_traffic_is_a_file_that_ends_when_it_has_enough() {
    let lab = deployed();
    let folder = tempfile::tempdir().unwrap();
    let listener = {
        let addresses = nlb_addresses(&lab.aws().unwrap());
        let mut connection = Door::of(&lab).open(&lab.urls()["nlb"]).unwrap();
        assert_eq!(connection.request("GET", "/", "").unwrap().status, 200);
        let all = flows(&lab, &[]);
        let listener = all[0]["listener"].as_str().unwrap().to_owned();
        assert!(addresses.iter().any(|own| listener.starts_with(&own.to_string())), "{all:#?}");
        listener
    };

    let file = folder.path().join("forwarded.pcapng");
    let mut capture = start(&lab, &file, &["--verdict", "transmit", "--listener", &listener, "--count", "4"]);
    let mut connection = Door::of(&lab).open(&lab.urls()["nlb"]).unwrap();
    let ended = Wait::default().until("end of the capture", Duration::from_secs(20), || {
        connection.request("GET", "/", "")?;
        Ok(capture.try_wait()?)
    });
    let ended = ended.unwrap_or_else(|error| {
        end(&mut capture);
        panic!("{error}: {:?}", flows(&lab, &[]))
    });
    let mut words = String::new();
    capture.stderr.take().unwrap().read_to_string(&mut words).unwrap();
    assert!(ended.success(), "{words}");
    assert!(words.contains("4 packets written"), "{words}");
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(packets(&bytes), 4);

    // Into a pipe, until whoever asks has had enough.
    let mut piped = start(&lab, Path::new("-"), &["--seconds", "600"]);
    let mut out = piped.stdout.take().unwrap();
    let mut head = [0; 32];
    out.read_exact(&mut head).unwrap();
    connection.request("GET", "/", "").unwrap();
    kill(Pid::from_raw(piped.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    let mut rest = Vec::new();
    out.read_to_end(&mut rest).unwrap();
    assert!(end(&mut piped));
    assert!(packets(&[head.as_slice(), &rest].concat()) > 0);

    // What is refused makes no file.
    let none = folder.path().join("none.pcapng");
    for refused in [["--listener", "10.9.9.9:1"], ["--drop-reason", "boredom"], ["--count", "0"]] {
        let output = command(&lab, &["capture"]).arg("-w").arg(&none).args(refused).output().unwrap();
        assert!(!output.status.success());
        assert!(!none.exists(), "{refused:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Captures into a file once it says that it does.
fn start(lab: &Lab, file: &Path, more: &[&str]) -> Child {
    let mut child = command(lab, &["capture"])
        .arg("-w")
        .arg(file)
        .args(more)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    let mut byte = [0];
    let errors = child.stderr.as_mut().unwrap();
    while !said.ends_with(b"Ctrl-C ends it\n") {
        let read = errors.read(&mut byte).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    child
}

/// Waits for its end, whatever that takes; whether it succeeded.
fn end(child: &mut Child) -> bool {
    let ended = Wait::default().end_of("the capture", Duration::from_secs(10), child);
    ended.is_ok_and(|status| status.success())
}

/// Packets in a pcapng file.
fn packets(file: &[u8]) -> usize {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut packets) = (0, 0);
    while at < file.len() {
        packets += usize::from(word(at) == 6);
        at += usize::try_from(word(at + 4)).unwrap();
    }
    assert_eq!(at, file.len(), "a file ends with a whole block");
    packets
}
