//! Lists in pages: a marker names the last row a client has seen, so that rows which come and go between two pages are
//! neither repeated nor skipped.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ApiError;

/// One page, and the marker of the next one if there is more.
pub type Page<T> = (Vec<T>, Option<String>);

/// The rows after `marker`, at most `size` of them. Rows come in rising order of their keys.
///
/// # Errors
/// A validation error when the marker is not one that this function made, or the size is not in 1..=`max`.
pub fn page<T>(
    rows: impl IntoIterator<Item = (String, T)>,
    marker: Option<&str>,
    size: Option<u32>,
    max: u32,
) -> Result<Page<T>, ApiError> {
    let size = size.unwrap_or(max);
    if !(1..=max).contains(&size) {
        return Err(ApiError::validation(format!("The page size must be between 1 and {max}")));
    }
    let after = marker.map(decode).transpose()?;
    let mut rows = rows.into_iter().filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
    let mut last = None;
    let mut items = Vec::new();
    for (key, row) in rows.by_ref().take(usize::try_from(size).unwrap_or(usize::MAX)) {
        last = Some(key);
        items.push(row);
    }
    let next = rows.next().and(last).map(|key| URL_SAFE_NO_PAD.encode(key));
    Ok((items, next))
}

/// As [`page`], for services that send the size as text.
///
/// # Errors
/// As [`page`], and when the size is not a number.
pub fn page_by_text<T>(
    rows: impl IntoIterator<Item = (String, T)>,
    marker: Option<&str>,
    size: Option<&str>,
    max: u32,
) -> Result<Page<T>, ApiError> {
    let size = size
        .map(|size| size.parse().map_err(|_| ApiError::validation(format!("Invalid maxResults: {size:?}"))))
        .transpose()?;
    page(rows, marker, size, max)
}

fn decode(marker: &str) -> Result<String, ApiError> {
    URL_SAFE_NO_PAD
        .decode(marker)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| ApiError::validation(format!("Invalid marker: {marker:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(keys: &[&str]) -> Vec<(String, String)> {
        keys.iter().map(|key| ((*key).to_owned(), (*key).to_owned())).collect()
    }

    #[test]
    fn pages_join_to_the_whole_list() {
        let all = rows(&["a", "b", "c", "d", "e"]);
        let mut seen = Vec::new();
        let mut marker = None;
        loop {
            let (items, next) = page(all.clone(), marker.as_deref(), Some(2), 400).unwrap();
            assert!(items.len() <= 2);
            seen.extend(items);
            marker = next;
            if marker.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn a_row_removed_between_pages_skips_no_other() {
        let (_, next) = page(rows(&["a", "b", "c"]), None, Some(2), 400).unwrap();
        let (items, next) = page(rows(&["a", "c"]), next.as_deref(), Some(2), 400).unwrap();
        assert_eq!(items, ["c"]);
        assert_eq!(next, None);
    }

    #[test]
    fn a_foreign_marker_and_a_size_out_of_range_are_refused() {
        assert!(page(rows(&["a"]), Some("*"), None, 400).is_err());
        assert!(page(rows(&["a"]), None, Some(0), 400).is_err());
        assert!(page(rows(&["a"]), None, Some(401), 400).is_err());
        assert!(page_by_text(rows(&["a"]), None, Some("x"), 400).is_err());
    }
}
