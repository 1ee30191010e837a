//! The lab itself: it starts, stands beside another, and leaves nothing behind.

use std::process::Command;

use gatehouse_tests::lab::{Lab, Options, netns::command_in};

fn lab() -> Lab {
    Lab::start(&Options::default()).unwrap_or_else(|error| panic!("{error:?}"))
}

#[test]
fn two_labs_stand_side_by_side_and_leave_nothing() {
    let (mut one, two) = (lab(), lab());
    assert_ne!(one.control().endpoint, two.control().endpoint);
    for lab in [&one, &two] {
        let ping = command_in(lab.internet().client().name(), "ping")
            .args(["-c", "1", "-W", "2", "203.0.113.10"])
            .output()
            .unwrap();
        assert!(ping.status.success(), "{ping:?}");
    }
    one.appliance().stop().unwrap();
    let names = [one.name().clone(), two.name().clone()];
    drop(one);
    drop(two);
    for name in names {
        assert_eq!(name.remains(), [""; 0]);
    }
}

#[test]
fn an_appliance_that_cannot_start_says_why() {
    let options = Options { more_boot: "colour = 1".to_owned(), ..Options::default() };
    let Err(error) = Lab::start(&options) else { panic!("it started") };
    let text = format!("{error:#}");
    assert!(text.contains("the appliance ended") && text.contains("colour"), "{text}");
}

#[test]
fn an_appliance_ends_when_its_lab_is_killed() {
    let mut lab = lab();
    let supervisor = lab.appliance().id();
    let children = Command::new("pgrep").args(["--parent", &supervisor.to_string()]).output().unwrap();
    assert!(!children.stdout.is_empty(), "no role runs");
    lab.appliance().kill().unwrap();
    for child in String::from_utf8(children.stdout).unwrap().lines() {
        let gone = || Ok((!std::path::Path::new("/proc").join(child).join("exe").exists()).then_some(()));
        let waited = gatehouse_tests::lab::wait::Wait::default().until(
            "end of a role",
            std::time::Duration::from_secs(5),
            gone,
        );
        waited.unwrap();
    }
}
