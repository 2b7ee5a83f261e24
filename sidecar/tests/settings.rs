//! `--check-config`: where a setting comes from, seen from outside.

use std::path::PathBuf;
use std::process::{Command, Output};

/// A folder that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("capsule-settings-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a fresh name");
        Self(path)
    }

    fn file(&self, toml: &str) -> String {
        let path = self.0.join("sidecar.toml");
        std::fs::write(&path, toml).expect("the folder is ours");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn check(variables: &[(&str, &str)], flags: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capsule-sidecar"));
    let inherited = std::env::vars_os().map(|(name, _)| name);
    for name in inherited.filter(|name| name.to_string_lossy().starts_with("CAPSULE_")) {
        command.env_remove(name);
    }
    command
        .args(["serve", "--data", "/nowhere", "--check-config"])
        .args(flags)
        .envs(variables.iter().copied());
    command.output().expect("it is built")
}

#[track_caller]
fn good(variables: &[(&str, &str)], flags: &[&str]) {
    let output = check(variables, flags);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[track_caller]
fn bad(variables: &[(&str, &str)], flags: &[&str], words: &[&str]) {
    let output = check(variables, flags);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(words.iter().all(|word| complaint.contains(word)), "{complaint}");
    assert!(output.stdout.is_empty() && !complaint.contains("panicked"), "{output:?}");
}

/// What is wrong in one place does no harm when a place before it says something right.
#[test]
fn variables_are_before_the_file_and_flags_before_variables() {
    let scratch = Scratch::new("order");
    let file = scratch.file("link_idle_s = 1\nhttp = '127.0.0.1:9'\n");
    bad(&[], &["--config", &file], &["link_idle_s"]);
    good(&[("CAPSULE_LINK_IDLE_S", "20")], &["--config", &file]);
    bad(&[("CAPSULE_LINK_IDLE_S", "0")], &[], &["link_idle_s"]);
    bad(&[("CAPSULE_LISTEN", "nowhere")], &[], &["LISTEN", "CAPSULE_"]);
    good(&[("CAPSULE_LISTEN", "nowhere")], &["--listen", "127.0.0.1:4433"]);
    let file = scratch.file("http = 'nowhere'\n");
    bad(&[], &["--config", &file], &["http", "sidecar.toml"]);
    good(&[], &["--config", &file, "--http", "127.0.0.1:9100"]);
}

#[test]
fn unknown_settings_are_named_wherever_they_are() {
    let scratch = Scratch::new("unknown");
    let file = scratch.file("lsiten = '127.0.0.1:1'\n");
    bad(&[], &["--config", &file], &["lsiten"]);
    bad(&[("CAPSULE_LSITEN", "127.0.0.1:1")], &[], &["lsiten"]);
    // Those of `capsule` and of logging are not the sidecar's.
    good(&[("CAPSULE_ADMIN", "/elsewhere"), ("CAPSULE_LOG", "debug")], &[]);
    let output = check(&[], &["--lsiten", "x"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_file_that_can_not_be_read_is_named() {
    bad(&[], &["--config", "/no/such/file.toml"], &["/no/such/file.toml"]);
    let scratch = Scratch::new("broken");
    bad(&[], &["--config", &scratch.file("listen = [")], &["settings"]);
}
