//! Socket options and ioctls that neither socket2 nor rustix have.
#![allow(unsafe_code, reason = "getsockopt, setsockopt, ioctl and a recv without a buffer")]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Values that are valid whatever their bytes are.
///
/// # Safety
/// Implementors are integers, or `repr(C)` aggregates of integers without padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: integers and arrays of them.
unsafe impl Plain for i32 {}
// SAFETY: integers and arrays of them.
unsafe impl Plain for u32 {}
// SAFETY: integers and arrays of them.
unsafe impl<const N: usize> Plain for [u32; N] {}
// SAFETY: integers and arrays of them.
unsafe impl<const N: usize> Plain for [u8; N] {}

/// Reads an option; what the kernel leaves out stays zero.
pub(crate) fn get<T: Plain>(fd: BorrowedFd<'_>, level: i32, option: i32) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has `length` writable bytes, and the kernel writes no more.
    let outcome = unsafe {
        libc::getsockopt(fd.as_raw_fd(), level, option, value.as_mut_ptr().cast(), &raw mut length)
    };
    check(outcome)?;
    // SAFETY: all bytes were zeroed or written, and any bytes are a valid `Plain`.
    Ok(unsafe { value.assume_init() })
}

/// Sets an option.
pub(crate) fn set<T: Plain>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` has `length` readable bytes.
    let outcome =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length) };
    check(outcome).map(drop)
}

/// Sets an option to a list of numbers.
pub(crate) fn set_list(fd: BorrowedFd<'_>, level: i32, option: i32, values: &[u32]) -> io::Result<()> {
    let length = size_of_val(values) as libc::socklen_t;
    // SAFETY: `values` has `length` readable bytes.
    let outcome = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, values.as_ptr().cast(), length) };
    check(outcome).map(drop)
}

/// An ioctl that answers with one `int`.
pub(crate) fn ioctl_int(fd: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: the ioctls used (SIOCINQ, SIOCOUTQ, SIOCOUTQNSD) write one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, &raw mut value) })?;
    Ok(value.max(0).cast_unsigned())
}

/// Drops up to `length` bytes from the receive queue of a TCP socket, without a copy.
pub(crate) fn discard(fd: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    let flags = libc::MSG_TRUNC | libc::MSG_DONTWAIT;
    // SAFETY: with MSG_TRUNC, TCP writes nothing to the buffer (tcp(7)), which may therefore be null.
    let taken = unsafe { libc::recv(fd.as_raw_fd(), std::ptr::null_mut(), length, flags) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

/// Dissolves the connection: connects to no address.
pub(crate) fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let length = size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nowhere` is a sockaddr of `length` bytes.
    check(unsafe { libc::connect(fd.as_raw_fd(), &raw const nowhere, length) }).map(drop)
}

fn check(outcome: libc::c_int) -> io::Result<libc::c_int> {
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(outcome) }
}
