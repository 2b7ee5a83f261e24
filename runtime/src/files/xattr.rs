//! Copying extended attributes, access lists among them.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::FilesError;

const OVERLAY_PREFIX: &[u8] = b"trusted.overlay.";

/// Copies every attribute but overlayfs' own, which speak of the layer they stand in.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, shown: &Path) -> Result<(), FilesError> {
    let failed = |error: Errno| FilesError::io("copy the attributes of", shown, error);
    for name in names(from).map_err(failed)? {
        if name.as_bytes().starts_with(OVERLAY_PREFIX) {
            continue;
        }
        let Some(value) = value(from, &name).map_err(failed)? else { continue };
        rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty()).map_err(failed)?;
    }
    Ok(())
}

/// Names and values.
pub(crate) type Extended = Vec<(Vec<u8>, Vec<u8>)>;

/// Names and values of all attributes, those of overlayfs among them.
pub(crate) fn all(file: BorrowedFd<'_>, shown: &Path) -> Result<Extended, FilesError> {
    let failed = |error: Errno| FilesError::io("read the attributes of", shown, error);
    let mut all = Vec::new();
    for name in names(file).map_err(failed)? {
        if let Some(value) = value(file, &name).map_err(failed)? {
            all.push((name.into_bytes(), value));
        }
    }
    Ok(all)
}

/// Marks a directory of an upper layer so that nothing below it shines through.
pub(crate) fn make_opaque(directory: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(directory, c"trusted.overlay.opaque", b"y", XattrFlags::empty())
}

/// Whether overlayfs shows nothing of the base below this directory.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    Ok(value(directory, c"trusted.overlay.opaque")?.is_some_and(|value| value.first() == Some(&b'y')))
}

fn names(file: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    loop {
        let length = match rustix::fs::flistxattr_query(file) {
            Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
            result => result?,
        };
        let mut list = vec![0_u8; length];
        match rustix::fs::flistxattr(file, list.as_mut_slice()) {
            Err(Errno::RANGE) => continue,
            result => list.truncate(result?),
        }
        let names = list.split_inclusive(|byte| *byte == 0);
        return Ok(names
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
            .map(CStr::to_owned)
            .collect());
    }
}

fn value(file: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<Option<Vec<u8>>> {
    loop {
        let length = match rustix::fs::fgetxattr_query(file, name) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            result => result?,
        };
        let mut value = vec![0_u8; length];
        match rustix::fs::fgetxattr(file, name, value.as_mut_slice()) {
            Err(Errno::RANGE) => continue,
            Err(Errno::NODATA) => return Ok(None),
            result => value.truncate(result?),
        }
        return Ok(Some(value));
    }
}
