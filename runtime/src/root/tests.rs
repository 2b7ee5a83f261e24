//! As root, on real overlays.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

struct Sandbox {
    path: PathBuf,
    dir: CapsuleDir,
    base: Base,
}

impl Sandbox {
    fn new(name: &str) -> Sandbox {
        let path = std::env::temp_dir().join(format!("capsule-root-{}-{name}", std::process::id()));
        let base = path.join("base");
        for directory in [
            "etc/ssh",
            "etc/ssl/private",
            "root/.ssh",
            "home/ann/.ssh",
            "run/db",
            "run/systemd/x",
            "data/ids",
        ] {
            std::fs::create_dir_all(base.join(directory)).unwrap();
        }
        for file in [
            "etc/shadow",
            "etc/ssh/ssh_host_rsa_key",
            "etc/ssh/ssh_host_rsa_key.pub",
            "etc/ssl/private/key",
            "root/.ssh/id",
            "home/ann/.ssh/id",
            "data/ids/key",
            "run/db/sock",
        ] {
            std::fs::write(base.join(file), "secret").unwrap();
        }
        std::fs::set_permissions(base.join("run/db"), std::fs::Permissions::from_mode(0o2775)).unwrap();
        std::os::unix::fs::chown(base.join("run/db"), Some(110), Some(118)).unwrap();
        std::os::unix::fs::symlink("../run/resolve/stub", base.join("etc/resolv.conf")).unwrap();
        let dir = CapsuleDir::new(&path.join("capsule")).unwrap();
        dir.create().unwrap();
        Sandbox { dir, base: Base::Host(base), path }
    }

    fn private(&self) -> Vec<PathBuf> {
        vec![self.base.path().join("data"), PathBuf::from("/elsewhere")]
    }

    fn prepared(name: &str) -> Sandbox {
        let sandbox = Sandbox::new(name);
        prepare(&sandbox.dir, &sandbox.base, &sandbox.private(), &names()).unwrap();
        mount(&sandbox.dir, &sandbox.base).unwrap();
        sandbox
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.dir.root().join(path)).ok()
    }

    fn entries(&self, path: &str) -> Vec<String> {
        let mut names = names_in(&self.dir.root().join(path));
        names.sort();
        names
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = unmount(&self.dir);
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn names() -> Names {
    Names {
        name: "db".into(),
        zone: "capsule.internal".into(),
        v4: [10, 88, 0, 2].into(),
        v6: "fd88::2".parse().unwrap(),
    }
}

#[test]
fn secrets_are_masked() {
    let sandbox = Sandbox::prepared("secrets");
    for file in ["etc/shadow", "etc/ssh/ssh_host_rsa_key"] {
        assert_eq!(sandbox.read(file).as_deref(), Some(""), "{file}");
    }
    assert_eq!(sandbox.read("etc/ssh/ssh_host_rsa_key.pub").as_deref(), Some("secret"));
    for directory in ["etc/ssl/private", "root/.ssh", "home/ann/.ssh", "data"] {
        assert!(sandbox.entries(directory).is_empty(), "{directory}");
    }
    assert!(!sandbox.dir.path().join("stage").exists());
}

#[test]
fn run_has_the_directories_only() {
    let sandbox = Sandbox::prepared("run");
    // The link of resolv.conf leads to a directory that the host does not have.
    assert_eq!(sandbox.entries("run"), ["db", "resolve"]);
    assert!(sandbox.entries("run/db").is_empty());
    let db = std::fs::metadata(sandbox.dir.root().join("run/db")).unwrap();
    assert_eq!((db.uid(), db.gid(), db.mode() & 0o7777), (110, 118, 0o2775));
}

#[test]
fn names_are_the_capsules_own() {
    let sandbox = Sandbox::prepared("names");
    assert_eq!(sandbox.read("etc/resolv.conf").unwrap(), "nameserver 127.0.0.88\nsearch capsule.internal\n");
    assert!(sandbox.read("etc/hosts").unwrap().contains("10.88.0.2 db.capsule.internal db\n"));
    assert_eq!(sandbox.read("etc/hostname").unwrap(), "db\n");
}

#[test]
fn masking_again_leaves_what_the_capsule_wrote() {
    let sandbox = Sandbox::prepared("again");
    let root = sandbox.dir.root();
    std::fs::write(root.join("etc/shadow"), "own").unwrap();
    std::fs::write(root.join("root/.ssh/id"), "own").unwrap();
    std::fs::remove_dir(root.join("etc/ssl/private")).unwrap();
    std::fs::create_dir_all(root.join("srv/data")).unwrap();
    std::fs::write(root.join("srv/data/file"), "own").unwrap();
    unmount(&sandbox.dir).unwrap();
    // Another host keeps its data where the capsule has a directory of its own.
    std::fs::create_dir_all(sandbox.base.path().join("srv/data")).unwrap();
    std::fs::write(sandbox.base.path().join("srv/data/key"), "secret").unwrap();
    mask(&sandbox.dir, &sandbox.base, &[sandbox.base.path().join("srv/data")]).unwrap();
    mount(&sandbox.dir, &sandbox.base).unwrap();
    assert_eq!(sandbox.read("etc/shadow").as_deref(), Some("own"));
    assert_eq!(sandbox.entries("root/.ssh"), ["id"]);
    assert!(!root.join("etc/ssl/private").exists());
    assert_eq!(sandbox.entries("srv/data"), ["file"]);
}

#[test]
fn mounting_twice_and_unmounting_twice_is_harmless() {
    let sandbox = Sandbox::prepared("twice");
    mount(&sandbox.dir, &sandbox.base).unwrap();
    unmount(&sandbox.dir).unwrap();
    unmount(&sandbox.dir).unwrap();
    assert!(!memory::is_mounted(&sandbox.dir.root()).unwrap());
    assert!(!memory::is_mounted(&sandbox.dir.shm()).unwrap());
}
