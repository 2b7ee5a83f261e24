//! The nft table `capsule`, written by netlink.
//!
//! Locking changes the policy of a chain that is always there, rather than adding and removing one: whenever a hook
//! goes away, the kernel drops all packets that wait in any queue of the namespace, and with them the held SYNs.
//!
//! The netlink socket stays open: closing one waits until the kernel has cleared away what the last transactions
//! replaced, 8 to 16 ms on Linux 6.18, where the transaction itself takes 20 µs.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::sync::OnceLock;

use rustix::net::netlink::NETFILTER;

use super::Interception;
use crate::limits::{INTERCEPT_V4, INTERCEPT_V6, MISSED_PORT_TIMEOUT_MS, PASS_LOCK_MARK, UNUSED_TCP_PORT};
use crate::netlink::{ACK, APPEND, Attributes, CREATE, EXCLUSIVE, Refused, Request, Socket};

mod expression;
mod routed;

use expression::Expressions;
pub(super) use routed::{create_routed, remove_routed};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const NEW_SET: u16 = SUBSYSTEM | 9;
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const SET_TIMEOUT: u16 = 11;
const DESCRIPTION_SIZE: u16 = 1;
const FLAG_TIMEOUT: u32 = 0x10;
const FLAG_EVAL: u32 = 0x20;
/// The type number by which `nft` shows ports.
const TYPE_PORT: u32 = 13;

const TABLE: &str = "capsule";
const GATE: &str = "gate";
const HOLD: &str = "hold";
const INTERCEPT: &str = "intercept";
const LOCK: &str = "lock";
const MISSED: &str = "missed";

const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
const PRIORITY_MANGLE: i32 = -150;
const PRIORITY_LOCK: i32 = -200;
/// Before `hold`: what was held once is past it.
const PRIORITY_GATE: i32 = PRIORITY_MANGLE - 1;
const POLICY_DROP: u32 = 0;
const POLICY_ACCEPT: u32 = 1;

/// How this kernel hands packets to a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum QueueBy {
    /// The `queue` expression.
    Nft,
    /// The NFQUEUE target of xtables, in an nft rule.
    Xtables,
    /// Not at all.
    Nothing,
}

/// Hands what a rule matches to a queue.
type HandOver = fn(&mut Expressions<'_, '_>, u16);

impl QueueBy {
    fn queue(self) -> Option<HandOver> {
        match self {
            QueueBy::Nft => Some(|rule, number| rule.queue(number)),
            QueueBy::Xtables => Some(|rule, number| rule.xtables_nfqueue(number)),
            QueueBy::Nothing => None,
        }
    }
}

/// Makes the table of a capsule in one transaction.
pub(super) fn create(interception: &Interception, locked: bool) -> Result<(), Refused> {
    if !interception.hold {
        return transact(&whole_table(interception, locked, QueueBy::Nothing));
    }
    with_queues(|by| whole_table(interception, locked, by)).map(drop)
}

/// Makes what `build` says in one transaction, with whichever way to hand packets to a queue this kernel has; false if it
/// has none.
fn with_queues(build: impl Fn(QueueBy) -> Request) -> Result<bool, Refused> {
    static KNOWN: OnceLock<QueueBy> = OnceLock::new();
    if let Some(&by) = KNOWN.get() {
        return transact(&build(by)).map(|()| by != QueueBy::Nothing);
    }
    for by in [QueueBy::Nft, QueueBy::Xtables, QueueBy::Nothing] {
        match transact(&build(by)) {
            Ok(()) => {
                // Another thread may have found out the same meanwhile.
                let _ = KNOWN.set(by);
                return Ok(by != QueueBy::Nothing);
            }
            Err(refused) if refused.what == QUEUE_RULE && is_unknown(&refused.source) => {}
            Err(refused) => return Err(refused),
        }
    }
    unreachable!("the last one has no rule for a queue")
}

/// Sets the policy of the lock chain.
pub(super) fn set_lock(locked: bool) -> Result<(), Refused> {
    set_policy("switch the lock", LOCK, if locked { POLICY_DROP } else { POLICY_ACCEPT })
}

/// Sets the policy of the gate chain.
pub(super) fn set_gate(shut: bool) -> Result<(), Refused> {
    set_policy("switch the gate", GATE, if shut { POLICY_DROP } else { POLICY_ACCEPT })
}

/// Whether there is the chain that holds, which is given the policy that it always has.
pub(super) fn holds() -> Result<bool, Refused> {
    match set_policy("look for the queues", HOLD, POLICY_ACCEPT) {
        Ok(()) => Ok(true),
        // EOPNOTSUPP without the chain, ENOENT without the table.
        Err(refused) if is_unknown(&refused.source) => Ok(false),
        Err(refused) => Err(refused),
    }
}

fn set_policy(what: &'static str, name: &str, policy: u32) -> Result<(), Refused> {
    transact(&batch(|request| {
        request.message(what, NEW_CHAIN, ACK, &family_header(), |chain| {
            chain.text(CHAIN_TABLE, TABLE);
            chain.text(CHAIN_NAME, name);
            chain.be32(CHAIN_POLICY, policy);
        });
    }))
}

/// Talks to nftables in the thread's namespace over the thread's own socket.
fn transact(request: &Request) -> Result<(), Refused> {
    thread_local! {
        static OPEN: RefCell<Option<(u64, Socket)>> = const { RefCell::new(None) };
    }
    // An open socket keeps its namespace, so the number is not used again.
    let here = rustix::fs::stat("/proc/thread-self/ns/net")
        .map_err(|error| Refused { what: "look at the thread's namespace", source: error.into() })?
        .st_ino;
    OPEN.with_borrow_mut(|open| {
        let socket = match open.take() {
            Some((inode, socket)) if inode == here => socket,
            _ => Socket::open(Some(NETFILTER)).map_err(Refused::of("open a netfilter netlink socket"))?,
        };
        let (_, socket) = open.insert((here, socket));
        socket.transact(request)
    })
}

const QUEUE_RULE: &str = "rule that holds SYNs (nft queue or xtables NFQUEUE)";

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP))
}

fn whole_table(interception: &Interception, locked: bool, by: QueueBy) -> Request {
    let &Interception { v4, v6, tcp_port, udp_port, .. } = interception;
    batch(|request| {
        let mut table = Table::create(request, TABLE);
        table.base_chain(LOCK, INPUT, PRIORITY_LOCK, if locked { POLICY_DROP } else { POLICY_ACCEPT });
        table.base_chain(INTERCEPT, PREROUTING, PRIORITY_MANGLE, POLICY_ACCEPT);
        table.base_chain(GATE, OUTPUT, PRIORITY_GATE, POLICY_ACCEPT);

        table.rule("rule for the lock's mark", LOCK, |rule| {
            rule.mark_is(PASS_LOCK_MARK);
            rule.accept();
        });

        table.remember_ports();
        table.accept_own(INTERCEPT, v4.into(), v6.into());
        table.intercept(INTERCEPT, tcp_port, udp_port);

        table.rule("rule for TCP connections", GATE, |rule| {
            rule.is_tcp_but_no_syn();
            rule.accept();
        });
        table.accept_own(GATE, v4.into(), v6.into());
        for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6] {
            table.rule("rule for what is no connection", GATE, |rule| {
                rule.protocol_is(protocol);
                rule.accept();
            });
        }
        let Some(queue) = by.queue() else { return };
        table.base_chain(HOLD, OUTPUT, PRIORITY_MANGLE, POLICY_ACCEPT);
        table.accept_own(HOLD, v4.into(), v6.into());
        table.rule(QUEUE_RULE, HOLD, |rule| {
            rule.is_syn();
            queue(rule, interception.queue);
        });
        for protocol in [libc::IPPROTO_ICMP, libc::IPPROTO_ICMPV6] {
            table.rule("rule that takes ICMP", HOLD, |rule| {
                rule.protocol_is(protocol);
                queue(rule, interception.icmp_queue);
            });
        }
    })
}

/// A table that is being made.
struct Table<'a> {
    request: &'a mut Request,
    name: &'static str,
}

impl<'a> Table<'a> {
    fn create(request: &'a mut Request, name: &'static str) -> Self {
        request.message("create nft table", NEW_TABLE, ACK | CREATE | EXCLUSIVE, &family_header(), |table| {
            table.text(TABLE_NAME, name);
        });
        Table { request, name }
    }

    /// Takes the place of a table of this name, if there is one.
    fn replace(request: &'a mut Request, name: &'static str) -> Self {
        for (kind, flags) in [(NEW_TABLE, ACK | CREATE), (DELETE_TABLE, ACK)] {
            request.message("replace nft table", kind, flags, &family_header(), |table| {
                table.text(TABLE_NAME, name);
            });
        }
        Table::create(request, name)
    }

    /// What goes to loopback or to a locator is none of the table's business.
    fn accept_own(&mut self, chain: &str, v4: IpAddr, v6: IpAddr) {
        self.rule("rule for IPv4 loopback", chain, |rule| {
            rule.destination_starts_with(&[127], libc::NFPROTO_IPV4);
            rule.accept();
        });
        self.rule("rule for IPv6 loopback", chain, |rule| {
            rule.destination_is(std::net::Ipv6Addr::LOCALHOST.into());
            rule.accept();
        });
        for locator in [v4, v6] {
            self.rule("rule for a locator", chain, |rule| {
                rule.destination_is(locator);
                rule.accept();
            });
        }
    }

    /// Gives TCP and UDP to the TPROXY sockets, and drops the rest.
    fn intercept(&mut self, chain: &str, tcp_port: u16, udp_port: u16) {
        // Nobody listens there: of these only what belongs to a connection is taken.
        for listener in [IpAddr::from(INTERCEPT_V4), INTERCEPT_V6.into()] {
            self.rule("rule for TCP connections", chain, |rule| {
                rule.is_tcp_but_no_syn();
                rule.tproxy(listener, libc::IPPROTO_TCP, UNUSED_TCP_PORT);
            });
        }
        self.rule("rule for a connection that was not found", chain, |rule| {
            rule.is_tcp_but_no_syn();
            rule.source_port_is_new_in(MISSED);
            rule.drop_packet();
        });
        for (listener, protocol, port) in [
            (IpAddr::from(INTERCEPT_V4), libc::IPPROTO_TCP, tcp_port),
            (INTERCEPT_V6.into(), libc::IPPROTO_TCP, tcp_port),
            (INTERCEPT_V4.into(), libc::IPPROTO_UDP, udp_port),
            (INTERCEPT_V6.into(), libc::IPPROTO_UDP, udp_port),
        ] {
            self.rule("tproxy rule", chain, |rule| rule.tproxy(listener, protocol, port));
        }
        self.rule("drop rule", chain, |rule| rule.drop_packet());
    }

    /// Source ports of TCP packets whose connection was not found.
    ///
    /// While the kernel puts a connection in the place of its half-open one, and a closing one in the place of the open
    /// one, another processor finds neither (`inet_ehash_insert` of Linux before 6.19 takes the old one out first). What it
    /// then has in hand is the program's first bytes as a rule, since the SYN was let through on another processor; the
    /// listener would answer them with a reset. One packet is dropped instead, and TCP sends it again. A second one has no
    /// connection.
    fn remember_ports(&mut self) {
        let name = self.name;
        let flags = ACK | CREATE | EXCLUSIVE;
        self.request.message("create nft set", NEW_SET, flags, &family_header(), |set| {
            set.text(SET_TABLE, name);
            set.text(SET_NAME, MISSED);
            set.be32(SET_FLAGS, FLAG_TIMEOUT | FLAG_EVAL);
            set.be32(SET_KEY_TYPE, TYPE_PORT);
            set.be32(SET_KEY_LENGTH, 2);
            set.nest(SET_DESCRIPTION, |description| description.be32(DESCRIPTION_SIZE, 1 << 16));
            set.be32(SET_ID, 1);
            set.put(SET_TIMEOUT, &MISSED_PORT_TIMEOUT_MS.to_be_bytes());
        });
    }

    /// A chain that is reached by jumps only.
    fn chain(&mut self, name: &str) {
        let (table, flags) = (self.name, ACK | CREATE | EXCLUSIVE);
        self.request.message("create nft chain", NEW_CHAIN, flags, &family_header(), |chain| {
            chain.text(CHAIN_TABLE, table);
            chain.text(CHAIN_NAME, name);
        });
    }

    fn base_chain(&mut self, name: &str, hook: u32, priority: i32, policy: u32) {
        let (table, flags) = (self.name, ACK | CREATE | EXCLUSIVE);
        self.request.message("create nft chain", NEW_CHAIN, flags, &family_header(), |chain| {
            chain.text(CHAIN_TABLE, table);
            chain.text(CHAIN_NAME, name);
            chain.nest(CHAIN_HOOK, |attributes| {
                attributes.be32(HOOK_NUMBER, hook);
                attributes.be32(HOOK_PRIORITY, priority.cast_unsigned());
            });
            chain.be32(CHAIN_POLICY, policy);
            chain.text(CHAIN_TYPE, "filter");
        });
    }

    fn rule(&mut self, name: &'static str, chain: &str, body: impl FnOnce(&mut Expressions<'_, '_>)) {
        let (table, flags) = (self.name, ACK | CREATE | APPEND);
        self.request.message(name, NEW_RULE, flags, &family_header(), |rule: &mut Attributes<'_>| {
            rule.text(RULE_TABLE, table);
            rule.text(RULE_CHAIN, chain);
            rule.nest(RULE_EXPRESSIONS, |list| body(&mut Expressions::new(list)));
        });
    }
}

fn batch(body: impl FnOnce(&mut Request)) -> Request {
    let mut request = Request::default();
    // struct nfgenmsg: family, version, and the subsystem in network byte order.
    let header = [0, 0, 0, (SUBSYSTEM >> 8) as u8];
    request.message("begin nft transaction", BATCH_BEGIN, 0, &header, |_| {});
    body(&mut request);
    request.message("commit nft transaction", BATCH_END, 0, &header, |_| {});
    request
}

/// `struct nfgenmsg` for the `inet` family.
fn family_header() -> [u8; 4] {
    [libc::NFPROTO_INET as u8, 0, 0, 0]
}
