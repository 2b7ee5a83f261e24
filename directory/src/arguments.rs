//! The command line.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use directory_api::Zone;
use overlay_proto::{HostName, Owner};

use crate::locators::Prefix;
use crate::store::{StoreAccess, StoreAddress};

/// Allocates locators, knows where every capsule is, answers DNS for the zone, runs the CA
#[derive(Parser)]
#[command(version)]
pub struct Arguments {
    #[command(subcommand)]
    /// What to do.
    pub verb: Verb,
}

/// What to do.
#[derive(Subcommand)]
pub enum Verb {
    /// Make a new mesh: its CA, its store, its zone
    Init {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// The DNS zone of the capsules
        #[arg(long)]
        zone: Zone,
        /// Where IPv4 locators come from
        #[arg(long, default_value = "10.88.0.0/16")]
        locators: Prefix<Ipv4Addr>,
        /// Where IPv6 locators come from
        #[arg(long, default_value = "fd88::/64")]
        locators6: Prefix<Ipv6Addr>,
        /// Encrypt the key of the CA's root with the passphrase on this file's first line
        #[arg(long, value_name = "FILE")]
        ca_passphrase_file: Option<PathBuf>,
    },
    /// Make another issuer, which signs hosts' certificates; a running directory takes it up by itself
    RenewIssuer {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// What the key of the CA's root is encrypted with
        #[arg(long, value_name = "FILE")]
        ca_passphrase_file: Option<PathBuf>,
    },
    /// Encrypt the key of the CA's root where it lies
    SealRoot {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// Encrypt it with the passphrase on this file's first line
        #[arg(long, value_name = "FILE")]
        ca_passphrase_file: PathBuf,
    },
    /// Replace the CA's root, one step at a time: make another, sign by it, forget the old one
    RotateRoot {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// Encrypt the next root's key with the passphrase on this file's first line, and open it with that
        #[arg(long, value_name = "FILE")]
        ca_passphrase_file: Option<PathBuf>,
        /// Only say where it stands, and which hosts are not ready
        #[arg(long)]
        status: bool,
    },
    /// Print a one-time token with which a host can join; works while the directory serves
    Token {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// The host that may join with it
        #[arg(long)]
        host: HostName,
        /// How long it is good: a number with s, m, h or d
        #[arg(long, default_value = "1h", value_parser = parse_time)]
        ttl: Duration,
        /// Refuse verbs that this host forwards, except reads
        #[arg(long)]
        no_operator: bool,
        /// Whose capsules the host may run anew (may be repeated); without it anybody's
        #[arg(long, value_name = "OWNER")]
        owner: Vec<Owner>,
        /// Let the host be a gateway though it has owners or no operator rights; any other host may be one
        #[arg(long)]
        gateway: bool,
    },
    /// Print who changed what, oldest first; works while the directory serves
    Audit {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// How many of the last entries
        #[arg(long, default_value_t = 1000)]
        last: usize,
        /// One JSON document: {"entries":[…]}
        #[arg(long)]
        json: bool,
    },
    /// Print the DS records by which validating resolvers know the zones' keys
    Ds {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
    },
    /// Print a fresh secret for a secondary or for updates by an owner, in the form that `nsupdate -k` reads
    Key {
        /// The key's name, as in `key_name` of the settings
        #[arg(long)]
        name: String,
    },
    /// Replace the key that signs the zones: once to show a new one, once more to sign with it
    Rollover {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// Replace it without waiting, for a key in wrong hands: resolvers find the zones bogus until they have the new DS
        #[arg(long)]
        at_once: bool,
    },
    /// Write everything that the mesh can't do without to one file, keys included; works while the directory serves
    Backup {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// The file, which takes the place of one that is there
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Encrypt it with the passphrase on this file's first line; without it, whoever reads the backup can make himself any host
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Make a data directory from a backup; every host then has to assert what it holds before anything moves
    Restore {
        /// The backup
        #[arg(long, value_name = "FILE")]
        from: PathBuf,
        /// Where the directory keeps everything: an empty folder, or none yet
        #[arg(long)]
        data: PathBuf,
        /// What the backup is encrypted with
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Copy all facts into an empty store, while no directory serves; they are served from there afterwards
    CopyStore {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// Where the facts are: `embedded`, or `etcd://[USER@]HOST:PORT,…`
        #[arg(long, value_name = "STORE", default_value = "embedded")]
        from: StoreAddress,
        /// Where they are to be
        #[arg(long, value_name = "STORE")]
        to: StoreAddress,
        /// By which files etcd is reached.
        #[command(flatten)]
        access: StoreAccess,
    },
    /// List the directories that share the store, which hosts are told of; one that is gone for good is taken off
    Directories {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// Take this one off, by its id; one that serves comes back by itself
        #[arg(long, value_name = "ID")]
        remove: Option<String>,
    },
    /// Serve hosts and resolvers, in the foreground
    Serve {
        /// Where the directory keeps everything
        #[arg(long)]
        data: PathBuf,
        /// A TOML file with settings
        #[arg(long)]
        config: Option<PathBuf>,
        /// Where DNS is answered, over UDP and TCP
        #[arg(long)]
        dns: Option<SocketAddr>,
        /// Where DNS is answered over TLS
        #[arg(long)]
        dot: Option<SocketAddr>,
        /// Where DNS is answered over QUIC
        #[arg(long)]
        doq: Option<SocketAddr>,
        /// Where requests are taken, by QUIC
        #[arg(long)]
        api: Option<SocketAddr>,
        /// Where /healthz, /readyz and /metrics are
        #[arg(long)]
        http: Option<SocketAddr>,
        /// Where the facts are: `embedded`, or `etcd://[USER@]HOST:PORT,…` for several directories at once
        #[arg(long, value_name = "STORE")]
        store: Option<StoreAddress>,
        /// By which files etcd is reached.
        #[command(flatten)]
        access: StoreAccess,
        /// Only say all that is wrong with the settings and the data, and where; may run beside the one that serves
        #[arg(long)]
        check_config: bool,
    },
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no time such as 90s, 15m, 1h or 2d");
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| bad())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(parse_time(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in ["", "h", "1", "1w", "-1s", "1.5h", "99999999999999999999s", "999999999999999999d", "1é"]
        {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }
}
