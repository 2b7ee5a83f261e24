use std::fs;
use std::path::Path;

use super::super::tests::mesh;
use super::*;

fn passphrase(data: &Data) -> Passphrase {
    let file = data.path.join("passphrase");
    fs::write(&file, "correct horse battery\n").unwrap();
    Passphrase::read(&file).unwrap()
}

fn certificate(data: &Data, name: &str) -> String {
    fs::read_to_string(data.path.join(name)).unwrap()
}

fn there(data: &Data) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(&data.path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("ca.") || name.contains("issuer"))
        .filter(|name| name != "ca.lock")
        .collect();
    names.sort();
    names
}

/// Says for a directory that serves: everybody is ready, but for those.
fn ready(data: &Data, waiting: &[&str], now: SystemTime) {
    let (_, ca) = data.ca().unwrap();
    let waiting = waiting.iter().map(|name| name.parse().unwrap()).collect();
    data.write_uptake(ca.credentials(), waiting, now).unwrap();
}

/// A mesh from before there were issuers: its root may have none, and signs with its own key.
fn make_old(path: &Path) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters = rcgen::CertificateParams::default();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    let root = parameters.self_signed(&key).unwrap();
    fs::write(path.join("ca.pem"), root.pem()).unwrap();
    fs::write(path.join("ca.key"), key.serialize_pem()).unwrap();
    for name in ["issuer.pem", "issuer.key"] {
        fs::remove_file(path.join(name)).unwrap();
    }
}

#[test]
fn a_root_is_sealed_where_it_lies() {
    let (data, now) = (mesh("seal", None), SystemTime::now());
    let passphrase = passphrase(&data);
    let key = certificate(&data, "ca.key");
    data.seal_root(&passphrase, now).unwrap();
    assert_eq!(there(&data), ["ca.key.age", "ca.pem", "issuer.key", "issuer.pem"]);
    let sealed = fs::read(data.path.join("ca.key.age")).unwrap();
    assert_eq!(sealed::unseal(&sealed, &passphrase).unwrap(), key);
    let again = data.seal_root(&passphrase, now).unwrap_err().to_string();
    assert!(again.contains("already"), "{again}");
    assert!(data.renew_issuer(&By::Operator, None, now).is_err());
    data.renew_issuer(&By::Operator, Some(&passphrase), now).unwrap();
    data.ca().unwrap();
    fs::remove_dir_all(&data.path).unwrap();
}

#[test]
fn a_key_of_another_root_is_not_sealed() {
    let data = mesh("seal-other", None);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    fs::write(data.path.join("ca.key"), &other).unwrap();
    assert!(data.seal_root(&passphrase(&data), SystemTime::now()).is_err());
    assert_eq!(certificate(&data, "ca.key"), other);
    assert!(!data.path.join("ca.key.age").exists());
    fs::remove_dir_all(&data.path).unwrap();
}

#[test]
fn an_old_mesh_gets_a_sealed_root_and_an_issuer_step_by_step() {
    let (data, now) = (mesh("rotate", None), SystemTime::now());
    make_old(&data.path);
    let old = certificate(&data, "ca.pem");
    let passphrase = passphrase(&data);
    let refused = data.seal_root(&passphrase, now).unwrap_err().to_string();
    assert!(refused.contains("rotate-root"), "{refused}");
    assert!(data.renew_issuer(&By::Operator, None, now).unwrap_err().to_string().contains("rotate-root"));

    assert_eq!(data.rotate_root(Some(&passphrase), now).unwrap(), Rotation::Begun);
    assert_eq!(there(&data), ["ca.key", "ca.pem", "next-ca.key.age", "next-ca.pem"]);
    assert_eq!(data.ca().unwrap().1.anchors().len(), 2);
    // Nobody serves, or the directory has not looked since.
    assert!(data.rotate_root(Some(&passphrase), now).is_err());
    ready(&data, &["b"], now);
    assert_eq!(
        data.rotate_root(Some(&passphrase), now).unwrap(),
        Rotation::Waiting(vec!["b".parse().unwrap()])
    );
    ready(&data, &[], now);
    let late = now + UPTAKE_FRESH + Duration::from_secs(1);
    assert!(data.rotate_root(Some(&passphrase), late).is_err(), "nobody may have been ready since");
    assert!(data.rotate_root(None, now).is_err(), "it is encrypted");
    assert_eq!(data.rotate_root(Some(&passphrase), now).unwrap(), Rotation::Switched);
    assert_eq!(there(&data), ["ca.key.age", "ca.pem", "issuer.key", "issuer.pem", "last-ca.pem"]);
    assert_eq!(certificate(&data, "last-ca.pem"), old);

    // What hosts held before the step counts no more.
    assert!(data.rotate_root(None, now).is_err());
    ready(&data, &["a"], now);
    assert_eq!(data.rotation(now).unwrap(), (Rotation::Switched, vec!["a".parse().unwrap()]));
    assert_eq!(data.rotate_root(None, now).unwrap(), Rotation::Waiting(vec!["a".parse().unwrap()]));
    ready(&data, &[], now);
    assert_eq!(data.rotate_root(None, now).unwrap(), Rotation::Finished);
    assert_eq!(there(&data), ["ca.key.age", "ca.pem", "issuer.key", "issuer.pem"]);
    assert_eq!(data.ca().unwrap().1.anchors().len(), 1);
    assert_ne!(certificate(&data, "ca.pem"), old);
    fs::remove_dir_all(&data.path).unwrap();
}
