//! DNS over UDP: threads of their own, each with a socket of its own at the same address, among which the kernel shares
//! out the askers.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use hickory_server::net::xfer::Protocol;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::runtime::Handle;
use tracing::{debug, error, warn};

use crate::limits::{DNS_QUERY_BYTES_MAX, DNS_STOP_CHECK};

use super::rate::{Rate, Verdict};
use super::responder::Responder;
use super::update;

/// Receive and send buffers of one socket, bytes: what arrives while the thread is not scheduled.
const SOCKET_BYTES: usize = 1 << 20;

/// Bytes that the kernel hands over at once: one datagram of any length, or several of one asker that it joined
/// (UDP_GRO), together no longer than a datagram can be.
const RECEIVED_BYTES_MAX: usize = 1 << 16;

/// Binds one socket for each thread. The first may ask for a free port.
pub(super) fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<UdpSocket>> {
    let first = bind_one(address)?;
    let address = first.local_addr()?;
    let others = (1..threads.max(1)).map(|_| bind_one(address));
    std::iter::once(Ok(first)).chain(others).collect()
}

fn bind_one(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None)?;
    // Another process can't slip in: it would have to be of the same user and to leave out the TCP port, which is ours alone.
    socket.set_reuse_port(true)?;
    // Beyond the machine's limit for others, where that is allowed.
    if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES).is_err() {
        socket.set_recv_buffer_size(SOCKET_BYTES)?;
    }
    socket.set_send_buffer_size(SOCKET_BYTES)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Threads that answer.
pub(super) struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct Socket {
    socket: UdpSocket,
    state: UdpSocketState,
}

struct Worker {
    socket: Arc<Socket>,
    /// Where updates are carried out, which wait for the store.
    runtime: Handle,
    responder: Arc<Responder>,
    rate: Arc<Rate>,
    stop: Arc<AtomicBool>,
}

impl Workers {
    /// Starts a thread for each socket.
    pub(super) fn start(sockets: Vec<UdpSocket>, responder: &Arc<Responder>, rate: Rate) -> io::Result<Self> {
        let mut workers = Self { stop: Arc::new(AtomicBool::new(false)), threads: vec![] };
        let rate = Arc::new(rate);
        for socket in sockets {
            let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
            let (responder, rate, stop) = (responder.clone(), rate.clone(), workers.stop.clone());
            let (socket, runtime) = (Arc::new(Socket { socket, state }), Handle::current());
            let worker = Worker { socket, runtime, responder, rate, stop };
            let thread = std::thread::Builder::new().name("dns-udp".into()).spawn(move || worker.run())?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }

    /// Answers what has arrived and ends.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a DNS thread broke");
            }
        }
    }
}

impl Worker {
    fn run(self) {
        let mut buffers = vec![vec![0; RECEIVED_BYTES_MAX]; BATCH_SIZE];
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut answer = Vec::with_capacity(DNS_QUERY_BYTES_MAX);
        while !self.stop.load(Ordering::Relaxed) {
            let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            match self.socket.receive(&mut slices, &mut metas) {
                Ok(count) => {
                    let now = Instant::now();
                    for (buffer, meta) in buffers.iter().zip(&metas).take(count) {
                        // The kernel may have joined packets of one asker, all of one length but the last.
                        let packets = buffer[..meta.len.min(RECEIVED_BYTES_MAX)].chunks(meta.stride.max(1));
                        // What is longer is no query: it is read no further.
                        let cut = packets.map(|packet| &packet[..packet.len().min(DNS_QUERY_BYTES_MAX)]);
                        cut.for_each(|packet| self.survive(packet, meta, now, &mut answer));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(),
                // An ICMP error of an earlier answer, for instance.
                Err(error) => debug!(%error, "cannot receive a DNS query"),
            }
        }
    }

    /// Answers, and goes on if that breaks: one packet must not silence a thread.
    fn survive(&self, packet: &[u8], meta: &RecvMeta, now: Instant, answer: &mut Vec<u8>) {
        // What it touches is shared under locks that outlive a panic, or is cleared before it is used again.
        let answered = catch_unwind(AssertUnwindSafe(|| self.answer(packet, meta, now, answer)));
        if answered.is_err() {
            error!(client = %meta.addr, bytes = packet.len(), "a DNS query broke its answer; this is a fault of ours");
        }
    }

    fn answer(&self, packet: &[u8], meta: &RecvMeta, now: Instant, answer: &mut Vec<u8>) {
        // Nobody asks from port 0.
        if meta.addr.port() == 0 {
            return;
        }
        let mut verdict = self.rate.judge(meta.addr.ip(), now);
        if verdict != Verdict::Send && self.responder.knows(packet, meta.addr.ip()) {
            verdict = Verdict::Send;
        }
        if verdict == Verdict::Drop {
            self.responder.metrics.limited();
            return;
        }
        if update::is_update(packet) {
            return self.update(packet, *meta);
        }
        if !self.responder.respond(packet, meta.addr, Protocol::Udp, answer) {
            return;
        }
        if verdict == Verdict::Truncate {
            self.responder.metrics.limited();
            truncate(answer);
        }
        self.socket.send(answer, meta);
    }

    /// Not in this thread: the store takes its time.
    fn update(&self, packet: &[u8], meta: RecvMeta) {
        let (socket, responder, packet) = (self.socket.clone(), self.responder.clone(), packet.to_vec());
        // Behind so many the asker gets no answer, and asks again.
        let Some(turn) = self.responder.updates.turn() else { return };
        self.runtime.spawn(async move {
            if let Some(answer) = update::answer(&responder, &packet, meta.addr, Protocol::Udp).await {
                socket.send(&answer, &meta);
            }
            drop(turn);
        });
    }

    fn wait(&self) {
        let mut sockets = [PollFd::new(&self.socket.socket, PollFlags::IN)];
        let limit = Timespec { tv_sec: 0, tv_nsec: DNS_STOP_CHECK.subsec_nanos().into() };
        // An interrupted wait is one that ended early.
        let _ = poll(&mut sockets, Some(&limit));
    }
}

impl Socket {
    fn receive(&self, slices: &mut [IoSliceMut<'_>], metas: &mut [RecvMeta]) -> io::Result<usize> {
        self.state.recv(UdpSockRef::from(&self.socket), slices, metas)
    }

    fn send(&self, answer: &[u8], asked: &RecvMeta) {
        let transmit = Transmit {
            destination: asked.addr,
            ecn: None,
            contents: answer,
            segment_size: None,
            // From the address that was asked, of several that this machine may have.
            src_ip: asked.dst_ip,
        };
        // A full send buffer loses the answer, as the network may: the asker asks again.
        if let Err(error) = self.state.try_send(UdpSockRef::from(&self.socket), &transmit) {
            debug!(%error, client = %asked.addr, "cannot send a DNS answer");
        }
    }
}

/// Leaves header and question, and says that something is missing.
fn truncate(answer: &mut Vec<u8>) {
    let question = super::question::end_of_question(answer);
    let Some(end) = question else { return };
    answer.truncate(end);
    answer[2] |= 2;
    answer[6..12].fill(0);
}
