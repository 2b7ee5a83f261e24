//! A data directory into a backup, and back.
//!
//! What a mesh can't do without is in it: the facts, the CA, the keys of the zones. Not in it: the audit log, and the key
//! that signs join tokens, which is made anew, so that none of before the restore can be used a second time.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, bail};
use directory_api::RestoreId;
use directory_api::identity::{ca_hash, certificates};
use directory_api::stored::Restored;

use super::replacing::CA_FILES;
use super::{Data, make_folder, random};
use crate::audit::{By, Entry};
use crate::backup::socket::{self, SocketError};
use crate::backup::{Backup, KeptFile};
use crate::shared;
use crate::store::{Embedded, Store as _, Write};

/// The files that a backup has beside those of the CA, as far as they are there.
const FILES: [&str; 3] = ["mesh.json", "dnssec.json", RESET_KEY];

const TOKEN_KEY: &str = "token.key";
const RESET_KEY: &str = "reset.key";

fn all_files() -> impl Iterator<Item = &'static str> {
    FILES.into_iter().chain(CA_FILES)
}
const STORE: &str = "store.redb";

impl Data {
    /// Makes a backup, by way of the directory that serves, if one does.
    pub fn backup(&self, now: SystemTime) -> Result<Backup> {
        let facts = match socket::ask(&self.path) {
            Ok(facts) => facts,
            Err(SocketError::NotServing) => shared::facts(self)?,
            Err(error) => return Err(error).with_context(|| self.path.display().to_string()),
        };
        // Those of the CA are of one step of the root's replacement, and none is half changed.
        let held = self.hold_ca()?;
        let mut files = Vec::new();
        for name in all_files() {
            if self.has(name)? {
                files.push(KeptFile { name: name.into(), content: self.read_bytes(name)? });
            }
        }
        if !files.iter().any(|file| file.name == RESET_KEY) {
            // By it hosts learn at once that their connections are with a directory that is gone.
            files.push(KeptFile { name: RESET_KEY.into(), content: self.read_bytes(TOKEN_KEY)? });
        }
        let backup = Backup::new(self.zone.to_string(), self.ca_hash()?, now, facts, files);
        drop(held);
        let text = format!("made at revision {}", backup.head.revision);
        let entry = Entry::new(now, &By::Operator, "backup", "mesh", &self.zone, text);
        self.audit()?.append(&[entry]).context("cannot write the audit log; no backup was made")?;
        Ok(backup)
    }

    /// Makes a data directory from a backup. It is whole, or there is none.
    pub fn restore(path: &Path, backup: &Backup, now: SystemTime) -> Result<Self> {
        if !is_empty(path)? {
            bail!(
                "{} is not empty: a backup is restored into an empty folder; nothing was changed",
                path.display()
            );
        }
        check(backup)?;
        let existed = path.exists();
        make_folder(path)?;
        let made = fill(path, backup, now);
        if made.is_err() {
            // Nothing of what was tried stays.
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                let _ = fs::remove_file(entry.path());
            }
            if !existed {
                let _ = fs::remove_dir(path);
            }
        }
        made
    }

    /// The secret by which connections with an earlier process are ended at once.
    pub fn reset_key(&self) -> Result<[u8; 32]> {
        if self.has(RESET_KEY)? { self.key_in(RESET_KEY) } else { self.token_key() }
    }

    fn ca_hash(&self) -> Result<[u8; 32]> {
        hash_of(&self.read("ca.pem")?).with_context(|| format!("{} is broken", self.file("ca.pem").display()))
    }
}

/// What the checksum can't know: whether a backup is whole and of one mesh.
fn check(backup: &Backup) -> Result<()> {
    if let Some(file) = backup.files.iter().find(|file| !all_files().any(|name| name == file.name)) {
        bail!("the backup has a file {:?}, which no directory has; nothing was changed", file.name);
    }
    let content = |name: &str| {
        let found = backup.files.iter().find(|file| file.name == name);
        let found = found.ok_or_else(|| anyhow!("the backup has no {name}; nothing was changed"))?;
        String::from_utf8(found.content.clone()).with_context(|| format!("{name} in the backup is broken"))
    };
    Data::parse(Path::new(""), &content("mesh.json")?).context("mesh.json in the backup is broken")?;
    if hash_of(&content("ca.pem")?).context("ca.pem in the backup is broken")? != backup.head.ca_hash {
        bail!("the CA in the backup is not the one that its head names; nothing was changed");
    }
    Ok(())
}

fn fill(path: &Path, backup: &Backup, now: SystemTime) -> Result<Data> {
    let mesh =
        backup.files.iter().find(|file| file.name == "mesh.json").context("the backup has no mesh.json")?;
    let data = Data::parse(path, &String::from_utf8_lossy(&mesh.content))?;
    for file in backup.files.iter().filter(|file| file.name != mesh.name) {
        data.write(&file.name, &file.content)?;
    }
    data.write(TOKEN_KEY, data_encoding::HEXLOWER.encode(&random::<32>()?))?;
    let restored = restored(backup, RestoreId::from_bytes(random()?));
    let mut writes = backup.facts.writes();
    writes.push(Write::Restored(Some(Box::new(restored.clone()))));
    Embedded::open(&data.file(STORE))?.commit(&writes)?;
    let text = format!(
        "from a backup at revision {}, restore {}; every host is to assert what it holds",
        backup.head.revision, restored.id
    );
    let entry = Entry::new(now, &By::Operator, "restore", "mesh", &data.zone, text);
    data.audit()?.append(&[entry])?;
    // Last, so that it stands for a finished restore.
    data.write(&mesh.name, &mesh.content)?;
    Ok(data)
}

/// That hosts have to assert. A backup that was made before an earlier restore was settled is as old as that one's.
fn restored(backup: &Backup, id: RestoreId) -> Restored {
    let mut awaited: Vec<_> = backup.facts.hosts.iter().map(|host| host.name.clone()).collect();
    let before = backup.facts.restored.as_ref();
    awaited.extend(before.into_iter().flat_map(|before| before.awaited.clone()));
    awaited.sort();
    awaited.dedup();
    Restored {
        id,
        revision: before.map_or(backup.facts.revision, |before| before.revision),
        taken_at: before.map_or(backup.head.taken_at, |before| before.taken_at),
        awaited,
    }
}

fn hash_of(pem: &str) -> Result<[u8; 32]> {
    let chain = certificates(pem)?;
    Ok(ca_hash(chain.first().context("there is no certificate")?))
}

fn is_empty(path: &Path) -> Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}
