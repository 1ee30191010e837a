//! The whole path: clients outside, the appliance, tasks inside.

/// What the outside cannot reach.
mod privacy;
/// How it ends, and begins again.
mod endings;
/// Connections from the client's machine to the front door.
mod door;
/// Processes of the appliance's roles.
pub(crate) mod roles;
/// Requests with their fates.
pub(crate) mod traffic;
/// What roles say of themselves.
mod metrics;
/// XDP moves the NLB's packets.
mod nlb;
/// Datagrams of both families to an ECS service.
mod datagrams;
/// What an operator can see of the NLB's packets.
mod looking;
/// Tasks that die, come and go.
pub(crate) mod tasks;
/// Roles that are killed.
mod restarts;
/// What is malformed.
mod malformed;

use std::path::{Path, PathBuf};

use gatehouse_tests::lab::{Lab, Options};

/// A lab with the example deployed: three URLs that answer.
pub(crate) fn deployed() -> Lab {
    let mut lab = Lab::start(&Options::default()).unwrap();
    lab.deploy(&example(), &|_| {}).unwrap();
    lab
}

/// The template that `cargo xtask run` deploys.
pub(crate) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/private-integrations.yaml")
}

#[test]
fn one_service_answers_through_all_three_integrations() {
    let lab = deployed();
    for (integration, url) in lab.urls() {
        let answer = lab.client().fetch(url).unwrap();
        assert_eq!(answer.status, 200, "{integration}: {answer}");
    }
}
