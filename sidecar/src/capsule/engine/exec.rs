//! A program run inside a running capsule, as a child of the shim.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use admin_api::request::Exec;
use bytes::Bytes;
use runtime::runc::ExecSpec;
use shim::{Reply, Request};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::Engine;
use crate::capsule::Capsule;

/// Pieces of input that may wait for a program that does not read; more stays with the client.
const EXEC_INPUT_CHUNKS: usize = 256;

/// A program run by `exec`.
pub(crate) struct Running {
    pub stdout: pipe::Receiver,
    pub stderr: pipe::Receiver,
    pub exit: oneshot::Receiver<Option<i32>>,
    input: Option<tokio::sync::mpsc::Sender<Bytes>>,
    engine: Engine,
    exec: u64,
    pid_file: PathBuf,
}

impl Running {
    /// Ends when the program's input has room for one more piece.
    pub(crate) fn room(&self) -> impl Future<Output = ()> + Send + use<> {
        let input = self.input.clone();
        async move {
            if let Some(input) = input {
                let _ = input.reserve().await;
            }
        }
    }

    /// Gives the program input, for which there is [room](Self::room).
    pub(crate) fn feed(&mut self, bytes: Bytes) {
        if let Some(input) = &self.input
            && input.try_send(bytes).is_err()
        {
            tracing::debug!("a program no longer reads its input");
        }
    }

    /// Ends the program's input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Whether the program was there and ran; to be asked after its end.
    pub(crate) fn was_started(&self) -> bool {
        self.pid_file.exists()
    }

    /// Sends the program a signal.
    pub(crate) fn signal(&self, signal: i32) {
        let (engine, exec) = (self.engine.clone(), self.exec);
        std::thread::spawn(move || {
            if let Err(error) = engine.ask(&Request::Signal { signal, exec: Some(exec) }) {
                tracing::debug!(error = format!("{error:#}"), "a signal to an exec");
            }
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

/// Starts a program inside the running capsule. Must be called inside a runtime.
pub(crate) fn exec(capsule: &Capsule, exec: &Exec) -> anyhow::Result<Running> {
    let engine = capsule.engine.clone();
    let spec = ExecSpec {
        argv: exec.argv.clone(),
        env: exec.env.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect(),
        workdir: exec.workdir.clone(),
        user: exec.user.as_deref().map(|user| numeric_user(&engine, user)).transpose()?,
        pid_file: None,
    };
    let id = u64::from_be_bytes(crate::random::bytes());
    let pid_file = engine.dir.path().join(format!("exec-{id:016x}.pid"));
    let spec = ExecSpec { pid_file: Some(pid_file.clone()), ..spec };
    let argv = engine.runc.exec_argv(&engine.id, &spec);
    let (stdin, to_stdin) = std::io::pipe()?;
    let (from_stdout, stdout) = std::io::pipe()?;
    let (from_stderr, stderr) = std::io::pipe()?;
    let mut shim = engine.shim()?;
    let (ended, exit) = oneshot::channel();
    std::thread::Builder::new().name("exec".into()).spawn(move || {
        let answer = shim.ask(&Request::Exec { id, argv }, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]);
        drop((stdin, stdout, stderr));
        let _ = ended.send(match answer {
            Ok(Reply::Exited { code }) => Some(code),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "exec");
                None
            }
        });
    })?;
    let (input, mut inputs) = tokio::sync::mpsc::channel::<Bytes>(EXEC_INPUT_CHUNKS);
    std::thread::Builder::new().name("exec input".into()).spawn(move || {
        let mut to_stdin = to_stdin;
        while let Some(bytes) = inputs.blocking_recv() {
            if to_stdin.write_all(&bytes).is_err() {
                return;
            }
        }
    })?;
    let receiver = |pipe: std::io::PipeReader| pipe::Receiver::from_owned_fd(OwnedFd::from(pipe));
    Ok(Running {
        stdout: receiver(from_stdout)?,
        stderr: receiver(from_stderr)?,
        exit,
        input: Some(input),
        engine,
        exec: id,
        pid_file,
    })
}

/// runc takes numbers only.
fn numeric_user(engine: &Engine, user: &str) -> anyhow::Result<String> {
    let user = runtime::user::User::resolve(&engine.dir.root(), user)?;
    Ok(format!("{}:{}", user.uid, user.gid))
}
