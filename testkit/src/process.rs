//! A process running in a host, and the result of one that ended.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bounded::{describe, exit_code};
use crate::wait::poll;

/// What a command left when it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Its command line, for messages.
    pub command: String,
    /// Its exit code; 128 + n for signal n; −1 when it was killed for taking too long.
    pub code: i32,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Output {
    /// Returns itself when the code is 0.
    ///
    /// # Panics
    /// Otherwise, with everything that was printed.
    #[track_caller]
    pub fn ok(self) -> Output {
        self.exits(0)
    }

    /// Returns itself when the code is `code`.
    ///
    /// # Panics
    /// Otherwise, with everything that was printed.
    #[track_caller]
    pub fn exits(self, code: i32) -> Output {
        assert!(
            self.code == code,
            "{}\nended with {} instead of {code}\nstdout: {}\nstderr: {}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// The one JSON document on its standard output.
    ///
    /// # Panics
    /// When stdout is anything else.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!(
                "{}\nprinted no single JSON document ({error}), ended with {}\nstdout: {}\nstderr: {}",
                self.command, self.code, self.stdout, self.stderr
            )
        })
    }
}

/// A running process with its output in files. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    command: String,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts it with its output in `BASE.out` and `BASE.err`.
    ///
    /// # Panics
    /// When it can't be started.
    #[track_caller]
    pub(crate) fn start(mut command: Command, base: &std::path::Path) -> Process {
        let line = describe(&command);
        let open =
            |path: &PathBuf| File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (out, err) = (base.with_extension("out"), base.with_extension("err"));
        command.stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err));
        let child = command.spawn().unwrap_or_else(|error| panic!("can't start {line}: {error}"));
        Process { child, command: line, out, err }
    }

    /// Its process id, which is that of the program itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our own child").is_none()
    }

    /// Sends a signal; one that has ended takes no notice.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let pid = Pid::from_child(&self.child);
            kill_process(pid, signal).expect("root may signal its child");
        }
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) {
        // Already gone: then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> Output {
        let Some(status) = poll(limit, || self.child.try_wait().expect("our own child")) else {
            panic!(
                "{}\nstill runs after {limit:?}\nstdout: {}\nstderr: {}",
                self.command,
                self.stdout(),
                self.stderr()
            )
        };
        let (stdout, stderr) = (self.stdout(), self.stderr());
        Output { command: self.command.clone(), code: exit_code(status), stdout, stderr }
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read(&self.out)
    }

    /// What it has printed so far as errors.
    pub fn stderr(&self) -> String {
        read(&self.err)
    }
}

fn read(path: &PathBuf) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
