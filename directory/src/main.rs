//! `capsule-directory`: the command.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;

use capsule_directory::arguments::{Arguments, Verb};
use capsule_directory::audit::{By, Entry};
use capsule_directory::backup::{self, Backup, Head};
use capsule_directory::config::{Config, Flags};
use capsule_directory::data::{self, Data};
use capsule_directory::dns::signing::delegations;
use capsule_directory::dns::tsig::Secret;
use capsule_directory::key_file;
use capsule_directory::locators::Pools;
use capsule_directory::sealed::Passphrase;
use capsule_directory::shared;
use capsule_directory::zone::Zones;
use capsule_directory::zone_keys::{ROLLOVER_WAIT, Step};

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("capsule-directory: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Init { data, zone, locators, locators6, ca_passphrase_file: file } => {
            let passphrase = file.as_deref().map(Passphrase::read).transpose()?;
            let pools = Pools { v4: locators, v6: locators6 };
            let made = Data::init(&data, zone, pools, passphrase.as_ref())?;
            eprintln!("made the mesh {} in {}", made.zone, data.display());
            Ok(())
        }
        Verb::RenewIssuer { data, ca_passphrase_file: file } => {
            let passphrase = file.as_deref().map(Passphrase::read).transpose()?;
            Data::open(&data)?.renew_issuer(&By::Operator, passphrase.as_ref(), SystemTime::now())?;
            eprintln!("made another issuer; a running directory takes it up within two seconds");
            Ok(())
        }
        Verb::SealRoot { data: path, ca_passphrase_file: file } => {
            let passphrase = Passphrase::read(&file)?;
            Data::open(&path)?.seal_root(&passphrase, SystemTime::now())?;
            let path = path.display();
            eprintln!(
                "the root's key is encrypted: {path}/ca.key.age. It opened again, and {path}/ca.key is gone"
            );
            Ok(())
        }
        Verb::RotateRoot { data, ca_passphrase_file: file, status } => {
            let passphrase = file.as_deref().map(Passphrase::read).transpose()?;
            capsule_directory::rotation::run(&Data::open(&data)?, passphrase.as_ref(), status)
        }
        Verb::Token { data, host, ttl, no_operator, mut owner, gateway } => {
            owner.extend(gateway.then(directory_api::outside::owner));
            let token = Data::open(&data)?.token(host, ttl, !no_operator, owner)?;
            writeln!(std::io::stdout(), "{token}").context("cannot print the token")
        }
        Verb::Audit { data, last, json } => print_audit(&Data::open(&data)?.audited(last)?, json),
        Verb::Backup { data, to, passphrase_file: file } => {
            let passphrase = file.as_deref().map(Passphrase::read).transpose()?;
            back_up(&Data::open(&data)?, &to, passphrase.as_ref())
        }
        Verb::Restore { from, data, passphrase_file: file } => {
            let passphrase = file.as_deref().map(Passphrase::read).transpose()?;
            restore(&from, &data, passphrase.as_ref())
        }
        Verb::Ds { data } => {
            let data = Data::open(&data)?;
            let keys = data.zone_keys()?;
            let zones = Zones::new(data.zone.clone(), &data.pools, vec![]);
            let mut out = std::io::stdout().lock();
            for origin in Zones::ORIGINS {
                for line in delegations(zones.name(origin), &keys, SystemTime::now())? {
                    writeln!(out, "{line}")?;
                }
            }
            Ok(())
        }
        Verb::Key { name } => {
            Secret::new(&name, vec![]).context("--name")?;
            let text = key_file::show(&name, &data::random::<32>()?);
            write!(std::io::stdout(), "{text}").context("cannot print the key")
        }
        Verb::Rollover { data: path, at_once } => {
            let step = Data::open(&path)?.roll_zone_keys(at_once, SystemTime::now())?;
            let path = path.display();
            match step {
                Step::Begun => eprintln!(
                    "a new key is shown beside the old one, which signs on. Set its DS where the old one's is set \
                     (capsule-directory ds --data {path}), and in {} s or later: capsule-directory rollover --data {path}",
                    ROLLOVER_WAIT.as_secs()
                ),
                Step::Finished => eprintln!(
                    "the new key signs; the old one goes by itself. Its DS can be taken away in {} s",
                    ROLLOVER_WAIT.as_secs()
                ),
                Step::TooEarly { wait } => bail!(
                    "the new key is not known everywhere yet; nothing was changed. Again in {} s",
                    wait.as_secs()
                ),
            }
            Ok(())
        }
        Verb::CopyStore { data, from, to, access } => {
            let counted = shared::copy(&Data::open(&data)?, &from, &to, &access)?;
            eprintln!("copied {counted} from {from} to {to}; serve from there: --store {to}");
            Ok(())
        }
        Verb::Directories { data, remove } => {
            let mut out = std::io::stdout().lock();
            for line in shared::list_directories(&Data::open(&data)?, remove.as_deref())? {
                writeln!(out, "{line}").context("cannot print the list")?;
            }
            Ok(())
        }
        Verb::Serve { data, config: file, dns, dot, doq, api, http, store, access, check_config } => {
            let flags = Flags { api, dns, dot, doq, http, store, access };
            let config = Config::load(file.as_deref(), &flags);
            if check_config {
                return capsule_directory::check::run(&data, config);
            }
            let config = config.context("bad settings")?;
            let filter = config.log.parse::<tracing_subscriber::EnvFilter>()?;
            let colours = std::io::stderr().is_terminal();
            tracing_subscriber::fmt()
                .with_env_filter(filter)
                .with_ansi(colours)
                .with_writer(std::io::stderr)
                // Where nothing can be written, a full disk for instance, saying so to stderr would end the thread.
                .log_internal_errors(false)
                .init();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(capsule_directory::app::serve(Data::open(&data)?, config))
        }
    }
}

fn back_up(data: &Data, to: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
    let backup = data.backup(SystemTime::now())?;
    let bytes = backup.encode(passphrase)?;
    backup::file::write(to, &bytes).with_context(|| format!("cannot write {}", to.display()))?;
    let Head { zone, revision, capsules, hosts, files, .. } = &backup.head;
    let (to, size, files) = (to.display(), bytes.len(), files.join(", "));
    eprintln!(
        "{to}: {capsules} capsules and {hosts} hosts of {zone} at revision {revision}; {files}; {size} bytes"
    );
    match passphrase {
        Some(_) => eprintln!("it is encrypted: without the passphrase it is of no use"),
        None => eprintln!("it is not encrypted: whoever can read it can make himself any host of the mesh"),
    }
    eprintln!(
        "not in it: the audit log, join tokens, and the capsules' own files and memory, which their hosts have"
    );
    Ok(())
}

fn restore(from: &Path, path: &Path, passphrase: Option<&Passphrase>) -> Result<()> {
    let read = || -> Result<Backup> { Ok(Backup::decode(&backup::file::read(from)?, passphrase)?) };
    let backup = read().with_context(|| format!("{}: nothing was restored", from.display()))?;
    let data = Data::restore(path, &backup, SystemTime::now())?;
    let Head { revision, capsules, hosts, .. } = backup.head;
    eprintln!(
        "restored {} in {}: {capsules} capsules and {hosts} hosts at revision {revision}",
        data.zone,
        path.display()
    );
    eprintln!(
        "serve it now, and no other directory of this mesh: nothing moves or starts before every host has said what it \
         holds, which each does by itself within seconds. A host that is gone: capsule hosts remove HOST, on another one. \
         Join tokens made before are void"
    );
    Ok(())
}

fn print_audit(entries: &[Entry], json: bool) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut print = || -> std::io::Result<()> {
        if json {
            return writeln!(out, "{}", serde_json::json!({ "entries": entries }));
        }
        entries.iter().try_for_each(|entry| writeln!(out, "{entry}"))
    };
    match print() {
        // Whoever read has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot print the audit log"),
    }
}
