//! The CA of a running directory: what signs at this moment, and which hosts hold what it gives out. Follows the files of
//! the CA, so that another issuer or root needs no restart, and makes another issuer when the time has come.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use directory_api::Identity;
use directory_api::identity::IdentityError;
use overlay_proto::HostName;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::audit::By;
use crate::ca::Ca;
use crate::data::{CaFiles, Data};
use crate::limits::{ISSUER_AGAIN, KEYS_TICK};
use crate::published::Published;
use crate::sealed::Passphrase;

/// The CA in use.
pub struct Authority {
    ca: RwLock<Arc<Ca>>,
    identity: Identity,
    /// What each host said that it holds.
    held: Mutex<HashMap<HostName, [u8; 32]>>,
}

/// Follows the files for a running directory.
pub struct Follower {
    /// The directory's data.
    pub data: Arc<Data>,
    /// The CA in use.
    pub authority: Arc<Authority>,
    /// The hosts there are.
    pub published: Arc<Published>,
    /// What opens the root's key, if the directory is to know.
    pub passphrase_file: Option<PathBuf>,
    /// The files that the CA in use was made from.
    pub files: CaFiles,
}

impl Authority {
    /// Begins with a CA.
    ///
    /// # Errors
    /// When the crypto library fails.
    pub fn new(ca: Ca, now: SystemTime) -> Result<Self, IdentityError> {
        let identity = ca.own_identity(now)?;
        Ok(Self { ca: RwLock::new(Arc::new(ca)), identity, held: Mutex::default() })
    }

    /// What signs at this moment.
    pub fn ca(&self) -> Arc<Ca> {
        self.ca.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the directory shows of itself.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A host says what it holds.
    pub fn heard(&self, host: &HostName, credentials: Option<[u8; 32]>) {
        let mut held = self.held();
        match credentials {
            Some(credentials) => held.insert(host.clone(), credentials),
            None => held.remove(host),
        };
    }

    /// Hosts that do not hold what this CA gives out, or have not said.
    pub fn waiting<'a>(&self, hosts: impl Iterator<Item = &'a HostName>) -> Vec<HostName> {
        let wanted = self.ca().credentials();
        let hosts: HashSet<&HostName> = hosts.collect();
        let mut held = self.held();
        held.retain(|host, _| hosts.contains(host));
        let mut waiting: Vec<HostName> =
            hosts.into_iter().filter(|host| held.get(*host) != Some(&wanted)).cloned().collect();
        waiting.sort();
        waiting
    }

    /// Signs by another CA from here on.
    ///
    /// # Errors
    /// When the crypto library fails; the old one stays then.
    fn take_up(&self, ca: Ca, now: SystemTime) -> Result<(), IdentityError> {
        ca.renew_own(&self.identity, now)?;
        *self.ca.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ca);
        Ok(())
    }

    fn held(&self) -> MutexGuard<'_, HashMap<HostName, [u8; 32]>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Follows for as long as the directory runs.
    pub async fn run(mut self) {
        let mut ticks = interval(KEYS_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again = Instant::now();
        loop {
            ticks.tick().await;
            let now = SystemTime::now();
            if let Err(error) = self.look(now) {
                error!(error = format!("{error:#}"), "cannot take up the files of the CA; what it was stays");
            }
            let ca = self.authority.ca();
            if self.authority.identity.is_due(now) {
                match ca.renew_own(&self.authority.identity, now) {
                    Ok(()) => info!("renewed the directory's own certificate"),
                    Err(error) => warn!(%error, "cannot renew the directory's own certificate"),
                }
            }
            if ca.is_due(now) && Instant::now() >= again {
                again = Instant::now() + ISSUER_AGAIN;
                self.renew_issuer(&ca, now).await;
            }
        }
    }

    /// Takes up what became of the files.
    fn look(&mut self, now: SystemTime) -> Result<()> {
        let Some(files) = self.data.ca_files()? else { return Ok(()) };
        if files != self.files {
            // What can't be taken up is complained of once.
            self.files = files.clone();
            self.authority.take_up(files.open(&self.data)?, now)?;
            info!("the CA signs by other keys, or hosts are to trust others: they get fresh certificates");
        }
        // Also where nobody waits for it: what hosts said that are gone is forgotten.
        let waiting = self.published.read(|all| self.authority.waiting(all.hosts().map(|host| &host.name)));
        if files.is_rotating() {
            let credentials = self.authority.ca().credentials();
            self.data.write_uptake(credentials, waiting, now)?;
        }
        Ok(())
    }

    /// Makes another issuer if the root's key can be had here.
    async fn renew_issuer(&self, ca: &Ca, now: SystemTime) {
        let (data, file) = (self.data.clone(), self.passphrase_file.clone());
        // Opening the root's key takes about a second of work.
        let made = tokio::task::spawn_blocking(move || -> Result<bool> {
            let passphrase = file.as_deref().map(Passphrase::read).transpose()?;
            if passphrase.is_none() && !data.root_is_open()? {
                return Ok(false);
            }
            data.renew_issuer(&By::Directory, passphrase.as_ref(), now)?;
            Ok(true)
        });
        let made = made.await.context("the thread broke").and_then(|made| made);
        let ends = ca.validity().not_after.duration_since(now).unwrap_or_default();
        let days = ends.as_secs() / 86_400;
        match made {
            Ok(true) => info!("made another issuer"),
            Ok(false) => warn!(
                days,
                "the issuer ends, and with it every certificate; the root's key is encrypted: \
                 capsule-directory renew-issuer, or set ca_passphrase_file"
            ),
            Err(error) => warn!(days, error = format!("{error:#}"), "the issuer ends, and cannot be renewed"),
        }
    }
}
