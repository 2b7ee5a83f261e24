//! The few nft expressions that the table's rules are made of.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::Attributes;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
const META_SOURCE: u16 = 3;
const COMPARE_REGISTER: u16 = 1;
const COMPARE_OPERATION: u16 = 2;
const COMPARE_DATA: u16 = 3;
const PAYLOAD_REGISTER: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const BITWISE_SOURCE: u16 = 1;
const BITWISE_REGISTER: u16 = 2;
const BITWISE_LENGTH: u16 = 3;
const BITWISE_MASK: u16 = 4;
const BITWISE_XOR: u16 = 5;
const TPROXY_FAMILY: u16 = 1;
const TPROXY_ADDRESS_REGISTER: u16 = 2;
const TPROXY_PORT_REGISTER: u16 = 3;
const QUEUE_NUMBER: u16 = 1;
const QUEUE_TOTAL: u16 = 2;
const LOOKUP_SET: u16 = 1;
const LOOKUP_REGISTER: u16 = 2;
const LOOKUP_FLAGS: u16 = 5;
const DYNSET_NAME: u16 = 1;
const DYNSET_OPERATION: u16 = 3;
const DYNSET_REGISTER: u16 = 4;
const TARGET_NAME: u16 = 1;
const TARGET_REVISION: u16 = 2;
const TARGET_INFO: u16 = 3;

const VERDICT: u32 = 0;
const REGISTER: u32 = 1;
const SECOND_REGISTER: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const META_MARK: u32 = 3;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const LOOKUP_INVERTED: u32 = 1;
const DYNSET_ADD: u32 = 0;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NFT_JUMP: u32 = (-3_i32).cast_unsigned();

const V4_SOURCE: u32 = 12;
const V6_SOURCE: u32 = 8;
const V4_DESTINATION: u32 = 16;
const V6_DESTINATION: u32 = 24;
const TCP_SOURCE_PORT: u32 = 0;
const ICMP_TYPE: u32 = 0;
const TCP_FLAGS: u32 = 13;
const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;

/// Writes the expressions of one rule.
pub(super) struct Expressions<'a, 'b> {
    list: &'a mut Attributes<'b>,
}

impl<'a, 'b> Expressions<'a, 'b> {
    pub(super) fn new(list: &'a mut Attributes<'b>) -> Self {
        Expressions { list }
    }

    pub(super) fn mark_is(&mut self, mark: u32) {
        self.meta(META_MARK);
        self.compare(&mark.to_ne_bytes());
    }

    pub(super) fn destination_is(&mut self, address: IpAddr) {
        match address {
            IpAddr::V4(v4) => self.destination_starts_with(&v4.octets(), libc::NFPROTO_IPV4),
            IpAddr::V6(v6) => self.destination_starts_with(&v6.octets(), libc::NFPROTO_IPV6),
        }
    }

    pub(super) fn destination_starts_with(&mut self, prefix: &[u8], family: i32) {
        self.family_is(family);
        let offset = if family == libc::NFPROTO_IPV4 { V4_DESTINATION } else { V6_DESTINATION };
        self.payload(BASE_NETWORK, offset, prefix.len() as u32);
        self.compare(prefix);
    }

    pub(super) fn source_is_in(&mut self, network: IpNet) {
        self.address_is_in(network, V4_SOURCE, V6_SOURCE);
    }

    pub(super) fn destination_is_in(&mut self, network: IpNet) {
        self.address_is_in(network, V4_DESTINATION, V6_DESTINATION);
    }

    fn address_is_in(&mut self, network: IpNet, v4_offset: u32, v6_offset: u32) {
        let (family, offset, address, mask) = match network {
            IpNet::V4(v4) => (
                libc::NFPROTO_IPV4,
                v4_offset,
                v4.network().octets().to_vec(),
                v4.netmask().octets().to_vec(),
            ),
            IpNet::V6(v6) => (
                libc::NFPROTO_IPV6,
                v6_offset,
                v6.network().octets().to_vec(),
                v6.netmask().octets().to_vec(),
            ),
        };
        self.family_is(family);
        self.payload(BASE_NETWORK, offset, mask.len() as u32);
        self.masked(&mask);
        self.compare(&address);
    }

    pub(super) fn icmp_is(&mut self, protocol: i32, kind: u8) {
        self.protocol_is(protocol);
        self.payload(BASE_TRANSPORT, ICMP_TYPE, 1);
        self.compare(&[kind]);
    }

    pub(super) fn set_mark(&mut self, mark: u32) {
        self.load(REGISTER, &mark.to_ne_bytes());
        self.expression("meta", |data| {
            data.be32(META_KEY, META_MARK);
            data.be32(META_SOURCE, REGISTER);
        });
    }

    pub(super) fn jump(&mut self, chain: &str) {
        self.expression("immediate", |data| {
            data.be32(IMMEDIATE_REGISTER, VERDICT);
            data.nest(IMMEDIATE_DATA, |operand| {
                operand.nest(DATA_VERDICT, |verdict| {
                    verdict.be32(VERDICT_CODE, NFT_JUMP);
                    verdict.text(VERDICT_CHAIN, chain);
                });
            });
        });
    }

    pub(super) fn is_syn(&mut self) {
        self.tcp_flags();
        self.compare(&[SYN]);
    }

    pub(super) fn is_tcp_but_no_syn(&mut self) {
        self.tcp_flags();
        self.compare_with(NOT_EQUAL, &[SYN]);
    }

    fn tcp_flags(&mut self) {
        self.protocol_is(libc::IPPROTO_TCP);
        self.payload(BASE_TRANSPORT, TCP_FLAGS, 1);
        self.masked(&[FIN_SYN_RST_ACK]);
    }

    fn masked(&mut self, bits: &[u8]) {
        self.expression("bitwise", |data| {
            data.be32(BITWISE_SOURCE, REGISTER);
            data.be32(BITWISE_REGISTER, REGISTER);
            data.be32(BITWISE_LENGTH, bits.len() as u32);
            data.nest(BITWISE_MASK, |mask| mask.put(DATA_VALUE, bits));
            data.nest(BITWISE_XOR, |xor| xor.put(DATA_VALUE, &vec![0; bits.len()]));
        });
    }

    /// Matches the first packet of a source port, for as long as the set remembers the port.
    pub(super) fn source_port_is_new_in(&mut self, set: &str) {
        self.payload(BASE_TRANSPORT, TCP_SOURCE_PORT, 2);
        self.expression("lookup", |data| {
            data.text(LOOKUP_SET, set);
            data.be32(LOOKUP_REGISTER, REGISTER);
            data.be32(LOOKUP_FLAGS, LOOKUP_INVERTED);
        });
        self.expression("dynset", |data| {
            data.text(DYNSET_NAME, set);
            data.be32(DYNSET_OPERATION, DYNSET_ADD);
            data.be32(DYNSET_REGISTER, REGISTER);
        });
    }

    /// What is of the protocol and of the listener's family goes to the listener, and no further rule sees it.
    pub(super) fn tproxy(&mut self, listener: IpAddr, protocol: i32, port: u16) {
        let (family, address) = match listener {
            IpAddr::V4(v4) => (libc::NFPROTO_IPV4, v4.octets().to_vec()),
            IpAddr::V6(v6) => (libc::NFPROTO_IPV6, v6.octets().to_vec()),
        };
        self.family_is(family);
        self.protocol_is(protocol);
        self.load(REGISTER, &address);
        self.load(SECOND_REGISTER, &port.to_be_bytes());
        self.expression("tproxy", |data| {
            data.be32(TPROXY_FAMILY, family.cast_unsigned());
            data.be32(TPROXY_ADDRESS_REGISTER, REGISTER);
            data.be32(TPROXY_PORT_REGISTER, SECOND_REGISTER);
        });
        self.accept();
    }

    pub(super) fn queue(&mut self, number: u16) {
        self.expression("queue", |data| {
            data.put(QUEUE_NUMBER, &number.to_be_bytes());
            data.put(QUEUE_TOTAL, &1u16.to_be_bytes());
        });
    }

    pub(super) fn xtables_nfqueue(&mut self, number: u16) {
        // struct xt_NFQ_info, padded as xtables wants it.
        let mut info = [0; 8];
        info[..2].copy_from_slice(&number.to_ne_bytes());
        self.expression("target", |data| {
            data.text(TARGET_NAME, "NFQUEUE");
            data.be32(TARGET_REVISION, 0);
            data.put(TARGET_INFO, &info);
        });
    }

    pub(super) fn accept(&mut self) {
        self.verdict(NF_ACCEPT);
    }

    pub(super) fn drop_packet(&mut self) {
        self.verdict(NF_DROP);
    }

    fn family_is(&mut self, family: i32) {
        self.meta(META_NFPROTO);
        self.compare(&[family as u8]);
    }

    pub(super) fn protocol_is(&mut self, protocol: i32) {
        self.meta(META_L4PROTO);
        self.compare(&[protocol as u8]);
    }

    fn meta(&mut self, key: u32) {
        self.expression("meta", |data| {
            data.be32(META_REGISTER, REGISTER);
            data.be32(META_KEY, key);
        });
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32) {
        self.expression("payload", |data| {
            data.be32(PAYLOAD_REGISTER, REGISTER);
            data.be32(PAYLOAD_BASE, base);
            data.be32(PAYLOAD_OFFSET, offset);
            data.be32(PAYLOAD_LENGTH, length);
        });
    }

    fn compare(&mut self, value: &[u8]) {
        self.compare_with(EQUAL, value);
    }

    fn compare_with(&mut self, operation: u32, value: &[u8]) {
        self.expression("cmp", |data| {
            data.be32(COMPARE_REGISTER, REGISTER);
            data.be32(COMPARE_OPERATION, operation);
            data.nest(COMPARE_DATA, |operand| operand.put(DATA_VALUE, value));
        });
    }

    fn load(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |data| {
            data.be32(IMMEDIATE_REGISTER, register);
            data.nest(IMMEDIATE_DATA, |operand| operand.put(DATA_VALUE, value));
        });
    }

    fn verdict(&mut self, code: u32) {
        self.expression("immediate", |data| {
            data.be32(IMMEDIATE_REGISTER, VERDICT);
            data.nest(IMMEDIATE_DATA, |operand| {
                operand.nest(DATA_VERDICT, |verdict| verdict.be32(VERDICT_CODE, code));
            });
        });
    }

    fn expression(&mut self, name: &str, body: impl FnOnce(&mut Attributes<'_>)) {
        self.list.nest(LIST_ELEMENT, |element| {
            element.text(EXPRESSION_NAME, name);
            element.nest(EXPRESSION_DATA, body);
        });
    }
}
