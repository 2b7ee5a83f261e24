//! Several directories at once, by etcd. Each has all facts in memory; a commit is one transaction that replaces the
//! *head*, guarded by the version of it that this directory saw last. So all commits stand in one row, whoever makes
//! them, and each is evaluated on top of everything before it.
//!
//! ```text
//!  commit ─► guard holds ─► written ────────────────────────────► done
//!        ├─► guard fails ─► read the heads since ─┬─ first is ours ─► done: an answer was lost
//!        │                                        └─ another's ─────► Overtaken: the heads are news, evaluate again
//!        └─► no answer ──► the same again, until its time is over ─► Away: not known; should it still arrive it is news
//!  watch ──► heads, hosts heard of, directories ─► inbox ─► news
//! ```
//!
//! A commit whose answer was lost does no harm however late it arrives: either the head is the one that it names, or
//! nothing happens.

mod commit;
mod head;
mod inbox;
mod keys;
mod mesh;
mod watching;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use directory_api::identity::provider;
use etcd_client::{Client, ConnectOptions, Error, GetOptions};
use overlay_proto::HostName;
use prost::Message as _;
use tracing::debug;

use self::head::portions;
use self::inbox::{HeadAt, Inbox};
use self::keys::Keys;
use super::{Contents, EtcdAddress, News, Shared, Store, StoreError, Write};
use crate::limits::{
    ETCD_CALL_TIME, ETCD_COMMIT_TIME, ETCD_COMPACT_EVERY, ETCD_KEEP_ALIVE, ETCD_LATEST_TIME, ETCD_LOAD_TIME,
    ETCD_PAGE_ROWS, ETCD_PAUSE, ETCD_TRANSACTION_KEYS_MAX,
};

pub use self::inbox::{Advertised, Directories};
pub use self::mesh::Mesh;

/// The facts of one mesh in etcd.
pub struct Etcd {
    /// Its own, so that it serves threads and tasks alike; `None` only while it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    client: Client,
    keys: Keys,
    endpoints: String,
    /// Names this process among the directories.
    id: String,
    inbox: Arc<Inbox>,
    /// Something about hosts heard of is on its way.
    telling: Arc<AtomicBool>,
    /// etcd's revision of the head that was taken last; 0 for none.
    at: i64,
    revision: u64,
    locator_next: u64,
    /// What was found and has not been given out.
    found: VecDeque<News>,
    /// The heads since are not known one by one.
    gap: bool,
    /// How long etcd may take for one page of everything.
    patience: Duration,
}

impl Etcd {
    /// Opens the facts of a mesh.
    ///
    /// # Errors
    /// When etcd does not answer.
    pub fn open(address: &EtcdAddress, options: ConnectOptions, zone: &str) -> Result<Self, StoreError> {
        let named = address.endpoints.join(",");
        let away = |cause: String| StoreError::Away { endpoints: named.clone(), cause };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("etcd")
            .enable_all()
            .build()
            .map_err(|error| away(error.to_string()))?;
        let options = options
            .with_connect_timeout(ETCD_CALL_TIME)
            .with_keep_alive(ETCD_KEEP_ALIVE, ETCD_KEEP_ALIVE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        let connecting = connect(address.endpoints.clone(), options);
        let connected = wait(&runtime, connecting).ok_or_else(|| away("no thread".into()))?;
        let client = connected.map_err(away)?;
        let mut id = [0; 16];
        provider().secure_random.fill(&mut id).map_err(|_| away("no random numbers".into()))?;
        let store = Self {
            runtime: Some(runtime),
            client,
            keys: Keys::new(zone),
            endpoints: named.clone(),
            id: data_encoding::HEXLOWER.encode(&id),
            inbox: Arc::default(),
            telling: Arc::default(),
            at: 0,
            revision: 0,
            locator_next: 0,
            found: VecDeque::new(),
            gap: false,
            patience: ETCD_LOAD_TIME,
        };
        store.patiently(
            ETCD_LOAD_TIME,
            |mut client, keys| async move { client.get(keys.head(), None).await },
        )?;
        Ok(store)
    }

    /// Begins to follow what others do. Before that there is no news.
    ///
    /// # Errors
    /// When no news arrive.
    pub fn follow(&mut self) -> Result<(), StoreError> {
        self.patience = ETCD_COMMIT_TIME;
        if let Some(runtime) = &self.runtime {
            let (client, keys, inbox) = (self.client.clone(), self.keys.clone(), self.inbox.clone());
            runtime.spawn(watching::run(client.clone(), keys, inbox, self.endpoints.clone()));
            runtime.spawn(compact(client));
        }
        let begin = Instant::now();
        while !self.is_in_touch() {
            if begin.elapsed() > ETCD_LOAD_TIME {
                return Err(self.out_of_touch());
            }
            std::thread::sleep(ETCD_PAUSE);
        }
        Ok(())
    }

    /// The directories of the mesh.
    pub fn directories(&self) -> Directories {
        self.inbox.directories.clone()
    }

    /// Calls etcd until it answers or the time is over.
    fn patiently<T, F, W>(&self, time: Duration, call: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(Client, Keys) -> W + Send + 'static,
        W: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let (client, keys, deadline) = (self.client.clone(), self.keys.clone(), Instant::now() + time);
        let calling = async move {
            loop {
                let attempt = ETCD_CALL_TIME.min(time);
                let cause = match tokio::time::timeout(attempt, call(client.clone(), keys.clone())).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(error)) if is_compacted(&error) => return Err(error.to_string()),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => format!("no answer within {} ms", attempt.as_millis()),
                };
                debug!(cause, "a call of etcd failed");
                if Instant::now() + ETCD_PAUSE >= deadline {
                    return Err(cause);
                }
                tokio::time::sleep(ETCD_PAUSE).await;
            }
        };
        let runtime = self.runtime.as_ref().ok_or_else(|| self.away("it is being closed".into()))?;
        let answer = wait(runtime, calling).ok_or_else(|| self.away("its thread ended".into()))?;
        answer.map_err(|cause| self.away(cause))
    }

    fn away(&self, cause: String) -> StoreError {
        StoreError::Away { endpoints: self.endpoints.clone(), cause }
    }

    fn row(&self, key: &str) -> StoreError {
        StoreError::Row { endpoints: self.endpoints.clone(), key: key.to_owned() }
    }

    /// Everything at one revision of etcd, and the head at that revision.
    fn everything(&self) -> Result<(Contents, Option<HeadAt>), StoreError> {
        let found =
            self.patiently(
                self.patience,
                |mut client, keys| async move { client.get(keys.head(), None).await },
            )?;
        let head = found.kvs().first().map(|row| self.read_head(row)).transpose()?;
        let present = found.header().map_or(0, |header| header.revision());
        let mut contents = Contents::default();
        let (mut from, end) = (self.keys.facts(), format!("{}0", self.keys.facts().trim_end_matches('/')));
        loop {
            let (begin, end) = (from.clone(), end.clone());
            let page = self.patiently(self.patience, move |mut client, _| {
                let options = GetOptions::new()
                    .with_range(end.clone())
                    .with_limit(ETCD_PAGE_ROWS)
                    .with_revision(present);
                let begin = begin.clone();
                async move { client.get(begin, Some(options)).await }
            })?;
            for row in page.kvs() {
                let key = row.key_str().unwrap_or_default();
                self.keys.read_fact(key, row.value(), &mut contents).ok_or_else(|| self.row(key))?;
                // The key right behind it.
                from = format!("{key}\0");
            }
            if !page.more() {
                break;
            }
        }
        if head.is_none() && contents != Contents::default() {
            return Err(self.unfinished());
        }
        if let Some(HeadAt { head, .. }) = &head {
            (contents.revision, contents.locator_next) = (head.revision, head.locator_next);
        }
        Ok((contents, head))
    }
}

impl Store for Etcd {
    fn load(&mut self) -> Result<Contents, StoreError> {
        let (contents, head) = self.everything()?;
        self.at = head.map_or(0, |head| head.at);
        (self.revision, self.locator_next) = (contents.revision, contents.locator_next);
        self.found.clear();
        self.gap = false;
        Ok(contents)
    }

    fn read(&mut self) -> Result<Contents, StoreError> {
        self.everything().map(|(contents, _)| contents)
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), StoreError> {
        let mut done = Vec::new();
        for portion in portions(writes, ETCD_TRANSACTION_KEYS_MAX) {
            if let Err(error) = self.check_followed().and_then(|()| self.commit_portion(portion)) {
                // What of it holds is told like what others did, and whoever evaluates again finds it done.
                if !self.gap {
                    done.into_iter().rev().for_each(|news| self.found.push_front(news));
                }
                return Err(error);
            }
            done.push(News::Committed { revision: self.revision, writes: portion.to_vec() });
        }
        Ok(())
    }

    fn room(&self) -> usize {
        ETCD_TRANSACTION_KEYS_MAX
    }

    fn shared(&mut self) -> Option<&mut dyn Shared> {
        Some(self)
    }
}

impl Shared for Etcd {
    fn on_news(&mut self, told: Box<dyn Fn() + Send + Sync>) {
        self.inbox.on_news(told);
    }

    fn news(&mut self) -> Result<Vec<News>, StoreError> {
        let arrived = self.inbox.take();
        if self.gap {
            self.found = VecDeque::from([News::Gap]);
        }
        if arrived.again {
            self.found.push_back(News::InTouchAgain);
        }
        if !arrived.seen.is_empty() {
            self.found.push_back(News::Seen(arrived.seen.into_iter().collect()));
        }
        for head in arrived.heads {
            if !self.gap {
                self.walk(Some(head))?;
            }
        }
        Ok(std::mem::take(&mut self.found).into())
    }

    fn latest(&mut self) -> Result<Vec<News>, StoreError> {
        let found = self.patiently(ETCD_LATEST_TIME, |mut client, keys| async move {
            client.get(keys.head(), None).await
        })?;
        let head = found.kvs().first().map(|row| self.read_head(row)).transpose()?;
        // Somebody has taken the facts away.
        self.gap |= head.is_none() && self.at > 0;
        let mut news = self.news()?;
        if !self.gap {
            self.walk(head)?;
        }
        news.extend(std::mem::take(&mut self.found));
        Ok(news)
    }

    fn tell_seen(&mut self, hosts: Vec<HostName>) -> Result<(), Vec<HostName>> {
        let Some(runtime) = &self.runtime else { return Err(hosts) };
        if self.telling.swap(true, Ordering::AcqRel) {
            return Err(hosts);
        }
        let row = watching::SeenRow { hosts: hosts.iter().map(ToString::to_string).collect() };
        let (mut client, key, telling) =
            (self.client.clone(), self.keys.seen(&self.id), self.telling.clone());
        runtime.spawn(async move {
            let put = tokio::time::timeout(ETCD_CALL_TIME, client.put(key, row.encode_to_vec(), None)).await;
            // Hosts are heard of again soon; if etcd is away, that is told where it is noticed first.
            debug!(hosts = row.hosts.len(), told = matches!(put, Ok(Ok(_))), "told of hosts heard of");
            telling.store(false, Ordering::Release);
        });
        Ok(())
    }

    fn distrust(&mut self) {
        self.gap = true;
    }

    fn is_in_touch(&self) -> bool {
        self.inbox.is_in_touch()
    }

    fn out_of_touch(&self) -> StoreError {
        self.away("no news arrive from it".into())
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connects, over TLS where the options say so. A user's password is sent at once, so etcd must be there.
async fn connect(endpoints: Vec<String>, options: ConnectOptions) -> Result<Client, String> {
    let deadline = Instant::now() + ETCD_LOAD_TIME;
    loop {
        let connecting = Client::connect(&endpoints, Some(options.clone()));
        let (cause, is_final) = match tokio::time::timeout(ETCD_CALL_TIME, connecting).await {
            Ok(Ok(client)) => return Ok(client),
            Ok(Err(Error::GRpcStatus(refusal))) => {
                let is_final = refusal.message().contains("authentication");
                (refusal.message().to_owned(), is_final)
            }
            Ok(Err(error)) => (error.to_string(), true),
            Err(_) => ("no answer".to_owned(), false),
        };
        if is_final || Instant::now() + ETCD_PAUSE >= deadline {
            return Err(cause);
        }
        tokio::time::sleep(ETCD_PAUSE).await;
    }
}

/// Lets etcd forget what is older than a while, as Kubernetes does with its own.
async fn compact(mut client: Client) {
    let mut before = None;
    loop {
        let present = match client.status().await {
            Ok(status) => status.header().map(|header| header.revision()),
            Err(_) => None,
        };
        if let Some(revision) = before.take() {
            // Another directory may have been faster.
            let compacted = client.compact(revision, None).await;
            debug!(revision, succeeded = compacted.is_ok(), "compacting etcd");
        }
        before = present;
        tokio::time::sleep(ETCD_COMPACT_EVERY).await;
    }
}

/// Has something done on the store's own threads, and waits for it on any.
fn wait<T: Send + 'static>(
    runtime: &tokio::runtime::Runtime,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (send, receive) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        let _ = send.send(work.await);
    });
    receive.recv().ok()
}

fn is_compacted(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status) if status.message().contains("has been compacted"))
}

#[cfg(test)]
pub(super) mod process;
#[cfg(test)]
mod tests;
