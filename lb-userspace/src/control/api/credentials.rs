//! Access keys, and who owns them: turns a verified signature into a caller.

use std::collections::HashMap;

use http::request::Parts;

use super::{refuse, shapes::Service};
use crate::{
    control::ops::{ApiError, Caller, Code, Fault},
    sigv4::{self, AccessKey, SecretKey},
};

/// The access keys that the endpoint accepts.
#[derive(Clone, Default)]
pub struct Credentials(HashMap<String, Owner>);

#[derive(Clone)]
struct Owner {
    secret: SecretKey,
    account: String,
    principal: String,
}

impl Credentials {
    /// Accepts a key of the account's root user; a key that is there already is replaced.
    pub fn insert(&mut self, key: AccessKey, account: &str) {
        let principal = format!("arn:aws:iam::{account}:root");
        self.0.insert(key.id, Owner { secret: key.secret, account: account.to_owned(), principal });
    }

    /// Whether no key is accepted, so no request is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Verifies a request's signature, and that it is for `service` in `region`.
    ///
    /// # Errors
    /// What is wrong with the signature.
    pub(super) fn verify(
        &self,
        service: &Service,
        region: &str,
        parts: &Parts,
        body: &[u8],
        now_s: u64,
    ) -> Result<Caller, ApiError> {
        let secret_of = |id: &str| self.0.get(id).map(|owner| &owner.secret);
        let verified =
            sigv4::verify(parts, body, secret_of, now_s).map_err(|error| refuse::signature(&error))?;
        if verified.scope.service != service.signing_name {
            let message =
                format!("Credential should be scoped to correct service: '{}'.", service.signing_name);
            return Err(ApiError::new(Code::SignatureMismatch, Fault::Sender, message));
        }
        // Clients of sts sign for its global endpoint, too.
        if verified.scope.region != region && service.name != "sts" {
            let message = format!("Credential should be scoped to a valid region, which is '{region}' here.");
            return Err(ApiError::new(Code::SignatureMismatch, Fault::Sender, message));
        }
        let owner = self.0.get(&verified.access_key_id).ok_or_else(ApiError::internal)?;
        Ok(Caller {
            account: owner.account.clone(),
            region: verified.scope.region,
            access_key_id: verified.access_key_id,
            principal: owner.principal.clone(),
        })
    }
}
