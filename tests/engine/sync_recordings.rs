//! What kernels told each other, recorded in `tests/vectors/sync`, makes of a director the backup that the kernel was:
//! with the services of the recording, the same entries, servers, states, counts and times.

use crate::bed::{Bed, key, marked};
use crate::sync_link::start_backup;
use nfvs::director::packet::Transport::{Tcp, Udp};
use nfvs::director::scheduler::SchedulerKind::Rr;
use nfvs::director::service::{
    ClientMask, Family, Persistence, PersistenceEngine, ServiceKey, ServiceSettings,
};
use nfvs::director::sync::{BackupSettings, SyncOutcome};
use nfvs::director::{ServerSpec, Time};
use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use sync_proto::capture::Capture;
use sync_proto::{ConnFlags, SyncId};

/// Entries are shown in whole seconds, by a kernel that read them a moment later than the last message came.
const A_MOMENT: u64 = 5;

#[test]
fn recordings_make_the_table_that_the_kernels_backup_showed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/sync");
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "pcap") {
            replay(&path);
            count += 1;
        }
    }
    assert_eq!(count, 11);
}

fn replay(path: &Path) {
    let name = path.file_stem().unwrap().to_string_lossy();
    let text = fs::read_to_string(path.with_extension("txt")).unwrap();
    let mut bed = Bed::new();
    let services = configure(&bed, section(&text, "director: ipvsadm -Sn"));
    bed.director.start_sync_backup(BackupSettings { syncid: SyncId::ANY });
    let pcap = fs::read(path).unwrap();
    let mut start = None;
    let mut applied = 0;
    for datagram in Capture::open(&pcap).unwrap() {
        let datagram = datagram.unwrap();
        if !datagram.destination.ip().is_multicast() || !(8848..8912).contains(&datagram.destination.port()) {
            continue;
        }
        let since = datagram.at - *start.get_or_insert(datagram.at);
        bed.now = Time::from_millis(1_000_000) + since;
        match bed.director.apply_sync(bed.now, datagram.payload) {
            SyncOutcome::Applied(it) => {
                assert_eq!(it.rejected, 0, "{name}");
                applied += u32::from(it.created) + u32::from(it.updated);
            }
            other => panic!("{name}: {other:?}"),
        }
        bed.director.check_invariants();
    }
    assert!(applied > 0, "{name}");
    assert_eq!(bed.director.sync_counters().backup.unbound, 0, "{name}: every server is found");
    compare(&name, &bed, &text);
    compare_servers(&name, &bed, &text, &services);

    // Without services, the same entries, which count nowhere.
    let stranger = Bed::new();
    start_backup(&stranger.director);
    stranger.director.start_sync_backup(BackupSettings { syncid: SyncId::ANY });
    for datagram in Capture::open(&pcap).unwrap() {
        let datagram = datagram.unwrap();
        if datagram.destination.ip().is_multicast() && datagram.destination.port() == 8848 {
            stranger.director.apply_sync(stranger.now, datagram.payload);
        }
    }
    assert_eq!(rows(&stranger).keys().collect::<Vec<_>>(), rows(&bed).keys().collect::<Vec<_>>(), "{name}");
    stranger.director.check_invariants();
}

/// Compares the entries with what the kernel showed of its own.
fn compare(name: &str, bed: &Bed, text: &str) {
    let mut shown: BTreeMap<String, u64> = BTreeMap::new();
    for line in section(text, "backup: /proc/net/ip_vs_conn_sync") {
        let (row, rest) = line.split_once(" SYNC ").unwrap_or_else(|| panic!("{name}: {line}"));
        let row: Vec<&str> = row.split_whitespace().collect();
        shown.insert(row.join(" "), rest.trim().parse().unwrap());
    }
    let rows = rows(bed);
    assert_eq!(rows.keys().collect::<Vec<_>>(), shown.keys().collect::<Vec<_>>(), "{name}");
    for (row, expires) in &rows {
        let left = shown[row];
        assert!((left..=left + A_MOMENT).contains(expires), "{name}: {row}: {expires} s, shown: {left} s");
    }
    let engines: Vec<String> = section(text, "backup: /proc/net/ip_vs_conn")
        .filter_map(|line| line.split_once(" sip ").map(|(_, data)| data.trim().to_owned()))
        .collect();
    let templates = bed.director.templates(bed.now).flatten();
    let found: Vec<String> = templates
        .filter_map(|it| it.pe_data)
        .map(|(engine, data)| {
            assert_eq!(engine, PersistenceEngine::Sip);
            String::from_utf8(data.into()).unwrap()
        })
        .collect();
    assert_eq!(found, engines, "{name}");
}

/// All entries as the kernel shows them, and for how many seconds they last.
fn rows(bed: &Bed) -> BTreeMap<String, u64> {
    let end = |address: SocketAddr| format!("{} {:04X}", hex(address.ip()), address.port());
    let mut rows = BTreeMap::new();
    for it in bed.director.connections(bed.now).flatten() {
        assert!(it.flags.contains(ConnFlags::SYNC));
        let protocol = it.transport.to_string().to_uppercase();
        let ends = [it.client, it.virtual_address, it.server].map(end).join(" ");
        rows.insert(format!("{protocol} {ends} {}", it.state), it.expires.as_secs());
    }
    for it in bed.director.templates(bed.now).flatten() {
        assert!(it.flags.contains(ConnFlags::SYNC));
        let protocol = it.transport.map_or("IP".to_owned(), |transport| transport.to_string().to_uppercase());
        let client = SocketAddr::new(it.clients, 0);
        let ends = [client, it.virtual_address, it.server].map(end).join(" ");
        rows.insert(format!("{protocol} {ends} {}", it.state()), it.expires.as_secs());
    }
    rows
}

/// Compares method and counts of each server.
fn compare_servers(name: &str, bed: &Bed, text: &str, keys: &[ServiceKey]) {
    let services = bed.director.services();
    let mut keys = keys.iter();
    let mut service = None;
    for line in section(text, "backup: ipvsadm -Ln") {
        let columns: Vec<&str> = line.split_whitespace().collect();
        match columns[..] {
            ["->", "RemoteAddress:Port", ..] | ["Prot" | "IP", ..] | [] => {}
            ["->", server, method, _, active, inactive] => {
                let server = services.server(service.unwrap(), server.parse().unwrap()).unwrap();
                assert_eq!(method, "Masq", "{name}");
                let counts = (server.active_conns().to_string(), server.inactive_conns().to_string());
                assert_eq!(counts, (active.to_owned(), inactive.to_owned()), "{name}: {line}");
            }
            _ => service = keys.next(),
        }
    }
    assert!(service.is_some(), "{name}");
}

/// Adds the services that `ipvsadm -Sn` shows.
fn configure<'a>(bed: &Bed, lines: impl Iterator<Item = &'a str>) -> Vec<ServiceKey> {
    let mut services: Vec<(ServiceKey, ServiceSettings, Vec<ServerSpec>)> = Vec::new();
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = |option: &str| {
            words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1)).copied()
        };
        if words[0] == "-a" {
            assert!(words.contains(&"-m"), "{line}");
            let (_, _, servers) = services.last_mut().unwrap();
            servers.push(crate::bed::server(value("-r").unwrap(), 1));
            continue;
        }
        let key = match (value("-t"), value("-u"), value("-f")) {
            (Some(vip), ..) => key(Tcp, vip),
            (_, Some(vip), _) => key(Udp, vip),
            (.., mark) => marked(mark.unwrap().parse().unwrap(), Family::V4),
        };
        let persistence = value("-p").map(|seconds| Persistence {
            timeout: Duration::from_secs(seconds.parse().unwrap()),
            clients: ClientMask::V4([255; 4].into()),
            engine: value("--pe").map(|_| PersistenceEngine::Sip),
        });
        services.push((key, ServiceSettings { persistence, ..Default::default() }, Vec::new()));
    }
    let mut keys = Vec::new();
    for (key, settings, servers) in services {
        let servers: Vec<String> = servers.iter().map(|server| server.address.to_string()).collect();
        let servers: Vec<&str> = servers.iter().map(String::as_str).collect();
        bed.add_service(key, Rr, settings, &servers);
        keys.push(key);
    }
    keys
}

fn hex(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08X}", address.to_bits()),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:04x}")).join(":"),
    }
}

/// The lines of a section, without heads of tables.
fn section<'a>(text: &'a str, title: &str) -> impl Iterator<Item = &'a str> {
    let title = format!("# {title}");
    assert!(text.lines().any(|line| line == title), "{title}");
    let behind = text.lines().skip_while(move |line| *line != title).skip(1);
    behind.take_while(|line| !line.starts_with("# ")).filter(|line| !line.starts_with("Pro "))
}
