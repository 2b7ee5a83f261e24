//! Sysctls of a capsule's namespace: fixed, because nobody carries them along in a move.

use std::fs;
use std::io;

use super::RulesError;

/// Files under `/proc/sys/net`, their values, and whether a kernel without them will do.
const VALUES: &[(&str, &str, Need)] = &[
    // What connections negotiate has to be the same wherever they are rebuilt.
    ("ipv4/tcp_timestamps", "1", Need::Required),
    ("ipv4/tcp_sack", "1", Need::Required),
    ("ipv4/tcp_window_scaling", "1", Need::Required),
    // ECN can't be given back to a rebuilt connection.
    ("ipv4/tcp_ecn", "0", Need::Required),
    ("ipv4/tcp_rmem", "4096 131072 6291456", Need::Required),
    ("ipv4/tcp_wmem", "4096 16384 4194304", Need::Required),
    // A program that sent and closed leaves its bytes to the kernel, which must not give them up in a hold.
    ("ipv4/tcp_orphan_retries", "255", Need::Required),
    ("ipv4/tcp_retries2", "255", Need::Required),
    // A connect to a capsule that is away waits. Repeats come every second, so none is late when it is back.
    ("ipv4/tcp_syn_retries", "127", Need::Required),
    ("ipv4/tcp_syn_linear_timeouts", "127", Need::Optional),
    // The far side reuses its ports; the mirror of its socket must be able to follow at once.
    ("ipv4/tcp_tw_reuse", "1", Need::Required),
    ("ipv4/tcp_tw_reuse_delay", "1", Need::Optional),
    // Pauses of a session say nothing about `lo`.
    ("ipv4/tcp_slow_start_after_idle", "0", Need::Optional),
    ("ipv4/tcp_no_metrics_save", "1", Need::Optional),
    // BBR slows down every ten seconds to measure a round trip, which means nothing on `lo`. Where the host does not
    // allow CUBIC to namespaces, Reno, which every kernel does, is as good there.
    ("ipv4/tcp_congestion_control", "reno", Need::Optional),
    ("ipv4/tcp_congestion_control", "cubic", Need::Optional),
    ("ipv4/conf/all/rp_filter", "0", Need::Required),
    ("ipv4/conf/lo/rp_filter", "0", Need::Required),
    ("ipv6/conf/all/disable_ipv6", "0", Need::Required),
    ("ipv6/conf/lo/disable_ipv6", "0", Need::Required),
    // Whoever may open a socket may ping, as most distributions have it.
    ("ipv4/ping_group_range", "0 2147483647", Need::Optional),
    // CRIU can't dump MPTCP sockets, which some runtimes open by default.
    ("mptcp/enabled", "0", Need::Optional),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    Required,
    Optional,
}

/// Writes all values for the namespace of the calling thread.
pub(super) fn set_all() -> Result<(), RulesError> {
    for &(file, value, need) in VALUES {
        let path = format!("/proc/sys/net/{file}");
        match fs::write(&path, value) {
            Err(_) if need == Need::Optional => {}
            Err(source) => return Err(RulesError::Sysctl { path, source: explain(source) }),
            Ok(()) => {}
        }
    }
    Ok(())
}

fn explain(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::ReadOnlyFilesystem {
        return io::Error::new(
            error.kind(),
            "/proc/sys is read-only: run the sidecar with /proc/sys writable",
        );
    }
    error
}
