//! `capsule resolve`

use admin_api::{Request, result::ResolveResult};
use clap::Args;

use crate::{
    context::Context,
    failure::Failure,
    sidecar,
    table::{Table, plain},
    terminal::Stream,
};

/// Say where a capsule is, as the directory knows it
#[derive(Args, Debug)]
pub(crate) struct Resolve {
    /// The capsule's name, with or without the zone, or one of its locators
    name: String,
}

impl Resolve {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let answer: ResolveResult = sidecar::ask(context, Request::Resolve { name: self.name }).await?;
        context.answer(&answer, |answer, stream| read(answer, *stream))?;
        Ok(0)
    }
}

fn read(answer: &ResolveResult, stream: Stream) -> String {
    let mut table = Table::new(stream, &["name", &answer.dns_name]);
    let mut line = |name: &str, value: String| table.row(vec![plain(name), plain(value)]);
    let locators: Vec<_> = answer.locators.iter().map(ToString::to_string).collect();
    line("locators", locators.join("  "));
    line("state", answer.state.to_string());
    line("host", answer.host.clone().unwrap_or_else(|| "-".to_owned()));
    if let Some(address) = &answer.host_address {
        line("address", address.clone());
    }
    line("generation", answer.generation.to_string());
    line("id", answer.id.clone());
    if answer.source == "cache" {
        line("source", "cache: the directory does not answer".to_owned());
    }
    table.render()
}
