//! `capsule completion`

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde::Serialize;

use crate::{args::Arguments, context::Context, failure::Failure};

/// Print a completion script for a shell
///
/// For bash: capsule completion bash > /etc/bash_completion.d/capsule
#[derive(Args, Debug)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

#[derive(Serialize)]
struct Document {
    shell: String,
    script: String,
}

impl Completion {
    pub(crate) fn run(self, context: &Context) -> Result<i32, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "capsule", &mut script);
        let document =
            Document { shell: self.shell.to_string(), script: String::from_utf8_lossy(&script).into_owned() };
        context.answer(&document, |document, _| document.script.clone())?;
        Ok(0)
    }
}
