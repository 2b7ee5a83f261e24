//! The far end of rsync's "remote shell": a program that joins its standard input and output to a Unix socket.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::files::limits;

/// The first argument by which rsync calls the binary that must answer with [`connect_stdio`] on its second
/// argument; it ignores all further ones.
pub const CONNECT_MODE: &str = "rsync-connect";

/// Joins standard input and output to a socket until both directions have ended.
pub fn connect_stdio(socket: &Path) -> io::Result<()> {
    join(UnixStream::connect(socket)?, io::stdin(), io::stdout())
}

pub(in crate::files) fn join(
    socket: UnixStream,
    input: impl Read + Send + 'static,
    output: impl Write,
) -> io::Result<()> {
    let sending = socket.try_clone()?;
    // The thread is not waited for: when the other side has ended there is nobody left to send to, while the
    // input may stay open as long as rsync likes.
    std::thread::Builder::new().name("to-socket".into()).spawn(move || {
        // A broken pipe here is seen by the reading side as well, as the end of the stream.
        let _ = pump(input, &sending);
        let _ = sending.shutdown(Shutdown::Write);
    })?;
    pump(&socket, output)
}

pub(in crate::files) fn pump(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut buffer = vec![0; limits::CONNECT_BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return to.flush(),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                // Standard output is buffered by lines, and rsync waits for each message.
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
