//! Every bound of the directory.

use std::time::Duration;

/// Changes kept for watchers that resume, entries. Who comes later than that gets a snapshot.
pub const HISTORY_CHANGES: usize = 8_192;

/// Changes sent to one watcher before its progress is looked at again, entries.
pub const WATCH_BATCH: usize = 256;

/// Commands that wait for the writer, entries. Behind that, callers wait to hand theirs over.
pub const WRITER_QUEUE: usize = 4_096;

/// Commands that share one commit, and so one `fsync`.
pub const COMMIT_BATCH: usize = 256;

/// How often leases are looked at.
pub const LEASE_TICK: Duration = Duration::from_millis(500);

/// QUIC connections, all together.
pub const CONNECTIONS_MAX: usize = 10_000;

/// QUIC connections of clients without a certificate: they can only join.
pub const CONNECTIONS_JOINING_MAX: usize = 64;

/// How long a client without a certificate may stay.
pub const JOINING_TIME: Duration = Duration::from_secs(10);

/// How long a request may take to arrive in full.
pub const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How long a DNS client over TCP may be quiet, or take to receive an answer.
pub const DNS_TCP_IDLE: Duration = Duration::from_secs(10);

/// DNS connections over TCP, and as many again over TLS. Others wait in the kernel's queue.
pub const DNS_TCP_CONNECTIONS_MAX: usize = 512;

/// How long a DNS client over QUIC may be quiet.
pub const DNS_QUIC_IDLE: Duration = Duration::from_secs(10);

/// Longest DNS query over UDP, bytes: a question has at most 271, with EDNS options some hundred more.
pub const DNS_QUERY_BYTES_MAX: usize = 2_048;

/// Most threads that answer DNS over UDP.
pub const DNS_THREADS_MAX: usize = 64;

/// How often an idle DNS thread looks whether it should stop.
pub const DNS_STOP_CHECK: Duration = Duration::from_millis(200);

/// Encoded answers kept, entries: two for each of 100,000 capsules. One has some 150 bytes, with signatures 400.
pub const CACHE_ANSWERS_MAX: usize = 1 << 18;

/// Locks of the answers kept: more than there are threads, so that two rarely want the same.
pub const CACHE_SHARDS: usize = 64;

/// Signatures kept, entries of about 100 bytes: those of all records of 100,000 capsules.
pub const SIGNATURES_MAX: usize = 1 << 20;

/// Locks of the signatures kept.
pub const SIGNATURE_SHARDS: usize = 16;

/// Networks whose rates are told apart, entries of 8 bytes. Two that share one share its rate.
pub const RATE_NETWORKS: usize = 1 << 16;

/// How much of its rate a network may use up at once.
pub const RATE_BURST: Duration = Duration::from_secs(2);

/// Transfers to secondaries under way. Each has a copy of the facts, some 60 MiB with 100,000 capsules.
pub const TRANSFERS_MAX: usize = 2;

/// Records in one message of a transfer before it is sent, entries: some 12 KiB, for names are compressed against the first
/// 16 KiB of a message only.
pub const TRANSFER_MESSAGE_RECORDS: usize = 100;

/// How often at most a secondary is told that the zones changed: it fetches all of them each time.
pub const NOTIFY_EVERY: Duration = Duration::from_secs(2);

/// How often a secondary that does not answer is told of one change.
pub const NOTIFY_ATTEMPTS: u32 = 3;

/// How long a secondary may take to answer.
pub const NOTIFY_TIME: Duration = Duration::from_secs(1);

/// Shortest secret shared with a secondary, bytes: half the length of HMAC-SHA256's output (RFC 8945, section 8).
pub const SECRET_BYTES_MIN: usize = 16;

/// Secondaries, entries.
pub const SECONDARIES_MAX: usize = 16;

/// Keys that may change records of capsules, entries.
pub const UPDATERS_MAX: usize = 1_024;

/// Updates by DNS over UDP that are under way; others get no answer, so that the asker comes again. Over TCP each
/// connection has one at a time.
pub const DNS_UPDATES_MAX: usize = 64;

/// Records in the two sections of an update, entries: what one capsule may have, removed and added, with room to spare.
pub const DNS_UPDATE_RECORDS_MAX: usize = 256;

/// Records that owners may add to one capsule, entries.
pub const EXTRA_RECORDS_MAX: usize = 32;

/// Bytes of all records that were added to one capsule: a signed answer with all of them still fits into a few packets.
pub const EXTRA_BYTES_MAX: usize = 4_096;

/// Labels of an added record's name below its capsule's: `_service._proto` and two more.
pub const EXTRA_LABELS_MAX: usize = 4;

/// Longest time that an added record may be kept by others, seconds: it outlives its capsule there.
pub const EXTRA_TTL_MAX_S: u32 = 3_600;

/// How often the key file and the signatures' period are looked at.
pub const KEYS_TICK: Duration = Duration::from_secs(1);

/// How long what a directory wrote of its hosts' readiness for another root counts: some looks, each a second apart.
pub const UPTAKE_FRESH: Duration = Duration::from_secs(10);

/// How often what a supervisor is shown of the directory is looked at.
pub const STATUS_EVERY: Duration = Duration::from_secs(5);

/// How often a directory that cannot renew its issuer tries again, and says so.
pub const ISSUER_AGAIN: Duration = Duration::from_secs(3600);

/// How long the writer, which is asked at each [`LEASE_TICK`], may be silent before the process counts as broken: longer
/// than an `fsync` takes on a disk that is busy.
pub const WRITER_SILENCE_MAX: Duration = Duration::from_secs(10);

/// How often a store that failed is tried again when nobody wants a change.
pub const STORE_RETRY: Duration = Duration::from_secs(2);

/// Largest DNS answer over UDP, bytes: fits a packet of 1,280 bytes (DNS flag day 2020).
pub const DNS_UDP_BYTES: u16 = 1_232;

/// Connections to the HTTP port, all together.
pub const HTTP_CONNECTIONS_MAX: usize = 64;

/// Longest HTTP request head, bytes.
pub const HTTP_HEAD_BYTES_MAX: usize = 8 << 10;

/// How long an HTTP exchange may take.
pub const HTTP_TIME: Duration = Duration::from_secs(5);

/// How long open requests may take to finish when the directory stops.
pub const STOP_TIME: Duration = Duration::from_secs(3);

/// Longest life of a join token.
pub const TOKEN_LIFE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);

/// Rules of the policy. Hosts read all of them at each connect, which takes some 20 µs with as many, and a snapshot has
/// about 100 bytes of each.
pub const RULES_MAX: usize = 1_024;

/// Bytes of one file of the audit log, about 80,000 entries; a fresh one is begun behind that.
pub const AUDIT_FILE_BYTES_MAX: u64 = 16 << 20;

/// Files of the audit log, all together.
pub const AUDIT_FILES_MAX: usize = 8;

/// Characters that the passphrase of the root's key needs: with scrypt in front of them, more than anybody can try.
pub const PASSPHRASE_CHARACTERS_MIN: usize = 12;

/// Largest work that opening the root's key may take, log2: some ten seconds. age makes files that take about one.
pub const SCRYPT_LOG_N_MAX: u8 = 22;

/// Largest backup, bytes; one of 100,000 capsules has some 20 MiB.
pub const BACKUP_BYTES_MAX: u64 = 1 << 30;

/// How long the running directory may take to give the facts to a backup.
pub const BACKUP_TIME: Duration = Duration::from_secs(60);

/// How far the revision is moved on when a restore is settled, beyond the highest that a host has seen: for what was
/// handed out and seen by no host that lives, such as 190 changes a second for a day when all hosts were started anew. The
/// serial of the zones may move by less than 2³¹ at once (RFC 1982).
pub const RESTORED_REVISIONS_AHEAD: u64 = 1 << 24;

/// Highest revision or generation that a host may assert: far above what any directory reaches, and far below where
/// counting on would end.
pub const ASSERTED_NUMBER_MAX: u64 = 1 << 62;

/// Hosts that a restored directory waits for, entries; as many as may be connected.
pub const HOST_AWAITED_MAX: usize = CONNECTIONS_MAX;

/// Owners that one join token may name, entries: as many fit into the longest token, however long their names are.
pub const TOKEN_OWNERS_MAX: usize = 8;

/// Places at which etcd is looked for; clusters have three or five members.
pub const ETCD_ENDPOINTS_MAX: usize = 16;

/// Facts in one transaction of etcd, keys. It takes 128 operations (`--max-txn-ops`) and 1.5 MiB (`--max-request-bytes`);
/// a fact has at most some 2 KiB and is sent twice.
pub const ETCD_TRANSACTION_KEYS_MAX: usize = 100;

/// How long a commit to etcd may take with all its attempts: less than a client waits for its answer
/// ([`directory_api::limits::ATTEMPT_TIME`]), so that it hears why. A change of etcd's leader takes one to two seconds.
pub const ETCD_COMMIT_TIME: Duration = Duration::from_millis(2_500);

/// How long one call of etcd may take before it is made again.
pub const ETCD_CALL_TIME: Duration = Duration::from_secs(1);

/// How long reading what others have just committed may delay an answer that could be given from memory.
pub const ETCD_LATEST_TIME: Duration = Duration::from_millis(500);

/// How long etcd may take to give everything, or to be found, when a directory starts.
pub const ETCD_LOAD_TIME: Duration = Duration::from_secs(30);

/// Pause between two attempts at etcd.
pub const ETCD_PAUSE: Duration = Duration::from_millis(50);

/// Pause before the stream of news is opened again.
pub const ETCD_WATCH_PAUSE: Duration = Duration::from_millis(100);

/// How often a silent connection to etcd is tried, and how long it may take to answer.
pub const ETCD_KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Rows in one answer of etcd when everything is loaded: some 500 KiB.
pub const ETCD_PAGE_ROWS: i64 = 1_000;

/// Commits of others that are read one by one; who missed more loads everything.
pub const ETCD_GAP_COMMITS_MAX: usize = 1_024;

/// How often etcd's past is compacted, up to where it was at the last time. The directory needs none of it but to fill a
/// gap, and etcd stops taking writes at 2 GiB.
pub const ETCD_COMPACT_EVERY: Duration = Duration::from_secs(300);

/// How often a directory looks whether it is still in the list of those that serve: soon enough that who took it off by
/// mistake harms nobody, since hosts keep their connections.
pub const ADVERTISE_EVERY: Duration = Duration::from_secs(2);

/// Directories of one mesh, entries.
pub const DIRECTORIES_MAX: usize = 32;

/// How often the same commands are evaluated again because other directories committed first. One of them gets on each
/// time, so with two at full load a commit needs two attempts on average; behind this many something is wrong.
pub const OVERTAKEN_MAX: u32 = 200;
