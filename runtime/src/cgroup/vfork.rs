//! Processes that are just starting a program: their thread waits in the kernel (`vfork`, or `clone` with CLONE_VFORK, as
//! `posix_spawn` does) until the child has called `execve`.
//!
//! A frozen one can't be dumped: CRIU stops the child first, and waits in vain for the parent, which waits for the child.

const STARTS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_vfork,
    libc::SYS_clone,
    libc::SYS_clone3,
];

/// Whether a thread of a frozen process waits so.
pub(super) fn is_starting_a_program(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.into_iter().any(|thread| {
        let call = std::fs::read_to_string(thread.path().join("syscall")).unwrap_or_default();
        call.split(' ')
            .next()
            .and_then(|number| number.parse().ok())
            .is_some_and(|number| STARTS.contains(&number))
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::cgroup::{Cgroup, Freezer};

    /// A shell that starts a program a thousand times a second, in a cgroup of its own, both gone afterwards.
    struct Shell(Cgroup);

    impl Shell {
        fn start() -> Self {
            let cgroup = Cgroup::new(&format!("vfork-{}", std::process::id()), "shell");
            let Ok(Freezer::V1(dir) | Freezer::V2(dir)) = cgroup.freezer() else { panic!("no freezer") };
            std::fs::create_dir_all(&dir).expect("this test needs root");
            let script = "echo $$ > \"$0\"; i=0; while [ $i -lt 100000 ]; do /bin/true; i=$((i+1)); done";
            let mut command = Command::new("sh");
            command.args(["-c", script]).arg(dir.join("cgroup.procs")).stdin(Stdio::null());
            let mut shell = command.spawn().expect("start a shell");
            std::thread::spawn(move || shell.wait());
            while cgroup.processes().is_empty() {
                std::thread::yield_now();
            }
            Shell(cgroup)
        }

        fn is_caught(&self) -> bool {
            self.0.processes().into_iter().any(is_starting_a_program)
        }
    }

    impl Drop for Shell {
        fn drop(&mut self) {
            self.0.kill().expect("end the shell");
            assert!(self.0.remove().is_empty());
        }
    }

    #[test]
    fn nobody_is_frozen_while_starting_a_program() {
        let shell = Shell::start();
        let mut caught = 0;
        for _ in 0..200 {
            shell.0.freeze().expect("freeze");
            caught += u32::from(shell.is_caught());
            shell.0.thaw().expect("thaw");
        }
        assert!(caught > 0, "the shell is never caught, so this test shows nothing");
        for _ in 0..200 {
            shell.0.freeze_for_dump().expect("freeze");
            assert!(!shell.is_caught());
            shell.0.thaw().expect("thaw");
        }
    }
}
