//! Every bound of the admin protocol.

/// Longest payload of a frame, in bytes: a list of every session of a busy host
/// (some 300 bytes each) fits many times over.
pub const FRAME_BYTES_MAX: usize = 16 << 20;

/// Longest payload that a writer puts into one Stdin, Stdout or Stderr frame, in
/// bytes, so that a signal never waits behind more than this.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Most output that a server sends before it follows up with a Position, in
/// bytes: a client keeps the group in memory until the position arrives.
pub const GROUP_BYTES_MAX: usize = 1 << 20;

/// Longest piece of a capsule file in one File frame, in bytes: few system calls for much, little memory for many.
pub const FILE_CHUNK_BYTES: usize = 256 << 10;
