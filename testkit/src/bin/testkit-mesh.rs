//! A mesh to play with: `testkit-mesh a b c` starts a directory and these hosts, prints how to talk to them, and
//! removes everything when its standard input ends. With `--relay` the hosts reach each other through a relay, which
//! takes orders from standard input, a line each; with or without it a host can be given another address.

use std::io::{BufRead, stdin};
use std::time::Duration;

use clap::Parser;
use testkit::{Host, Mesh, Weather};

/// Starts a directory and hosts in network namespaces; removes them when its input ends.
#[derive(Parser)]
struct Arguments {
    /// Let the hosts reach each other through a relay that takes orders from standard input.
    #[arg(long)]
    relay: bool,
    /// Names of the hosts.
    #[arg(default_values_t = ["a", "b", "c"].map(String::from))]
    hosts: Vec<String>,
}

const ORDERS: &str = "\
orders: weather [loss PERCENT] [delay MS] [jitter MS] [duplicate PERCENT]   (none: fair)
        cut FROM TO | part HOST HOST | heal | rebind HOST | counts
        readdress HOST NUMBER   (1 to 3)";

fn main() {
    let arguments = Arguments::parse();
    let mesh = Mesh::new("play");
    mesh.directory().start();
    let names: Vec<&str> = arguments.hosts.iter().map(String::as_str).collect();
    for host in names.iter().map(|name| mesh.host(name)) {
        host.listen_everywhere();
        if arguments.relay {
            mesh.relay().carry(&host);
        }
    }
    mesh.start(&names);
    for name in &names {
        let host = mesh.host(name);
        eprintln!(
            "{name}: CAPSULE_ADMIN={} (netns {}, {})",
            host.data().join("admin.sock").display(),
            host.netns(),
            host.address()
        );
    }
    eprintln!("end of input (Ctrl-D) removes the mesh\n{ORDERS}");
    for line in stdin().lock().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !words.is_empty() && obey(&mesh, &names, &words).is_none() {
            eprintln!("{line:?} is no order\n{ORDERS}");
        }
    }
    let left = mesh.end();
    eprintln!("left behind: {left:?}");
}

/// Carries out an order; nothing when it is none.
fn obey(mesh: &Mesh, names: &[&str], words: &[&str]) -> Option<()> {
    let host = |name: &&str| -> Option<Host> { names.contains(name).then(|| mesh.host(name)) };
    match words {
        ["weather", rest @ ..] => mesh.relay().set_weather(weather(rest)?),
        ["cut", from, to] => mesh.relay().cut(&host(from)?, &host(to)?),
        ["part", one, other] => mesh.relay().part(&host(one)?, &host(other)?),
        ["heal"] => mesh.relay().heal(),
        ["rebind", name] => eprintln!("{} flows", mesh.relay().rebind(&host(name)?)),
        ["counts"] => eprintln!("{:?}", mesh.relay().counts()),
        ["readdress", name, number] => {
            let number = number.parse().ok().filter(|number| (1..=3).contains(number))?;
            host(name)?.readdress(number);
        }
        _ => return None,
    }
    Some(())
}

fn weather(words: &[&str]) -> Option<Weather> {
    let mut weather = Weather::default();
    for pair in words.chunks(2) {
        let [what, number] = pair else { return None };
        let number: f64 = number.parse().ok().filter(|number| (0.0..=60_000.0).contains(number))?;
        match *what {
            "loss" => weather.loss_percent = number,
            "duplicate" => weather.duplicate_percent = number,
            "delay" => weather.delay = Duration::from_secs_f64(number / 1e3),
            "jitter" => weather.jitter = Duration::from_secs_f64(number / 1e3),
            _ => return None,
        }
    }
    Some(weather)
}
