//! `make install`: everything in its place, and units that systemd takes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn install(root: &Path) -> Output {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
    let variable = |name: &str, below: &str| format!("{name}={}", root.join(below).display());
    let made = Command::new("make")
        .current_dir(top)
        .args(["install", "DESTDIR=", &variable("PREFIX", "usr"), &variable("SYSCONFDIR", "etc")])
        .output()
        .expect("make");
    assert!(made.status.success(), "{made:?}");
    made
}

#[test]
fn what_is_installed_runs_and_its_units_are_right() {
    let scratch = Scratch(std::env::temp_dir().join(format!("cx-install-{}", std::process::id())));
    let root = &scratch.0;
    install(root);
    for program in ["capsule", "capsule-sidecar", "capsule-directory"] {
        let said = Command::new(root.join("usr/bin").join(program)).arg("--version").output().expect(program);
        assert!(said.status.success(), "{program}: {said:?}");
    }
    for file in [
        "usr/bin/capsule-shim",
        "usr/share/man/man1/capsule-move.1",
        "usr/share/bash-completion/completions/capsule",
        "usr/lib/modules-load.d/capsule.conf",
        "usr/lib/sysusers.d/capsule.conf",
    ] {
        assert!(root.join(file).exists(), "{file}");
    }
    // Every line that is commented out is a setting of the program, with a value that it takes.
    for (daemon, name) in [("capsule-directory", "directory.toml"), ("capsule-sidecar", "sidecar.toml")] {
        let text = std::fs::read_to_string(root.join("etc/capsule").join(name)).unwrap();
        let settings =
            text.lines().take_while(|line| !line.contains("[[")).filter_map(|line| line.strip_prefix("# "));
        let settings: Vec<_> =
            settings.filter(|line| line.contains(" = ") && !line.contains("# none")).collect();
        assert!(settings.len() > 10, "{name}: {settings:?}");
        let file = root.join(name);
        std::fs::write(&file, settings.join("\n")).unwrap();
        let checked = Command::new(root.join("usr/bin").join(daemon))
            .args(["serve", "--check-config", "--data", "/no/such/data", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(said.contains("/no/such/data") && !said.contains(name), "{said}");
    }
    // Settings of somebody stay.
    let mine = root.join("etc/capsule/sidecar.toml");
    std::fs::write(&mine, "owner = \"me\"\n").unwrap();
    install(root);
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "owner = \"me\"\n");

    let units: Vec<PathBuf> = ["capsule-directory.service", "capsule-sidecar.service"]
        .map(|unit| root.join("usr/lib/systemd/system").join(unit))
        .into();
    for unit in &units {
        let text = std::fs::read_to_string(unit).unwrap();
        assert!(text.contains("Type=notify") && !text.contains("@BINDIR@"), "{text}");
    }
    let verified = Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units).output();
    let verified = verified.expect("systemd-analyze is needed to look at the units: scripts/setup");
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(verified.status.success(), "{said}");
    assert!(!said.contains("capsule-"), "{said}");
}
