//! The QUIC side: who asks, what they ask, and whether they may ask it at all. What a request does is decided in
//! [`crate::engine`]; what it may see comes from [`crate::published`].

mod answer;
mod watch;

use std::sync::Arc;

use directory_api::identity::{PeerError, Subject, peer_subject};
use directory_api::limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX};
use directory_api::{ApiError, Asked, Request, Response, WireError, frame};
use overlay_proto::HostName;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use crate::limits::{CONNECTIONS_JOINING_MAX, CONNECTIONS_MAX, JOINING_TIME, REQUEST_TIME, STOP_TIME};

pub use answer::Answers;

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Caller {
    /// A host, by its certificate.
    Host(HostName),
    /// Somebody without a certificate, who can only join.
    Stranger,
}

/// Takes connections until the endpoint is closed.
pub async fn serve(endpoint: quinn::Endpoint, answers: Arc<Answers>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let joining = Arc::new(Semaphore::new(CONNECTIONS_JOINING_MAX));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = connections.clone().try_acquire_owned() else {
            warn!(client = %incoming.remote_address(), limit = CONNECTIONS_MAX, "too many connections");
            incoming.refuse();
            continue;
        };
        let (answers, joining) = (answers.clone(), joining.clone());
        tokio::spawn(async move {
            let client = incoming.remote_address();
            match incoming.await {
                Ok(connection) => converse(connection, &answers, &joining).await,
                Err(error) => debug!(%client, %error, "no handshake"),
            }
            drop(permit);
        });
    }
}

/// Ends all conversations.
pub async fn stop(endpoint: quinn::Endpoint) {
    endpoint.close(0u32.into(), b"the directory is stopping");
    if timeout(STOP_TIME, endpoint.wait_idle()).await.is_err() {
        debug!("some clients did not say goodbye");
    }
}

async fn converse(connection: quinn::Connection, answers: &Arc<Answers>, joining: &Arc<Semaphore>) {
    let client = connection.remote_address();
    let caller = match peer_subject(&connection) {
        Ok(Subject::Host(host)) => Caller::Host(host),
        Err(PeerError::None) => Caller::Stranger,
        Ok(Subject::Directory) | Err(PeerError::Unreadable | PeerError::Unnamed | PeerError::NoHost) => {
            warn!(%client, "the client's certificate names no host");
            return connection.close(1u32.into(), b"the certificate names no host");
        }
    };
    match &caller {
        Caller::Host(host) => {
            debug!(%client, %host, "connected");
            listen(&connection, &caller, answers).await;
        }
        Caller::Stranger => {
            let Ok(_permit) = joining.try_acquire() else {
                return connection.close(2u32.into(), b"too many hosts are joining");
            };
            let _ = timeout(JOINING_TIME, listen(&connection, &caller, answers)).await;
            connection.close(0u32.into(), b"");
        }
    }
}

/// Answers requests, each on its own stream, until the client leaves.
async fn listen(connection: &quinn::Connection, caller: &Caller, answers: &Arc<Answers>) {
    loop {
        match connection.accept_bi().await {
            Ok((send, receive)) => {
                let (connection, caller, answers) = (connection.clone(), caller.clone(), answers.clone());
                tokio::spawn(async move {
                    if let Err(error) = exchange(&connection, send, receive, &caller, &answers).await {
                        debug!(client = %connection.remote_address(), %error, "a request broke off");
                    }
                });
            }
            Err(error) => {
                debug!(client = %connection.remote_address(), %error, "disconnected");
                return;
            }
        }
    }
}

/// One request and its answer.
async fn exchange(
    connection: &quinn::Connection,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
    caller: &Caller,
    answers: &Answers,
) -> Result<(), frame::FrameError> {
    let message = match timeout(REQUEST_TIME, frame::read(&mut receive, REQUEST_BYTES_MAX)).await {
        Ok(message) => message?,
        Err(_) => None,
    };
    let Some(message) = message else { return Ok(()) };
    let asked = match Asked::decode(&message) {
        Ok(asked) => asked,
        Err(error) => return reply(&mut send, answers, Response::Error(malformed(&error))).await,
    };
    let verb = asked.request.verb();
    let response = match (caller, &asked.request) {
        (Caller::Host(host), Request::Watch { from_revision }) => {
            return match answers.check_member(host).await {
                Ok(()) => watch::send(&mut send, answers, host, *from_revision).await,
                Err(refusal) => watch::refuse(&mut send, &refusal).await,
            };
        }
        (Caller::Host(host), _) => answers.answer(host, connection, asked).await,
        (Caller::Stranger, Request::Join { token, csr }) => answers.join(token, csr).await,
        (Caller::Stranger, _) => {
            Err(ApiError::Denied { reason: "a host without a certificate can only join".into() })
        }
    };
    let response = response.unwrap_or_else(|refusal| {
        let client = connection.remote_address();
        match &caller {
            Caller::Host(host) => info!(%client, %host, verb, code = refusal.code(), %refusal, "refused"),
            Caller::Stranger => warn!(%client, verb, code = refusal.code(), %refusal, "refused"),
        }
        Response::Error(refusal)
    });
    reply(&mut send, answers, response).await
}

async fn reply(
    send: &mut quinn::SendStream,
    answers: &Answers,
    response: Response,
) -> Result<(), frame::FrameError> {
    answers.metrics().answered(matches!(response, Response::Error(_)));
    frame::write(send, &response.encode(), RESPONSE_BYTES_MAX).await?;
    // Both only say that the client has gone.
    let _ = send.finish();
    let _ = timeout(REQUEST_TIME, send.stopped()).await;
    Ok(())
}

fn malformed(error: &WireError) -> ApiError {
    ApiError::Malformed { reason: error.to_string() }
}
