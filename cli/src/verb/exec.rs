//! `capsule exec`

use std::io::{IsTerminal, stdin};

use admin_api::{EnvVar, Request, request};
use clap::Args;
use serde::Serialize;

use super::run::variable;
use crate::{
    context::Context,
    exec_io,
    failure::Failure,
    output::{KeptText, Output},
    sidecar,
    signals::Signals,
};

/// Run another program inside a running capsule
///
/// Its input is this command's unless that is a terminal, its output and exit code are passed
/// on. It does not move: when the capsule moves it ends, with a message.
#[derive(Args, Debug)]
pub(crate) struct Exec {
    /// The capsule
    name: String,

    /// A variable of its environment; without a value that of this command
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<EnvVar>,

    /// The directory to start in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// The user to run as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Pass the input on even from a terminal
    #[arg(short, long)]
    interactive: bool,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    argv: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    capsule: &'a str,
    exit_code: i32,
    #[serde(flatten)]
    output: KeptText,
}

impl Exec {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        self.carry(context).await.map_err(Failure::not_started)
    }

    async fn carry(self, context: &Context) -> Result<i32, Failure> {
        let input = (self.interactive || !stdin().is_terminal()).then(tokio::io::stdin);
        let name = self.name.clone();
        let request = Request::Exec(request::Exec {
            name: self.name,
            argv: self.argv,
            env: self.env,
            workdir: self.workdir,
            user: self.user,
        });
        let mut signals = Signals::catch()?;
        let open = sidecar::open(context, request).await?;
        let mut output = Output::new(context);
        let exit_code = exec_io::carry(context, open, input, &mut output, &mut signals).await?;
        if let Some(output) = output.kept() {
            context.print_json(&Document { capsule: &name, exit_code, output })?;
        }
        Ok(exit_code)
    }
}
