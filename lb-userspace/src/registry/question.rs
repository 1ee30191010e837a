//! A message read: a question, or what it gets instead of an answer.
//!
//! Before it: bytes that anybody in the VPC can send. After it: `zone` sees one name and one type of record.

use hickory_proto::{
    op::{Header, Message, MessageType, Metadata, OpCode, Query, ResponseCode},
    rr::{DNSClass, RecordType},
    serialize::binary::{BinDecodable as _, BinDecoder},
};

/// What a message turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// A question.
    Question(Question),
    /// A query that gets this code and nothing else.
    Refused(Echo, ResponseCode),
    /// No query: too short, or an answer itself. Answering it could go on for ever.
    Noise,
}

/// One name and one type of record.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Name, type and class IN.
    pub query: Query,
    /// What the answer repeats.
    pub echo: Echo,
}

/// What an answer repeats of its query.
#[derive(Debug, Clone, PartialEq)]
pub struct Echo {
    /// The header, from which the answer's is made.
    pub metadata: Metadata,
    /// The question, if there is one.
    pub query: Option<Query>,
    /// What the client says of itself by EDNS, if it does.
    pub edns: Option<ClientEdns>,
}

/// What a client says of itself (RFC 6891).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientEdns {
    /// How many bytes it takes over UDP; at least 512.
    pub payload: u16,
    /// Whether it wants signatures.
    pub dnssec_ok: bool,
}

/// Reads a message.
pub fn read(bytes: &[u8]) -> Received {
    let Ok(header) = Header::read(&mut BinDecoder::new(bytes)) else { return Received::Noise };
    if header.metadata.message_type == MessageType::Response {
        return Received::Noise;
    }
    let bare = Echo { metadata: header.metadata, query: None, edns: None };
    if header.metadata.op_code != OpCode::Query {
        return Received::Refused(bare, ResponseCode::NotImp);
    }
    // Looked at before the rest is read: a count costs the sender nothing.
    if header.counts.queries != 1 {
        return Received::Refused(bare, ResponseCode::FormErr);
    }
    let Ok(mut message) = Message::from_vec(bytes) else {
        return Received::Refused(bare, ResponseCode::FormErr);
    };
    let Some(query) = message.queries.pop() else {
        return Received::Refused(bare, ResponseCode::FormErr);
    };
    let edns = message.edns.as_ref().map(|edns| ClientEdns {
        payload: edns.max_payload().max(LEAST_PAYLOAD),
        dnssec_ok: edns.flags().dnssec_ok,
    });
    let echo = Echo { metadata: header.metadata, query: Some(query.clone()), edns };
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return Received::Refused(echo, ResponseCode::BADVERS);
    }
    // Zones are not handed out whole, and there is only the Internet's class.
    if query.query_class != DNSClass::IN || matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) {
        return Received::Refused(echo, ResponseCode::Refused);
    }
    Received::Question(Question { query, echo })
}

/// What every client takes over UDP (RFC 1035, 4.2.1).
pub(super) const LEAST_PAYLOAD: u16 = 512;

#[cfg(test)]
mod tests {
    use hickory_proto::{op::Edns, rr::Name};
    use proptest::prelude::*;

    use super::*;

    fn message(kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii("Web.demo.local.").unwrap(), kind));
        message.metadata.recursion_desired = true;
        message
    }

    fn edns(version: u8) -> Edns {
        let mut edns = Edns::new();
        edns.set_max_payload(100).set_version(version).set_dnssec_ok(true);
        edns
    }

    fn code(message: &Message) -> Option<ResponseCode> {
        match read(&message.to_vec().unwrap()) {
            Received::Refused(_, code) => Some(code),
            Received::Question(_) => None,
            Received::Noise => panic!("{message:?} is noise"),
        }
    }

    #[test]
    fn a_question_keeps_its_spelling_and_what_edns_says() {
        let mut message = message(RecordType::SRV);
        message.set_edns(edns(0));
        let Received::Question(question) = read(&message.to_vec().unwrap()) else { panic!("no question") };
        assert_eq!(question.query.name.to_ascii(), "Web.demo.local.");
        assert_eq!(question.query.query_type, RecordType::SRV);
        assert!(question.echo.metadata.recursion_desired);
        assert_eq!(question.echo.edns, Some(ClientEdns { payload: 512, dnssec_ok: true }));
    }

    #[test]
    fn what_is_no_plain_question_gets_its_code() {
        assert_eq!(code(&message(RecordType::A)), None);
        assert_eq!(code(&message(RecordType::AXFR)), Some(ResponseCode::Refused));
        let mut chaos = message(RecordType::TXT);
        chaos.queries[0].query_class = DNSClass::CH;
        assert_eq!(code(&chaos), Some(ResponseCode::Refused));
        let mut update = message(RecordType::A);
        update.metadata.op_code = OpCode::Update;
        assert_eq!(code(&update), Some(ResponseCode::NotImp));
        let mut twice = message(RecordType::A);
        twice.queries.push(twice.queries[0].clone());
        assert_eq!(code(&twice), Some(ResponseCode::FormErr));
        let mut newer = message(RecordType::A);
        newer.set_edns(edns(1));
        assert_eq!(code(&newer), Some(ResponseCode::BADVERS));
    }

    #[test]
    fn answers_and_scraps_are_noise_and_what_breaks_off_is_malformed() {
        let mut answer = message(RecordType::A);
        answer.metadata.message_type = MessageType::Response;
        assert_eq!(read(&answer.to_vec().unwrap()), Received::Noise);
        let bytes = message(RecordType::A).to_vec().unwrap();
        assert_eq!(read(&bytes[..11]), Received::Noise);
        assert!(matches!(read(&bytes[..20]), Received::Refused(_, ResponseCode::FormErr)));
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            read(&bytes);
        }

        #[test]
        fn no_change_of_a_good_query_is_a_panic(at in 0usize..60, to in any::<u8>(), cut in 0usize..60) {
            let mut message = message(RecordType::SRV);
            message.set_edns(edns(0));
            let mut bytes = message.to_vec().unwrap();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = to;
            }
            bytes.truncate(cut);
            read(&bytes);
        }
    }
}
