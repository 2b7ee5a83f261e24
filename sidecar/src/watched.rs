//! Descriptors watched by the runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor watched by the runtime of the calling task.
pub(crate) type Watched = AsyncFd<OwnedFd>;

/// Watches a nonblocking descriptor for reading, writing and errors.
///
/// # Errors
/// The runtime can't watch it.
#[allow(
    unsafe_code,
    reason = "the safe constructor is deprecated for types that may lie about their descriptor"
)]
pub(crate) fn watch(fd: OwnedFd) -> io::Result<Watched> {
    let interest = Interest::READABLE | Interest::WRITABLE | Interest::ERROR;
    // SAFETY: an `OwnedFd` owns a valid descriptor, and it is not replaced or closed while the `AsyncFd` has it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// Waits until there may be something to read from what is watched; for ever if there is nothing.
pub(crate) async fn readable<T>(watched: &Option<(T, Watched)>) {
    match watched {
        Some((_, ready)) => {
            if let Ok(mut ready) = ready.readable().await {
                ready.clear_ready();
            }
        }
        None => std::future::pending().await,
    }
}
