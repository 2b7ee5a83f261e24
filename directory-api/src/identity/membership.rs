//! What a host keeps of its joining, on disk: `key.pem`, `cert.pem`, `ca.pem`, `join.json`, readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use overlay_proto::HostName;
use serde::{Deserialize, Serialize};

use super::{Identity, IdentityError, certificates_to_pem};
use crate::zone::Zone;

/// A host's place in a mesh.
#[derive(Debug, Clone)]
pub struct Membership {
    /// The host.
    pub host: HostName,
    /// The mesh.
    pub zone: Zone,
    /// How the host proves itself.
    pub identity: Identity,
    /// Where the directory takes requests.
    pub api: Vec<SocketAddr>,
    /// Where the directory answers DNS.
    pub dns: Vec<SocketAddr>,
    /// All addresses that capsules have or may get; empty while that is not known.
    pub locators: Vec<IpNet>,
}

/// Why a membership cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// The host has not joined.
    #[error("{}: this host has not joined a mesh (capsule-sidecar join)", .0.display())]
    None(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file's content is broken.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The certificates or the key are broken.
    #[error("{}: {source}", path.display())]
    Identity {
        /// The directory they are in.
        path: PathBuf,
        /// What is wrong.
        source: IdentityError,
    },
}

#[derive(Serialize, Deserialize)]
struct JoinFile {
    version: u32,
    host: HostName,
    zone: String,
    api: Vec<SocketAddr>,
    dns: Vec<SocketAddr>,
    #[serde(default)]
    locators: Vec<IpNet>,
}

const VERSION: u32 = 1;

impl Membership {
    /// Writes everything below `directory`, the file by which [`Membership::load`] goes last.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, directory: &Path) -> Result<(), MembershipError> {
        let failed = |source| MembershipError::File { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        write(directory, "key.pem", &self.identity.key_pem())?;
        self.save_credentials(directory)?;
        self.save_addresses(directory)
    }

    /// Writes alone where the directories are, and what addresses capsules have.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_addresses(&self, directory: &Path) -> Result<(), MembershipError> {
        let failed = |source| MembershipError::File { path: directory.to_owned(), source };
        let file = JoinFile {
            version: VERSION,
            host: self.host.clone(),
            zone: self.zone.to_string(),
            api: self.api.clone(),
            dns: self.dns.clone(),
            locators: self.locators.clone(),
        };
        let text = serde_json::to_string_pretty(&file).map_err(|error| failed(error.into()))?;
        write(directory, "join.json", &text)
    }

    /// Writes whom this host trusts and its certificate, after a renewal; the key stays the same.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_credentials(&self, directory: &Path) -> Result<(), MembershipError> {
        write(directory, "ca.pem", &certificates_to_pem(&self.identity.anchors()))?;
        write(directory, "cert.pem", &certificates_to_pem(&self.identity.chain()))
    }

    /// Reads what [`Membership::save`] wrote.
    ///
    /// # Errors
    /// When this host has not joined, or a file is unreadable or broken.
    pub fn load(directory: &Path) -> Result<Self, MembershipError> {
        let path = directory.join("join.json");
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(MembershipError::None(directory.to_owned()));
            }
            Err(source) => return Err(MembershipError::File { path, source }),
            Ok(text) => text,
        };
        let content = |reason: String| MembershipError::Content { path: path.clone(), reason };
        let file: JoinFile = serde_json::from_str(&text).map_err(|error| content(error.to_string()))?;
        if file.version != VERSION {
            return Err(content(format!("version {} is unknown, {VERSION} is needed", file.version)));
        }
        let zone: Zone =
            file.zone.parse().map_err(|error: crate::zone::ZoneError| content(error.to_string()))?;
        let [key, chain, ca] =
            [read(directory, "key.pem")?, read(directory, "cert.pem")?, read(directory, "ca.pem")?];
        let broken = |source| MembershipError::Identity { path: directory.to_owned(), source };
        let identity = Identity::from_pem(&key, &chain, &ca).map_err(broken)?;
        if identity.host() != Some(&file.host) || *identity.zone() != zone {
            return Err(content(format!("names {}, but the certificate is {identity:?}", file.host)));
        }
        Ok(Self { host: file.host, zone, identity, api: file.api, dns: file.dns, locators: file.locators })
    }
}

fn read(directory: &Path, name: &str) -> Result<String, MembershipError> {
    let path = directory.join(name);
    fs::read_to_string(&path).map_err(|source| MembershipError::File { path, source })
}

/// Writes a file so that after a crash it has the old content or the new.
fn write(directory: &Path, name: &str, text: &str) -> Result<(), MembershipError> {
    let path = directory.join(name);
    replace_file(directory, &path, text).map_err(|source| MembershipError::File { path, source })
}

fn replace_file(directory: &Path, path: &Path, text: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(directory)?.sync_all()
}
