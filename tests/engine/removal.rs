//! What becomes of connections whose server is removed or drained, and which ones a SYN replaces.

use crate::bed::{ACK, Bed, FIN, RST, SYN, key, marked, server};
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, ForwardMethod, OnRemove, OwnTimeouts, Persistence, ServiceSettings, Tunables,
};
use nfvs::director::{Command, DropReason, Refusal, ServerSpec, Verdict};
use std::time::Duration;

const VIP: &str = "10.0.0.100:80";
const CLIENT: &str = "10.0.1.2:5000";
const SERVERS: [&str; 2] = ["10.0.2.11:80", "10.0.3.12:80"];

fn on_remove(on_remove: OnRemove) -> ServiceSettings {
    ServiceSettings { on_remove: Some(on_remove), ..ServiceSettings::default() }
}

fn remove(bed: &Bed, transport: nfvs::director::packet::Transport, address: &str) {
    bed.director.apply(&[Command::DeleteServer(key(transport, VIP), address.parse().unwrap())]).unwrap();
}

/// A bed with an established connection of [`CLIENT`], and where it goes.
fn established(settings: ServiceSettings) -> (Bed, String) {
    let bed = Bed::new();
    bed.add_with(Tcp, VIP, Rr, settings, &SERVERS);
    let to = bed.tcp(CLIENT, VIP, SYN).destination();
    bed.tcp(&to, CLIENT, SYN | ACK);
    bed.tcp(CLIENT, VIP, ACK);
    (bed, to)
}

const DROPPED: Verdict = Verdict::Drop(DropReason::ServerRemoved);
const REFUSED: Verdict = Verdict::Refuse(Refusal::NotServed);

#[test]
fn tcp_waits_for_its_server_unless_told_otherwise() {
    for settings in [ServiceSettings::default(), on_remove(OnRemove::Keep)] {
        let (bed, to) = established(settings);
        remove(&bed, Tcp, &to);
        assert_eq!(bed.tcp(CLIENT, VIP, ACK).verdict, DROPPED);
        assert_eq!(bed.tcp(CLIENT, VIP, SYN).verdict, DROPPED);
        bed.director.apply(&[Command::AddServer(key(Tcp, VIP), server(&to, 1))]).unwrap();
        assert_eq!(bed.tcp(CLIENT, VIP, ACK).destination(), to);
        bed.director.check_invariants();
    }
}

/// While a change is carried out, packets still see the services as they were.
#[test]
fn nothing_is_scheduled_to_a_server_that_is_being_removed() {
    for persistence in [
        None,
        Some(Persistence {
            timeout: Duration::from_secs(60),
            clients: ClientMask::V4([255; 4].into()),
            engine: None,
        }),
    ] {
        let bed = Bed::new();
        bed.add_with(
            Tcp,
            VIP,
            Rr,
            ServiceSettings { persistence, ..ServiceSettings::default() },
            &SERVERS[..1],
        );
        let services = bed.director.services();
        let server = &services.get(&key(Tcp, VIP)).unwrap().servers[0];
        server.set_available(false);
        assert_eq!(bed.tcp(CLIENT, VIP, SYN).verdict, DROPPED);
        assert_eq!(bed.director.connection_count().0, 0, "the next SYN would wait for it");
        server.set_available(true);
        assert_eq!(bed.tcp(CLIENT, VIP, SYN).destination(), SERVERS[0]);
    }
}

#[test]
fn reset_ends_the_connection_with_the_next_packet_whatever_it_is() {
    for flags in [ACK, SYN, FIN | ACK, RST] {
        let (bed, to) = established(on_remove(OnRemove::Reset));
        remove(&bed, Tcp, &to);
        assert_eq!(bed.tcp(CLIENT, VIP, flags).verdict, REFUSED, "{flags:#x}");
        assert_eq!(bed.director.connection_count().0, 0);
        assert_ne!(bed.tcp(CLIENT, VIP, SYN).destination(), to, "and then it is over");
        bed.director.check_invariants();
    }
}

#[test]
fn reschedule_gives_a_syn_another_server_and_resets_the_rest() {
    let (bed, to) = established(on_remove(OnRemove::Reschedule));
    remove(&bed, Tcp, &to);
    assert_ne!(bed.tcp(CLIENT, VIP, SYN).destination(), to);
    let (bed, to) = established(on_remove(OnRemove::Reschedule));
    remove(&bed, Tcp, &to);
    assert_eq!(bed.tcp(CLIENT, VIP, ACK).verdict, REFUSED);
    assert_eq!(bed.director.connection_count().0, 0);
    bed.director.check_invariants();
}

#[test]
fn udp_moves_to_a_living_server_unless_told_otherwise() {
    for (settings, expected) in [
        (ServiceSettings::default(), None),
        (on_remove(OnRemove::Reschedule), None),
        (on_remove(OnRemove::Keep), Some(DROPPED)),
        (on_remove(OnRemove::Reset), Some(REFUSED)),
    ] {
        let bed = Bed::new();
        bed.add_with(Udp, VIP, Rr, settings.clone(), &SERVERS);
        let to = bed.udp(CLIENT, VIP).destination();
        remove(&bed, Udp, &to);
        let next = bed.udp(CLIENT, VIP);
        match expected {
            Some(expected) => assert_eq!(next.verdict, expected, "{settings:?}"),
            None => assert_ne!(next.destination(), to, "{settings:?}"),
        }
        bed.director.check_invariants();
        remove(&bed, Udp, SERVERS.iter().find(|server| **server != to).unwrap());
    }
}

#[test]
fn udp_without_another_server_is_refused() {
    let bed = Bed::serving(Udp, VIP, Rr, &SERVERS[..1]);
    bed.udp(CLIENT, VIP);
    remove(&bed, Udp, SERVERS[0]);
    assert_eq!(bed.udp(CLIENT, VIP).verdict, Verdict::Refuse(Refusal::NoServer));
    assert_eq!(bed.director.connection_count().0, 0);
}

#[test]
fn a_mark_resets_by_what_its_rules_can_say() {
    let bed = Bed::new();
    bed.add_service(marked(5, Family::V4), Rr, on_remove(OnRemove::Reset), &["10.0.2.11:0"]);
    bed.marked_tcp(5, CLIENT, VIP, SYN);
    let gone = Command::DeleteServer(marked(5, Family::V4), "10.0.2.11:0".parse().unwrap());
    bed.director.apply(&[gone]).unwrap();
    assert_eq!(bed.marked_tcp(5, CLIENT, VIP, ACK).verdict, Verdict::Refuse(Refusal::NoServer));
}

#[test]
fn expire_nodest_conn_ends_connections_with_their_server() {
    let (mut bed, to) = established(ServiceSettings::default());
    bed.tune(Tunables { expire_nodest_conn: true, ..Tunables::default() });
    remove(&bed, Tcp, &to);
    assert_eq!(bed.tcp(CLIENT, VIP, ACK).verdict, REFUSED, "a packet that comes first");
    assert_ne!(bed.tcp(CLIENT, VIP, SYN).destination(), to);

    let other = *SERVERS.iter().find(|server| **server != to).unwrap();
    bed.tcp("10.0.1.3:1", VIP, SYN);
    assert_eq!(bed.director.connection_count().0, 2);
    remove(&bed, Tcp, other);
    bed.pass(1);
    assert_eq!(bed.director.connection_count().0, 0, "and all others soon after");
    bed.director.check_invariants();
}

#[test]
fn expire_nodest_conn_ends_templates_with_their_server() {
    let persistence = Persistence {
        timeout: Duration::from_secs(300),
        clients: ClientMask::V4([255; 4].into()),
        engine: None,
    };
    let settings = ServiceSettings { persistence: Some(persistence), ..ServiceSettings::default() };
    let (mut bed, to) = established(settings);
    bed.tune(Tunables { expire_nodest_conn: true, ..Tunables::default() });
    bed.tcp("10.0.1.9:1", VIP, SYN);
    assert_eq!(bed.director.connection_count().0, 4);
    remove(&bed, Tcp, &to);
    bed.pass(1);
    assert_eq!((bed.states().len(), bed.templates().len()), (1, 1), "those of the other server are left");
    bed.director.check_invariants();
}

#[test]
fn without_the_tunable_nothing_ends_and_nothing_is_made_up_for_later() {
    let (mut bed, to) = established(ServiceSettings::default());
    remove(&bed, Tcp, &to);
    bed.pass(1);
    bed.tune(Tunables { expire_nodest_conn: true, ..Tunables::default() });
    bed.pass(1);
    assert_eq!(bed.director.connection_count().0, 1);
}

#[test]
fn a_syn_leaves_a_drained_server_with_expire_nodest_conn_only() {
    for expire_nodest_conn in [false, true] {
        let (bed, to) = established(ServiceSettings::default());
        bed.tune(Tunables { expire_nodest_conn, ..Tunables::default() });
        bed.director.apply(&[Command::EditServer(key(Tcp, VIP), server(&to, 0))]).unwrap();
        assert_eq!(bed.tcp(CLIENT, VIP, ACK).destination(), to, "the connection goes on");
        assert_eq!(bed.tcp(CLIENT, VIP, SYN).destination() != to, expire_nodest_conn);
        bed.director.check_invariants();
    }
}

// Seen on a kernel: 0 and 1 keep the server of an entry in FIN_WAIT, 2 and 3 give it another.
#[test]
fn conn_reuse_mode_2_replaces_what_is_half_seen() {
    for conn_reuse_mode in 0..=Tunables::MAX_CONN_REUSE_MODE {
        let bed = Bed::serving(Tcp, VIP, Rr, &[]);
        bed.tune(Tunables { conn_reuse_mode, ..Tunables::default() });
        for address in SERVERS {
            let direct = ServerSpec { forward: ForwardMethod::Dr, ..server(address, 1) };
            bed.director.apply(&[Command::AddServer(key(Tcp, VIP), direct)]).unwrap();
        }
        for flags in [SYN, ACK, FIN | ACK] {
            bed.tcp(CLIENT, VIP, flags);
        }
        assert!(bed.states()[0].contains(" FIN_WAIT "), "{:?}", bed.states());
        bed.tcp(CLIENT, VIP, SYN);
        let expected = if conn_reuse_mode < 2 { SERVERS[1] } else { SERVERS[0] };
        let states = bed.states();
        assert!(states.len() == 1 && states[0].contains(expected), "mode {conn_reuse_mode}: {states:?}");
    }
}

// With NAT the director sees the replies, so that FIN_WAIT is never half seen.
#[test]
fn conn_reuse_mode_says_which_connections_a_syn_replaces() {
    for conn_reuse_mode in 0..=Tunables::MAX_CONN_REUSE_MODE {
        let (bed, to) = established(ServiceSettings::default());
        bed.tune(Tunables { conn_reuse_mode, ..Tunables::default() });
        bed.tcp(&to, CLIENT, FIN | ACK);
        assert!(bed.states()[0].contains(" FIN_WAIT "), "{:?}", bed.states());
        assert_eq!(bed.tcp(CLIENT, VIP, SYN).destination(), to, "mode {conn_reuse_mode}");

        for end in [FIN | ACK, RST] {
            let (bed, to) = established(ServiceSettings::default());
            bed.tune(Tunables { conn_reuse_mode, ..Tunables::default() });
            bed.tcp(&to, CLIENT, FIN | ACK);
            bed.tcp(CLIENT, VIP, end);
            let next = bed.tcp(CLIENT, VIP, SYN | ACK).destination();
            assert_eq!(next != to, conn_reuse_mode != 0, "mode {conn_reuse_mode}, {end:#x}");
            assert_eq!(bed.director.connection_count().0, 1);
        }
    }
}

#[test]
fn a_services_own_timeouts_count_for_its_connections_only() {
    let seconds = Duration::from_secs;
    let own = OwnTimeouts { tcp: Some(seconds(50)), tcp_fin: Some(seconds(7)), udp: None };
    let (bed, to) = established(ServiceSettings { timeouts: own, ..ServiceSettings::default() });
    assert!(bed.states()[0].contains(" ESTABLISHED 50 "), "{:?}", bed.states());
    bed.tcp(&to, CLIENT, FIN | ACK);
    assert!(bed.states()[0].contains(" FIN_WAIT 7 "), "{:?}", bed.states());

    bed.add(Udp, VIP, Rr, &SERVERS);
    bed.udp(CLIENT, VIP);
    assert!(bed.states()[1].contains(" UDP 300 "), "{:?}", bed.states());
    let timeouts = OwnTimeouts { udp: Some(seconds(9)), ..OwnTimeouts::default() };
    let settings = ServiceSettings { timeouts, ..ServiceSettings::default() };
    bed.director.apply(&[Command::EditService { service: key(Udp, VIP), scheduler: Rr, settings }]).unwrap();
    bed.udp(CLIENT, VIP);
    assert!(bed.states()[1].contains(" UDP 9 "), "{:?}", bed.states());
    bed.director.apply(&[Command::DeleteService(key(Udp, VIP))]).unwrap();
    bed.director.check_invariants();
}

#[test]
fn what_comes_from_port_20_is_not_scheduled() {
    let bed = Bed::serving(Tcp, VIP, Rr, &SERVERS);
    bed.add(Udp, VIP, Rr, &SERVERS);
    assert_eq!(bed.tcp("10.0.1.2:20", VIP, SYN).verdict, REFUSED);
    assert_eq!(bed.udp("10.0.1.2:20", VIP).verdict, REFUSED);
    assert_eq!(bed.director.connection_count().0, 0);
}

#[test]
fn ftp_data_without_a_server_is_refused_as_what_fits_no_service() {
    let bed = Bed::new();
    let persistence = Persistence {
        timeout: Duration::from_secs(300),
        clients: ClientMask::V4([255; 4].into()),
        engine: None,
    };
    let settings = ServiceSettings { persistence: Some(persistence), ..ServiceSettings::default() };
    bed.add_with(Tcp, "10.0.0.100:21", Rr, settings, &[]);
    assert_eq!(bed.tcp(CLIENT, "10.0.0.100:21", SYN).verdict, Verdict::Refuse(Refusal::NoServer));
    assert_eq!(bed.tcp(CLIENT, "10.0.0.100:2100", SYN).verdict, REFUSED);
}
