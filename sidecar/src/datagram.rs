//! Datagrams and pings between capsules (D4).
//!
//! ```text
//!  program ─UDP→ TPROXY socket ─ intercept ─ outgoing ══ link ══ incoming ─ gate ─ injected ─UDP→ program
//!                                   │           │                   │         │
//!                                 flows      waiting             policy     flows
//! ```
//!
//! A datagram is never more than a datagram: it may be lost, and each loss is counted with its reason. While the
//! capsule that it is for stands still, it waits at the `gate` of that capsule; while nobody knows the way to it, it
//! waits at its sender's host (`waiting`). A host that has no such capsule sends it back, and the sender's host, which
//! knows its own datagrams by a tag, asks the directory and sends it on.
//!
//! Nothing here must outlive the sidecar but the two TPROXY sockets, which the shim holds: `flows` are made again from
//! what is sent.

mod counts;
mod flows;
mod gate;
mod incoming;
mod intercept;
mod machines;
mod outgoing;
mod waiting;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use kernel::udp::Deliverer;
use overlay_proto::{Datagram, DatagramBody, DatagramTag, HostName};
use tokio::sync::Semaphore;

use crate::capsule::network::{Network, Networks};
use crate::limits::{DATAGRAM_CHECKS, FLOW_IDLE};
use crate::places::Places;
use crate::session::Routes;

use flows::Flows;
use gate::{Gate, Passed};
use machines::Machines;
use waiting::Waiting;

pub use counts::{Counts, Lost};
pub use flows::{Flow, FlowKey};
pub use intercept::intercept;
pub use machines::Outside;

/// Carries datagrams between the capsules of this host and all others.
#[derive(Clone)]
pub struct Forwarder(Arc<Parts>);

struct Parts {
    places: Places,
    routes: Arc<Routes>,
    networks: Networks,
    /// All capsules of this host together.
    counts: Counts,
    /// Of this process: what another one sent is not known again.
    key: [u8; 32],
    /// Permits for datagrams that wait for the directory's word.
    checks: Arc<Semaphore>,
    /// Who this host is.
    me: HostName,
    machines: Machines,
    /// How long a datagram waits for a capsule that is away.
    wait: Duration,
}

impl Forwarder {
    /// Of a host of this name with these capsules, on which a datagram for one that is away waits for as long as `wait`.
    pub fn new(
        me: HostName,
        outside: Outside,
        wait: Duration,
        places: Places,
        routes: Arc<Routes>,
        networks: Networks,
    ) -> Self {
        let checks = Arc::new(Semaphore::new(DATAGRAM_CHECKS));
        let (counts, key) = (Counts::default(), crate::random::bytes());
        let machines = Machines::new(outside);
        Self(Arc::new(Parts { places, routes, networks, counts, key, checks, me, machines, wait }))
    }

    /// What became of datagrams on this host since its sidecar started.
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// Delivers what waits for a capsule here, and what comes.
    pub fn release(&self, network: &Network) {
        let datagrams = network.datagrams();
        let late = datagrams.gate.open(Instant::now(), self.0.wait, |datagram| datagrams.inject(datagram));
        datagrams.counts.lost(Lost::TooLate, late);
        self.0.counts.lost(Lost::TooLate, late);
    }

    /// A datagram of a capsule here was lost.
    fn lost(&self, network: &Network, lost: Lost, datagram: &Datagram) {
        tracing::trace!(capsule = %network.name(), from = %datagram.source, to = %datagram.destination, ?lost, "a datagram was lost");
        network.datagrams().counts.lost(lost, 1);
        self.0.counts.lost(lost, 1);
    }

    /// Datagrams of a capsule here came faster than they were taken.
    fn overflowed(&self, network: &Network, count: u64) {
        network.datagrams().counts.lost(Lost::NoRoom, count);
        self.0.counts.lost(Lost::NoRoom, count);
    }

    /// A datagram of or for nobody here was lost.
    fn lost_here(&self, lost: Lost, datagram: &Datagram) {
        tracing::trace!(from = %datagram.source, to = %datagram.destination, ?lost, "a datagram was lost");
        self.0.counts.lost(lost, 1);
    }

    /// By which this host knows a datagram again.
    fn tag(&self, datagram: &Datagram) -> DatagramTag {
        let mut hasher = blake3::Hasher::new_keyed(&self.0.key);
        for address in [datagram.source, datagram.destination] {
            match address.ip() {
                IpAddr::V4(v4) => hasher.update(&v4.octets()),
                IpAddr::V6(v6) => hasher.update(&v6.octets()),
            };
            hasher.update(&address.port().to_be_bytes());
        }
        let kind = match datagram.body {
            DatagramBody::Udp(_) => 0,
            DatagramBody::Icmp(_) => 1,
        };
        hasher.update(&[datagram.traffic_class, kind]);
        hasher.update(datagram.body.bytes());
        let mut tag = DatagramTag::default();
        hasher.finalize_xof().fill(&mut tag);
        tag
    }
}

/// The datagrams of one capsule on this host.
pub struct Datagrams {
    deliverer: Deliverer,
    flows: Mutex<Flows>,
    gate: Gate,
    waiting: Mutex<Waiting>,
    counts: Counts,
    since: Instant,
    /// Of a gateway: where datagrams for machines outside go.
    outlet: OnceLock<Outlet>,
}

/// Takes the datagrams for machines outside that don't route locators here: those that a gateway's locators stand for, and
/// those that capsules send to.
struct Outlet {
    routed: Vec<IpNet>,
    let_out: Box<dyn Fn(Datagram) + Send + Sync>,
}

impl Datagrams {
    /// Opens what delivers into the namespace of the calling thread. An arriving capsule takes nothing yet.
    ///
    /// # Errors
    /// The kernel refuses the sockets.
    pub fn open(arriving: bool) -> std::io::Result<Self> {
        Ok(Self::by(Deliverer::open()?, arriving))
    }

    /// The same of a gateway, whose namespace is the host's own: what is delivered goes out to other machines.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub fn open_outside() -> std::io::Result<Self> {
        Ok(Self::by(Deliverer::open_outside()?, false))
    }

    fn by(deliverer: Deliverer, arriving: bool) -> Self {
        Self {
            deliverer,
            flows: Mutex::default(),
            gate: Gate::new(arriving),
            waiting: Mutex::default(),
            counts: Counts::default(),
            since: Instant::now(),
            outlet: OnceLock::new(),
        }
    }

    /// What became of datagrams of the capsule since it came to this host, or the sidecar here started.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Has all that is delivered go there, rather than as it is into the namespace, but for what is for machines of these
    /// networks.
    pub(crate) fn let_out(&self, routed: Vec<IpNet>, outlet: impl Fn(Datagram) + Send + Sync + 'static) {
        let _ = self.outlet.set(Outlet { routed, let_out: Box::new(outlet) });
    }

    /// Whether the one at `flow.local` sent anything to the other, a short while ago.
    fn has_sent(&self, flow: FlowKey) -> bool {
        self.flows.lock().expect("no panics under this lock").asked(Instant::now(), &flow)
    }

    /// Whether anything was for the one at `flow.local` from the other, a short while ago.
    pub(crate) fn has_received(&self, flow: FlowKey) -> bool {
        self.flows.lock().expect("no panics under this lock").has_received(Instant::now(), &flow)
    }

    /// From here on what arrives waits.
    pub fn hold(&self) {
        self.gate.hold();
    }

    /// Flows that are not forgotten, with how long they are quiet.
    pub fn flows(&self) -> Vec<(FlowKey, Flow, Duration)> {
        let now = Instant::now();
        let mut flows = self.flows.lock().expect("no panics under this lock");
        flows.sweep(now);
        flows.all(now)
    }

    /// Bytes that wait on this host to be delivered, or to be sent.
    pub fn waiting_bytes(&self) -> u64 {
        let waiting = self.waiting().bytes();
        (self.gate.bytes() + waiting) as u64
    }

    /// Takes a datagram for the capsule; gives it back when the capsule is leaving this host for good.
    fn deliver(&self, from: &HostName, datagram: Datagram) -> Result<(), Undelivered> {
        match self.gate.pass(Instant::now(), from, datagram) {
            Passed::Deliver(datagram) => {
                self.inject(datagram);
                Ok(())
            }
            Passed::Kept => Ok(()),
            Passed::NoRoom(datagram) => Err(Undelivered::NoRoom(datagram)),
            Passed::Closed(datagram) => Err(Undelivered::Gone(datagram)),
        }
    }

    /// Gives out what waits, for good.
    fn close(&self) -> Vec<(HostName, Datagram)> {
        self.gate.close()
    }

    fn note_sent(&self, now: Instant, key: FlowKey, bytes: usize) {
        self.flows.lock().expect("no panics under this lock").sent(now, key, bytes);
    }

    fn sweep(&self, now: Instant) {
        self.flows.lock().expect("no panics under this lock").sweep(now);
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panics under this lock")
    }

    fn outlet_at(&self, address: IpAddr) -> Option<&Outlet> {
        self.outlet.get().filter(|outlet| !outlet.routed.iter().any(|network| network.contains(&address)))
    }

    fn inject(&self, datagram: Datagram) {
        if let Some(outlet) = self.outlet_at(datagram.destination.ip()) {
            if let DatagramBody::Udp(payload) = &datagram.body {
                let key = FlowKey { local: datagram.destination, remote: datagram.source };
                let mut flows = self.flows.lock().expect("no panics under this lock");
                flows.received(Instant::now(), key, payload.len());
            }
            (outlet.let_out)(datagram);
            return;
        }
        let Datagram { source, destination, traffic_class, body, .. } = datagram;
        let injected = match &body {
            DatagramBody::Udp(payload) => {
                let key = FlowKey { local: destination, remote: source };
                self.flows.lock().expect("no panics under this lock").received(
                    Instant::now(),
                    key,
                    payload.len(),
                );
                self.deliverer.datagram(source, destination, traffic_class, payload)
            }
            DatagramBody::Icmp(message) => self.deliverer.icmp(source.ip(), destination.ip(), message),
        };
        if let Err(error) = injected {
            tracing::debug!(from = %source, to = %destination, %error, "a datagram was not delivered");
        }
    }

    /// Whether the program sent something that a datagram may be the answer to. What a capsule sent from elsewhere, or
    /// under an earlier sidecar, is not known here; it gets the benefit of the doubt for as long as it might be.
    fn may_have_asked(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        let now = Instant::now();
        now.duration_since(self.since) < FLOW_IDLE
            || self.flows.lock().expect("no panics under this lock").asked(now, &FlowKey { local, remote })
    }

    /// Tells the program that nobody is where it sent something.
    fn tell_unreachable(&self, datagram: &Datagram) {
        if self.outlet_at(datagram.source.ip()).is_some() {
            return;
        }
        let Datagram { source, destination, body, .. } = datagram;
        let told = match body {
            DatagramBody::Udp(payload) => self.deliverer.unreachable(*source, *destination, payload.len()),
            DatagramBody::Icmp(message) => {
                self.deliverer.icmp_unreachable(source.ip(), destination.ip(), message)
            }
        };
        if let Err(error) = told {
            tracing::debug!(to = %destination, %error, "a program was not told that nobody is there");
        }
    }
}

/// Why a datagram was not delivered.
enum Undelivered {
    NoRoom(Datagram),
    Gone(Datagram),
}
