//! Every bound of the directory's interface.

use std::time::Duration;

/// Longest request, bytes: an assertion of about 20,000 capsules at 200 bytes each.
pub const REQUEST_BYTES_MAX: usize = 4 << 20;

/// Longest answer, bytes: a list of about 100,000 capsules at 200 bytes each.
pub const RESPONSE_BYTES_MAX: usize = 32 << 20;

/// Records in one piece of a snapshot.
pub const SNAPSHOT_CHUNK_RECORDS: usize = 256;

/// Changes that wait between the client's watch and its reader, entries. A slow reader holds the stream back.
pub const WATCH_QUEUE: usize = 1024;

/// How long one call may take with all its attempts, unless told otherwise.
pub const CALL_TIME: Duration = Duration::from_secs(10);

/// How long one attempt may take before the connection is given up: long against a slow disk, short against a
/// directory that was started anew and does not know the old connection.
pub const ATTEMPT_TIME: Duration = Duration::from_secs(3);

/// How long a handshake with one address may take.
pub const CONNECT_TIME: Duration = Duration::from_secs(2);

/// How long a directory that lives may take to acknowledge a request, without answering it, before another one is asked;
/// four times the round trip where that is longer. QUIC acknowledges within 25 ms, and repeats what was lost.
pub const SILENCE_TIME: Duration = Duration::from_millis(400);

/// How long nothing may be heard of the directory while its changes are watched: it is pinged every three seconds.
pub const WATCH_SILENCE_TIME: Duration = Duration::from_millis(4_500);

/// Head start of one directory's handshake before the next one's.
pub const CONNECT_HEAD_START: Duration = Duration::from_millis(250);

/// Addresses of directories that a host knows.
pub const DIRECTORIES_MAX: usize = 256;

/// First pause between two attempts.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(20);

/// Longest pause between two attempts.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Largest UDP payload a link tries. Above about 6,550 bytes a batch of ten exceeds what one `sendmsg` with GSO takes
/// (64 KiB); quinn-udp then drops it silently (measured November 2026).
pub const MTU_MAX: u16 = 6_500;

/// UDP socket buffers, bytes each way. The kernel's default lost about 5,000 packets per GiB, this none (measured
/// November 2026).
pub const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Longest join token, characters: the longest zone, host and eight owners need 1,250.
pub const TOKEN_CHARACTERS_MAX: usize = 2048;

/// Longest name of a person that is kept, characters: Linux takes 32.
pub const USER_NAME_CHARACTERS_MAX: usize = 64;

/// Bytes of `/etc/passwd` that are read for a user's name: some 100,000 users.
pub const USER_FILE_BYTES_MAX: u64 = 8 << 20;

/// Longest certificate chain, certificates.
pub const CHAIN_LENGTH_MAX: usize = 4;

/// Most CA certificates that a host trusts at a time: the old root and the new one while it is being replaced, and room
/// for one that an interrupted replacement left.
pub const ANCHORS_MAX: usize = 3;
