//! What becomes of a message: the whole decision, bytes in and bytes out.
//!
//! Before it: `serve` received a message of a client. After it: `serve` sends the reply, or has `forward` ask another
//! server and sends what comes of that.

use hickory_proto::{
    op::{Query, ResponseCode},
    rr::Record,
};

use super::{
    question::{Echo, Question, Received, read},
    reply::{Reply, Transport, write},
    zone::{Answer, Decision, Zones},
};

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq)]
pub enum Considered {
    /// This is sent.
    Reply(Reply),
    /// Another server is asked; [`Errand::conclude`] makes the reply of what it answers.
    Ask(Errand),
    /// Nothing is sent.
    Ignore,
}

/// A question for another server.
#[derive(Debug, Clone, PartialEq)]
pub struct Errand {
    /// The question: the client's, or where an alias of it led.
    pub query: Query,
    /// What the client said.
    pub echo: Echo,
    /// What the client came by. The other server is asked by the same, so that an answer is as long as the client takes.
    pub transport: Transport,
    aliases: Vec<Record>,
}

/// Considers a message. `recursive` is whether there are other servers to ask, `seed` decides which instances of many
/// an answer names.
pub fn consider(zones: &Zones, bytes: &[u8], transport: Transport, recursive: bool, seed: u64) -> Considered {
    let reply = |echo: &Echo, answer| Considered::Reply(write(echo, answer, transport, recursive));
    let Question { query, echo } = match read(bytes) {
        Received::Question(question) => question,
        Received::Refused(echo, code) => return reply(&echo, Answer::code(code)),
        Received::Noise => return Considered::Ignore,
    };
    match zones.answer(&query.name, query.query_type, seed) {
        Decision::Answer(answer) => reply(&echo, answer),
        Decision::Elsewhere { name, aliases } if recursive && echo.metadata.recursion_desired => {
            let query = Query::query(name, query.query_type);
            Considered::Ask(Errand { query, echo, transport, aliases })
        }
        Decision::Elsewhere { aliases, .. } if aliases.is_empty() => {
            reply(&echo, Answer::code(ResponseCode::Refused))
        }
        // Where it leads is for the client to find out.
        Decision::Elsewhere { aliases, .. } => {
            reply(&echo, Answer { answers: aliases, authoritative: true, ..Answer::default() })
        }
    }
}

impl Errand {
    /// The reply to the client, given what another server answered; `None` if none did.
    pub fn conclude(self, answered: Option<Answer>) -> Reply {
        let Self { echo, transport, mut aliases, .. } = self;
        let mut answer = answered.unwrap_or_else(|| Answer::code(ResponseCode::ServFail));
        if !aliases.is_empty() && answer.code != ResponseCode::ServFail {
            // AA is about the name that was asked for (RFC 1035, 4.1.1), which is ours.
            answer.authoritative = true;
            aliases.append(&mut answer.answers);
            answer.answers = aliases;
        }
        write(&echo, answer, transport, true)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, str::FromStr as _};

    use hickory_proto::{
        op::{Message, MessageType, OpCode},
        rr::{Name, RData, RecordType, rdata::A},
    };
    use proptest::prelude::*;

    use super::*;
    use crate::snapshot::zone::{
        RecordKind, ResolverView, Routing, ZoneInstanceView, ZoneServiceView, ZoneView,
    };

    /// `away.demo.local` is another name for `www.example.com`.
    fn zones() -> Zones {
        let instance = ZoneInstanceView {
            ipv4: None,
            ipv6: None,
            port: None,
            cname: Some("www.example.com.".to_owned()),
            healthy: true,
        };
        let service = ZoneServiceView {
            routing: Routing::Weighted,
            records: BTreeMap::from([(RecordKind::Cname, 30)]),
            instances: BTreeMap::from([("i".to_owned(), instance)]),
        };
        let zone = ZoneView { soa_ttl_s: 15, services: BTreeMap::from([("away".to_owned(), service)]) };
        Zones::compile(&ResolverView {
            address: "10.0.0.2".parse().unwrap(),
            clients: "10.0.0.0/16".parse().unwrap(),
            zones: BTreeMap::from([("demo.local".to_owned(), zone)]),
        })
    }

    fn query(name: &str, recursion_desired: bool) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_str(name).unwrap(), RecordType::A));
        message.metadata.recursion_desired = recursion_desired;
        message.to_vec().unwrap()
    }

    fn considered(name: &str, recursive: bool, recursion_desired: bool) -> Considered {
        consider(&zones(), &query(name, recursion_desired), Transport::Udp, recursive, 1)
    }

    fn message(considered: Considered) -> Message {
        let Considered::Reply(reply) = considered else { panic!("{considered:?}") };
        Message::from_vec(&reply.bytes).unwrap()
    }

    fn answer() -> Answer {
        let name = Name::from_str("www.example.com.").unwrap();
        let record = Record::from_rdata(name, 5, RData::A(A::new(192, 0, 2, 80)));
        Answer { answers: vec![record], ..Answer::default() }
    }

    #[test]
    fn names_of_no_zone_are_asked_for_elsewhere_or_refused() {
        assert!(matches!(considered("www.example.com.", true, true), Considered::Ask(_)));
        for (recursive, desired) in [(false, true), (true, false)] {
            let refused = message(considered("www.example.com.", recursive, desired));
            assert_eq!(refused.metadata.response_code, ResponseCode::Refused);
            assert_eq!(refused.metadata.recursion_available, recursive);
        }
    }

    #[test]
    fn an_alias_leads_to_another_servers_answer() {
        let Considered::Ask(errand) = considered("away.demo.local.", true, true) else { panic!("no errand") };
        assert_eq!(errand.query.name.to_ascii(), "www.example.com.");
        let reply = Message::from_vec(&errand.clone().conclude(Some(answer())).bytes).unwrap();
        let kinds: Vec<RecordType> = reply.answers.iter().map(Record::record_type).collect();
        assert_eq!(kinds, [RecordType::CNAME, RecordType::A]);
        assert_eq!(reply.queries[0].name.to_ascii(), "away.demo.local.");
        assert!(reply.metadata.authoritative);
        let failed = Message::from_vec(&errand.conclude(None).bytes).unwrap();
        assert_eq!((failed.metadata.response_code, failed.answers.len()), (ResponseCode::ServFail, 0));
    }

    #[test]
    fn an_alias_without_another_server_is_an_answer_by_itself() {
        let reply = message(considered("away.demo.local.", false, true));
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(reply.answers.len(), 1);
    }

    proptest! {
        #[test]
        fn every_query_gets_a_message_that_can_be_read_and_nothing_else_gets_one(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            begin in prop::option::of(Just(())),
            seed in any::<u64>(),
        ) {
            // Half of them begin as a query for a name of the zone does.
            if begin.is_some() {
                let good = query("away.demo.local.", seed.is_multiple_of(2));
                let keep = usize::try_from(seed % 40).unwrap();
                bytes.splice(..0, good[..keep.min(good.len())].iter().copied());
            }
            let is_query = bytes.len() >= 12 && bytes[2] & 0x80 == 0;
            match consider(&zones(), &bytes, Transport::Udp, true, seed) {
                Considered::Ignore => prop_assert!(!is_query),
                Considered::Ask(errand) => prop_assert!(errand.conclude(Some(answer())).bytes.len() <= 1_232),
                Considered::Reply(reply) => {
                    let message = Message::from_vec(&reply.bytes);
                    prop_assert!(is_query && message.is_ok(), "{message:?}");
                    prop_assert_eq!(&reply.bytes[..2], &bytes[..2]);
                }
            }
        }
    }
}
