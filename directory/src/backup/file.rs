//! Backups on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::limits::BACKUP_BYTES_MAX;

/// Writes a file for its owner's eyes only, so that a crash leaves what was there before or all of the new one.
///
/// # Errors
/// When it cannot be written; what was there before stays.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = draft_of(path)?;
    let written = || -> io::Result<()> {
        // Whatever was left there is not written through: it may be another's, or be readable by others.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// Reads a file that may be a backup.
///
/// # Errors
/// When it cannot be read, or is larger than any backup.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(BACKUP_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > BACKUP_BYTES_MAX) {
        return Err(io::Error::other("it is larger than any backup"));
    }
    Ok(bytes)
}

fn draft_of(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| io::Error::other("this names no file"))?;
    let mut draft = name.to_owned();
    draft.push(".new");
    Ok(path.with_file_name(draft))
}
