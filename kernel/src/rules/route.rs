//! Addresses and routes of a capsule's namespace, by rtnetlink.
//!
//! Locators and loopback are in the `local` table, as always. Foreign addresses are local too (AnyIP), but in a
//! table of their own that only TCP, UDP and ICMP are sent to, so that binding to one fails as it would on any machine. All else
//! finds the unreachable default of the main table: EHOSTUNREACH from `connect` and `sendto` themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::{PASS_LOCK_MARK, ROUTED_MARK};
use crate::netlink::{ACK, Attributes, CREATE, EXCLUSIVE, Refused, Request, Socket};

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;

/// Index of `lo`: the first device of every namespace.
const LOOPBACK: u32 = 1;
const TABLE_LOCAL: u8 = 255;
const TABLE_MAIN: u8 = 254;
const TABLE_FOREIGN: u8 = 100;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_HOST: u8 = 254;
const ORIGIN_STATIC: u8 = 4;
const TYPE_LOCAL: u8 = 2;
const TYPE_UNREACHABLE: u8 = 7;
const RULE_TO_TABLE: u8 = 1;
/// Between the rule of the `local` table (0) and that of the main table (32766).
const RULE_PRIORITY_TCP: u32 = 100;
const RULE_PRIORITY_INJECTED: u32 = 101;
const RULE_PRIORITY_UDP: u32 = 102;
const RULE_PRIORITY_ICMP: u32 = 103;

const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_IP_PROTO: u16 = 22;

/// Brings `lo` up with the locators and lays the routes, all in one message.
pub(super) fn set_up(v4: Ipv4Addr, v6: Ipv6Addr) -> Result<(), Refused> {
    let mut request = Request::default();
    link_up(&mut request);
    for locator in [IpAddr::V4(v4), IpAddr::V6(v6)] {
        add_address(&mut request, locator);
        if locator.is_ipv6() {
            route_locator(&mut request, locator);
        }
        route_foreign(&mut request, locator);
        refuse_the_rest(&mut request, locator);
        add_rule(&mut request, "rule for TCP", locator, RULE_PRIORITY_TCP, |rule| {
            rule.put(FRA_IP_PROTO, &[libc::IPPROTO_TCP as u8]);
        });
        add_rule(&mut request, "rule for UDP", locator, RULE_PRIORITY_UDP, |rule| {
            rule.put(FRA_IP_PROTO, &[libc::IPPROTO_UDP as u8]);
        });
        let icmp = if locator.is_ipv6() { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
        add_rule(&mut request, "rule for ICMP", locator, RULE_PRIORITY_ICMP, |rule| {
            rule.put(FRA_IP_PROTO, &[icmp as u8]);
        });
        // Raw packets are not TCP to the routing code.
        add_rule(&mut request, "rule for injected segments", locator, RULE_PRIORITY_INJECTED, |rule| {
            rule.put(FRA_FWMARK, &PASS_LOCK_MARK.to_ne_bytes());
            rule.put(FRA_FWMASK, &u32::MAX.to_ne_bytes());
        });
    }
    let mut socket = Socket::open(None).map_err(Refused::of("open a route netlink socket"))?;
    socket.transact(&request)
}

/// MTU of `lo` after something was restored: as large as IPv4 allows, and another than that of a fresh namespace
/// (65,536, of which IPv4 uses 65,535).
const MTU_RESTORED_BYTES: u32 = 65_534;

/// Has every connection work out its segments again. One that was rebuilt under TCP_REPAIR, by CRIU too, sends 524 bytes
/// at a time, since TCP_REPAIR_OPTIONS comes after the size was derived; the kernel derives it anew when the MTU of the
/// route is another than before (tcp_current_mss).
pub(super) fn refresh_segment_sizes() -> Result<(), Refused> {
    let mut request = Request::default();
    let mut header = vec![0; 4];
    header.extend_from_slice(&LOOPBACK.to_ne_bytes());
    header.extend_from_slice(&[0; 8]);
    request.message("set the MTU of lo", NEW_LINK, ACK, &header, |link| {
        link.put(IFLA_MTU, &MTU_RESTORED_BYTES.to_ne_bytes());
    });
    let mut socket = Socket::open(None).map_err(Refused::of("open a route netlink socket"))?;
    socket.transact(&request)
}

/// Where both rules of a gateway stand: before the main table, behind what a host may have of its own.
const RULE_PRIORITY_MARKED: u32 = 32_000;

/// Has what carries the mark of a gateway be for this host.
pub(super) fn take_marked() -> Result<(), Refused> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        marked("take what is marked", [NEW_ROUTE, NEW_RULE], ACK | CREATE | EXCLUSIVE, family, libc::EEXIST)?;
    }
    Ok(())
}

/// Takes that back.
pub(super) fn leave_marked() -> Result<(), Refused> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        for kind in [DELETE_ROUTE, DELETE_RULE] {
            marked("leave what is marked", [kind], ACK, family, libc::ENOENT)?;
        }
    }
    Ok(())
}

/// Adds or removes the route of everything in the table of the mark, and the rule that leads there, one by one: each may be
/// as it should be already, which is the error `fine`.
fn marked<const N: usize>(
    name: &'static str,
    kinds: [u16; N],
    flags: u16,
    family: i32,
    fine: i32,
) -> Result<(), Refused> {
    let family = family as u8;
    let mut socket = Socket::open(None).map_err(Refused::of("open a route netlink socket"))?;
    for kind in kinds {
        let mut request = Request::default();
        match kind {
            NEW_ROUTE | DELETE_ROUTE => {
                let header = route_header(family, 0, SCOPE_HOST, TYPE_LOCAL);
                request.message(name, kind, flags, &header, |route| {
                    route.put(RTA_TABLE, &ROUTED_MARK.to_ne_bytes());
                    route.put(RTA_OIF, &LOOPBACK.to_ne_bytes());
                });
            }
            _ => {
                let header = [family, 0, 0, 0, 0, 0, 0, RULE_TO_TABLE, 0, 0, 0, 0];
                request.message(name, kind, flags, &header, |rule| {
                    rule.put(FRA_PRIORITY, &RULE_PRIORITY_MARKED.to_ne_bytes());
                    rule.put(FRA_TABLE, &ROUTED_MARK.to_ne_bytes());
                    rule.put(FRA_FWMARK, &ROUTED_MARK.to_ne_bytes());
                    rule.put(FRA_FWMASK, &u32::MAX.to_ne_bytes());
                });
            }
        }
        match socket.transact(&request) {
            Err(refused) if is_fine(&refused, fine) => {}
            done => done?,
        }
    }
    Ok(())
}

/// Whether that is how it should be. ESRCH is what the kernel says of a route that is not there, ENOENT of a rule, and
/// EAFNOSUPPORT of a family that it lacks.
fn is_fine(refused: &Refused, fine: i32) -> bool {
    let number = refused.source.raw_os_error();
    number == Some(fine)
        || number == Some(libc::EAFNOSUPPORT)
        || fine == libc::ENOENT && number == Some(libc::ESRCH)
}

fn link_up(request: &mut Request) {
    let up = (libc::IFF_UP as u32).to_ne_bytes();
    let mut header = vec![0; 4];
    header.extend_from_slice(&LOOPBACK.to_ne_bytes());
    header.extend_from_slice(&up);
    header.extend_from_slice(&up);
    request.message("bring lo up", NEW_LINK, ACK, &header, |_| {});
}

fn add_address(request: &mut Request, locator: IpAddr) {
    let (family, length, bytes) = parts(locator);
    let mut header = vec![family, length, IFA_F_NODAD, SCOPE_UNIVERSE];
    header.extend_from_slice(&LOOPBACK.to_ne_bytes());
    request.message("add a locator to lo", NEW_ADDRESS, ACK | CREATE | EXCLUSIVE, &header, |address| {
        address.put(IFA_LOCAL, &bytes);
        address.put(IFA_ADDRESS, &bytes);
    });
}

/// The kernel makes this route for an IPv6 address by itself, but later, in a work queue, even without duplicate
/// address detection. Until then what is sent to the locator vanishes.
fn route_locator(request: &mut Request, locator: IpAddr) {
    let (family, length, bytes) = parts(locator);
    let mut header = route_header(family, TABLE_LOCAL, SCOPE_UNIVERSE, TYPE_LOCAL);
    header[1] = length;
    request.message("route a locator to lo", NEW_ROUTE, ACK | CREATE | EXCLUSIVE, &header, |route| {
        route.put(RTA_DST, &bytes);
        route.put(RTA_OIF, &LOOPBACK.to_ne_bytes());
    });
}

fn route_foreign(request: &mut Request, locator: IpAddr) {
    let (family, _, bytes) = parts(locator);
    let header = route_header(family, TABLE_FOREIGN, SCOPE_HOST, TYPE_LOCAL);
    request.message("route foreign addresses to lo", NEW_ROUTE, ACK | CREATE | EXCLUSIVE, &header, |route| {
        route.put(RTA_OIF, &LOOPBACK.to_ne_bytes());
        route.put(RTA_PREFSRC, &bytes);
    });
}

fn refuse_the_rest(request: &mut Request, locator: IpAddr) {
    let (family, _, _) = parts(locator);
    let header = route_header(family, TABLE_MAIN, SCOPE_UNIVERSE, TYPE_UNREACHABLE);
    request.message("make the rest unreachable", NEW_ROUTE, ACK | CREATE | EXCLUSIVE, &header, |route| {
        // IPv6 wants a metric below that of its own null route.
        route.put(RTA_PRIORITY, &1u32.to_ne_bytes());
        if family == libc::AF_INET6 as u8 {
            route.put(RTA_OIF, &LOOPBACK.to_ne_bytes());
        }
    });
}

fn add_rule(
    request: &mut Request,
    name: &'static str,
    locator: IpAddr,
    priority: u32,
    selector: impl FnOnce(&mut Attributes<'_>),
) {
    let (family, _, _) = parts(locator);
    let header = [family, 0, 0, 0, TABLE_FOREIGN, 0, 0, RULE_TO_TABLE, 0, 0, 0, 0];
    request.message(name, NEW_RULE, ACK | CREATE | EXCLUSIVE, &header, |rule| {
        rule.put(FRA_PRIORITY, &priority.to_ne_bytes());
        rule.put(FRA_TABLE, &u32::from(TABLE_FOREIGN).to_ne_bytes());
        selector(rule);
    });
}

/// A default route's `struct rtmsg`.
fn route_header(family: u8, table: u8, scope: u8, kind: u8) -> [u8; 12] {
    [family, 0, 0, 0, table, ORIGIN_STATIC, scope, kind, 0, 0, 0, 0]
}

/// Address family, prefix length of a single address, and the address's bytes.
fn parts(address: IpAddr) -> (u8, u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, 32, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, 128, v6.octets().to_vec()),
    }
}
