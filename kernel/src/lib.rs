//! Everything that is asked of the Linux kernel, and nothing else: no sessions, no policy, no async runtime.
//!
//! ```text
//!  netns    a namespace kept alive by a descriptor, and a thread that stays inside it
//!  rules    what makes a namespace a capsule's: addresses, routes, sysctls, interception, the lock
//!  syn      connection attempts, held until somebody decides
//!  udp      datagrams to and from foreign addresses
//!  icmp     pings of foreign addresses, and errors for what came from them
//!  tcp      the sidecar's own ends: listen, dial, peek, consume, reset
//!  repair   an open connection as a value: captured here, rebuilt there
//!  user_timeout  how long a program lets bytes wait in its own connections
//!  diag     which sockets the namespace has, and whether a process owns them
//!  changes  the host's own addresses, and word of a change
//!  clocks   the host slept, or this process stood still
//! ```
//!
//! All calls are synchronous and all descriptors are non-blocking and close-on-exec. A function that makes a socket
//! makes it in the network namespace of the calling thread: run it on a [`netns::Worker`].
//!
//! Traffic inside a capsule's namespace takes one of three ways. What goes to loopback or to the capsule's own
//! locators stays inside, untouched. TCP to any other address is routed to `lo`, its first segment is held in the
//! SYN queue, and the rest is handed to the TPROXY listener; UDP is handed to a TPROXY socket, ICMP waits in a queue of
//! its own. Everything else has no route: EHOSTUNREACH.

pub mod changes;
pub mod clocks;
pub mod diag;
pub mod icmp;
pub mod limits;
pub mod netns;
pub mod repair;
pub mod rules;
pub mod syn;
pub mod tcp;
pub mod udp;
pub mod user_timeout;

mod inject;
mod netlink;
mod queue;
mod sockopt;
