//! Capsules on this host: their files, networks, shims and programs.
//!
//! ```text
//!        run / start              exit, stop
//!  (new) ──────────→ Running ──────────────────→ Stopped ── start ──→ Running
//!                     ↑   │ move
//!  Arriving ─ thawed ─┘   └──→ Moving ── undone ──→ Running
//!                                 └───── committed ──→ Left, Suspended
//! ```

pub(crate) mod adopt;
pub mod engine;
pub mod file;
pub mod keeper;
pub mod lifecycle;
pub mod network;
pub mod quiet;
pub mod resolver;
pub(crate) mod takeover;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use directory_api::{CapsuleState, HeldCapsule};
use overlay_proto::{CapsuleId, CapsuleName, Generation, HostName};
use tokio::sync::watch;

use crate::assertion::Decided;
use crate::moving::journal::{self, Entry};
use crate::moving::verdict::Wishes;
use crate::sidecar::Sidecar;
use file::CapsuleFile;

/// What a capsule is doing on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Its program is being started.
    Starting,
    /// Its program runs.
    Running,
    /// It is leaving.
    Moving,
    /// It is coming.
    Arriving,
    /// Its program ended, with this code.
    Stopped(Option<i32>),
    /// It runs elsewhere.
    Left {
        /// Where.
        to: HostName,
        /// Its generation there.
        generation: Generation,
    },
    /// It lies in a capsule file.
    Suspended,
    /// It was removed.
    Removed,
    /// An earlier sidecar left it, and what becomes of it is not decided.
    Found,
    /// It came by a move, was thawed, and is gone before that was known: its source keeps a copy.
    Died,
    /// It goes on elsewhere without having been given away: this copy is frozen, and kept.
    Superseded {
        /// Its generation elsewhere, when that is known.
        by: Option<Generation>,
    },
}

/// One capsule.
pub struct Capsule {
    id: CapsuleId,
    name: CapsuleName,
    directory: PathBuf,
    file: Mutex<CapsuleFile>,
    stage: watch::Sender<Stage>,
    busy: Arc<tokio::sync::Mutex<()>>,
    phase: Mutex<Option<&'static str>>,
    wishes: Wishes,
    decided: Mutex<Option<Decided>>,
    pub(crate) engine: engine::Engine,
}

impl Capsule {
    fn make(sidecar: &Sidecar, file: CapsuleFile, stage: Stage) -> anyhow::Result<Arc<Self>> {
        let directory = sidecar.data.join("capsules").join(file.id.to_string());
        let engine = engine::Engine::new(sidecar, &directory, &file)?;
        file.write(&directory)?;
        Ok(Arc::new(Self {
            id: file.id,
            name: file.name.clone(),
            engine,
            directory,
            file: Mutex::new(file),
            stage: watch::Sender::new(stage),
            busy: Arc::default(),
            phase: Mutex::default(),
            wishes: Wishes::default(),
            decided: Mutex::default(),
        }))
    }

    /// A capsule that is created here.
    pub(crate) fn created(sidecar: &Sidecar, file: CapsuleFile) -> anyhow::Result<Arc<Self>> {
        let capsule = Self::make(sidecar, file, Stage::Starting)?;
        sidecar.capsules.add(capsule.clone());
        Ok(capsule)
    }

    /// A capsule that an earlier sidecar left here.
    pub(crate) fn adopted(sidecar: &Sidecar, file: CapsuleFile) -> anyhow::Result<Arc<Self>> {
        let capsule = Self::make(sidecar, file, Stage::Found)?;
        sidecar.capsules.add(capsule.clone());
        Ok(capsule)
    }

    /// A capsule that is coming here by a move.
    pub(crate) fn arriving(sidecar: &Sidecar, file: CapsuleFile) -> anyhow::Result<Arc<Self>> {
        if let Some(old) = sidecar.capsules.get(&file.id) {
            match old.stage() {
                Stage::Left { .. } | Stage::Removed | Stage::Suspended => sidecar.capsules.remove(&file.id),
                _ => bail!("{} is here already", file.name),
            }
        }
        // Left by a sidecar that ended before it could clean up.
        let directory = sidecar.data.join("capsules").join(file.id.to_string());
        if directory.exists() {
            engine::clear(sidecar, &directory, &file)?;
        }
        let capsule = Self::make(sidecar, file, Stage::Arriving)?;
        sidecar.capsules.add(capsule.clone());
        Ok(capsule)
    }

    /// Its id.
    pub fn id(&self) -> CapsuleId {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &CapsuleName {
        &self.name
    }

    /// Where everything of it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its private files.
    pub fn upper(&self) -> PathBuf {
        self.directory.join("upper")
    }

    /// What is kept of it on disk.
    pub fn file(&self) -> CapsuleFile {
        self.file.lock().expect("no panics under this lock").clone()
    }

    /// Changes what is kept of it on disk.
    pub(crate) fn change_file(&self, change: impl FnOnce(&mut CapsuleFile)) -> anyhow::Result<()> {
        let mut file = self.file.lock().expect("no panics under this lock");
        change(&mut file);
        file.write(&self.directory)
    }

    /// Notes the generation that the directory gave it.
    pub(crate) fn set_generation(&self, generation: Generation) -> anyhow::Result<()> {
        self.change_file(|file| file.generation = generation)
    }

    /// What it is doing.
    pub fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// A receiver that sees what it is doing.
    pub fn stages(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub(crate) fn set_stage(&self, stage: Stage) {
        tracing::debug!(capsule = %self.name, ?stage, "stage");
        self.stage.send_replace(stage);
    }

    /// Held while something is done with the whole capsule.
    pub(crate) fn busy(&self) -> Arc<tokio::sync::Mutex<()>> {
        self.busy.clone()
    }

    /// The phase of its move, while it leaves.
    pub fn phase(&self) -> Option<&'static str> {
        *self.phase.lock().expect("no panics under this lock")
    }

    pub(crate) fn set_phase(&self, phase: Option<&'static str>) {
        *self.phase.lock().expect("no panics under this lock") = phase;
    }

    /// Its exit code, once its program has ended.
    pub fn exit_code(&self) -> Option<i32> {
        match *self.stage.borrow() {
            Stage::Stopped(code) => code,
            _ => None,
        }
    }

    /// Writes down what is about to be done, and makes sure that it is on disk.
    pub(crate) fn journal(&self, entry: &Entry) -> anyhow::Result<()> {
        journal::write(&self.directory, entry)
            .with_context(|| format!("writing the journal in {}", self.directory.display()))
    }

    /// What the directory has answered of it last.
    pub(crate) fn decided(&self) -> Option<Decided> {
        *self.decided.lock().expect("no panics under this lock")
    }

    /// Notes what the directory has answered, before anything follows from it.
    pub(crate) fn decide(&self, decided: Decided) {
        *self.decided.lock().expect("no panics under this lock") = Some(decided);
    }

    /// The way to who waits with a copy that an unfinished move left.
    pub(crate) fn wishes(&self) -> &Wishes {
        &self.wishes
    }
}

/// The capsules of this host.
#[derive(Default)]
pub struct Capsules(Mutex<HashMap<CapsuleId, Arc<Capsule>>>);

impl Capsules {
    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<CapsuleId, Arc<Capsule>>> {
        self.0.lock().expect("no panics under this lock")
    }

    /// A capsule by id.
    pub fn get(&self, id: &CapsuleId) -> Option<Arc<Capsule>> {
        self.map().get(id).cloned()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Capsule>> {
        self.map().values().cloned().collect()
    }

    pub(crate) fn add(&self, capsule: Arc<Capsule>) {
        self.map().insert(capsule.id, capsule);
    }

    pub(crate) fn remove(&self, id: &CapsuleId) {
        self.map().remove(id);
    }

    /// What this host tells the directory that it holds.
    pub fn held(&self) -> Vec<HeldCapsule> {
        let all = self.all();
        let held = all.iter().filter_map(|capsule| {
            let state = match capsule.stage() {
                Stage::Running | Stage::Starting | Stage::Moving => CapsuleState::Running,
                Stage::Stopped(_) => CapsuleState::Stopped,
                Stage::Died => CapsuleState::Lost,
                Stage::Arriving
                | Stage::Found
                | Stage::Left { .. }
                | Stage::Removed
                | Stage::Suspended
                | Stage::Superseded { .. } => return None,
            };
            Some(HeldCapsule { id: capsule.id, generation: capsule.file().generation, state })
        });
        held.collect()
    }
}
