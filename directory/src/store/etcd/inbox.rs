//! What the watch has brought and the writer has not taken yet. Bounded: of heads that were let go the next one knows the
//! way back, and of hosts it is enough to know that they were heard of.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use overlay_proto::HostName;
use serde::{Deserialize, Serialize};

use super::head::Head;
use crate::limits::{DIRECTORIES_MAX, ETCD_GAP_COMMITS_MAX};

/// A version of the head, and etcd's revision of it.
#[derive(Debug, Clone)]
pub(super) struct HeadAt {
    pub(super) at: i64,
    pub(super) head: Head,
}

/// Where a directory is found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advertised {
    /// Requests.
    pub api: Vec<SocketAddr>,
    /// DNS.
    pub dns: Vec<SocketAddr>,
}

/// The directories of one mesh, as the store names them.
#[derive(Debug, Clone, Default)]
pub struct Directories(Arc<RwLock<BTreeMap<String, Advertised>>>);

/// What has come since the last time.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    pub(super) heads: VecDeque<HeadAt>,
    pub(super) seen: BTreeSet<HostName>,
    /// The watch began anew, before all of the above.
    pub(super) again: bool,
}

#[derive(Default)]
pub(super) struct Inbox {
    arrived: Mutex<Arrived>,
    in_touch: AtomicBool,
    told: OnceLock<Box<dyn Fn() + Send + Sync>>,
    pub(super) directories: Directories,
}

impl Inbox {
    pub(super) fn on_news(&self, told: Box<dyn Fn() + Send + Sync>) {
        let _ = self.told.set(told);
    }

    pub(super) fn is_in_touch(&self) -> bool {
        self.in_touch.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Arrived {
        std::mem::take(&mut *self.arrived())
    }

    /// The watch runs, from this head on.
    pub(super) fn begin(&self, head: Option<HeadAt>) {
        {
            let mut arrived = self.arrived();
            arrived.again = true;
            arrived.heads.extend(head);
        }
        self.in_touch.store(true, Ordering::Release);
        self.tell();
    }

    /// The watch has ended.
    pub(super) fn lose_touch(&self) {
        self.in_touch.store(false, Ordering::Release);
    }

    pub(super) fn put_head(&self, head: HeadAt) {
        let mut arrived = self.arrived();
        if arrived.heads.len() >= ETCD_GAP_COMMITS_MAX {
            arrived.heads.clear();
        }
        arrived.heads.push_back(head);
    }

    pub(super) fn put_seen(&self, hosts: Vec<HostName>) {
        self.arrived().seen.extend(hosts);
    }

    pub(super) fn tell(&self) {
        if let Some(told) = self.told.get() {
            told();
        }
    }

    fn arrived(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directories {
    /// Everywhere that the directories of the mesh take requests and answer DNS, `first` in front.
    pub fn all(&self, first: &Advertised) -> Advertised {
        let directories = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = first.clone();
        for directory in directories.values() {
            all.api.extend(directory.api.iter().filter(|address| !first.api.contains(address)));
            all.dns.extend(directory.dns.iter().filter(|address| !first.dns.contains(address)));
        }
        all
    }

    /// All of them, by id.
    pub fn list(&self) -> Vec<(String, Advertised)> {
        let directories = self.0.read().unwrap_or_else(PoisonError::into_inner);
        directories.iter().map(|(id, advertised)| (id.clone(), advertised.clone())).collect()
    }

    pub(super) fn replace(&self, all: BTreeMap<String, Advertised>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) =
            all.into_iter().take(DIRECTORIES_MAX).collect();
    }

    pub(super) fn put(&self, id: &str, advertised: Option<Advertised>) {
        let mut directories = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match advertised {
            Some(advertised) if directories.len() < DIRECTORIES_MAX || directories.contains_key(id) => {
                directories.insert(id.to_owned(), advertised);
            }
            Some(_) => {}
            None => drop(directories.remove(id)),
        }
    }
}
