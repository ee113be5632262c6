//! Control connections followed: what is heard there makes data connections, and is told on as the client has to hear
//! it (`ip_vs_ftp_in`, `ip_vs_ftp_out`).

use super::{Announced, Application, Control, ftp};
use crate::director::connection::{Handle, InboundKey, OutboundKey, Shard};
use crate::director::engine::Director;
use crate::director::packet::{FlowInfo, Packet, Segment, SegmentEdit, Transport, is_after};
use crate::director::protocol::{Direction, State, TcpState};
use crate::director::scheduling::PORT_ATTEMPTS;
use crate::director::service::{FIRST_UNPRIVILEGED_PORT, Family, ServiceKey, Services};
use crate::director::{DropReason, Time};
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::ops::Range;
use sync_proto::ConnFlags;

/// Which bytes of a payload give way, and to what.
type Replaced = (Range<usize>, Vec<u8>);

/// A control connection, and all that it takes to follow it.
struct Followed<'a> {
    director: &'a Director,
    now: Time,
    services: &'a Services,
    shard: &'a mut Shard,
    handle: Handle,
}

/// The ports of a data connection.
struct DataPorts {
    /// 0: whichever the client takes.
    client: u16,
    virtual_address: u16,
    server: u16,
}

impl Director {
    /// Reads a packet of a connection, if it is a control connection. What changes in it beside its endpoints; `None`:
    /// nothing.
    pub(in crate::director) fn follow(
        &self,
        now: Time,
        services: &Services,
        (shard, handle): (&mut Shard, Handle),
        direction: Direction,
        packet: &mut Packet<'_>,
        flow: &FlowInfo,
    ) -> Result<Option<SegmentEdit>, DropReason> {
        if shard.get(handle).control().is_none() {
            return Ok(None);
        }
        let segment = packet.segment(flow)?;
        let mut followed = Followed { director: self, now, services, shard, handle };
        let replaced = match direction {
            Direction::Input | Direction::InputOnly => {
                followed.hear_commands(segment.payload)?;
                None
            }
            Direction::Output => followed.tell_answer(&segment)?,
        };
        let edit = followed.control()?.edit(direction, replaced);
        Ok(Some(edit).filter(|edit| !edit.is_none()))
    }

    /// The connection that is waited for from this client, whose port it learns by that (`ip_vs_conn_fill_cport`).
    pub(in crate::director) fn meet_expected(
        &self,
        now: Time,
        shard: &mut Shard,
        key: &InboundKey,
    ) -> Option<Handle> {
        let handle = shard.find_expected(key, now)?;
        let server = shard.get(handle).server_address();
        let seen = self.server_side_port(now, shard, key, server, PORT_ATTEMPTS, None).ok()?;
        Some(self.table.rekey(shard, handle, now, |connection| connection.meet(key.client.port(), seen)))
    }
}

impl Followed<'_> {
    fn control(&mut self) -> Result<&mut Control, DropReason> {
        self.shard.get_mut(self.handle).control_mut().ok_or(DropReason::Malformed)
    }

    fn is_established(&self) -> bool {
        self.shard.get(self.handle).state == State::Tcp(TcpState::Established)
    }

    fn hear_commands(&mut self, payload: &[u8]) -> Result<(), DropReason> {
        if !self.is_established() {
            return Ok(());
        }
        let client = self.shard.get(self.handle).client().ip();
        for command in ftp::commands(payload, Family::of(client)) {
            self.control()?.awaits_answer = command == ftp::Command::Passive;
            // A server that is told to connect to somebody else is being misused (RFC 2577, 3).
            if let ftp::Command::Active(waits) = command
                && waits.ip() == client
            {
                self.expect_active(waits.port())?;
            }
        }
        Ok(())
    }

    /// What a server's answer has to be for the client.
    fn tell_answer(&mut self, segment: &Segment<'_>) -> Result<Option<Replaced>, DropReason> {
        let vip = self.shard.get(self.handle).virtual_address().ip();
        let Some(answer) = ftp::answer(segment.payload, Family::of(vip)) else { return Ok(None) };
        let is_established = self.is_established();
        let control = self.control()?;
        let told = control.announced.filter(|announced| {
            announced.server_port == answer.port && !is_after(segment.sequence, announced.sequence)
        });
        let virtual_port = match told {
            Some(told) => told.virtual_port,
            None if control.awaits_answer && is_established => self.data_port(answer.port)?,
            None => return Ok(None),
        };
        let text = answer.telling(SocketAddr::new(vip, virtual_port));
        let longer = text.len() as i32 - answer.place.len() as i32;
        if longer != 0 && segment.is_several {
            return Err(DropReason::FtpSegments);
        }
        if told.is_none() {
            self.expect(&DataPorts { client: 0, virtual_address: virtual_port, server: answer.port })?;
            let sequence = segment.sequence;
            let control = self.control()?;
            control.awaits_answer = false;
            control.announced = Some(Announced { sequence, server_port: answer.port, virtual_port });
            if longer != 0 {
                control.out_seq.note(sequence, longer);
                self.shard.get_mut(self.handle).flags.insert(ConnFlags::OUT_SEQ);
            }
        }
        Ok(Some((answer.place, text)))
    }

    /// The port of the virtual address at which the client is to reach `server_port` of the server: the same, unless a
    /// service has it, or the client is awaited there already, or the rules do not expect FTP there.
    fn data_port(&self, server_port: u16) -> Result<u16, DropReason> {
        let Followed { director, now, services, ref shard, handle } = *self;
        let connection = shard.get(handle);
        let address = connection.virtual_address().ip();
        let client = SocketAddr::new(connection.client().ip(), 0);
        let server = SocketAddr::new(connection.server.address, server_port);
        let awaited = OutboundKey { transport: Transport::Tcp, client, server };
        let awaited = shard.find_outbound(&awaited, now).map(|found| shard.get(found).virtual_address());
        if let Some(awaited) = awaited.filter(|awaited| awaited.ip() == address) {
            return Ok(awaited.port());
        }
        let is_free = |port: &u16| {
            let virtual_address = SocketAddr::new(address, *port);
            let key = InboundKey { transport: Transport::Tcp, client, virtual_address };
            let service = ServiceKey::Endpoint { transport: Transport::Tcp, address, port: *port };
            services.get(&service).is_none() && shard.find_inbound(&key, now).is_none()
        };
        let span = u32::from(u16::MAX - FIRST_UNPRIVILEGED_PORT) + 1;
        let start = director.hasher.hash_one((client, server)) as u32 % span;
        let others = (0..u32::from(PORT_ATTEMPTS))
            .map(|step| FIRST_UNPRIVILEGED_PORT + ((start + step) % span) as u16);
        std::iter::once(server_port)
            .filter(|port| *port >= FIRST_UNPRIVILEGED_PORT)
            .chain(others)
            .find(is_free)
            .ok_or(DropReason::PortsExhausted)
    }

    /// Makes the connection by which the server is about to reach the client: from the port below that of the service,
    /// as the client has to see it (RFC 959, 3.2).
    fn expect_active(&mut self, client_port: u16) -> Result<(), DropReason> {
        let connection = self.shard.get(self.handle);
        let below = |endpoint: SocketAddr| endpoint.port().checked_sub(1).filter(|port| *port != 0);
        match (below(connection.virtual_address()), below(connection.server_address())) {
            (Some(virtual_address), Some(server)) => {
                self.expect(&DataPorts { client: client_port, virtual_address, server })
            }
            _ => Ok(()),
        }
    }

    /// Makes a data connection, in place of one that was waited for there.
    fn expect(&mut self, ports: &DataPorts) -> Result<(), DropReason> {
        let hold = self.control()?.data_connections.hold();
        let Followed { director, now, services, ref mut shard, handle } = *self;
        let mut expected = shard.get(handle).announced(ports.client, ports.virtual_address, ports.server);
        expected.application = Some(Box::new(Application::Data(hold)));
        expected.set_timeout(services.timeouts_of(&expected.service).of(expected.state));
        let inbound = shard.find_inbound(&expected.inbound_key(), now);
        let outbound = shard.find_outbound(&expected.outbound_key(), now).filter(|it| inbound != Some(*it));
        let present = [inbound, outbound];
        if present.iter().flatten().any(|found| !shard.get(*found).is_data()) {
            // The client uses that port for something else, and nobody can reach it there.
            return Ok(());
        }
        present.into_iter().flatten().for_each(|found| director.table.remove(shard, found));
        director.table.insert(shard, expected, now).map(|_| ()).ok_or(DropReason::TableFull)
    }
}
