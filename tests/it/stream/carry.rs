//! Bytes both ways, and how connections end.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use lb_userspace::stream::Limits;

use super::{
    peer::{Target, certificate, connect, connect_tls, copy, echo, ends, reset},
    stage::{LIMITS, SOON, Stage, eventually},
};

/// A TLS listener in front of one target.
fn behind(target: impl FnOnce(&Stage) -> Target) -> (Stage, Target) {
    let mut stage = Stage::tls(&[&certificate(&["a.test"])]);
    let target = target(&stage);
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    (stage, target)
}

/// Reads the header that AWS puts in front: always 100 bytes over IPv4.
fn skip_header(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; 100]).unwrap();
}

#[test]
fn each_way_ends_by_itself() {
    let whole = |mut stream: TcpStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(format!("{} bytes", all.len()).as_bytes()).unwrap();
    };
    let (stage, _target) = behind(|stage| Target::start(stage.ip(2), whole));
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    client.write_all(&[7; 1_000]).unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "1000 bytes");

    // The target ends first, and still gets what the client says.
    let (said, heard) = mpsc::channel();
    let first = move |mut stream: TcpStream| {
        stream.shutdown(Shutdown::Write).unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).unwrap();
        said.send(all).unwrap();
    };
    let (stage, _target) = behind(|stage| Target::start(stage.ip(2), first));
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    assert!(ends(&mut client));
    client.write_all(b"afterwards").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(heard.recv_timeout(SOON).unwrap(), "afterwards");
    stage.metric_becomes("gatehouse_nlb_ActiveFlowCount_TLS", 0);
}

#[test]
fn a_slow_reader_gets_everything_in_order() {
    let (stage, _target) = behind(|stage| {
        Target::start(stage.ip(2), |mut stream| {
            for number in 0..LARGE / 4 {
                if stream.write_all(&u32::try_from(number).unwrap().to_be_bytes()).is_err() {
                    return;
                }
            }
        })
    });
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    // Nobody reads until every buffer on the way is full: what was forwarded stands still then.
    let mut last = -1;
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(300) {
        let forwarded = stage.metric("gatehouse_nlb_ProcessedBytes_TLS_total");
        if forwarded != last {
            (last, since) = (forwarded, Instant::now());
        }
        thread::yield_now();
    }
    assert!(last < i64::try_from(LARGE).unwrap(), "{last} bytes were taken though nobody reads");
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), LARGE);
    let in_order = all
        .chunks(4)
        .enumerate()
        .all(|(number, bytes)| bytes == u32::try_from(number).unwrap().to_be_bytes());
    assert!(in_order, "bytes were lost or mixed");
}

#[test]
fn both_ways_are_busy_at_once() {
    let (stage, _target) = behind(|stage| Target::echo(stage.ip(2)));
    let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
    for round in 0..200u32 {
        let bytes: Vec<u8> = (0..round * 97).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
        assert_eq!(echo(&mut client, &bytes).unwrap(), bytes);
    }

    let mut plain = Stage::header();
    let target = Target::start(plain.ip(2), |mut stream| {
        skip_header(&mut stream);
        copy(stream);
    });
    plain.group("main", "TCP", &[target.address]);
    plain.apply();
    let mut writer = connect(plain.address()).unwrap();
    let mut reader = writer.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let chunk: Vec<u8> = (0..=255).collect();
        for _ in 0..LARGE / 256 {
            writer.write_all(&chunk).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    sender.join().unwrap();
    assert_eq!(all.len(), LARGE);
    assert!(all.chunks(256).all(|chunk| chunk.iter().zip(0..=255).all(|(byte, own)| *byte == own)));
    eventually("end of the flow", || plain.active_flows() == 0);
    assert_eq!(plain.metric("gatehouse_nlb_ProcessedBytes_total"), 2 * i64::try_from(LARGE).unwrap());
    assert_eq!(plain.metric("gatehouse_nlb_ActiveFlowCount_TLS"), 0);
}

#[test]
fn a_targets_reset_is_a_reset_for_the_client() {
    let mut stage = Stage::header();
    let target = Target::start(stage.ip(2), |mut stream| {
        skip_header(&mut stream);
        stream.read_exact(&mut [0; 5]).unwrap();
        reset(&stream);
    });
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let mut client = connect(stage.address()).unwrap();
    client.write_all(b"hello").unwrap();
    let error = client.read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(stage.metric("gatehouse_nlb_TCP_Target_Reset_Count_total"), 1);
}

#[test]
fn a_clients_reset_is_a_reset_for_the_target() {
    let (said, heard) = mpsc::channel();
    let (stage, _target) = behind(move |stage| {
        Target::start(stage.ip(2), move |mut stream| {
            let mut hello = [0; 5];
            stream.read_exact(&mut hello).unwrap();
            stream.write_all(&hello).unwrap();
            said.send(stream.read(&mut [0; 1]).map_err(|error| error.kind())).unwrap();
        })
    });
    // Without a last word in TLS, an end may be somebody's who wants the rest to be lost.
    for is_reset in [true, false] {
        let mut client = connect_tls(stage.address(), "a.test", &[]).unwrap();
        // A reset overtakes what was not read yet.
        assert_eq!(echo(&mut client, b"hello").unwrap(), b"hello");
        if is_reset {
            reset(&client.sock);
        }
        drop(client);
        assert_eq!(
            heard.recv_timeout(SOON).unwrap(),
            Err(io::ErrorKind::ConnectionReset),
            "reset {is_reset}"
        );
    }
}

#[test]
fn a_silent_connection_is_ended_and_a_talking_one_is_not() {
    let limits = Limits { idle_timeout: Duration::from_millis(400), ..LIMITS };
    let mut stage = Stage::with(limits, 1, &[&certificate(&["a.test"])]);
    let target = Target::echo(stage.ip(2));
    stage.group("main", "TCP", &[target.address]);
    stage.apply();
    let mut silent = connect_tls(stage.address(), "a.test", &[]).unwrap();
    let mut talking = connect_tls(stage.address(), "a.test", &[]).unwrap();
    let begun = Instant::now();
    let ended = thread::spawn(move || ends(&mut silent));
    while begun.elapsed() < 3 * limits.idle_timeout {
        assert_eq!(echo(&mut talking, b"hello").unwrap(), b"hello");
    }
    assert!(ended.join().unwrap());
    assert!(ends(&mut talking), "now it is silent");
    assert_eq!(stage.metric("gatehouse_nlb_TCP_ELB_Reset_Count_total"), 2);
}

/// More than all buffers between two ends hold.
const LARGE: usize = 24 << 20;
