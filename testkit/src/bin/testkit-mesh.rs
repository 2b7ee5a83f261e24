//! A mesh to play with: `testkit-mesh a b c` starts a directory and these hosts, prints how to talk to them, and
//! removes everything when its standard input ends.

use std::io::Read;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mesh = testkit::Mesh::running("play", if names.is_empty() { &["a", "b", "c"] } else { &names });
    for name in if names.is_empty() { vec!["a", "b", "c"] } else { names } {
        let host = mesh.host(name);
        eprintln!(
            "{name}: CAPSULE_ADMIN={} (netns {}, {})",
            host.data().join("admin.sock").display(),
            host.netns(),
            host.address()
        );
    }
    eprintln!("end of input (Ctrl-D) removes the mesh");
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    let left = mesh.end();
    eprintln!("left behind: {left:?}");
}
