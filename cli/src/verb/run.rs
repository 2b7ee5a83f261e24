//! `capsule run`

use std::{env, path};

use admin_api::{EnvVar, ErrorView, Request, Volume, request, result::RunResult};
use clap::Args;
use serde::Serialize;

use crate::{
    context::Context,
    failure::Failure,
    follow::{Followed, SignalRelay, follow},
    output::{KeptText, Output},
    sidecar, usage,
};

/// Create a capsule on this host and run a program in it
///
/// In the foreground its output is shown, signals go to it, and its exit code becomes this
/// command's, wherever the capsule moves meanwhile. Without --rootfs or --image it sees this
/// host's own files; what it writes is its own.
#[derive(Args, Debug)]
pub(crate) struct Run {
    /// A name for the new capsule: letters, digits and dashes
    name: String,

    /// Who it belongs to; capsules of different owners can't connect unless a policy allows it
    #[arg(long, value_name = "OWNER")]
    owner: Option<String>,

    /// A directory of this host to be its root
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    rootfs: Option<String>,

    /// An OCI image to be its root
    #[arg(long, value_name = "OCI")]
    image: Option<String>,

    /// A directory of this host inside the capsule: copied, or mounted if shared
    #[arg(short, long = "volume", value_name = "SRC:DST[:shared]")]
    volumes: Vec<Volume>,

    /// A variable of its environment; without a value that of this command
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", value_parser = variable)]
    env: Vec<EnvVar>,

    /// The directory to start in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// The user to run as, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Return as soon as the program has started
    #[arg(short, long)]
    detach: bool,

    /// Give it a terminal; return as soon as it has started
    #[arg(short = 't', long, hide = true)]
    terminal: bool,

    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    argv: Vec<String>,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    run: &'a RunResult,
    exit_code: i32,
    #[serde(flatten)]
    output: KeptText,
}

/// Reads `NAME=VALUE`, or `NAME` for a variable of our own environment.
pub(crate) fn variable(text: &str) -> Result<EnvVar, String> {
    if text.contains('=') || text.is_empty() {
        return text.parse().map_err(|error: request::EnvVarError| error.to_string());
    }
    let value = env::var(text).map_err(|_| format!("{text} is not set here: write {text}=VALUE"))?;
    Ok(EnvVar { name: text.to_owned(), value })
}

impl Run {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        if self.name.contains(['/', ':', '.']) {
            return Err(usage::mistake(
                format!("{:?} is no name for a capsule, it looks like an image or a path", self.name),
                "capsule run NAME --image OCI -- CMD, or --rootfs DIR",
            ));
        }
        if self.terminal && !self.detach {
            return Err(usage::mistake(
                "a terminal can't be shown in the foreground by this version",
                "leave -t out",
            ));
        }
        let detach = self.detach;
        if detach {
            let answer: RunResult = sidecar::ask(context, Request::Run(self.request()?)).await?;
            context.answer(&answer, |answer, stream| stream.clean(&started(answer)) + "\n")?;
            return Ok(0);
        }
        let request = Request::Run(self.request().map_err(Failure::not_started)?);
        foreground(context, request).await.map_err(Failure::not_started)
    }

    /// The request, with paths that mean the same to the sidecar.
    fn request(self) -> Result<request::Run, Failure> {
        let mut volumes = self.volumes;
        for volume in &mut volumes {
            volume.source = absolute(&volume.source)?;
        }
        let image = match self.image {
            Some(image) if path::Path::new(&image).exists() => Some(absolute(&image)?),
            image => image,
        };
        Ok(request::Run {
            name: self.name,
            owner: self.owner,
            rootfs: self.rootfs.as_deref().map(absolute).transpose()?,
            image,
            volumes,
            env: self.env,
            workdir: self.workdir,
            user: self.user,
            terminal: self.terminal,
            argv: self.argv,
        })
    }
}

async fn foreground(context: &Context, request: Request) -> Result<i32, Failure> {
    // Before the call: a Ctrl-C while the program starts is meant for it.
    let mut relay = SignalRelay::catch()?;
    let name = request.capsule().unwrap_or_default().to_owned();
    let run: RunResult =
        relay.during(sidecar::ask(context, request)).await.unwrap_or_else(|| Err(left(&name)))?;
    let mut followed = Followed { name: run.capsule.clone(), id: run.id.clone(), position: run.position };
    let mut output = Output::new(context);
    let exit_code = follow(context, &mut followed, &mut output, &mut relay).await?;
    if let Some(output) = output.kept() {
        context.print_json(&Document { run: &run, exit_code, output })?;
    }
    Ok(exit_code)
}

fn left(name: &str) -> Failure {
    ErrorView::new("run/left", format!("left while {name} was being started"))
        .on(name)
        .why("the second Ctrl-C came before its program ran")
        .next(format!("it may start yet: see capsule ps, end it with capsule rm --force {name}"))
        .into()
}

fn absolute(text: &str) -> Result<String, Failure> {
    let absolute = path::absolute(text)
        .map_err(|error| Failure::local("run/path", format!("{text:?} is no path"), error))?;
    Ok(absolute.to_string_lossy().into_owned())
}

fn started(answer: &RunResult) -> String {
    let locators: Vec<_> = answer.locators.iter().map(ToString::to_string).collect();
    format!("{} runs on {} at {}", answer.capsule, answer.host, locators.join(" and "))
}
