//! The nft table of a gateway: what machines outside send to locators, taken out of the host's own network.
//!
//! ```text
//!  prerouting  hold       a TCP SYN from a machine to a locator waits in the SYN queue, a ping in the ICMP queue
//!  prerouting  intercept  what else goes from a machine to a locator jumps to `routed`; nothing else may go there
//!              routed     TCP and UDP go to the TPROXY sockets, ICMP errors to the connections that they are about
//! ```

use ipnet::IpNet;

use super::{
    DELETE_TABLE, POLICY_ACCEPT, PREROUTING, PRIORITY_MANGLE, QUEUE_RULE, QueueBy, Table, batch, is_unknown,
    transact, with_queues,
};
use crate::limits::ROUTED_MARK;
use crate::netlink::{ACK, Refused, Request};
use crate::rules::Routed;

const TABLE: &str = "capsule-gateway";
const HOLD: &str = "hold";
const INTERCEPT: &str = "intercept";
const ROUTED: &str = "routed";

/// Before `intercept`: what was held goes on to that.
const PRIORITY_HOLD: i32 = PRIORITY_MANGLE - 1;

/// Echo request (RFC 792, RFC 4443).
const ECHO: [(i32, u8); 2] = [(libc::IPPROTO_ICMP, 8), (libc::IPPROTO_ICMPV6, 128)];

/// Unreachable and time exceeded, with IPv6 packet too big: by them a connection finds out how large packets may be, and
/// that nobody is there any more.
const ERRORS: [(i32, u8); 5] = [
    (libc::IPPROTO_ICMP, 3),
    (libc::IPPROTO_ICMP, 11),
    (libc::IPPROTO_ICMPV6, 1),
    (libc::IPPROTO_ICMPV6, 2),
    (libc::IPPROTO_ICMPV6, 3),
];

/// Makes the table, or puts it in the place of an old one, in one transaction. False if the kernel has no queues.
pub(in crate::rules) fn create_routed(routed: &Routed) -> Result<bool, Refused> {
    with_queues(|by| whole_table(routed, by))
}

/// Removes the table, if there is one.
pub(in crate::rules) fn remove_routed() -> Result<(), Refused> {
    let removed = transact(&batch(|request| {
        request.message("remove nft table", DELETE_TABLE, ACK, &super::family_header(), |table| {
            table.text(super::TABLE_NAME, TABLE);
        });
    }));
    match removed {
        Err(refused) if is_unknown(&refused.source) => Ok(()),
        removed => removed,
    }
}

fn whole_table(routed: &Routed, by: QueueBy) -> Request {
    batch(|request| {
        let mut table = Table::replace(request, TABLE);
        table.remember_ports();
        table.chain(ROUTED);
        table.base_chain(INTERCEPT, PREROUTING, PRIORITY_MANGLE, POLICY_ACCEPT);
        for (machines, locators) in pairs(routed) {
            table.rule("rule for machines", INTERCEPT, |rule| {
                rule.source_is_in(machines);
                rule.destination_is_in(locators);
                rule.jump(ROUTED);
            });
        }
        for locators in &routed.locators {
            table.rule("drop rule", INTERCEPT, |rule| {
                rule.destination_is_in(*locators);
                rule.drop_packet();
            });
        }
        // By this mark what is taken is for this host.
        table.rule("rule that marks", ROUTED, |rule| rule.set_mark(ROUTED_MARK));
        for (protocol, kind) in ERRORS {
            table.rule("rule for ICMP errors", ROUTED, |rule| {
                rule.icmp_is(protocol, kind);
                rule.accept();
            });
        }
        table.intercept(ROUTED, routed.tcp_port, routed.udp_port);

        let Some(queue) = by.queue() else { return };
        table.base_chain(HOLD, PREROUTING, PRIORITY_HOLD, POLICY_ACCEPT);
        for (machines, locators) in pairs(routed) {
            table.rule(QUEUE_RULE, HOLD, |rule| {
                rule.source_is_in(machines);
                rule.destination_is_in(locators);
                rule.is_syn();
                queue(rule, routed.queue);
            });
            for (protocol, kind) in ECHO {
                table.rule("rule that takes pings", HOLD, |rule| {
                    rule.source_is_in(machines);
                    rule.destination_is_in(locators);
                    rule.icmp_is(protocol, kind);
                    queue(rule, routed.icmp_queue);
                });
            }
        }
    })
}

/// Which machines may send to which locators: those of the same family.
fn pairs(routed: &Routed) -> impl Iterator<Item = (IpNet, IpNet)> + '_ {
    let of_family = |machines: &IpNet| {
        let v4 = machines.addr().is_ipv4();
        let machines = *machines;
        routed.locators.iter().filter(move |net| net.addr().is_ipv4() == v4).map(move |net| (machines, *net))
    };
    routed.machines.iter().flat_map(of_family)
}
