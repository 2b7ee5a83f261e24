//! The connection and the repeating of calls.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::addresses::Addresses;
use super::{ClientError, protocol};
use crate::identity::{TransportSettings, directory_client, endpoint, udp_socket};
use crate::limits::{
    ATTEMPT_TIME, BACKOFF_FIRST, BACKOFF_MAX, CONNECT_HEAD_START, CONNECT_TIME, REQUEST_BYTES_MAX,
    RESPONSE_BYTES_MAX, SILENCE_TIME,
};
use crate::{Asked, Identity, Response, frame};

/// Enough for one host's requests; the data of links does not pass here.
const SOCKET_BUFFER_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Shared {
    addresses: Addresses,
    identity: Identity,
    config: quinn::ClientConfig,
    endpoints: Endpoints,
    connection: Mutex<Option<quinn::Connection>>,
    /// Lets one caller connect while the others wait for what it finds.
    connecting: tokio::sync::Mutex<()>,
}

/// One endpoint per family: a socket for both would fail where the machine has no IPv6.
#[derive(Debug)]
pub(super) struct Endpoints {
    v4: quinn::Endpoint,
    /// Absent where the machine has no IPv6.
    v6: Option<quinn::Endpoint>,
}

/// Why one attempt failed; there may be another one.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    #[error("{0}")]
    Connect(String),
    #[error("{address}: {source}")]
    Broken { address: SocketAddr, source: frame::FrameError },
    #[error("{address}: no answer")]
    Silent { address: SocketAddr },
    #[error(transparent)]
    Final(ClientError),
}

impl Shared {
    pub(super) fn new(addresses: Vec<SocketAddr>, identity: Identity) -> Result<Self, ClientError> {
        let config = directory_client(&identity, &TransportSettings::directory())?;
        Ok(Self {
            addresses: Addresses::new(addresses),
            identity,
            config,
            endpoints: Endpoints::open()?,
            connection: Mutex::new(None),
            connecting: tokio::sync::Mutex::new(()),
        })
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(super) fn is_connected(&self) -> bool {
        self.current().is_some()
    }

    /// The address in use, or the first that would be tried.
    pub(super) fn address(&self) -> SocketAddr {
        let unknown = || SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let connected = self.current().map(|connection| connection.remote_address());
        connected.or_else(|| self.addresses.in_turn().first().copied()).unwrap_or_else(unknown)
    }

    /// Where the directories are.
    pub(super) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Asks until there is an answer or the time is over.
    pub(super) async fn call(&self, asked: &Asked, call_time: Duration) -> Result<Response, ClientError> {
        let deadline = Instant::now() + call_time;
        let (request, message) = (&asked.request, asked.encode());
        let mut pause = BACKOFF_FIRST;
        let mut before = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let cause = match timeout(left, self.attempt(request.verb(), &message)).await {
                Ok(Ok(Response::Error(refusal))) if !refusal.is_passing() => return Err(refusal.into()),
                Ok(Ok(Response::Error(refusal))) => refusal.to_string(),
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(AttemptError::Final(error))) => return Err(error),
                Ok(Err(error)) => error.to_string(),
                // The time is over in the middle of an attempt; what happened at the one before says more.
                Err(_) => before.take().unwrap_or_else(|| "no answer".to_owned()),
            };
            debug!(verb = request.verb(), cause, "the directory did not answer");
            if Instant::now() + pause >= deadline {
                return Err(self.away(request.verb(), call_time, cause));
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
            before = Some(cause);
        }
    }

    async fn attempt(&self, verb: &'static str, message: &[u8]) -> Result<Response, AttemptError> {
        let connection = self.connection().await?;
        let address = connection.remote_address();
        let exchange = timeout(ATTEMPT_TIME, exchange(&connection, message));
        let answer = tokio::select! {
            answered = exchange => answered.map_err(|_| AttemptError::Silent { address }),
            // With nobody else to ask there is nothing to be gained by giving up.
            () = silence(&connection), if self.addresses.are_several() => Err(AttemptError::Silent { address }),
        };
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(source)) => {
                self.leave(&connection);
                return Err(AttemptError::Broken { address, source });
            }
            Err(silent) => {
                self.leave(&connection);
                return Err(silent);
            }
        };
        match Response::decode(&answer) {
            Ok(Response::Error(refusal)) if refusal.is_passing() => {
                if self.addresses.are_several() {
                    self.leave(&connection);
                }
                Ok(Response::Error(refusal))
            }
            other => other.map_err(|error| AttemptError::Final(protocol(verb, address, &error))),
        }
    }

    /// The connection there is, or a new one to the first address that answers.
    pub(super) async fn connection(&self) -> Result<quinn::Connection, AttemptError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let _connecting = self.connecting.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let server_name = self.identity.zone().directory();
        match self.endpoints.connect_to_any(&self.addresses.in_turn(), &self.config, &server_name).await {
            Ok(connection) => {
                *self.slot() = Some(connection.clone());
                Ok(connection)
            }
            Err(failures) if failures.is_empty() => {
                Err(AttemptError::Connect("no address is known".to_owned()))
            }
            Err(failures) => Err(AttemptError::Connect(failures.join("; "))),
        }
    }

    /// Gives up a connection to a directory that is of no use at this time: others come first.
    pub(super) fn leave(&self, connection: &quinn::Connection) {
        self.addresses.put_last(connection.remote_address());
        self.forget(connection);
    }

    /// Gives up a connection, unless another one took its place.
    fn forget(&self, connection: &quinn::Connection) {
        connection.close(0u32.into(), b"");
        let mut slot = self.slot();
        if slot.as_ref().is_some_and(|current| current.stable_id() == connection.stable_id()) {
            *slot = None;
        }
    }

    fn current(&self) -> Option<quinn::Connection> {
        self.slot().clone().filter(|connection| connection.close_reason().is_none())
    }

    fn slot(&self) -> MutexGuard<'_, Option<quinn::Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn away(&self, verb: &'static str, call_time: Duration, cause: String) -> ClientError {
        let addresses: Vec<_> = self.addresses.in_turn().iter().map(ToString::to_string).collect();
        ClientError::Away { verb, addresses: addresses.join(", "), seconds: call_time.as_secs(), cause }
    }
}

impl Endpoints {
    pub(super) fn open() -> Result<Self, ClientError> {
        let open = |address: SocketAddr| endpoint(udp_socket(address, SOCKET_BUFFER_BYTES)?, None);
        let v4 = open((Ipv4Addr::UNSPECIFIED, 0).into())
            .map_err(|source| ClientError::Local { what: "cannot open a UDP socket", source })?;
        Ok(Self { v4, v6: open((Ipv6Addr::UNSPECIFIED, 0).into()).ok() })
    }

    /// Dials one after the other, each with a head start, and takes whoever answers first.
    pub(super) async fn connect_to_any(
        &self,
        addresses: &[SocketAddr],
        config: &quinn::ClientConfig,
        server_name: &str,
    ) -> Result<quinn::Connection, Vec<String>> {
        let mut dialling = JoinSet::new();
        let mut start = Duration::ZERO;
        for &address in addresses {
            let (config, server_name) = (config.clone(), server_name.to_owned());
            let endpoint = match address {
                SocketAddr::V4(_) => Some(self.v4.clone()),
                SocketAddr::V6(_) => self.v6.clone(),
            };
            let after = start;
            start += CONNECT_HEAD_START;
            dialling.spawn(async move {
                sleep(after).await;
                let connected = match endpoint {
                    Some(endpoint) => connect(&endpoint, config, address, &server_name).await,
                    None => Err("this machine has no IPv6".to_owned()),
                };
                connected.map_err(|error| format!("{address}: {error}"))
            });
        }
        let mut failures = Vec::new();
        while let Some(dialled) = dialling.join_next().await {
            match dialled {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(failure)) => failures.push(failure),
                Err(_) => failures.push("the attempt broke".to_owned()),
            }
        }
        Err(failures)
    }

    /// Lets the other sides know what was closed; otherwise they would wait for the idle timeout.
    pub(super) async fn finish(&self) {
        self.v4.wait_idle().await;
        if let Some(v6) = &self.v6 {
            v6.wait_idle().await;
        }
    }
}

/// Returns when the other side did not even acknowledge what was just sent.
async fn silence(connection: &quinn::Connection) {
    let before = connection.stats().udp_rx.datagrams;
    sleep(SILENCE_TIME.max(connection.rtt() * 4)).await;
    if connection.stats().udp_rx.datagrams > before {
        std::future::pending().await
    }
}

/// Sends one request and reads its answer.
pub(super) async fn exchange(
    connection: &quinn::Connection,
    message: &[u8],
) -> Result<Vec<u8>, frame::FrameError> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(quinn::WriteError::from)?;
    frame::write(&mut send, message, REQUEST_BYTES_MAX).await?;
    // An error means that the peer stopped reading; its answer says more.
    let _ = send.finish();
    let ended = || frame::FrameError::Read(quinn::ReadExactError::FinishedEarly(0));
    frame::read(&mut receive, RESPONSE_BYTES_MAX).await?.ok_or_else(ended)
}

async fn connect(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    server_name: &str,
) -> Result<quinn::Connection, String> {
    let connecting =
        endpoint.connect_with(config, address, server_name).map_err(|error| error.to_string())?;
    match timeout(CONNECT_TIME, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", CONNECT_TIME.as_secs())),
    }
}

/// Bytes that nobody can guess.
pub(super) fn random<const LENGTH: usize>() -> Result<[u8; LENGTH], ClientError> {
    let mut bytes = [0; LENGTH];
    crate::identity::provider().secure_random.fill(&mut bytes).map_err(|_| ClientError::Local {
        what: "cannot draw random bytes",
        source: std::io::ErrorKind::Other.into(),
    })?;
    Ok(bytes)
}
