//! Every bound of the sidecar, with its unit and reason.

use std::time::Duration;

/// Connections that one machine outside may have at a gateway at once, unless configured: more than any browser or pool of
/// connections has, and few enough that no machine alone fills the gateway.
pub const GATEWAY_MACHINE_CONNECTIONS: usize = 1024;

/// Pause between looks whether a connection that was accepted first, and is on its way to a capsule, has been given up.
pub const OUTSIDE_LOOK: Duration = Duration::from_millis(200);

/// UDP flows of machines outside at one published port that are known at once; one more is taken from a machine that has
/// others only, of which one makes room.
pub const OUTSIDE_FLOWS_MAX: usize = 16_384;

/// Time after which a flow of a machine outside that no program has answered is forgotten: whoever forges the addresses of
/// datagrams fills the table for no longer than this. (As netfilter's `nf_conntrack_udp_timeout`.)
pub const OUTSIDE_FLOW_UNANSWERED: Duration = Duration::from_secs(30);

/// Time after which this host's outlet is tried to be made again: connects that come meanwhile wait, and ask nobody.
pub const OUTLET_RETRY: Duration = Duration::from_secs(1);

/// Time that the directory gets to say whether it knows the gateway of an earlier sidecar, whose connections wait meanwhile.
pub const GATEWAY_ASKED: Duration = Duration::from_secs(1);

/// Time between tries to register a gateway while the directory does not answer.
pub const GATEWAY_RETRY: Duration = Duration::from_secs(2);

/// Chunks that a stream between two halves on one host may hold: enough to keep both sides busy, little enough
/// that backpressure reaches the writing program at once.
pub const LOCAL_STREAM_CHUNKS: usize = 4;

/// Bytes peeked from a program's connection or read from a stream at a time. Large enough that a system call
/// per chunk is cheap, small enough that one session does not keep the others waiting.
pub const READ_CHUNK_BYTES: usize = 256 * 1024;

/// First size of a session's peek buffer; it grows to [`READ_CHUNK_BYTES`] with the bytes moved, so that idle
/// sessions stay small.
pub const PEEK_BYTES_MIN: usize = 4 * 1024;

/// Bytes of a program that nobody wants, dropped at a time: little enough that the others get their turn.
pub const DISCARD_BYTES: usize = 1 << 20;

/// Control frames that wait for a session's driver. Frames per session are few: more than this is a fault.
pub const MAILBOX_EVENTS: usize = 256;

/// Control frames that wait to be written to a link.
pub const LINK_FRAMES: usize = 65_536;

/// Streams and frames that may come for a session before its program's connection is there.
pub const EARLY_EVENTS: usize = 8;

/// Streams of one session that may wait for their session to know their attach.
pub const EARLY_STREAMS: usize = 4;

/// Time without room at a program after which its stream is dropped until there is: shorter, and readers that are
/// merely slow would have bytes sent twice; longer, and stalled sessions keep a link's window from the others.
pub const PARK_AFTER: Duration = Duration::from_secs(1);

/// Streams on one host that may wait for programs before each gets less time than [`PARK_AFTER`]: full to the brim, so
/// many take half of a link's window.
pub const PARK_STREAMS: u32 = 16;

/// The least time that a stream gets before it is parked, however many wait: a program that reads needs far less.
pub const PARK_SOONEST: Duration = Duration::from_millis(20);

/// Time after which delivered bytes are reported at the latest; much is reported at once by the core.
pub const REPORT_DELAY: Duration = Duration::from_millis(2);

/// Bytes of a capture that are passed on at once.
pub const TAP_CHUNK_BYTES: usize = 64 * 1024;

/// Memory in the kernel for packets that tcpdump has not taken yet, in KiB, as its option takes it: some milliseconds of
/// the fastest stream.
pub const TAP_BUFFER_KIB: &str = "8192";

/// Bytes that are kept of what tcpdump says beside a capture: a few lines.
pub const TAP_WORDS_BYTES: u64 = 16 * 1024;

/// Pauses between looks whether a program has accepted its connection: first and longest.
pub const ACCEPT_LOOK_FIRST: Duration = Duration::from_millis(1);
/// See [`ACCEPT_LOOK_FIRST`].
pub const ACCEPT_LOOK_LONGEST: Duration = Duration::from_millis(100);

/// Time that establishing a link may take before the next try.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(3);

/// Pause between looks for the other host's link, for which ours was closed. A round trip later it is up.
pub const DIAL_RACE_LOOK: Duration = Duration::from_millis(10);

/// Pause between looks at the links: short against the time in which a person notices a break.
pub const LINK_LOOK: Duration = Duration::from_millis(250);

/// A link is silent when nothing came for this much longer than the other host is quiet by choice. Another one is
/// dialled beside it then, since its own repeats come ever later while packets are lost.
pub const LINK_SILENCE_MARGIN: Duration = Duration::from_secs(1);

/// Time, and round trips more, in which a link must be heard whose way may have changed.
pub const PROBE_TIME: Duration = Duration::from_millis(500);
/// See [`PROBE_TIME`].
pub const PROBE_ROUND_TRIPS: u32 = 4;

/// Time that the host's network gets to settle after a change: an address, its routes and its carrier come one by one.
pub const SETTLE_NETWORK: Duration = Duration::from_millis(30);

/// The host slept, or this process stood still, when more time passed between two looks than was to: little against
/// what other hosts notice, much against what a busy machine does.
pub const STANDSTILL: Duration = Duration::from_secs(2);

/// Time that the directory's DNS gets where the answer is known from its watch as well, which it may have outlived.
pub const DNS_PATIENCE: Duration = Duration::from_millis(500);

/// Head start that one directory's DNS has before the next one is asked beside it: a round trip between continents takes
/// less.
pub const DNS_HEAD_START: Duration = Duration::from_millis(200);

/// Time for which a silent directory is not waited for again where the answer is known.
pub const DNS_SILENCE: Duration = Duration::from_secs(5);

/// Frames of hosts where the peer is not known to be that may wait for the directory's word.
pub const CHECKS: usize = 1024;

/// Pauses between tries to reach the host of a session's other half: first and longest.
pub const RETRY_FIRST: Duration = Duration::from_millis(50);
/// See [`RETRY_FIRST`]. It is most of what a session waits for after a partition heals.
pub const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// A reset from the far program is passed on when the near program has taken all bytes before it, or after this
/// time without progress.
pub const RESET_GRACE: Duration = Duration::from_secs(1);

/// Receive buffer that a session begins with and comes back to when it is idle, as the kernel counts memory: twice what
/// Linux begins with, since its autotuning does not see peeked data.
pub const BUFFER_FIRST_BYTES: u64 = 256 * 1024;

/// Receive buffer that every session has, whatever the budgets say: with less, segments of `lo` would not fit.
pub const BUFFER_BYTES_MIN: u64 = 64 * 1024;

/// Receive buffer of one session at most, unless it is configured: bandwidth times round trip, 8 Gbit/s over 8 ms.
pub const BUFFER_SESSION_BYTES: u64 = 8 * 1024 * 1024;

/// Part of a host's memory that is the budget of all receive buffers, unless it is configured: a third of what Linux
/// gives all TCP sockets (`tcp_mem`, 3/32 of memory); beyond that it would drop what arrives and end orphans.
pub const BUFFER_HOST_PART: u64 = 32;

/// Part of the host's budget that is the budget of one capsule, unless it is configured.
pub const BUFFER_CAPSULE_PART: u64 = 2;

/// Part of what is left of a budget that one session may take, so that there is something left for the next ones
/// (Choudhury and Hahne, "Dynamic queue length thresholds", 1998).
pub const BUFFER_SHARE: u64 = 8;

/// Time without a byte after which a session's receive buffer goes back to [`BUFFER_FIRST_BYTES`].
pub const BUFFER_IDLE: Duration = Duration::from_secs(10);

/// Bytes that may wait unsent in the send queue towards a program that does not read; what is more waits at the other
/// side, where it is counted. Between programs on one host nothing is gained by more.
pub const UNSENT_BYTES: u32 = 32 * 1024;

/// Sessions that may write to a link at once what they have much of; the others take turns in the order in which they came,
/// with no more than [`PEEK_BYTES_MIN`] in hand. A link keeps far fewer busy. What is shorter than that goes at once.
pub const LINK_TURNS: usize = 64;

/// Time for which the other side of a session is away before a TCP_USER_TIMEOUT of its program is put aside: longer
/// than a move takes in general, shorter than what a program would set.
pub const ASIDE_AFTER: Duration = Duration::from_millis(500);

/// Time for which nothing that was sent was taken, and nothing heard of the other host, before it counts as away: longer
/// than [`PARK_AFTER`], after which a host that is there tells of a program that does not read.
pub const UNANSWERED_AFTER: Duration = Duration::from_millis(1250);

/// Time in which the sessions of a capsule gather that want their programs' sockets looked for.
pub const ASIDE_GATHER: Duration = Duration::from_millis(20);

/// Pauses between looks whether a TCP_USER_TIMEOUT can be given back: first and longest.
pub const ASIDE_LOOK_FIRST: Duration = Duration::from_millis(50);
/// See [`ASIDE_LOOK_FIRST`].
pub const ASIDE_LOOK_LONGEST: Duration = Duration::from_secs(1);

/// Sessions of one capsule on one host: as many descriptors as its shim may hold.
pub const SESSIONS_MAX: u32 = 60_000;

/// Bytes of the record of one session: addresses, ids, generations and ends, with room for what later versions add.
pub const SLOT_BYTES: usize = 512;

/// Ended sessions that are remembered, so that a repeated frame gets the answer that it got before.
pub const TOMBSTONES: usize = 4096;

/// Time that the program's end of an accepted connection may take to show up at the listener.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which it is looked, and looked again, whether the socket is still there whose connect was let through: the
/// handshake takes microseconds.
pub const OPENED_LOOK: Duration = Duration::from_millis(50);

/// Time that a handshake within this host gets when its capsule is about to leave: a hundred times what a busy kernel
/// puts it off for, and well below [`SHUT_TIMEOUT`].
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_millis(500);
/// Pause between looks for it.
pub const HANDSHAKE_LOOK: Duration = Duration::from_millis(1);

/// Time that a connect which passed the gate before it was shut gets to reach the listener, where it is reset: a handshake
/// within this host takes microseconds, and what a busy kernel puts off for longer is reset when it comes, before the
/// capsule is locked.
pub const GATE_SETTLE: Duration = Duration::from_millis(10);

/// Time that a host stays unreachable before a held connect is told so, about what a router takes.
pub const UNREACHABLE_AFTER: Duration = Duration::from_secs(4);

/// Time after which a connect that is still being decided may have been given up by its program: a look costs some ten
/// microseconds, which the usual connect is spared.
pub const GIVEN_UP_LOOK: Duration = Duration::from_millis(100);

/// Time that a connect to a suspended capsule waits: a little more than the 127 repetitions of its SYN, one each second,
/// that its program's kernel makes before it gives up.
pub const SUSPENDED_CONNECT: Duration = Duration::from_secs(130);

/// Time that the rest of an earlier connection between the same addresses gets to go away.
pub const SUPERSEDE_TIMEOUT: Duration = Duration::from_secs(2);

/// Time that a program's own kernel takes to answer a dial at most.
pub const DELIVER_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest message of a move's conversation, in bytes: thousands of base files.
pub const MOVE_MESSAGE_BYTES: usize = 16 << 20;

/// Files of a CRIU image: about one for each process and kind of object.
pub const IMAGE_FILES_MAX: usize = 65_536;

/// Bytes of an image: more than any host here has memory.
pub const IMAGE_BYTES_MAX: u64 = 1 << 42;

/// Bytes of the sessions of one capsule, with all that their queues hold.
pub const SESSIONS_BYTES_MAX: u64 = 1 << 34;

/// Time that dials under way may take before a capsule leaves without them.
pub const QUIESCE_TIMEOUT: Duration = Duration::from_millis(300);

/// Time that giving up the dials that are left after that may take; it takes as long as a task waits for its turn.
pub const SHUT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time that what is on its way inside a capsule's network may take to arrive after the pause. It takes
/// microseconds on loopback; only an acknowledgement that a frozen kernel delays takes longer, and that may be late.
pub const SETTLE_TIMEOUT: Duration = Duration::from_millis(5);

/// A round of private files that sent fewer than this was the last one worth its time before the freeze.
pub const FEW_FILES: usize = 8;

/// Rounds of private files that are sent while the capsule runs, at most.
pub const FILE_ROUNDS: usize = 4;

/// Time between two questions for the policy that denied connects cause: short against what a program that may connect
/// since a moment ago notices, long enough that capsules that are denied again and again don't load the directory.
pub const POLICY_ASK_PAUSE: Duration = Duration::from_millis(20);

/// How long that question may take: a connect that is denied while the directory is away waits no longer.
pub const POLICY_CALL: Duration = Duration::from_secs(1);

/// Time between two questions for a host that is not known here: hosts that were removed may knock as often as they like.
pub const MEMBER_ASK_PAUSE: Duration = Duration::from_millis(100);

/// How long that question may take: less than whoever dials waits ([`DIAL_TIMEOUT`]).
pub const MEMBER_CALL: Duration = Duration::from_secs(2);

/// How long `inspect` waits for the directory's word on a capsule's DNS records, without which it shows all the rest.
pub const RECORDS_CALL: Duration = Duration::from_secs(1);

/// Datagrams too large for a QUIC DATAGRAM frame that may be under way on one link in one direction, each at most 64 KiB:
/// four megabytes, as much as quinn keeps of the small ones.
pub const LARGE_DATAGRAMS: usize = 64;

/// Such datagrams that are taken from one link at once: twice as many, since a sender's count goes down when the last packet
/// is acknowledged, a little before the datagram is read.
pub const LARGE_DATAGRAMS_TAKEN: usize = 2 * LARGE_DATAGRAMS;

/// Time that such a datagram may take: what comes later is of no use to anybody.
pub const LARGE_DATAGRAM_TIMEOUT: Duration = Duration::from_secs(5);

/// UDP flows of one capsule that are known at once: more than a program has sockets. The one that was quiet the longest
/// makes room for another.
pub const FLOWS_MAX: usize = 16_384;

/// Time after which a flow without a datagram is forgotten (RFC 4787, requirement 5: at least two minutes, five by
/// default).
pub const FLOW_IDLE: Duration = Duration::from_secs(300);

/// Machines outside that are seen under their own addresses, of which a host knows by which gateway they came; the one that
/// was not heard for the longest makes room for another.
pub const MACHINES_MAX: u64 = 65_536;

/// Ports of a host from which datagrams of capsules go outside, at once: each has a socket here, watched, and in the shim.
pub const EXITS_MAX: usize = 8192;

/// The same of one capsule.
pub const EXITS_OF_CAPSULE_MAX: usize = 1024;

/// Pause between looks for flows that are to be forgotten.
pub const FLOW_LOOK: Duration = Duration::from_secs(5);

/// Bytes of datagrams that wait on one host for one capsule to be there, or to send on; each counts with
/// [`DATAGRAM_OVERHEAD_BYTES`]. Ten seconds at 3 Mbit/s.
pub const DATAGRAMS_WAITING_BYTES: usize = 4 << 20;

/// What a waiting datagram costs beside its payload.
pub const DATAGRAM_OVERHEAD_BYTES: usize = 256;

/// Milliseconds that a datagram waits unless configured: longer than the pause of all but the largest moves, and than a program
/// waits for an answer.
pub const DATAGRAM_WAIT_MS: u64 = 30_000;

/// Destinations for which datagrams of one capsule wait at once.
pub const DATAGRAM_DESTINATIONS: usize = 1024;

/// Times that a datagram may come back because its capsule is elsewhere: it is moved from host to host less often while
/// one is under way.
pub const DATAGRAM_RETURNS: u32 = 8;

/// Datagrams of all capsules that wait for the directory's word about their sender, or about the policy.
pub const DATAGRAM_CHECKS: usize = 1024;

/// Datagrams taken from a program at a time, so that other tasks of the data plane have their turn.
pub const DATAGRAMS_AT_ONCE: usize = 64;

/// Time that one upstream resolver may take for a query.
pub const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// Head start that one upstream resolver has before the next one is asked beside it: a name that nobody asked for lately
/// mostly takes less.
pub const UPSTREAM_HEAD_START: Duration = Duration::from_secs(1);

/// Time after which a name outside of the zone counts as not to be found out: less than the five seconds after which the C
/// library asks again (resolv.conf(5), timeout).
pub const UPSTREAM_PATIENCE: Duration = Duration::from_secs(4);

/// Upstream resolvers that are asked: as many as the C library takes (resolv.conf(5), MAXNS).
pub const UPSTREAM_SERVERS: usize = 3;

/// Time after which the file that names the host's resolver is looked at again.
pub const UPSTREAM_LOOK: Duration = Duration::from_secs(1);

/// Memory for answers of the upstream resolver, of all capsules of a host, in bytes: some ten thousand names.
pub const ANSWERS_BYTES: u64 = 4 << 20;

/// Longest time for which such an answer is kept: what it says may be wrong, and then is so for a day at most.
pub const ANSWER_TTL_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Longest time for which it is kept that there is no such name or record (RFC 2308, 5: one to three hours).
pub const NO_ANSWER_TTL_MAX: Duration = Duration::from_secs(60 * 60);

/// Lookups by datagram of one capsule that wait for an answer: as many as the resolver asks at once.
pub const LOOKUPS_UNDER_WAY: usize = 256;

/// Lookups that go along in a move: more than the programs of one capsule begin in the few milliseconds around its freeze.
pub const LOOKUPS_CARRIED: usize = 64;

/// Length of a query that goes along, in bytes. Queries are far shorter; without EDNS this is the limit (RFC 1035, 4.2.1).
pub const LOOKUP_CARRIED_BYTES: usize = 512;

/// Connections to the resolver that go along. Programs have few: most lookups go by datagram.
pub const LOOKUP_CONNECTIONS_CARRIED: usize = 64;

/// Bytes in such a connection, both ways: a longest answer is about 64 KiB, but programs of which that much waits unread
/// when they are frozen have asked too much at once.
pub const LOOKUP_CONNECTION_BYTES: usize = 16 << 10;

/// Time that connections to the resolver get to be parked, which takes each of them one turn of the data plane.
pub const LOOKUPS_PARKED: Duration = Duration::from_millis(250);

/// Time before the freeze of a move in which programs may read what waits in their UDP sockets, which no image has.
/// Nothing more is delivered meanwhile, so a program that reads at all needs far less.
pub const DATAGRAM_DRAIN: Duration = Duration::from_millis(20);

/// Pause between looks whether they have.
pub const DATAGRAM_DRAIN_LOOK: Duration = Duration::from_millis(1);

/// Time for which a datagram waits for a capsule that does not run: its program may have begun and sent something before
/// its host told the directory, which takes milliseconds, and the answer must not be lost.
pub const START_GRACE: Duration = Duration::from_secs(1);

/// Time between two leases while the directory puts together what happened since a backup: people wait for that.
pub const RESTORE_LOOK: Duration = Duration::from_secs(1);
