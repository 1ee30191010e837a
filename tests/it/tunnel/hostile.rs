//! Strangers and liars at the gateway's door: each is closed on, and the link serves on.

use std::sync::Arc;
use std::time::Duration;

use lb_userspace::{
    identity::{name::RoleName, tls},
    model::id::VpcLinkId,
    snapshot::link::LinkCredentials,
    tunnel::{
        dial::{GatewayTls, Purpose, dial},
        frame::message::{Message, VERSION},
        message_io::{read_message, write_message},
    },
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    bed::{Bed, DEADLINE, LANES, in_own_network, listener},
    target::Target,
};

/// TLS as the agent of a link in this appliance's name.
fn as_link(bed: &Bed, link: &str) -> GatewayTls {
    let name = RoleName::vpc_link("lab", &VpcLinkId::from(link));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let identity =
        bed.authorities.identity.issue_role(&name, u64::try_from(now.as_millis()).unwrap()).unwrap();
    let identity_root_pem = bed.authorities.identity.root_pem().to_owned();
    GatewayTls::new(&LinkCredentials { identity, identity_root_pem }, "gw").unwrap()
}

/// Sends `bytes` after the handshake and waits until the gateway has closed.
async fn is_closed_on(tls: &GatewayTls, purpose: Purpose, bytes: &[u8]) {
    let Ok(mut stream) = dial(LANES.parse().unwrap(), tls, purpose).await else { return };
    if stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok() {
        let mut rest = Vec::new();
        let closed = timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open after {bytes:?}");
    }
}

fn hello(link: &str) -> Vec<u8> {
    Message::Hello { version: VERSION, agent: [1; 16], link: link.to_owned() }.frame()
}

#[test]
fn liars_are_closed_on_and_the_link_serves_on() {
    in_own_network(|| async {
        let mut bed = Bed::new().await;
        let _target = Target::start("10.77.1.10:80", "a");
        bed.allow(listener("alb", "a"), "10.77.1.10:80");
        bed.allow(listener("alb", "b"), "10.77.1.10:80");
        bed.publish().await;
        let own = as_link(&bed, "link01");
        let other = as_link(&bed, "link99");
        let lane_hello = |worker| Message::LaneHello { worker, nonce: [7; 16] }.frame();
        let garbage = [0xff_u8; 64];
        let huge = [9, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let open_first = Message::OpenOk { open_id: 1 }.frame();
        let mut after_welcome = hello("link01");
        after_welcome.extend_from_slice(&Message::Eof.frame());
        for (tls, purpose, bytes) in [
            (&own, Purpose::Control, &garbage[..]),
            (&own, Purpose::Control, &huge),
            (&own, Purpose::Control, &hello("link99")),
            (&own, Purpose::Control, &Message::LaneReady.frame()),
            (&own, Purpose::Control, &after_welcome),
            (
                &own,
                Purpose::Control,
                &Message::Hello { version: 9, agent: [1; 16], link: "link01".to_owned() }.frame(),
            ),
            (&other, Purpose::Control, &hello("link99")),
            (&other, Purpose::Control, &hello("link01")),
            (&own, Purpose::Lane(0), &garbage),
            (&own, Purpose::Lane(0), &lane_hello(0)),
            (&own, Purpose::Lane(0), &lane_hello(1)),
            (&own, Purpose::Lane(1), &open_first),
            (&own, Purpose::Lane(500), &lane_hello(500)),
        ] {
            is_closed_on(tls, purpose, bytes).await;
        }
        assert_eq!(bed.client.curl("/alb", &[]).status, 200);
    });
}

#[test]
fn a_ticket_is_good_for_one_lane_of_the_link_it_was_given() {
    in_own_network(|| async {
        let bed = Bed::unattached().await;
        let tls = as_link(&bed, "link01");
        let address = LANES.parse().unwrap();
        let mut control = dial(address, &tls, Purpose::Control).await.unwrap();
        control.write_all(&hello("link01")).await.unwrap();
        let Message::Welcome { workers: 2, .. } = read_message(&mut control).await.unwrap() else {
            panic!("no welcome")
        };
        let (worker, nonces) = loop {
            match timeout(DEADLINE, read_message(&mut control)).await.unwrap().unwrap() {
                Message::Demand { worker, nonces } => break (worker, nonces),
                Message::Ping { .. } => {}
                other => panic!("{other:?}"),
            }
        };
        let lane = async |tls: &GatewayTls, worker, nonce| {
            let mut lane: TlsStream<TcpStream> = dial(address, tls, Purpose::Lane(worker)).await.unwrap();
            write_message(&mut lane, &Message::LaneHello { worker, nonce }).await.unwrap();
            timeout(DEADLINE, read_message(&mut lane)).await.unwrap().ok().map(|message| (message, lane))
        };
        assert!(lane(&as_link(&bed, "link99"), worker, nonces[0]).await.is_none(), "of another link");
        assert!(lane(&tls, 1 - worker, nonces[0]).await.is_none(), "for another worker");
        let (message, _first) = lane(&tls, worker, nonces[0]).await.expect("a good ticket");
        assert_eq!(message, Message::LaneReady);
        assert!(lane(&tls, worker, nonces[0]).await.is_none(), "used");
    });
}

#[test]
fn strangers_do_not_get_past_the_handshake() {
    in_own_network(|| async {
        let bed = Bed::new().await;
        let config = || {
            ClientConfig::builder_with_provider(tls::provider())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(tls::roots(bed.authorities.identity.root_pem()).unwrap())
                .with_no_client_auth()
        };
        let mut control = config();
        control.alpn_protocols = vec![tls::ALPN_CONTROL.to_vec()];
        let stream = TcpStream::connect(LANES).await.unwrap();
        let name = ServerName::try_from("control.gatehouse").unwrap();
        // The gateway's leaf names no host, so an ordinary client does not take it either.
        assert!(TlsConnector::from(Arc::new(control)).connect(name, stream).await.is_err());
        let mut plain = TcpStream::connect(LANES).await.unwrap();
        plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        drop(timeout(Duration::from_secs(10), plain.read_to_end(&mut rest)).await.expect("closed"));
        assert!(!rest.starts_with(b"HTTP"));
        let wrong_ca = Bed::unauthorized();
        assert!(dial(LANES.parse().unwrap(), &wrong_ca, Purpose::Control).await.is_err());
    });
}

impl Bed {
    /// TLS as a link of another appliance's CA.
    fn unauthorized() -> GatewayTls {
        use lb_userspace::identity::authority::{Authorities, FrontDoorNames};
        let directory = tempfile::tempdir().unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = u64::try_from(now.as_millis()).unwrap();
        let names = FrontDoorNames { domain_suffix: "amazonaws.com".to_owned(), ..Default::default() };
        let foreign = Authorities::open(directory.path(), &names, now).unwrap();
        let name = RoleName::vpc_link("lab", &VpcLinkId::from("link01"));
        let identity = foreign.identity.issue_role(&name, now).unwrap();
        let identity_root_pem = foreign.identity.root_pem().to_owned();
        GatewayTls::new(&LinkCredentials { identity, identity_root_pem }, "gw").unwrap()
    }
}
