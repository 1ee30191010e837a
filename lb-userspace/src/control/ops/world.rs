//! A state to call operations on, for tests: a VPC with two subnets, a group and an instance, and the executor's way of
//! keeping what succeeds and dropping what does not.

use serde_json::Value;

use super::{ApiError, Caller, Code, find, interfaces};
use crate::model::{
    id::{InstanceId, TimestampMs},
    network::{Instance, InstanceState, InterfaceOwner, SecurityGroup, Subnet, Vpc},
    state::{Draft, Resource, State},
};

pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) now: TimestampMs,
    calls: u8,
}

impl World {
    pub(crate) fn new() -> Self {
        let mut draft = Draft::new(State::default(), 0, [9; 32]);
        draft.put(Vpc {
            id: "vpc-1".into(),
            cidr: "10.0.0.0/16".parse().unwrap(),
            ipv6: None,
            index: 0,
            dns_support: true,
            dns_hostnames: true,
            tags: Vec::new(),
        });
        for (id, cidr, zone) in
            [("subnet-a", "10.0.1.0/24", "eu-central-1a"), ("subnet-b", "10.0.2.0/24", "eu-central-1b")]
        {
            draft.put(Subnet {
                id: id.into(),
                vpc_id: "vpc-1".into(),
                cidr: cidr.parse().unwrap(),
                ipv6: None,
                assign_ipv6: false,
                zone: zone.to_owned(),
                tags: Vec::new(),
            });
        }
        draft.put(SecurityGroup {
            id: "sg-1".into(),
            vpc_id: "vpc-1".into(),
            name: "default".to_owned(),
            description: String::new(),
            ingress: Vec::new(),
            egress: Vec::new(),
            tags: Vec::new(),
        });
        let subnet = Subnet::clone(draft.one::<Subnet>("subnet-a").unwrap());
        let address = interfaces::free_address(draft.state(), &subnet).unwrap();
        let owner = InterfaceOwner::Instance(InstanceId::from("i-1"));
        let interface = interfaces::attach(&mut draft, &subnet, address, Vec::new(), owner, String::new());
        draft.put(Instance {
            id: "i-1".into(),
            vpc_id: "vpc-1".into(),
            subnet_id: "subnet-a".into(),
            interface_id: interface.id,
            address,
            instance_type: "t3.micro".to_owned(),
            image_id: "ami-1".to_owned(),
            ecs_cluster: None,
            state: InstanceState::Running,
            launched_at: 0,
            tags: Vec::new(),
        });
        Self { state: draft.finish().0, now: 1_000, calls: 0 }
    }

    /// Calls an operation; what it changed is kept if it succeeds.
    pub(crate) fn call(&mut self, service: &str, operation: &str, input: Value) -> Result<Value, ApiError> {
        let handler = find(service, operation).unwrap_or_else(|| panic!("{operation} is not built"));
        let caller = caller();
        self.change(|draft| handler(draft, &caller, input))
    }

    /// Calls an operation that must succeed.
    pub(crate) fn ok(&mut self, service: &str, operation: &str, input: Value) -> Value {
        self.call(service, operation, input)
            .unwrap_or_else(|error| panic!("{operation}: {:?} {}", error.code, error.message))
    }

    /// Calls an operation that must be refused; answers code and message.
    pub(crate) fn refuse(&mut self, service: &str, operation: &str, input: Value) -> (String, String) {
        let error = self.call(service, operation, input).expect_err(operation);
        let code = match error.code {
            Code::Named(name) => name.into_owned(),
            other => format!("{other:?}"),
        };
        (code, error.message)
    }

    /// Changes the state as the executor does: a failed change is dropped.
    pub(crate) fn change<T, E>(&mut self, change: impl FnOnce(&mut Draft) -> Result<T, E>) -> Result<T, E> {
        self.calls = self.calls.wrapping_add(1);
        let mut seed = [self.calls; 32];
        seed[0] = u8::try_from(self.now % 251).unwrap();
        let mut draft = Draft::new(self.state.clone(), self.now, seed);
        let done = change(&mut draft)?;
        self.state = draft.finish().0;
        Ok(done)
    }

    /// The only row of a table.
    pub(crate) fn only<T: Resource>(&self) -> &T {
        let table = T::table(&self.state);
        assert_eq!(table.len(), 1, "one row of {}", T::TABLE);
        table.values().next().unwrap()
    }
}

/// Who calls in tests.
pub(crate) fn caller() -> Caller {
    Caller {
        account: "000000000000".to_owned(),
        region: "eu-central-1".to_owned(),
        access_key_id: "AKIAGATEHOUSE".to_owned(),
        principal: "arn:aws:iam::000000000000:root".to_owned(),
    }
}
