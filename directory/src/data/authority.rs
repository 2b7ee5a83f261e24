//! The files of the CA, and what commands do to them.
//!
//! A root is replaced in three steps, each a run of the same command:
//!
//! ```text
//!  hosts trust   ca.pem            ca.pem, next-ca.pem            ca.pem, last-ca.pem           ca.pem
//!  signed under  ca.pem            ca.pem                         ca.pem                        ca.pem
//!        ── begin: a new root ──►        ── switch: it signs ──►        ── finish: the old goes ──►
//!                              all hosts trust both         all hosts are certified under it
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use overlay_proto::HostName;
use serde::{Deserialize, Serialize};

use super::Data;
use super::replacing::Held;
use crate::audit::{By, Entry};
use crate::ca::{self, Ca, Pair};
use crate::limits::UPTAKE_FRESH;
use crate::sealed::{self, Passphrase};
use crate::store::StoreAddress;

/// What a running directory reads of the CA's files.
#[derive(Clone, PartialEq, Eq)]
pub struct CaFiles {
    root: String,
    signing: Pair,
    /// Whether the root signs by itself.
    by_root: bool,
    next: Option<String>,
    last: Option<String>,
}

/// Which hosts do not hold yet what the CA gives out; written by a running directory while its root is being replaced.
#[derive(Debug, Serialize, Deserialize)]
pub struct Uptake {
    /// When that was so, milliseconds since 1970.
    pub at_ms: u64,
    /// What hosts should hold, in hex.
    pub credentials: String,
    /// Hosts that hold something else, or have not said.
    pub waiting: Vec<HostName>,
}

/// Where the replacement of the root stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotation {
    /// There is none under way.
    None,
    /// Hosts are learning to trust the next root.
    Begun,
    /// The new root signs; hosts still trust the last one.
    Switched,
    /// The last root is gone.
    Finished,
    /// The next step was not made: these hosts are not ready for it.
    Waiting(Vec<HostName>),
}

impl CaFiles {
    /// Takes up the CA.
    pub fn open(&self, data: &Data) -> Result<Ca> {
        let zone = data.zone.clone();
        let ca = match self.by_root {
            true => {
                Ca::root(zone, &self.signing).with_context(|| data.file("ca.pem").display().to_string())?
            }
            false => Ca::issuer(zone, &self.signing, &self.root)
                .with_context(|| data.file("issuer.pem").display().to_string())?,
        };
        let others = self.next.iter().chain(&self.last);
        ca.also_trusting(others).context("next-ca.pem or last-ca.pem")
    }

    /// Whether the root is being replaced.
    pub fn is_rotating(&self) -> bool {
        self.next.is_some() || self.last.is_some()
    }
}

impl Data {
    /// Takes up the CA: its issuer, or of a mesh that has none the root.
    pub fn ca(&self) -> Result<(CaFiles, Ca)> {
        let _held = self.hold_ca()?;
        let files = self.read_ca_files()?;
        let ca = files.open(self)?;
        Ok((files, ca))
    }

    /// The files as they are; `None` while they are being changed.
    pub fn ca_files(&self) -> Result<Option<CaFiles>> {
        match self.look_at_ca()? {
            Some(_held) => self.read_ca_files().map(Some),
            None => Ok(None),
        }
    }

    fn read_ca_files(&self) -> Result<CaFiles> {
        let root = self.read("ca.pem")?;
        let by_root = !self.has("issuer.pem")?;
        let signing = match by_root {
            true => Pair { key: self.read("ca.key")?, certificate: root.clone() },
            false => Pair { key: self.read("issuer.key")?, certificate: self.read("issuer.pem")? },
        };
        let maybe = |name: &str| self.has(name)?.then(|| self.read(name)).transpose();
        Ok(CaFiles { root, signing, by_root, next: maybe("next-ca.pem")?, last: maybe("last-ca.pem")? })
    }

    /// Makes another issuer, in the place of the one there is. What that one signed stays good. A running directory takes
    /// it up within a second or two.
    pub fn renew_issuer(&self, by: &By, passphrase: Option<&Passphrase>, now: SystemTime) -> Result<()> {
        let held = self.hold_ca()?;
        ensure!(
            self.has("issuer.pem")?,
            "the root of this mesh was made to sign by itself. Replace it by one that has an issuer: \
             capsule-directory rotate-root --data {}",
            self.path.display()
        );
        let key = self.root_key("ca.key", passphrase)?;
        let root = Pair { key, certificate: self.read("ca.pem")? };
        let issuer = ca::create_issuer(&self.zone, &root, now)?;
        self.note(by, "renew issuer", "made", now).context("no issuer was made")?;
        self.replace(&held, &issuer_files(&issuer), &[])
    }

    /// Whether the root's key lies open, so that an issuer can be made without a passphrase.
    pub fn root_is_open(&self) -> Result<bool> {
        self.has("ca.key")
    }

    /// Encrypts the root's key where it lies.
    pub fn seal_root(&self, passphrase: &Passphrase, now: SystemTime) -> Result<()> {
        let held = self.hold_ca()?;
        if !self.has("ca.key")? {
            let sealed = self.file("ca.key.age");
            ensure!(self.has("ca.key.age")?, "there is neither {} nor ca.key", sealed.display());
            bail!("{} is encrypted already; nothing was changed", sealed.display());
        }
        ensure!(
            self.has("issuer.pem")?,
            "the root of this mesh signs by itself, and its key must lie open for that. Replace it by one that has an \
             issuer: capsule-directory rotate-root --data {} --ca-passphrase-file FILE",
            self.path.display()
        );
        let key = self.read("ca.key")?;
        let root = Pair { key, certificate: self.read("ca.pem")? };
        // An issuer can only be made by a key that belongs to the certificate.
        ca::create_issuer(&self.zone, &root, now).context("ca.key was left as it is")?;
        let sealed = sealed::seal(&root.key, passphrase)?;
        let opened = sealed::unseal(&sealed, passphrase).context("ca.key was left as it is")?;
        ensure!(opened == root.key, "what was encrypted does not open to the same; ca.key was left as it is");
        self.note(&By::Operator, "seal root", "the root's key was encrypted", now)?;
        self.replace(&held, &[("ca.key.age", &sealed)], &["ca.key"])
    }

    /// Where the replacement of the root stands; changes nothing.
    pub fn rotation(&self, now: SystemTime) -> Result<(Rotation, Vec<HostName>)> {
        let held = self.hold_ca()?;
        let (next, last) = (self.has("next-ca.pem")?, self.has("last-ca.pem")?);
        Ok(match (next, last) {
            (false, false) => (Rotation::None, Vec::new()),
            (true, _) => (Rotation::Begun, self.not_ready(&held, now)?),
            (false, true) => (Rotation::Switched, self.not_ready(&held, now)?),
        })
    }

    /// One step of the replacement of the root, if every host is ready for it. Only where one directory serves: each knows
    /// only of the hosts that renew their leases with it whether they are ready, and has files of the CA of its own.
    pub fn rotate_root(&self, passphrase: Option<&Passphrase>, now: SystemTime) -> Result<Rotation> {
        let store = self.store_address()?;
        ensure!(
            store == StoreAddress::Embedded,
            "the facts are at {store}, where several directories may serve them, and none of those knows whether all hosts \
             are ready for another root; nothing was changed. Stop all of them, take the facts back for that time \
             (capsule-directory copy-store --data {} --from {store} --to embedded), and serve with this one",
            self.path.display()
        );
        let held = self.hold_ca()?;
        match (self.has("next-ca.pem")?, self.has("last-ca.pem")?) {
            (false, false) => self.begin_rotation(&held, passphrase, now),
            (true, _) => self.switch_root(&held, passphrase, now),
            (false, true) => self.finish_rotation(&held, now),
        }
    }

    fn begin_rotation(
        &self,
        held: &Held,
        passphrase: Option<&Passphrase>,
        now: SystemTime,
    ) -> Result<Rotation> {
        ensure!(
            passphrase.is_some() || !self.has("ca.key.age")?,
            "the key of the present root is encrypted; the next one's should be too: --ca-passphrase-file FILE"
        );
        let root = ca::create(&self.zone, now)?;
        let sealed = passphrase.map(|passphrase| sealed::seal(&root.key, passphrase)).transpose()?;
        let key: (&str, &[u8]) = match &sealed {
            Some(sealed) => ("next-ca.key.age", sealed),
            None => ("next-ca.key", root.key.as_bytes()),
        };
        self.note(&By::Operator, "rotate root", "a new root is made; hosts learn to trust it", now)?;
        self.replace(held, &[key, ("next-ca.pem", root.certificate.as_bytes())], &[])?;
        Ok(Rotation::Begun)
    }

    fn switch_root(&self, held: &Held, passphrase: Option<&Passphrase>, now: SystemTime) -> Result<Rotation> {
        let waiting = self.not_ready(held, now)?;
        if !waiting.is_empty() {
            return Ok(Rotation::Waiting(waiting));
        }
        let key = self.root_key("next-ca.key", passphrase)?;
        let root = Pair { key, certificate: self.read("next-ca.pem")? };
        let issuer = ca::create_issuer(&self.zone, &root, now)?;
        let last = self.read("ca.pem")?;
        let sealed = self.has("next-ca.key.age")?.then(|| self.read_bytes("next-ca.key.age")).transpose()?;
        let (key, other): ((&str, &[u8]), _) = match &sealed {
            Some(sealed) => (("ca.key.age", sealed), "ca.key"),
            None => (("ca.key", root.key.as_bytes()), "ca.key.age"),
        };
        let [issuer_key, issuer_certificate] = issuer_files(&issuer);
        let put = [
            key,
            ("ca.pem", root.certificate.as_bytes()),
            ("last-ca.pem", last.as_bytes()),
            issuer_key,
            issuer_certificate,
        ];
        self.note(&By::Operator, "rotate root", "the new root signs; the key of the last one is gone", now)?;
        self.replace(held, &put, &[other, "next-ca.pem", "next-ca.key", "next-ca.key.age"])?;
        Ok(Rotation::Switched)
    }

    fn finish_rotation(&self, held: &Held, now: SystemTime) -> Result<Rotation> {
        let waiting = self.not_ready(held, now)?;
        if !waiting.is_empty() {
            return Ok(Rotation::Waiting(waiting));
        }
        self.note(&By::Operator, "rotate root", "the last root is trusted no more", now)?;
        self.replace(held, &[], &["last-ca.pem"])?;
        Ok(Rotation::Finished)
    }

    /// Says which hosts hold what the CA gives out.
    pub fn write_uptake(&self, credentials: [u8; 32], waiting: Vec<HostName>, now: SystemTime) -> Result<()> {
        let at_ms = since_1970(now).as_millis();
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        let uptake = Uptake { at_ms, credentials: data_encoding::HEXLOWER.encode(&credentials), waiting };
        self.write("uptake.json", serde_json::to_string(&uptake)?)
    }

    /// Hosts that stand in the way of the next step. Only a directory that serves knows them.
    fn not_ready(&self, _held: &Held, now: SystemTime) -> Result<Vec<HostName>> {
        let unknown = || {
            format!(
                "which hosts are ready is known only while the directory serves; nothing was changed. Is it running? \
                 capsule-directory serve --data {}; else again in {} s",
                self.path.display(),
                UPTAKE_FRESH.as_secs()
            )
        };
        ensure!(self.has("uptake.json")?, unknown());
        let uptake: Uptake = serde_json::from_str(&self.read("uptake.json")?)?;
        let wanted = self.read_ca_files()?.open(self)?.credentials();
        let age = since_1970(now).saturating_sub(Duration::from_millis(uptake.at_ms));
        let same = uptake.credentials == data_encoding::HEXLOWER.encode(&wanted);
        ensure!(same && age <= UPTAKE_FRESH, unknown());
        Ok(uptake.waiting)
    }

    /// A root's key, in the clear or with the passphrase that opens it.
    fn root_key(&self, name: &str, passphrase: Option<&Passphrase>) -> Result<String> {
        let sealed = format!("{name}.age");
        match (self.has(name)?, passphrase) {
            (true, _) => self.read(name),
            (false, Some(passphrase)) => sealed::unseal(&self.read_bytes(&sealed)?, passphrase)
                .with_context(|| self.file(&sealed).display().to_string()),
            (false, None) => {
                bail!("{} is encrypted: --ca-passphrase-file FILE", self.file(&sealed).display())
            }
        }
    }

    /// What is wrong with the files that a directory serves with.
    pub fn faults(
        &self,
        store: Option<&StoreAddress>,
        passphrase: Option<&Passphrase>,
        now: SystemTime,
    ) -> Vec<String> {
        let mut faults = Vec::new();
        let mut check = |result: Result<()>| faults.extend(result.err().map(|error| format!("{error:#}")));
        check(self.token_key().map(drop));
        // One that is not there is made by the first start.
        if self.has("dnssec.json").unwrap_or(true) {
            check(self.zone_keys().map(drop));
        }
        if store == Some(&StoreAddress::Embedded) {
            check(self.check_not_moved());
            if !self.has("store.redb").unwrap_or(true) {
                let path = self.file("store.redb");
                check(Err(anyhow!("{} is missing: restore it from a backup", path.display())));
            }
        }
        check(self.check_ca(passphrase, now));
        faults
    }

    fn check_ca(&self, passphrase: Option<&Passphrase>, now: SystemTime) -> Result<()> {
        // What is half changed is finished by the next start.
        let Some(files) = self.ca_files()? else { return Ok(()) };
        let ca = files.open(self)?;
        ensure!(
            ca.validity().not_after > now,
            "{}: what signs is good no more: capsule-directory renew-issuer --data {}",
            self.file("issuer.pem").display(),
            self.path.display()
        );
        if let (Some(passphrase), false, true) = (passphrase, self.has("ca.key")?, self.has("ca.key.age")?) {
            self.root_key("ca.key", Some(passphrase)).context("ca_passphrase_file")?;
        }
        Ok(())
    }

    fn note(&self, by: &By, verb: &str, text: &str, now: SystemTime) -> Result<()> {
        let entry = match by {
            By::Operator => Entry::of_operator(verb, "mesh", &self.zone, text.into()),
            By::Host(_) | By::Joining(_) | By::Key { .. } | By::Directory => {
                Entry::new(now, by, verb, "mesh", &self.zone, text.into())
            }
        };
        self.audit()?.append(&[entry]).context("cannot write the audit log; nothing was changed")
    }
}

fn issuer_files(issuer: &Pair) -> [(&'static str, &[u8]); 2] {
    [("issuer.key", issuer.key.as_bytes()), ("issuer.pem", issuer.certificate.as_bytes())]
}

fn since_1970(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests;
