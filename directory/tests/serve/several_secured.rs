//! An etcd that wants TLS, certificates and a password, as one that others use too does.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tokio::time::sleep;

use super::etcd::EtcdProcess;
use super::process::Directory;

const USER: &str = "mesh";
const PASSWORD: &str = "a long password";

/// Certificates in a folder that goes with them.
struct Secrets(PathBuf);

impl Secrets {
    fn make() -> Self {
        let path = std::env::temp_dir().join(format!("capsule-secured-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let secrets = Self(path);
        let mut root = CertificateParams::new(vec![]).unwrap();
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        secrets.write("ca.pem", &root.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(root, key);
        for name in ["server", "client"] {
            let mut params = CertificateParams::new(vec![]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
            let key = KeyPair::generate().unwrap();
            secrets.write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
            secrets.write(&format!("{name}.key"), &key.serialize_pem());
        }
        secrets.write("password", &format!("{PASSWORD}\n"));
        secrets
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn etcd(&self) -> EtcdProcess {
        let files =
            [("--cert-file", "server.pem"), ("--key-file", "server.key"), ("--trusted-ca-file", "ca.pem")];
        let flags = files.into_iter().flat_map(|(flag, file)| [flag.to_owned(), self.path(file)]);
        EtcdProcess::start_secured(flags.chain(["--client-cert-auth".to_owned()]).collect())
    }

    /// Lets nobody in without a password, and the user to its own keys only.
    fn lock(&self, etcd: &EtcdProcess) {
        let root = "root:root";
        let steps: [&[&str]; 7] = [
            &["user", "add", root],
            &["user", "grant-role", "root", "root"],
            &["role", "add", "capsule"],
            &["role", "grant-permission", "capsule", "readwrite", "/capsule/", "--prefix=true"],
            &["user", "add", &format!("{USER}:{PASSWORD}")],
            &["user", "grant-role", USER, "capsule"],
            &["auth", "enable"],
        ];
        for step in steps {
            let mut command = Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("https://{}", etcd.endpoint())]);
            command.args(["--cacert", &self.path("ca.pem"), "--cert", &self.path("client.pem")]);
            command.args(["--key", &self.path("client.key")]).args(step);
            let output = command.output().expect("etcdctl is not to be run: apt-get install etcd-client");
            assert!(output.status.success(), "{step:?}: {output:?}");
        }
    }

    fn address(etcd: &EtcdProcess) -> String {
        format!("etcd://{USER}@{}", etcd.endpoint())
    }

    fn settings(&self, etcd: &EtcdProcess) -> &'static str {
        let files = ["ca", "cert", "key", "password_file"].into_iter().zip(self.files());
        let lines = files.map(|(key, file)| format!("store_{key} = '{file}'\n"));
        format!("store = '{}'\n{}", Self::address(etcd), lines.collect::<String>()).leak()
    }

    fn files(&self) -> [String; 4] {
        ["ca.pem", "client.pem", "client.key", "password"].map(|name| self.path(name))
    }

    fn flags(&self) -> Vec<String> {
        let files = ["ca", "cert", "key", "password-file"].into_iter().zip(self.files());
        files.flat_map(|(flag, file)| [format!("--store-{flag}"), file]).collect()
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn etcd_is_asked_over_tls_with_a_certificate_and_a_password() {
    let secrets = Secrets::make();
    let mut etcd = secrets.etcd();
    secrets.lock(&etcd);
    let mut one = Directory::start_with(secrets.settings(&etcd));
    let mut other = one.beside(secrets.settings(&etcd));
    other.serve();
    let a = one.host("a", 1).await;
    let db = a.register("db").await;
    assert_eq!(super::several::at(&a, &other).client.list().await.unwrap(), std::slice::from_ref(&db));

    // What it gave to know the user again is forgotten with it.
    etcd.kill();
    etcd.run();
    let begin = Instant::now();
    let patient = a.client.with_call_time(Duration::from_secs(1));
    while patient.register("more".parse().unwrap(), "me".parse().unwrap()).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the directory did not find back");
        sleep(Duration::from_millis(50)).await;
    }
    let all = a.client.list().await.unwrap();

    // Commands know the files from the directory that served, or by flags.
    assert_eq!((one.stop(), other.stop()), (Some(0), Some(0)));
    let file = super::backups::Beside::new(&one, "backup");
    let backup = one.run(&["backup", "--to", file.text()]);
    assert!(backup.status.success() && Path::new(file.text()).exists(), "{backup:?}");
    secrets.write("password", "another password\n");
    let (address, flags) = (Secrets::address(&etcd), secrets.flags());
    let mut back = vec!["copy-store", "--from", &address, "--to", "embedded"];
    back.extend(flags.iter().map(String::as_str));
    let begin = Instant::now();
    let refused = one.run(&back);
    assert!(!refused.status.success() && begin.elapsed() < Duration::from_secs(10), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains(&etcd.endpoint()) && said.contains("authentication failed"), "{said}");
    secrets.write("password", PASSWORD);
    let copied = one.run(&back);
    assert!(copied.status.success(), "{copied:?}");
    one.set_config("");
    one.serve();
    assert_eq!(a.client.list().await.unwrap(), all);
}
