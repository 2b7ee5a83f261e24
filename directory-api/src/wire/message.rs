//! The messages as they are on the wire. Addresses and names are text, ids are bytes, times are milliseconds since 1970.

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Capsule {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub owner: String,
    #[prost(bytes = "vec", tag = "4")]
    pub locator_v4: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub locator_v6: Vec<u8>,
    #[prost(string, tag = "6")]
    pub host: String,
    #[prost(uint64, tag = "7")]
    pub generation: u64,
    #[prost(uint32, tag = "8")]
    pub state: u32,
    #[prost(message, optional, tag = "9")]
    pub offer: Option<Offer>,
    #[prost(message, optional, tag = "10")]
    pub last_outcome: Option<Outcome>,
    #[prost(uint64, tag = "11")]
    pub created_at_ms: u64,
    #[prost(bytes = "vec", tag = "12")]
    pub registration: Vec<u8>,
    #[prost(message, optional, tag = "13")]
    pub suspension: Option<Suspended>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Suspended {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub key_hash: Vec<u8>,
    #[prost(string, tag = "3")]
    pub host: String,
    #[prost(uint64, tag = "4")]
    pub at_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Offer {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(string, tag = "3")]
    pub target: String,
    #[prost(bytes = "vec", tag = "4")]
    pub claim_key_hash: Vec<u8>,
    #[prost(uint32, tag = "5")]
    pub state_before: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Outcome {
    #[prost(bytes = "vec", tag = "1")]
    pub offer: Vec<u8>,
    /// 1 claimed, 2 revoked, 3 taken over.
    #[prost(uint32, tag = "2")]
    pub outcome: u32,
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    #[prost(string, tag = "4")]
    pub host: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Host {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub address: String,
    #[prost(uint64, tag = "3")]
    pub last_seen_ms: u64,
    #[prost(bool, tag = "4")]
    pub alive: bool,
    #[prost(bool, tag = "5")]
    pub operator: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Error {
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// For readers that do not know the code.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The name, reason or sentence that the refusal is about.
    #[prost(string, tag = "3")]
    pub subject: String,
    #[prost(uint64, tag = "4")]
    pub number: u64,
    #[prost(uint64, tag = "5")]
    pub number_other: u64,
    #[prost(string, tag = "6")]
    pub host: String,
    #[prost(bytes = "vec", tag = "7")]
    pub offer: Vec<u8>,
    #[prost(message, optional, tag = "8")]
    pub outcome: Option<Outcome>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(
        oneof = "RequestKind",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 30, 31, 32, 40"
    )]
    pub kind: Option<RequestKind>,
    /// The person that the request goes back to.
    #[prost(message, optional, tag = "50")]
    pub asked_by: Option<Person>,
    /// What the host holds; empty from hosts that do not say.
    #[prost(bytes = "vec", tag = "51")]
    pub credentials: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Person {
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    /// Empty where the number has no name.
    #[prost(string, tag = "2")]
    pub user: String,
    /// The host on which the person asked.
    #[prost(string, tag = "3")]
    pub host: String,
    /// Who logged in, where that is another one.
    #[prost(string, tag = "4")]
    pub login: String,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum RequestKind {
    #[prost(message, tag = "1")]
    Join(Join),
    #[prost(bytes, tag = "2")]
    RenewCertificate(Vec<u8>),
    #[prost(message, tag = "3")]
    RenewLease(RenewLease),
    #[prost(message, tag = "4")]
    Register(Register),
    #[prost(message, tag = "5")]
    Lookup(Lookup),
    #[prost(message, tag = "6")]
    Offer(MakeOffer),
    #[prost(message, tag = "7")]
    Claim(EndOffer),
    #[prost(message, tag = "8")]
    Revoke(EndOffer),
    #[prost(message, tag = "9")]
    SetState(Held),
    #[prost(message, tag = "10")]
    Remove(Held),
    #[prost(message, tag = "11")]
    List(Empty),
    #[prost(message, tag = "12")]
    Hosts(Empty),
    #[prost(string, tag = "13")]
    RemoveHost(String),
    #[prost(uint64, tag = "14")]
    Watch(u64),
    #[prost(message, tag = "15")]
    TakeOver(TakeOver),
    #[prost(string, tag = "16")]
    RemoveHostByForce(String),
    #[prost(message, tag = "17")]
    Suspend(Suspension),
    #[prost(message, tag = "18")]
    Withdraw(Suspension),
    #[prost(message, tag = "19")]
    Resume(Suspension),
    #[prost(bytes, tag = "20")]
    AddedRecords(Vec<u8>),
    #[prost(message, tag = "30")]
    Rules(Empty),
    #[prost(message, tag = "31")]
    SetRule(Terms),
    #[prost(uint64, tag = "32")]
    RemoveRule(u64),
    #[prost(message, tag = "40")]
    Assert(Assertion),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Empty {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Join {
    #[prost(string, tag = "1")]
    pub token: String,
    #[prost(bytes = "vec", tag = "2")]
    pub csr: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RenewLease {
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// Empty when the host was not told an address.
    #[prost(string, tag = "2")]
    pub advertise: String,
    #[prost(message, repeated, tag = "3")]
    pub capsules: Vec<Held>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Held {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(uint32, tag = "3")]
    pub state: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Register {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub owner: String,
    #[prost(bytes = "vec", tag = "3")]
    pub registration: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Lookup {
    #[prost(oneof = "LookupKey", tags = "1, 2, 3")]
    pub key: Option<LookupKey>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum LookupKey {
    #[prost(string, tag = "1")]
    Name(String),
    #[prost(string, tag = "2")]
    Locator(String),
    #[prost(bytes, tag = "3")]
    Id(Vec<u8>),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MakeOffer {
    #[prost(bytes = "vec", tag = "1")]
    pub capsule: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub offer: Vec<u8>,
    #[prost(string, tag = "4")]
    pub target: String,
    #[prost(bytes = "vec", tag = "5")]
    pub claim_key_hash: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct EndOffer {
    #[prost(bytes = "vec", tag = "1")]
    pub capsule: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub offer: Vec<u8>,
    /// Only in a claim.
    #[prost(bytes = "vec", tag = "3")]
    pub key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Suspension {
    #[prost(bytes = "vec", tag = "1")]
    pub capsule: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    #[prost(bytes = "vec", tag = "3")]
    pub suspension: Vec<u8>,
    /// The key in a resume, its hash in a suspend.
    #[prost(bytes = "vec", tag = "4")]
    pub key: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TakeOver {
    #[prost(bytes = "vec", tag = "1")]
    pub capsule: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub takeover: Vec<u8>,
    /// The offer whose copy it goes on from; empty when it goes on from something else.
    #[prost(bytes = "vec", tag = "3")]
    pub copy: Vec<u8>,
    #[prost(bool, tag = "4")]
    pub host_is_gone: bool,
    #[prost(uint64, tag = "5")]
    pub generation: u64,
    /// The generation of the capsule file that it goes on from; zero, which no capsule in a file has, when it goes on
    /// from something else.
    #[prost(uint64, tag = "6")]
    pub file: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(oneof = "ResponseKind", tags = "1, 2, 3, 4, 5, 6, 7, 20, 30")]
    pub kind: Option<ResponseKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum ResponseKind {
    #[prost(message, tag = "1")]
    Error(Error),
    #[prost(message, tag = "2")]
    Issued(Issued),
    #[prost(message, tag = "3")]
    Lease(Lease),
    #[prost(message, tag = "4")]
    Capsule(Capsule),
    #[prost(message, tag = "5")]
    Capsules(Capsules),
    #[prost(message, tag = "6")]
    Hosts(Hosts),
    #[prost(message, tag = "7")]
    Done(Empty),
    #[prost(message, tag = "20")]
    AddedRecords(AddedRecords),
    #[prost(message, tag = "30")]
    Rules(Rules),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AddedRecords {
    #[prost(message, repeated, tag = "1")]
    pub records: Vec<AddedRecord>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AddedRecord {
    #[prost(string, tag = "1")]
    pub below: String,
    #[prost(uint32, tag = "2")]
    pub ttl_seconds: u32,
    #[prost(string, tag = "3")]
    pub kind: String,
    #[prost(string, tag = "4")]
    pub data: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Issued {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub chain: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    pub ca: Vec<u8>,
    #[prost(string, repeated, tag = "3")]
    pub api: Vec<String>,
    #[prost(string, repeated, tag = "4")]
    pub dns: Vec<String>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub also_trusted: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Lease {
    #[prost(uint64, tag = "1")]
    pub duration_ms: u64,
    #[prost(message, optional, tag = "2")]
    pub host: Option<Host>,
    #[prost(message, repeated, tag = "3")]
    pub stale: Vec<Stale>,
    #[prost(string, repeated, tag = "4")]
    pub api: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub dns: Vec<String>,
    /// Networks, by prefix.
    #[prost(string, repeated, tag = "6")]
    pub locators: Vec<String>,
    /// Empty from directories that do not say.
    #[prost(bytes = "vec", tag = "50")]
    pub credentials: Vec<u8>,
    #[prost(message, optional, tag = "40")]
    pub restoring: Option<Restoring>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Stale {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    /// Empty when the capsule was removed.
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(uint64, tag = "3")]
    pub generation: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Capsules {
    #[prost(message, repeated, tag = "1")]
    pub capsules: Vec<Capsule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hosts {
    #[prost(message, repeated, tag = "1")]
    pub hosts: Vec<Host>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Rules {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(message, repeated, tag = "2")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Rule {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(message, optional, tag = "2")]
    pub terms: Option<Terms>,
    #[prost(uint64, tag = "3")]
    pub set_at_ms: u64,
    #[prost(string, tag = "4")]
    pub set_by: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Terms {
    /// 1 allow, 2 deny.
    #[prost(uint32, tag = "1")]
    pub effect: u32,
    /// `OWNER/NAME`, either with `*`.
    #[prost(string, tag = "2")]
    pub from: String,
    #[prost(string, tag = "3")]
    pub to: String,
    #[prost(uint32, tag = "4")]
    pub port_first: u32,
    #[prost(uint32, tag = "5")]
    pub port_last: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchEvent {
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    #[prost(oneof = "WatchKind", tags = "2, 3, 4, 5, 6, 7, 30, 31")]
    pub kind: Option<WatchKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on its way to or from bytes")]
pub(super) enum WatchKind {
    #[prost(message, tag = "2")]
    Snapshot(SnapshotPiece),
    #[prost(message, tag = "3")]
    Capsule(Capsule),
    #[prost(message, tag = "4")]
    CapsuleRemoved(CapsuleRemoved),
    #[prost(message, tag = "5")]
    Host(Host),
    #[prost(string, tag = "6")]
    HostRemoved(String),
    #[prost(message, tag = "7")]
    Error(Error),
    #[prost(message, tag = "30")]
    Rule(Rule),
    #[prost(uint64, tag = "31")]
    RuleRemoved(u64),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SnapshotPiece {
    #[prost(message, repeated, tag = "1")]
    pub capsules: Vec<Capsule>,
    #[prost(message, repeated, tag = "2")]
    pub hosts: Vec<Host>,
    #[prost(bool, tag = "3")]
    pub last: bool,
    #[prost(message, repeated, tag = "30")]
    pub rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CapsuleRemoved {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TokenPayload {
    #[prost(string, tag = "1")]
    pub zone: String,
    #[prost(string, tag = "2")]
    pub host: String,
    #[prost(bool, tag = "3")]
    pub operator: bool,
    #[prost(uint64, tag = "4")]
    pub expires_at_s: u64,
    #[prost(bytes = "vec", tag = "5")]
    pub nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "6")]
    pub ca_hash: Vec<u8>,
    /// Empty: anybody's.
    #[prost(string, repeated, tag = "7")]
    pub owners: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Restoring {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(bool, tag = "2")]
    pub asks: bool,
    #[prost(string, repeated, tag = "3")]
    pub missing: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Assertion {
    #[prost(bytes = "vec", tag = "1")]
    pub restore: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    #[prost(string, repeated, tag = "3")]
    pub hosts: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    pub capsules: Vec<AssertedCapsule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AssertedCapsule {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub owner: String,
    #[prost(bytes = "vec", tag = "4")]
    pub locator_v4: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub locator_v6: Vec<u8>,
    #[prost(uint64, tag = "6")]
    pub generation: u64,
    #[prost(uint32, tag = "7")]
    pub state: u32,
    #[prost(message, optional, tag = "8")]
    pub offer: Option<AssertedOffer>,
    /// Empty when the host does not know.
    #[prost(bytes = "vec", tag = "9")]
    pub given_by: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AssertedOffer {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(string, tag = "2")]
    pub target: String,
    #[prost(bytes = "vec", tag = "3")]
    pub claim_key_hash: Vec<u8>,
}

/// Only in the store.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Restored {
    #[prost(bytes = "vec", tag = "1")]
    pub id: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    #[prost(uint64, tag = "3")]
    pub taken_at_ms: u64,
    #[prost(string, repeated, tag = "4")]
    pub awaited: Vec<String>,
}
