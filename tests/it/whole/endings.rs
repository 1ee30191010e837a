//! How it ends, and begins again: stopped, killed, taken down.

use nix::sys::signal::Signal;

use super::deployed;

#[test]
fn what_was_stopped_or_killed_starts_again_and_down_leaves_nothing_of_it() {
    let mut lab = deployed();
    let urls: Vec<String> = lab.urls().values().cloned().collect();
    lab.appliance().stop().unwrap();
    assert_ne!(lab.client().fetch(&urls[0]).unwrap().status, 200, "it answers after it was stopped");
    lab.start_again().unwrap_or_else(|error| panic!("{error:?}"));
    for url in &urls {
        lab.serves(url).unwrap_or_else(|error| panic!("after a stop: {error:?}"));
    }
    lab.appliance().kill().unwrap();
    lab.start_again().unwrap_or_else(|error| panic!("{error:?}"));
    for url in &urls {
        lab.serves(url).unwrap_or_else(|error| panic!("after a kill: {error:?}"));
    }
    for role in ["control", "host", "gateway", "node", "link"] {
        assert_eq!(lab.appliance().signal(role, Signal::SIGKILL).unwrap(), 1, "{role}");
        for url in &urls {
            lab.serves(url).unwrap_or_else(|error| panic!("after {role} was killed: {error:?}"));
        }
    }
    lab.down().unwrap();
    let mut remains = lab.name().remains();
    remains.sort();
    let expected = [lab.internet().client(), lab.internet().gateway(), lab.internet().router()];
    let mut expected: Vec<String> = expected.iter().map(|namespace| namespace.name().to_owned()).collect();
    expected.push(lab.directory().display().to_string());
    expected.sort();
    assert_eq!(remains, expected);
    let name = lab.name().clone();
    drop(lab);
    assert_eq!(name.remains(), [""; 0]);
}
