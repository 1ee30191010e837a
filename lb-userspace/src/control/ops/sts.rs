//! sts: `GetCallerIdentity`, which clients call to learn whether their credentials work.

use serde::{Deserialize, Serialize};

use super::{ApiError, Caller, Entry, operation};
use crate::model::state::Draft;

/// The operations of sts.
pub const OPERATIONS: &[Entry] = &[operation!("GetCallerIdentity", caller_identity)];

#[derive(Deserialize)]
struct CallerIdentityInput {}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct CallerIdentity {
    user_id: String,
    account: String,
    arn: String,
}

fn caller_identity(
    _: &mut Draft,
    caller: &Caller,
    _: CallerIdentityInput,
) -> Result<CallerIdentity, ApiError> {
    Ok(CallerIdentity {
        user_id: caller.access_key_id.clone(),
        account: caller.account.clone(),
        arn: caller.principal.clone(),
    })
}
