//! Stacks brought forward, a step at a time, in the writer's commits.
//!
//! The stack's row says how far it is; everything else is looked up in the state, so a stack goes on after a restart.
//! A step starts what can be started, notices what has come to stand or gone, and says when to look again.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    TemplateError,
    evaluate::{Context, Standing},
    kinds::{self, Made, Making, Readiness},
    order, parameters,
    template::Template,
};
use crate::control::{
    api::{Services, shapes::ShapesError},
    ops::{ApiError, Caller},
};
use crate::model::{
    id::TimestampMs,
    stack::{Stack, StackEvent, StackOutput, StackResource},
    state::Draft,
};

/// A deletion that is refused because something still uses the resource is tried again after this.
const RETRY_MS: u64 = 250;
/// A stack that waits is looked at again after this even if nothing tells of a change.
const LOOK_AGAIN_MS: u64 = 1_000;
/// A resource that is not gone after this has failed to be deleted.
const DELETE_TIMEOUT_MS: u64 = 600_000;
/// A resource that does not stand after this has failed to be made.
const CREATE_TIMEOUT_MS: u64 = 600_000;
/// Events of one stack; the oldest are forgotten beyond it.
const MAX_EVENTS: usize = 2_000;

/// A resource of the template that was not begun: not shown by the API.
pub const NOT_BEGUN: &str = "NOT_BEGUN";

/// A resource of the template whose condition does not hold: no part of the stack, not shown by the API.
pub const LEFT_OUT: &str = "LEFT_OUT";

/// Brings stacks forward.
pub struct Engine {
    services: Services,
}

impl Engine {
    /// An engine over this build's shape tables.
    ///
    /// # Errors
    /// When the tables are broken.
    pub fn new() -> Result<Self, ShapesError> {
        Services::load().map(|services| Self { services })
    }

    /// Brings every stack that is on its way one step forward; answers when to look again.
    pub fn step(&self, draft: &mut Draft) -> Option<TimestampMs> {
        let moving: Vec<String> = draft
            .all::<Stack>()
            .filter(|stack| stack.status.ends_with("_IN_PROGRESS"))
            .map(|stack| stack.arn.0.clone())
            .collect();
        let mut wake = None;
        for key in moving {
            let Some(stack) = draft.one::<Stack>(&key).map(|stack| Stack::clone(stack)) else { continue };
            let before = stack.clone();
            let mut progress = Progress { engine: self, draft, stack, wake: None };
            progress.step();
            let Progress { stack, wake: next, .. } = progress;
            if stack != before {
                draft.put(stack);
            }
            wake = [wake, next].into_iter().flatten().min();
        }
        wake
    }
}

struct Progress<'a> {
    engine: &'a Engine,
    draft: &'a mut Draft,
    stack: Stack,
    wake: Option<TimestampMs>,
}

impl Progress<'_> {
    fn step(&mut self) {
        let prepared = Template::parse(&self.stack.template_body).and_then(|template| {
            parameters::resolve(&template, &self.stack.parameters).map(|values| (template, values))
        });
        match prepared {
            Ok((template, values)) if self.stack.status == "CREATE_IN_PROGRESS" => {
                self.create(&template, &values)
            }
            Ok((template, _)) => self.delete(&template),
            // CreateStack refused such a template, so this version reads what an older one accepted differently.
            Err(error) if self.stack.status == "CREATE_IN_PROGRESS" => self.fail(&error.to_string()),
            Err(error) => self.end_stack("DELETE_FAILED", Some(error.to_string())),
        }
    }

    fn create(&mut self, template: &Template, values: &BTreeMap<String, String>) {
        for at in 0..self.stack.resources.len() {
            self.notice(at);
        }
        let needs = order::dependencies(template);
        let mut failed = self.failed();
        while failed.is_none() {
            let ready: Vec<usize> = (0..self.stack.resources.len())
                .filter(|at| self.stack.resources[*at].status == NOT_BEGUN)
                .filter(|at| {
                    let needs = needs.get(&self.stack.resources[*at].logical_id);
                    needs.is_none_or(|needs| needs.iter().all(|need| self.is_complete(need)))
                })
                .collect();
            if ready.is_empty() {
                break;
            }
            for at in ready {
                self.begin(at, template, values);
                self.notice(at);
            }
            failed = self.failed();
        }
        if let Some(reason) = failed {
            return self.fail(&reason);
        }
        if self.stack.resources.iter().all(is_settled) {
            match self.outputs(template, values) {
                Ok(outputs) => {
                    self.stack.outputs = outputs;
                    self.end_stack("CREATE_COMPLETE", None);
                }
                Err(error) => self.fail(&error.to_string()),
            }
        } else {
            self.look_again(LOOK_AGAIN_MS);
        }
    }

    /// Makes the resource at `at`, or notes why it cannot be made.
    fn begin(&mut self, at: usize, template: &Template, values: &BTreeMap<String, String>) {
        let Some(declared) = template.resources.get(&self.stack.resources[at].logical_id) else { return };
        let context = self.context(template, values);
        let kept = match declared.condition.as_deref().map(|condition| context.holds(condition)) {
            None | Some(Ok(true)) => context.evaluate_all(&declared.properties),
            Some(Ok(false)) => {
                self.stack.resources[at].status = LEFT_OUT.to_owned();
                return;
            }
            Some(Err(error)) => Err(error),
        };
        self.set(at, "CREATE_IN_PROGRESS", None);
        let properties = match kept {
            Ok(properties) => properties,
            Err(error) => return self.set(at, "CREATE_FAILED", Some(error.to_string())),
        };
        let Some(kind) = kinds::find(&declared.kind) else {
            let reason = format!("Template format error: Unrecognized resource types: [{}]", declared.kind);
            return self.set(at, "CREATE_FAILED", Some(reason));
        };
        if let Some(unknown) = properties.keys().find(|name| !kind.properties.contains(&name.as_str())) {
            let reason = format!("Encountered unsupported property {unknown}");
            return self.set(at, "CREATE_FAILED", Some(reason));
        }
        let made = self.making(at, properties, kind.create);
        match made {
            Ok(made) => self.made(at, made),
            Err(error) => self.set(at, "CREATE_FAILED", Some(spelled(&error))),
        }
    }

    /// Notices that a resource on its way stands, or never will.
    fn notice(&mut self, at: usize) {
        let resource = &self.stack.resources[at];
        let Some(kind) = kinds::find(&resource.resource_type) else { return };
        if resource.status != "CREATE_IN_PROGRESS" {
            return;
        }
        match (kind.readiness)(self.draft, resource) {
            Readiness::Stands(made) => {
                if let Some(made) = made {
                    self.made(at, made);
                }
                self.set(at, "CREATE_COMPLETE", None);
            }
            Readiness::Waits if self.draft.now() > resource.updated_at + CREATE_TIMEOUT_MS => {
                self.set(at, "CREATE_FAILED", Some("Resource did not stabilize in time".to_owned()));
            }
            Readiness::Waits => {}
            Readiness::Failed(reason) => self.set(at, "CREATE_FAILED", Some(reason)),
        }
    }

    /// Ends creation: everything that was made is deleted, unless the caller asked to keep it.
    fn fail(&mut self, reason: &str) {
        for at in 0..self.stack.resources.len() {
            if self.stack.resources[at].status == "CREATE_IN_PROGRESS" {
                self.set(at, "CREATE_FAILED", Some("Resource creation cancelled".to_owned()));
            }
        }
        if self.stack.disable_rollback {
            return self.end_stack("CREATE_FAILED", Some(reason.to_owned()));
        }
        self.end_stack("ROLLBACK_IN_PROGRESS", Some(reason.to_owned()));
        self.look_again(0);
    }

    /// Deletes what nothing that still exists needs; for DeleteStack and for a rollback.
    fn delete(&mut self, template: &Template) {
        let needs = order::dependencies(template);
        loop {
            let mut has_moved = false;
            for at in 0..self.stack.resources.len() {
                let resource = &self.stack.resources[at];
                let is_needed = self.stack.resources.iter().any(|other| {
                    exists(other)
                        && needs.get(&other.logical_id).is_some_and(|n| n.contains(&resource.logical_id))
                });
                if exists(resource) && !is_needed {
                    has_moved |= self.delete_one(at);
                }
            }
            if !has_moved {
                break;
            }
        }
        let is_rollback = self.stack.status == "ROLLBACK_IN_PROGRESS";
        let failed = self.stack.resources.iter().find(|resource| resource.status == "DELETE_FAILED");
        if let Some(failed) = failed {
            let reason = format!("The following resource(s) failed to delete: [{}].", failed.logical_id);
            let status = if is_rollback { "ROLLBACK_FAILED" } else { "DELETE_FAILED" };
            return self.end_stack(status, Some(reason));
        }
        if self.stack.resources.iter().any(exists) {
            return self.look_again(RETRY_MS);
        }
        if is_rollback {
            self.end_stack("ROLLBACK_COMPLETE", None);
        } else {
            self.stack.deleted_at = Some(self.draft.now());
            self.end_stack("DELETE_COMPLETE", None);
        }
    }

    /// Deletes one resource as far as it goes now; answers whether it is gone.
    fn delete_one(&mut self, at: usize) -> bool {
        let resource = self.stack.resources[at].clone();
        let Some(kind) = kinds::find(&resource.resource_type).filter(|_| resource.physical_id.is_some())
        else {
            self.set(at, "DELETE_COMPLETE", None);
            return true;
        };
        let has_begun = resource.status == "DELETE_IN_PROGRESS";
        if !has_begun {
            self.set(at, "DELETE_IN_PROGRESS", None);
        }
        if has_begun && resource.status_reason.is_none() && (kind.is_gone)(self.draft, &resource) {
            self.set(at, "DELETE_COMPLETE", None);
            return true;
        }
        // Asked for already, and on its way.
        let is_asked = has_begun && resource.status_reason.is_none();
        if !is_asked {
            let asked = self.making(at, serde_json::Map::new(), |making| (kind.delete)(making, &resource));
            match asked {
                Ok(()) => self.stack.resources[at].status_reason = None,
                Err(error) if is_gone(&error) => {
                    self.set(at, "DELETE_COMPLETE", None);
                    return true;
                }
                // Something still uses it: a target that drains, an interface that is being taken away.
                Err(error) => self.stack.resources[at].status_reason = Some(spelled(&error)),
            }
        }
        let resource = &self.stack.resources[at];
        if resource.status_reason.is_none() && (kind.is_gone)(self.draft, resource) {
            self.set(at, "DELETE_COMPLETE", None);
            return true;
        }
        if self.draft.now() > resource.updated_at + DELETE_TIMEOUT_MS {
            let reason = resource.status_reason.clone();
            self.set(at, "DELETE_FAILED", reason.or(Some("Resource is not gone in time".to_owned())));
        }
        false
    }

    /// Runs one part of a resource type; what it wrote is undone when it fails.
    fn making<T>(
        &mut self,
        at: usize,
        properties: serde_json::Map<String, serde_json::Value>,
        part: impl FnOnce(&mut Making<'_>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let (region, account) = place(&self.stack);
        let caller = Caller {
            principal: format!("arn:aws:iam::{account}:root"),
            access_key_id: String::new(),
            account,
            region,
        };
        let (stack, logical_id) = (&self.stack.name, &self.stack.resources[at].logical_id);
        let services = &self.engine.services;
        self.draft.attempt(|draft| {
            part(&mut Making { draft, services, caller: &caller, stack, logical_id, properties })
        })
    }

    fn context<'t>(&self, template: &'t Template, values: &BTreeMap<String, String>) -> Context<'t> {
        let (region, account) = place(&self.stack);
        let standing = self
            .stack
            .resources
            .iter()
            .filter(|resource| resource.status == "CREATE_COMPLETE")
            .filter_map(|resource| {
                let physical_id = resource.physical_id.clone()?;
                let mut attributes = resource.attributes.clone();
                attributes.extend(kinds::late_attributes(self.draft, resource));
                Some((resource.logical_id.clone(), Standing { physical_id, attributes }))
            })
            .collect();
        Context {
            template,
            parameters: values.clone(),
            zones: ["a", "b", "c"].iter().map(|letter| format!("{region}{letter}")).collect(),
            pseudo: BTreeMap::from([
                ("AWS::Region", region),
                ("AWS::AccountId", account),
                ("AWS::StackName", self.stack.name.clone()),
                ("AWS::StackId", self.stack.arn.0.clone()),
                ("AWS::Partition", "aws".to_owned()),
                ("AWS::URLSuffix", "amazonaws.com".to_owned()),
            ]),
            standing,
        }
    }

    fn outputs(
        &self,
        template: &Template,
        values: &BTreeMap<String, String>,
    ) -> Result<Vec<StackOutput>, TemplateError> {
        let context = self.context(template, values);
        let mut outputs = Vec::new();
        for (key, output) in &template.outputs {
            if output.condition.as_deref().map_or(Ok(true), |condition| context.holds(condition))? {
                let value = context.text(&output.value)?;
                outputs.push(StackOutput {
                    key: key.clone(),
                    value,
                    description: output.description.clone(),
                });
            }
        }
        Ok(outputs)
    }

    fn is_complete(&self, logical_id: &str) -> bool {
        self.stack.resources.iter().any(|resource| resource.logical_id == logical_id && is_settled(resource))
    }

    fn failed(&self) -> Option<String> {
        let failed: BTreeSet<&str> = self
            .stack
            .resources
            .iter()
            .filter(|resource| resource.status == "CREATE_FAILED")
            .map(|resource| resource.logical_id.as_str())
            .collect();
        let names: Vec<_> = failed.into_iter().collect();
        (!names.is_empty())
            .then(|| format!("The following resource(s) failed to create: [{}].", names.join(", ")))
    }

    fn made(&mut self, at: usize, made: Made) {
        let resource = &mut self.stack.resources[at];
        resource.physical_id = Some(made.physical_id);
        resource.attributes = made.attributes;
    }

    fn set(&mut self, at: usize, status: &str, reason: Option<String>) {
        let now = self.draft.now();
        let resource = &mut self.stack.resources[at];
        resource.status = status.to_owned();
        resource.status_reason = reason;
        resource.updated_at = now;
        let resource = resource.clone();
        self.event(resource);
    }

    fn end_stack(&mut self, status: &str, reason: Option<String>) {
        self.stack.status = status.to_owned();
        self.stack.status_reason = reason.clone();
        let now = self.draft.now();
        self.event(StackResource {
            logical_id: self.stack.name.clone(),
            resource_type: "AWS::CloudFormation::Stack".to_owned(),
            physical_id: Some(self.stack.arn.0.clone()),
            attributes: BTreeMap::new(),
            status: status.to_owned(),
            status_reason: reason,
            updated_at: now,
        });
    }

    fn event(&mut self, resource: StackResource) {
        let id = self.draft.uuid();
        self.stack.events.push(StackEvent {
            id,
            logical_id: resource.logical_id,
            physical_id: resource.physical_id,
            resource_type: resource.resource_type,
            status: resource.status,
            reason: resource.status_reason,
            at: self.draft.now(),
        });
        let surplus = self.stack.events.len().saturating_sub(MAX_EVENTS);
        self.stack.events.drain(..surplus);
    }

    fn look_again(&mut self, after_ms: u64) {
        let at = self.draft.now() + after_ms;
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

/// Whether what needs this resource need not wait for it any more.
fn is_settled(resource: &StackResource) -> bool {
    matches!(resource.status.as_str(), "CREATE_COMPLETE" | LEFT_OUT)
}

fn exists(resource: &StackResource) -> bool {
    !matches!(resource.status.as_str(), NOT_BEGUN | LEFT_OUT | "DELETE_COMPLETE" | "DELETE_FAILED")
}

/// Region and account of a stack, from its ARN.
fn place(stack: &Stack) -> (String, String) {
    stack.arn.parts().map(|parts| (parts.region.to_owned(), parts.account.to_owned())).unwrap_or_default()
}

/// Whether a refusal says that there is nothing to delete any more.
fn is_gone(error: &ApiError) -> bool {
    error.name().is_some_and(|name| name.contains("NotFound"))
}

fn spelled(error: &ApiError) -> String {
    match error.name() {
        Some(name) => format!("{} ({name})", error.message),
        None => error.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ops;
    use crate::model::state::State;
    use serde_json::json;

    const TEMPLATE: &str = r#"
Parameters:
  Prefix: {Type: String, Default: '10.0'}
Resources:
  Balancer:
    Type: AWS::ElasticLoadBalancingV2::LoadBalancer
    Properties: {Scheme: internal, Subnets: [!Ref SubnetA, !Ref SubnetB], SecurityGroups: [!Ref Group]}
  Listener:
    Type: AWS::ElasticLoadBalancingV2::Listener
    Properties:
      LoadBalancerArn: !Ref Balancer
      Port: '80'
      Protocol: HTTP
      DefaultActions: [{Type: forward, TargetGroupArn: !Ref Targets}]
  Targets:
    Type: AWS::ElasticLoadBalancingV2::TargetGroup
    Properties: {Protocol: HTTP, Port: 80, VpcId: !Ref Vpc, TargetType: ip, HealthCheckIntervalSeconds: 5, HealthCheckTimeoutSeconds: 2}
  Group:
    Type: AWS::EC2::SecurityGroup
    Properties:
      GroupDescription: balancer
      VpcId: !Ref Vpc
      SecurityGroupIngress: [{IpProtocol: tcp, FromPort: 80, ToPort: 80, CidrIp: !GetAtt Vpc.CidrBlock}]
  SubnetA:
    Type: AWS::EC2::Subnet
    Properties: {VpcId: !Ref Vpc, CidrBlock: !Sub '${Prefix}.1.0/24', AvailabilityZone: !Select [0, !GetAZs '']}
  SubnetB:
    Type: AWS::EC2::Subnet
    Properties: {VpcId: !Ref Vpc, CidrBlock: !Sub '${Prefix}.2.0/24', AvailabilityZone: !Select [1, !GetAZs '']}
  Vpc:
    Type: AWS::EC2::VPC
    Properties: {CidrBlock: !Sub '${Prefix}.0.0/16', EnableDnsSupport: true}
Outputs:
  Name: {Value: !GetAtt Balancer.DNSName}
"#;

    struct Story {
        state: State,
        now: TimestampMs,
        engine: Engine,
    }

    impl Story {
        fn new() -> Self {
            Self { state: State::default(), now: 1_000, engine: Engine::new().unwrap() }
        }

        fn call(&mut self, operation: &str, input: serde_json::Value) -> Result<serde_json::Value, ApiError> {
            let caller = Caller {
                account: "000000000000".to_owned(),
                region: "eu-central-1".to_owned(),
                access_key_id: "AKIA".to_owned(),
                principal: "arn:aws:iam::000000000000:root".to_owned(),
            };
            let mut draft = self.draft();
            let input = self.engine.services.check("cloudformation", operation, input)?;
            let answer = ops::find("cloudformation", operation).unwrap()(&mut draft, &caller, input)?;
            self.state = draft.finish().0;
            Ok(answer)
        }

        fn draft(&mut self) -> Draft {
            self.now += 10_000;
            let mut seed = [3; 32];
            seed[..8].copy_from_slice(&self.now.to_le_bytes());
            Draft::new(self.state.clone(), self.now, seed)
        }

        fn steps(&mut self, count: usize) {
            for _ in 0..count {
                let mut draft = self.draft();
                self.engine.step(&mut draft);
                self.state = draft.finish().0;
            }
        }

        fn stack(&self) -> Stack {
            Stack::clone(self.state.stacks.values().next().unwrap())
        }
    }

    fn is_empty(state: &State) -> bool {
        state.vpcs.is_empty()
            && state.subnets.is_empty()
            && state.security_groups.is_empty()
            && state.load_balancers.is_empty()
            && state.target_groups.is_empty()
            && state.interfaces.is_empty()
    }

    #[test]
    fn a_stack_stands_and_goes() {
        let mut story = Story::new();
        story.call("CreateStack", json!({"StackName": "demo", "TemplateBody": TEMPLATE})).unwrap();
        story.steps(2);
        let stack = story.stack();
        assert_eq!(stack.status, "CREATE_COMPLETE", "{:#?}", stack.events);
        assert!(stack.outputs[0].value.ends_with(".elb.eu-central-1.amazonaws.com"), "{:?}", stack.outputs);
        assert_eq!(story.state.listeners.len(), 1);
        story.call("DeleteStack", json!({"StackName": "demo"})).unwrap();
        story.steps(4);
        assert_eq!(story.stack().status, "DELETE_COMPLETE", "{:#?}", story.stack().events);
        assert!(is_empty(&story.state));
    }

    #[test]
    fn a_stack_that_fails_leaves_nothing() {
        let mut story = Story::new();
        let body = TEMPLATE
            .replace("Protocol: HTTP, Port: 80, VpcId", "Protocol: HTTP, Port: 80, Colour: red, VpcId");
        story.call("CreateStack", json!({"StackName": "demo", "TemplateBody": body})).unwrap();
        story.steps(6);
        let stack = story.stack();
        assert_eq!(stack.status, "ROLLBACK_COMPLETE", "{:#?}", stack.events);
        let failed = stack.events.iter().find(|event| event.status == "CREATE_FAILED").unwrap();
        assert_eq!(failed.reason.as_deref(), Some("Encountered unsupported property Colour"));
        assert!(is_empty(&story.state));
    }

    #[test]
    fn what_a_condition_leaves_out_is_no_part_of_the_stack() {
        let mut story = Story::new();
        let body = r#"
Conditions: {Never: !Equals [a, b]}
Resources:
  Vpc: {Type: AWS::EC2::VPC, Properties: {CidrBlock: 10.0.0.0/16}}
  Other: {Type: AWS::EC2::VPC, Condition: Never, Properties: {CidrBlock: 10.1.0.0/16}}
"#;
        story.call("CreateStack", json!({"StackName": "demo", "TemplateBody": body})).unwrap();
        story.steps(2);
        assert_eq!(story.stack().status, "CREATE_COMPLETE");
        assert_eq!(story.state.vpcs.len(), 1);
        let listed = story.call("ListStackResources", json!({"StackName": "demo"})).unwrap();
        assert_eq!(listed["StackResourceSummaries"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn an_unknown_type_fails_by_name_and_a_bad_template_is_refused_at_once() {
        let mut story = Story::new();
        let body = "Resources: {Bucket: {Type: AWS::S3::Bucket}}";
        story.call("CreateStack", json!({"StackName": "demo", "TemplateBody": body})).unwrap();
        story.steps(3);
        let failed =
            story.stack().events.iter().find(|event| event.status == "CREATE_FAILED").cloned().unwrap();
        assert!(failed.reason.unwrap().contains("AWS::S3::Bucket"));
        let error = story
            .call(
                "CreateStack",
                json!({"StackName": "other", "TemplateBody": "Resources: {A: {Type: x, DependsOn: B}}"}),
            )
            .unwrap_err();
        assert!(error.message.contains("[B]"), "{}", error.message);
        assert_eq!(story.state.stacks.len(), 1);
    }
}
