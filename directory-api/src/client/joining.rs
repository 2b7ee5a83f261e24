//! How a new host becomes a member.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

use super::call::{Endpoints, exchange};
use super::{ClientError, protocol};
use crate::identity::{SigningRequest, TransportSettings, ca_hash, joining_client};
use crate::limits::{ATTEMPT_TIME, CALL_TIME, DIRECTORIES_MAX};
use crate::{Identity, Issued, Membership, Request, Response, Token};

const VERB: &str = "join";

/// Joins the mesh by one directory: [`join_any`].
///
/// # Errors
/// As there.
pub async fn join(directory: SocketAddr, token: &str) -> Result<Membership, ClientError> {
    join_any(&[directory], token).await
}

/// Joins the mesh by whichever directory answers: makes a key, has it certified with the token, and returns what the host
/// must keep ([`Membership::save`]). Trusts the directory by the CA's hash in the token.
///
/// # Errors
/// When the token is broken, used, expired or of another directory; when all directories are away.
pub async fn join_any(directories: &[SocketAddr], token: &str) -> Result<Membership, ClientError> {
    let text = token.trim();
    let token = Token::read(text)?;
    let request = SigningRequest::generate(&token.zone, &token.host)?;
    let message = Request::Join { token: text.to_owned(), csr: request.csr_der().to_vec() }.encode();
    let directories = &directories[..directories.len().min(DIRECTORIES_MAX)];
    let (directory, issued) = timeout(CALL_TIME, ask(directories, &token, &message))
        .await
        .unwrap_or_else(|_| Err(away(directories, "no answer".to_owned())))?;
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
        locators: Vec::new(),
    })
}

/// Asks one directory after the other, until one answers for good. An answer that was lost does no harm: the same key may
/// use its token again.
async fn ask(
    directories: &[SocketAddr],
    token: &Token,
    message: &[u8],
) -> Result<(SocketAddr, Issued), ClientError> {
    let config = joining_client(token.ca_hash, &TransportSettings::directory())?;
    let endpoints = Endpoints::open()?;
    let mut left = directories.to_vec();
    let mut failures = Vec::new();
    for _ in directories {
        let connection = match endpoints.connect_to_any(&left, &config, &token.zone.directory()).await {
            Ok(connection) => connection,
            Err(failed) => {
                failures.extend(failed);
                break;
            }
        };
        let address = connection.remote_address();
        left.retain(|known| *known != address);
        // With nobody else to ask there is nothing to be gained by giving up.
        let time = if left.is_empty() { CALL_TIME } else { ATTEMPT_TIME };
        let answer = timeout(time, exchange(&connection, message)).await;
        connection.close(0u32.into(), b"");
        // Lets the directory know; otherwise it would wait for the idle timeout.
        let _ = timeout(Duration::from_millis(200), endpoints.finish()).await;
        let failure = match answer {
            Ok(Ok(answer)) => match issued(&answer, address) {
                Err(ClientError::Refused(refusal)) if refusal.is_passing() && !left.is_empty() => {
                    refusal.to_string()
                }
                answered => return answered.map(|issued| (address, issued)),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        failures.push(format!("{address}: {failure}"));
    }
    Err(away(directories, failures.join("; ")))
}

fn issued(answer: &[u8], address: SocketAddr) -> Result<Issued, ClientError> {
    match Response::decode(answer).map_err(|error| protocol(VERB, address, &error))? {
        Response::Issued(issued) => Ok(issued),
        Response::Error(refusal) => Err(refusal.into()),
        _ => Err(ClientError::Protocol { verb: VERB, address, cause: "unexpected answer".into() }),
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

fn away(directories: &[SocketAddr], cause: String) -> ClientError {
    let addresses: Vec<_> = directories.iter().map(ToString::to_string).collect();
    ClientError::Away { verb: VERB, addresses: addresses.join(", "), seconds: CALL_TIME.as_secs(), cause }
}
