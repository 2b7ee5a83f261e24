//! Network namespaces: made without a mount, kept alive by a descriptor, and entered by a thread that stays inside.
#![allow(unsafe_code, reason = "unshare is unsafe in rustix for the sake of other flags")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// A network namespace, alive as long as a clone of this (or a process or socket inside) is.
#[derive(Clone, Debug)]
pub struct Netns(Arc<OwnedFd>);

impl Netns {
    /// Makes a new, empty namespace.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN; ENOSPC when the kernel's limit on namespaces is reached.
    pub fn create() -> io::Result<Netns> {
        let maker = thread::Builder::new().name("netns-maker".into()).spawn(|| {
            // SAFETY: NEWNET changes the network namespace of this thread only; no descriptor table is unshared.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            Netns::of_this_thread()
        })?;
        maker.join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// The namespace that the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn of_this_thread() -> io::Result<Netns> {
        File::open("/proc/thread-self/ns/net").map(|file| Netns(Arc::new(file.into())))
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// ENOENT when there is no such process.
    pub fn of_process(pid: u32) -> io::Result<Netns> {
        File::open(format!("/proc/{pid}/ns/net")).map(|file| Netns(Arc::new(file.into())))
    }

    /// Takes a descriptor of a namespace, as passed by another process.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Netns {
        Netns(Arc::new(fd))
    }

    /// The descriptor that stands for the namespace.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The inode number of the namespace, unique on this kernel while it lives.
    #[must_use]
    pub fn inode(&self) -> u64 {
        rustix::fs::fstat(&*self.0).map(|stat| stat.st_ino).unwrap_or_default()
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread that has entered a namespace and runs what it is given, in order. It ends with the last clone.
#[derive(Clone, Debug)]
pub struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts a thread inside `netns`.
    ///
    /// # Errors
    /// When the thread can't be made or may not enter the namespace.
    pub fn start(netns: &Netns) -> io::Result<Worker> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, has_entered) = mpsc::sync_channel(1);
        let netns = netns.clone();
        thread::Builder::new().name("netns-worker".into()).spawn(move || {
            let outcome = move_into_link_name_space(netns.fd(), Some(LinkNameSpaceType::Network));
            drop(netns);
            let inside = outcome.is_ok();
            // The starter waits for this message; it can't be gone.
            let _ = entered.send(outcome);
            if inside {
                for job in queue {
                    // A panic is the submitter's own; `run` carries it back, and the thread serves others.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            }
        })?;
        has_entered.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))??;
        Ok(Worker { jobs })
    }

    /// Runs `work` inside the namespace and waits for its result. Must not be called from the worker itself.
    ///
    /// # Panics
    /// When `work` panics.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::sync_channel(1);
        self.submit(move || {
            let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
        });
        match result.recv().expect("the worker runs every job to its end") {
            Ok(value) => value,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Runs `work` inside the namespace, some time soon.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        self.jobs.send(Box::new(work)).expect("the worker lives as long as its senders");
    }
}
