//! The prober against real targets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use lb_userspace::{
    health::Prober,
    model::{id::Arn, target_group::TargetHealthState},
    snapshot::{report::Report, verdict::Verdicts},
    telemetry::Metrics,
};
use tokio::sync::{mpsc, watch};

use super::{
    stage::{SOON, Stage},
    target::Target,
};

/// States by target, when `wanted` holds or after a while.
async fn states(
    table: &mut watch::Receiver<Arc<Verdicts>>,
    wanted: impl Fn(&BTreeMap<String, TargetHealthState>) -> bool,
) -> BTreeMap<String, TargetHealthState> {
    let read = |verdicts: &Verdicts| -> BTreeMap<String, TargetHealthState> {
        let groups = verdicts.groups.values();
        groups
            .flat_map(|group| group.iter())
            .map(|(target, verdict)| (target.to_string(), verdict.health.state))
            .collect()
    };
    let waited =
        tokio::time::timeout(SOON, table.wait_for(|verdicts| wanted(&read(verdicts)))).await.map(|_| ());
    let states = read(&table.borrow());
    assert!(waited.is_ok(), "after {SOON:?}: {states:?}");
    states
}

#[test]
fn targets_are_asked_judged_reported_and_remembered() {
    let mut stage = Stage::with_workers(1);
    let good = Target::named(stage.target_ip(2), "good");
    let bad = Target::start(stage.target_ip(3), |connection| {
        connection.request();
        connection.send(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n");
    });
    let plain = Target::start(stage.target_ip(4), |_| {});
    stage.group("main", &[good.address, bad.address]);
    stage.group("tcp", &[plain.address]);
    stage.group("idle", &[plain.address]);
    for (name, group) in &mut stage.slice.target_groups {
        group.health_check.interval_s = 1;
        group.in_use = name.as_str() != "idle";
        if name.as_str() == "tcp" {
            group.protocol = "TCP".to_owned();
            group.health_check.protocol = "TCP".to_owned();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let metrics = Arc::new(Metrics::new());
        let (reported, mut reports) = mpsc::channel(64);
        let mut prober = Prober::start(Some(dir.path()), reported.clone(), metrics.clone()).unwrap();
        let mut table = prober.verdicts();
        prober.apply(&stage.slice);
        let states_now = states(&mut table, |states| {
            states.get(&good.address.to_string()) == Some(&TargetHealthState::Healthy)
                && states.get(&bad.address.to_string()) == Some(&TargetHealthState::Unhealthy)
                && states.contains_key(&plain.address.to_string())
        })
        .await;
        assert_eq!(states_now.len(), 3, "{states_now:?}");
        let group = &table.borrow().groups[&Arn::from("main")].clone();
        let verdict = group.iter().find(|(key, _)| key.port == bad.address.port()).unwrap().1;
        assert_eq!(verdict.health.reason.as_deref(), Some("Target.ResponseCodeMismatch"));
        let verdicts = table.borrow().clone();
        let state = |group: &str| verdicts.groups[&Arn::from(group)].values().next().unwrap().health.state;
        assert_eq!(state("tcp"), TargetHealthState::Healthy);
        assert_eq!(state("idle"), TargetHealthState::Unused);
        assert!(good.last().head.contains("User-Agent: ELB-HealthChecker/2.0"));
        assert_eq!(good.last().peer.ip(), stage.address().ip(), "asked from the load balancer's address");
        let text = metrics.text();
        assert!(text.contains("gatehouse_alb_HealthyHostCount{TargetGroup=\"main\"} 1"), "{text}");
        let mut told = BTreeMap::new();
        while told.len() < 4 || !told.values().any(|state| *state == TargetHealthState::Unhealthy) {
            let report = tokio::time::timeout(SOON, reports.recv()).await;
            let Ok(Some(Report::TargetHealth { target_group, target, health, .. })) = report else {
                panic!("{report:?} after {told:?}")
            };
            told.insert((target_group, target), health.state);
        }
        // The file is written behind the table.
        let file = dir.path().join("verdicts.json");
        let end = tokio::time::Instant::now() + SOON;
        while !std::fs::read_to_string(&file).is_ok_and(|text| text.contains("ResponseCodeMismatch")) {
            assert!(tokio::time::Instant::now() < end, "the verdicts were not kept");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(prober);
        let mut again = Prober::start(Some(dir.path()), reported, Arc::new(Metrics::new())).unwrap();
        again.apply(&stage.slice);
        let table = again.verdicts().borrow().clone();
        let kept = &table.groups[&Arn::from("main")];
        let state = |port| kept.iter().find(|(key, _)| key.port == port).unwrap().1.health.state;
        assert_eq!(state(good.address.port()), TargetHealthState::Healthy, "before any check");
        assert_eq!(state(bad.address.port()), TargetHealthState::Unhealthy, "before any check");
    });
}

#[test]
fn a_new_target_gets_traffic_within_100_ms_of_its_first_passing_check() {
    let mut stage = Stage::new();
    let old = Target::named(stage.target_ip(2), "old");
    let new = Target::named(stage.target_ip(3), "new");
    stage.group("main", &[old.address, new.address]);
    stage.apply();
    stage.healthy("main", &[old.address]);
    let mut client = super::client::Client::connect(stage.address());
    for _ in 0..3 {
        client.get("/", "");
    }
    let before = std::time::Instant::now();
    stage.healthy("main", &[old.address, new.address]);
    while client.get("/", "").text() != "new" {
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
    }
}
