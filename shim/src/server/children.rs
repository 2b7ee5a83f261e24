use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
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
///
/// It starts in the network namespace of whoever asked for it. In the capsule's, which is locked during a restore, a
/// CRIU that looks at the kernel would wait minutes for the TCP connection that it makes to itself.
pub(super) fn spawn(mut command: Command, network: OwnedFd) -> io::Result<Pid> {
    before_exec(&mut command, move || enter(&network, LinkNameSpaceType::Network));
    let child = command.env_clear().env("PATH", PATH).spawn()?;
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| io::Error::other("a child without a process id"))
}

/// Makes a command start in a time namespace of its own (runc 1.1 does not know that kind).
pub(super) fn in_new_time_namespace(command: &mut Command) {
    before_exec(command, || {
        // SAFETY: descriptor tables are not unshared.
        #[allow(unsafe_code, reason = "a system call that std lacks")]
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWTIME) }?;
        enter(&open_namespace(c"/proc/self/ns/time_for_children")?, LinkNameSpaceType::Time)
    });
}

/// The network namespace of a process.
pub(super) fn network_of(pid: Pid) -> io::Result<OwnedFd> {
    let path = CString::new(format!("/proc/{}/ns/net", pid.as_raw_nonzero())).map_err(io::Error::other)?;
    open_namespace(&path)
}

fn open_namespace(path: &CStr) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn enter(namespace: &OwnedFd, kind: LinkNameSpaceType) -> io::Result<()> {
    Ok(rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}

/// `act` may only make system calls, and must not allocate.
fn before_exec(command: &mut Command, act: impl FnMut() -> io::Result<()> + Send + Sync + 'static) {
    // SAFETY: all callers are in this file, and keep to the line above; the shim has one thread anyway.
    #[allow(unsafe_code, reason = "std has no namespaces")]
    unsafe {
        command.pre_exec(act);
    }
}
