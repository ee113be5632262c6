//! The sets and maps of a table: their names and what their elements are made of.
//!
//! An element is bytes here, in the kernel's layout: every column padded to four bytes, addresses and ports in
//! network byte order, marks in host byte order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{statement::protocol_name, steering::Family};

/// What a column of a key, or a value, is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Address,
    Protocol,
    Port,
    Mark,
    EtherAddress,
}

impl Column {
    /// nft's number of the data type (`enum datatypes` of nft); the kernel only carries it.
    pub(crate) fn number(self, family: Family) -> u32 {
        match (self, family) {
            (Column::Address, Family::Ip4) => 7,
            (Column::Address, Family::Ip6) => 8,
            (Column::Protocol, _) => 12,
            (Column::Port, _) => 13,
            (Column::Mark, _) => 19,
            (Column::EtherAddress, _) => 9,
        }
    }

    /// Bytes, without the padding that a concatenation adds.
    pub(crate) fn len(self, family: Family) -> u32 {
        match self {
            Column::Address => family.address_len(),
            Column::Protocol => 1,
            Column::Port => 2,
            Column::Mark => 4,
            Column::EtherAddress => 6,
        }
    }

    fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Column::Address, Family::Ip4) => "ipv4_addr",
            (Column::Address, Family::Ip6) => "ipv6_addr",
            (Column::Protocol, _) => "inet_proto",
            (Column::Port, _) => "inet_service",
            (Column::Mark, _) => "mark",
            (Column::EtherAddress, _) => "ether_addr",
        }
    }

    /// The text of the value at the start of `bytes`.
    fn text(self, family: Family, bytes: &[u8]) -> String {
        match self {
            Column::Address => address(family, bytes).to_string(),
            Column::Protocol => protocol_name(bytes[0]),
            Column::Port => u16::from_be_bytes([bytes[0], bytes[1]]).to_string(),
            Column::Mark => format!("{:#010x}", u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            Column::EtherAddress => {
                let bytes: Vec<String> = bytes[..6].iter().map(|byte| format!("{byte:02x}")).collect();
                bytes.join(":")
            }
        }
    }
}

fn address(family: Family, bytes: &[u8]) -> IpAddr {
    match family {
        Family::Ip4 => Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[..4]).expect("four bytes")).into(),
        Family::Ip6 => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[..16]).expect("sixteen bytes")).into(),
    }
}

/// A named set, or a map if it has a value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Set {
    pub(crate) name: &'static str,
    pub(crate) key: &'static [Column],
    pub(crate) value: Option<Column>,
    /// Looked up by a raw part of the payload: nft's text then wants its type, an integer, and not an address.
    pub(crate) raw: bool,
}

impl Set {
    const fn new(name: &'static str, key: &'static [Column]) -> Self {
        Set { name, key, value: None, raw: false }
    }

    const fn map(name: &'static str, key: &'static [Column], value: Column) -> Self {
        Set { name, key, value: Some(value), raw: false }
    }

    /// nft's number of the key's type: six bits a column.
    pub(crate) fn key_number(&self, family: Family) -> u32 {
        self.key.iter().fold(0, |number, column| number << 6 | column.number(family))
    }

    /// Bytes of a key.
    pub(crate) fn key_len(&self, family: Family) -> u32 {
        match self.key {
            [column] => column.len(family),
            columns => columns.iter().map(|column| column.len(family).next_multiple_of(4)).sum(),
        }
    }

    /// The declaration's type clause in nft's text. `raw` is the expression a raw set is looked up by.
    pub(crate) fn type_text(&self, family: Family, raw: &str) -> String {
        if self.raw {
            return format!("typeof {raw}");
        }
        let key: Vec<_> = self.key.iter().map(|column| column.name(family)).collect();
        match self.value {
            None => format!("type {}", key.join(" . ")),
            Some(value) => format!("type {} : {}", key.join(" . "), value.name(family)),
        }
    }

    /// An element in nft's text.
    pub(crate) fn element_text(&self, family: Family, key: &[u8], value: &[u8]) -> String {
        if self.raw {
            return key.iter().fold("0x".into(), |text, byte| format!("{text}{byte:02x}"));
        }
        let mut rest = key;
        let columns: Vec<_> = self
            .key
            .iter()
            .map(|column| {
                let text = column.text(family, rest);
                rest = rest.get(column.len(family).next_multiple_of(4) as usize..).unwrap_or_default();
                text
            })
            .collect();
        match self.value {
            None => columns.join(" . "),
            Some(column) => format!("{} : {}", columns.join(" . "), column.text(family, value)),
        }
    }
}

const ADDRESS: &[Column] = &[Column::Address];
const ADDRESS_PROTOCOL: &[Column] = &[Column::Address, Column::Protocol];
const ADDRESS_PROTOCOL_PORT: &[Column] = &[Column::Address, Column::Protocol, Column::Port];
const MARK: &[Column] = &[Column::Mark];
const PROTOCOL: &[Column] = &[Column::Protocol];
const ETHER_ADDRESS: &[Column] = &[Column::EtherAddress];
const ADDRESS_MARK: &[Column] = &[Column::Address, Column::Mark];

/// The interfaces of other directors, which may have this one for a server.
pub(crate) static PEERS: Set = Set::new("peers", ETHER_ADDRESS);
/// The protocols of tunnels out of which nothing is balanced.
pub(crate) static IGNORED_TUNNELS: Set = Set::new("ignored_tunnels", PROTOCOL);
/// The protocols whose packets are dropped, rather than refused or let through, where nobody has decided about them.
pub(crate) static SILENT: Set = Set::new("silent", PROTOCOL);
/// The operator's marks that have a service.
pub(crate) static FWMARKS: Set = Set::new("fwmarks", MARK);
/// ICMP, while there is a service by mark: its errors may be about any address.
pub(crate) static ERRORS_ABOUT_ANY: Set = Set::new("errors_about_any", PROTOCOL);
/// The addresses of services of FTP that take data connections as well.
pub(crate) static FTP_DATA: Set = Set::new("ftp_data", ADDRESS);
/// Those that servers reached by direct routing answer as.
pub(crate) static FTP_DATA_REPLIES: Set = Set::new("ftp_data_replies", ADDRESS);
/// Virtual services.
pub(crate) static SERVICES: Set = Set::new("services", ADDRESS_PROTOCOL_PORT);
/// Virtual services of every port of an address.
pub(crate) static SERVICES_ANY_PORT: Set = Set::new("services_any_port", ADDRESS_PROTOCOL);
/// The addresses of virtual services.
pub(crate) static VIPS: Set = Set::new("vips", ADDRESS);
/// Those that answer echo requests.
pub(crate) static PINGABLE: Set = Set::new("pingable", ADDRESS);
/// Real servers as they are seen in the source of a reply.
pub(crate) static SERVERS: Set = Set::new("servers", ADDRESS_PROTOCOL_PORT);
/// Real servers of services of every port.
pub(crate) static SERVERS_ANY_PORT: Set = Set::new("servers_any_port", ADDRESS_PROTOCOL);
/// The addresses of real servers.
pub(crate) static SERVER_ADDRESSES: Set = Set { raw: true, ..Set::new("server_addresses", ADDRESS) };
/// The marks that are keys of `reply_address`: nft cannot ask a map whether it has a key.
pub(crate) static REPLY_MARKS: Set = Set::new("reply_marks", MARK);
/// The address that the mark names.
pub(crate) static REPLY_ADDRESS: Set = Set::map("reply_address", MARK, Column::Address);
/// The port that the mark names; none for a service of every port.
pub(crate) static REPLY_PORT: Set = Set::map("reply_port", MARK, Column::Port);
/// A mark that names the VIP.
pub(crate) static VIP_MARKS: Set = Set::map("vip_marks", ADDRESS, Column::Mark);

/// Those of `services` whose servers are all reached by direct routing.
pub(crate) static ROUTED_SERVICES: Set = Set::new("routed_services", ADDRESS_PROTOCOL_PORT);
/// Those of `services_any_port`.
pub(crate) static ROUTED_SERVICES_ANY_PORT: Set = Set::new("routed_services_any_port", ADDRESS_PROTOCOL);
/// Those of `ftp_data`.
pub(crate) static ROUTED_FTP_DATA: Set = Set::new("routed_ftp_data", ADDRESS);
/// Those of `services` that have, or had, a server behind a tunnel.
pub(crate) static TUNNELLED_SERVICES: Set = Set::new("tunnelled_services", ADDRESS_PROTOCOL_PORT);
/// Those of `services_any_port`.
pub(crate) static TUNNELLED_SERVICES_ANY_PORT: Set =
    Set::new("tunnelled_services_any_port", ADDRESS_PROTOCOL);
/// Those of `ftp_data`.
pub(crate) static TUNNELLED_FTP_DATA: Set = Set::new("tunnelled_ftp_data", ADDRESS);
/// Those of `fwmarks`.
pub(crate) static TUNNELLED_FWMARKS: Set = Set::new("tunnelled_fwmarks", MARK);
/// The marks that name a VIP and a server reached by direct routing, or whose replies are routed as its own.
pub(crate) static ROUTE_MARKS: Set = Set::new("route_marks", MARK);
/// The keys of `route_vips`.
pub(crate) static ROUTED: Set = Set::new("routed", ADDRESS_MARK);
/// The server that a VIP and a mark name.
pub(crate) static ROUTE_SERVERS: Set = Set::map("route_servers", ADDRESS_MARK, Column::Address);
/// The VIP that a server and a mark name.
pub(crate) static ROUTE_VIPS: Set = Set::map("route_vips", ADDRESS_MARK, Column::Address);

/// Every set of a table. The position is the index in [`Elements`](crate::Elements).
pub(crate) static ALL: [&Set; 29] = [
    &PEERS,
    &IGNORED_TUNNELS,
    &SILENT,
    &FWMARKS,
    &ERRORS_ABOUT_ANY,
    &FTP_DATA,
    &FTP_DATA_REPLIES,
    &SERVICES,
    &SERVICES_ANY_PORT,
    &VIPS,
    &PINGABLE,
    &SERVERS,
    &SERVERS_ANY_PORT,
    &SERVER_ADDRESSES,
    &REPLY_MARKS,
    &REPLY_ADDRESS,
    &REPLY_PORT,
    &VIP_MARKS,
    &ROUTED_SERVICES,
    &ROUTED_SERVICES_ANY_PORT,
    &ROUTED_FTP_DATA,
    &TUNNELLED_SERVICES,
    &TUNNELLED_SERVICES_ANY_PORT,
    &TUNNELLED_FTP_DATA,
    &TUNNELLED_FWMARKS,
    &ROUTE_MARKS,
    &ROUTED,
    &ROUTE_SERVERS,
    &ROUTE_VIPS,
];
