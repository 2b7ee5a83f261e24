//! Reads the command line, and teaches when it can't be read.

use std::{env, ffi::OsString};

use admin_api::ErrorView;
use clap::{
    CommandFactory, Parser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    args::{Arguments, ColorChoice, Global},
    context::Context,
    failure::Failure,
};

const USAGE: i32 = 2;

/// Words that people bring along from other tools, and the verb of this one.
const NEAR: [(&str, &str); 14] = [
    ("migrate", "move"),
    ("mv", "move"),
    ("ls", "ps"),
    ("list", "ps"),
    ("status", "ps"),
    ("checkpoint", "suspend"),
    ("restore", "resume"),
    ("evacuate", "drain"),
    ("kill", "stop"),
    ("delete", "rm"),
    ("remove", "rm"),
    ("check", "preflight"),
    ("nodes", "hosts"),
    ("connections", "sessions"),
];

/// The arguments, or the exit code after help or an error was shown.
pub(crate) fn parse() -> Result<Arguments, i32> {
    let arguments: Vec<OsString> = env::args_os().collect();
    Arguments::try_parse_from(&arguments).map_err(|error| tell(&error, wants_json(&arguments)))
}

/// A mistake that only shows when the arguments are looked at together.
pub(crate) fn mistake(what: impl Into<String>, next: impl Into<String>) -> Failure {
    Failure::Told { error: Box::new(ErrorView::new("usage", what).next(next)), exit: USAGE }
}

fn tell(error: &clap::Error, json: bool) -> i32 {
    if !error.use_stderr() {
        // Help and version were asked for; a closed stdout leaves nobody to tell.
        let _ = error.print();
        return 0;
    }
    let near = unknown_verb(error);
    if !json && near.is_none() {
        let _ = error.print();
        return USAGE;
    }
    let view = near.unwrap_or_else(|| {
        let text = error.render().to_string();
        // The complaint, with what it lists below it, ends at the first empty line.
        let lines = text.lines().take_while(|line| !line.trim().is_empty()).map(str::trim);
        let complaint = lines.collect::<Vec<_>>().join(" ");
        ErrorView::new("usage", complaint.trim_start_matches("error: ")).next("capsule --help")
    });
    let global = Global { admin: "".into(), json, color: ColorChoice::Auto };
    Context::new(&global).fail(&Failure::Told { error: Box::new(view), exit: USAGE })
}

/// Whether `--json` stands among our own flags: after `--` it is the program's.
fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

fn unknown_verb(error: &clap::Error) -> Option<ErrorView> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    let what = format!("capsule has no verb {word:?}");
    let command = Arguments::command();
    let exists = |verb: &str| command.find_subcommand(verb).is_some_and(|verb| !verb.is_hide_set());
    let next = match NEAR.iter().find(|(near, _)| near == word) {
        Some((_, verb)) if exists(verb) => format!("did you mean capsule {verb}? capsule {verb} --help"),
        Some((_, verb)) => {
            format!("{verb} would be it, but this version lacks it; capsule --help lists the verbs")
        }
        None => match error.get(ContextKind::SuggestedSubcommand) {
            Some(ContextValue::Strings(verbs)) if !verbs.is_empty() => {
                format!("did you mean capsule {}? capsule --help lists the verbs", verbs.join(" or "))
            }
            _ => "capsule --help lists the verbs".to_owned(),
        },
    };
    Some(ErrorView::new("usage", what).next(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_on_either_side_of_the_verb() {
        for line in ["capsule --json --admin /s ps", "capsule ps --json --admin /s"] {
            let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
            assert!(arguments.global.json && arguments.global.socket().as_os_str() == "/s");
        }
    }

    #[test]
    fn only_our_own_json_flag_counts() {
        let words = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(wants_json(&words("capsule ps --json --what")));
        assert!(!wants_json(&words("capsule exec db -- ls --json")));
    }
}
