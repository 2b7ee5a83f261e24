//! How a new host becomes a member.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::call::{connect, endpoints, exchange};
use super::{ClientError, protocol};
use crate::identity::{SigningRequest, TransportSettings, ca_hash, joining_client};
use crate::limits::CALL_TIME;
use crate::{Identity, Issued, Membership, Request, Response, Token};

const VERB: &str = "join";

/// Joins the mesh: makes a key, has it certified with the token, and returns what the host must keep
/// ([`Membership::save`]). Trusts the directory by the CA's hash in the token.
///
/// # Errors
/// When the token is broken, used, expired or of another directory; when the directory is away.
pub async fn join(directory: SocketAddr, token: &str) -> Result<Membership, ClientError> {
    let text = token.trim();
    let token = Token::read(text)?;
    let request = SigningRequest::generate(&token.zone, &token.host)?;
    let message = Request::Join { token: text.to_owned(), csr: request.csr_der().to_vec() }.encode();
    let issued = timeout(CALL_TIME, ask(directory, &token, &message))
        .await
        .unwrap_or_else(|_| Err(away(directory, CALL_TIME, "no answer".to_owned())))?;
    let wrong =
        |cause: &str| ClientError::Protocol { verb: VERB, address: directory, cause: cause.to_owned() };
    if ca_hash(&issued.ca.as_slice().into()) != token.ca_hash {
        return Err(wrong("the CA is not the one in the token"));
    }
    let chain = issued.chain.into_iter().map(Into::into).collect();
    let anchors = std::iter::once(issued.ca.clone()).chain(issued.also_trusted).map(Into::into);
    let identity = Identity::new(request.key_pem(), chain, issued.ca.into())?;
    identity.trust(anchors.collect())?;
    if identity.host() != Some(&token.host) {
        return Err(wrong("the certificate is for another host"));
    }
    Ok(Membership {
        host: token.host,
        zone: token.zone,
        identity,
        api: reachable(issued.api, directory),
        dns: reachable(issued.dns, directory),
    })
}

async fn ask(directory: SocketAddr, token: &Token, message: &[u8]) -> Result<Issued, ClientError> {
    let config = joining_client(token.ca_hash, &TransportSettings::directory())?;
    let (v4, v6) = endpoints()?;
    let endpoint = match (directory, v6) {
        (SocketAddr::V6(_), Some(v6)) => v6,
        (SocketAddr::V4(_) | SocketAddr::V6(_), _) => v4,
    };
    let failed = |cause: String| away(directory, CALL_TIME, cause);
    let connection = connect(&endpoint, config, directory, &token.zone.directory()).await.map_err(failed)?;
    let answer = exchange(&connection, message).await.map_err(|error| failed(error.to_string()))?;
    connection.close(0u32.into(), b"");
    // Lets the directory know; otherwise it would wait for the idle timeout.
    let _ = timeout(Duration::from_millis(200), endpoint.wait_idle()).await;
    match Response::decode(&answer).map_err(|error| protocol(VERB, directory, &error))? {
        Response::Issued(issued) => Ok(issued),
        Response::Error(refusal) => Err(refusal.into()),
        _ => Err(ClientError::Protocol { verb: VERB, address: directory, cause: "unexpected answer".into() }),
    }
}

/// A directory that listens everywhere does not know its address; the one at which it was just reached serves.
fn reachable(addresses: Vec<SocketAddr>, asked: SocketAddr) -> Vec<SocketAddr> {
    let known = |address: SocketAddr| match address.ip().is_unspecified() {
        true => SocketAddr::new(asked.ip(), address.port()),
        false => address,
    };
    addresses.into_iter().map(known).collect()
}

fn away(directory: SocketAddr, time: Duration, cause: String) -> ClientError {
    ClientError::Away { verb: VERB, addresses: directory.to_string(), seconds: time.as_secs(), cause }
}
