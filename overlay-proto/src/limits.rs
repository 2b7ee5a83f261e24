//! Every bound of the protocol, with its unit and the reason for its size.

/// Lowest wire version that this build speaks.
pub const VERSION_MIN: u32 = 2;

/// Highest wire version that this build speaks.
pub const VERSION_MAX: u32 = 2;

/// Bytes of one control frame without its length. The largest, an attach, needs about 150; the rest is room for
/// fields of later versions, and small enough that a peer can't make a host set aside memory.
pub const FRAME_BYTES_MAX: usize = 4 * 1024;

/// Bytes of a stream header without its length: three ids and five numbers at most, with room to grow.
pub const STREAM_HEADER_BYTES_MAX: usize = 256;

/// Bytes of the length in front of a frame or stream header (u32, big endian).
pub const LENGTH_BYTES: usize = 4;

/// Bytes of an encoded half snapshot. Needs about 150; a decoder refuses more.
pub const SNAPSHOT_BYTES_MAX: usize = 4 * 1024;

/// Bytes delivered and not reported after which a half reports by itself. A quarter of the smallest receive
/// buffer in use (512 KiB), so that the other side's window never closes for want of a report.
pub const REPORT_BYTES: u64 = 128 * 1024;

/// Time in milliseconds that a program may take nothing while a RST waits behind bytes for it. Plain TCP would
/// hand the RST over at once; this leaves a live reader time to take what came before.
pub const RESET_STALL_MS: u64 = 1_000;

/// Data streams per half that the shell keeps while their attach is not agreed yet: only the newest can be of use.
pub const STREAMS_KEPT_MAX: usize = 1;

/// Attach frames per half kept while the directory is asked: only the newest can be of use.
pub const ATTACHES_KEPT_MAX: usize = 1;

/// Actions that one input can leave to be polled: two stops, two starts, two frames, consume, discard, apply, hold
/// agreed, ended, ask and a report. The shell polls until empty after every input.
pub const ACTIONS_MAX: usize = 16;

/// Sessions of one capsule. 20,000 open files per sidecar allow about 9,900 sessions in all; one capsule gets most.
pub const SESSIONS_PER_CAPSULE_MAX: usize = 8_192;

/// Ended sessions remembered per capsule, so that a repeated OPEN does not start one again. Covers a burst of
/// short connections during one lost link.
pub const TOMBSTONES_PER_CAPSULE_MAX: usize = 1_024;

/// Bytes of a name: a DNS label (RFC 1035, section 2.3.4).
pub const NAME_BYTES_MAX: usize = 63;

/// Bytes of the payload of a datagram: 65,535 less the headers of IPv4 and UDP (RFC 768).
pub const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Bytes by which a host knows a datagram again that comes back: nobody guesses 128 bits.
pub const DATAGRAM_TAG_BYTES: usize = 16;

/// Bytes of an encoded datagram: the payload, two addresses of about 25, the tag, and room for fields of later versions.
pub const DATAGRAM_MESSAGE_BYTES_MAX: usize = DATAGRAM_BYTES_MAX + 256;
