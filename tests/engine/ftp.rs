//! FTP through NAT: what is said on the control connection, and the data connections that follow from it.

use crate::bed::{ACK, Bed, FIN, RST, SYN, endpoints, ip, key, marked, routed, server, tcp};
use etherparse::{SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use nfvs::director::defence::DefenceMode;
use nfvs::director::packet::Transport::Tcp;
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{ClientMask, Family, Fwmark, Persistence, ServiceSettings, Tunables};
use nfvs::director::{Command, DropReason, Hook, PacketMeta, Refusal, ReplySource, ServerSpec, Verdict};
use proptest::prelude::*;
use std::net::SocketAddr;
use std::time::Duration;

/// A client's address, a virtual one, a server's.
const V4: [&str; 3] = ["10.0.1.2", "10.0.0.100", "10.0.2.11"];
const V6: [&str; 3] = ["fd00:1::2", "fd00::100", "fd00:2::11"];
const FAMILIES: [[&str; 3]; 2] = [V4, V6];

fn at(address: &str, port: u16) -> String {
    SocketAddr::new(address.parse().unwrap(), port).to_string()
}

fn meta(bytes: &[u8]) -> PacketMeta {
    let original_len = bytes.len();
    PacketMeta { hook: Hook::Prerouting, checksum_owed: false, gso: false, original_len, mark: None }
}

/// A segment with these numbers, which acknowledges selectively if there is a `gap`.
fn segment(from: &str, to: &str, numbers: [u32; 2], gap: Option<(u32, u32)>, payload: &[u8]) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let mut header = TcpHeader::new(from.port(), to.port(), numbers[0], 4096);
    (header.ack, header.acknowledgment_number) = (true, numbers[1]);
    if let Some(gap) = gap {
        // Behind one byte of padding, where no number of 32 bits is aligned.
        let options =
            [TcpOptionElement::Noop, TcpOptionElement::SelectiveAcknowledgement(gap, [None, None, None])];
        header.set_options(&options).unwrap();
    }
    let mut bytes = Vec::new();
    ip(from.ip(), to.ip()).tcp_header(header).write(&mut bytes, payload).unwrap();
    bytes
}

/// Numbers, the first block of a selective acknowledgement, and payload of a segment.
fn numbers(bytes: &[u8]) -> ([u32; 2], Option<(u32, u32)>, Vec<u8>) {
    let Some(TransportSlice::Tcp(tcp)) = SlicedPacket::from_ip(bytes).unwrap().transport else {
        panic!("not TCP")
    };
    let gap = tcp.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::SelectiveAcknowledgement(gap, _)) => Some(gap),
        _ => None,
    });
    ([tcp.sequence_number(), tcp.acknowledgment_number()], gap, tcp.payload().to_vec())
}

/// A control connection between two ends that count as TCP does. Whatever the director makes of what they send has to
/// fit what they have sent and received.
struct Talk {
    bed: Bed,
    client: String,
    vip: String,
    server: String,
    /// The client's next number.
    asks: u32,
    /// The server's next number, and what the client thinks it is.
    answers: u32,
    hears: u32,
}

impl Talk {
    fn new([client, vip, server]: [&str; 3]) -> Talk {
        let bed = Bed::serving(Tcp, &at(vip, 21), Rr, &[&at(server, 2121)]);
        Talk::begin(bed, &at(client, 5000), &at(vip, 21))
    }

    /// Opens the control connection; the numbers of both are about to go round.
    fn begin(bed: Bed, client: &str, vip: &str) -> Talk {
        let server = bed.tcp(client, vip, SYN).destination();
        bed.tcp(&server, client, SYN | ACK);
        bed.tcp(client, vip, ACK);
        let [client, vip] = [client, vip].map(str::to_owned);
        Talk { bed, client, vip, server, asks: 0xffff_fff0, answers: 0xffff_ff00, hears: 0xffff_ff00 }
    }

    /// The client says something, and the server hears just that.
    #[track_caller]
    fn ask(&mut self, said: &str) {
        let gap = (self.hears, self.hears.wrapping_add(7));
        let sent = segment(&self.client, &self.vip, [self.asks, self.hears], Some(gap), said.as_bytes());
        let (verdict, bytes) = self.bed.handle_resizing(&meta(&sent), sent);
        assert!(matches!(verdict, Verdict::Forward { .. }), "{verdict:?}");
        let gap = (self.answers, self.answers.wrapping_add(7));
        assert_eq!(numbers(&bytes), ([self.asks, self.answers], Some(gap), said.as_bytes().to_vec()));
        self.asks = self.asks.wrapping_add(said.len() as u32);
    }

    /// The server says something new; what the client hears.
    #[track_caller]
    fn answer(&mut self, said: &str) -> String {
        let (at, seen) = (self.answers, self.hears);
        let heard = self.answer_at(at, seen, said);
        self.answers = at.wrapping_add(said.len() as u32);
        self.hears = seen.wrapping_add(heard.len() as u32);
        heard
    }

    /// The server says something that begins at `at`, which the client knows as `seen`.
    #[track_caller]
    fn answer_at(&self, at: u32, seen: u32, said: &str) -> String {
        let sent = segment(&self.server, &self.client, [at, self.asks], None, said.as_bytes());
        let (verdict, bytes) = self.bed.handle_resizing(&meta(&sent), sent);
        assert!(matches!(verdict, Verdict::Forward { source: Some(_), .. }), "{verdict:?}");
        let (has, _, heard) = numbers(&bytes);
        assert_eq!(has, [seen, self.asks]);
        String::from_utf8(heard).unwrap()
    }

    fn connections(&self) -> Vec<String> {
        self.bed.states().into_iter().filter(|state| !state.contains(":5000")).collect()
    }
}

/// `227` with the port of a server, or of the virtual address.
fn entering(address: &str, port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    format!("227 Entering Passive Mode ({},{high},{low}).\r\n", address.replace('.', ","))
}

fn extended(port: u16) -> String {
    format!("229 Entering Extended Passive Mode (|||{port}|)\r\n")
}

/// A reply's source once it has come to the director again.
#[track_caller]
fn late_source(bed: &Bed, from: &str, to: &str, flags: u8) -> String {
    let mut bytes = tcp(from, to, flags, b"");
    let verdict = bed.handle(&mut bytes);
    assert!(
        matches!(verdict, Verdict::Forward { source: Some(ReplySource::ASKED_AGAIN), .. }),
        "{verdict:?}"
    );
    assert!(matches!(
        bed.handle_at(Hook::Late, None, &mut bytes),
        Verdict::Forward { rewritten: Some(_), .. }
    ));
    endpoints(&bytes).0.to_string()
}

#[test]
fn a_passive_data_connection_is_expected_from_any_port_of_the_client() {
    for [client, vip, server] in FAMILIES {
        let mut talk = Talk::new([client, vip, server]);
        if client == V4[0] {
            talk.ask("PASV\r\n");
            assert_eq!(talk.answer(&entering(server, 4000)), entering(vip, 4000));
        } else {
            talk.ask("EPSV\r\n");
            assert_eq!(talk.answer(&extended(4000)), extended(4000), "the port is the server's");
        }
        let [any, data, own] = [at(client, 0), at(vip, 4000), at(server, 4000)];
        // IP_VS_CONN_F_NO_CPORT and INACTIVE.
        assert_eq!(talk.connections(), [format!("tcp {any} -> {data} -> {own} LISTEN 120 0x0900")]);
        let bed = &talk.bed;
        bed.director.check_invariants();

        let from = at(client, 6000);
        let first = bed.tcp(&from, &data, SYN);
        assert_eq!(
            (first.destination(), first.verdict_source()),
            (own.clone(), Some(ReplySource::UNTRACKED))
        );
        assert_eq!(talk.connections(), [format!("tcp {from} -> {data} -> {own} SYN_RECV 60 0x0000")]);
        assert_eq!(late_source(bed, &own, &from, SYN | ACK), data);
        assert_eq!(bed.tcp(&from, &data, ACK).destination(), own);
        assert_eq!(talk.connections(), [format!("tcp {from} -> {data} -> {own} ESTABLISHED 900 0x0000")]);
        assert_eq!(
            bed.tcp(&at(client, 6001), &data, SYN).verdict,
            Verdict::Refuse(Refusal::NotServed),
            "one was announced"
        );
        bed.director.check_invariants();
        let stats = bed.real_server(key(Tcp, &at(vip, 21)), &at(server, 2121)).stats.snapshot();
        assert_eq!(stats.conns, 1, "the scheduler was asked once");
        assert_eq!((stats.in_packets, stats.out_packets), (5, 3), "packets of both connections");
    }
}

#[test]
fn an_active_data_connection_comes_from_the_port_below_that_of_the_service() {
    for ([client, vip, server], command) in [
        (V4, "PORT 10,0,1,2,23,112\r\n"),
        (V4, "EPRT |1|10.0.1.2|6000|\r\n"),
        (V6, "EPRT |2|fd00:1::2|6000|\r\n"),
    ] {
        let mut talk = Talk::new([client, vip, server]);
        talk.ask(command);
        let [waits, data, own] = [at(client, 6000), at(vip, 20), at(server, 2120)];
        assert_eq!(talk.connections(), [format!("tcp {waits} -> {data} -> {own} LISTEN 120 0x0100")]);
        let bed = &talk.bed;
        assert_eq!(late_source(bed, &own, &waits, SYN), data);
        assert_eq!(bed.tcp(&waits, &data, SYN | ACK).destination(), own);
        assert_eq!(late_source(bed, &own, &waits, ACK), data);
        assert_eq!(talk.connections(), [format!("tcp {waits} -> {data} -> {own} ESTABLISHED 900 0x0000")]);
        // The command may be sent again, or the port used again.
        talk.ask(command);
        assert_eq!(talk.connections(), [format!("tcp {waits} -> {data} -> {own} LISTEN 120 0x0100")]);
        talk.bed.director.check_invariants();
    }
}

#[test]
fn numbers_fit_through_any_number_of_transfers() {
    let mut talk = Talk::new(V4);
    for transfer in 0..300_u16 {
        talk.ask("PASV\r\n");
        let port = 2000 + transfer;
        assert_eq!(talk.answer(&entering(V4[2], port)), entering(V4[1], port));
        talk.ask("RETR file\r\n");
        talk.answer("150 Here it comes.\r\n");
        talk.answer("226 That was it.\r\n");
    }
    assert_eq!(talk.hears.wrapping_sub(talk.answers), 300, "a byte more each time");
    let flags = talk.bed.states().into_iter().find(|state| state.contains(":5000")).unwrap();
    assert!(flags.ends_with(" 0x0200"), "IP_VS_CONN_F_OUT_SEQ: {flags}");
}

#[test]
fn an_answer_that_is_sent_again_is_the_same_again() {
    let mut talk = Talk::new(V4);
    talk.ask("PASV\r\n");
    let (told, heard) = (entering(V4[2], 4000), entering(V4[1], 4000));
    talk.answer("200 What came before.\r\n");
    let (at_first, seen) = (talk.answers, talk.hears);
    talk.answer(&told);
    let (behind, seen_behind) = (talk.answers, talk.hears);
    assert_eq!(talk.answer_at(at_first, seen, &told), heard);
    talk.answer("150 What comes behind.\r\n");
    assert_eq!(talk.answer_at(at_first, seen, &told), heard);
    assert_eq!(
        talk.answer_at(behind, seen_behind, "150 What comes behind.\r\n"),
        "150 What comes behind.\r\n"
    );
    let both = format!("{told}150 What comes behind.\r\n");
    assert_eq!(
        talk.answer_at(at_first, seen, &both),
        both.replace("10,0,2,11", "10,0,0,100"),
        "in one segment"
    );
    let all = format!("200 What came before.\r\n{told}");
    let start = at_first.wrapping_sub(23);
    assert_eq!(talk.answer_at(start, seen.wrapping_sub(23), &all), all.replace("10,0,2,11", "10,0,0,100"));
    assert_eq!(talk.connections().len(), 1, "it announces nothing new: {:?}", talk.connections());
    // Also when the client has come meanwhile.
    talk.bed.tcp(&at(V4[0], 6000), &at(V4[1], 4000), SYN);
    assert_eq!(talk.answer_at(at_first, seen, &told), heard);
    assert_eq!(talk.connections().len(), 1);
}

#[test]
fn the_virtual_address_waits_at_another_port_where_the_servers_is_taken() {
    let mut talk = Talk::new(V4);
    talk.bed.add(Tcp, &at(V4[1], 4000), Rr, &[&at(V4[2], 80)]);
    for (server_port, why) in [(4000, "a service has it"), (999, "the rules expect no data there")] {
        talk.ask("EPSV\r\n");
        let heard = talk.answer(&extended(server_port));
        let port: u16 = heard.split('|').nth(3).unwrap().parse().unwrap();
        assert!(port >= 1024 && port != server_port, "{port}: {why}");
        let outcome = talk.bed.tcp(&at(V4[0], 6000), &at(V4[1], port), SYN);
        assert_eq!(outcome.destination(), at(V4[2], server_port), "{why}");
    }
    talk.bed.director.check_invariants();
}

#[test]
fn a_client_of_two_servers_that_wait_at_one_port_reaches_each() {
    let [client, vip, _] = V4;
    let servers = [at("10.0.2.11", 21), at("10.0.3.12", 21)];
    let bed = Bed::serving(Tcp, &at(vip, 21), Rr, &servers.each_ref().map(String::as_str));
    let mut first = Talk::begin(bed, &at(client, 5000), &at(vip, 21));
    first.ask("EPSV\r\n");
    assert_eq!(first.answer(&extended(4000)), extended(4000));
    assert_eq!(first.answer_at(first.answers, first.hears, &extended(4000)), extended(4000), "not asked for");
    let mut second = Talk::begin(first.bed, &at(client, 5001), &at(vip, 21));
    second.ask("EPSV\r\n");
    let heard = second.answer(&extended(4000));
    let port: u16 = heard.split('|').nth(3).unwrap().parse().unwrap();
    assert_ne!(port, 4000);
    let to = |port| second.bed.tcp(&at(client, 6000), &at(vip, port), SYN).destination();
    assert_eq!([to(4000), to(port)], ["10.0.3.12:4000", "10.0.2.11:4000"]);
    // The server announces once more what it has announced.
    second.ask("EPSV\r\n");
    second.answer(&extended(4001));
    second.ask("EPSV\r\n");
    assert_eq!(second.answer(&extended(4001)), extended(4001));
    second.bed.director.check_invariants();
}

#[test]
fn a_control_connection_lasts_as_long_as_its_data_connections() {
    let mut talk = Talk::new(V4);
    talk.ask("EPSV\r\n");
    talk.answer(&extended(4000));
    let [from, data, own] = [at(V4[0], 6000), at(V4[1], 4000), at(V4[2], 4000)];
    talk.bed.tcp(&from, &data, SYN);
    late_source(&talk.bed, &own, &from, SYN | ACK);
    talk.bed.tcp(&from, &data, ACK);
    for _ in 0..20 {
        talk.bed.pass(100);
        talk.bed.tcp(&from, &data, ACK);
        late_source(&talk.bed, &own, &from, ACK);
    }
    talk.bed.director.check_invariants();
    let control = format!("tcp {} -> {} -> {}", talk.client, talk.vip, talk.server);
    let shown = talk.bed.states();
    let expires = shown.iter().find_map(|state| state.strip_prefix(&control)).expect("still there");
    assert!(
        expires.starts_with(" ESTABLISHED ") && !expires.contains("900"),
        "extended by a minute: {expires}"
    );
    talk.answer("226 Transfer complete.\r\n");
    talk.ask("QUIT\r\n");

    for (from, to, flags) in [(&from, &data, FIN | ACK), (&own, &from, RST)] {
        let _ = talk.bed.handle(&mut tcp(from, to, flags, b""));
    }
    talk.bed.pass(1000);
    talk.bed.pass(60);
    assert_eq!(talk.bed.director.connection_count().0, 0);
    talk.bed.director.check_invariants();
}

#[test]
fn drop_entry_spares_a_control_connection_with_data_connections() {
    let mut talk = Talk::new(V4);
    talk.bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    talk.ask("EPSV\r\n");
    talk.answer(&extended(4000));
    let [from, data, own] = [at(V4[0], 6000), at(V4[1], 4000), at(V4[2], 4000)];
    talk.bed.tcp(&from, &data, SYN);
    late_source(&talk.bed, &own, &from, SYN | ACK);
    // After so many packets it is spared for its own sake.
    (0..10).for_each(|_| drop(talk.bed.tcp(&from, &data, ACK)));
    let control = format!("tcp {} -> {} -> {}", talk.client, talk.vip, talk.server);
    for second in 0..2000 {
        talk.bed.pass(1);
        talk.bed.director.defend(talk.bed.now);
        if second % 100 == 0 {
            talk.bed.tcp(&from, &data, ACK);
        }
    }
    assert!(talk.bed.states().iter().any(|state| state.starts_with(&control)));
    talk.bed.director.check_invariants();
}

#[test]
fn drop_entry_lets_a_control_connection_stay_when_its_data_connections_go() {
    let mut talk = Talk::new(V4);
    talk.bed.tune(Tunables { drop_entry: DefenceMode::Always, ..Tunables::default() });
    talk.ask("EPSV\r\n");
    talk.answer(&extended(4000));
    // Half open, and so worth nothing.
    talk.bed.tcp(&at(V4[0], 6000), &at(V4[1], 4000), SYN);
    for _ in 0..1000 {
        talk.bed.pass(1);
        talk.bed.director.defend(talk.bed.now);
        if talk.connections().is_empty() {
            break;
        }
        talk.bed.tcp(&at(V4[0], 6000), &at(V4[1], 4000), SYN);
    }
    let control = format!("tcp {} -> {} -> {}", talk.client, talk.vip, talk.server);
    let states = talk.bed.states();
    assert!(states.len() == 1 && states[0].starts_with(&control), "{states:?}");
    talk.bed.director.check_invariants();
}

#[test]
fn a_control_connection_that_ends_with_its_server_lets_its_data_connections_go() {
    let mut talk = Talk::new(V4);
    talk.ask("EPSV\r\n");
    talk.answer(&extended(4000));
    let service = key(Tcp, &talk.vip);
    talk.bed.director.apply(&[Command::DeleteServer(service, talk.server.parse().unwrap())]).unwrap();
    let to_data = talk.bed.tcp(&at(V4[0], 6000), &at(V4[1], 4000), SYN).verdict;
    assert_eq!(to_data, Verdict::Drop(DropReason::ServerRemoved));
    talk.bed.pass(2000);
    talk.bed.pass(60);
    assert_eq!(talk.bed.director.connection_count().0, 0, "the control connection is the last to go");
    talk.bed.director.check_invariants();
}

#[test]
fn what_was_not_asked_for_or_is_not_the_clients_announces_nothing() {
    let mut talk = Talk::new(V4);
    assert_eq!(talk.answer(&entering(V4[2], 4000)), entering(V4[2], 4000), "not asked for");
    talk.ask("PASV\r\n");
    talk.ask("PORT 10,0,1,2,23,112\r\n");
    assert_eq!(talk.answer(&entering(V4[2], 4000)), entering(V4[2], 4000), "asked otherwise since");
    assert_eq!(talk.connections().len(), 1);
    talk.ask("PORT 10,0,9,9,23,112\r\n");
    talk.ask("EPRT |2|fd00:1::2|6000|\r\n");
    talk.ask("PORT 10,0,1,2,0,0\r\n");
    assert_eq!(talk.connections().len(), 1, "nobody connects to another host: {:?}", talk.connections());

    let half_open = Bed::serving(Tcp, &at(V4[1], 21), Rr, &[&at(V4[2], 21)]);
    half_open.tcp(&at(V4[0], 5000), &at(V4[1], 21), SYN);
    let command = segment(&at(V4[0], 5000), &at(V4[1], 21), [1, 1], None, b"PORT 10,0,1,2,23,112\r\n");
    half_open.tcp(&at(V4[2], 21), &at(V4[0], 5000), RST);
    let _ = half_open.handle_resizing(&meta(&command), command);
    assert_eq!(half_open.states().len(), 1, "not established");
}

#[test]
fn only_translated_connections_to_port_21_are_read() {
    let [client, vip, server_address] = V4;
    for (port, servers) in
        [(21, vec![routed(&at(server_address, 21))]), (2100, vec![server(&at(server_address, 2100), 1)])]
    {
        let bed = Bed::serving_specs(Tcp, &at(vip, port), Rr, servers);
        let [from, to] = [at(client, 5000), at(vip, port)];
        let command = |flags| tcp(&from, &to, flags, b"PORT 10,0,1,2,23,112\r\n");
        for flags in [SYN, ACK] {
            let _ = bed.handle(&mut command(flags));
            bed.tcp(&at(server_address, port), &from, SYN | ACK);
        }
        assert_eq!(bed.states().len(), 1, "port {port}: {:?}", bed.states());
    }
}

#[test]
fn a_packet_with_a_wrong_checksum_is_not_read_but_dropped() {
    let mut talk = Talk::new(V4);
    talk.ask("PASV\r\n");
    let mut sent =
        segment(&talk.server, &talk.client, [talk.answers, talk.asks], None, b"227 (10,0,2,11,9,9)\r\n");
    sent[60] ^= 1;
    let dropped = Verdict::Drop(DropReason::BadChecksum);
    assert_eq!(talk.bed.handle(&mut sent.clone()), dropped);
    assert_eq!(talk.bed.director.drops(DropReason::BadChecksum), 1);
    let owed = PacketMeta { checksum_owed: true, ..meta(&sent) };
    let (verdict, bytes) = talk.bed.handle_resizing(&owed, sent);
    assert!(matches!(verdict, Verdict::Forward { .. }), "one that is owed cannot be wrong: {verdict:?}");
    assert_eq!(numbers(&bytes).0[0], talk.hears);
}

#[test]
fn several_segments_in_one_get_no_other_length() {
    let mut talk = Talk::new(V4);
    talk.ask("PASV\r\n");
    let told = entering(V4[2], 4000);
    let sent = segment(&talk.server, &talk.client, [talk.answers, talk.asks], None, told.as_bytes());
    let several = PacketMeta { gso: true, ..meta(&sent) };
    let (verdict, _) = talk.bed.handle_resizing(&several, sent.clone());
    assert_eq!(verdict, Verdict::Drop(DropReason::FtpSegments));
    assert_eq!(talk.connections().len(), 0);
    assert_eq!(talk.answer(&told), entering(V4[1], 4000), "sent again by itself");
    talk.ask("EPSV\r\n");
    let sent =
        segment(&talk.server, &talk.client, [talk.answers, talk.asks], None, extended(4001).as_bytes());
    let (verdict, bytes) = talk.bed.handle_resizing(&several, sent);
    assert!(matches!(verdict, Verdict::Forward { .. }), "of the same length: {verdict:?}");
    assert_eq!(numbers(&bytes).0, [talk.hears, talk.asks]);
}

#[test]
fn a_full_table_keeps_what_would_announce_a_connection() {
    let bed = Bed::with_limit(1);
    bed.add(Tcp, &at(V4[1], 21), Rr, &[&at(V4[2], 21)]);
    let mut talk = Talk::begin(bed, &at(V4[0], 5000), &at(V4[1], 21));
    talk.ask("EPSV\r\n");
    let sent =
        segment(&talk.server, &talk.client, [talk.answers, talk.asks], None, extended(4000).as_bytes());
    assert_eq!(talk.bed.handle_resizing(&meta(&sent), sent).0, Verdict::Drop(DropReason::TableFull));
    talk.bed.director.check_invariants();
}

#[test]
fn persistence_and_what_was_announced_go_together() {
    let timeout = Duration::from_secs(300);
    let clients = ClientMask::V4([255; 4].into());
    let settings = ServiceSettings {
        persistence: Some(Persistence { timeout, clients, engine: None }),
        ..ServiceSettings::default()
    };
    let bed = Bed::new();
    let servers = [at("10.0.2.11", 21), at("10.0.3.12", 21)];
    bed.add_with(Tcp, &at(V4[1], 21), Rr, settings, &servers.each_ref().map(String::as_str));
    let mut talk = Talk::begin(bed, &at(V4[0], 5000), &at(V4[1], 21));
    talk.ask("EPSV\r\n");
    talk.answer(&extended(4000));
    let to = |port| talk.bed.tcp(&at(V4[0], 6000), &at(V4[1], port), SYN).destination();
    assert_eq!([to(4000), to(4001)], ["10.0.3.12:4000", "10.0.3.12:4001"], "announced, and by the template");
    talk.bed.director.check_invariants();
}

#[test]
fn a_service_of_every_port_announces_data_connections_too() {
    let [client, vip, server] = V4;
    let bed = Bed::serving(Tcp, &at(vip, 0), Rr, &[&at(server, 0)]);
    bed.add(Tcp, &at(vip, 4001), Rr, &[&at(server, 80)]);
    let mut talk = Talk::begin(bed, &at(client, 5000), &at(vip, 21));
    talk.ask("PASV\r\n");
    assert_eq!(talk.answer(&entering(server, 4000)), entering(vip, 4000));
    let own = at(server, 4000);
    assert_eq!(talk.bed.tcp(&at(client, 6000), &at(vip, 4000), SYN).destination(), own);
    let outcome = talk.bed.tcp(&own, &at(client, 6000), SYN | ACK);
    assert_ne!(outcome.source(), ReplySource::ASKED_AGAIN, "the rules leave the server's port");
    // Where that is not the port that the client knows, they cannot.
    talk.ask("EPSV\r\n");
    let told = talk.answer(&extended(4001));
    let port: u16 = told.split('|').nth(3).unwrap().parse().unwrap();
    assert_ne!(port, 4001);
    assert_eq!(talk.bed.tcp(&at(client, 6000), &at(vip, port), SYN).destination(), at(server, 4001));
    assert_eq!(late_source(&talk.bed, &at(server, 4001), &at(client, 6000), SYN | ACK), at(vip, port));
    talk.bed.director.check_invariants();
}

#[test]
fn a_service_by_mark_announces_data_connections_that_are_marked() {
    for ([client, vip, server], family) in FAMILIES.into_iter().zip([Family::V4, Family::V6]) {
        let bed = Bed::new();
        bed.add_service(marked(5, family), Rr, ServiceSettings::default(), &[&at(server, 0)]);
        let [from, control, own] = [at(client, 5000), at(vip, 21), at(server, 21)];
        bed.marked_tcp(5, &from, &control, SYN);
        assert_eq!(late_source(&bed, &own, &from, SYN | ACK), control);
        bed.marked_tcp(5, &from, &control, ACK);
        let mut command = tcp(&from, &control, ACK, b"EPSV\r\n");
        let mark = Fwmark::new(5);
        assert!(matches!(bed.handle_at(Hook::Prerouting, mark, &mut command), Verdict::Forward { .. }));
        let mut answer = tcp(&own, &from, ACK, extended(4000).as_bytes());
        assert!(matches!(bed.handle(&mut answer), Verdict::Forward { .. }));
        // The source is all that is written the second time.
        assert!(matches!(bed.handle_at(Hook::Late, None, &mut answer), Verdict::Forward { .. }));
        assert_eq!(bed.states().len(), 2);
        let data = bed.marked_tcp(5, &at(client, 6000), &at(vip, 4000), SYN);
        assert_eq!(data.destination(), at(server, 4000));
        assert_eq!(late_source(&bed, &at(server, 4000), &at(client, 6000), SYN | ACK), at(vip, 4000));
        bed.director.check_invariants();
    }
}

#[test]
fn the_rules_bring_data_connections_where_something_is_translated() {
    let takes_data = |servers: Vec<ServerSpec>, port| {
        let bed = Bed::serving_specs(Tcp, &at(V4[1], port), Rr, servers);
        let steering = bed.director.steering();
        (steering[0].ftp_data, steering[0].servers.first().map(SocketAddr::port))
    };
    let own = at(V4[2], 2100);
    assert_eq!(takes_data(vec![server(&own, 1)], 21), (true, Some(0)), "from every port of the server");
    assert_eq!(takes_data(vec![routed(&at(V4[2], 21))], 21), (false, None), "nobody reads");
    assert_eq!(takes_data(vec![server(&own, 1)], 80), (false, Some(2100)), "no FTP");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever both say, however it is cut into segments, and with answers sent again: both streams stay whole.
    #[test]
    fn streams_stay_whole(lines in prop::collection::vec((0..6_usize, 1024..65535_u16, any::<bool>()), 1..60)) {
        let mut talk = Talk::new(V4);
        for (kind, port, again) in lines {
            let (at, seen) = (talk.answers, talk.hears);
            match kind {
                0 => talk.ask("PASV\r\n"),
                1 => talk.ask("EPSV\r\n"),
                2 => talk.ask("NOOP\r\nTY"),
                _ => {
                    let said = match kind {
                        3 => entering(V4[2], port),
                        4 => extended(port),
                        _ => "150 File status okay\r\n".to_owned(),
                    };
                    let heard = talk.answer(&said);
                    if again {
                        prop_assert_eq!(talk.answer_at(at, seen, &said), heard);
                    }
                }
            }
        }
        talk.ask("QUIT\r\n");
        talk.bed.director.check_invariants();
    }
}
