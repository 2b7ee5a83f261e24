//! What goes along with a request: the person it goes back to, and what the host that asks holds.

use std::fmt;

use overlay_proto::HostName;

use crate::Request;
use crate::limits::USER_NAME_CHARACTERS_MAX;

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
