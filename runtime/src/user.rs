//! Who a program runs as: names looked up in the capsule's own root.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::RuntimeError;

/// Bytes of a user or group database that are read.
const DATABASE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// The other groups.
    pub groups: Vec<u32>,
    /// Its home directory.
    pub home: String,
}

impl User {
    /// The root user.
    pub fn root() -> User {
        User { uid: 0, gid: 0, groups: Vec::new(), home: "/root".into() }
    }

    /// Looks up `USER[:GROUP]`, names or numbers, in the databases below a root.
    ///
    /// # Errors
    /// There is no such name.
    pub fn resolve(root: &Path, wanted: &str) -> Result<User, RuntimeError> {
        let (name, group) = match wanted.split_once(':') {
            Some((name, group)) => (name, Some(group)),
            None => (wanted, None),
        };
        let users = database(root, "etc/passwd");
        let groups = database(root, "etc/group");
        let number = name.parse::<u32>().ok();
        let found = users.iter().find(|user| {
            user.first().is_some_and(|field| field == name) || (number.is_some() && field(user, 2) == number)
        });
        let mut user = match (found, number) {
            (Some(user), _) => User {
                uid: field(user, 2).unwrap_or_default(),
                gid: field(user, 3).unwrap_or_default(),
                groups: member_of(&groups, user.first().map_or("", String::as_str)),
                home: user.get(5).cloned().unwrap_or_else(|| "/".into()),
            },
            (None, Some(uid)) => User { uid, gid: 0, groups: Vec::new(), home: "/".into() },
            (None, None) => return Err(RuntimeError::UnknownUser { kind: "user", name: name.into() }),
        };
        if let Some(group) = group {
            let found = groups.iter().find(|entry| entry.first().is_some_and(|field| field == group));
            let gid = found.and_then(|entry| field(entry, 2)).or_else(|| group.parse().ok());
            user.gid = gid.ok_or_else(|| RuntimeError::UnknownUser { kind: "group", name: group.into() })?;
            user.groups.clear();
        }
        Ok(user)
    }
}

fn member_of(groups: &[Vec<String>], user: &str) -> Vec<u32> {
    let has = |entry: &&Vec<String>| {
        entry.get(3).is_some_and(|members| members.split(',').any(|name| name == user))
    };
    groups.iter().filter(has).filter_map(|entry| field(entry, 2)).collect()
}

fn field(entry: &[String], index: usize) -> Option<u32> {
    entry.get(index)?.parse().ok()
}

/// The lines of a database, split into fields; none when it can't be read.
fn database(root: &Path, path: &str) -> Vec<Vec<String>> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    use std::io::Read;
    let open = || -> std::io::Result<String> {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // A link in the capsule's root must not lead out of it.
        let file = rustix::fs::openat2(
            &root,
            path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT,
        )?;
        let mut bytes = Vec::new();
        std::fs::File::from(file).take(DATABASE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = open().unwrap_or_default();
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let root = std::env::temp_dir().join(format!("capsule-user-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\ndb:x:110:118::/var/lib/db:/bin/sh\n",
        )
        .unwrap();
        std::fs::write(root.join("etc/group"), "db:x:118:\nssl-cert:x:117:web,db\n").unwrap();
        let db = User { uid: 110, gid: 118, groups: vec![117], home: "/var/lib/db".into() };
        assert_eq!(User::resolve(&root, "db").unwrap(), db);
        assert_eq!(User::resolve(&root, "110").unwrap(), db);
        let other = User { uid: 5000, gid: 117, groups: vec![], home: "/".into() };
        assert_eq!(User::resolve(&root, "5000:ssl-cert").unwrap(), other);
        assert!(matches!(
            User::resolve(&root, "nobody"),
            Err(RuntimeError::UnknownUser { kind: "user", .. })
        ));
        assert!(matches!(
            User::resolve(&root, "db:none"),
            Err(RuntimeError::UnknownUser { kind: "group", .. })
        ));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
