//! The server: two threads a client, and one room in which lines get their numbers.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::protocol::{FromClient, FromServer, LINE_BYTES_MAX};

/// Lines that may wait for one client; one that is further behind is sent away, so that memory stays bounded.
const WAITING_LINES_MAX: usize = 100_000;

/// Everybody who is there, and the number of the next line.
#[derive(Default)]
struct Room {
    next: u64,
    next_key: u64,
    members: Vec<Member>,
}

struct Member {
    key: u64,
    lines: SyncSender<Arc<str>>,
    stream: TcpStream,
}

/// Serves clients until the listener fails.
///
/// # Errors
/// When no more connections can be accepted.
pub fn serve(listener: &TcpListener) -> Result<()> {
    let room = Arc::new(Mutex::new(Room::default()));
    loop {
        let (stream, from) = listener.accept().context("accepting a connection")?;
        let room = room.clone();
        thread::spawn(move || match attend(&stream, &room) {
            Ok(name) => eprintln!("{name} ({from}) left"),
            Err(error) => eprintln!("{from}: {error:#}"),
        });
    }
}

/// One client from hello to bye; gives its name.
fn attend(stream: &TcpStream, room: &Mutex<Room>) -> Result<String> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let FromClient::Hello(name) = read(&mut reader)? else { bail!("said no hello") };
    eprintln!("{name} is {}", stream.peer_addr()?);
    let (key, writer) = enter(stream, room)?;
    let result = listen(&mut reader, &name, key, room);
    let mut open = lock(room);
    let next = open.next;
    let member = open.members.iter().position(|member| member.key == key).map(|at| open.members.remove(at));
    drop(open);
    if let (Ok(()), Some(member)) = (&result, &member) {
        // A client that left without waiting for the answer doesn't miss it.
        let _ = member.lines.send(FromServer::Goodbye(next).to_string().into());
    }
    // Its writer ends when the last sender is gone, after everything that still waits was written.
    drop(member);
    writer
        .join()
        .expect("writing does not panic")
        .or_else(|error| if result.is_ok() { Err(error) } else { Ok(()) })?;
    result.map(|()| name)
}

/// Welcome and membership under one lock: no line can come between them.
fn enter(stream: &TcpStream, room: &Mutex<Room>) -> Result<(u64, thread::JoinHandle<io::Result<()>>)> {
    let (lines, waiting) = sync_channel(WAITING_LINES_MAX);
    let (out, stream) = (stream.try_clone()?, stream.try_clone()?);
    let mut open = lock(room);
    let key = open.next_key;
    open.next_key += 1;
    lines.send(FromServer::Welcome(open.next).to_string().into()).context("greeting")?;
    open.members.push(Member { key, lines, stream });
    drop(open);
    Ok((key, thread::spawn(move || write(out, &waiting))))
}

fn listen(reader: &mut impl BufRead, name: &str, key: u64, room: &Mutex<Room>) -> Result<()> {
    let mut expected = 0;
    loop {
        match read(reader)? {
            FromClient::Say(number, text) => {
                if number != expected {
                    bail!(
                        "{name} wrote line {number} instead of {expected}: lost or repeated on the way here"
                    );
                }
                expected += 1;
                if !broadcast(room, key, name, number, text) {
                    bail!("{name} reads too slowly: {WAITING_LINES_MAX} lines wait");
                }
            }
            FromClient::Bye => return Ok(()),
            FromClient::Hello(_) => bail!("{name} said hello twice"),
        }
    }
}

/// Gives the line its number and hands it to everybody; false when the writer itself is no member any more.
fn broadcast(room: &Mutex<Room>, key: u64, name: &str, own_number: u64, text: String) -> bool {
    let mut open = lock(room);
    let number = open.next;
    open.next += 1;
    let line: Arc<str> =
        FromServer::Line { number, name: name.to_owned(), own_number, text }.to_string().into();
    open.members.retain(|member| match member.lines.try_send(line.clone()) {
        Ok(()) => true,
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            // Its reader sees the end and says goodbye for it.
            let _ = member.stream.shutdown(Shutdown::Both);
            false
        }
    });
    open.members.iter().any(|member| member.key == key)
}

fn write(stream: TcpStream, waiting: &Receiver<Arc<str>>) -> io::Result<()> {
    let mut out = BufWriter::new(&stream);
    while let Ok(line) = waiting.recv() {
        writeln!(out, "{line}")?;
        while let Ok(line) = waiting.try_recv() {
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
    drop(out);
    stream.shutdown(Shutdown::Write)
}

fn read(reader: &mut impl BufRead) -> Result<FromClient> {
    let mut line = String::new();
    reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line).context("the connection broke")?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.parse()?),
        None if line.is_empty() => bail!("the connection ended without a bye"),
        None => bail!("a line is too long or cut off"),
    }
}

fn lock(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}
