//! `capsule publish`, `capsule unpublish`, `capsule published`

use std::str::FromStr;

use admin_api::{
    Request,
    result::{PublicationView, PublishResult, PublishedResult, UnpublishResult},
};
use clap::Args;

use crate::{
    context::Context,
    failure::Failure,
    sidecar,
    table::{Table, or_dash, plain},
    terminal::Stream,
};

/// Let machines outside reach a port of a capsule at a gateway
///
/// They connect to HOSTPORT of the gateway's host, wherever the capsule is; open connections go on when it moves. The
/// program sees them come from a locator of the gateway. A rule of the policy is made that allows them, and ends with
/// capsule unpublish.
#[derive(Args, Debug)]
pub(crate) struct Publish {
    /// The capsule
    name: String,

    /// Its port, and that of the gateway's host: without HOSTPORT the same, with 0 any that is free
    #[arg(value_name = "PORT[:HOSTPORT][/udp]")]
    ports: Ports,

    /// Tell the program which machine each connection comes from: begin it with a header of the PROXY protocol, version 2
    ///
    /// The program must expect it, as nginx does with listen ... proxy_protocol.
    #[arg(long)]
    proxy_protocol: bool,

    /// The gateway's host; needed when there are several and this host is none
    #[arg(long, value_name = "HOST")]
    gateway: Option<String>,
}

/// End what is published of a capsule; connections from outside end with it
#[derive(Args, Debug)]
pub(crate) struct Unpublish {
    /// The capsule
    name: String,

    /// Only this; without it all that is published of the capsule
    #[arg(value_name = "PORT[:HOSTPORT][/udp]")]
    ports: Option<Ports>,

    /// The gateway's host; needed when there are several and this host is none
    #[arg(long, value_name = "HOST")]
    gateway: Option<String>,
}

/// List what gateways publish
#[derive(Args, Debug)]
pub(crate) struct Published {
    /// Only that gateway
    #[arg(long, value_name = "HOST")]
    gateway: Option<String>,
}

/// `PORT[:HOSTPORT][/udp]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    capsule: u16,
    host: Option<u16>,
    udp: bool,
}

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (text, udp) = match text.strip_suffix("/udp") {
            Some(text) => (text, true),
            None => (text.strip_suffix("/tcp").unwrap_or(text), false),
        };
        let port = |text: &str| text.parse::<u16>().map_err(|_| format!("{text:?} is no port"));
        let (capsule, host) = match text.split_once(':') {
            Some((capsule, host)) => (port(capsule)?, Some(port(host)?)),
            None => (port(text)?, None),
        };
        if capsule == 0 { Err("a capsule has no port 0".into()) } else { Ok(Self { capsule, host, udp }) }
    }
}

impl Publish {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let Self { name, ports: Ports { capsule: port, host: host_port, udp }, proxy_protocol, gateway } =
            self;
        let request = Request::Publish { name, port, host_port, udp, proxy_protocol, gateway };
        let answer: PublishResult = sidecar::ask(context, request).await?;
        context.answer(&answer, |answer, stream| stream.clean(&said(answer)) + "\n")?;
        Ok(0)
    }
}

impl Unpublish {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let Self { name, ports, gateway } = self;
        let (port, host_port) = (ports.map(|ports| ports.capsule), ports.and_then(|ports| ports.host));
        let udp = ports.is_some_and(|ports| ports.udp);
        let request = Request::Unpublish { name: name.clone(), port, host_port, udp, gateway };
        let answer: UnpublishResult = sidecar::ask(context, request).await?;
        context.answer(&answer, |answer, stream| stream.clean(&ended(&name, answer)))?;
        Ok(0)
    }
}

impl Published {
    pub(crate) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let answer: PublishedResult =
            sidecar::ask(context, Request::Published { gateway: self.gateway }).await?;
        for gateway in &answer.silent {
            context.note(&format!("gateway {gateway} does not answer; what it publishes is not listed"));
        }
        context.answer(&answer, |answer, stream| table(answer, *stream))?;
        Ok(0)
    }
}

fn said(answer: &PublishResult) -> String {
    let one = &answer.publication;
    let already = if answer.already { " already" } else { "" };
    let header = if one.proxy_protocol { ", with the PROXY protocol" } else { "" };
    format!(
        "port {}/{} of {} is{already} published at port {} of {}{header}",
        one.capsule_port, one.protocol, one.capsule, one.port, one.gateway
    )
}

fn ended(name: &str, answer: &UnpublishResult) -> String {
    if answer.ended.is_empty() {
        return format!("nothing of {name} was published there\n");
    }
    let line = |one: &PublicationView| {
        format!(
            "port {}/{} of {} is published no more at port {} of {}\n",
            one.capsule_port, one.protocol, name, one.port, one.gateway
        )
    };
    answer.ended.iter().map(line).collect()
}

fn table(answer: &PublishedResult, stream: Stream) -> String {
    let mut table = Table::new(
        stream,
        &["GATEWAY", ">PORT", "PROXY", "CAPSULE", ">ITS PORT", "HOST", "STATE", ">CONNECTIONS"],
    );
    for one in &answer.published {
        table.row(vec![
            plain(&one.gateway),
            plain(format!("{}/{}", one.port, one.protocol)),
            plain(if one.proxy_protocol { "v2" } else { "-" }),
            plain(&one.capsule),
            plain(one.capsule_port.to_string()),
            or_dash(one.capsule_host.clone()),
            plain(one.state.map_or("removed", |state| state.as_str())),
            plain(one.connections.to_string()),
        ]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        let ports = |capsule, host, udp| Ok(Ports { capsule, host, udp });
        assert_eq!("80".parse(), ports(80, None, false));
        assert_eq!("80:8080".parse(), ports(80, Some(8080), false));
        assert_eq!("80:0/tcp".parse(), ports(80, Some(0), false));
        assert_eq!("53/udp".parse(), ports(53, None, true));
        assert_eq!("53:5353/udp".parse(), ports(53, Some(5353), true));
        for text in ["", "0", "80:", ":80", "a", "80:70000", "53/sctp", "1:2:3", "/udp"] {
            assert!(text.parse::<Ports>().is_err(), "{text}");
        }
    }
}
