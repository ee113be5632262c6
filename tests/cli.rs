//! The command line: help, exit codes, and what `nfvs show` prints of what a daemon says.

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use tempfile::TempDir;

const TABLES: [&str; 7] = ["services", "servers", "connections", "queues", "stats", "rates", "tunables"];

/// What a run of `nfvs` came to.
#[derive(Debug, PartialEq, Eq)]
struct Run {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Run {
    /// All of it, for snapshots.
    fn text(&self) -> String {
        let Run { code, stdout, stderr } = self;
        format!("exit {code}\n--- standard output\n{stdout}--- standard error\n{stderr}")
    }
}

fn nfvs(arguments: &[&str]) -> Run {
    nfvs_in(Path::new("/"), arguments)
}

fn nfvs_in(folder: &Path, arguments: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nfvs"));
    let output = command.args(arguments).current_dir(folder).env_remove("RUST_LOG").output().unwrap();
    Run {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Listens where a daemon would, and answers each request by `answer`.
struct FakeDaemon {
    folder: TempDir,
}

impl FakeDaemon {
    /// One that needs to know only which command it is.
    fn new(answer: impl Fn(&str) -> String + Send + 'static) -> FakeDaemon {
        FakeDaemon::hearing(move |request| answer(request["command"].as_str().unwrap()))
    }

    fn hearing(answer: impl Fn(&Value) -> String + Send + 'static) -> FakeDaemon {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("nfvs.sock")).unwrap();
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                // A client may ask more than once, and one that has seen enough may be gone.
                for request in BufReader::new(&stream).lines().map_while(Result::ok) {
                    let answer = answer(&serde_json::from_str(&request).unwrap());
                    let _ = (&stream).write_all(answer.as_bytes());
                    // Whatever is no whole answer is its last word.
                    if !answer.contains("\"ok\"") {
                        break;
                    }
                }
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
        FakeDaemon { folder }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("nfvs.sock")
    }

    fn show(&self, what: &str, more: &[&str]) -> Run {
        let socket = self.socket();
        nfvs(&[&["show", what, "--socket", socket.to_str().unwrap()], more].concat())
    }
}

fn traffic(connections: u64, packets: u64, bytes: u64) -> Value {
    json!({
        "connections": connections, "in_packets": packets, "out_packets": packets / 2, "in_bytes": bytes,
        "out_bytes": bytes.saturating_mul(100),
    })
}

fn services() -> Value {
    let server = |address: &str, port: u16, weight: u32, active: u32, inactive: u32| {
        json!({
            "address": address, "port": port, "weight": weight, "forward": "nat", "active": active,
            "inactive": inactive, "persistent": 2, "upper_threshold": 0, "lower_threshold": 0, "overloaded": false,
            "health": "unchecked", "stats": traffic(active.into(), 1200, 98_304),
        })
    };
    let service = |name: &str, protocol: &str, address: &str, port: u16, scheduler: &str, servers: Value| {
        json!({
            "name": name, "protocol": protocol, "address": address, "port": port, "scheduler": scheduler,
            "path": "queue", "stats": traffic(300, 123_456_789, 9_876_543_210), "servers": servers,
            "one_packet": protocol == "udp", "timeouts": {},
        })
    };
    let marked = |mark: u16, family: &str, netmask: Value, servers: Value| {
        json!({
            "name": format!("fwmark-{mark}-{family}"), "fwmark": mark, "family": family, "scheduler": "rr",
            "path": "queue", "stats": traffic(0, 0, 0), "servers": servers, "one_packet": false,
            "persistence": { "timeout": 360, "netmask": netmask }, "on_remove": "keep", "timeouts": { "udp": 5 },
        })
    };
    let mut services = json!([
        service(
            "web",
            "tcp",
            "10.0.0.100",
            80,
            "wrr",
            json!([
                server("10.0.2.11", 8080, 2, 17, 123_456),
                server("192.168.200.200", 65_535, i32::MAX as u32, 0, 0),
            ])
        ),
        service("every-port", "udp", "10.0.0.101", 0, "random", json!([])),
        service("web6", "tcp", "fd00::100", 80, "wlc", json!([server("fd00:2::11", 8080, 1, 3, 4)])),
        service(
            "long6",
            "tcp",
            "2001:db8:1111:2222:3333:4444:5555:6666",
            443,
            "rr",
            json!([server("2001:db8:ffff:eeee:dddd:cccc:bbbb:aaaa", 65_535, 0, u32::MAX, u32::MAX)]),
        ),
        marked(5, "ipv4", json!("255.255.255.0"), json!([])),
        marked(65_535, "ipv6", json!(64), json!([])),
        marked(6, "ipv6", json!(128), json!([server("fd00:2::11", 0, 1, 3, 4)])),
    ]);
    services[6]["persistence"]["engine"] = "sip".into();
    services
}

fn tunables() -> Value {
    json!({
        "cache_bypass": 0, "conn_reuse_mode": 1, "expire_nodest_conn": 0, "expire_quiescent_template": 1, "pmtu_disc": 1
    })
}

fn connections() -> Vec<Value> {
    let connection = |protocol: &str,
                      client: &str,
                      virtual_address: &str,
                      server: &str,
                      state: &str,
                      expires: u64| {
        json!({
            "protocol": protocol, "client": client, "virtual": virtual_address, "server": server, "state": state,
            "expires": expires, "origin": "local", "template": false, "forward": "nat", "flags": "0x0100",
            "path": "queue",
        })
    };
    let mut call = connection("udp", "10.0.1.2:0", "10.0.0.100:5060", "10.0.2.11:5060", "ASSURED", 300);
    call["template"] = true.into();
    call["pe_name"] = "sip".into();
    call["pe_data"] = "7@\u{e4}\u{1b}".into();
    vec![
        connection("tcp", "10.0.1.2:40001", "10.0.0.100:80", "10.0.2.11:8080", "ESTABLISHED", 899),
        connection("udp", "192.168.100.200:65535", "10.0.0.101:53", "10.0.3.12:53", "UDP", 9),
        connection("tcp", "[fd00:1::2]:40001", "[fd00::100]:80", "[fd00:2::11]:8080", "TIME_WAIT", 2_678_400),
        call,
    ]
}

fn queues(is_root: bool) -> Value {
    let counter = |value: u32| if is_root { json!(value) } else { Value::Null };
    let unknown = if is_root {
        Value::Null
    } else {
        json!("the daemon may not read the kernel's queue counters; see nfvs prepare --group")
    };
    let queue = |number: u16, class: &str, backend: &str, running: bool, count: u32| {
        json!({
            "queue": number, "class": class, "backend": backend, "running": running, "waiting": counter(count / 3),
            "dropped": counter(count), "user_dropped": counter(count / 2), "unknown": unknown,
            "received": u64::from(count) * 1000, "verdicts": u64::from(count) * 999, "refused": count / 5, "lost": 0,
        })
    };
    json!([
        queue(0, "established", "batched", true, 0),
        queue(1, "open", "batched", false, 4711),
        queue(65_535, "datagram", "nfq", true, 20_000_000),
    ])
}

fn stats(table_full: u32) -> Value {
    json!({
        "connections": 300, "max_connections": 1_048_576, "dropped_entries": 3 * table_full,
        "drops": { "malformed": 0, "table_full": table_full, "truncated": table_full / 2 },
        "total": traffic(999_999_999, 1_000_000_000_000, 1),
        "services": services(),
    })
}

fn rates() -> Value {
    let per_second = |connections: u64, packets: u64, bytes: u64| {
        json!({
            "connections_per_second": connections, "in_packets_per_second": packets,
            "out_packets_per_second": packets / 2, "in_bytes_per_second": bytes,
            "out_bytes_per_second": bytes.saturating_mul(100),
        })
    };
    let mut services = services();
    for service in services.as_array_mut().unwrap() {
        for server in service["servers"].as_array_mut().unwrap() {
            *server = json!({
                "address": server["address"], "port": server["port"],
                "rates": per_second(12, 123_456_789, 123_456_789),
            });
        }
        let service = service.as_object_mut().unwrap();
        service.retain(|key, _| {
            ["name", "protocol", "address", "port", "fwmark", "family", "servers"].contains(&key.as_str())
        });
        service.insert("rates".to_owned(), per_second(25, 123_456_789, 99_999_999));
    }
    json!({ "total": per_second(1, 2, 3), "services": services })
}

fn ok(value: &Value) -> String {
    json!({ "ok": value }).to_string() + "\n"
}

/// A daemon's answer to each question.
fn usual_answer(command: &str) -> String {
    match command {
        "show-services" => ok(&services()),
        "show-connections" => {
            let items = connections().into_iter().map(|item| json!({ "item": item }).to_string() + "\n");
            items.collect::<String>() + &ok(&Value::Null)
        }
        "show-queues" => ok(&queues(true)),
        "show-stats" => ok(&stats(5)),
        "show-rates" => ok(&rates()),
        "show-tunables" => ok(&tunables()),
        other => json!({ "error": format!("what is {other}?") }).to_string() + "\n",
    }
}

/// A daemon without services.
fn empty_answer(command: &str) -> String {
    match command {
        "show-connections" => ok(&Value::Null),
        "show-stats" => {
            let total = traffic(0, 0, 0);
            ok(
                &json!({ "connections": 0, "max_connections": 1, "drops": {}, "total": total, "services": [] }),
            )
        }
        "show-rates" => {
            let mut nothing = rates();
            nothing["services"] = json!([]);
            ok(&nothing)
        }
        "show-tunables" => ok(&tunables()),
        _ => ok(&json!([])),
    }
}

#[test]
fn help_is_complete() {
    let mut said = String::new();
    for words in [
        &[][..],
        &["run"],
        &["prepare"],
        &["check"],
        &["schema"],
        &["reload"],
        &["show"],
        &["zero"],
        &["sync"],
        &["sync", "dump"],
        &["sync", "test"],
        &["request"],
    ] {
        let words = [words, &["--help"]].concat();
        let run = nfvs(&words);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{words:?}");
        said += &format!("$ nfvs {}\n{}\n", words.join(" "), run.stdout);
    }
    insta::assert_snapshot!("help", said);
}

/// What man pages are made of.
#[test]
fn every_command_and_option_has_its_text() {
    fn look_at(command: &clap::Command, path: &str, seen: &mut usize) {
        let path = format!("{path} {}", command.get_name());
        assert!(command.get_about().is_some(), "{path}");
        for argument in command.get_arguments() {
            *seen += 1;
            assert!(argument.get_help().is_some(), "{path} {}", argument.get_id());
        }
        for below in command.get_subcommands() {
            assert!(below.get_long_about().is_some(), "{path} {}", below.get_name());
            look_at(below, &path, seen);
        }
    }
    let mut seen = 0;
    look_at(&nfvs::cli::command(), "", &mut seen);
    assert!(seen > 10, "only {seen}");
}

#[test]
fn a_wrong_command_line_exits_2() {
    let mut said = String::new();
    for words in [
        &[][..],
        &["balance"],
        &["--verbose"],
        &["run"],
        &["run", "--config"],
        &["run", "--config", "a", "b"],
        &["prepare"],
        &["prepare", "--config", "a", "--socket", "b"],
        &["check"],
        &["check", "a", "b"],
        &["reload", "now"],
        &["show"],
        &["show", "weather"],
        &["show", "services", "--xml"],
        &["zero", "web", "dns"],
        &["sync", "dump"],
        &["sync", "dump", "--pcap", "a", "--port", "70000"],
        &["sync", "test", "--wait", "0"],
        &["request"],
        &["schema", "7"],
    ] {
        let run = nfvs(words);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{words:?}");
        // Without a command, all of the help is said, which has a snapshot of its own.
        if !words.is_empty() {
            said += &format!("$ nfvs {}\n{}\n", words.join(" "), run.stderr);
        }
    }
    insta::assert_snapshot!("wrong_command_lines", said);
}

#[test]
fn check_says_everything_that_is_wrong_in_a_form_for_editors() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        nfvs_in(folder.path(), &["check", name])
    };
    let right = check("right.json", r#"{ "services": [] }"#);
    let expected = Run { code: 0, stdout: "right.json: ok\n".to_owned(), stderr: String::new() };
    assert_eq!(right, expected);

    let wrong = check(
        "wrong.json",
        "{ \"services\": [ {\n  \"protocol\": \"tpc\", \"address\": \"10.0.0.100\", \"port\": 80,\n  \
         \"servers\": [ { \"address\": \"10.0.2.11\", \"weight\": -1 } ] } ],\n  \"queue\": {} }\n",
    );
    insta::assert_snapshot!("check_wrong", wrong.text());
    insta::assert_snapshot!("check_syntax", check("syntax.json", "{ \"services\": [ ], }").text());
    insta::assert_snapshot!("check_missing", nfvs_in(folder.path(), &["check", "missing.json"]).text());
}

#[test]
fn the_schema_is_the_packaged_one() {
    let packaged = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/nfvs.schema.json");
    let run = nfvs(&["schema"]);
    assert_eq!((run.code, run.stdout), (0, fs::read_to_string(packaged).unwrap()));
}

#[test]
fn without_a_daemon_show_says_where_it_looked() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no.sock");
    let dead = folder.path().join("dead.sock");
    drop(UnixListener::bind(&dead).unwrap());
    for (socket, error) in
        [(missing, "No such file or directory (os error 2)"), (dead, "Connection refused (os error 111)")]
    {
        let socket = socket.to_str().unwrap();
        let stderr =
            format!("nfvs: {socket}: no daemon runs there; is --netns or --socket right?: {error}\n");
        for words in [["show", "services"], ["request", "{}"]] {
            let run = nfvs(&[&words[..], &["--socket", socket]].concat());
            assert_eq!(run, Run { code: 1, stdout: String::new(), stderr: stderr.clone() });
        }
    }
    let run = nfvs(&["show", "stats", "--netns", "no-such-namespace"]);
    assert!(run.stderr.starts_with("nfvs: /run/nfvs/no-such-namespace.sock: "), "{}", run.stderr);
    let run = nfvs(&["show", "stats", "--netns", "x", "--socket", "/no/such"]);
    assert!(run.stderr.starts_with("nfvs: /no/such: "), "{}", run.stderr);
}

#[test]
fn tables_have_the_columns_of_ipvsadm() {
    let daemon = FakeDaemon::new(usual_answer);
    for what in TABLES {
        insta::assert_snapshot!(format!("show_{what}"), daemon.show(what, &[]).text());
    }
    let empty = FakeDaemon::new(empty_answer);
    let shown = TABLES.map(|what| format!("$ nfvs show {what}\n{}", empty.show(what, &[]).text())).concat();
    insta::assert_snapshot!("show_nothing", shown);
    let nobody = FakeDaemon::new(|_| ok(&queues(false)));
    insta::assert_snapshot!("show_queues_without_root", nobody.show("queues", &[]).text());
    let content = FakeDaemon::new(|_| ok(&stats(0)));
    let shown = content.show("stats", &[]).stdout;
    assert!(shown.ends_with("\nconnections: 300 of at most 1048576\ndropped: none\n"), "{shown}");
}

/// Asserts that `value` has exactly these keys.
#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let mut found: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut keys = keys.to_vec();
    found.sort_unstable();
    keys.sort_unstable();
    assert_eq!(found, keys);
}

#[test]
fn json_has_the_promised_keys() {
    let daemon = FakeDaemon::new(usual_answer);
    let show = |what: &str| -> Value {
        let run = daemon.show(what, &["--json"]);
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{what}");
        serde_json::from_str(&run.stdout).unwrap()
    };
    // What the daemon says reaches programs unchanged.
    assert_eq!(show("services"), services());
    assert_eq!(show("connections"), Value::from(connections()));
    assert_eq!(show("queues"), queues(true));
    assert_eq!(show("stats"), stats(5));
    assert_eq!(show("rates"), rates());

    assert_eq!(show("tunables"), tunables());

    let of_every = ["name", "scheduler", "path", "one_packet", "timeouts", "stats", "servers"];
    let service_keys = [&of_every[..], &["protocol", "address", "port"]].concat();
    let marked_keys = [&of_every[..], &["fwmark", "family", "persistence", "on_remove"]].concat();
    let server_keys = [
        "address",
        "port",
        "weight",
        "forward",
        "active",
        "inactive",
        "persistent",
        "upper_threshold",
        "lower_threshold",
        "overloaded",
        "health",
        "stats",
    ];
    assert_keys(&show("services")[0], &service_keys);
    assert_keys(&show("services")[4], &marked_keys);
    assert_keys(&show("services")[0]["servers"][0], &server_keys);
    assert_keys(
        &show("connections")[0],
        &[
            "protocol", "client", "virtual", "server", "state", "expires", "origin", "template", "forward",
            "flags", "path",
        ],
    );
    let servers = show("servers");
    assert_eq!(servers.as_array().unwrap().len(), 5);
    assert_keys(&servers[0], &[&server_keys[..], &["service"]].concat());
    assert_eq!(
        servers[3]["service"],
        json!({ "name": "long6", "protocol": "tcp", "address": "2001:db8:1111:2222:3333:4444:5555:6666", "port": 443 })
    );
    assert_eq!(servers[4]["service"], json!({ "name": "fwmark-6-ipv6", "fwmark": 6, "family": "ipv6" }));

    let empty = FakeDaemon::new(empty_answer);
    for what in &TABLES[..4] {
        assert_eq!(empty.show(what, &["--json"]).stdout, "[]\n", "{what}");
    }
}

#[test]
fn a_refusal_and_a_broken_daemon_exit_1_and_say_why() {
    for (answer, error) in [
        ("{\"error\":\"not today\"}\n", "not today"),
        ("", "the daemon went away"),
        ("hello\n", "the daemon's answer is not understood: expected value at line 1 column 1"),
        ("{\"ok\":7}\n", "the daemon's answer is not understood"),
    ] {
        let daemon = FakeDaemon::new(move |_| answer.to_owned());
        for what in ["services", "queues"] {
            let run = daemon.show(what, &[]);
            assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{answer}");
            assert!(run.stderr.starts_with(&format!("nfvs: {error}")), "{answer}: {}", run.stderr);
        }
    }
    // In the middle of a long answer.
    let daemon = FakeDaemon::new(|_| json!({ "item": connections()[0] }).to_string() + "\n");
    let run = daemon.show("connections", &[]);
    assert_eq!((run.code, run.stderr.as_str()), (1, "nfvs: the daemon went away\n"));
}

#[test]
fn a_reload_is_told_in_a_line_and_complaints_are_told_as_check_tells_them() {
    let reload = |answer: Value| {
        let daemon = FakeDaemon::new(move |command| {
            assert_eq!(command, "reload");
            answer.to_string() + "\n"
        });
        nfvs(&["reload", "--socket", daemon.socket().to_str().unwrap()])
    };
    for (ok, line) in [
        (
            json!({ "added": 1, "removed": 0, "changed": 2, "settings": [] }),
            "reloaded: 1 service added, 0 removed, 2 changed\n",
        ),
        (
            json!({ "added": 0, "removed": 3, "changed": 0, "settings": ["timeouts", "answer_ping"] }),
            "reloaded: 0 services added, 3 removed, 0 changed; timeouts, answer_ping changed\n",
        ),
        (json!({ "added": 0, "removed": 0, "changed": 0, "settings": [] }), "reloaded: nothing to change\n"),
    ] {
        let run = reload(json!({ "ok": ok }));
        assert_eq!(run, Run { code: 0, stdout: line.to_owned(), stderr: String::new() });
    }
    for (error, said) in [
        (
            "/etc/nfvs/x.json:3:5: a: b\n/etc/nfvs/x.json:4:1: c: d",
            "/etc/nfvs/x.json:3:5: a: b\n/etc/nfvs/x.json:4:1: c: d\n",
        ),
        ("the sysctl is 0", "nfvs: the sysctl is 0\n"),
    ] {
        let run = reload(json!({ "error": error }));
        assert_eq!(run, Run { code: 1, stdout: String::new(), stderr: said.to_owned() });
    }
}

/// A daemon that hangs up without having read breaks the pipe to it: no reason to be content.
#[test]
fn a_daemon_that_hangs_up_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("nfvs.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            stream.unwrap().shutdown(Shutdown::Both).unwrap();
        }
    });
    // As long as an argument can be, so that it is still being written when the daemon hangs up.
    let request = format!("{{\"command\":\"{}\"}}", "x".repeat(120_000));
    for _ in 0..20 {
        let run = nfvs(&["request", &request, "--socket", socket.to_str().unwrap()]);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""));
        assert!(run.stderr.starts_with("nfvs: the daemon went away"), "{}", run.stderr);
    }
}

#[test]
fn zero_names_a_service_by_its_name_or_its_key() {
    let (say, heard) = mpsc::channel();
    let daemon = FakeDaemon::hearing(move |request| match request["command"].as_str() {
        Some("show-services") => ok(&services()),
        _ => {
            say.send(request.clone()).unwrap();
            ok(&Value::Null)
        }
    });
    let socket = daemon.socket();
    let zero =
        |service: &[&str]| nfvs(&[&["zero"], service, &["--socket", socket.to_str().unwrap()]].concat());
    let web6 = json!({ "protocol": "tcp", "address": "fd00::100", "port": 80 });
    for (service, expected) in [
        (&[][..], json!({ "command": "zero" })),
        (&["web6"], json!({ "command": "zero", "service": web6 })),
        (&["tcp [fd00::100]:80"], json!({ "command": "zero", "service": web6 })),
        (&["fwmark 6 ipv6"], json!({ "command": "zero", "service": { "fwmark": 6, "family": "ipv6" } })),
        (&["fwmark 5"], json!({ "command": "zero", "service": { "fwmark": 5, "family": "ipv4" } })),
    ] {
        assert_eq!(zero(service), Run { code: 0, stdout: String::new(), stderr: String::new() });
        assert_eq!(heard.recv().unwrap(), expected, "{service:?}");
    }
    let stderr =
        "nfvs: no service is called \"tcp fd00::100:80\", and none has that for its address or mark\n"
            .to_owned();
    assert_eq!(zero(&["tcp fd00::100:80"]), Run { code: 1, stdout: String::new(), stderr });
    assert!(heard.try_recv().is_err(), "nothing was zeroed");
}

#[test]
fn requests_are_relayed_as_they_are() {
    let daemon = FakeDaemon::new(usual_answer);
    let socket = daemon.socket();
    let request = |line: &str| nfvs(&["request", line, "--socket", socket.to_str().unwrap()]);
    let run = request(r#"{"command":"show-connections"}"#);
    assert_eq!((run.code, run.stdout), (0, usual_answer("show-connections")));
    let run = request(r#"{"command":"sing"}"#);
    assert_eq!((run.code, run.stdout.as_str()), (1, "{\"error\":\"what is sing?\"}\n"));
    let run = request("{\n}");
    assert_eq!((run.code, run.stderr.as_str()), (1, "nfvs: a request is one line\n"));
}

/// As under `nfvs show ... | head -1`.
#[test]
fn output_that_nobody_reads_is_no_error() {
    // More than a pipe holds.
    let daemon = FakeDaemon::new(|command| match command {
        "show-connections" => {
            let item = json!({ "item": connections()[0] }).to_string() + "\n";
            item.repeat(5000) + &ok(&Value::Null)
        }
        "show-queues" => ok(&json!(vec![queues(true)[0].clone(); 5000])),
        "show-stats" => {
            let mut stats = stats(5);
            stats["services"] = vec![services()[0].clone(); 2000].into();
            ok(&stats)
        }
        "show-rates" => {
            let mut rates = rates();
            rates["services"] = vec![rates["services"][0].clone(); 2000].into();
            ok(&rates)
        }
        _ => ok(&json!(vec![services()[0].clone(); 2000])),
    });
    let socket = daemon.socket();
    for what in &TABLES[..5] {
        for json in [&[][..], &["--json"]] {
            for lines in [0, 1] {
                let mut child = Command::new(env!("CARGO_BIN_EXE_nfvs"))
                    .args(["show", what, "--socket"])
                    .arg(&socket)
                    .args(json)
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap();
                let mut stdout = BufReader::new(child.stdout.take().unwrap());
                for _ in 0..lines {
                    stdout.read_line(&mut String::new()).unwrap();
                }
                drop(stdout);
                let mut stderr = String::new();
                child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
                let code = child.wait().unwrap().code();
                assert_eq!((code, stderr.as_str()), (Some(0), ""), "{what} {json:?} {lines}");
            }
        }
    }
}

#[test]
fn a_log_filter_that_is_not_understood_is_said() {
    let log = |filter: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_nfvs"))
            .args(["run", "--config", "/no/such/file"])
            .env("RUST_LOG", filter)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let error = "nfvs: cannot read /no/such/file: No such file or directory (os error 2)\n";
    for filter in ["info", "debug", "nfvs=trace"] {
        assert_eq!(log(filter), error, "{filter}");
    }
    let said = log("nfvs=loud");
    assert!(said.contains(" WARN RUST_LOG is not understood; taking \"info\" error="), "{said}");
    assert!(said.ends_with(error), "{said}");
}

/// A backup that has answered by these ports, and not by those.
fn backup(address: &str, lost: Option<u32>, answered: &[u16], silent: &[u16]) -> Value {
    let answered: Vec<Value> = answered
        .iter()
        .map(|port| json!({ "port": port, "micros": 1412 + u64::from(port - 8848) }))
        .collect();
    json!({
        "address": address, "syncid": 1, "authenticated": lost.is_some(), "lost": lost, "answered": answered,
        "silent": silent,
    })
}

#[test]
fn a_test_of_the_synchronisation_shows_who_has_answered() {
    let tested = |ports: u16, backups: Value, failed: Value, refused: Value| {
        json!({
            "interface": "eth1", "group": "224.0.0.81", "port": 8848, "ports": ports, "syncid": 1, "maxlen": 1472,
            "ttl": 1, "authenticated": true, "wait": 2, "failed": failed, "backups": backups, "refused": refused,
        })
    };
    let none = || (json!([]), json!({}));
    let one = backup("10.0.9.2", Some(0), &[8848], &[]);
    let whole = backup("10.0.9.2", Some(17), &[8848, 8849], &[]);
    let part = backup("fe80::1", None, &[8848], &[8849]);
    let failed = json!([{ "port": 8849, "error": "Operation not permitted (os error 1)" }]);
    let mut said = String::new();
    for (what, expect, tested) in [
        ("one port", None, tested(1, json!([one]), none().0, none().1)),
        ("two backups, one of them by one port", None, tested(2, json!([whole, part]), none().0, none().1)),
        ("too few", Some("2"), tested(2, json!([whole, part]), none().0, none().1)),
        ("not by every port", None, tested(2, json!([part]), failed, none().1)),
        ("nobody", None, tested(1, json!([]), none().0, json!({ "unauthenticated": 1 }))),
    ] {
        let daemon = FakeDaemon::hearing(move |request| {
            let wanted: Option<u16> = expect.map(|expect| expect.parse().unwrap());
            let mut expected = json!({ "command": "test-sync", "wait": 2, "expect": wanted });
            expected.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            assert_eq!(*request, expected);
            json!({ "ok": tested }).to_string() + "\n"
        });
        let socket = daemon.socket();
        let mut words = vec!["sync", "test", "--socket", socket.to_str().unwrap()];
        words.extend(expect.into_iter().flat_map(|expect| ["--expect", expect]));
        said += &format!("# {what}\n{}\n", nfvs(&words).text());
        let json = nfvs(&[&words[..], &["--json"]].concat());
        assert!(serde_json::from_str::<Value>(&json.stdout).unwrap()["backups"].is_array());
    }
    insta::assert_snapshot!("sync_test", said);
}
