//! Where the directories answer DNS: several, that come and go.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

/// A list that all who ask share.
#[derive(Clone, Debug, Default)]
pub struct Servers(Arc<RwLock<Vec<SocketAddr>>>);

impl Servers {
    /// With these to begin with.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self(Arc::new(RwLock::new(servers)))
    }

    /// All of them, whoever answered last in front.
    pub fn all(&self) -> Vec<SocketAddr> {
        self.0.read().expect("no panics under this lock").clone()
    }

    /// This one answers.
    pub fn prefer(&self, server: SocketAddr) {
        let is_first = self.0.read().expect("no panics under this lock").first() == Some(&server);
        if !is_first {
            let mut servers = self.0.write().expect("no panics under this lock");
            if let Some(place) = servers.iter().position(|known| *known == server) {
                servers[..=place].rotate_right(1);
            }
        }
    }

    pub(super) fn learn(&self, all: &[SocketAddr]) {
        let mut servers = self.0.write().expect("no panics under this lock");
        servers.retain(|known| all.contains(known));
        for server in all {
            if !servers.contains(server) {
                servers.push(*server);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_answers_is_asked_first() {
        let at = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let servers = Servers::new(vec![at(1), at(2), at(3)]);
        servers.prefer(at(3));
        assert_eq!(servers.all(), [at(3), at(1), at(2)]);
        servers.prefer(at(9));
        servers.learn(&[at(2), at(4), at(3)]);
        assert_eq!(servers.all(), [at(3), at(2), at(4)]);
    }
}
