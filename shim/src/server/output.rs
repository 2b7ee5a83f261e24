use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use shim::limits::{CHUNK_BYTES, DRAIN_READS_MAX};
use shim::log::{Stream, Writer};

use crate::start::note;

/// The reading ends of the program's streams, and the log.
///
/// They are anonymous pipes, which CRIU can dump, and are always read, so that no program ever blocks on them.
pub(super) struct Output {
    log: Writer,
    out: Option<OwnedFd>,
    err: Option<OwnedFd>,
    buffer: Vec<u8>,
}

enum Pipe {
    Read,
    Empty,
    Closed,
}

impl Output {
    pub(super) fn open(dir: &Path) -> std::io::Result<Output> {
        Ok(Output { log: Writer::open(dir)?, out: None, err: None, buffer: vec![0; CHUNK_BYTES] })
    }

    /// Goes on with pipes that another shim had.
    pub(super) fn resume(dir: &Path, out: Option<OwnedFd>, err: Option<OwnedFd>) -> std::io::Result<Output> {
        Ok(Output { out, err, ..Output::open(dir)? })
    }

    /// The reading ends of both pipes.
    pub(super) fn ends(&self) -> (Option<BorrowedFd<'_>>, Option<BorrowedFd<'_>>) {
        (self.out.as_ref().map(AsFd::as_fd), self.err.as_ref().map(AsFd::as_fd))
    }

    /// Makes new pipes in the place of the old ones; returns their writing ends.
    pub(super) fn renew(&mut self) -> std::io::Result<(Stdio, Stdio)> {
        self.drain();
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        self.out = Some(out_read);
        self.err = Some(err_read);
        Ok((Stdio::from(out_write), Stdio::from(err_write)))
    }

    pub(super) fn pipes(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Stream)> {
        let out = self.out.as_ref().map(|fd| (fd.as_fd(), Stream::Out));
        let err = self.err.as_ref().map(|fd| (fd.as_fd(), Stream::Err));
        out.into_iter().chain(err)
    }

    /// Moves what is there into the log, once.
    pub(super) fn read(&mut self, stream: Stream) {
        self.read_once(stream);
    }

    /// Empties both pipes into the log. Bounded, should somebody still write.
    pub(super) fn drain(&mut self) {
        for stream in [Stream::Out, Stream::Err] {
            for _ in 0..DRAIN_READS_MAX {
                if !matches!(self.read_once(stream), Pipe::Read) {
                    break;
                }
            }
        }
    }

    /// Throws away what the pipes hold, and the pipes.
    pub(super) fn discard(&mut self) {
        self.out = None;
        self.err = None;
    }

    fn read_once(&mut self, stream: Stream) -> Pipe {
        let end = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        let Some(fd) = end else { return Pipe::Closed };
        match rustix::io::retry_on_intr(|| rustix::io::read(&*fd, self.buffer.as_mut_slice())) {
            Ok(0) => *end = None,
            Ok(bytes) => {
                // A full disk must not stop the program: what can't be written is lost, and said so.
                if let Err(error) = self.log.append(stream, self.buffer.get(..bytes).unwrap_or_default()) {
                    note(&format!("{bytes} bytes of output lost: {error}"));
                }
                return Pipe::Read;
            }
            Err(Errno::AGAIN) => return Pipe::Empty,
            Err(error) => {
                note(&format!("reading the program's output: {error}"));
                *end = None;
            }
        }
        Pipe::Closed
    }
}

/// A pipe whose reading end does not block; the program's end does.
fn pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK)?;
    Ok((read, write))
}
