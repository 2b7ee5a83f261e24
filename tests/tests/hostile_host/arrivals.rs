//! Moves that a host may not lead, or leads with lies.

use super::garbage::noise;
use super::*;

/// What the source of a move says first, about the capsule in this file.
fn prepare(file: &Value, dry_run: bool) -> Value {
    json!({
        "says": "prepare", "offer": "0123456789abcdef0123456789abcdef", "capsule": file, "dry_run": dry_run,
        "needs": {
            "files_bytes": 0, "files_inodes": 0, "memory_bytes": 0, "cpu": [],
            "machine": std::env::consts::ARCH, "shared": [],
        },
        "base": [], "peers": [],
    })
}

#[test]
fn capsules_that_are_elsewhere_do_not_arrive() {
    let mesh = Mesh::running("arrive", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let own = evil.register("own");
    let (before, id) = (places(&a), capsule_id(&a, "redis"));
    let path = a.data().join("capsules").join(&id).join("capsule.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("redis is there")).expect("JSON");
    let wires = [(&a, evil.link(&a)), (&b, evil.link(&b))];
    let mut unknown = file.clone();
    unknown["id"] = json!("00000000000000000000000000000001");
    for (host, wire) in &wires {
        for file in [&file, &unknown] {
            for dry_run in [true, false] {
                let answer = evil.converse(wire, MOVE, &prepare(file, dry_run));
                assert_eq!(answer, None, "{} examined it", host.name());
            }
        }
        // A conversation that does not begin at its beginning.
        for message in [json!({"says": "restore"}), json!({"says": "image", "files": [["../../x", 4]]})] {
            assert_eq!(evil.converse(wire, MOVE, &message), None);
        }
        // Files of no move, or of one that is another's.
        for tree in ["private", "base"] {
            let header = json!({"offer": "0123456789abcdef0123456789abcdef", "tree": tree});
            assert_eq!(evil.converse(wire, FILES, &header), None);
        }
        let log = log_of(host);
        assert!(log.contains("files of a move that is not under way"), "{log}");
        assert!(log.contains("is not placed at evil"), "{log}");
        is_well(host);
    }
    assert!(!on_disk(&b, &id));
    nothing_left_of(&b, &id);
    assert_eq!(places(&a).iter().filter(|place| place.name != "own").cloned().collect::<Vec<_>>(), {
        before.into_iter().filter(|place| place.name != "own").collect::<Vec<_>>()
    });
    talk.goes_on();
    // Its own capsule is looked at: what was refused was not refused for its form.
    let mine = disguised(file, &own);
    let answer = evil.converse(&wires[1].1, MOVE, &prepare(&mine, true)).expect("an answer");
    assert_eq!(answer["says"], "examined", "{answer}");
    end(mesh);
}

/// The file of a capsule, as if it were that of another one.
fn disguised(mut file: Value, own: &CapsuleRecord) -> Value {
    file["id"] = json!(own.id.to_string());
    file["name"] = json!(own.name.as_str());
    file["generation"] = json!(own.generation);
    file["locators"] = json!(own.locators);
    file
}

/// A host may move its own capsules anywhere; what it says on the way is checked all the same.
#[test]
fn what_a_source_says_harms_no_target() {
    let mesh = Mesh::running("source", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let own = evil.register("own");
    let path = a.data().join("capsules").join(capsule_id(&a, "redis")).join("capsule.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("redis is there")).expect("JSON");
    let (begin, wire) = (prepare(&disguised(file, &own), false), evil.link(&b));
    let wrong: [(&str, Value); 12] = [
        ("more sessions than memory", json!({"says": "sessions", "bytes": 1_u64 << 34})),
        ("more sessions than allowed", json!({"says": "sessions", "bytes": u64::MAX})),
        ("no sessions", json!({"says": "sessions", "bytes": 64})),
        ("a log elsewhere", json!({"says": "log", "name": "../../../../etc/motd", "offset": 0, "bytes": 4})),
        ("a long piece", json!({"says": "log", "name": "log", "offset": 0, "bytes": 1_u64 << 40})),
        ("a far piece", json!({"says": "log", "name": "log", "offset": u64::MAX, "bytes": 4})),
        ("an image elsewhere", json!({"says": "image", "files": [["../../x", 4]]})),
        ("a huge image", json!({"says": "image", "files": [["a", u64::MAX], ["b", 2]]})),
        ("no image at all", json!({"says": "restore"})),
        ("a key too early", json!({"says": "key", "key": "00".repeat(32)})),
        ("prepare twice", begin.clone()),
        ("an unknown word", json!({"says": "please"})),
    ];
    for (what, message) in wrong {
        let answers = evil.lead(&wire, &[begin.clone(), message], &noise(1, 64));
        let says: Vec<&str> = answers.iter().filter_map(|answer| answer["says"].as_str()).collect();
        assert_eq!(says, ["examined", "ready", "failed"], "{what}: {answers:#?}");
        is_well(&b);
        nothing_left_of(&b, &own.id.to_string());
    }
    talk.goes_on();
    end(mesh);
}

/// What is gone at the source is removed at the target, and nothing else there.
#[test]
fn a_source_removes_nothing_but_private_files() {
    let mesh = Mesh::running("removes", &["a", "b"]);
    let (a, b) = (mesh.host("a"), mesh.host("b"));
    let mut talk = Talk::start(&a, &b);
    let evil = Evil::join(&mesh, &[&a, &b]);
    let own = evil.register("own");
    let path = a.data().join("capsules").join(capsule_id(&a, "redis")).join("capsule.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).expect("redis is there")).expect("JSON");
    let (begin, wire) = (prepare(&disguised(file, &own), false), evil.link(&b));
    let offer = begin["offer"].clone();
    let arriving = b.data().join("capsules").join(own.id.to_string());
    let running = evil.begin(&wire, &begin);
    std::os::unix::fs::symlink(b.data(), arriving.join("upper/out")).expect("the layer is there");
    std::fs::write(arriving.join("upper/mine"), "mine").expect("the layer is there");
    let say = |list: &[u8]| {
        let header = json!({"offer": offer, "tree": "private"}).to_string().into_bytes();
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short").to_be_bytes();
        evil.raw(&wire, &[&[FILES], &length(&header)[..], &header, list].concat(), true)
    };
    let piece = |paths: &[u8]| [&u32::try_from(paths.len()).expect("short").to_be_bytes(), paths].concat();
    let absolute = format!("mine\0{}\0", b.data().join("identity").display());
    let refused = [
        piece(b"mine\0../capsule.json\0"),
        piece(absolute.as_bytes()),
        piece(b"mine\0.\0"),
        piece(b"mine"),
        ((1_u32 << 20) + 1).to_be_bytes().to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
        piece(b"mine\0")[..7].to_vec(),
    ];
    for list in refused {
        assert_eq!(say(&list), None, "{list:?}");
    }
    assert!(arriving.join("upper/mine").exists());
    // What is its own goes; a symlink leads nowhere.
    say(&piece(b"mine\0out/identity\0out/capsules\0"));
    assert!(!arriving.join("upper/mine").exists());
    assert!(arriving.join("upper/out").is_symlink());
    assert!(arriving.join("capsule.json").exists() && b.data().join("identity").exists());
    let log = log_of(&b);
    for why in ["is no path below it", "has no end", "is too long", "ended early"] {
        assert!(log.contains(why), "{why}: {log}");
    }
    evil.leave(running);
    nothing_left_of(&b, &own.id.to_string());
    talk.goes_on();
    end(mesh);
}
