//! The ways in which the demo ends; an interruption removes everything too.

use std::process::ExitCode;
use std::sync::mpsc::Sender;
use std::{io, panic, thread};

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::stage::{Colour, Stage};

/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

pub(crate) enum Ending {
    /// It was shown to its end; whether all verdicts are ok.
    Complete(bool),
    /// Something panicked and said why.
    Broken,
    /// Ctrl-C, or another signal that asks for the end.
    Interrupted,
}

/// Turns SIGINT, SIGTERM and SIGHUP into an ending.
pub(crate) fn watch_signals(sender: Sender<Ending>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    drop(guard);
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        // Nobody listens any more when the demo has ended by itself.
        let _ = sender.send(Ending::Interrupted);
        // The runtime stays, so that a second Ctrl-C does not kill what clears up.
        loop {
            thread::park();
        }
    });
    Ok(())
}

/// What is being removed under the scenario makes it panic: that is no news after an interruption.
pub(crate) fn hush_after_interruption(stage: &Stage) {
    let (stage, usual) = (stage.clone(), panic::take_hook());
    panic::set_hook(Box::new(move |info| {
        stage.wait_if_stopped();
        usual(info);
    }));
}

/// Removes everything at once, and says what is left.
pub(crate) fn clear_up(stage: &Stage, prefix: &str) -> ExitCode {
    stage.stop();
    stage.line("interrupted: everything is being removed");
    for failure in testkit::sweep(prefix) {
        eprintln!("demo: {failure}");
    }
    let left = testkit::leftovers(prefix);
    let verdict =
        if left.is_empty() { stage.paint(Colour::Good, "ok") } else { stage.paint(Colour::Bad, "not ok") };
    stage.line(&format!("left behind: {left}  {verdict}"));
    ExitCode::from(INTERRUPTED)
}
