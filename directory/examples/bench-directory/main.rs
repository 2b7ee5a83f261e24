//! DNS of the directory beside stock hickory, with the same names, by `dnsperf`, in one run; and how long a directory with
//! 100,000 capsules and 5,000 hosts takes to start and what memory it needs.

#![allow(clippy::print_stdout, reason = "the report is what this program is for")]

mod measure;
mod population;
mod stock;
mod watchers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

use measure::{Load, Server, median};
use population::{CAPSULES, HOSTS, ZONE};
use watchers::{WATCHERS, percentile};

/// Turns that each server has; the figures are medians.
const TURNS: usize = 3;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// Watch as some of the hosts whose identities lie in a folder
    Watchers {
        #[arg(long)]
        api: SocketAddr,
        #[arg(long)]
        folder: PathBuf,
        #[arg(long)]
        revision: u64,
        #[arg(long)]
        first: usize,
        #[arg(long)]
        count: usize,
    },
    /// Only time changes until all watchers saw them
    Changes,
    /// Serve the same names with stock hickory, on one worker thread
    Stock {
        #[arg(long)]
        dns: SocketAddr,
    },
}

fn main() -> Result<()> {
    match Arguments::parse().part {
        Some(Part::Stock { dns }) => stock::serve(dns),
        Some(Part::Watchers { api, folder, revision, first, count }) => {
            watchers::watch(api, &folder, revision, first, count)
        }
        Some(Part::Changes) => {
            let (folder, directory, _) = begin()?;
            changes(&folder, &directory)
        }
        None => bench(),
    }
}

fn begin() -> Result<(Folder, Server, Duration)> {
    let folder = Folder::new()?;
    eprintln!("making a directory with {CAPSULES} capsules and {HOSTS} hosts …");
    population::write(&folder.data(), &folder.queries())?;
    let (directory, start) = Server::directory(&folder.data(), &folder.0)?;
    Ok((folder, directory, start))
}

fn bench() -> Result<()> {
    let (folder, directory, start) = begin()?;
    let queries = folder.queries();
    let fresh_mib = directory.resident_mib()?;
    eprintln!("making the same zone for stock hickory, which signs all of it first …");
    let (stock, stock_start) = Server::stock()?;
    let stock_mib = stock.resident_mib()?;

    println!(
        "zone {ZONE}, {CAPSULES} capsules, A queries for names at random, one worker each, medians of {TURNS}\n"
    );
    println!("{:44}{:>12}{:>12}{:>11}", "", "STOCK", "DIRECTORY", "COMPARED");
    for (signed, name) in [(false, "without DO"), (true, "with DO")] {
        let (mut of_stock, mut of_directory) = (vec![], vec![]);
        // The first turn fills what either keeps, and is not counted.
        for turn in 0..=TURNS {
            for (server, loads) in [(&stock, &mut of_stock), (&directory, &mut of_directory)] {
                let load = server.load(&queries, signed)?;
                if turn > 0 {
                    loads.push(load);
                }
            }
        }
        let figure = |loads: &[Load], of: fn(&Load) -> f64| median(loads.iter().map(of).collect());
        for (what, of) in [
            ("queries per s", (|load: &Load| load.queries_per_s) as fn(&Load) -> f64),
            ("queries per s of the server's CPU", |load: &Load| 1e6 / load.cpu_us_per_query),
            ("CPU of the server per query, µs", |load: &Load| load.cpu_us_per_query),
        ] {
            let (stock, directory) = (figure(&of_stock, of), figure(&of_directory, of));
            println!(
                "{:44}{stock:>12.1}{directory:>12.1}{:>9.2} ×",
                format!("{what}, {name}"),
                directory / stock
            );
        }
        let lost = |loads: &[Load]| loads.iter().map(|load| load.lost).sum::<u64>();
        println!("{:44}{:>12}{:>12}", format!("queries lost, {name}"), lost(&of_stock), lost(&of_directory));
    }
    println!("{:44}{:>12.2}{:>12.2}", "start, s", stock_start.as_secs_f64(), start.as_secs_f64());
    println!("{:44}{stock_mib:>12.0}{fresh_mib:>12.0}", "memory after the start, MiB");
    let (stock_mib, directory_mib) = (stock.resident_mib()?, directory.resident_mib()?);
    println!("{:44}{stock_mib:>12.0}{directory_mib:>12.0}", "memory after the queries, MiB");
    println!(
        "\n(stock: hickory-server's in-memory zone in this program, A and AAAA only; dnsperf has the other CPU)\n"
    );
    drop(stock);
    changes(&folder, &directory)
}

fn changes(folder: &Folder, directory: &Server) -> Result<()> {
    eprintln!("having {WATCHERS} hosts join, which watch …");
    let delays = watchers::measure(&folder.data(), directory, &folder.0)?;
    println!("from a request for a change, ms, {WATCHERS} hosts that watch and renew their leases\n");
    println!("{:44}{:>12}{:>12}{:>11}", "", "P50", "P99", "MAX");
    for (what, values) in [
        ("until it was answered", &delays.answered),
        ("until a host saw it", &delays.each),
        ("until all hosts saw it", &delays.all),
    ] {
        let [half, most, all] = [0.5, 0.99, 1.0].map(|share| percentile(values, share));
        println!("{what:44}{half:>12.1}{most:>12.1}{all:>11.1}");
    }
    println!("{:44}{:>12.1}", "CPU of the directory per change, ms", delays.cpu);
    println!("\n(the hosts are processes of this machine, and share its CPUs with the directory)");
    Ok(())
}

/// A folder that goes with its owner.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("capsule-bench-directory-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Folder {
    fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    fn queries(&self) -> PathBuf {
        self.0.join("queries")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
