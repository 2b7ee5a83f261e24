//! Bounds of the file work, each with its unit and reason.

/// Entries of one listing. At about 200 bytes each this bounds a listing to 400 MB; a capsule with more files
/// belongs on a shared volume.
pub const LISTING_ENTRIES_MAX: usize = 2_000_000;

/// Digests kept for files that did not change. A host's base has some 100,000 files of which capsules map a few
/// hundred; the cache is emptied when it is full.
pub const DIGESTS_CACHED_MAX: usize = 65_536;

/// Bytes of an ELF file that are searched for its build id: CRIU looks no further either
/// (`BUILD_ID_MAP_SIZE` in its `files-reg.c`).
pub const BUILD_ID_SEARCH_BYTES_MAX: usize = 1 << 20;

/// Symlinks followed in one path, the kernel's own limit (path_resolution(7)).
pub const SYMLINKS_MAX: usize = 40;

/// Repeats of a lookup that raced with a rename (`EAGAIN` of openat2(2)).
pub const LOOKUP_ATTEMPTS_MAX: usize = 16;

/// Nanoseconds by which a time stamp may seem older than the clock that was read before it. Stamps come from the
/// tick's clock, and the longest tick of a kernel is 10 ms (HZ = 100).
pub const STAMP_SLACK_NANOSECONDS: i128 = 10_000_000;

/// The same for file systems that keep whole seconds only (ext4 with inodes of 128 bytes, ext3).
pub const STAMP_SLACK_WHOLE_SECONDS_NANOSECONDS: i128 = 1_000_000_000;

/// Bytes copied at once between rsync and the socket.
pub const CONNECT_BUFFER_BYTES: usize = 256 << 10;

/// Bytes of a piece of the list of what is to be removed at the target. The list comes from another host and is kept
/// in memory by pieces; one holds some 10,000 paths, and the longest path by far.
pub const REMOVALS_PIECE_BYTES: usize = 1 << 20;

/// Paths to be removed in one round: a private layer has no more.
pub const REMOVALS_MAX: usize = LISTING_ENTRIES_MAX;
