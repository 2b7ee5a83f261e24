//! Which hosts are of the mesh. A certificate outlives a host's place in it by hours, so links go by this.

use directory_api::HostRecord;
use overlay_proto::HostName;

use super::Places;
use crate::limits::{MEMBER_ASK_PAUSE, MEMBER_CALL};

impl Places {
    /// Says who is told of a host that is no longer one of the mesh.
    pub fn on_host_removed(&self, told: impl Fn(&HostName) + Send + Sync + 'static) {
        let _ = self.0.on_host_removed.set(Box::new(told));
    }

    /// Whether a host is one of the mesh. One that is not known here is asked about: it may have just joined. While the
    /// directory is away nobody is let in who is not known.
    pub async fn is_member(&self, host: &HostName) -> bool {
        if self.host(host).is_some() {
            return true;
        }
        let question = async {
            let removals = self.host_removals();
            match self.0.directory.with_call_time(MEMBER_CALL).hosts().await {
                Ok(hosts) => {
                    if let Some(record) = hosts.into_iter().find(|record| record.name == *host) {
                        self.take_host(record, removals);
                    }
                }
                Err(error) => tracing::debug!(%host, %error, "the directory was asked for a host in vain"),
            }
        };
        self.0.asking.ask(MEMBER_ASK_PAUSE, question).await;
        self.host(host).is_some()
    }

    /// How often hosts were said to be gone.
    pub(super) fn host_removals(&self) -> u64 {
        self.read().host_removals
    }

    /// Takes a host's record from an answer to a question that was asked after so many removals. The watch may have
    /// overtaken the answer: after another removal it counts for nothing, and whoever wants to know asks again.
    pub(super) fn take_host(&self, record: HostRecord, removals: u64) {
        let mut known = self.0.known.write().expect("no panics under this lock");
        if known.host_removals == removals {
            known.hosts.insert(record.name.clone(), record);
        }
    }

    /// Tells of hosts that are gone.
    pub(super) fn tell_removed(&self, removed: &[HostName]) {
        if let Some(told) = self.0.on_host_removed.get() {
            removed.iter().for_each(told);
        }
    }
}
