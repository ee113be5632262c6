//! The configuration from outside: what is accepted and as what, what is refused and in which words.

use nfvs::config::feedback::{Feedback, FileTemplate, HttpPort, HttpReport, Interval};
use nfvs::config::scheduler_words::SchedulerFlag;
use nfvs::config::service_keys::{
    Family, Fwmark, LowerThreshold, OnRemove, OwnTimeouts, Persistence, UpperThreshold,
};
use nfvs::config::sync::{
    Group, Interface, MaxLen, Resync, Sync, SyncDaemon, SyncId, SyncPort, SyncRate, Ttl,
};
use nfvs::config::tunables::{ReuseMode, Tunables};
use nfvs::config::tunnel::{Tunnel, TunnelChecksum, TunnelPort, TunnelType};
use nfvs::config::{self, Complaints, Config, Key, LoadError, MacAddress, file};
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::LoadSource;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

fn fixtures(kind: &str) -> BTreeMap<String, PathBuf> {
    let folder = root().join("tests/config").join(kind);
    std::fs::read_dir(folder)
        .expect("the fixtures are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .map(|path| (path.file_name().expect("a file").to_string_lossy().into_owned(), path))
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn snapshot(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("config/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

#[test]
fn wrong_configurations_are_refused_in_these_words() {
    let fixtures = fixtures("wrong");
    assert!(fixtures.len() >= 50, "only {} wrong configurations", fixtures.len());
    let mut table = String::new();
    for (name, path) in fixtures {
        let bytes = std::fs::read(path).expect("the fixture can be read");
        match config::check_bytes(&name, &bytes) {
            Ok(config) => panic!("{name} is accepted as {config:#?}"),
            Err(complaints) => writeln!(table, "{complaints}").expect("a String takes everything"),
        }
    }
    snapshot("wrong", &table);
}

#[test]
fn right_configurations_mean_this() {
    for (name, path) in fixtures("right") {
        let config = config::load(&path).unwrap_or_else(|error| panic!("{name} is refused:\n{error}"));
        snapshot(name.trim_end_matches(".json"), &format!("{config:#?}"));
    }
}

#[test]
fn examples_of_the_documentation_are_right() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page is there");
    let examples: Vec<&str> =
        page.split("```json\n").skip(1).map(|rest| rest.split("```").next().expect("a first part")).collect();
    assert!(examples.len() >= 4, "only {} examples", examples.len());
    for (index, example) in examples.into_iter().enumerate() {
        if let Err(complaints) = config::check(&format!("example {}", index + 1), example) {
            panic!("docs/configuration.md:\n{complaints}");
        }
    }
}

#[test]
fn documentation_shows_complaints_as_they_are() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page is there");
    let complaints = config::check("web.json", include_str!("config/wrong/documented.json")).unwrap_err();
    assert!(page.contains(&format!("```\n{complaints}\n```")), "docs/configuration.md lacks:\n{complaints}");
}

/// Every key of the schema, with its bounds, stands in a table of the documentation.
#[test]
fn documentation_names_every_key() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).expect("the page is there");
    let schema = config::schema();
    let objects = schema["$defs"].as_object().expect("definitions").values().chain([&schema]);
    for (key, property) in objects.filter_map(|object| object["properties"].as_object()).flatten() {
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")))
            .unwrap_or_else(|| panic!("docs/configuration.md has no row for the key {key:?}"));
        for bound in ["minimum", "maximum"].iter().filter_map(|bound| property.get(bound)) {
            assert!(row.contains(&bound.to_string()), "{bound} is not in the row of {key:?}: {row}");
        }
    }
}

#[test]
fn schema_is_current() {
    let path = root().join("packaging/nfvs.schema.json");
    if std::env::var_os("NFVS_UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, format!("{:#}\n", config::schema())).expect("the schema can be written");
    }
    let committed = std::fs::read_to_string(&path).expect("the schema is there");
    let committed: serde_json::Value = serde_json::from_str(&committed).expect("the schema is JSON");
    assert!(
        committed == config::schema(),
        "packaging/nfvs.schema.json is not what nfvs::config::schema() says; \
         renew it by: NFVS_UPDATE_SCHEMA=1 cargo test --test config schema_is_current"
    );
}

#[test]
fn schema_never_allows_null_or_unknown_keys() {
    let schema = config::schema();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(!schema.to_string().contains("null"), "{schema:#}");
    for object in schema["$defs"].as_object().expect("definitions").values().chain([&schema]) {
        if object["type"] == "object" {
            assert_eq!(object["additionalProperties"], false, "{object:#}");
        }
    }
}

#[test]
fn deep_nesting_is_refused_without_exhausting_the_stack() {
    for open in ["[", "{\"a\":", "{\"services\":[", "[[[{\"a\":"] {
        let complaints = config::check("deep.json", &open.repeat(200_000)).unwrap_err();
        assert_eq!(complaints.as_slice()[0].message, "nested far deeper than any configuration");
    }
    // Within what the parser takes, an unknown key may hold anything.
    let deep = format!(r#"{{"services": [], "x": {}{}}}"#, "[".repeat(400), "]".repeat(400));
    assert!(config::check("deep.json", &deep).unwrap_err().to_string().contains("unknown key \"x\""));
}

#[test]
fn files_may_be_large_and_wrong_all_over() {
    let service = |index: u32, weight: i64| {
        let (vip, server) =
            (Ipv4Addr::from_bits(0x0a00_0001 + index), Ipv4Addr::from_bits(0x0b00_0001 + index));
        format!(
            r#"{{"protocol":"tcp","address":"{vip}","port":80,"servers":[{{"address":"{server}","weight":{weight}}}]}}"#
        )
    };
    let file = |weight| {
        let services: Vec<String> = (0..20_000).map(|index| service(index, weight)).collect();
        format!(r#"{{"services":[{}]}}"#, services.join(",\n"))
    };
    assert_eq!(config::check("large.json", &file(1)).unwrap().services.len(), 20_000);
    assert_eq!(config::check("large.json", &file(-1)).unwrap_err().as_slice().len(), 20_000);

    let keys: Vec<String> = (0..20_000).map(|index| format!(r#""key{index}":1,"services":[]"#)).collect();
    let complaints = config::check("keys.json", &format!("{{{}}}", keys.join(",\n"))).unwrap_err();
    assert_eq!(complaints.as_slice().len(), 20_000 + 19_999);
}

#[test]
fn load_says_which_file_cannot_be_read() {
    let error = config::load(Path::new("/nonexistent/nfvs.json")).unwrap_err();
    assert!(matches!(error, LoadError::Read { .. }));
    let chain = format!("{:#}", anyhow::Error::from(error));
    assert_eq!(chain, "cannot read /nonexistent/nfvs.json: No such file or directory (os error 2)");
}

#[test]
fn load_names_the_file_in_every_complaint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("nfvs.json");
    std::fs::write(&path, "{ \"services\": [],\n  \"answer_ping\": 0, \"timeouts\": 0 }").unwrap();
    let message = config::load(&path).unwrap_err().to_string();
    assert_eq!(
        message,
        format!(
            "{0}:2:18: answer_ping: 0 is not true or false\n\
             {0}:2:33: timeouts: 0 is not an object in {{ }} with the keys tcp, tcp_fin, udp",
            path.display()
        )
    );
}

/// What every refusal promises, whatever the text was.
fn assert_is_located(complaints: &Complaints, text: &str) {
    let lines: Vec<&str> = text.split('\n').collect();
    let list = complaints.as_slice();
    assert!(!list.is_empty());
    assert!(list.is_sorted_by_key(|complaint| (complaint.line, complaint.column)), "{complaints}");
    for complaint in list {
        let line = lines.get(complaint.line - 1).unwrap_or_else(|| panic!("no such line: {complaints}"));
        assert!((1..=line.chars().count() + 1).contains(&complaint.column), "no such column: {complaints}");
        assert!(!complaint.message.is_empty());
    }
    let shown = complaints.to_string();
    assert_eq!(shown.lines().count(), list.len(), "not a line for each: {shown}");
    assert!(!shown.replace('\n', "").contains(char::is_control), "{shown:?}");
}

fn assert_is_accepted_as_json(text: &str) {
    serde_json::from_str::<serde_json::Value>(text).expect("what is accepted is JSON");
    serde_json::from_str::<file::File>(text).expect("what is accepted fits the types");
}

/// What may be put anywhere into a file.
const SCRAPS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "'",
    "/",
    "//",
    "\n",
    "\t",
    "\r",
    " ",
    "\u{a0}",
    "\u{feff}",
    "\0",
    "-",
    "+",
    ".",
    "e",
    "0",
    "1",
    "9999999999",
    "-1",
    "1.5",
    "1e400",
    "null",
    "true",
    "tcp",
    "\"tcp\"",
    "\"port\": 1,",
    "\"x\": {},",
    "{\"address\": \"10.0.2.11\"},",
    "[[[[",
    "é",
    "\u{202e}",
    "\\u",
    "\\ud800",
    "ffff",
    "::",
    "%",
];

/// A change to a text: at a place, remove some characters and put in a scrap.
type Change = (prop::sample::Index, usize, Option<prop::sample::Index>);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let scrap = prop::option::weighted(0.8, any::<prop::sample::Index>());
    prop::collection::vec((any::<prop::sample::Index>(), 0..6_usize, scrap), 1..4)
}

fn apply(text: &str, changes: &[Change]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (at, removed, scrap) in changes {
        let at = at.index(chars.len() + 1);
        let end = (at + removed).min(chars.len());
        let scrap = scrap.map_or("", |index| *index.get(SCRAPS));
        chars.splice(at..end, scrap.chars());
    }
    chars.into_iter().collect()
}

fn any_address(ipv4: bool, host: u16) -> IpAddr {
    if ipv4 {
        Ipv4Addr::from_bits(0x0a00_0001 + u32::from(host)).into()
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, host).into()
    }
}

/// Files that fit the types and break no rule between values: addresses are unique by their index.
fn any_file() -> impl Strategy<Value = file::File> {
    use config::{PathChoice, Protocol, QueueBackend};
    let service = (
        any::<bool>(),
        prop::sample::select(&Protocol::ALL[..]),
        any::<u16>(),
        prop::sample::select(SchedulerKind::ALL),
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec((1..=u16::MAX, 0..=0x7fff_ffff_u64, any::<bool>(), any::<bool>()), 0..4),
    );
    let services = prop::collection::vec(service, 0..6);
    let numbers = (1..=2_678_400_u64, 1..=16_777_216_u64, 0..=65_312_u64, 1..=32_u64, 1024..=1_048_576_u64);
    (services, numbers, any::<bool>()).prop_map(|(services, (time, max, base, count, length), flag)| {
        let port = |number: u16| file::Port::new(number.into()).unwrap();
        let services = services.into_iter().enumerate().map(|(index, service)| {
            let (ipv4, protocol, service_port, scheduler, queue, named, servers) = service;
            let host = u16::try_from(index).unwrap() * 256;
            let by_mark = service_port % 5 == 0;
            let servers =
                servers.into_iter().enumerate().map(|(number, (own_port, weight, with_port, routed))| {
                    let routed = routed && !by_mark;
                    let tunnelled = weight % 2 == 0;
                    let own_port = if routed || service_port == 0 { service_port } else { own_port };
                    let address = any_address(ipv4, host + 1 + u16::try_from(number).unwrap());
                    file::Server {
                        address: file::Address::new(address).unwrap(),
                        port: with_port.then(|| port(own_port)),
                        weight: file::Weight::new(weight).unwrap(),
                        forward: match (routed, tunnelled) {
                            (true, true) => file::Forward::Tunnel,
                            (true, false) => file::Forward::Dr,
                            (false, _) => file::Forward::Nat,
                        },
                        tunnel: (routed && tunnelled).then(|| Tunnel {
                            kind: TunnelType::Gue,
                            port: TunnelPort::new(6080),
                            checksum: TunnelChecksum::Remote,
                        }),
                        upper_threshold: UpperThreshold::new(weight).unwrap(),
                        lower_threshold: LowerThreshold::new(weight / 2).unwrap(),
                    }
                });
            let mark = u64::from(host) + 1;
            file::Service {
                name: named.then(|| file::ServiceName::new(&format!("service-{index}")).unwrap()),
                protocol: (!by_mark).then_some(protocol),
                address: (!by_mark).then(|| file::Address::new(any_address(ipv4, host)).unwrap()),
                port: (!by_mark).then(|| port(service_port)),
                fwmark: by_mark.then(|| Fwmark::new(mark).unwrap()),
                family: by_mark.then_some(if ipv4 { Family::Ipv4 } else { Family::Ipv6 }),
                persistence: (named && !by_mark).then(Persistence::default),
                one_packet: named && protocol == Protocol::Udp,
                on_remove: queue.then_some(OnRemove::Reset),
                timeouts: OwnTimeouts::default(),
                scheduler: scheduler.into(),
                feedback: (scheduler == SchedulerKind::Feedback).then(|| Feedback {
                    http: named.then(|| HttpReport { port: HttpPort::new(8081), ..HttpReport::default() }),
                    file: (!named).then(|| FileTemplate::new("/run/{address}-{port}").unwrap()),
                    interval: Interval::new(time % 60 + 1).unwrap(),
                }),
                scheduler_flags: match scheduler {
                    SchedulerKind::Sh if named => vec![SchedulerFlag::ShPort],
                    SchedulerKind::Mh => vec![SchedulerFlag::MhPort, SchedulerFlag::MhFallback],
                    _ => vec![],
                },
                path: if queue { PathChoice::Queue } else { PathChoice::Auto },
                servers: servers.collect(),
            }
        });
        file::File {
            services: services.collect(),
            timeouts: file::Timeouts { tcp: file::Timeout::new(time).unwrap(), ..file::Timeouts::default() },
            connections: file::Connections { max: file::MaxConnections::new(max).unwrap() },
            queues: file::Queues {
                base: file::QueueBase::new(base).unwrap(),
                count: flag.then(|| file::QueueCount::new(count).unwrap()),
                backend: if flag { QueueBackend::Nfq } else { QueueBackend::Batched },
                length: file::QueueLength::new(length).unwrap(),
            },
            tunables: Tunables { conn_reuse_mode: ReuseMode::new(time % 4).unwrap(), ..Tunables::default() },
            answer_ping: flag,
            peers: flag.then(|| MacAddress::new("02:00:00:00:00:09").unwrap()).into_iter().collect(),
            sync: Sync {
                master: flag.then(|| SyncDaemon {
                    interface: Interface::new("eth1"),
                    syncid: SyncId::new(time % 256).unwrap(),
                    group: Group::default(),
                    port: SyncPort::default(),
                    ttl: Ttl::default(),
                    maxlen: MaxLen::new(1 + count),
                }),
                resync: flag.then(|| Resync { port: SyncPort::new(1 + count).unwrap() }),
                announce: flag,
                rate: SyncRate::new(1 + time),
                ..Sync::default()
            },
        }
    })
}

fn assert_means_the_same(config: &Config, file: &file::File) {
    assert_eq!(config.services.len(), file.services.len());
    for (service, written) in config.services.iter().zip(&file.services) {
        match service.key {
            Key::Endpoint { protocol, address, port } => {
                let written = (written.protocol, written.address, written.port);
                let (protocol_written, address_written, port_written) = written;
                assert_eq!(Some(protocol), protocol_written);
                assert_eq!(Some(address), address_written.map(file::Address::get));
                assert_eq!(Some(port), port_written.map(file::Port::get));
            }
            Key::Mark { mark, .. } => assert_eq!(Some(mark.get()), written.fwmark.map(Fwmark::get)),
        }
        assert_eq!((service.scheduler, service.path), (written.scheduler.into(), written.path));
        let flags = service.settings.scheduler_flags;
        assert_eq!(flags.of(service.scheduler).count(), written.scheduler_flags.len());
        assert_eq!(flags.has_port(), !written.scheduler_flags.is_empty());
        assert_eq!(service.settings.persistence.is_some(), written.persistence.is_some());
        let (feedback, written_feedback) = (&service.settings.feedback, &written.feedback);
        assert_eq!(feedback.is_some(), written_feedback.is_some());
        if let (Some(feedback), Some(written)) = (feedback, written_feedback) {
            assert_eq!(feedback.interval.as_secs(), u64::from(written.interval.get()));
            assert_eq!(matches!(feedback.source, LoadSource::File(_)), written.file.is_some());
        }
        assert_eq!(service.settings.one_packet, written.one_packet);
        assert_eq!(service.settings.on_remove.is_some(), written.on_remove.is_some());
        assert_eq!(service.servers.len(), written.servers.len());
        for (server, written) in service.servers.iter().zip(&written.servers) {
            assert_eq!(server.address, written.address.get());
            assert_eq!(server.port, written.port.map_or(service.key.port(), file::Port::get));
            assert_eq!(server.weight.get(), written.weight.get());
            assert_eq!(server.thresholds.upper, written.upper_threshold.get());
            assert_eq!(server.thresholds.lower, written.lower_threshold.get());
            assert_eq!(server.forward, written.forward.into());
            assert_eq!(
                server.tunnel.port(),
                written.tunnel.and_then(|tunnel| tunnel.port).map(TunnelPort::get)
            );
        }
    }
    assert_eq!(u32::from(config.tunables.conn_reuse_mode), file.tunables.conn_reuse_mode.get());
    assert_eq!(config.timeouts.tcp.as_secs(), u64::from(file.timeouts.tcp.get()));
    assert_eq!(config.max_connections, file.connections.max.get());
    assert_eq!(config.queues.base, file.queues.base.get());
    assert_eq!(config.queues.count, file.queues.count.map(file::QueueCount::get));
    assert_eq!(config.queues.length, file.queues.length.get());
    assert_eq!(config.answer_ping, file.answer_ping);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_changed_file_is_accepted_or_refused_with_places(changes in changes()) {
        let text = apply(include_str!("config/right/every-key.json"), &changes);
        match config::check("changed.json", &text) {
            Ok(_) => assert_is_accepted_as_json(&text),
            Err(complaints) => assert_is_located(&complaints, &text),
        }
    }

    #[test]
    fn a_more_wrong_file_is_refused_with_places(changes in changes()) {
        let text = apply(include_str!("config/wrong/many-at-once.json"), &changes);
        if let Err(complaints) = config::check("changed.json", &text) {
            assert_is_located(&complaints, &text);
        }
    }

    #[test]
    fn any_bytes_are_refused_with_places(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let complaints = config::check_bytes("bytes.json", &bytes).unwrap_err();
        assert_is_located(&complaints, &String::from_utf8_lossy(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_fits_is_accepted_and_means_what_is_written(file in any_file()) {
        let text = serde_json::to_string_pretty(&file).unwrap();
        let config = config::check("fits.json", &text).unwrap();
        assert_means_the_same(&config, &file);
    }
}
