//! Every bound of the shim.

/// Bytes of one message; a SEQPACKET message must fit the socket's send buffer (212,992 by default).
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;
/// Descriptors that ride on one message (the kernel's own limit is 253).
pub const MESSAGE_FDS_MAX: usize = 64;
/// Clients connected at once.
pub const CLIENTS_MAX: usize = 256;
/// Bytes of the name of a held session.
pub const SESSION_NAME_BYTES_MAX: usize = 128;
/// Sockets held for the sidecar.
pub const HELD_MAX: usize = 1 << 16;
/// Connections accepted at once: they ride on one message.
pub const ACCEPTED_MAX: usize = MESSAGE_FDS_MAX;
/// Bytes taken from a pipe at once; also the most that one line of the log carries.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Bytes of the log before it is put aside; the one put aside before is lost, so twice this is kept at most.
pub const LOG_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes of one line of the log: each byte of a chunk may need six (`\u0000`), and the frame around it.
pub const LOG_LINE_BYTES_MAX: usize = CHUNK_BYTES * 6 + 256;
/// Bytes told of what runc had to say.
pub const ERROR_TAIL_BYTES: u64 = 4096;
/// Ended children remembered while it is not known yet which one is the program.
pub const EARLY_EXITS_MAX: usize = 64;
/// Pipe reads in a row when a pipe is emptied after a freeze: more than any pipe holds.
pub const DRAIN_READS_MAX: usize = 4096;
