//! Which status codes pass: `200`, `200,202`, `200-299,302`.

/// A matcher, parsed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher(Vec<(u16, u16)>);

impl Matcher {
    /// Parses one; parts that are no codes match nothing, for control refuses them when they are set.
    pub fn parse(text: &str) -> Self {
        let ranges = text.split(',').filter_map(|part| {
            let part = part.trim();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        });
        Self(ranges.collect())
    }

    /// Whether `code` passes.
    pub fn admits(&self, code: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_ranges_are_understood() {
        let passing = |text: &str| {
            let matcher = Matcher::parse(text);
            (100..600).filter(|code| matcher.admits(*code)).collect::<Vec<u16>>()
        };
        assert_eq!(passing("200"), [200]);
        assert_eq!(passing("200, 204-206,499"), [200, 204, 205, 206, 499]);
        assert_eq!(passing("x,300-"), [0u16; 0]);
    }
}
