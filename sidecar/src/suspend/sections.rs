//! What is in the sections of a capsule file, on the way out and in. Everything here blocks.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use admin_api::result::{Level, MoveBytes};
use anyhow::{Context, bail, ensure};
use capsule_file::{FileError, Manifest, Reader, Section, Writer};
use runtime::files::base::{BaseFile, BaseKind, Difference, DifferenceKind};
use runtime::files::pack::{pack, unpack};

use crate::capsule::{Capsule, file::CapsuleFile};
use crate::limits::{IMAGE_BYTES_MAX, IMAGE_FILES_MAX, SESSIONS_BYTES_MAX};
use crate::moving::conversation::Prepare;
use crate::moving::{examine, image};

/// Bytes of a log file in a capsule file: what a shim keeps of one, with room.
const LOG_BYTES_MAX: u64 = 1 << 30;

/// What a capsule file is made of, beside its manifest.
pub(super) struct Parts {
    /// The sidecar's ends of the connections.
    pub(super) sessions: Vec<u8>,
    /// Where the image of the processes lies.
    pub(super) image: PathBuf,
    /// The private files.
    pub(super) upper: PathBuf,
    /// The root below them.
    pub(super) base: PathBuf,
    /// Base files that the processes have open or mapped.
    pub(super) open: Vec<BaseFile>,
    /// Where copies of these may be made.
    pub(super) staging: PathBuf,
    /// The capsule's directory, for the log.
    pub(super) directory: PathBuf,
}

/// Writes a whole capsule file; says how many bytes of memory and files are in it, before compression.
pub(super) fn write(out: impl Write, manifest: &Manifest, parts: &Parts) -> anyhow::Result<MoveBytes> {
    let mut writer = Writer::begin(out, manifest)?;
    let mut bytes = MoveBytes::default();
    writer.section(Section::Sessions, "")?;
    writer.write_all(&parts.sessions).map_err(FileError::from_io)?;
    writer.close()?;
    for (name, length) in image::list(&parts.image)? {
        writer.section(Section::Memory, &name)?;
        copy(&parts.image.join(&name), &mut writer)?;
        writer.close()?;
        bytes.memory += length;
    }
    writer.section(Section::Files, "")?;
    bytes.files += pack(&parts.upper, &mut writer).context("packing the private files")?.bytes;
    writer.close()?;
    writer.section(Section::Base, "")?;
    bytes.files += stage_and_pack(parts, &mut writer).context("packing base files")?;
    writer.close()?;
    for path in [shim::place::log_before(&parts.directory), shim::place::log(&parts.directory)] {
        if path.exists() {
            let name = path.file_name().and_then(|name| name.to_str()).context("the log has a name")?;
            writer.section(Section::Log, name)?;
            copy(&path, &mut writer)?;
            writer.close()?;
        }
    }
    writer.finish()?;
    Ok(bytes)
}

/// Whoever resumes it may have other files, so all that are open or mapped go along.
fn stage_and_pack(parts: &Parts, out: &mut impl Write) -> anyhow::Result<u64> {
    let all: Vec<Difference> = parts
        .open
        .iter()
        .filter(|file| file.kind != BaseKind::Special)
        .map(|file| Difference { path: file.path.clone(), kind: DifferenceKind::Differs })
        .collect();
    let _ = std::fs::remove_dir_all(&parts.staging);
    std::fs::create_dir_all(&parts.staging)?;
    let packed = runtime::files::base::stage(&parts.base, &all, &parts.staging)
        .map_err(anyhow::Error::from)
        .and_then(|_| Ok(pack(&parts.staging, out)?));
    let _ = std::fs::remove_dir_all(&parts.staging);
    Ok(packed?.bytes)
}

fn copy(from: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let mut file = File::open(from).with_context(|| format!("opening {}", from.display()))?;
    io::copy(&mut file, out).with_context(|| format!("writing {}", from.display()))?;
    Ok(())
}

/// What the frozen capsule has open or mapped; fails if something of it can't be captured.
pub(super) fn open_now(
    capsule: &Capsule,
    base: &Path,
    cpuinfo: &Path,
) -> anyhow::Result<(Vec<BaseFile>, crate::moving::conversation::Needs)> {
    let (checks, needs, open) = examine::what_it_needs(capsule, base, cpuinfo)?;
    if let Some(check) = checks.iter().find(|check| check.level == Level::Fail) {
        bail!("{}", check.evidence);
    }
    Ok((open, needs))
}

/// What this sidecar reads out of a manifest.
pub(super) fn prepare_of(manifest: &Manifest) -> anyhow::Result<Prepare> {
    let prepare: Prepare =
        serde_json::from_value(manifest.contents.clone()).context("reading the manifest")?;
    let file: &CapsuleFile = &prepare.capsule;
    let same = file.id == manifest.capsule
        && file.name == manifest.name
        && file.owner == manifest.owner
        && file.locators == manifest.locators;
    ensure!(same, "the file makes no sense: it speaks of two capsules");
    Ok(prepare)
}

/// Where the sections of a file go on this host.
pub(super) struct Places {
    /// The image of the processes.
    pub(super) image: PathBuf,
    /// The private files.
    pub(super) upper: PathBuf,
    /// Base files, until they are merged.
    pub(super) staged: PathBuf,
    /// How the base differs here.
    pub(super) differences: Vec<Difference>,
    /// The capsule's directory, for the log.
    pub(super) directory: PathBuf,
}

/// What came out of a file.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The sidecar's ends of the connections.
    pub(super) sessions: Vec<u8>,
    /// Bytes of memory and files.
    pub(super) bytes: MoveBytes,
}

/// Reads everything behind the manifest to its place. When this returns the file was whole.
pub(super) fn read(mut reader: Reader<impl Read>, places: &Places) -> anyhow::Result<Taken> {
    let mut done = Taken::default();
    let mut files = 0;
    while let Some((section, name)) = reader.next()? {
        match section {
            Section::Manifest => bail!("the file makes no sense: it has two manifests"),
            Section::Sessions => {
                let limited = (&mut reader).take(SESSIONS_BYTES_MAX + 1).read_to_end(&mut done.sessions);
                limited.map_err(FileError::from_io)?;
                let length = done.sessions.len() as u64;
                ensure!(
                    length <= SESSIONS_BYTES_MAX,
                    "its sessions have more than {SESSIONS_BYTES_MAX} bytes"
                );
            }
            Section::Memory => {
                files += 1;
                ensure!(files <= IMAGE_FILES_MAX, "its image has more than {IMAGE_FILES_MAX} files");
                ensure!(image::is_plain(&name), "its image has a file named {name:?}");
                let left = IMAGE_BYTES_MAX - done.bytes.memory;
                done.bytes.memory += fill(&places.image.join(&name), &mut reader, left)?;
            }
            Section::Files => {
                unpack(&mut reader, &places.upper, |_| true).map_err(said)?;
            }
            Section::Base => {
                let wanted = wanted(&places.differences);
                unpack(&mut reader, &places.staged, |path| wanted.contains(path)).map_err(said)?;
            }
            Section::Log => {
                let logs = [shim::place::log_before(&places.directory), shim::place::log(&places.directory)];
                let path = logs.iter().find(|path| path.file_name().is_some_and(|known| *known == *name));
                let path = path.with_context(|| format!("{name:?} is no log"))?;
                fill(path, &mut reader, LOG_BYTES_MAX)?;
            }
        }
    }
    done.bytes.files = runtime::files::space::disk_needed(&places.upper)?.bytes;
    Ok(done)
}

/// A [`FileError`] says more than the error of the stream that it came as.
fn said(error: runtime::files::pack::PackError) -> anyhow::Error {
    match error {
        runtime::files::pack::PackError::Stream(error) => FileError::from_io(error).into(),
        other => other.into(),
    }
}

fn fill(path: &Path, reader: &mut impl Read, bytes_max: u64) -> anyhow::Result<u64> {
    let mut file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    let mut limited = BufReader::new(reader.take(bytes_max.saturating_add(1)));
    let written = io::copy(&mut limited, &mut file).map_err(FileError::from_io);
    let written = written.with_context(|| format!("writing {}", path.display()))?;
    ensure!(written <= bytes_max, "{} would have more than {bytes_max} bytes", path.display());
    Ok(written)
}

/// The differing files and the directories above them, as they are named in a packed tree.
fn wanted(differences: &[Difference]) -> HashSet<PathBuf> {
    let shipped = differences.iter().filter(|difference| match difference.kind {
        DifferenceKind::Missing | DifferenceKind::Differs => true,
        DifferenceKind::Blocked(_) => false,
    });
    shipped
        .flat_map(|difference| {
            let path = difference.path.strip_prefix("/").unwrap_or(&difference.path);
            path.ancestors().map(Path::to_owned).collect::<Vec<_>>()
        })
        .collect()
}
