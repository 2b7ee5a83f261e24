//! Every bound of the format, with its unit and reason.

/// Bytes of a section in one frame: enough for zstd to find what repeats, little enough to be held many times over.
pub const CHUNK_BYTES: usize = 1 << 20;

/// Stored bytes of a frame: what zstd makes of incompressible bytes is a little longer than they are.
pub const STORED_BYTES_MAX: usize = CHUNK_BYTES + CHUNK_BYTES / 128 + 1024;

/// Bytes of a manifest: thousands of base files of some hundred bytes each.
pub const MANIFEST_BYTES_MAX: usize = 64 << 20;

/// Bytes of the name of a section: a file name.
pub const NAME_BYTES_MAX: usize = 255;

/// Level of compression: faster than most disks, and memory images are mostly zeros and text.
pub const ZSTD_LEVEL: i32 = 3;

/// Work factor of a passphrase that is still tried, as a power of two: a few seconds of a slow machine.
pub const SCRYPT_LOG_N_MAX: u8 = 22;
