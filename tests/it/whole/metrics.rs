//! What roles say of themselves on the loopback of their namespaces, and that the link's figures are right.

use std::time::Duration;

use gatehouse_tests::lab::{Lab, Options, netns::command_in, wait::Wait};

use super::{
    door::Door,
    example, roles,
    tasks::{scale, until_running},
};

/// All metrics of one role at one moment.
pub(super) struct Scrape(String);

impl Scrape {
    /// What is served at a port of a namespace's loopback; nothing if nobody serves.
    pub(super) fn of(namespace: &str, port: u16) -> Self {
        let url = format!("http://127.0.0.1:{port}/metrics");
        let mut curl = command_in(namespace, "curl");
        let output = curl.args(["--silent", "--max-time", "5", &url]).output().unwrap();
        Self(String::from_utf8(output.stdout).unwrap())
    }

    /// The sum of all series that begin with `series`.
    pub(super) fn sum(&self, series: &str) -> u64 {
        let lines = self.0.lines().filter(|line| line.starts_with(series));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

/// The link, scraped until a figure of it is right.
struct Link {
    namespace: String,
}

impl Link {
    fn until(&self, what: &str, is_right: impl Fn(&Scrape) -> bool) {
        let mut last = String::new();
        let look = || {
            let scrape = Scrape::of(&self.namespace, METRICS_PORT);
            let right = is_right(&scrape).then_some(());
            last = scrape.0;
            Ok(right)
        };
        Wait::default()
            .until(what, Duration::from_secs(20), look)
            .unwrap_or_else(|error| panic!("{error}; last were\n{last}"));
    }

    fn sum(&self, series: &str) -> u64 {
        Scrape::of(&self.namespace, METRICS_PORT).sum(series)
    }
}

#[test]
fn the_link_counts_lanes_connections_bytes_and_what_goes_wrong() {
    let options =
        Options { more_boot: format!("[link]\nmetrics_port = {METRICS_PORT}"), ..Options::default() };
    let mut lab = Lab::start(&options).unwrap();
    lab.deploy(&example(), &|_| {}).unwrap();
    let link = Link { namespace: lab.ready().namespaces.link.expect("the link's namespace") };

    let bytes =
        |direction: &str| format!("gatehouse_agent_ProcessedBytes_total{{Direction=\"{direction} target\"}}");
    let (sent, received) = (link.sum(&bytes("to")), link.sum(&bytes("from")));
    let (door, url) = (Door::of(&lab), &lab.urls()["cloudmap"]);
    let mut connection = door.open(url).unwrap();
    assert_eq!(connection.request("POST", "/", &"x".repeat(SENT)).unwrap().status, 200);
    assert_eq!(connection.request("GET", &format!("/bytes?n={RECEIVED}"), "").unwrap().status, 200);
    link.until("bytes both ways", |scrape| {
        scrape.sum(&bytes("to")) >= sent + SENT as u64 && scrape.sum(&bytes("from")) >= received + RECEIVED
    });
    link.until("a connection kept on a lane, and lanes to spare", |scrape| {
        let lanes = |state: &str| scrape.sum(&format!("gatehouse_agent_LaneCount{{State=\"{state}\"}}"));
        lanes("in use") > 0 && lanes("ready") > 0 && scrape.sum("gatehouse_agent_OpenCount_total") > 0
    });

    // Without a target the network load balancer refuses.
    let refused = "gatehouse_agent_OpenRefusedCount_total{Reason=\"connect\"}";
    let failed = "gatehouse_agent_TargetConnectionErrorCount_total{Error=\"connect\"}";
    let before = (link.sum(refused), link.sum(failed));
    let aws = lab.aws().unwrap();
    scale(&aws, 0);
    until_running(&aws, 0);
    let mut connection = door.open(&lab.urls()["nlb"]).unwrap();
    assert_eq!(connection.request("GET", "/", "").unwrap().status, 503);
    link.until("a refused connection", |scrape| {
        scrape.sum(refused) > before.0 && scrape.sum(failed) > before.1
    });

    let redialled = "gatehouse_agent_ReconnectCount_total";
    let before = link.sum(redialled);
    roles::crash(&mut lab, "gateway");
    link.until("a gateway dialled again, and lanes to it", |scrape| {
        scrape.sum(redialled) > before && scrape.sum("gatehouse_agent_LaneCount{State=\"ready\"}") > 0
    });
}

/// Of one body; larger than whatever else the request says.
const SENT: usize = 60_000;
const RECEIVED: u64 = 200_000;
const METRICS_PORT: u16 = 9_101;
