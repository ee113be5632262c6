//! Servers on the director itself, by the method of their own (`IP_VS_CONN_F_LOCALNODE`).

use crate::bed::{ACK, Bed, FIN, SYN, key, marked, server};
use nfvs::director::packet::Transport::Tcp;
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{Family, ForwardMethod, ServiceSettings};
use nfvs::director::{Command, CommandError, ServerSpec};

/// The VIP, a client, a server elsewhere.
const FAMILIES: [[&str; 3]; 2] = [
    ["10.0.0.100:80", "10.0.1.2:5000", "10.0.2.11:8080"],
    ["[fd00::100]:80", "[fd00:1::2]:5000", "[fd00:2::11]:8080"],
];

fn local(address: &str) -> ServerSpec {
    ServerSpec { forward: ForwardMethod::Local, ..server(address, 1) }
}

#[test]
fn a_local_node_gets_packets_as_they_are_and_has_the_flags_of_the_kernel() {
    for [vip, client, other] in FAMILIES {
        // The virtual address itself is one of the director's.
        let bed = Bed::serving_specs(Tcp, vip, Rr, vec![server(other, 1), local(vip)]);
        let route = bed.tcp(client, vip, SYN).route();
        assert_eq!(
            bed.director.steering()[0].routes,
            [(vip.parse::<std::net::SocketAddr>().unwrap().ip(), route)]
        );
        assert_eq!(bed.states(), [format!("tcp {client} -> {vip} -> {vip} SYN_RECV 60 0x0081")]);
        for (from, to, flags) in [(vip, client, SYN | ACK), (client, vip, ACK), (vip, client, FIN | ACK)] {
            assert_eq!(bed.tcp(from, to, flags).route(), route);
        }
        let states = bed.states();
        assert_eq!(
            states,
            [format!("tcp {client} -> {vip} -> {vip} FIN_WAIT 120 0x0101")],
            "its replies are seen"
        );
        bed.director.check_invariants();

        let elsewhere = client.replace(":5000", ":5001");
        assert_eq!(bed.tcp(&elsewhere, vip, SYN).destination(), other, "the other has its turn");
        let edited = ServerSpec { forward: ForwardMethod::Local, ..server(vip, 1) };
        bed.director.apply(&[Command::EditServer(key(Tcp, vip), edited)]).unwrap();
        assert_eq!(bed.tcp(client, vip, ACK).route(), route);
    }
}

#[test]
fn a_service_by_mark_has_no_local_node() {
    let bed = Bed::new();
    let service = marked(5, Family::V4);
    bed.add_service(service, Rr, ServiceSettings::default(), &[]);
    let refused = bed.director.apply(&[Command::AddServer(service, local("10.0.9.9:0"))]);
    let expected = CommandError::RouteFromMark {
        service,
        server: "10.0.9.9:0".parse().unwrap(),
        method: ForwardMethod::Local,
    };
    assert_eq!(
        expected.to_string(),
        "server 10.0.9.9:0 of service fwmark 5 ipv4 cannot have \"local\": a route leads from an address, and a mark \
         has none"
    );
    assert_eq!(refused, Err(expected));
}
