//! What a person reads when a verb failed.

use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};

/// A failure in words: what failed, on what, why, and what to do.
///
/// `Display` makes the one line that ends up on a terminal:
/// `error [move/refused]: db stays on a and runs: it uses io_uring; start it
/// with io_method=worker`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// Stable, in words, `topic/reason`: `move/refused`.
    pub code: String,
    /// What failed, and what state things are in: "db stays on a and runs".
    pub what: String,
    /// The thing it is about: a capsule, host, path or address.
    #[serde(default)]
    pub on: String,
    /// The cause, as far as it is known.
    #[serde(default)]
    pub why: String,
    /// What to do, best a command.
    #[serde(default)]
    pub next: String,
    /// More causes, from either host, and where logs were kept.
    #[serde(default)]
    pub details: Vec<Detail>,
}

/// One cause among several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// As in [`ErrorView::code`].
    pub code: String,
    /// What was seen.
    pub evidence: String,
    /// What to do about it.
    #[serde(default)]
    pub remedy: String,
}

impl ErrorView {
    /// An error with a code and what failed.
    pub fn new(code: impl Into<String>, what: impl Into<String>) -> Self {
        Self { code: code.into(), what: what.into(), ..Self::default() }
    }

    /// Says what it is about.
    #[must_use]
    pub fn on(mut self, on: impl Into<String>) -> Self {
        self.on = on.into();
        self
    }

    /// Says the cause.
    #[must_use]
    pub fn why(mut self, why: impl Display) -> Self {
        self.why = why.to_string();
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn detail(
        mut self,
        code: impl Into<String>,
        evidence: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        self.details.push(Detail { code: code.into(), evidence: evidence.into(), remedy: remedy.into() });
        self
    }
}

impl Display for ErrorView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error [{}]: ", self.code)?;
        if !self.on.is_empty() && !self.what.contains(&self.on) {
            write!(f, "{}: ", OneLine(&self.on))?;
        }
        write!(f, "{}", OneLine(&self.what))?;
        if !self.why.is_empty() {
            write!(f, ": {}", OneLine(&self.why))?;
        }
        if !self.next.is_empty() {
            write!(f, "; {}", OneLine(&self.next))?;
        }
        Ok(())
    }
}

impl std::error::Error for ErrorView {}

/// Text from anywhere, made safe for one line of a terminal: white space becomes
/// one space, other control characters are left out, a full stop at the end too.
struct OneLine<'a>(&'a str);

impl Display for OneLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.trim();
        let text = text.strip_suffix('.').unwrap_or(text);
        for (index, word) in text.split_whitespace().enumerate() {
            if index > 0 {
                f.write_str(" ")?;
            }
            for character in word.chars().filter(|character| !character.is_control()) {
                write!(f, "{character}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_line_that_says_what_why_and_next() {
        let error = ErrorView::new("move/refused", "db stays on a and runs")
            .on("db")
            .why("it uses\nio_uring\x1b[31m.")
            .next("restart it without");
        assert_eq!(
            error.to_string(),
            "error [move/refused]: db stays on a and runs: it uses io_uring[31m; restart it without"
        );
        let error = ErrorView::new("name/unknown", "no such capsule").on("db");
        assert_eq!(error.to_string(), "error [name/unknown]: db: no such capsule");
    }
}
