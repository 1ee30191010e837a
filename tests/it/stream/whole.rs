//! The whole path: boto3, openssl and curl against an appliance, through XDP.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use gatehouse_tests::lab::{Lab, Options, aws::Aws, netns::command_in, wait::Wait};
use lb_userspace::{
    network::namespace::within,
    snapshot::{gateway::RoleCertificate, names},
};
use serde_json::{Value, json};

use super::{
    peer::{Target, Tls, certificate, connect, connect_tls, copy, echo, ends, leaf, shown},
    target_side::Header,
};

/// An appliance with a VPC, a subnet, and two machines that nobody but the tests uses.
pub(super) struct World {
    // Before the lab: boto3 talks to it.
    aws: Aws,
    lab: Lab,
    vpc: String,
    subnet: String,
    pub(super) client: Machine,
    pub(super) target: Machine,
}

/// A namespace with an address.
#[derive(Clone)]
pub(super) struct Machine {
    id: String,
    pub(super) namespace: String,
    pub(super) address: Ipv4Addr,
}

impl World {
    pub(super) fn start() -> Self {
        let more_boot = format!("[node]\nmetrics_port = {METRICS_PORT}");
        let lab = Lab::start(&Options { more_boot, ..Options::default() }).unwrap();
        let aws = lab.aws().unwrap();
        let must = |service: &str, operation: &str, input: Value| {
            aws.call(service, operation, input).unwrap_or_else(|error| panic!("{operation}: {error}"))
        };
        let vpc = must("ec2", "CreateVpc", json!({"CidrBlock": "10.0.0.0/16"}))["Vpc"]["VpcId"].clone();
        let subnet = json!({"VpcId": vpc, "CidrBlock": "10.0.1.0/24", "AvailabilityZone": "eu-central-1a"});
        let subnet = must("ec2", "CreateSubnet", subnet)["Subnet"]["SubnetId"].clone();
        let group = json!({"GroupName": "machines", "Description": "machines", "VpcId": vpc});
        let group = must("ec2", "CreateSecurityGroup", group)["GroupId"].clone();
        let all = json!([{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/16"}]}]);
        must("ec2", "AuthorizeSecurityGroupIngress", json!({"GroupId": group, "IpPermissions": all}));
        let machine = || {
            let input = json!({"ImageId": "ami-1", "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": 1,
                "SubnetId": subnet, "SecurityGroupIds": [group]});
            let made = must("ec2", "RunInstances", input)["Instances"][0].clone();
            let id = text(&made["InstanceId"]);
            let namespace = names::instance_namespace(lab.name().as_str(), &id.as_str().into());
            Machine { id, namespace, address: text(&made["PrivateIpAddress"]).parse().unwrap() }
        };
        let (client, target) = (machine(), machine());
        for machine in [&client, &target] {
            let is_there = || Ok(machine.listen(0).is_ok().then_some(()));
            until("machine", is_there);
        }
        Self { vpc: text(&vpc), subnet: text(&subnet), client, target, aws, lab }
    }

    #[track_caller]
    fn must(&self, service: &str, operation: &str, input: Value) -> Value {
        self.aws.call(service, operation, input).unwrap_or_else(|error| panic!("{operation}: {error}"))
    }

    /// A load balancer; its ARN and its address. Its groups admit `from`, or there are none.
    pub(super) fn load_balancer(&self, name: &str, from: Option<Ipv4Addr>) -> (String, Ipv4Addr) {
        let mut input =
            json!({"Name": name, "Type": "network", "Scheme": "internal", "Subnets": [self.subnet]});
        if let Some(from) = from {
            let group = json!({"GroupName": name, "Description": name, "VpcId": self.vpc});
            let group = self.must("ec2", "CreateSecurityGroup", group)["GroupId"].clone();
            let ranges = json!([{"CidrIp": format!("{from}/32")}]);
            let rule = json!([{"IpProtocol": "tcp", "FromPort": 1, "ToPort": 65_535, "IpRanges": ranges}]);
            self.must(
                "ec2",
                "AuthorizeSecurityGroupIngress",
                json!({"GroupId": group, "IpPermissions": rule}),
            );
            input["SecurityGroups"] = json!([group]);
        }
        let made = self.must("elbv2", "CreateLoadBalancer", input)["LoadBalancers"][0].clone();
        let filters = json!([{"Name": "description", "Values": [format!("ELB net/{name}/*")]}]);
        let interfaces = self.must("ec2", "DescribeNetworkInterfaces", json!({"Filters": filters}));
        let address = text(&interfaces["NetworkInterfaces"][0]["PrivateIpAddress"]);
        (text(&made["LoadBalancerArn"]), address.parse().unwrap())
    }

    /// A target group with the target machine at these ports.
    pub(super) fn target_group(&self, name: &str, protocol: &str, ports: &[u16]) -> String {
        let input = json!({"Name": name, "Protocol": protocol, "Port": 80, "VpcId": self.vpc,
            "HealthCheckIntervalSeconds": 5, "HealthCheckTimeoutSeconds": 2, "HealthyThresholdCount": 2});
        let arn = text(&self.must("elbv2", "CreateTargetGroup", input)["TargetGroups"][0]["TargetGroupArn"]);
        let targets: Vec<_> = ports.iter().map(|port| json!({"Id": self.target.id, "Port": port})).collect();
        if !targets.is_empty() {
            self.must("elbv2", "RegisterTargets", json!({"TargetGroupArn": arn, "Targets": targets}));
        }
        arn
    }

    pub(super) fn listener(&self, lb: &str, port: u16, group: &str, more: Value) -> String {
        let mut input = json!({"LoadBalancerArn": lb, "Protocol": "TLS", "Port": port,
            "DefaultActions": [{"Type": "forward", "TargetGroupArn": group}]});
        for (key, value) in more.as_object().unwrap() {
            input[key] = value.clone();
        }
        text(&self.must("elbv2", "CreateListener", input)["Listeners"][0]["ListenerArn"])
    }

    /// Imports a certificate; replaces the one of an ARN, if there is one.
    pub(super) fn import(&self, certificate: &RoleCertificate, arn: Option<&str>) -> String {
        let mut input = json!({"Certificate": certificate.chain_pem, "PrivateKey": certificate.key_pem});
        if let Some(arn) = arn {
            input["CertificateArn"] = arn.into();
        }
        text(&self.must("acm", "ImportCertificate", input)["CertificateArn"])
    }

    /// A file that holds a certificate, for programs that trust it.
    fn trust(&self, name: &str, certificate: &RoleCertificate) -> PathBuf {
        let path = self.lab.directory().join(format!("{name}.pem"));
        std::fs::write(&path, &certificate.chain_pem).unwrap();
        path
    }

    /// States of a group's targets by port.
    fn states(&self, group: &str) -> Vec<(u64, String)> {
        let health = self.must("elbv2", "DescribeTargetHealth", json!({"TargetGroupArn": group}));
        let all = health["TargetHealthDescriptions"].as_array().unwrap().clone();
        let state =
            |one: &Value| (one["Target"]["Port"].as_u64().unwrap(), text(&one["TargetHealth"]["State"]));
        all.iter().map(state).collect()
    }

    /// All that the node tells.
    pub(super) fn metrics(&self) -> String {
        let node = self.lab.ready().namespaces.node.expect("the node's namespace");
        let url = format!("http://127.0.0.1:{METRICS_PORT}/metrics");
        let output = command_in(&node, "curl").args(["--silent", "--max-time", "5", &url]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// The sum of a node's metric.
    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }
}

impl Machine {
    pub(super) fn listen(&self, port: u16) -> io::Result<TcpListener> {
        within(&self.namespace, || TcpListener::bind((self.address, port))).map_err(io::Error::other)?
    }

    pub(super) fn tls(&self, to: SocketAddr, name: &str, alpn: &[&str]) -> io::Result<Tls> {
        within(&self.namespace, || connect_tls(to, name, alpn)).map_err(io::Error::other)?
    }

    pub(super) fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        within(&self.namespace, || connect(to)).map_err(io::Error::other)?
    }

    /// curl's status and body, or why it failed.
    fn curl(&self, trusted: &PathBuf, host: &str, to: SocketAddr) -> Result<String, String> {
        let resolve = format!("{host}:{}:{}", to.port(), to.ip());
        let output = command_in(&self.namespace, "curl")
            .args(["--silent", "--show-error", "--max-time", "5", "--resolve", &resolve, "--cacert"])
            .arg(trusted)
            .arg(format!("https://{host}:{}/", to.port()))
            .output()
            .unwrap();
        if output.status.success() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// What `openssl s_client` says of a handshake.
    fn openssl(&self, trusted: &PathBuf, host: &str, to: SocketAddr, more: &[&str]) -> (bool, String) {
        let output = command_in(&self.namespace, "openssl")
            .args(["s_client", "-connect", &to.to_string(), "-servername", host, "-verify_hostname", host])
            .args(["-verify_return_error", "-CAfile"])
            .arg(trusted)
            .args(more)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), said + &String::from_utf8_lossy(&output.stderr))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}")).to_owned()
}

#[track_caller]
pub(super) fn until<T>(what: &str, question: impl FnMut() -> anyhow::Result<Option<T>>) -> T {
    Wait::default().until(what, SETTLED, question).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Answers each HTTP request with its name, or sends back what is none.
pub(super) fn who(name: &'static str) -> impl Fn(TcpStream) + Send + Sync + 'static {
    move |mut stream| {
        let mut request = Vec::new();
        let mut chunk = [0; 1024];
        while let Ok(count @ 1..) = stream.read(&mut chunk) {
            request.extend_from_slice(&chunk[..count]);
            if request.ends_with(b"\r\n\r\n") {
                request.clear();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    }
}

/// Asks on a connection that stays; who answered.
pub(super) fn ask(stream: &mut (impl Read + Write)) -> io::Result<u8> {
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n")?;
    stream.flush()?;
    let mut answer = Vec::new();
    let mut byte = [0; 1];
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    stream.read_exact(&mut byte)?;
    Ok(byte[0])
}

#[test]
fn a_tls_listener_serves_by_name_and_survives_its_changes() {
    let world = World::start();
    let one = Target::on(world.target.listen(8080).unwrap(), who("1"));
    let _two = Target::on(world.target.listen(8081).unwrap(), who("2"));
    let (lb, address) = world.load_balancer("edge", Some(world.client.address));
    let group = world.target_group("web", "TCP", &[8080, 8081]);
    let (first, second) = (certificate(&["a.test"]), certificate(&["b.test"]));
    let (first_arn, second_arn) = (world.import(&first, None), world.import(&second, None));
    let more = json!({"Certificates": [{"CertificateArn": first_arn}], "AlpnPolicy": ["HTTP2Optional"]});
    let listener = world.listener(&lb, 443, &group, more);
    let list = json!({"ListenerArn": listener, "Certificates": [{"CertificateArn": second_arn}]});
    world.must("elbv2", "AddListenerCertificates", list);
    let to = SocketAddr::from((address, 443));

    // Each name with its own certificate, which is all that the programs trust.
    let (trust_first, trust_second) = (world.trust("a", &first), world.trust("b", &second));
    let client = &world.client;
    for (host, trusted) in [("a.test", &trust_first), ("b.test", &trust_second)] {
        until("answer over TLS", || Ok(client.curl(trusted, host, to).ok()));
    }
    assert!(client.curl(&trust_second, "a.test", to).is_err(), "the other certificate");
    for (alpn, agreed) in [
        ("h2,http/1.1", "ALPN protocol: http/1.1"),
        ("h2", "ALPN protocol: h2"),
        ("imap", "No ALPN negotiated"),
    ] {
        let (is_well, said) = client.openssl(&trust_first, "a.test", to, &["-alpn", alpn]);
        assert!(is_well && said.contains(agreed), "{alpn}: {said}");
    }
    let (is_well, said) = client.openssl(&trust_first, "a.test", to, &["-tls1_1"]);
    assert!(!is_well, "{said}");

    // Who is not admitted gets no answer at all.
    let refused =
        within(&world.target.namespace, || TcpStream::connect_timeout(&to, Duration::from_secs(1))).unwrap();
    assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::TimedOut);
    until("blocked flow", || {
        let blocked = world.metric("gatehouse_nlb_SecurityGroupBlockedFlowCount_Inbound_TCP_total");
        Ok((blocked > 0).then_some(()))
    });

    // The same ARN gets another certificate, under connections that are made all the time.
    let renewed = certificate(&["a.test"]);
    let (stop, renewals) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut kept = client.tls(to, "a.test", &[]).unwrap();
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (client, stop, renewals, new) =
                (client.clone(), stop.clone(), renewals.clone(), leaf(&renewed));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let mut tls = client.tls(to, "a.test", &[]).unwrap();
                    ask(&mut tls).unwrap();
                    renewals.fetch_add(usize::from(shown(&tls) == new), Ordering::SeqCst);
                }
            })
        })
        .collect();
    world.import(&renewed, Some(&first_arn));
    until("renewed certificate", || Ok((renewals.load(Ordering::SeqCst) >= 10).then_some(())));
    stop.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().expect("no connection fails"));
    ask(&mut kept).expect("a connection outlives the certificate that it began with");

    // A target that drains keeps what it has and gets nothing new.
    let mut held = until("connection to the first target", || {
        let mut tls = client.tls(to, "a.test", &[])?;
        Ok((ask(&mut tls)? == b'1').then_some(tls))
    });
    drop(kept);
    let first_target = json!({"TargetGroupArn": group, "Targets": [{"Id": world.target.id, "Port": 8080}]});
    world.must("elbv2", "DeregisterTargets", first_target);
    until("drain", || {
        let answers: io::Result<Vec<u8>> = (0..6).map(|_| ask(&mut client.tls(to, "a.test", &[])?)).collect();
        Ok(answers?.iter().all(|name| *name == b'2').then_some(()))
    });
    assert_eq!(ask(&mut held).unwrap(), b'1');
    assert!(world.states(&group).contains(&(8080, "draining".to_owned())));
    drop(held);
    until("end of the drain", || {
        Ok(world.states(&group).iter().all(|(port, _)| *port == 8081).then_some(()))
    });
    assert!(one.accepted() > 0);
    assert!(world.metric("gatehouse_nlb_NewFlowCount_TLS_total") > 0);
}

#[test]
fn tls_goes_on_to_the_target_and_what_is_no_tls_is_counted() {
    let world = World::start();
    let target = world.target.listen(9443).unwrap();
    let _target = Target::tls_on(target, &["h2"], copy);
    let (lb, address) = world.load_balancer("inner", None);
    let group = world.target_group("secure", "TLS", &[9443]);
    let own = certificate(&["a.test"]);
    let more = json!({"Certificates": [{"CertificateArn": world.import(&own, None)}],
        "AlpnPolicy": ["HTTP2Preferred"], "SslPolicy": "ELBSecurityPolicy-TLS13-1-3-2021-06"});
    world.listener(&lb, 8443, &group, more);
    let to = SocketAddr::from((address, 8443));
    let mut tls = until("answer over TLS", || {
        let Ok(mut tls) = world.client.tls(to, "a.test", &["h2"]) else { return Ok(None) };
        Ok(echo(&mut tls, b"hello").ok().map(|_| tls))
    });
    assert_eq!(tls.conn.alpn_protocol(), Some(&b"h2"[..]));
    let large: Vec<u8> = (0..1 << 20).map(|byte: u32| byte.to_le_bytes()[0]).collect();
    let (mut sent, mut got) = (0, Vec::new());
    // In pieces: neither side reads while it writes.
    while sent < large.len() {
        let piece = &large[sent..(sent + 8_192).min(large.len())];
        got.extend(echo(&mut tls, piece).unwrap());
        sent += piece.len();
    }
    assert!(got == large, "bytes were lost or changed");
    let trusted = world.trust("own", &own);
    let (is_well, said) = world.client.openssl(&trusted, "a.test", to, &["-tls1_2"]);
    assert!(!is_well, "TLS 1.2 is not of the policy: {said}");

    let mut plain = world.client.connect(to).unwrap();
    plain.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    while !ends(&mut plain) {}
    until("failed handshakes", || {
        Ok((world.metric("gatehouse_nlb_ClientTLSNegotiationErrorCount_total") >= 2).then_some(()))
    });
}

#[test]
fn a_header_is_put_in_front_and_names_the_link() {
    let world = World::start();
    let _target = Target::on(world.target.listen(9000).unwrap(), copy);
    let (lb, address) = world.load_balancer("plain", None);
    let group = world.target_group("echo", "TCP", &[9000]);
    world.listener(&lb, 80, &group, json!({"Protocol": "TCP"}));
    let to = SocketAddr::from((address, 80));
    // XDP's, without a header.
    let mut direct = until("answer", || {
        let Ok(mut stream) = world.client.connect(to) else { return Ok(None) };
        Ok(echo(&mut stream, b"hello").is_ok_and(|answer| answer == b"hello").then_some(stream))
    });
    let set = |value: &str| {
        let attribute = json!([{"Key": "proxy_protocol_v2.enabled", "Value": value}]);
        let input = json!({"TargetGroupArn": group, "Attributes": attribute});
        world.must("elbv2", "ModifyTargetGroupAttributes", input);
    };
    set("true");
    // The target sends back what it gets, and the header comes first; no connection fails meanwhile.
    let first_byte = |machine: &Machine| -> io::Result<(TcpStream, u8)> {
        let mut stream = machine.connect(to)?;
        stream.write_all(b"hello")?;
        let mut byte = [0];
        stream.peek(&mut byte)?;
        Ok((stream, byte[0]))
    };
    let mut stream = until("header", || {
        let (stream, byte) = first_byte(&world.client)?;
        Ok((byte != b'h').then_some(stream))
    });
    let header = Header::read(&mut stream);
    let SocketAddr::V4(own) = stream.local_addr().unwrap() else { panic!("IPv6") };
    let expected = Header { client: (*own.ip(), own.port()), listener: (address, 80), endpoint: None };
    assert_eq!(header, expected);
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    assert_eq!(echo(&mut direct, b"still XDP's").unwrap(), b"still XDP's");
    until("targets that take headers in health checks", || {
        Ok(world.states(&group).iter().all(|(_, state)| state == "healthy").then_some(()))
    });

    // A link's machine.
    let link = json!({"Name": "link", "SubnetIds": [world.subnet]});
    let id = text(&world.must("apigatewayv2", "CreateVpcLink", link)["VpcLinkId"]);
    let namespace = names::link_namespace(world.lab.name().as_str(), &id.as_str().into());
    let link = Machine { id: id.clone(), namespace, address: Ipv4Addr::UNSPECIFIED };
    let endpoint = until("header that names the link", || {
        let Ok((mut stream, _)) = first_byte(&link) else { return Ok(None) };
        Ok(Header::read(&mut stream).endpoint)
    });
    assert_eq!(endpoint, id);

    set("false");
    until("connections of XDP's again", || Ok((first_byte(&world.client)?.1 == b'h').then_some(())));
    assert_eq!(echo(&mut direct, b"still XDP's").unwrap(), b"still XDP's");
    assert_eq!(echo(&mut stream, b"still userspace's").unwrap(), b"still userspace's");
}

const METRICS_PORT: u16 = 9_100;
/// Namespaces, health checks and drains, on a slow machine.
const SETTLED: Duration = Duration::from_secs(60);
