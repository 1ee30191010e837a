//! What the resources of apigatewayv2 share: refusals in AWS's words, limits on text and tags, and empty answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ApiError, paging::page_by_text};
use crate::model::{
    Resource,
    api::{Api, TagMap},
    state::State,
};

/// The answer of operations that answer nothing.
#[derive(Serialize)]
pub struct Nothing {}

/// A list in pages, as every list of this service.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ListInput {
    /// The page's size, as text.
    pub max_results: Option<String>,
    /// Where it starts.
    pub next_token: Option<String>,
}

impl ListInput {
    /// The page of `rows` that is asked for. Rows come in rising order of their keys.
    ///
    /// # Errors
    /// When the token or the size is not lawful.
    pub fn page<T>(&self, rows: impl IntoIterator<Item = (String, T)>) -> Result<Items<T>, ApiError> {
        let (items, next_token) =
            page_by_text(rows, self.next_token.as_deref(), self.max_results.as_deref(), PAGE_MAX)?;
        Ok(Items { items, next_token })
    }
}

/// A list of what one API has, in pages.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct OfApiInput {
    api_id: String,
    #[serde(flatten)]
    list: ListInput,
}

impl OfApiInput {
    /// The page of the API's rows that is asked for; `form` answers a row's name in the API and its form.
    ///
    /// # Errors
    /// When there is no such API, and as [`ListInput::page`].
    pub fn page<R: Resource, T>(
        &self,
        state: &State,
        form: impl Fn(&R) -> (String, T),
    ) -> Result<Items<T>, ApiError> {
        let prefix = format!("{}/", find_api(state, &self.api_id)?.id);
        self.list.page(state.with_prefix::<R>(&prefix).map(|row| form(row)))
    }
}

/// A page of a list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Items<T> {
    /// The resources.
    pub items: Vec<T>,
    /// Where the next page starts, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_token: Option<String>,
}

/// `NotFoundException` with the kind of what is missing, as AWS words it.
pub fn not_found(kind: &str, id: &str) -> ApiError {
    ApiError::not_found("NotFoundException", format!("Invalid {kind} identifier specified: {id}"))
        .with_field("ResourceType", kind)
}

/// `BadRequestException`.
pub fn bad_request(message: impl Into<String>) -> ApiError {
    ApiError::sender("BadRequestException", message)
}

/// What AWS offers and this endpoint does not: refused by name, so that nothing is silently left out.
pub fn unsupported(what: impl std::fmt::Display) -> ApiError {
    bad_request(format!("{what} is not supported by this endpoint"))
}

/// Refuses members that are given and not supported.
///
/// # Errors
/// `BadRequestException` naming the first that is given.
pub fn refuse_given(members: &[(&str, &Option<Value>)]) -> Result<(), ApiError> {
    match members.iter().find(|(_, value)| value.as_ref().is_some_and(|value| !is_empty(value))) {
        Some((name, _)) => Err(unsupported(name)),
        None => Ok(()),
    }
}

/// Whether a value says nothing: clients send empty maps and lists for what nobody set.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Object(members) => members.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The API by id.
///
/// # Errors
/// `NotFoundException`.
pub fn find_api<'a>(state: &'a State, id: &str) -> Result<&'a Api, ApiError> {
    state.apis.get(id).map(AsRef::as_ref).ok_or_else(|| not_found("Api", id))
}

/// What an API has, by its name in the API; `kind` is what AWS calls it.
///
/// # Errors
/// `NotFoundException`, for the API or for what it should have.
pub fn find_of_api<'a, R: Resource>(
    state: &'a State,
    api_id: &str,
    kind: &str,
    name: &str,
) -> Result<&'a R, ApiError> {
    find_api(state, api_id)?;
    let row = R::table(state).get(&format!("{api_id}/{name}"));
    row.map(AsRef::as_ref).ok_or_else(|| not_found(kind, name))
}

/// Checks that a name has 1 to `max` characters.
///
/// # Errors
/// `BadRequestException` naming the member.
pub fn check_name(member: &str, name: &str, max: usize) -> Result<(), ApiError> {
    if (1..=max).contains(&name.chars().count()) {
        return Ok(());
    }
    Err(bad_request(format!("{member} must have 1 to {max} characters")))
}

/// Checks a description's length.
///
/// # Errors
/// `BadRequestException`.
pub fn check_description(description: Option<&String>) -> Result<(), ApiError> {
    if description.is_some_and(|text| text.chars().count() > DESCRIPTION_MAX) {
        return Err(bad_request(format!("Description must have at most {DESCRIPTION_MAX} characters")));
    }
    Ok(())
}

/// Checks tags.
///
/// # Errors
/// `BadRequestException` naming the tag.
pub fn check_tags(tags: &TagMap) -> Result<(), ApiError> {
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > TAG_KEY_MAX || key.starts_with("aws:") {
            return Err(bad_request(format!(
                "Tag key '{key}' must have 1 to {TAG_KEY_MAX} characters and must not begin with 'aws:'"
            )));
        }
        if value.chars().count() > TAG_VALUE_MAX {
            return Err(bad_request(format!(
                "The value of tag '{key}' must have at most {TAG_VALUE_MAX} characters"
            )));
        }
    }
    if tags.len() > TAGS_MAX {
        return Err(bad_request(format!("A resource can have at most {TAGS_MAX} tags")));
    }
    Ok(())
}

/// A quota is reached.
pub fn limit(noun: &str, max: usize) -> ApiError {
    ApiError::limit("TooManyRequestsException", format!("The limit of {max} {noun} is reached"))
        .with_field("LimitType", noun)
}

/// Largest page.
const PAGE_MAX: u32 = 500;
/// AWS's limit on descriptions.
const DESCRIPTION_MAX: usize = 1_024;
/// AWS's quota of tags per resource.
const TAGS_MAX: usize = 50;
/// AWS's limits on tags.
const TAG_KEY_MAX: usize = 128;
/// AWS's limits on tags.
const TAG_VALUE_MAX: usize = 256;
