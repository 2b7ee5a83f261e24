//! The root's key, or a whole backup, encrypted by age under a passphrase.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;

use age::secrecy::SecretString;
use age::{Decryptor, Encryptor};
use anyhow::{Context as _, Result, bail};

use crate::limits::{PASSPHRASE_CHARACTERS_MIN, SCRYPT_LOG_N_MAX};

/// A passphrase, as a file has it on its first line. A long random line makes that file a key file.
pub struct Passphrase(SecretString);

impl Passphrase {
    /// Reads it.
    ///
    /// # Errors
    /// When the file is unreadable, or what it holds is too short to keep a key.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let line = text.lines().next().unwrap_or_default().trim();
        if line.chars().count() < PASSPHRASE_CHARACTERS_MIN {
            bail!("{}: the passphrase has fewer than {PASSPHRASE_CHARACTERS_MIN} characters", path.display());
        }
        Ok(Self(SecretString::from(line.to_owned())))
    }
}

/// Encrypts a key; gives an age file.
///
/// # Errors
/// When the system has no random numbers.
pub fn seal(key: impl AsRef<[u8]>, passphrase: &Passphrase) -> Result<Vec<u8>> {
    let encryptor = Encryptor::with_user_passphrase(passphrase.0.clone());
    let mut sealed = Vec::new();
    let mut stream = encryptor.wrap_output(&mut sealed)?;
    stream.write_all(key.as_ref())?;
    stream.finish()?;
    Ok(sealed)
}

/// Decrypts a key.
///
/// # Errors
/// When the passphrase is another one, or the file is damaged.
pub fn unseal(sealed: &[u8], passphrase: &Passphrase) -> Result<String> {
    String::from_utf8(unseal_bytes(sealed, passphrase)?).context("what is inside is no text")
}

/// Decrypts anything.
///
/// # Errors
/// When the passphrase is another one, or the bytes are damaged.
pub fn unseal_bytes(sealed: &[u8], passphrase: &Passphrase) -> Result<Vec<u8>> {
    let decryptor = Decryptor::new_buffered(sealed)?;
    let mut identity = age::scrypt::Identity::new(passphrase.0.clone());
    identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
    let identity: &dyn age::Identity = &identity;
    let mut stream =
        decryptor.decrypt(std::iter::once(identity)).context("the passphrase does not open it")?;
    let mut opened = Vec::new();
    stream.read_to_end(&mut opened)?;
    Ok(opened)
}
