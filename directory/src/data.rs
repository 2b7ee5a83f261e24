//! The data directory: what `init` makes and the others read.
//!
//! ```text
//!  DIR/mesh.json    zone and locator pools; written last, so that it stands for a finished init
//!  DIR/ca.pem       the root's certificate      DIR/ca.key      its key, or DIR/ca.key.age, the same encrypted
//!  DIR/issuer.pem   the issuer's certificate    DIR/issuer.key  its key
//!  DIR/next-ca.pem, next-ca.key, last-ca.pem    while the root is being replaced; DIR/uptake.json  which hosts are ready
//!  DIR/reset.key    of a restored directory: ends connections with the one before
//!  DIR/token.key    signs join tokens           DIR/store.redb  the facts
//!  DIR/dnssec.json  the keys that sign the zones
//!  DIR/serve.json   where the running directory listens
//!  DIR/backup.sock  by which a backup asks it
//!  DIR/audit.log    who changed what
//!  DIR/store.moved  where the facts are, when not in DIR/store.redb
//!  DIR/directory.id names this directory among those that share a store
//! ```

mod authority;
mod backup;
pub(crate) mod owner;
mod replacing;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use directory_api::identity::{ca_hash, certificates, provider};
use directory_api::{Token, Zone};
use overlay_proto::{HostName, Owner};
use serde::{Deserialize, Serialize};

use crate::audit::{self, Entry, Log};
use crate::ca;
use crate::dns::signing;
use crate::limits::{TOKEN_LIFE_MAX, TOKEN_OWNERS_MAX};
use crate::locators::Pools;
use crate::sealed::{self, Passphrase};
use crate::store::{Embedded, Mesh, StoreAccess, StoreAddress};
use crate::zone_keys::{Step, ZoneKeys};

pub use authority::{CaFiles, Rotation, Uptake};

/// A data directory that `init` made.
pub struct Data {
    path: PathBuf,
    /// The mesh's zone.
    pub zone: Zone,
    /// Where locators come from.
    pub pools: Pools,
}

/// Where a running directory listens.
#[derive(Debug, Serialize)]
pub struct Listening {
    /// Requests.
    pub api: SocketAddr,
    /// DNS, over UDP and TCP.
    pub dns: SocketAddr,
    /// Metrics and health.
    pub http: SocketAddr,
    /// DNS over TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dot: Option<SocketAddr>,
    /// DNS over QUIC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doq: Option<SocketAddr>,
}

#[derive(Serialize, Deserialize)]
struct MeshFile {
    version: u32,
    zone: String,
    locators: String,
    locators6: String,
}

/// Where the facts are, and by which files they are reached. No secret is in it.
#[derive(Serialize, Deserialize)]
struct MovedFile {
    store: StoreAddress,
    #[serde(flatten)]
    access: StoreAccess,
}

const VERSION: u32 = 1;

impl Data {
    /// Makes a new directory: CA, token key, empty store.
    pub fn init(path: &Path, zone: Zone, pools: Pools, passphrase: Option<&Passphrase>) -> Result<Self> {
        let data = Self { path: path.to_owned(), zone, pools };
        let mesh = data.file("mesh.json");
        if fs::exists(&mesh).with_context(|| mesh.display().to_string())? {
            bail!("{} is initialised already; nothing was changed", path.display());
        }
        make_folder(path)?;
        let root = ca::create(&data.zone, SystemTime::now())?;
        match passphrase {
            Some(passphrase) => data.write("ca.key.age", sealed::seal(&root.key, passphrase)?)?,
            None => data.write("ca.key", &root.key)?,
        }
        data.write("ca.pem", &root.certificate)?;
        let issuer = ca::create_issuer(&data.zone, &root, SystemTime::now())?;
        data.write("issuer.key", &issuer.key)?;
        data.write("issuer.pem", &issuer.certificate)?;
        data.write("token.key", data_encoding::HEXLOWER.encode(&random::<32>()?))?;
        data.write_zone_keys(&ZoneKeys::new(signing::generate()?))?;
        Embedded::open(&data.file("store.redb"))?;
        let file = MeshFile {
            version: VERSION,
            zone: data.zone.to_string(),
            locators: data.pools.v4.to_string(),
            locators6: data.pools.v6.to_string(),
        };
        data.write("mesh.json", serde_json::to_string_pretty(&file)?)?;
        let text = format!("made, locators {} and {}", data.pools.v4, data.pools.v6);
        let entry = Entry::of_operator("init", "mesh", &data.zone, text);
        data.audit()?.append(&[entry])?;
        Ok(data)
    }

    /// Reads a directory that [`Data::init`] made.
    pub fn open(path: &Path) -> Result<Self> {
        let mesh = path.join("mesh.json");
        let text = match fs::read_to_string(&mesh) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                bail!("{} is not initialised: capsule-directory init --data {0} --zone ZONE", path.display())
            }
            other => other.with_context(|| format!("cannot read {}", mesh.display()))?,
        };
        Self::parse(path, &text).with_context(|| format!("{} is broken", mesh.display()))
    }

    fn parse(path: &Path, mesh: &str) -> Result<Self> {
        let file: MeshFile = serde_json::from_str(mesh)?;
        if file.version != VERSION {
            bail!("version {} is unknown, {VERSION} is needed", file.version);
        }
        let pools = Pools { v4: file.locators.parse()?, v6: file.locators6.parse()? };
        Ok(Self { path: path.to_owned(), zone: file.zone.parse()?, pools })
    }

    /// Where everything is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn has(&self, name: &str) -> Result<bool> {
        let path = self.file(name);
        fs::exists(&path).with_context(|| path.display().to_string())
    }

    /// Opens the embedded store, unless the facts were moved out of it.
    pub fn store(&self) -> Result<Embedded> {
        self.check_not_moved()?;
        self.embedded()
    }

    /// Whether the facts are in the embedded store.
    pub fn check_not_moved(&self) -> Result<()> {
        let to = self.store_address()?;
        if to == StoreAddress::Embedded {
            return Ok(());
        }
        bail!(
            "the facts of {} were moved to {to}, and what lies here is old: serve with --store {to}, or take them back \
             first (capsule-directory copy-store)",
            self.path.display()
        );
    }

    /// Where the facts were served from last.
    pub fn store_address(&self) -> Result<StoreAddress> {
        self.noted_store().map(|(address, _)| address)
    }

    /// The same, with the files by which it is reached.
    pub fn noted_store(&self) -> Result<(StoreAddress, StoreAccess)> {
        if !self.has("store.moved")? {
            return Ok((StoreAddress::Embedded, StoreAccess::default()));
        }
        let path = self.file("store.moved");
        let noted: MovedFile = serde_json::from_str(&self.read("store.moved")?)
            .with_context(|| format!("{} is broken", path.display()))?;
        Ok((noted.store, noted.access))
    }

    /// Opens the embedded store, whether the facts are there or not. It is held by one process.
    pub fn embedded(&self) -> Result<Embedded> {
        Ok(Embedded::open(&self.file("store.redb"))?)
    }

    /// Moves an embedded store aside that is not empty, to make a fresh one.
    pub fn set_embedded_aside(&self) -> Result<PathBuf> {
        let (path, aside) = (self.file("store.redb"), self.file("store.redb.old"));
        fs::rename(&path, &aside).with_context(|| format!("cannot rename {}", path.display()))?;
        Ok(aside)
    }

    /// Notes where the facts are, so that nobody serves old ones.
    pub fn note_store(&self, address: &StoreAddress, access: &StoreAccess) -> Result<()> {
        match address {
            StoreAddress::Etcd(_) => {
                let noted = MovedFile { store: address.clone(), access: access.absolute()? };
                self.write("store.moved", serde_json::to_string_pretty(&noted)?)
            }
            StoreAddress::Embedded => self.remove("store.moved"),
        }
    }

    /// What this directory has in common with all others of its mesh.
    pub fn mesh(&self) -> Result<Mesh> {
        let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
        let root = certificates(&self.read("ca.pem")?)?;
        let root = root.first().ok_or_else(|| anyhow!("{} is broken", self.file("ca.pem").display()))?;
        Ok(Mesh {
            zone: self.zone.to_string(),
            locators: self.pools.v4.to_string(),
            locators6: self.pools.v6.to_string(),
            ca: hash(root),
            token_key: hash(&self.token_key()?),
        })
    }

    /// Names this directory among those that share its store; drawn when first asked for.
    pub fn directory_id(&self) -> Result<String> {
        if !self.has("directory.id")? {
            self.write("directory.id", data_encoding::HEXLOWER.encode(&random::<16>()?))?;
        }
        let id = self.read("directory.id")?;
        let id = id.trim();
        if id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            bail!("{} is broken: remove it, and another one is drawn", self.file("directory.id").display());
        }
        Ok(id.to_owned())
    }

    /// Opens the audit log.
    pub fn audit(&self) -> Result<Log> {
        Log::open(&self.path).with_context(|| format!("cannot open the audit log in {}", self.path.display()))
    }

    /// The last entries of the audit log, oldest first.
    pub fn audited(&self, count: usize) -> Result<Vec<Entry>> {
        audit::read(&self.path, count)
            .with_context(|| format!("cannot read the audit log in {}", self.path.display()))
    }

    /// The key that signs tokens.
    pub fn token_key(&self) -> Result<[u8; 32]> {
        self.key_in("token.key")
    }

    fn key_in(&self, name: &str) -> Result<[u8; 32]> {
        let text = self.read(name)?;
        let bytes = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).ok();
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.ok_or_else(|| anyhow!("{} is broken", self.file(name).display()))
    }

    /// The keys that sign the zones. A directory made before there were any gets one.
    pub fn zone_keys(&self) -> Result<ZoneKeys> {
        let path = self.file("dnssec.json");
        if !fs::exists(&path).with_context(|| path.display().to_string())? {
            self.write_zone_keys(&ZoneKeys::new(signing::generate()?))?;
        }
        let keys: ZoneKeys = serde_json::from_str(&self.read("dnssec.json")?)
            .with_context(|| format!("{} is broken", path.display()))?;
        if !keys.is_known() {
            bail!("{} is of a version that this program does not know", path.display());
        }
        Ok(keys)
    }

    /// One step from the present signing key to another. A running directory takes it up within a second or two.
    pub fn roll_zone_keys(&self, at_once: bool, now: SystemTime) -> Result<Step> {
        let mut keys = self.zone_keys()?;
        let fresh = signing::generate()?;
        let step = keys.roll(|| fresh, now, at_once);
        if !matches!(step, Step::TooEarly { .. }) {
            self.write_zone_keys(&keys)?;
        }
        Ok(step)
    }

    fn write_zone_keys(&self, keys: &ZoneKeys) -> Result<()> {
        self.write("dnssec.json", &serde_json::to_string_pretty(keys)?)
    }

    /// Makes a join token. Touches neither the store nor a running directory.
    pub fn token(
        &self,
        host: HostName,
        life: Duration,
        operator: bool,
        owners: Vec<Owner>,
    ) -> Result<String> {
        if owners.len() > TOKEN_OWNERS_MAX {
            bail!("a token names at most {TOKEN_OWNERS_MAX} owners");
        }
        if life.is_zero() || life > TOKEN_LIFE_MAX {
            bail!("a token lives between 1 s and {} days", TOKEN_LIFE_MAX.as_secs() / 86_400);
        }
        let ca = certificates(&self.read("ca.pem")?)?;
        let ca = ca.first().ok_or_else(|| anyhow!("{} is broken", self.file("ca.pem").display()))?;
        let token = Token {
            zone: self.zone.clone(),
            host,
            operator,
            owners,
            expires_at: SystemTime::now() + life,
            nonce: random()?,
            ca_hash: ca_hash(ca),
        };
        let rights = if operator { "operator" } else { "no operator" };
        let whose = audit::owners(&token.owners);
        let text = format!("{rights}, {whose}, good for {} s", life.as_secs());
        let entry = Entry::of_operator("token", "host", &token.host, text);
        self.audit()?.append(&[entry]).context("cannot write the audit log; no token was made")?;
        Ok(token.sign(&self.token_key()?))
    }

    /// Says where the running directory listens; with port 0, nobody else knows.
    pub fn announce(&self, listening: &Listening) -> Result<()> {
        self.write("serve.json", serde_json::to_string(listening)?)
    }

    /// Takes back what an earlier process announced.
    pub fn withdraw(&self) -> Result<()> {
        self.remove("serve.json")
    }

    fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.file(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn read_bytes(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.file(name);
        fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Writes a file, for its owner's eyes only, so that a crash leaves the old content or the new.
    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.file(name);
        let write = || -> io::Result<()> {
            let fresh = self.file(&format!("{name}.new"));
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            owner::hand_over(&file, &self.path)?;
            file.write_all(content.as_ref())?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

fn make_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("cannot make {}", path.display()))
}

/// Bytes that nobody can guess.
pub fn random<const LENGTH: usize>() -> Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    provider().secure_random.fill(&mut bytes).map_err(|_| anyhow!("the system has no random numbers"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mesh for one test, in a directory of its own.
    pub(super) fn mesh(name: &str, passphrase: Option<&Passphrase>) -> Data {
        let path = std::env::temp_dir().join(format!("capsule-data-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        let pools = Pools { v4: "10.88.0.0/16".parse().unwrap(), v6: "fd88::/64".parse().unwrap() };
        Data::init(&path, "capsule.internal".parse().unwrap(), pools, passphrase).unwrap()
    }
}
