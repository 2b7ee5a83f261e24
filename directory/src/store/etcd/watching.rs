//! The stream of news. It does not heal by itself: when it ends it is opened anew from the present, and what was committed
//! in between is found from the head.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::{Client, EventType, GetOptions, KeyValue, WatchOptions};
use prost::Message as _;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::head::Head;
use super::inbox::{Advertised, HeadAt, Inbox};
use super::keys::{Keys, NewsKey};
use crate::limits::{ETCD_CALL_TIME, ETCD_WATCH_PAUSE};

/// The hosts that a directory heard of since it last said so.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SeenRow {
    #[prost(string, repeated, tag = "1")]
    pub(super) hosts: Vec<String>,
}

/// Why the stream ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Etcd(#[from] etcd_client::Error),
    #[error("no answer")]
    Silent,
    #[error("closed: {0}")]
    Closed(String),
    #[error("the head is unreadable: made by a newer version, or damaged")]
    Unreadable,
}

/// Watches until the process ends.
pub(super) async fn run(client: Client, keys: Keys, inbox: Arc<Inbox>, endpoints: String) {
    let mut was_told = false;
    loop {
        let Err(ended) = follow(client.clone(), &keys, &inbox).await;
        if inbox.is_in_touch() || !was_told {
            warn!(endpoints, error = %ended, "no news from etcd; trying again");
            was_told = true;
        }
        inbox.lose_touch();
        sleep(ETCD_WATCH_PAUSE).await;
    }
}

async fn follow(mut client: Client, keys: &Keys, inbox: &Inbox) -> Result<std::convert::Infallible, Ended> {
    let options = GetOptions::new().with_prefix();
    let call = client.get(keys.directories(), Some(options));
    let listed = timeout(ETCD_CALL_TIME, call).await.map_err(|_| Ended::Silent)??;
    let present = listed.header().map_or(0, |header| header.revision());
    let found: BTreeMap<_, _> = listed.kvs().iter().filter_map(|row| directory(keys, row)).collect();
    inbox.directories.replace(found);
    let head = GetOptions::new().with_revision(present);
    let call = client.get(keys.head(), Some(head));
    let head = timeout(ETCD_CALL_TIME, call).await.map_err(|_| Ended::Silent)??;
    let head = head.kvs().first().map(read_head).transpose()?;

    let options = WatchOptions::new().with_prefix().with_start_revision(present + 1);
    let call = client.watch(keys.news(), Some(options));
    let mut stream = timeout(ETCD_CALL_TIME, call).await.map_err(|_| Ended::Silent)??;
    let created = timeout(ETCD_CALL_TIME, stream.message()).await.map_err(|_| Ended::Silent)??;
    if !created.as_ref().is_some_and(|first| first.created() && !first.canceled()) {
        let reason = created.map(|first| first.cancel_reason().to_owned()).unwrap_or_default();
        return Err(Ended::Closed(reason));
    }
    inbox.begin(head);
    info!("news from etcd arrive");
    loop {
        let Some(message) = stream.message().await? else { return Err(Ended::Closed("by etcd".into())) };
        if message.canceled() {
            return Err(Ended::Closed(message.cancel_reason().to_owned()));
        }
        for event in message.events() {
            if let Some(row) = event.kv() {
                take(keys, inbox, row, event.event_type())?;
            }
        }
        inbox.tell();
    }
}

fn take(keys: &Keys, inbox: &Inbox, row: &KeyValue, kind: EventType) -> Result<(), Ended> {
    let Ok(key) = row.key_str() else { return Ok(()) };
    match (keys.read_news(key), kind) {
        (Some(NewsKey::Head), EventType::Put) => inbox.put_head(read_head(row)?),
        (Some(NewsKey::Seen), EventType::Put) => {
            let hosts = SeenRow::decode(row.value()).map(|seen| seen.hosts).unwrap_or_default();
            inbox.put_seen(hosts.iter().filter_map(|host| host.parse().ok()).collect());
        }
        (Some(NewsKey::Directory(id)), EventType::Put) => {
            inbox.directories.put(id, serde_json::from_slice(row.value()).ok());
        }
        (Some(NewsKey::Directory(id)), EventType::Delete) => inbox.directories.put(id, None),
        (Some(NewsKey::Head | NewsKey::Seen), EventType::Delete) | (None, _) => {}
    }
    Ok(())
}

pub(super) fn directory(keys: &Keys, row: &KeyValue) -> Option<(String, Advertised)> {
    let NewsKey::Directory(id) = keys.read_news(row.key_str().ok()?)? else { return None };
    Some((id.to_owned(), serde_json::from_slice(row.value()).ok()?))
}

fn read_head(row: &KeyValue) -> Result<HeadAt, Ended> {
    let head = Head::decode(row.value()).ok_or(Ended::Unreadable)?;
    Ok(HeadAt { at: row.mod_revision(), head })
}
