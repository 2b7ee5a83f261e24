//! Finding hosts by DNS: the SRV record of a capsule names its host and port, as any resolver sees it.

mod servers;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use anyhow::{Context, bail};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use overlay_proto::{CapsuleName, HostName};

use crate::limits::{DNS_PATIENCE, DNS_SILENCE};

pub use self::servers::Servers;

/// A resolver that asks the directory's DNS server.
#[derive(Clone)]
pub struct Finder(Arc<Inner>);

struct Inner {
    zone: String,
    servers: Servers,
    resolver: RwLock<TokioResolver>,
    found: Mutex<HashMap<CapsuleName, (HostName, SocketAddr)>>,
    /// The server did not answer: until then it is not waited for by who knows another way.
    silent_until: Mutex<Option<Instant>>,
}

impl Finder {
    /// A finder for `zone`, served at `servers`.
    ///
    /// # Errors
    /// The resolver can't be made.
    pub fn new(zone: String, servers: &[SocketAddr]) -> anyhow::Result<Self> {
        let resolver = RwLock::new(resolver(servers)?);
        let servers = Servers::new(servers.to_vec());
        let (found, silent_until) = (Mutex::default(), Mutex::default());
        Ok(Self(Arc::new(Inner { zone, servers, resolver, found, silent_until })))
    }

    /// The directory's DNS servers.
    pub fn servers(&self) -> &Servers {
        &self.0.servers
    }

    /// The directory's DNS servers are others.
    ///
    /// # Errors
    /// The resolver can't be made; the old servers stay.
    pub fn learn_servers(&self, servers: &[SocketAddr]) -> anyhow::Result<()> {
        let resolver = resolver(servers)?;
        *self.0.resolver.write().expect("no panics under this lock") = resolver;
        self.0.servers.learn(servers);
        Ok(())
    }

    /// As [`Self::host_of`], for who knows another way to find out: gives up soon, and at once for a while after that.
    ///
    /// # Errors
    /// As [`Self::host_of`].
    pub async fn host_of_soon(&self, capsule: &CapsuleName) -> anyhow::Result<(HostName, SocketAddr)> {
        let until = *self.0.silent_until.lock().expect("no panics under this lock");
        if until.is_some_and(|until| Instant::now() < until) {
            bail!("the directory's DNS server did not answer a moment ago");
        }
        let found = tokio::time::timeout(DNS_PATIENCE, self.host_of(capsule)).await;
        let silence = found.is_err().then(|| Instant::now() + DNS_SILENCE);
        *self.0.silent_until.lock().expect("no panics under this lock") = silence;
        found.unwrap_or_else(|_| bail!("the directory's DNS server does not answer"))
    }

    /// The host of a capsule and where it takes links.
    ///
    /// # Errors
    /// The directory's DNS server does not answer, or has no such record.
    pub async fn host_of(&self, capsule: &CapsuleName) -> anyhow::Result<(HostName, SocketAddr)> {
        if let Some(found) = self.0.found.lock().expect("no panics under this lock").get(capsule) {
            return Ok(found.clone());
        }
        let name = format!("_capsule._udp.{capsule}.{}.", self.0.zone);
        let resolver = self.0.resolver.read().expect("no panics under this lock").clone();
        let answer = resolver.lookup(Name::from_ascii(&name)?, RecordType::SRV).await?;
        let service = answer.answers().iter().find_map(|record| match &record.data {
            RData::SRV(service) => Some(service.clone()),
            _ => None,
        });
        let service = service.with_context(|| format!("{name} has no SRV record"))?;
        let target = service.target.to_ascii();
        let suffix = format!(".hosts.{}.", self.0.zone);
        let Some(host) = target.strip_suffix(&suffix) else { bail!("{target} is no host of the mesh") };
        let host: HostName = host.parse()?;
        let addresses = resolver.lookup_ip(service.target.clone()).await?;
        let address: IpAddr = addresses.iter().next().with_context(|| format!("{target} has no address"))?;
        let found = (host, SocketAddr::new(address, service.port));
        self.0.found.lock().expect("no panics under this lock").insert(capsule.clone(), found.clone());
        Ok(found)
    }

    /// Forgets everything: the watch said that something changed.
    pub fn forget_all(&self) {
        self.0.found.lock().expect("no panics under this lock").clear();
    }
}

fn resolver(servers: &[SocketAddr]) -> anyhow::Result<TokioResolver> {
    let name_servers = servers.iter().map(|server| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
        let connections = connections.map(|mut connection| {
            connection.port = server.port();
            connection
        });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    let config = ResolverConfig::from_parts(None, Vec::new(), name_servers.collect());
    let mut options = ResolverOpts::default();
    // Freshness comes from the watch: see `forget_all`.
    options.cache_size = 0;
    options.timeout = std::time::Duration::from_secs(1);
    options.attempts = 2;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    Ok(builder.build()?)
}
