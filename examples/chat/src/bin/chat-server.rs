//! The server of the chat example.

use std::net::TcpListener;

use anyhow::{Context, Result};
use clap::Parser;

/// A chat server that numbers every line.
#[derive(Parser)]
struct Arguments {
    /// Where to listen; the default is every address, IPv4 and IPv6.
    #[arg(long, value_name = "ADDR:PORT", default_value = "[::]:7000")]
    listen: String,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let listener =
        TcpListener::bind(&arguments.listen).with_context(|| format!("listening at {}", arguments.listen))?;
    eprintln!("listening on {}", listener.local_addr()?);
    chat::server::serve(&listener)
}
