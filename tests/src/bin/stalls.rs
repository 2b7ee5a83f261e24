//! Thousands of connections in one program, that are written to without being read until it is told to.
//!
//! One side listens, the other connects and sends the same number of checked bytes on each connection. The listener
//! takes all connections and reads nothing before the file `--read-when` is there.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::Parser;
use rustix::event::epoll;
use rustix::net::sockopt;
use rustix::process;
use serde_json::json;
use testkit::pattern;

/// Buffers of the program's own sockets, which the kernel doubles: what waits is to wait in the mesh.
const OWN_BUFFER_BYTES: usize = 8 << 10;
const CHUNK_BYTES: usize = 16 << 10;
/// Connects under way at once.
const CONNECTORS: usize = 8;
/// Events taken from the kernel at once.
const EVENTS: usize = 1024;

#[derive(Parser)]
struct Arguments {
    /// Accept connections at this address.
    #[arg(long, value_name = "ADDR:PORT", required_unless_present = "connect", conflicts_with = "connect")]
    listen: Option<String>,
    /// Connect to this address.
    #[arg(long, value_name = "ADDR:PORT")]
    connect: Option<String>,
    /// How many connections.
    #[arg(long)]
    connections: usize,
    /// Bytes on each.
    #[arg(long)]
    bytes: u64,
    /// Read nothing before there is this file.
    #[arg(long, default_value = "/tmp/read")]
    read_when: PathBuf,
}

/// A connection and how far it is.
struct Flow {
    stream: TcpStream,
    /// The port of the side that connected, which tells the connections apart on both sides.
    seed: u64,
    bytes: u64,
    wrong: bool,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    // As servers do that hold many: the usual limit is for programs that use `select`.
    let files = process::getrlimit(process::Resource::Nofile);
    process::setrlimit(process::Resource::Nofile, process::Rlimit { current: files.maximum, ..files })?;
    match (&arguments.listen, &arguments.connect) {
        (Some(place), _) => receive(place, &arguments),
        (None, Some(place)) => send(place, &arguments),
        (None, None) => Ok(()),
    }
}

#[expect(clippy::print_stdout, reason = "the summary is the output of this program")]
fn receive(place: &str, arguments: &Arguments) -> io::Result<()> {
    let listener = TcpListener::bind(place)?;
    sockopt::set_socket_recv_buffer_size(&listener, OWN_BUFFER_BYTES)?;
    eprintln!("listening on {}", listener.local_addr()?);
    let accepted = (0..arguments.connections).map(|_| listener.accept());
    let flows = accepted.map(|accepted| accepted.map(|(stream, peer)| Flow::new(stream, peer.port())));
    let mut flows: Vec<Flow> = flows.collect::<io::Result<_>>()?;
    eprintln!("holding {}", flows.len());
    while !arguments.read_when.exists() {
        thread::sleep(Duration::from_millis(50));
    }
    let mut buffer = vec![0; CHUNK_BYTES];
    drive(&mut flows, epoll::EventFlags::IN, |flow| flow.read(&mut buffer))?;
    let wrong = flows.iter().filter(|flow| flow.wrong || flow.bytes != arguments.bytes).count();
    let bytes: u64 = flows.iter().map(|flow| flow.bytes).sum();
    println!("{}", json!({ "connections": flows.len(), "bytes": bytes, "wrong": wrong }));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the summary is the output of this program")]
fn send(place: &str, arguments: &Arguments) -> io::Result<()> {
    let mut flows = connect_all(place, arguments.connections)?;
    eprintln!("all are open");
    let mut buffer = vec![0; CHUNK_BYTES];
    drive(&mut flows, epoll::EventFlags::OUT, |flow| flow.write(&mut buffer, arguments.bytes))?;
    eprintln!("all is sent");
    // The other side has read everything when it ends its direction.
    for flow in &mut flows {
        flow.stream.set_nonblocking(false)?;
        flow.wrong = !matches!(flow.stream.read(&mut buffer), Ok(0));
    }
    let wrong = flows.iter().filter(|flow| flow.wrong).count();
    let bytes: u64 = flows.iter().map(|flow| flow.bytes).sum();
    println!("{}", json!({ "connections": flows.len(), "bytes": bytes, "wrong": wrong }));
    Ok(())
}

fn connect_all(place: &str, connections: usize) -> io::Result<Vec<Flow>> {
    let connect = |_| -> io::Result<Flow> {
        let stream = TcpStream::connect(place)?;
        sockopt::set_socket_send_buffer_size(&stream, OWN_BUFFER_BYTES)?;
        let port = stream.local_addr()?.port();
        Ok(Flow::new(stream, port))
    };
    thread::scope(|scope| {
        let part = |number: usize| (number..connections).step_by(CONNECTORS);
        let running: Vec<_> = (0..CONNECTORS)
            .map(|number| scope.spawn(move || part(number).map(connect).collect::<io::Result<Vec<_>>>()))
            .collect();
        let mut flows = Vec::with_capacity(connections);
        for thread in running {
            flows.extend(thread.join().expect("connecting does not panic")?);
        }
        Ok(flows)
    })
}

/// Has every flow move along whenever the kernel says that it may, until each is done.
fn drive(
    flows: &mut [Flow],
    what: epoll::EventFlags,
    mut step: impl FnMut(&mut Flow) -> io::Result<bool>,
) -> io::Result<()> {
    let queue = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut at: HashMap<RawFd, usize> = HashMap::new();
    for (index, flow) in flows.iter().enumerate() {
        flow.stream.set_nonblocking(true)?;
        let fd = flow.stream.as_raw_fd();
        epoll::add(&queue, &flow.stream, epoll::EventData::new_u64(fd as u64), what)?;
        at.insert(fd, index);
    }
    let mut events = Vec::with_capacity(EVENTS);
    while !at.is_empty() {
        events.clear();
        match epoll::wait(&queue, rustix::buffer::spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => continue,
            waited => waited?,
        };
        for event in &events {
            let fd = event.data.u64() as RawFd;
            let Some(index) = at.get(&fd) else { continue };
            let flow = &mut flows[*index];
            if step(flow)? {
                epoll::delete(&queue, &flow.stream)?;
                at.remove(&fd);
            }
        }
    }
    Ok(())
}

impl Flow {
    fn new(stream: TcpStream, port: u16) -> Self {
        Self { stream, seed: port.into(), bytes: 0, wrong: false }
    }

    /// Reads once; says whether this was the end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        match self.stream.read(buffer) {
            Ok(0) => {
                self.stream.shutdown(Shutdown::Write)?;
                Ok(true)
            }
            Ok(length) => {
                self.wrong |= pattern::first_wrong(self.seed, self.bytes, &buffer[..length]).is_some();
                self.bytes += length as u64;
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes once; says whether all is sent.
    fn write(&mut self, buffer: &mut [u8], bytes: u64) -> io::Result<bool> {
        let length = buffer.len().min(usize::try_from(bytes - self.bytes).unwrap_or(usize::MAX));
        pattern::fill(self.seed, self.bytes, &mut buffer[..length]);
        match self.stream.write(&buffer[..length]) {
            Ok(written) => self.bytes += written as u64,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let done = self.bytes == bytes;
        if done {
            self.stream.shutdown(Shutdown::Write)?;
        }
        Ok(done)
    }
}
