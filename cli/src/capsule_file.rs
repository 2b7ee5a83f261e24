//! Capsule files of this machine: written so that a crash leaves a whole one or none, and opened with the person's keys.
//!
//! Keys stay here: what goes to a sidecar and comes from it is not encrypted.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use admin_api::ErrorView;
use capsule_file::{FileError, Keys, Lock, Manifest, Sealed, Unsealed, seal, unseal, verify};

use crate::failure::Failure;
use crate::from_file::Verb;

/// Bytes gathered before they are written to disk, and read at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// A capsule file that is being written.
pub(crate) struct Draft {
    target: PathBuf,
    draft: PathBuf,
    sealed: Option<Sealed<BufWriter<File>>>,
    /// Which of the two there is; neither is left behind unless it is kept.
    leaves: Option<PathBuf>,
}

impl Draft {
    /// Begins a file that will be at `target`.
    pub(crate) fn create(target: &Path, lock: &Lock) -> Result<Self, Failure> {
        let shown = target.display();
        let failed = |error: FileError| {
            ErrorView::new("suspend/file", format!("{shown} can't be written, so nothing was suspended"))
                .why(error)
        };
        if target.symlink_metadata().is_ok() {
            let error = ErrorView::new("suspend/file-exists", format!("there is {shown} already"));
            return Err(error
                .next("name another file; one that may hold a capsule is never replaced")
                .into());
        }
        let name = target.file_name().ok_or_else(|| {
            ErrorView::new("suspend/file", format!("{shown} is no name of a file")).next("--to FILE")
        })?;
        let draft = target.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        let file = File::options().write(true).create_new(true).mode(0o600).open(&draft);
        let file = file.map_err(|error| failed(error.into()))?;
        let mut draft = Self { target: target.to_owned(), leaves: Some(draft.clone()), draft, sealed: None };
        let buffered = BufWriter::with_capacity(BUFFER_BYTES, file);
        draft.sealed = Some(seal(buffered, lock).map_err(failed)?);
        Ok(draft)
    }

    /// Adds bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match &mut self.sealed {
            Some(sealed) => sealed.write_all(bytes),
            None => Err(std::io::Error::other("the file was stored already")),
        }
    }

    /// Puts the file in its place; it is on disk when this returns.
    pub(crate) fn store(&mut self) -> std::io::Result<()> {
        let Some(sealed) = self.sealed.take() else { return Ok(()) };
        let file = sealed.finish()?.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.sync_all()?;
        // A name that came into use meanwhile stays what it is.
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        rustix::fs::renameat_with(rustix::fs::CWD, &self.draft, rustix::fs::CWD, &self.target, flags)?;
        self.leaves = Some(self.target.clone());
        let parent = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Whether the file is in its place.
    pub(crate) fn is_stored(&self) -> bool {
        self.leaves.as_ref() == Some(&self.target)
    }

    /// Leaves the file there.
    pub(crate) fn keep(mut self) {
        self.leaves = None;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Some(path) = self.leaves.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Reads a whole file and checks every byte of it.
pub(crate) fn checked(path: &Path, keys: &Keys, verb: Verb) -> Result<Manifest, Failure> {
    let opened = open(path, keys, verb)?;
    verify(opened).map_err(|error| refused(path, verb, &error))
}

/// Opens a file for reading what is in it.
pub(crate) fn open(path: &Path, keys: &Keys, verb: Verb) -> Result<Unsealed<BufReader<File>>, Failure> {
    let refused = |error: &FileError| refused(path, verb, error);
    let file = File::open(path).map_err(|error| refused(&error.into()))?;
    unseal(BufReader::with_capacity(BUFFER_BYTES, file), keys).map_err(|error| refused(&error))
}

fn refused(path: &Path, verb: Verb, error: &FileError) -> Failure {
    let (code, next) = match error {
        FileError::Foreign => ("foreign", "capsule suspend NAME --to FILE makes capsule files"),
        FileError::Empty | FileError::Truncated { .. } => ("truncated", "take a whole copy of it"),
        FileError::Damaged { .. } | FileError::Trailing { .. } => ("damaged", "take another copy of it"),
        FileError::Newer { .. } => ("newer", "take a newer capsule for it"),
        FileError::Encrypted | FileError::OtherKey { .. } => ("key", "give the key as it says"),
        FileError::NotEncrypted => ("key", "leave the key out if that is right"),
        FileError::WrongKey | FileError::WrongPassphrase | FileError::Key(_) => ("key", "give the right one"),
        FileError::Nonsense(_) | FileError::TooLong { .. } => ("nonsense", "take another file"),
        FileError::Io(_) => ("file", "can the file be read?"),
    };
    let what = format!("{} was not {}; nothing was changed", path.display(), verb.done);
    ErrorView::new(format!("{}/{code}", verb.name), what).why(error).next(next).into()
}

/// The text of a file with a passphrase, without its line end.
pub(crate) fn passphrase(path: &Path) -> Result<String, Failure> {
    let text = secret(path)?;
    Ok(text
        .strip_suffix('\n')
        .map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text))
        .to_owned())
}

/// The text of a file with secrets.
pub(crate) fn secret(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| {
        let what = format!("the key in {} can't be read", path.display());
        ErrorView::new("file/key", what).why(error).into()
    })
}
