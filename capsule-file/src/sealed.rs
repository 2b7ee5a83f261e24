//! Encryption: a capsule file inside an age file.

use std::io::{self, BufRead, Read, Write};

use age::secrecy::SecretString;
use age::{DecryptError, Decryptor, Encryptor};

use crate::FileError;
use crate::limits::SCRYPT_LOG_N_MAX;

/// How every age file begins.
const AGE: &[u8] = b"age-encryption.org/";

/// Who will be able to open a file.
#[derive(Debug, Default)]
pub enum Lock {
    /// Everybody who can read it.
    #[default]
    None,
    /// Whoever has the identity of one of these recipients (`age1…`).
    Recipients(Vec<String>),
    /// Whoever knows the passphrase.
    Passphrase(String),
}

/// What a file is opened with.
#[derive(Debug, Default)]
pub enum Keys {
    /// Nothing.
    #[default]
    None,
    /// The text of an age identity file (`AGE-SECRET-KEY-1…`).
    Identities(String),
    /// A passphrase.
    Passphrase(String),
}

/// What is written to it is encrypted, if it has a lock.
pub enum Sealed<W: Write> {
    /// As it is.
    Plain(W),
    /// By age.
    Locked(Box<age::stream::StreamWriter<W>>),
}

/// Encrypts what is written, for those that `lock` names.
///
/// # Errors
/// A recipient can't be read, or writing fails.
pub fn seal<W: Write>(inner: W, lock: &Lock) -> Result<Sealed<W>, FileError> {
    let encryptor = match lock {
        Lock::None => return Ok(Sealed::Plain(inner)),
        Lock::Passphrase(passphrase) if passphrase.is_empty() => {
            return Err(FileError::Key("the passphrase is empty".into()));
        }
        Lock::Passphrase(passphrase) => {
            Encryptor::with_user_passphrase(SecretString::from(passphrase.clone()))
        }
        Lock::Recipients(recipients) => {
            let recipients = recipients.iter().map(|text| recipient(text)).collect::<Result<Vec<_>, _>>()?;
            let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
            Encryptor::with_recipients(recipients).map_err(|error| FileError::Key(error.to_string()))?
        }
    };
    Ok(Sealed::Locked(Box::new(encryptor.wrap_output(inner)?)))
}

fn recipient(text: &str) -> Result<age::x25519::Recipient, FileError> {
    let why = |error| FileError::Key(format!("{text:?} is no age recipient (age1…): {error}"));
    text.trim().parse().map_err(why)
}

impl<W: Write> Sealed<W> {
    /// Writes what is left; without it the file is cut off.
    ///
    /// # Errors
    /// Writing fails.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(inner) => Ok(inner),
            Self::Locked(stream) => stream.finish(),
        }
    }
}

impl<W: Write> Write for Sealed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.write(bytes),
            Self::Locked(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(inner) => inner.flush(),
            Self::Locked(stream) => stream.flush(),
        }
    }
}

/// A capsule file, encrypted or not, as it was before.
pub enum Unsealed<R: Read> {
    /// It is not encrypted.
    Plain(R),
    /// By age.
    Locked(Box<age::stream::StreamReader<R>>),
}

/// Opens a file that may be encrypted.
///
/// # Errors
/// The key is missing, wrong or superfluous, or the beginning of the file is damaged.
pub fn unseal<R: BufRead>(mut inner: R, keys: &Keys) -> Result<Unsealed<R>, FileError> {
    let begin = inner.fill_buf()?;
    // A reader's buffer may hold less than this only if the file does.
    let encrypted = begin.len() >= AGE.len() && begin.starts_with(AGE);
    if !encrypted {
        return match keys {
            Keys::None => Ok(Unsealed::Plain(inner)),
            Keys::Identities(_) | Keys::Passphrase(_) => Err(FileError::NotEncrypted),
        };
    }
    let header = |error: DecryptError| match error {
        DecryptError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            FileError::Truncated { at: 0 }
        }
        DecryptError::Io(error) => FileError::Io(error),
        DecryptError::UnknownFormat => FileError::Nonsense("it is encrypted by a newer age".into()),
        _ => FileError::Damaged { at: 0, what: "the list of those that it is encrypted to" },
    };
    let decryptor = Decryptor::new_buffered(inner).map_err(header)?;
    let by_passphrase = decryptor.is_scrypt();
    let stream = match keys {
        Keys::None => return Err(FileError::Encrypted),
        Keys::Identities(_) if by_passphrase => {
            return Err(FileError::OtherKey { with: "with a passphrase", needed: "--passphrase-file FILE" });
        }
        Keys::Passphrase(_) if !by_passphrase => {
            return Err(FileError::OtherKey { with: "to a key", needed: "--identity FILE" });
        }
        Keys::Passphrase(passphrase) => {
            let mut identity = age::scrypt::Identity::new(SecretString::from(passphrase.clone()));
            identity.set_max_work_factor(SCRYPT_LOG_N_MAX);
            let identity: &dyn age::Identity = &identity;
            decryptor.decrypt(std::iter::once(identity)).map_err(|error| match error {
                DecryptError::NoMatchingKeys
                | DecryptError::DecryptionFailed
                | DecryptError::KeyDecryptionFailed => FileError::WrongPassphrase,
                DecryptError::ExcessiveWork { .. } => FileError::Key(error.to_string()),
                other => header(other),
            })?
        }
        Keys::Identities(text) => {
            let identities = identities(text)?;
            let identities = identities.iter().map(|identity| &**identity as &dyn age::Identity);
            decryptor.decrypt(identities).map_err(|error| match error {
                DecryptError::NoMatchingKeys => FileError::WrongKey,
                other => header(other),
            })?
        }
    };
    Ok(Unsealed::Locked(Box::new(stream)))
}

fn identities(text: &str) -> Result<Vec<Box<dyn age::Identity + Send + Sync>>, FileError> {
    let bad = |why: String| FileError::Key(format!("the identity file can't be used: {why}"));
    let file = age::IdentityFile::from_buffer(text.as_bytes()).map_err(|error| bad(error.to_string()))?;
    let identities = file.into_identities().map_err(|error| bad(error.to_string()))?;
    if identities.is_empty() {
        return Err(bad("there is no AGE-SECRET-KEY-1… in it".into()));
    }
    Ok(identities)
}

impl<R: Read> Read for Unsealed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.read(out),
            Self::Locked(stream) => stream.read(out).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => FileError::Damaged { at: 0, what: "what is encrypted" }.into(),
                io::ErrorKind::UnexpectedEof => FileError::Truncated { at: 0 }.into(),
                _ => error,
            }),
        }
    }
}
