//! Counts into a file that all its copies share, each number on a line of its own and written before the next begins.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

/// Pause between two numbers.
const EVERY: Duration = Duration::from_millis(10);

fn main() -> std::io::Result<()> {
    let Some(path) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("ticker FILE"));
    };
    for number in 1_u64.. {
        // Opened anew each time: no descriptor of it is captured.
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(format!("{number}\n").as_bytes())?;
        std::thread::sleep(EVERY);
    }
    Ok(())
}
