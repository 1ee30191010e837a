//! What the outside cannot reach: private addresses from anywhere, and anything without the link.

use std::{collections::BTreeSet, thread};

use gatehouse_tests::lab::{Lab, netns::command_in};
use nix::sys::signal::Signal;

use super::deployed;

#[test]
fn no_private_address_can_be_connected_to_from_outside_even_by_who_knows_the_way() {
    let lab = deployed();
    let namespaces = lab.ready().namespaces;
    let vpc = namespaces.vpc.clone().unwrap();
    let link = namespaces.link.clone().unwrap();
    let edge = addresses(&vpc).into_iter().find(|address| address.starts_with("192.0.2.")).unwrap();
    lab.internet().router().ip(&format!("route add 10.0.0.0/8 via {edge}")).unwrap();
    let private: BTreeSet<String> = [&vpc, &link, namespaces.node.as_ref().unwrap()]
        .into_iter()
        .chain(&namespaces.instances)
        .flat_map(|namespace| addresses(namespace))
        .collect();
    let urls: Vec<String> = private
        .iter()
        .flat_map(|address| {
            ports(&lab, address).into_iter().map(move |port| format!("http://{address}:{port}/"))
        })
        .collect();
    let reached = |namespace: &String| -> Vec<&String> {
        thread::scope(|scope| {
            let tries: Vec<_> =
                urls.iter().map(|url| (url, scope.spawn(|| connects(namespace, url)))).collect();
            tries.into_iter().filter_map(|(url, attempt)| attempt.join().unwrap().then_some(url)).collect()
        })
    };
    for outside in [&namespaces.client, &namespaces.gateway, &namespaces.internet] {
        assert_eq!(reached(outside), Vec::<&String>::new(), "{outside}");
    }
    let open = reached(&link);
    assert!(open.len() >= 4, "of {urls:?} only {open:?} are open from inside");
}

#[test]
fn without_the_link_no_integration_answers_and_with_it_again_all_do() {
    let mut lab = deployed();
    let urls: Vec<String> = lab.urls().values().cloned().collect();
    assert_eq!(lab.appliance().signal("link", Signal::SIGSTOP).unwrap(), 1);
    for url in &urls {
        let answer = lab.client().request(&["--max-time", "3", url]).unwrap();
        assert_ne!(answer.status, 200, "{url} answered with its link stopped: {answer}");
    }
    lab.appliance().signal("link", Signal::SIGCONT).unwrap();
    for url in &urls {
        lab.serves(url).unwrap_or_else(|error| panic!("{error:?}"));
    }
    // And a link that died comes back by itself.
    lab.appliance().signal("link", Signal::SIGKILL).unwrap();
    for url in &urls {
        lab.serves(url).unwrap_or_else(|error| panic!("{error:?}"));
    }
}

fn addresses(namespace: &str) -> Vec<String> {
    let output = command_in(namespace, "ip").args(["-oneline", "-4", "address", "show"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let second = |line: &str| line.split("inet ").nth(1)?.split('/').next().map(str::to_owned);
    text.lines().filter_map(second).filter(|address| !address.starts_with("127.")).collect()
}

/// Ports that somebody listens on wherever the address lives, and one that nobody does.
fn ports(lab: &Lab, address: &str) -> BTreeSet<u16> {
    let namespaces = lab.ready().namespaces;
    let inside = namespaces.instances.iter().chain(&namespaces.node).chain(&namespaces.link);
    let mut ports = BTreeSet::from([80, 81]);
    for namespace in inside.filter(|namespace| addresses(namespace).iter().any(|own| own == address)) {
        let output = command_in(namespace, "ss").args(["-Htln"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let local = |line: &str| line.split_whitespace().nth(3)?.rsplit(':').next()?.parse::<u16>().ok();
        ports.extend(text.lines().filter_map(local));
    }
    ports
}

fn connects(namespace: &str, url: &str) -> bool {
    // 7 is no connection, 28 no answer in time; whatever else happened, happened on a connection.
    let curl = command_in(namespace, "curl")
        .args(["-s", "-o", "/dev/null", "--connect-timeout", "1", "-m", "2", url])
        .status();
    !matches!(curl.unwrap().code(), Some(7 | 28))
}
