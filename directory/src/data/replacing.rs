//! Several files of the CA change as one: a crash leaves all of the old ones or all of the new ones.
//!
//! ```text
//!  NAME.next written ─► ca.replacing says which ─► NAME.next becomes NAME, others go ─► ca.replacing goes
//!                       └── from here on whoever comes next finishes it
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::{Data, owner};

/// Every file of the CA: what this way replaces, and what a backup takes along.
pub(super) const CA_FILES: [&str; 9] = [
    "ca.pem",
    "ca.key",
    "ca.key.age",
    "issuer.pem",
    "issuer.key",
    "next-ca.pem",
    "next-ca.key",
    "next-ca.key.age",
    "last-ca.pem",
];

const PLAN: &str = "ca.replacing";

/// What is to become of files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Plan {
    put: Vec<String>,
    remove: Vec<String>,
}

/// Held while the files of the CA are read or changed; the lock ends with it.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "holds the lock")] Option<File>);

impl Data {
    /// Waits until nobody else reads or changes the files of the CA, and finishes what somebody began who died.
    pub(super) fn hold_ca(&self) -> Result<Held> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(self.lock_path());
        let file = file.and_then(|file| owner::hand_over(&file, &self.path).map(|()| file));
        let file = file.with_context(|| format!("cannot open {}", self.lock_path().display()))?;
        flock(&file, FlockOperation::LockExclusive).context("cannot lock the files of the CA")?;
        self.finish_replacing().context("cannot finish what was begun with the files of the CA")?;
        Ok(Held(Some(file)))
    }

    /// As [`Data::hold_ca`] for reading; `None` while somebody changes them, or left them half changed.
    pub(super) fn look_at_ca(&self) -> Result<Option<Held>> {
        let file = match File::open(self.lock_path()) {
            // Nobody has changed them yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.with_context(|| format!("cannot open {}", self.lock_path().display()))?),
        };
        let locked =
            file.as_ref().is_none_or(|file| flock(file, FlockOperation::NonBlockingLockShared).is_ok());
        Ok((locked && !self.has(PLAN)?).then_some(Held(file)))
    }

    fn lock_path(&self) -> PathBuf {
        self.file("ca.lock")
    }

    /// Puts some files and removes others, all or none.
    pub(super) fn replace(&self, _held: &Held, put: &[(&str, &[u8])], remove: &[&str]) -> Result<()> {
        for (name, content) in put {
            self.write(&next(name), content)?;
        }
        let names = |names: &mut dyn Iterator<Item = &&str>| names.map(|name| (*name).to_owned()).collect();
        let plan =
            Plan { put: names(&mut put.iter().map(|(name, _)| name)), remove: names(&mut remove.iter()) };
        self.write(PLAN, serde_json::to_string(&plan)?)?;
        self.finish_replacing().context("the change is made when the next command or start finishes it")
    }

    fn finish_replacing(&self) -> Result<()> {
        if !self.has(PLAN)? {
            // Of a change that was never decided on; there may be a key in it.
            for name in CA_FILES {
                gone(fs::remove_file(self.file(&next(name))))?;
            }
            return Ok(());
        }
        let plan: Plan = serde_json::from_str(&self.read(PLAN)?)?;
        let known = |name: &&String| CA_FILES.contains(&name.as_str());
        for name in plan.put.iter().filter(known) {
            gone(fs::rename(self.file(&next(name)), self.file(name)))?;
        }
        for name in plan.remove.iter().filter(known) {
            gone(fs::remove_file(self.file(name)))?;
        }
        sync(&self.path)?;
        gone(fs::remove_file(self.file(PLAN)))?;
        sync(&self.path)?;
        Ok(())
    }
}

fn next(name: &str) -> String {
    format!("{name}.next")
}

/// What is not there any more was done before.
fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::tests::mesh;
    use super::*;

    #[test]
    fn what_root_writes_belongs_to_the_owner_of_the_data() {
        use std::os::unix::fs::MetadataExt as _;
        let data = mesh("owner", None);
        // Only root can give files away; for others the owner is the same all along.
        let uid =
            if rustix::process::geteuid().is_root() { 12_345 } else { rustix::process::geteuid().as_raw() };
        for name in ["", "audit.log"] {
            std::os::unix::fs::chown(data.path.join(name), Some(uid), None).unwrap();
        }
        data.renew_issuer(&crate::audit::By::Operator, None, std::time::SystemTime::now()).unwrap();
        for name in ["issuer.key", "issuer.pem", "ca.lock", "audit.log"] {
            assert_eq!(fs::metadata(data.file(name)).unwrap().uid(), uid, "{name}");
        }
        fs::remove_dir_all(&data.path).unwrap();
    }

    #[test]
    fn a_change_that_was_decided_is_finished_and_another_is_forgotten() {
        let data = mesh("replacing", None);
        let held = data.hold_ca().unwrap();
        let before = data.read("ca.pem").unwrap();
        // Dies before it is decided.
        data.write("ca.pem.next", "never").unwrap();
        drop(held);
        drop(data.hold_ca().unwrap());
        assert_eq!(data.read("ca.pem").unwrap(), before);
        assert!(!data.has("ca.pem.next").unwrap());
        // Dies afterwards, with one file in its place.
        data.write("ca.pem", "new").unwrap();
        data.write("last-ca.pem.next", &before).unwrap();
        let plan =
            Plan { put: vec!["ca.pem".into(), "last-ca.pem".into()], remove: vec!["next-ca.pem".into()] };
        data.write("next-ca.pem", "new").unwrap();
        data.write(PLAN, serde_json::to_string(&plan).unwrap()).unwrap();
        assert!(data.look_at_ca().unwrap().is_none(), "half changed");
        drop(data.hold_ca().unwrap());
        assert_eq!(
            (data.read("ca.pem").unwrap().as_str(), data.read("last-ca.pem").unwrap()),
            ("new", before)
        );
        assert!(!data.has("next-ca.pem").unwrap() && !data.has(PLAN).unwrap());
        assert!(data.look_at_ca().unwrap().is_some());
        fs::remove_dir_all(&data.path).unwrap();
    }
}
