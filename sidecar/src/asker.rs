//! The person whose verb is being carried out: what the directory is asked meanwhile, it is asked for them.
//!
//! It goes along with the task that carries the verb out, and not with tasks that outlive it.

use std::sync::Arc;

use admin_api::request::Asker;
use directory_api::Person;
use overlay_proto::HostName;
use tokio::net::unix::UCred;

tokio::task_local! {
    static ASKER: Option<Arc<Person>>;
}

/// Carries something out for a person.
pub(crate) async fn for_person<T>(person: Option<Person>, verb: impl Future<Output = T>) -> T {
    ASKER.scope(person.map(Arc::new), verb).await
}

/// The person that the present task acts for, if there is one.
pub(crate) fn current() -> Option<Arc<Person>> {
    ASKER.try_with(Clone::clone).ok().flatten()
}

/// That person, for the sidecar of another host.
pub(crate) fn to_forward() -> Option<Asker> {
    let person = current()?;
    Some(Asker { uid: person.uid, user: person.user.clone(), login: person.login.clone() })
}

/// Who is at the other end of this host's admin socket, as the kernel says.
pub(crate) async fn at_socket(peer: UCred, me: HostName) -> Option<Person> {
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok());
    let looked_up = tokio::task::spawn_blocking(move || Person::of_process(peer.uid(), pid, Some(me)));
    looked_up.await.ok()
}

/// Who asked at another host, as its sidecar says: the host is the one that its certificate names.
pub(crate) fn as_said(asker: Asker, host: HostName) -> Person {
    let name = |text: String| Some(Person::name(&text)).filter(|name| !name.is_empty());
    let (user, login) = (asker.user.and_then(name), asker.login.and_then(name));
    Person { host: Some(host), uid: asker.uid, user, login }
}
