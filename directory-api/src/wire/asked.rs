//! A request with what goes along with it.

use prost::Message as _;

use super::message as wire;
use super::request::{from_wire, to_wire};
use super::{WireError, hash, parsed};
use crate::asked::{Asked, Person};

impl Asked {
    /// The message as bytes, without length. Whoever knows no more than the request skips the rest.
    pub fn encode(&self) -> Vec<u8> {
        let asked_by = self.by.as_ref().map(|person| wire::Person {
            uid: person.uid,
            user: person.user.clone().unwrap_or_default(),
            host: person.host.as_ref().map(ToString::to_string).unwrap_or_default(),
            login: person.login.clone().unwrap_or_default(),
        });
        let credentials = self.credentials.map(|hash| hash.to_vec()).unwrap_or_default();
        wire::Request { asked_by, credentials, ..to_wire(&self.request) }.encode_to_vec()
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When the bytes are no request that this version knows.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut message = wire::Request::decode(bytes)?;
        let by = message.asked_by.take().map(person_from_wire).transpose()?;
        let credentials = hash(&message.credentials, "credentials")?;
        Ok(Self { request: from_wire(message)?, by, credentials })
    }
}

fn person_from_wire(person: wire::Person) -> Result<Person, WireError> {
    let name = |text: &str| Some(Person::name(text)).filter(|name| !name.is_empty());
    Ok(Person {
        host: match person.host.as_str() {
            "" => None,
            host => Some(parsed(host, "host")?),
        },
        uid: person.uid,
        user: name(&person.user),
        login: name(&person.login),
    })
}
