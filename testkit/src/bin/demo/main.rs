//! Three hosts on this machine, programs that talk to each other, and moves while they talk.
//!
//! Ends with what each program saw, and with a proof that nothing is left behind. Exit code 0 when every verdict is ok,
//! 1 when one is not or something is missing, 130 when it was interrupted.

mod ending;
mod programs;
mod scenario;
mod stage;
mod table;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;

use testkit::Mesh;

use ending::Ending;
use stage::Stage;

fn main() -> ExitCode {
    let missing =
        testkit::lacking(&["chat-server", "chat-client", "db-client"], &["redis-server", "redis-cli"]);
    if !missing.is_empty() {
        eprintln!("demo: this machine can't show it yet; nothing was started:");
        for thing in missing {
            eprintln!("  - {thing}");
        }
        return ExitCode::FAILURE;
    }
    // A death before this point is the sweeper's: the mesh has one from its beginning.
    let stage = Stage::new();
    let mesh = Mesh::new("demo");
    let prefix = mesh.prefix().to_owned();
    let (sender, ending) = mpsc::channel();
    if let Err(error) = ending::watch_signals(sender.clone()) {
        eprintln!("demo: can't wait for signals: {error}");
        return ExitCode::FAILURE;
    }
    ending::hush_after_interruption(&stage);
    let actor = stage.clone();
    thread::spawn(move || {
        let good = panic::catch_unwind(AssertUnwindSafe(|| scenario::show(mesh, &actor)));
        // The receiver is gone only when the process is about to end.
        let _ = sender.send(good.map_or(Ending::Broken, Ending::Complete));
    });
    match ending.recv() {
        Ok(Ending::Complete(true)) => ExitCode::SUCCESS,
        Ok(Ending::Complete(false)) => ExitCode::FAILURE,
        Ok(Ending::Interrupted) => ending::clear_up(&stage, &prefix),
        Ok(Ending::Broken) | Err(_) => {
            eprintln!("demo: broke off, see above; everything was removed");
            ExitCode::FAILURE
        }
    }
}
