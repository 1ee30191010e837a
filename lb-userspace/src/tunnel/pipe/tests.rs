//! A lane and its pipe against an agent that the test plays, frame by frame, over a stream in memory.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::snapshot::link::LaneTarget;
use crate::tunnel::frame::header::MAX_DATA;
use crate::tunnel::message_io::{Incoming, read_incoming, write_message};

type Kept = Rc<RefCell<Option<Lane<DuplexStream>>>>;

/// A pipe just begun, the agent's end of its lane, and where the lane goes when the pipe is dropped.
fn begin(buffer: usize) -> (Pipe<DuplexStream>, DuplexStream, Kept) {
    let (near, far) = duplex(buffer);
    let (pipe, kept) = begin_on(Lane::new(near, Instant::now()));
    (pipe, far, kept)
}

fn begin_on(mut lane: Lane<DuplexStream>) -> (Pipe<DuplexStream>, Kept) {
    assert!(lane.begin(|open_id| Open {
        open_id,
        target: LaneTarget([7; 16]),
        deadline_ms: 1,
        flags: 0,
        generation: 3,
    }));
    let kept = Kept::default();
    let keep = Rc::clone(&kept);
    let pipe = Pipe::new(lane, Box::new(move |lane| *keep.borrow_mut() = Some(lane)));
    (pipe, kept)
}

async fn message(agent: &mut DuplexStream) -> Message {
    match read_incoming(agent).await.unwrap() {
        Incoming::Message(message) => message,
        Incoming::Data(length) => panic!("DATA of {length} bytes"),
    }
}

async fn data(agent: &mut DuplexStream) -> Vec<u8> {
    let Incoming::Data(length) = read_incoming(agent).await.unwrap() else { panic!("no DATA") };
    let mut data = vec![0; length];
    agent.read_exact(&mut data).await.unwrap();
    data
}

async fn opened(agent: &mut DuplexStream) -> u64 {
    let Message::Open(open) = message(agent).await else { panic!("no OPEN") };
    write_message(agent, &Message::OpenOk { open_id: open.open_id }).await.unwrap();
    open.open_id
}

async fn send(agent: &mut DuplexStream, data: &[u8]) {
    agent.write_all(&Header::data(data.len()).encode()).await.unwrap();
    agent.write_all(data).await.unwrap();
}

fn take(kept: &Kept) -> Lane<DuplexStream> {
    kept.borrow_mut().take().expect("the lane came back")
}

#[tokio::test]
async fn the_open_travels_with_the_first_bytes() {
    let (mut pipe, mut agent, _) = begin(1_000);
    pipe.write_all(b"GET").await.unwrap();
    let mut bytes = vec![0; 1_000];
    let read = agent.read(&mut bytes).await.unwrap();
    assert_eq!(read, HEADER_LEN + 40 + HEADER_LEN + 3, "in one piece");
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_lane_carries_the_next_connection() {
    let (mut pipe, mut agent, mut kept) = begin(1_000);
    for round in 1..=3 {
        pipe.write_all(b"ping").await.unwrap();
        assert_eq!(opened(&mut agent).await, round);
        assert_eq!(data(&mut agent).await, b"ping");
        send(&mut agent, b"po").await;
        send(&mut agent, b"ng").await;
        write_message(&mut agent, &Message::Eof).await.unwrap();
        let mut answer = String::new();
        pipe.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "pong");
        drop(pipe);
        let mut lane = take(&kept);
        assert!(lane.finish().await && lane.is_idle());
        assert_eq!(message(&mut agent).await, Message::Eof);
        (pipe, kept) = begin_on(lane);
    }
}

#[tokio::test]
async fn a_refused_open_says_that_nothing_was_delivered() {
    let (mut pipe, mut agent, kept) = begin(1_000);
    pipe.write_all(b"POST").await.unwrap();
    let Message::Open(open) = message(&mut agent).await else { panic!("no OPEN") };
    let refusal =
        Message::OpenErr { open_id: open.open_id, code: RefusalCode::Connect, reason: "refused".to_owned() };
    write_message(&mut agent, &refusal).await.unwrap();
    let error = pipe.read_u8().await.unwrap_err();
    assert!(NotDelivered::is_in(&error), "{error:?}");
    assert!(pipe.write_all(b"more").await.is_err());
    drop(pipe);
    let mut lane = take(&kept);
    assert!(lane.finish().await && lane.is_idle());
    assert_eq!(data(&mut agent).await, b"POST");
    assert_eq!(message(&mut agent).await, Message::Eof);
}

#[tokio::test]
async fn confirm_waits_for_the_agents_answer() {
    let (mut pipe, mut agent, _) = begin(1_000);
    let (confirmed, _) = tokio::join!(pipe.confirm(), opened(&mut agent));
    confirmed.unwrap();
    let (mut pipe, mut agent, _) = begin(1_000);
    let refuse = async {
        let Message::Open(open) = message(&mut agent).await else { panic!("no OPEN") };
        let message =
            Message::OpenErr { open_id: open.open_id, code: RefusalCode::Deadline, reason: String::new() };
        write_message(&mut agent, &message).await.unwrap();
    };
    let (confirmed, ()) = tokio::join!(pipe.confirm(), refuse);
    assert!(matches!(confirmed, Err(ConnectError::TimedOut)));
}

#[tokio::test]
async fn a_large_write_becomes_frames_however_little_the_stream_takes() {
    let body: Vec<u8> = (0..200_000_u32).map(|at| at.to_be_bytes()[3]).collect();
    let (mut pipe, mut agent, _) = begin(777);
    let write = async {
        pipe.write_all(&body).await.unwrap();
        pipe.shutdown().await.unwrap();
    };
    let read = async {
        opened(&mut agent).await;
        let mut got = Vec::new();
        loop {
            match read_incoming(&mut agent).await.unwrap() {
                Incoming::Data(length) => {
                    let from = got.len();
                    got.resize(from + length, 0);
                    agent.read_exact(&mut got[from..]).await.unwrap();
                }
                Incoming::Message(message) => {
                    assert_eq!(message, Message::Eof);
                    return got;
                }
            }
        }
    };
    let ((), got) = tokio::join!(write, read);
    assert!(got == body);
}

#[tokio::test]
async fn what_is_left_of_an_abandoned_response_is_discarded_up_to_a_limit() {
    for (size, reused) in [(DISCARD / 2, true), (DISCARD * 4, false)] {
        let (mut pipe, mut agent, kept) = begin(100_000);
        pipe.write_all(b"GET").await.unwrap();
        opened(&mut agent).await;
        drop(pipe);
        let mut lane = take(&kept);
        let respond = async {
            for chunk in vec![0; size].chunks(MAX_DATA) {
                let mut frame = Header::data(chunk.len()).encode().to_vec();
                frame.extend_from_slice(chunk);
                if agent.write_all(&frame).await.is_err() {
                    return;
                }
            }
            let _ = write_message(&mut agent, &Message::Eof).await;
        };
        let finish = async {
            let finished = lane.finish().await;
            let idle = lane.is_idle();
            drop(lane);
            (finished, idle)
        };
        let ((), (finished, idle)) = tokio::join!(respond, finish);
        assert_eq!((finished, idle), (reused, reused), "{size}");
    }
}

#[tokio::test]
async fn a_reset_breaks_the_pipe_and_the_lane() {
    let (mut pipe, mut agent, kept) = begin(1_000);
    pipe.write_all(b"GET").await.unwrap();
    opened(&mut agent).await;
    write_message(&mut agent, &Message::Reset { code: ResetCode::Target }).await.unwrap();
    let error = pipe.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(!NotDelivered::is_in(&error));
    drop(pipe);
    assert!(!take(&kept).finish().await);
}

#[tokio::test]
async fn an_idle_lane_is_pinged_and_closed_when_nobody_answers() {
    let (near, mut agent) = duplex(1_000);
    let start = Instant::now();
    let mut lane = Lane::new(near, start);
    assert!(lane.check(start));
    assert!(lane.check(start + PING_AFTER));
    assert!(matches!(message(&mut agent).await, Message::Ping { .. }));
    write_message(&mut agent, &Message::Pong { token: 0 }).await.unwrap();
    assert!(lane.check(start + PING_AFTER + PONG_WITHIN), "answered");
    assert!(lane.check(start + 3 * PING_AFTER));
    assert!(!lane.check(start + 3 * PING_AFTER + PONG_WITHIN), "not answered");
    let (near, agent) = duplex(1_000);
    let mut lane = Lane::new(near, start);
    drop(agent);
    assert!(!lane.check(start), "closed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever an agent sends, the pipe ends in an error or an end, never in a panic or for ever.
    #[test]
    fn hostile_bytes_end_the_pipe(
        frames in prop::collection::vec((0_u8..16, 0_usize..60, any::<u8>()), 0..12),
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut pipe, mut agent, kept) = begin(10_000);
            let mut bytes = Message::OpenOk { open_id: 1 }.frame();
            for (kind, length, fill) in frames {
                bytes.extend_from_slice(&[kind, 0, 0, 0, 0, 0, 0, u8::try_from(length).unwrap()]);
                bytes.extend(std::iter::repeat_n(fill, length));
            }
            bytes.extend(noise);
            agent.write_all(&bytes).await.unwrap();
            drop(agent);
            let _ = pipe.write_all(b"GET").await;
            let mut received = Vec::new();
            let _ = pipe.read_to_end(&mut received).await;
            drop(pipe);
            let _ = take(&kept).finish().await;
        });
    }
}
