//! Request streams between sidecars: which kind, and who takes it.

use std::sync::Arc;
use std::time::Instant;

use admin_api::{FrameReader, FrameWriter};
use anyhow::{Context, bail};
use overlay_proto::HostName;

use crate::admin::{self, Caller};
use crate::limits::{DIAL_TIMEOUT, LINK_LOOK};
use crate::link::Link;
use crate::moving;
use crate::sidecar::Sidecar;
use crate::switchboard::Requests;

/// What a request stream is for: its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A verb passed on.
    Admin,
    /// The conversation of a move.
    Move,
    /// Files of a move.
    Files,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Admin, Self::Move, Self::Files];

    fn byte(self) -> u8 {
        match self {
            Self::Admin => 1,
            Self::Move => 2,
            Self::Files => 3,
        }
    }
}

/// Opens a request stream to another host, which gets a link if there is none.
///
/// # Errors
/// The host is unknown or can't be reached.
pub async fn open(
    sidecar: &Sidecar,
    host: &HostName,
    kind: Kind,
) -> anyhow::Result<(quinn::SendStream, quinn::RecvStream)> {
    let address = sidecar.places.address_of(host, None).await?;
    let mut link = sidecar.links.to(host, address).await?;
    if !link.answers().await {
        // A busy link may answer late, and carries a move perhaps; one from which nothing came at all is dead, though it
        // was not given up yet.
        let dead = !link.is_down() && link.unheard(Instant::now()) + LINK_LOOK >= DIAL_TIMEOUT;
        link = match dead {
            true => sidecar.links.anew(&link, address).await?,
            false => sidecar.links.to(host, address).await?,
        };
    }
    let Some((mut send, receive)) = link.request().await? else { bail!("{host} is this host") };
    send.write_all(&[kind.byte()]).await?;
    Ok((send, receive))
}

/// Takes the request streams of other hosts.
pub struct Taker(pub std::sync::Weak<Sidecar>, pub tokio::runtime::Handle);

impl Requests for Taker {
    fn request(&self, link: &Arc<Link>, send: quinn::SendStream, receive: quinn::RecvStream) {
        let Some(sidecar) = self.0.upgrade() else { return };
        let host = link.host.clone();
        self.1.spawn(async move {
            if let Err(error) = take(sidecar, host.clone(), send, receive).await {
                tracing::warn!(%host, error = format!("{error:#}"), "a request of another host failed");
            }
        });
    }
}

async fn take(
    sidecar: Arc<Sidecar>,
    host: HostName,
    send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) -> anyhow::Result<()> {
    let mut byte = [0];
    receive.read_exact(&mut byte).await.context("reading the kind of a request")?;
    match Kind::ALL.into_iter().find(|kind| kind.byte() == byte[0]) {
        Some(Kind::Admin) => {
            let input = FrameReader::new(Box::new(receive) as Box<_>);
            let output = FrameWriter::new(Box::new(send) as Box<_>);
            admin::serve(sidecar, input, output, Caller::Host(host)).await;
            Ok(())
        }
        Some(Kind::Move) => moving::target::serve(sidecar, host, send, receive).await,
        Some(Kind::Files) => moving::files::receive(sidecar, host, send, receive).await,
        None => bail!("request kind {} is not known to this version", byte[0]),
    }
}
