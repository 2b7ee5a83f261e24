//! Real, unmodified programs, tried while they and their clients move between hosts: the table in the README.
//!
//! Each is tried on a mesh of three hosts, twice. First with server and clients in capsules, each moved at least three
//! times while the clients work, and one sidecar killed in between. Then with the clients on a machine without a sidecar,
//! which reach the server by a gateway: the server is moved three times, its sidecar and the gateway's are killed in
//! between. The clients check what they get. To try one more program, write an
//! entry in `catalogue/` and name its Debian package in `scripts/setup`.

mod app;
mod catalogue;
mod outside;
mod sockets;
mod table;
mod trial;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

use app::App;
use table::Row;
use trial::Way;

/// Real programs tried while they move; about half an hour for all.
#[derive(Parser)]
struct Arguments {
    /// Only programs whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// How long the clients of each go on; six moves and more must fit, on a busy machine too.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Write the table into this file, between its markers.
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    write: Option<PathBuf>,
    /// Print the names and try nothing.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let wanted = |app: &&App| {
        let only = arguments.only.as_deref().unwrap_or_default().to_lowercase();
        app.name.to_lowercase().contains(&only)
    };
    let apps: Vec<&'static App> = catalogue::all().filter(wanted).collect();
    if arguments.list {
        apps.iter().for_each(|app| eprintln!("{}", app.name));
        return ExitCode::SUCCESS;
    }
    let absent = absent(&apps);
    if apps.is_empty() || !absent.is_empty() {
        eprintln!("apps: nothing was started; missing here:");
        absent.iter().for_each(|thing| eprintln!("  - {thing}"));
        return ExitCode::FAILURE;
    }
    let rows: Vec<Row> = apps.into_iter().map(|app| tried(app, arguments.seconds)).collect();
    let table = table::markdown(&rows);
    eprintln!("\n{table}");
    let written = arguments.write.as_deref().map_or(Ok(()), |path| table::write(path, &table));
    if let Err(error) = &written {
        eprintln!("apps: {error:#}");
    }
    let good = rows.iter().flat_map(|row| &row.ways).all(|outcome| outcome.fault.is_none());
    if good && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tried(app: &'static App, seconds: u64) -> Row {
    let version = version(app);
    eprintln!("apps: {} {version}", app.name);
    let ways = [Way::Mesh, Way::Gateway].map(|way| {
        let outcome = trial::of(app, seconds, way);
        match &outcome.fault {
            Some(fault) => eprintln!("apps: {} {way:?} FAILED: {fault}", app.name),
            None => eprintln!("apps: {} {way:?} ok: {outcome:?}", app.name),
        }
        outcome
    });
    Row { app, version, ways: ways.into() }
}

/// What a mesh or a program lacks here.
fn absent(apps: &[&'static App]) -> Vec<String> {
    let of_mesh = testkit::lacking(&["witness", "db-client"], &[]).into_iter().map(|thing| thing.to_string());
    let mut needs: Vec<&str> = apps.iter().flat_map(|app| app.needs).copied().collect();
    needs.sort_unstable();
    needs.dedup();
    let of_apps = needs
        .into_iter()
        .filter(|pattern| !shell(&format!("ls {pattern}")).0)
        .map(|file| format!("{file}: scripts/setup apps"));
    of_mesh.chain(of_apps).collect()
}

/// The first word that looks like a version in what the program says.
fn version(app: &App) -> String {
    let (_, said) = shell(app.version);
    let words = said.split(|letter: char| letter.is_whitespace() || "/\",_=".contains(letter));
    let trimmed = words.map(|word| word.trim_start_matches('v').trim_end_matches(';'));
    let is_version =
        |word: &&str| word.starts_with(|letter: char| letter.is_ascii_digit()) && word.contains('.');
    trimmed.clone().find(is_version).unwrap_or_default().split('-').next().unwrap_or_default().to_owned()
}

fn shell(line: &str) -> (bool, String) {
    let output = Command::new("/bin/bash").args(["-c", &format!("{line} 2>&1")]).output();
    output.map_or((false, String::new()), |output| {
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    })
}
