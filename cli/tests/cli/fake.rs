//! A sidecar whose side of the conversation is written down in the test.

use std::{
    path::PathBuf,
    process::{ExitStatus, Output, Stdio},
    time::Duration,
};

use admin_api::{Conversation, Frame, Request};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    net::{
        UnixListener,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    process::{Child, ChildStderr, Command},
    time::timeout,
};

/// Longest wait for anything that should happen at once.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) type Call = Conversation<OwnedReadHalf, OwnedWriteHalf>;

pub(crate) struct FakeSidecar {
    dir: TempDir,
    listener: Option<UnixListener>,
}

impl FakeSidecar {
    pub(crate) fn start() -> Self {
        let mut fake = Self { dir: TempDir::new().unwrap(), listener: None };
        fake.listen();
        fake
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    pub(crate) fn listen(&mut self) {
        self.listener = Some(UnixListener::bind(self.socket()).unwrap());
    }

    /// As after a crash: the socket file stays, nobody answers.
    pub(crate) fn die(&mut self) {
        self.listener = None;
    }

    pub(crate) fn revive(&mut self) {
        std::fs::remove_file(self.socket()).unwrap();
        self.listen();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = capsule(arguments);
        command.env("CAPSULE_ADMIN", self.socket());
        command
    }

    pub(crate) fn spawn(&self, arguments: &[&str]) -> Child {
        self.command(arguments).spawn().unwrap()
    }

    /// The next call and the rest of its conversation.
    pub(crate) async fn call(&self) -> (Request, Call) {
        let listener = self.listener.as_ref().expect("listening");
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("a call").unwrap();
        let (reader, writer) = stream.into_split();
        let mut call = Conversation::new(reader, writer);
        match said(&mut call).await {
            Frame::Call(first) => {
                assert_eq!(first.forwarded_by, None);
                (first.request, call)
            }
            other => panic!("the first frame was {other:?}"),
        }
    }

    /// Runs a command that makes one call, and gives it these frames.
    pub(crate) async fn answer(&self, arguments: &[&str], frames: &[Frame]) -> (Request, Output) {
        let child = self.spawn(arguments);
        let (request, mut call) = self.call().await;
        say(&mut call, frames).await;
        drop(call);
        (request, ended(child).await)
    }
}

/// The command, away from the environment of whoever runs the tests.
pub(crate) fn capsule(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capsule"));
    for name in ["CAPSULE_ADMIN", "NO_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LC_ALL", "LC_CTYPE"] {
        command.env_remove(name);
    }
    command
        .env("LANG", "C.UTF-8")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

pub(crate) async fn say(call: &mut Call, frames: &[Frame]) {
    for frame in frames {
        call.writer.write(frame).await.unwrap();
    }
}

/// The next frame from the command.
pub(crate) async fn said(call: &mut Call) -> Frame {
    timeout(PATIENCE, call.reader.next()).await.expect("a frame").unwrap().expect("more frames")
}

pub(crate) async fn ended(child: Child) -> Output {
    timeout(PATIENCE, child.wait_with_output()).await.expect("the command ends").unwrap()
}

pub(crate) fn signal(child: &Child, number: i32) {
    let pid = child.id().expect("it runs").to_string();
    let sent = std::process::Command::new("kill").args([format!("-{number}"), pid]).status().unwrap();
    assert!(sent.success());
}

pub(crate) fn stderr_lines(child: &mut Child) -> Lines<BufReader<ChildStderr>> {
    BufReader::new(child.stderr.take().expect("piped")).lines()
}

pub(crate) async fn line(lines: &mut Lines<BufReader<ChildStderr>>) -> String {
    timeout(PATIENCE, lines.next_line()).await.expect("a line").unwrap().expect("more lines")
}

/// Waits until stdout shows this many bytes more.
pub(crate) async fn shown(child: &mut Child, bytes: usize) -> String {
    let mut text = vec![0; bytes];
    let stdout = child.stdout.as_mut().expect("piped");
    timeout(PATIENCE, stdout.read_exact(&mut text)).await.expect("output").unwrap();
    String::from_utf8(text).unwrap()
}

pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().expect("it ended by itself")
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The one document on stdout; anything before or after it fails the test.
pub(crate) fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {:?}", text(&output.stdout)))
}
