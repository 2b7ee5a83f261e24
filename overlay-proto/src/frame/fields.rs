//! Fields that several messages share, to and from their types. Every field from outside is checked here.

use std::net::{IpAddr, SocketAddr};

use super::codec::FrameError;
use super::wire;
use crate::id::{Generation, SessionId};
use crate::session::{AttachKey, End, EndKind, Role};

pub(crate) fn address_to_wire(address: SocketAddr) -> wire::Address {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    wire::Address { ip, port: u32::from(address.port()) }
}

pub(crate) fn address(
    message: Option<&wire::Address>,
    field: &'static str,
) -> Result<SocketAddr, FrameError> {
    let message = message.ok_or(FrameError::Field(field))?;
    let ip = if let Ok(v4) = <[u8; 4]>::try_from(message.ip.as_slice()) {
        IpAddr::from(v4)
    } else {
        IpAddr::from(fixed::<16>(&message.ip, field)?)
    };
    let port = u16::try_from(message.port).map_err(|_| FrameError::Field(field))?;
    Ok(SocketAddr::new(ip, port))
}

pub(crate) fn fixed<const LENGTH: usize>(
    bytes: &[u8],
    field: &'static str,
) -> Result<[u8; LENGTH], FrameError> {
    bytes.try_into().map_err(|_| FrameError::Field(field))
}

pub(crate) fn session(bytes: &[u8]) -> Result<SessionId, FrameError> {
    Ok(SessionId::from_bytes(fixed(bytes, "session")?))
}

pub(crate) fn role_to_wire(role: Role) -> i32 {
    match role {
        Role::Opener => wire::Role::Opener.into(),
        Role::Acceptor => wire::Role::Acceptor.into(),
    }
}

pub(crate) fn role(number: i32) -> Result<Role, FrameError> {
    match wire::Role::try_from(number) {
        Ok(wire::Role::Opener) => Ok(Role::Opener),
        Ok(wire::Role::Acceptor) => Ok(Role::Acceptor),
        Ok(wire::Role::Unset) | Err(_) => Err(FrameError::Field("role")),
    }
}

pub(crate) fn key_to_wire(key: AttachKey) -> wire::Key {
    wire::Key {
        opener_generation: key.opener_generation.number(),
        acceptor_generation: key.acceptor_generation.number(),
        attempt: key.attempt,
    }
}

pub(crate) fn key(message: Option<wire::Key>) -> Result<AttachKey, FrameError> {
    let message = message.ok_or(FrameError::Field("key"))?;
    Ok(AttachKey {
        opener_generation: Generation::new(message.opener_generation),
        acceptor_generation: Generation::new(message.acceptor_generation),
        attempt: message.attempt,
    })
}

pub(crate) fn end_kind_to_wire(kind: Option<EndKind>) -> i32 {
    match kind {
        None => wire::EndKind::None.into(),
        Some(EndKind::Fin) => wire::EndKind::Fin.into(),
        Some(EndKind::Reset) => wire::EndKind::Reset.into(),
    }
}

pub(crate) fn end_kind(number: i32) -> Result<Option<EndKind>, FrameError> {
    match wire::EndKind::try_from(number) {
        Ok(wire::EndKind::None) => Ok(None),
        Ok(wire::EndKind::Fin) => Ok(Some(EndKind::Fin)),
        Ok(wire::EndKind::Reset) => Ok(Some(EndKind::Reset)),
        Err(_) => Err(FrameError::Field("end")),
    }
}

pub(crate) fn end(kind: i32, offset: u64) -> Result<Option<End>, FrameError> {
    Ok(end_kind(kind)?.map(|kind| End { kind, offset }))
}
