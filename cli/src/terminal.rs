//! What stdout and stderr are, and what may be shown on them.

use std::{
    env,
    io::{self, IsTerminal},
    os::fd::AsFd,
};

use crate::args::ColorChoice;

/// One output stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    /// Whether a person looks at it.
    pub(crate) is_terminal: bool,
    /// Whether colour is welcome.
    pub(crate) colour: bool,
    /// Columns to fit into; none when it is piped.
    pub(crate) columns: Option<u16>,
    /// Whether it can show more than ASCII.
    pub(crate) unicode: bool,
}

/// What a piece of text means. The words say it too; colour only repeats it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
}

impl Stream {
    /// Looks at standard output.
    pub(crate) fn stdout(colour: ColorChoice) -> Self {
        Self::of(&io::stdout(), colour)
    }

    /// Looks at standard error.
    pub(crate) fn stderr(colour: ColorChoice) -> Self {
        Self::of(&io::stderr(), colour)
    }

    fn of(stream: &(impl IsTerminal + AsFd), colour: ColorChoice) -> Self {
        let is_terminal = stream.is_terminal();
        Self {
            is_terminal,
            colour: wants_colour(colour, is_terminal, |name| env::var(name).ok()),
            columns: is_terminal.then(|| columns(stream)),
            unicode: is_utf8(|name| env::var(name).ok()),
        }
    }

    /// Text in the colour of its meaning.
    pub(crate) fn paint(&self, text: &str, tone: Tone) -> String {
        let colour = match tone {
            Tone::Good => 32,
            Tone::Warn => 33,
            Tone::Bad => 31,
            Tone::Plain => 0,
        };
        if self.colour && colour != 0 { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Text from anywhere as this stream may show it: no control characters, and
    /// plain ASCII where nothing else can be shown.
    pub(crate) fn clean(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '\n' | '\t' => clean.push(' '),
                character if character.is_control() => {}
                character if self.unicode || character.is_ascii() => clean.push(character),
                '→' => clean.push_str("->"),
                '×' => clean.push('x'),
                _ => clean.push('?'),
            }
        }
        clean
    }

    /// An arrow.
    pub(crate) fn arrow(&self) -> &'static str {
        if self.unicode { "→" } else { "->" }
    }
}

fn columns(stream: &impl AsFd) -> u16 {
    const USUAL: u16 = 80;
    env::var("COLUMNS")
        .ok()
        .and_then(|columns| columns.parse().ok())
        .or_else(|| rustix::termios::tcgetwinsize(stream).ok().map(|size| size.ws_col))
        .filter(|columns| *columns > 0)
        .unwrap_or(USUAL)
}

fn wants_colour(choice: ColorChoice, is_terminal: bool, env: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name| env(name).filter(|value| !value.is_empty());
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto if set("NO_COLOR").is_some() => false,
        ColorChoice::Auto if set("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        ColorChoice::Auto => is_terminal && set("TERM").is_some_and(|term| term != "dumb"),
    }
}

fn is_utf8(env: impl Fn(&str) -> Option<String>) -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| env(name).filter(|value| !value.is_empty()))
        .unwrap_or_default()
        .to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |name| set.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn the_flag_beats_the_environment_and_that_beats_the_terminal() {
        use ColorChoice::{Always, Auto, Never};
        let term = ("TERM", "xterm");
        assert!(wants_colour(Auto, true, env(&[term])));
        assert!(!wants_colour(Auto, false, env(&[term])));
        assert!(!wants_colour(Auto, true, env(&[("TERM", "dumb")])));
        assert!(!wants_colour(Auto, true, env(&[term, ("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")])));
        assert!(wants_colour(Auto, true, env(&[term, ("NO_COLOR", "")])));
        assert!(wants_colour(Auto, false, env(&[("CLICOLOR_FORCE", "1")])));
        assert!(wants_colour(Always, false, env(&[("NO_COLOR", "1")])));
        assert!(!wants_colour(Never, true, env(&[term, ("CLICOLOR_FORCE", "1")])));
    }

    #[test]
    fn the_first_locale_variable_that_is_set_decides() {
        assert!(is_utf8(env(&[("LANG", "de_DE.UTF-8")])));
        assert!(!is_utf8(env(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")])));
        assert!(!is_utf8(env(&[])));
    }

    #[test]
    fn foreign_text_does_no_harm() {
        let stream = Stream { is_terminal: false, colour: false, columns: None, unicode: false };
        assert_eq!(stream.clean("a→b\x1b[31m\nü"), "a->b[31m ?");
    }
}
