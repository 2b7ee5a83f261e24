use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::RuntimeError;
use crate::dir::CapsuleDir;
use crate::files::volume::copy_into;
use crate::root::Base;

/// A place where something is made ready before it is copied into the private layer as a volume would be.
pub(super) struct Stage<'a> {
    base: &'a Path,
    upper: PathBuf,
    place: PathBuf,
}

impl<'a> Stage<'a> {
    pub(super) fn new(dir: &CapsuleDir, base: &'a Base) -> Result<Stage<'a>, RuntimeError> {
        let place = dir.path().join("stage");
        clear(&place)?;
        make_directory(&place)?;
        Ok(Stage { base: base.path(), upper: dir.upper(), place })
    }

    /// A file with this text.
    pub(super) fn file(&self, destination: &str, text: &str, mode: u32) -> Result<(), RuntimeError> {
        let staged = self.place.join("file");
        std::fs::write(&staged, text).map_err(|error| RuntimeError::io("write", &staged, error))?;
        set_mode(&staged, mode)?;
        self.put(&staged, Path::new(destination))
    }

    /// A directory in which nothing of the base shows.
    pub(super) fn empty_directory(&self, destination: &str, mode: u32) -> Result<(), RuntimeError> {
        let staged = self.directory()?;
        set_mode(&staged, mode)?;
        self.put(&staged, Path::new(destination))
    }

    /// Puts what was made ready at its place.
    pub(super) fn put(&self, staged: &Path, destination: &Path) -> Result<(), RuntimeError> {
        copy_into(staged, self.base, &self.upper, destination)?;
        clear(staged)
    }

    /// A new directory to be filled and [`Stage::put`].
    pub(super) fn directory(&self) -> Result<PathBuf, RuntimeError> {
        let staged = self.place.join("directory");
        clear(&staged)?;
        make_directory(&staged)?;
        Ok(staged)
    }

    /// Hides a directory of the base behind an empty one of the same owner and mode.
    pub(super) fn hide_directory(&self, path: &Path) -> Result<(), RuntimeError> {
        self.hide_directory_except(path, &[])
    }

    /// Hides a directory of the base behind one of the same owner and mode that has these files of it and no others.
    pub(super) fn hide_directory_except(&self, path: &Path, shown: &[&str]) -> Result<(), RuntimeError> {
        if !self.shows(path, |metadata| metadata.is_dir())? {
            return Ok(());
        }
        let staged = self.directory()?;
        like(&staged, &self.in_base(path))?;
        for name in shown {
            let (model, copy) = (self.in_base(path).join(name), staged.join(name));
            if model.is_file() {
                std::fs::copy(&model, &copy).map_err(|error| RuntimeError::io("copy", &model, error))?;
                like(&copy, &model)?;
            }
        }
        self.put(&staged, path)
    }

    /// Hides a file of the base behind an empty one of the same owner and mode.
    pub(super) fn hide_file(&self, path: &Path) -> Result<(), RuntimeError> {
        if !self.shows(path, |metadata| !metadata.is_dir())? {
            return Ok(());
        }
        let staged = self.place.join("file");
        std::fs::write(&staged, "").map_err(|error| RuntimeError::io("write", &staged, error))?;
        like(&staged, &self.in_base(path))?;
        self.put(&staged, path)
    }

    /// Whether something of the base shows at a path: the private layer neither has it nor hides what is above.
    fn shows(&self, path: &Path, kind: impl Fn(&std::fs::Metadata) -> bool) -> Result<bool, RuntimeError> {
        let at = self.in_base(path);
        match std::fs::metadata(&at) {
            Ok(metadata) if kind(&metadata) => {}
            Ok(_) => return Ok(false),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(RuntimeError::io("look at", &at, error)),
        }
        let parts: Vec<&Path> = path.ancestors().take_while(|path| path.parent().is_some()).collect();
        for part in parts.into_iter().rev() {
            let at = self.upper.join(part.strip_prefix("/").unwrap_or(part));
            match std::fs::symlink_metadata(&at) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
                Err(error) => return Err(RuntimeError::io("look at", &at, error)),
                // A file, a link, or the mark of a removal.
                Ok(metadata) if !metadata.is_dir() => return Ok(false),
                Ok(_) if is_opaque(&at)? => return Ok(false),
                Ok(_) if part == path => return self.close(&at),
                Ok(_) => {}
            }
        }
        Ok(true)
    }

    /// A directory of the capsule's own at a place that is masked on this host: the base below it is cut off.
    fn close(&self, directory: &Path) -> Result<bool, RuntimeError> {
        rustix::fs::setxattr(directory, c"trusted.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
            .map_err(|error| RuntimeError::io("mark as opaque", directory, error))?;
        Ok(false)
    }

    fn in_base(&self, path: &Path) -> PathBuf {
        self.base.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        let _ = clear(&self.place);
    }
}

/// Makes owner and mode the same.
pub(super) fn like(path: &Path, model: &Path) -> Result<(), RuntimeError> {
    let metadata = std::fs::metadata(model).map_err(|error| RuntimeError::io("look at", model, error))?;
    std::os::unix::fs::chown(path, Some(metadata.uid()), Some(metadata.gid()))
        .map_err(|error| RuntimeError::io("set the owner of", path, error))?;
    set_mode(path, metadata.mode() & 0o7777)
}

pub(super) fn make_directory(path: &Path) -> Result<(), RuntimeError> {
    std::fs::create_dir(path).map_err(|error| RuntimeError::io("make the directory", path, error))
}

fn set_mode(path: &Path, mode: u32) -> Result<(), RuntimeError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|error| RuntimeError::io("set the mode of", path, error))
}

fn is_opaque(path: &Path) -> Result<bool, RuntimeError> {
    let mut value = [0_u8; 1];
    match rustix::fs::getxattr(path, c"trusted.overlay.opaque", &mut value) {
        Ok(_) => Ok(value == *b"y"),
        Err(rustix::io::Errno::NODATA) => Ok(false),
        Err(error) => Err(RuntimeError::io("read the attributes of", path, error)),
    }
}

fn clear(path: &Path) -> Result<(), RuntimeError> {
    let cleared = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
    };
    cleared.map_err(|error| RuntimeError::io("clear", path, error))
}
