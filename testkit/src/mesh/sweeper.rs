//! A helper process that removes the mesh when the test is killed: the end of its input is the end of the test.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::programs;

#[derive(Debug)]
pub(super) struct Sweeper(Option<Child>);

impl Sweeper {
    pub(super) fn start(prefix: &str) -> Sweeper {
        let Some(program) = programs::find("testkit-sweep") else {
            eprintln!(
                "testkit: no testkit-sweep beside this program: a test that is killed will leave things behind"
            );
            return Sweeper(None);
        };
        // A process group of its own: what kills the group of the test must not kill it too.
        let child = Command::new(program)
            .args(["--when-orphaned", prefix])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Sweeper(child.inspect_err(|error| eprintln!("testkit: testkit-sweep: {error}")).ok())
    }

    /// Tells it that nothing is left to do.
    pub(super) fn dismiss(&mut self) {
        if let Some(mut child) = self.0.take() {
            // One that has ended already needs no word.
            let _ = child.stdin.take().map(|mut stdin| stdin.write_all(b"done\n"));
            let _ = child.wait();
        }
    }
}
