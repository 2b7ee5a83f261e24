use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, WaitStatus};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A descriptor that is readable when a child has ended.
pub(super) fn watch() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is used, the descriptor is new and owned by nobody.
    #[allow(unsafe_code, reason = "rustix has no signalfd")]
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Empties the descriptor; several ended children may be one signal.
pub(super) fn acknowledge(signals: &OwnedFd) {
    let mut info = [0_u8; size_of::<libc::signalfd_siginfo>() * 4];
    while matches!(rustix::io::read(signals, &mut info), Ok(1..)) {}
}

/// The exit code as shells tell it.
pub(super) fn exit_code(status: WaitStatus) -> i32 {
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or_default())
}

/// Starts a child with nothing of the shim's environment; its signal mask is empty, as std sees to.
pub(super) fn spawn(mut command: Command) -> io::Result<Pid> {
    let child = command.env_clear().env("PATH", PATH).spawn()?;
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::Error::other("a child without a process id"))
}

/// Makes a command start in a time namespace of its own (runc 1.1 does not know that kind).
pub(super) fn in_new_time_namespace(command: &mut Command) {
    // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
    #[allow(unsafe_code, reason = "std has no namespaces")]
    unsafe {
        command.pre_exec(|| {
            rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME)?;
            let time = rustix::fs::open(
                c"/proc/self/ns/time_for_children",
                rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
                rustix::fs::Mode::empty(),
            )?;
            rustix::thread::move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&time),
                Some(LinkNameSpaceType::Time),
            )?;
            Ok(())
        });
    }
}
