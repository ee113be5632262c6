//! Bytes nobody would send, and everything at once.

use crate::bed::{ACK, Bed, FIN, RST, SYN, key, marked, raw, sctp, server, tcp, udp, unreachable};
use etherparse::IpNumber;
use nfvs::director::defence::DefenceMode;
use nfvs::director::packet::Transport::{Sctp, Tcp, Udp};
use nfvs::director::scheduler::{SchedulerFlag, SchedulerKind};
use nfvs::director::service::{
    ClientMask, Family, Feedback, ForwardMethod, Fwmark, Load, LoadSource, OnRemove, OwnTimeouts,
    Persistence, PersistenceEngine, ServiceSettings, Thresholds, Tunables, Tunnel,
};
use nfvs::director::{Command, Hook, PacketMeta, ServerSpec};
use std::time::Duration;

/// As many packets as the engine has to survive.
const PACKETS: usize = 2_000_000;

fn bed() -> Bed {
    let bed = Bed::new();
    bed.add(Tcp, "10.0.0.100:80", SchedulerKind::Rr, &["10.0.2.11:8080", "10.0.3.12:8080"]);
    bed.add(Udp, "10.0.0.100:53", SchedulerKind::Wlc, &["10.0.2.11:53"]);
    bed.add(Tcp, "10.0.0.101:0", SchedulerKind::Random, &["10.0.2.11:0"]);
    bed.add(Tcp, "[fd00::100]:80", SchedulerKind::Wrr, &["[fd00:2::11]:8080"]);
    bed.add(Udp, "[fd00::100]:53", SchedulerKind::Lc, &["[fd00:2::11]:53"]);
    bed.add_service(marked(2, Family::V4), SchedulerKind::Rr, Default::default(), &["10.0.2.11:8080"]);
    bed.add(Sctp, "10.0.0.100:36412", SchedulerKind::Rr, &["10.0.2.11:36412", "10.0.3.12:3868"]);
    bed.add(Sctp, "[fd00::100]:0", SchedulerKind::Rr, &["[fd00:2::11]:0"]);
    bed.add(Udp, "10.0.0.100:500", SchedulerKind::Rr, &["10.0.2.11:500"]);
    bed.add(Tcp, "10.0.0.100:21", SchedulerKind::Rr, &["10.0.2.11:21"]);
    bed.add(Tcp, "[fd00::100]:21", SchedulerKind::Rr, &["[fd00:2::11]:21"]);
    // Sent on as it is, to an address that is also a server of the service after it.
    bed.add(Tcp, "10.0.0.102:80", SchedulerKind::Rr, &[]);
    let unchanged = ServerSpec { forward: ForwardMethod::Dr, ..server("10.0.2.11:80", 1) };
    bed.director.apply(&[Command::AddServer(key(Tcp, "10.0.0.102:80"), unchanged)]).unwrap();
    bed.add(Tcp, "10.0.0.103:80", SchedulerKind::Rr, &["10.0.0.102:80"]);
    for (vip, one_packet) in [("10.0.0.100:5060", false), ("10.0.0.101:5060", true)] {
        let clients = ClientMask::V4([255, 255, 255, 0].into());
        let engine = Some(PersistenceEngine::Sip);
        let persistence = Some(Persistence { timeout: Duration::from_secs(30), clients, engine });
        let settings = ServiceSettings { persistence, one_packet, ..ServiceSettings::default() };
        let servers = ["10.0.2.11:5060", "10.0.3.12:5060"];
        bed.add_with(
            Udp,
            vip,
            SchedulerKind::Rr,
            settings,
            if one_packet { &servers[..1] } else { &servers },
        );
    }
    for (vip, tunnel) in [("10.0.0.104:80", Tunnel::Ipip), ("[fd00::104]:80", Tunnel::Gre { checksum: true })]
    {
        let servers = ["10.0.2.11:80", "[fd00:2::11]:80"].map(|address| {
            let forward = ForwardMethod::Tunnel;
            ServerSpec { forward, tunnel, ..server(address, 1) }
        });
        bed.add_specs(Tcp, vip, SchedulerKind::Rr, Default::default(), servers.into());
    }
    bed
}

fn seeds() -> Vec<Vec<u8>> {
    let (c4, c6) = ("10.0.1.2:5000", "[fd00:1::2]:5000");
    let mut seeds = Vec::new();
    for flags in [SYN, ACK, FIN | ACK, RST, 0, 0x3f] {
        seeds.push(tcp(c4, "10.0.0.100:80", flags, b"some payload"));
        seeds.push(tcp("10.0.2.11:8080", c4, flags, b""));
        seeds.push(tcp(c4, "10.0.0.101:1234", flags, b""));
        seeds.push(tcp(c4, "10.0.0.102:80", flags, b"as it is"));
        seeds.push(tcp(c4, "10.0.0.103:80", flags, b""));
        seeds.push(tcp(c4, "10.0.0.104:80", flags, b"to be wrapped"));
        seeds.push(tcp(c6, "[fd00::104]:80", flags, b"to be wrapped"));
        seeds.push(tcp("10.0.0.102:80", c4, flags, b""));
        seeds.push(tcp(c6, "[fd00::100]:80", flags, b"some payload"));
        seeds.push(tcp("[fd00:2::11]:8080", c6, flags, b""));
    }
    for flags in [SYN, SYN | ACK, ACK, FIN | ACK] {
        for command in [&b"PASV\r\n"[..], b"EPSV\r\n", b"PORT 10,0,1,2,19,136\r\n"] {
            seeds.push(tcp("10.0.1.2:2100", "10.0.0.100:21", flags, command));
        }
        for answer in [&b"227 (10,0,2,11,15,160)\r\n"[..], b"229 (|||4000|)\r\n"] {
            seeds.push(tcp("10.0.2.11:21", "10.0.1.2:2100", flags, answer));
        }
        seeds.push(tcp("[fd00:1::2]:2100", "[fd00::100]:21", flags, b"EPRT |2|fd00:1::2|5000|\r\n"));
        seeds.push(tcp("[fd00:2::11]:21", "[fd00:1::2]:2100", flags, b"229 (|||4000|)\r\n"));
        for data in ["10.0.0.100:4000", "10.0.0.100:20"] {
            seeds.push(tcp(c4, data, flags, b""));
        }
        seeds.push(tcp("10.0.2.11:20", c4, flags, b""));
        seeds.push(tcp("10.0.2.11:4000", c4, flags, b""));
    }
    seeds.push(udp(c4, "10.0.0.100:53", b"odd"));
    seeds.push(udp("10.0.2.11:53", c4, b"even"));
    seeds.push(udp(c6, "[fd00::100]:53", b"odd"));
    seeds.push(udp("[fd00:2::11]:53", c6, b"even"));
    for said in [&b"OPTIONS\r\nCall-ID: 7@x\r\n"[..], b"INVITE\r\ni: 8\r\n", b"\r\n\r\n"] {
        for vip in ["10.0.0.100:5060", "10.0.0.101:5060"] {
            seeds.push(udp(c4, vip, said));
        }
        for server in ["10.0.2.11:5060", "10.0.3.12:5060"] {
            seeds.push(udp(server, c4, said));
        }
    }
    for chunk in [0, 1, 2, 6, 7, 8, 10, 11, 14] {
        seeds.push(sctp(c4, "10.0.0.100:36412", chunk));
        seeds.push(sctp("10.0.2.11:36412", c4, chunk));
        seeds.push(sctp(c6, "[fd00::100]:2905", chunk));
        seeds.push(sctp("[fd00:2::11]:2905", c6, chunk));
    }
    seeds.push(udp("10.0.1.2:500", "10.0.0.100:500", b"keys"));
    seeds.push(udp("10.0.2.11:500", "10.0.1.2:500", b"keys"));
    for protocol in [IpNumber::ENCAPSULATING_SECURITY_PAYLOAD, IpNumber::AUTHENTICATION_HEADER] {
        let [client, vip, server] = ["10.0.1.2", "10.0.0.100", "10.0.2.11"].map(|it| it.parse().unwrap());
        seeds.push(raw(client, vip, protocol, &[0x5a; 40]));
        seeds.push(raw(server, client, protocol, &[0x5a; 40]));
        seeds.push(unreachable("10.0.2.1", "10.0.1.2", &raw(client, server, protocol, &[0x5a; 40])));
    }
    seeds.push(unreachable("10.0.2.1", "10.0.1.2", &tcp(c4, "10.0.2.11:8080", SYN, b"")));
    seeds.push(unreachable("10.0.1.2", "10.0.0.100", &tcp("10.0.0.100:80", c4, ACK, b"")));
    seeds.push(unreachable("fd00:2::1", "fd00:1::2", &udp(c6, "[fd00:2::11]:53", b"q")));
    seeds.push(unreachable("fd00:1::2", "fd00::100", &tcp("[fd00::100]:80", c6, ACK, b"")));
    // About packets in tunnels.
    let inner = tcp(c4, "10.0.0.104:80", SYN, b"");
    let in_gre = [&[0x80, 0, 0x86, 0xdd, 0, 0, 0, 0], &tcp(c6, "[fd00::104]:80", SYN, b"")[..]].concat();
    for (server, router, here) in
        [("10.0.2.11", "10.0.9.9", "10.0.2.1"), ("fd00:2::11", "fd00:9::9", "fd00:2::1")]
    {
        let outer =
            |protocol, payload: &[u8]| raw(here.parse().unwrap(), server.parse().unwrap(), protocol, payload);
        seeds.push(unreachable(router, here, &outer(IpNumber::IPV4, &inner)));
        seeds.push(unreachable(router, here, &outer(IpNumber::GRE, &in_gre)));
    }
    seeds
}

#[test]
fn two_million_random_and_mutated_packets_do_no_harm() {
    let seed = std::env::var("NFVS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x6e66_7673);
    println!("seed {seed} (NFVS_SEED chooses another)");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bed = bed();
    let seeds = seeds();
    let mut forwarded = 0_u64;
    for number in 0..PACKETS {
        let mut packet = if random.u8(..) < 16 {
            let mut bytes = vec![0; random.usize(..120)];
            random.fill(&mut bytes);
            bytes
        } else {
            let mut bytes = seeds[random.usize(..seeds.len())].clone();
            for _ in 0..random.usize(..4) {
                let place = random.usize(..bytes.len());
                bytes[place] = random.u8(..);
            }
            if random.u8(..) < 24 {
                bytes.truncate(random.usize(..=bytes.len()));
            }
            bytes
        };
        let cut = if random.u8(..) < 8 { random.usize(..200) } else { 0 };
        let meta = PacketMeta {
            hook: [Hook::Prerouting, Hook::Output, Hook::Late][random.usize(..3)],
            checksum_owed: random.u8(..) < 64,
            gso: random.u8(..) < 16,
            original_len: packet.len() + cut,
            mark: Fwmark::new(random.u16(..3)),
        };
        let verdict = bed.director.handle_packet(bed.now, &meta, &mut packet);
        forwarded += u64::from(matches!(verdict, nfvs::director::Verdict::Forward { .. }));
        if number % 1000 == 0 {
            bed.pass(random.u64(..30));
        }
    }
    bed.director.check_invariants();
    // Most mutations leave a packet that is still a packet: the engine was not only refusing.
    assert!(forwarded > PACKETS as u64 / 8, "{forwarded}");
}

#[test]
fn everything_at_once_keeps_the_books_right() {
    let seed = std::env::var("NFVS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0x6c_7673);
    println!("seed {seed} (NFVS_SEED chooses another)");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bed = bed();
    let servers = ["10.0.2.11:8080", "10.0.3.12:8080", "10.0.4.13:8080"];
    let service = key(Tcp, "10.0.0.100:80");
    let methods = [ForwardMethod::Nat, ForwardMethod::Dr, ForwardMethod::Tunnel];
    for step in 0..60_000 {
        let client = format!("10.0.1.{}:{}", random.u8(1..5), random.u16(1000..1040));
        let chosen = servers[random.usize(..3)];
        match random.u8(..) {
            0..2 => {
                let thresholds = Thresholds { upper: random.u32(..40), lower: 0 };
                let server = ServerSpec { thresholds, ..server(chosen, random.u32(..4)) };
                drop(bed.director.apply(&[Command::AddServer(service, server)]));
            }
            2..4 => drop(bed.director.apply(&[Command::DeleteServer(service, chosen.parse().unwrap())])),
            4..6 => {
                drop({
                    let forward = methods[random.usize(..3)];
                    let server = ServerSpec { forward, ..server(chosen, random.u32(..4)) };
                    bed.director.apply(&[Command::EditServer(service, server)])
                });
            }
            6 => {
                let scheduler = SchedulerKind::ALL[random.usize(..SchedulerKind::ALL.len())];
                let settings = settings(&mut random);
                let edit = Command::EditService { service, scheduler, settings };
                drop(bed.director.apply(&[edit, Command::SetTunables(tunables(&mut random))]));
            }
            7 => {
                drop(bed.director.apply(&[Command::DeleteService(service)]));
                bed.add(Tcp, "10.0.0.100:80", SchedulerKind::Wrr, &servers);
            }
            8..10 => {
                bed.pass(random.u64(..400));
                bed.director.defend(bed.now);
                let load = Load::new(random.f64() * 5.0 - 1.0);
                bed.director.note_load(service, chosen.parse().unwrap(), load, bed.now);
                bed.director.regulate(service, bed.now);
                bed.director.empty_trash(bed.now);
            }
            10..100 => drop(bed.handle(&mut tcp(chosen, &client, random.u8(..32), b""))),
            _ => drop(bed.handle(&mut tcp(&client, "10.0.0.100:80", random.u8(..32), b""))),
        }
        if step % 500 == 0 {
            bed.director.check_invariants();
        }
    }
    bed.pass(2000);
    bed.director.check_invariants();
    assert_eq!(bed.director.connection_count().0, 0);
}

fn settings(random: &mut fastrand::Rng) -> ServiceSettings {
    let persistence = Persistence {
        timeout: Duration::from_secs(random.u64(1..200)),
        clients: ClientMask::V4([255, 255, 255, random.u8(..)].into()),
        engine: None,
    };
    let flags = SchedulerFlag::ALL.iter().copied().filter(|_| random.bool()).collect();
    ServiceSettings {
        scheduler_flags: flags,
        persistence: random.bool().then_some(persistence),
        one_packet: random.bool(),
        on_remove: [None, Some(OnRemove::Keep), Some(OnRemove::Reset), Some(OnRemove::Reschedule)]
            [random.usize(..4)],
        timeouts: OwnTimeouts {
            tcp: Some(Duration::from_secs(random.u64(1..900))),
            ..OwnTimeouts::default()
        },
        feedback: random.bool().then(|| Feedback {
            source: LoadSource::File("/run/load/{address}".to_owned()),
            interval: Duration::from_secs(random.u64(1..10)),
        }),
    }
}

fn tunables(random: &mut fastrand::Rng) -> Tunables {
    Tunables {
        cache_bypass: random.bool(),
        conn_reuse_mode: random.u8(..4),
        expire_nodest_conn: random.bool(),
        expire_quiescent_template: random.bool(),
        am_droprate: random.u32(..4),
        amemthresh: random.u32(..4000),
        drop_entry: mode(random),
        drop_packet: mode(random),
        nat_icmp_send: random.bool(),
        pmtu_disc: random.bool(),
        schedule_icmp: random.bool(),
        secure_tcp: mode(random),
        sloppy_tcp: random.bool(),
        ..Tunables::default()
    }
}

fn mode(random: &mut fastrand::Rng) -> DefenceMode {
    [DefenceMode::Off, DefenceMode::Automatic, DefenceMode::Always][random.usize(..3)]
}

#[test]
fn threads_share_a_director_without_losing_count() {
    let bed = bed();
    std::thread::scope(|scope| {
        for thread in 0..4_u16 {
            let bed = &bed;
            scope.spawn(move || {
                for number in 0..5000_u16 {
                    let client = format!("10.0.{}.{}:{}", number % 7, thread % 2 + 1, 1024 + number % 800);
                    let _ = bed.handle(&mut tcp(&client, "10.0.0.100:80", SYN, b""));
                    let _ = bed.handle(&mut tcp("10.0.2.11:8080", &client, SYN | ACK, b""));
                    let _ = bed.handle(&mut tcp(
                        &client,
                        "10.0.0.100:80",
                        if number % 3 == 0 { RST } else { ACK },
                        b"",
                    ));
                }
            });
        }
    });
    bed.director.check_invariants();
    assert!(bed.director.connection_count().0 > 5000);
}
