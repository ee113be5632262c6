//! What one record says, whatever the version it came in.

use crate::fixed::{field, put};
use crate::{ConnFlags, OptionalParameters, states};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// One connection, or one template of persistence.
///
/// Engine and optional parameters lie in the datagram that the record came from. Version 0 has no fwmark, timeout,
/// engine and optional parameters: what is decoded from it has none, and what is encoded into it loses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// IP protocol number; 0 in templates of a firewall mark.
    pub protocol: u8,
    /// As on the wire. What a receiver takes of them, and when, is for the receiver.
    pub flags: ConnFlags,
    /// The state's number in its protocol.
    pub state: u16,
    /// The client's port.
    pub client_port: u16,
    /// The port of the virtual service.
    pub virtual_port: u16,
    /// The real server's port.
    pub server_port: u16,
    /// Whose they are.
    pub addresses: Addresses,
    /// The mark of the packet that opened the connection; 0: none.
    pub fwmark: u32,
    /// How long the connection lives without packets, in its present state; 0: as the receiver has it for the state.
    pub timeout_seconds: u32,
    /// How sequence numbers are adjusted. The [flags](ConnFlags::SEQUENCE) say it too, but a record may have either
    /// without the other; such a record is decoded and not encoded.
    pub sequence: Option<SequenceShifts>,
    /// What a persistence engine knows the template by.
    pub engine: Option<Engine<'a>>,
    /// Parameters that receivers skip if they do not know them.
    pub optional: OptionalParameters<'a>,
}

impl Record<'_> {
    /// Whether it is a template of persistence, and not a connection.
    pub const fn is_template(&self) -> bool {
        self.flags.contains(ConnFlags::TEMPLATE)
    }

    /// The firewall mark that the template is of, which stands in place of the virtual address.
    ///
    /// ```
    /// # use sync_proto::*;
    /// # let parties = Parties { client: [10, 0, 1, 2].into(), vip: [0, 0, 0, 85].into(), server: [10, 0, 2, 11].into() };
    /// # let template = Record { protocol: 0, flags: ConnFlags::from_bits(0x1100), state: 1, client_port: 0,
    /// #     virtual_port: 0, server_port: 0, addresses: Addresses::V4(parties), fwmark: 85, timeout_seconds: 300,
    /// #     sequence: None, engine: None, optional: OptionalParameters::default() };
    /// assert_eq!(template.addresses.vip().to_string(), "0.0.0.85");
    /// assert_eq!(template.template_mark(), Some(85));
    /// ```
    pub const fn template_mark(&self) -> Option<u32> {
        if !self.is_template() || self.protocol != 0 {
            return None;
        }
        match self.addresses {
            Addresses::V4(Parties { vip, .. }) => Some(vip.to_bits()),
            Addresses::V6(Parties { vip, .. }) => Some((vip.to_bits() >> 96) as u32),
        }
    }

    /// The state by the name that the kernel shows it under; none if there is no such state.
    pub fn state_name(&self) -> Option<&'static str> {
        let kind = (!self.is_template()).then_some(self.protocol);
        states::state_name(kind, self.state)
    }
}

/// The three addresses of a record; all are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// IPv4.
    V4(Parties<Ipv4Addr>),
    /// IPv6.
    V6(Parties<Ipv6Addr>),
}

impl Addresses {
    /// The addresses of client, virtual service and real server. None: they are of different families.
    pub const fn new(client: IpAddr, vip: IpAddr, server: IpAddr) -> Option<Addresses> {
        match (client, vip, server) {
            (IpAddr::V4(client), IpAddr::V4(vip), IpAddr::V4(server)) => {
                Some(Addresses::V4(Parties { client, vip, server }))
            }
            (IpAddr::V6(client), IpAddr::V6(vip), IpAddr::V6(server)) => {
                Some(Addresses::V6(Parties { client, vip, server }))
            }
            _ => None,
        }
    }

    /// The client's.
    pub const fn client(&self) -> IpAddr {
        match self {
            Addresses::V4(parties) => IpAddr::V4(parties.client),
            Addresses::V6(parties) => IpAddr::V6(parties.client),
        }
    }

    /// The virtual service's.
    pub const fn vip(&self) -> IpAddr {
        match self {
            Addresses::V4(parties) => IpAddr::V4(parties.vip),
            Addresses::V6(parties) => IpAddr::V6(parties.vip),
        }
    }

    /// The real server's.
    pub const fn server(&self) -> IpAddr {
        match self {
            Addresses::V4(parties) => IpAddr::V4(parties.server),
            Addresses::V6(parties) => IpAddr::V6(parties.server),
        }
    }
}

/// Who takes part in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parties<A> {
    /// Who asks.
    pub client: A,
    /// Whom the client asks; in a template of a firewall mark, see [`Record::template_mark`].
    pub vip: A,
    /// Who answers.
    pub server: A,
}

/// The persistence engine of a template, and what it goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Engine<'a> {
    /// The engine: `sip`. 1 to 16 bytes; in records that were decoded, any.
    pub name: &'a [u8],
    /// What the engine knows the template by, 1 to 255 bytes; for `sip`, the Call-ID.
    pub data: &'a [u8],
}

/// How the sequence numbers of a TCP connection are adjusted, each way (`struct ip_vs_seq` of `ip_vs.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SequenceShifts {
    /// Of what the client sends.
    pub input: SequenceShift,
    /// Of what the server sends.
    pub output: SequenceShift,
}

impl SequenceShifts {
    /// Reads the six numbers, in a byte order of the caller's choice.
    pub(crate) fn read(bytes: &[u8; 24], number: fn([u8; 4]) -> u32) -> SequenceShifts {
        let shift = |[init_seq, delta, previous_delta]: [[u8; 4]; 3]| SequenceShift {
            init_seq: number(init_seq),
            delta: number(delta),
            previous_delta: number(previous_delta),
        };
        SequenceShifts {
            input: shift([field::<0, 4, _>(bytes), field::<4, 4, _>(bytes), field::<8, 4, _>(bytes)]),
            output: shift([field::<12, 4, _>(bytes), field::<16, 4, _>(bytes), field::<20, 4, _>(bytes)]),
        }
    }

    /// The reverse of [`read`](Self::read).
    pub(crate) fn written(self, bytes: fn(u32) -> [u8; 4]) -> [u8; 24] {
        let SequenceShifts { input, output } = self;
        let mut written = [0; 24];
        put::<0, 4, _>(&mut written, bytes(input.init_seq));
        put::<4, 4, _>(&mut written, bytes(input.delta));
        put::<8, 4, _>(&mut written, bytes(input.previous_delta));
        put::<12, 4, _>(&mut written, bytes(output.init_seq));
        put::<16, 4, _>(&mut written, bytes(output.delta));
        put::<20, 4, _>(&mut written, bytes(output.previous_delta));
        written
    }
}

/// How the sequence numbers of one direction are adjusted. Deltas are two's complement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SequenceShift {
    /// Where the last segment begins whose length was changed.
    pub init_seq: u32,
    /// What is added to the numbers behind it.
    pub delta: u32,
    /// What is added to the numbers before it.
    pub previous_delta: u32,
}
