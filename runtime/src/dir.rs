//! The directory of one capsule on one host.

use std::path::{Path, PathBuf};

use crate::RuntimeError;

/// A capsule's directory; its path can be written into mount and CRIU options as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapsuleDir(PathBuf);

impl CapsuleDir {
    /// Takes an absolute path.
    ///
    /// # Errors
    /// It is not absolute, or has characters that mean something to mount, CRIU or a shell.
    pub fn new(path: &Path) -> Result<CapsuleDir, RuntimeError> {
        plain(path)?;
        Ok(CapsuleDir(path.to_owned()))
    }

    /// Makes the directories below it that are not there.
    ///
    /// # Errors
    /// Those of `mkdir`.
    pub fn create(&self) -> Result<(), RuntimeError> {
        for part in [self.bundle(), self.upper(), self.work(), self.root(), self.shm(), self.images()] {
            std::fs::create_dir_all(&part)
                .map_err(|error| RuntimeError::io("make the directory", &part, error))?;
        }
        // Who is no root outside must not get at files by their owner's number.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&self.0, private).map_err(|error| RuntimeError::io("close", &self.0, error))
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The OCI bundle.
    pub fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }

    /// The private layer.
    pub fn upper(&self) -> PathBuf {
        self.0.join("upper")
    }

    /// What overlayfs needs beside it.
    pub fn work(&self) -> PathBuf {
        self.0.join("work")
    }

    /// Where the root is mounted.
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }

    /// Where the memory file system is mounted that the capsule sees as `/dev/shm`.
    pub fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }

    /// Where images are put, in memory.
    pub fn images(&self) -> PathBuf {
        self.0.join("images")
    }

    /// CRIU's options.
    pub fn criu_options(&self) -> PathBuf {
        self.0.join("criu.conf")
    }

    /// CRIU's action script: the gate of a restore, written by the shim's library.
    pub fn gate_script(&self) -> PathBuf {
        self.0.join("gate")
    }

    /// Where runc writes the number of the first process.
    pub fn program_pid(&self) -> PathBuf {
        self.0.join("pid")
    }

    /// Where runc writes its errors.
    pub fn runc_log(&self) -> PathBuf {
        self.0.join("runc.log")
    }
}

/// Overlayfs splits its options at commas and colons, CRIU its file at spaces and quotes.
pub(crate) fn plain(path: &Path) -> Result<(), RuntimeError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"/_-+.@%".contains(&byte);
    match path.is_absolute() && path.as_os_str().as_encoded_bytes().iter().copied().all(good) {
        true => Ok(()),
        false => Err(RuntimeError::BadPath { path: path.to_owned() }),
    }
}
