//! An answer written, no longer than its way carries.
//!
//! Before it: `zone` or another server answered. After it: bytes on a socket.

use hickory_proto::{
    ProtoError,
    op::{Edns, Message, Metadata, ResponseCode},
    serialize::binary::{BinEncodable as _, BinEncoder},
};

use super::{
    question::{Echo, LEAST_PAYLOAD},
    zone::Answer,
};

/// What carries a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram each.
    Udp,
    /// A stream of them.
    Tcp,
}

/// A written answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The message.
    pub bytes: Vec<u8>,
    /// Its code.
    pub code: ResponseCode,
    /// Whether it says to ask again over TCP.
    pub truncated: bool,
}

/// Writes an answer. `recursive` is whether other servers are asked for names of no zone.
///
/// What does not fit is left out: first the additional records, which the client can ask for; then all, and the client
/// is told to come by TCP (RFC 2181, 9: only what was asked for makes an answer truncated).
pub fn write(echo: &Echo, answer: Answer, transport: Transport, recursive: bool) -> Reply {
    let limit = limit(echo, transport);
    let code = answer.code;
    let mut message = message(echo, answer, recursive);
    let mut written = fitting(&message, limit);
    if matches!(written, Ok(None)) && !message.additionals.is_empty() {
        message.additionals.clear();
        written = fitting(&message, limit);
    }
    match written {
        Ok(Some(bytes)) => Reply { bytes, code, truncated: false },
        Ok(None) => Reply { bytes: message.truncate().to_vec().unwrap_or_default(), code, truncated: true },
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            let code = ResponseCode::ServFail;
            let failed = self::message(echo, Answer::code(code), recursive);
            Reply { bytes: failed.to_vec().unwrap_or_default(), code, truncated: false }
        }
    }
}

fn message(echo: &Echo, answer: Answer, recursive: bool) -> Message {
    let mut message = Message::response(echo.metadata.id, echo.metadata.op_code);
    message.metadata = Metadata::response_from_request(&echo.metadata);
    message.metadata.response_code = answer.code;
    message.metadata.authoritative = answer.authoritative;
    message.metadata.truncation = answer.truncated;
    message.metadata.recursion_available = recursive;
    message.queries.extend(echo.query.clone());
    message.answers = answer.answers;
    message.authorities = answer.authorities;
    message.additionals = answer.additionals;
    message.edns = echo.edns.map(|client| {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD).set_dnssec_ok(client.dnssec_ok);
        edns
    });
    message
}

/// The message whole, if it has no more than `limit` bytes.
fn fitting(message: &Message, limit: u16) -> Result<Option<Vec<u8>>, ProtoError> {
    if message.metadata.truncation {
        return Ok(None);
    }
    let mut bytes = Vec::with_capacity(usize::from(LEAST_PAYLOAD));
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(limit);
    message.emit(&mut encoder)?;
    // The encoder stops where the space ends, and says so in the header.
    let is_truncated = bytes.get(2).is_some_and(|flags| flags & TRUNCATED != 0);
    Ok((!is_truncated).then_some(bytes))
}

fn limit(echo: &Echo, transport: Transport) -> u16 {
    match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => echo.edns.map_or(LEAST_PAYLOAD, |client| client.payload.min(PAYLOAD)),
    }
}

/// The most bytes of a datagram: no link fragments it (DNS Flag Day 2020).
pub(super) const PAYLOAD: u16 = 1_232;

/// TC in the third byte of a header (RFC 1035, 4.1.1).
const TRUNCATED: u8 = 0b10;

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::{
        op::{MessageType, OpCode, Query},
        rr::{Name, RData, Record, RecordType, rdata::A},
    };

    use super::{super::question::ClientEdns, *};

    fn echo(edns: Option<u16>) -> Echo {
        Echo {
            metadata: Metadata::new(9, MessageType::Query, OpCode::Query),
            query: Some(Query::query(Name::from_str("web.demo.local.").unwrap(), RecordType::A)),
            edns: edns.map(|payload| ClientEdns { payload, dnssec_ok: true }),
        }
    }

    fn records(count: usize) -> Vec<Record> {
        let record = |number| {
            let name = Name::from_str(&format!("host-{number}.web.demo.local.")).unwrap();
            Record::from_rdata(name, 60, RData::A(A::new(10, 0, 0, 1)))
        };
        (0..count).map(record).collect()
    }

    /// How many answers and additional records came, and whether there are more.
    fn sizes(
        answers: usize,
        additionals: usize,
        edns: Option<u16>,
        transport: Transport,
    ) -> (usize, usize, bool) {
        let answer =
            Answer { answers: records(answers), additionals: records(additionals), ..Answer::default() };
        let reply = write(&echo(edns), answer, transport, false);
        let message = Message::from_vec(&reply.bytes).unwrap();
        let most = if transport == Transport::Tcp { 65_535 } else { edns.unwrap_or(512).min(1_232) };
        assert!(reply.bytes.len() <= usize::from(most), "{} bytes", reply.bytes.len());
        assert_eq!(message.metadata.truncation, reply.truncated);
        assert_eq!(message.queries.len(), 1);
        assert_eq!(message.edns.as_ref().map(Edns::max_payload), edns.map(|_| 1_232));
        (message.answers.len(), message.additionals.len(), reply.truncated)
    }

    #[test]
    fn what_fits_is_whole_and_what_does_not_is_shortened_in_order() {
        use Transport::{Tcp, Udp};
        assert_eq!(sizes(8, 8, None, Udp), (8, 8, false));
        assert_eq!(sizes(8, 100, None, Udp), (8, 0, false));
        assert_eq!(sizes(30, 0, None, Udp), (0, 0, true));
        assert_eq!(sizes(30, 0, Some(1_000), Udp), (30, 0, false));
        assert_eq!(sizes(60, 0, Some(60_000), Udp), (0, 0, true));
        assert_eq!(sizes(500, 500, None, Tcp), (500, 500, false));
        assert_eq!(sizes(4_000, 0, None, Tcp), (0, 0, true));
    }

    #[test]
    fn what_another_server_could_not_send_is_passed_on_as_truncated() {
        let answer = Answer { answers: records(1), truncated: true, ..Answer::default() };
        let reply = write(&echo(None), answer, Transport::Udp, true);
        let message = Message::from_vec(&reply.bytes).unwrap();
        assert!(reply.truncated && message.metadata.truncation && message.metadata.recursion_available);
        assert_eq!(message.answers.len(), 0);
    }

    #[test]
    fn codes_beyond_the_header_go_into_edns() {
        let reply = write(&echo(Some(512)), Answer::code(ResponseCode::BADVERS), Transport::Udp, false);
        assert_eq!(Message::from_vec(&reply.bytes).unwrap().metadata.response_code.low(), 0);
        assert_eq!(u16::from(Message::from_vec(&reply.bytes).unwrap().metadata.response_code), 16);
    }
}
