//! What goes along with a request: the person it goes back to, and what the host that asks holds.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use overlay_proto::HostName;

use crate::Request;
use crate::limits::{USER_FILE_BYTES_MAX, USER_NAME_CHARACTERS_MAX};

/// What `loginuid` says of processes that go back to no login (proc(5)).
const NOBODY_LOGGED_IN: u32 = u32::MAX;

/// A request and what goes along with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The request.
    pub request: Request,
    /// The person whose verb led to it, as the host that asks says. Nobody can prove that, and nothing is decided by it.
    pub by: Option<Person>,
    /// What the host that asks holds ([`crate::identity::credentials_hash`]); `None` from hosts that do not say.
    pub credentials: Option<[u8; 32]>,
}

/// Somebody who typed a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The host on which that was; `None` on the directory's own machine.
    pub host: Option<HostName>,
    /// The user number, as the kernel said.
    pub uid: u32,
    /// The name that the number has there.
    pub user: Option<String>,
    /// Who logged in, where that is another user: who became root by `sudo`, say.
    pub login: Option<String>,
}

impl Person {
    /// Who runs a process of this machine. Names are those of `/etc/passwd`; users that only another directory knows have
    /// a number alone.
    pub fn of_process(uid: u32, pid: Option<u32>, host: Option<HostName>) -> Self {
        let users = read(Path::new("/etc/passwd"));
        let pid = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let login = read(&Path::new("/proc").join(pid).join("loginuid")).trim().parse().ok();
        let login = login.filter(|login| *login != NOBODY_LOGGED_IN && *login != uid);
        let login = login.map(|login| user_name(&users, login).unwrap_or_else(|| format!("uid {login}")));
        Self { host, uid, user: user_name(&users, uid), login }
    }

    /// A name as it may be shown: printable, and not too long.
    pub fn name(text: &str) -> String {
        let shown = text.chars().take(USER_NAME_CHARACTERS_MAX);
        shown.map(|letter| if letter.is_control() { '?' } else { letter }).collect()
    }
}

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.user {
            Some(user) => write!(f, "{user} (uid {})", self.uid)?,
            None => write!(f, "uid {}", self.uid)?,
        }
        if let Some(login) = &self.login {
            write!(f, ", logged in as {login}")?;
        }
        match &self.host {
            Some(host) => write!(f, ", at {host}"),
            None => Ok(()),
        }
    }
}

/// What can be read of a file, up to the bound.
fn read(path: &Path) -> String {
    let mut text = String::new();
    let opened = File::open(path).and_then(|file| file.take(USER_FILE_BYTES_MAX).read_to_string(&mut text));
    // A name that can't be found is left out.
    opened.map(|_| text).unwrap_or_default()
}

fn user_name(users: &str, uid: u32) -> Option<String> {
    let number = uid.to_string();
    let fits = |line: &&str| line.split(':').nth(2) == Some(&number);
    let name = users.lines().find(fits)?.split(':').next()?;
    Some(Person::name(name)).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_name_that_its_number_has() {
        let users = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbroken\n:x:7:\n";
        assert_eq!(user_name(users, 1000).as_deref(), Some("ann"));
        assert_eq!([user_name(users, 100), user_name(users, 7)], [None, None]);
        let me = Person::of_process(0, None, None);
        assert_eq!((me.uid, me.user.as_deref(), me.host), (0, Some("root"), None));
    }
}
