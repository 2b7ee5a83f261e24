//! Running a command to its end, with a time limit.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::process::Output;
use crate::wait::poll;

/// Runs it without input and collects what it prints. After `limit` it is killed, and the code is −1.
///
/// # Panics
/// When it can't be started.
#[track_caller]
pub(crate) fn run(mut command: Command, limit: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let line = describe(&command);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("can't start {line}: {error}"));
    let stdout = collect(child.stdout.take().expect("piped above"));
    let stderr = collect(child.stderr.take().expect("piped above"));
    let ended = poll(limit, || child.try_wait().expect("our own child"));
    if ended.is_none() {
        // Already gone: then there is nothing to kill.
        let _ = child.kill();
    }
    let status = child.wait().expect("our own child");
    let mut stderr = collected(stderr);
    if ended.is_none() {
        stderr.push_str(&format!("\nkilled after {limit:?}\n"));
    }
    Output {
        command: line,
        code: if ended.is_none() { -1 } else { exit_code(status) },
        stdout: collected(stdout),
        stderr,
    }
}

/// The code as a shell would say it: 128 + n for signal n.
pub(crate) fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The command line, for messages.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

type Collector = std::sync::mpsc::Receiver<Vec<u8>>;

fn collect(mut pipe: impl Read + Send + 'static) -> Collector {
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        // A read error is an end; a receiver that went away doesn't want the rest.
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// A process left behind by the command may keep the pipe open for ever: what came until shortly after its end counts.
fn collected(collector: Collector) -> String {
    let mut bytes = Vec::new();
    while let Ok(chunk) = collector.recv_timeout(Duration::from_millis(500)) {
        bytes.extend(chunk);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
