//! The root of a capsule: an overlay of a base that the host has and a private layer above.
//!
//! What the capsule must not see of its host, and what it sees otherwise than the host, is written into the private
//! layer before the root is mounted: opaque directories and empty files instead of mounts, since every mount costs
//! time at every move.

use std::ffi::CString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use self::stage::Stage;
use crate::dir::{CapsuleDir, plain};
use crate::{RuntimeError, memory, shm};

mod run;
mod stage;

/// Where a capsule finds its resolver, on every host.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 88);

/// Directories of a host that hold secrets.
const SECRET_DIRECTORIES: [&str; 4] = ["/etc/wireguard", "/root/.ssh", "/root/.gnupg", "/var/lib/private"];
/// Where a host has the keys of its TLS servers, and the one among them that is no secret: Debian makes it at
/// installation for programs that want any key at all, PostgreSQL's default settings among them.
const TLS_KEYS: (&str, &str) = ("/etc/ssl/private", "ssl-cert-snakeoil.key");
/// Files of a host that hold secrets.
const SECRET_FILES: [&str; 7] = [
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/gshadow-",
    "/etc/krb5.keytab",
    "/etc/security/opasswd",
    "/root/.netrc",
];
/// Home directories, and host keys of the SSH server, are looked through up to this number of names.
const NAMES_MAX: usize = 10_000;

/// The layer below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The host's own files, or what stands for them: its secrets are masked.
    Host(PathBuf),
    /// A root file system made for this.
    Rootfs(PathBuf),
}

/// How a capsule is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Its name.
    pub name: String,
    /// The zone that capsules are in.
    pub zone: String,
    /// Its locator.
    pub v4: Ipv4Addr,
    /// Its other locator.
    pub v6: Ipv6Addr,
}

impl Base {
    /// Its directory.
    pub fn path(&self) -> &Path {
        match self {
            Base::Host(path) | Base::Rootfs(path) => path,
        }
    }
}

/// Fills the private layer of a new capsule. Call it once, before the volumes are copied and the root is mounted.
///
/// `private` are directories of this host that no capsule may see: the sidecar's data, and whatever else is named.
///
/// # Errors
/// The private layer is left half filled and is to be thrown away.
pub fn prepare(
    dir: &CapsuleDir,
    base: &Base,
    private: &[PathBuf],
    names: &Names,
) -> Result<(), RuntimeError> {
    let stage = Stage::new(dir, base)?;
    stage.empty_directory("/dev", 0o755)?;
    if let Base::Host(path) = base {
        run::recreate(&stage, &path.join("run"), private)?;
    }
    write_names(&stage, names)?;
    mask(dir, base, private)
}

/// Masks what this host's capsules must not see. Call it again at every host, after the private layer arrived: what
/// the capsule itself has put in those places stays.
///
/// # Errors
/// Something is not masked: the capsule must not be started.
pub fn mask(dir: &CapsuleDir, base: &Base, private: &[PathBuf]) -> Result<(), RuntimeError> {
    let stage = Stage::new(dir, base)?;
    for hidden in private.iter().filter_map(|path| inside(path, base)) {
        stage.hide_directory(&hidden)?;
    }
    let Base::Host(path) = base else { return Ok(()) };
    stage.hide_directory_except(Path::new(TLS_KEYS.0), &[TLS_KEYS.1])?;
    for secret in SECRET_DIRECTORIES.iter().map(PathBuf::from).chain(keys_of_users(path)) {
        stage.hide_directory(&secret)?;
    }
    for secret in SECRET_FILES.iter().map(PathBuf::from).chain(keys_of_host(path)) {
        stage.hide_file(&secret)?;
    }
    Ok(())
}

/// Mounts the root and the memory file system of `/dev/shm`, unless they are mounted.
///
/// # Errors
/// The kernel refuses.
pub fn mount(dir: &CapsuleDir, base: &Base) -> Result<(), RuntimeError> {
    plain(base.path())?;
    shm::mount(&dir.shm())?;
    let root = dir.root();
    if memory::is_mounted(&root)? {
        return Ok(());
    }
    // Without redirects and index a layer means the same on another host, and to rsync.
    let options = format!(
        "lowerdir={},upperdir={},workdir={},redirect_dir=off,index=off,metacopy=off",
        base.path().display(),
        dir.upper().display(),
        dir.work().display()
    );
    let options = CString::new(options).unwrap_or_default();
    rustix::mount::mount("capsule", &root, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(|error| RuntimeError::io("mount", &root, error))
}

/// Unmounts both, if they are mounted. What was in `/dev/shm` is gone.
///
/// # Errors
/// The kernel refuses one; the other was tried too.
pub fn unmount(dir: &CapsuleDir) -> Result<(), RuntimeError> {
    let root = dir.root();
    // The plain way first, for it alone says that nobody uses the layers any more.
    let unmounted = match rustix::mount::unmount(&root, UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(_) => memory::unmount(&root),
    };
    unmounted.and(memory::unmount(&dir.shm()))
}

fn write_names(stage: &Stage<'_>, names: &Names) -> Result<(), RuntimeError> {
    let Names { name, zone, v4, v6 } = names;
    let hosts = format!(
        "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{v4} {name}.{zone} {name}\n{v6} {name}.{zone} {name}\n"
    );
    stage.file("/etc/hosts", &hosts, 0o644)?;
    stage.file("/etc/hostname", &format!("{name}\n"), 0o644)?;
    stage.file("/etc/resolv.conf", &format!("nameserver {RESOLVER}\nsearch {zone}\n"), 0o644)
}

/// A path of the host as the capsule would see it, if it could.
fn inside(path: &Path, base: &Base) -> Option<PathBuf> {
    Some(Path::new("/").join(path.strip_prefix(base.path()).ok()?))
}

fn keys_of_users(base: &Path) -> impl Iterator<Item = PathBuf> {
    let homes = names_in(&base.join("home")).into_iter();
    homes.flat_map(|user| [".ssh", ".gnupg"].map(|keys| Path::new("/home").join(&user).join(keys)))
}

fn keys_of_host(base: &Path) -> impl Iterator<Item = PathBuf> {
    let names = names_in(&base.join("etc/ssh")).into_iter();
    let keys = names.filter(|name| name.starts_with("ssh_host_") && name.ends_with("_key"));
    keys.map(|name| Path::new("/etc/ssh").join(name))
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.take(NAMES_MAX).filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

#[cfg(test)]
mod tests;
