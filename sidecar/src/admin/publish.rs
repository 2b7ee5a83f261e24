//! The verbs of a gateway: `publish`, `unpublish`, `published`.

use std::sync::Arc;

use admin_api::result::{PublicationView, PublishResult, PublishedResult, UnpublishResult};
use admin_api::{Body, ErrorView, Request};
use directory_api::outside;
use directory_api::policy::{Effect, Ports, Selector, Terms};
use directory_api::{CapsuleRecord, Rule};
use overlay_proto::HostName;

use super::{forward, record};
use crate::gateway::{Gateway, Protocol, Publication};
use crate::sidecar::Sidecar;

/// The host of the gateway that is meant: the one that was named, else this host, else the only one.
pub(super) fn gateway_host(sidecar: &Sidecar, named: Option<&str>) -> Result<HostName, ErrorView> {
    let all = gateways(sidecar);
    let list = || all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if let Some(named) = named {
        return all.iter().find(|host| host.as_str() == named).cloned().ok_or_else(|| {
            ErrorView::new("gateway/unknown", format!("host {named} is no gateway")).next(if all.is_empty() {
                how_to_be_one()
            } else {
                format!("gateways are: {}", list())
            })
        });
    }
    match all.as_slice() {
        all if all.contains(&sidecar.me) => Ok(sidecar.me.clone()),
        [one] => Ok(one.clone()),
        [] => Err(ErrorView::new("gateway/none", "no host is a gateway").next(how_to_be_one())),
        _ => Err(ErrorView::new("gateway/which", "there are several gateways")
            .next(format!("say which by --gateway: {}", list()))),
    }
}

fn how_to_be_one() -> String {
    "let a host join by a token that was made with --gateway, and serve there with --gateway".into()
}

/// The hosts that are gateways.
fn gateways(sidecar: &Sidecar) -> Vec<HostName> {
    let all = sidecar.places.capsules();
    let mut hosts: Vec<_> =
        all.into_iter().filter(CapsuleRecord::is_outside).map(|record| record.host).collect();
    hosts.sort();
    hosts
}

fn own(sidecar: &Sidecar) -> Result<Arc<Gateway>, ErrorView> {
    sidecar.gateway.get().cloned().ok_or_else(|| {
        ErrorView::new("gateway/not-serving", format!("the gateway of host {} does not serve", sidecar.me))
            .next("its sidecar's log says why; it must be started with --gateway")
    })
}

/// How a port of a capsule is to be published.
pub(super) struct Wanted {
    /// The port.
    pub port: u16,
    /// That of this host; 0: any; `None`: the same.
    pub host_port: Option<u16>,
    /// For datagrams; else for connections.
    pub udp: bool,
    /// With a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Publishes a port of a capsule at this host.
pub(super) async fn publish(
    sidecar: &Arc<Sidecar>,
    name: &str,
    Wanted { port, host_port, udp, proxy_protocol }: Wanted,
) -> Result<PublishResult, ErrorView> {
    let gateway = own(sidecar)?;
    let target = record(sidecar, name)?;
    if target.is_of_its_host() {
        let what = if target.is_outside() { "a gateway" } else { "the outlet of a host" };
        return Err(ErrorView::new("publish/gateway", format!("{name} is {what}, not a capsule")));
    }
    if port == 0 {
        return Err(ErrorView::new("publish/port", "a capsule has no port 0"));
    }
    if udp && proxy_protocol {
        return Err(ErrorView::new("publish/proxy-protocol", "datagrams have no PROXY protocol")
            .next("publish them without --proxy-protocol"));
    }
    let mut served = gateway.served().await;
    let (wanted, protocol) = (host_port.unwrap_or(port), if udp { Protocol::Udp } else { Protocol::Tcp });
    let there = served.iter().find(|(one, _)| one.is_at(protocol, wanted)).cloned();
    if let Some((there, serving)) = there {
        if there.capsule == target.id && there.port == port {
            if there.proxy_protocol != proxy_protocol {
                return Err(published_otherwise(sidecar, &there));
            }
            // The rule may have been removed since, and the port been in use when the sidecar started.
            allow(sidecar, &target, port).await?;
            if !serving.is_on() {
                gateway
                    .serve_again(&mut served, &there)
                    .await
                    .map_err(|error| failed(sidecar, name, port, &error))?;
            }
            return Ok(published(sidecar, &gateway, &there, true));
        }
        return Err(ErrorView::new(
            "publish/port-taken",
            format!("port {wanted} of host {} is taken", sidecar.me),
        )
        .why(format!("port {} of {} is published there", there.port, there.name))
        .next(format!("choose another one: capsule publish {name} {port}:PORT, or {port}:0 for any")));
    }
    let (rule, made) = allow(sidecar, &target, port).await?;
    let made = made.then(|| rule.id.number());
    let (capsule, name_now) = (target.id, target.name.clone());
    let publication = Publication {
        capsule,
        name: name_now,
        protocol,
        port,
        host_port: wanted,
        rule: made,
        proxy_protocol,
    };
    match gateway.publish(&mut served, publication).await {
        Ok(publication) => Ok(published(sidecar, &gateway, &publication, false)),
        Err(error) => {
            if made.is_some() {
                let _ = sidecar.places.directory().remove_rule(rule.id).await;
            }
            Err(failed(sidecar, name, port, &error))
        }
    }
}

fn published_otherwise(sidecar: &Sidecar, there: &Publication) -> ErrorView {
    let Publication { name, port, host_port, proxy_protocol, .. } = there;
    let how = if *proxy_protocol { "with" } else { "without" };
    ErrorView::new("publish/otherwise", format!("port {port} of {name} was not published"))
        .why(format!("it is at port {host_port} of host {} already, {how} the PROXY protocol", sidecar.me))
        .next(format!("unpublish it first: capsule unpublish {name} {port}:{host_port}"))
}

fn failed(sidecar: &Sidecar, name: &str, port: u16, error: &anyhow::Error) -> ErrorView {
    ErrorView::new("publish/failed", format!("port {port} of {name} was not published"))
        .why(format!("{error:#}"))
        .next(format!("choose another port of host {}: capsule publish {name} {port}:PORT", sidecar.me))
}

/// Has the policy allow what comes in here to a port of a capsule; says whether that was new.
async fn allow(sidecar: &Arc<Sidecar>, target: &CapsuleRecord, port: u16) -> Result<(Rule, bool), ErrorView> {
    let refused = |error| {
        ErrorView::new("publish/policy", format!("port {port} of {} was not published", target.name))
            .why(format!("the policy was not changed: {error}"))
            .next("publishing needs the directory, and a host with operator rights")
    };
    let name = outside::name_at(&sidecar.me).map_err(|error| refused(error.to_string()))?;
    let terms = Terms {
        effect: Effect::Allow,
        from: Selector::one(&outside::owner(), &name),
        to: Selector::one(&target.owner, &target.name),
        ports: port.to_string().parse::<Ports>().map_err(|error| refused(error.to_string()))?,
    };
    let directory = sidecar.places.directory();
    let before = directory.rules().await.map_err(|error| refused(error.to_string()))?;
    let there = before.rules.iter().any(|rule| rule.terms == terms);
    let rule = directory.set_rule(terms).await.map_err(|error| refused(error.to_string()))?;
    Ok((rule, !there))
}

fn published(
    sidecar: &Sidecar,
    gateway: &Gateway,
    publication: &Publication,
    already: bool,
) -> PublishResult {
    PublishResult { port: publication.host_port, already, publication: view(sidecar, gateway, publication) }
}

/// Ends what is published of a capsule, or one port of it.
pub(super) async fn unpublish(
    sidecar: &Arc<Sidecar>,
    name: &str,
    port: Option<u16>,
    host_port: Option<u16>,
    udp: bool,
) -> Result<UnpublishResult, ErrorView> {
    let gateway = own(sidecar)?;
    let mut served = gateway.served().await;
    let meant = |one: &Publication| {
        one.name.as_str() == name
            && port.is_none_or(|port| port == one.port && udp == (one.protocol == Protocol::Udp))
            && host_port.is_none_or(|port| port == one.host_port)
    };
    let all: Vec<_> = served.iter().map(|(one, _)| one.clone()).filter(meant).collect();
    let mut ended = Vec::new();
    for publication in all {
        let view = view(sidecar, &gateway, &publication);
        let rule = gateway.withdraw(&mut served, &publication).await.map_err(|error| {
            ErrorView::new("unpublish/failed", format!("port {} stays published", publication.host_port))
                .why(format!("{error:#}"))
        })?;
        if let Some(rule) = rule {
            sidecar.places.directory().remove_rule(rule).await.map_err(|error| {
                ErrorView::new("unpublish/policy", format!("rule {rule} of the policy stays"))
                    .why(error)
                    .next(format!("capsule policy remove {rule}"))
            })?;
        }
        ended.push(view);
    }
    Ok(UnpublishResult { ended })
}

/// What all gateways publish, or one.
pub(super) async fn all(
    sidecar: &Arc<Sidecar>,
    named: Option<&str>,
    forwarded: bool,
) -> Result<PublishedResult, ErrorView> {
    if forwarded {
        let gateway = own(sidecar)?;
        let served = gateway.served().await;
        let published = served.iter().map(|(one, _)| view(sidecar, &gateway, one)).collect();
        return Ok(PublishedResult { published, silent: Vec::new() });
    }
    let hosts = match named {
        Some(_) => vec![gateway_host(sidecar, named)?],
        None => gateways(sidecar),
    };
    let mut result = PublishedResult::default();
    for host in hosts {
        let answer = match host == sidecar.me {
            true => Box::pin(all(sidecar, None, true)).await,
            false => {
                let request = Request::Published { gateway: None };
                forward::ask(sidecar, &host, request).await.and_then(|body| read(&body))
            }
        };
        match answer {
            Ok(one) => result.published.extend(one.published),
            Err(error) if named.is_some() => return Err(error),
            Err(_) => result.silent.push(host.to_string()),
        }
    }
    Ok(result)
}

fn read(body: &Body) -> Result<PublishedResult, ErrorView> {
    body.parse().map_err(|error| ErrorView::new("admin/protocol", "the answer was not understood").why(error))
}

fn view(sidecar: &Sidecar, gateway: &Gateway, publication: &Publication) -> PublicationView {
    let record = sidecar.places.capsule(&publication.capsule);
    PublicationView {
        gateway: sidecar.me.to_string(),
        port: publication.host_port,
        capsule: publication.name.to_string(),
        capsule_port: publication.port,
        protocol: publication.protocol.as_str().into(),
        proxy_protocol: publication.proxy_protocol,
        capsule_host: record.as_ref().map(|record| record.host.to_string()),
        state: record.map(|record| super::views::state(record.state)),
        connections: gateway.connections_to(publication) as u64,
    }
}
