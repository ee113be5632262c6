//! The control socket: live changes as clients see them, and requests that no good program would send.

use super::common::lab::{Lab, text, wait_for};
use super::{assert_refused, assert_serves, each, rules};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn connect(lab: &Lab) -> UnixStream {
    let stream = UnixStream::connect(lab.file("nfvs.sock")).expect("the daemon");
    stream.set_read_timeout(Some(Duration::from_secs(15))).expect("a read timeout");
    stream
}

/// Sends bytes, and nothing after them, and returns what comes back.
#[track_caller]
fn replies(lab: &Lab, bytes: &[u8]) -> String {
    let mut stream = connect(lab);
    // The daemon may answer and leave before it has read all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => panic!("{error}"),
        _ => String::from_utf8(said).expect("text"),
    }
}

/// Sends a request over an open connection and returns the reply.
#[track_caller]
fn ask(stream: &mut BufReader<UnixStream>, request: &Value) -> Value {
    writeln!(stream.get_mut(), "{request}").expect("the daemon listens");
    let mut line = String::new();
    stream.read_line(&mut line).expect("a reply");
    serde_json::from_str(&line).expect("JSON")
}

/// A client in c1 that keeps its connection and asks for one page after the other.
struct Browser(BufReader<TcpStream>);

impl Browser {
    fn new(lab: &Lab, port: u16) -> Browser {
        let stream = lab.enter("c1", || TcpStream::connect(("10.0.0.100", port)).expect("a server"));
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a read timeout");
        Browser(BufReader::new(stream))
    }

    fn request(&mut self) {
        write!(self.0.get_mut(), "GET / HTTP/1.1\r\nHost: lab\r\n\r\n").expect("an open connection");
    }

    /// The name of the server.
    #[track_caller]
    fn page(&mut self) -> String {
        self.request();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert_ne!(self.0.read_line(&mut line).expect("a header"), 0, "the server closed");
        }
        line.clear();
        self.0.read_line(&mut line).expect("the page");
        line.trim_end().to_owned()
    }
}

#[test]
fn every_change_is_seen_by_clients() {
    let lab = Lab::up("changes", "nat4", &[]);
    let service = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 8000 });
    let url = "http://10.0.0.100:8000/";
    let server = |address: &str, weight: u32| json!({ "address": address, "port": 8080, "weight": weight });
    let (s1, s2, s3) = ("10.0.2.11", "10.0.3.12", "10.0.4.13");
    let with = |more: Value| {
        let mut all = service.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    assert_refused(&lab, url);

    let servers = json!([server(s1, 1), server(s2, 1)]);
    let new = with(json!({ "name": "new", "scheduler": "rr", "servers": servers }));
    lab.request(&json!({ "command": "add-service", "service": new }));
    assert_eq!(lab.answers("c1", url, 20, &[]), each(&[("s1", 10), ("s2", 10)]));

    let scheduler = with(json!({ "scheduler": "wrr" }));
    lab.request(&json!({ "command": "edit-service", "service": scheduler }));
    lab.request(&json!({ "command": "edit-server", "service": service, "server": server(s2, 3) }));
    assert_eq!(lab.answers("c1", url, 40, &[]), each(&[("s1", 10), ("s2", 30)]));

    lab.request(&json!({ "command": "add-server", "service": service, "server": server(s3, 4) }));
    assert_eq!(lab.answers("c1", url, 80, &[]), each(&[("s1", 10), ("s2", 30), ("s3", 40)]));

    // Weight 0: no new connections, but those there are go on.
    lab.request(&json!({ "command": "edit-server", "service": service, "server": server(s1, 0) }));
    lab.request(&json!({ "command": "edit-server", "service": service, "server": server(s2, 0) }));
    let mut browser = Browser::new(&lab, 8000);
    assert_eq!(browser.page(), "s3");
    lab.request(&json!({ "command": "edit-server", "service": service, "server": server(s3, 0) }));
    assert_eq!(browser.page(), "s3");
    assert_refused(&lab, url);
    lab.request(&json!({ "command": "edit-server", "service": service, "server": server(s1, 1) }));
    assert_eq!(lab.answers("c1", url, 5, &[]), each(&[("s1", 5)]));
    assert_eq!(browser.page(), "s3");

    // A deleted server: what its connections still send is dropped.
    lab.request(
        &json!({ "command": "delete-server", "service": service, "server": { "address": s3, "port": 8080 } }),
    );
    assert_eq!(lab.show("stats")["drops"]["server_removed"], 0);
    browser.request();
    wait_for("drops", || lab.show("stats")["drops"]["server_removed"] != 0);
    assert_eq!(lab.answers("c1", url, 5, &[]), each(&[("s1", 5)]));
    // It comes back with its connections.
    lab.request(&json!({ "command": "add-server", "service": service, "server": server(s3, 1) }));
    assert_eq!(browser.page(), "s3");

    let mut last = Browser::new(&lab, 8000);
    last.page();
    lab.request(&json!({ "command": "delete-service", "service": service }));
    assert_refused(&lab, url);
    last.request();
    // The rules answer with a reset.
    let ended = last.0.read(&mut [0; 16]);
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);

    lab.request(&json!({ "command": "set-timeouts", "timeouts": { "udp": 1 } }));
    lab.run("c1", &["dig", "+short", "+tries=1", "@10.0.0.100", "TXT", "server.lab"]);
    let exchanges = || {
        let connections = lab.show("connections");
        connections.as_array().unwrap().iter().filter(|connection| connection["protocol"] == "udp").count()
    };
    wait_for("the exchange to expire", || exchanges() == 0);
    lab.request(&json!({ "command": "set-timeouts", "timeouts": { "udp": 1000 } }));
    lab.run("c1", &["dig", "+short", "+tries=1", "@10.0.0.100", "TXT", "server.lab"]);
    assert_eq!(exchanges(), 1);
    assert_serves(&lab);
}

#[test]
fn what_is_no_request_is_refused_with_a_reason() {
    let lab = Lab::up("bad-requests", "nat4", &[]);
    let before = (rules(&lab), lab.show("services"));
    let service = r#""service":{"protocol":"tcp","address":"10.0.0.100","port":80}"#;
    let table = [
        ("hello", "not a request: expected value at line 1 column 1"),
        ("{}", "not a request: missing field `command`"),
        ("[]", "not a request: "),
        ("7", "not a request: invalid type: integer `7`"),
        (r#"{"command":7}"#, "not a request: "),
        (
            r#"{"command":"reboot"}"#,
            "not a request: unknown variant `reboot`, expected one of `show-services`",
        ),
        (r#"{"command":"show-services","all":true}"#, "not a request: unknown field `all`"),
        (r#"{"command":"show-connections","all":true}"#, "not a request: unknown field `all`"),
        (r#"{"command":"add-service"}"#, "not a request: missing field `service`"),
        (r#"{"command":"add-service","service":7}"#, "service: 7 is not an object"),
        (
            r#"{"command":"add-service","service":{}}"#,
            "service: the key \"protocol\" is missing; service: the key",
        ),
        (
            r#"{"command":"add-service","service":{"protocol":"tcp","address":"10.0.0.1","port":"80"}}"#,
            "service.port: \"80\" is not a port from 0 to 65535; write it without quotes",
        ),
        (
            r#"{"command":"add-service","service":{"protocol":"tcp","address":"10.0.0.1","port":80,"colour":1}}"#,
            "service.colour: unknown key \"colour\"; allowed: ",
        ),
        (
            &format!(r#"{{"command":"add-service",{service},"force":1}}"#),
            "not a request: unknown field `force`",
        ),
        (&format!(r#"{{"command":"add-service",{service}}}"#), "service tcp 10.0.0.100:80 already exists"),
        (
            &format!(r#"{{"command":"edit-service",{service}}}"#),
            "service: nothing to change; give one of: scheduler, ",
        ),
        (
            r#"{"command":"edit-service","service":{"protocol":"tcp","address":"10.0.0.9","port":80,"scheduler":"rr"}}"#,
            "no such service: tcp 10.0.0.9:80",
        ),
        (
            r#"{"command":"delete-service","service":{"protocol":"tcp","address":"10.0.0.9","port":80}}"#,
            "no such service: tcp 10.0.0.9:80",
        ),
        (
            &format!(
                r#"{{"command":"add-server",{service},"server":{{"address":"10.0.2.11","port":8080}}}}"#
            ),
            "server 10.0.2.11:8080 of service tcp 10.0.0.100:80 already exists",
        ),
        (&format!(r#"{{"command":"add-server",{service},"server":[]}}"#), "server: a list is not an object"),
        (
            &format!(r#"{{"command":"add-server",{service},"server":{{"address":"fd00::1"}}}}"#),
            "server.address: ",
        ),
        (
            &format!(
                r#"{{"command":"edit-server",{service},"server":{{"address":"10.0.2.11","port":8080}}}}"#
            ),
            "server: nothing to change; give one of: weight, ",
        ),
        (
            &format!(
                r#"{{"command":"edit-server",{service},"server":{{"address":"10.0.2.11","port":8080,"weight":-1}}}}"#
            ),
            "server.weight: -1 is not a weight from 0 to 2147483647",
        ),
        (
            &format!(r#"{{"command":"delete-server",{service},"server":{{"address":"10.0.2.11"}}}}"#),
            "service tcp 10.0.0.100:80 has no server 10.0.2.11:80",
        ),
        (
            r#"{"command":"set-timeouts","timeouts":7}"#,
            "not a request: invalid type: integer `7`, expected a map",
        ),
        (r#"{"command":"set-timeouts","timeouts":{"icmp":1}}"#, "timeouts.icmp: unknown key \"icmp\""),
        (r#"{"command":"set-timeouts","timeouts":{"tcp":0}}"#, "timeouts.tcp: 0 is not a time from 1 to"),
        (r#"{"command":"set-timeouts","timeouts":{"tcp":null}}"#, "timeouts.tcp: null is not a time"),
        (r#"{"command":"show-rates","all":true}"#, "not a request: unknown field `all`"),
        (r#"{"command":"zero","all":true}"#, "not a request: unknown field `all`"),
        (r#"{"command":"zero","service":null}"#, "service: null is not an object"),
        (
            r#"{"command":"zero","service":{"protocol":"tcp","address":"10.0.0.9","port":80}}"#,
            "no such service: tcp 10.0.0.9:80",
        ),
        (
            r#"{"command":"zero","service":{"protocol":"tcp","address":"10.0.0.100","port":80,"scheduler":"rr"}}"#,
            "service.scheduler: of no use here; allowed: protocol, address, port",
        ),
        (&"[".repeat(100_000), "not a request: "),
        (
            &format!(r#"{{"command":"add-service","service":{}1{}}}"#, "[".repeat(120), "]".repeat(120)),
            "service: ",
        ),
    ];
    for (request, reason) in table {
        // One after the other over one connection, the last one without its end.
        let said = replies(&lab, format!("{request}\n{request}").as_bytes());
        let lines: Vec<&str> = said.lines().collect();
        assert_eq!(lines.len(), 2, "{request:.100}: {said}");
        for line in lines {
            let reply: Value = serde_json::from_str(line).expect("JSON");
            let error = reply["error"].as_str().unwrap_or_else(|| panic!("{request:.100}: {reply}"));
            assert!(error.starts_with(reason), "{request:.100}: {error}");
        }
    }

    let garbage: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let said = replies(&lab, &garbage);
    assert!(said.lines().count() >= 16 && said.lines().all(|line| line.starts_with("{\"error\":")), "{said}");
    // 1 MiB is the most that a line may have, its end included.
    let blank = |length: usize| {
        let request = "{\"command\":\"show-services\"}\n";
        " ".repeat(length - request.len()) + request
    };
    assert!(replies(&lab, blank(1 << 20).as_bytes()).starts_with("{\"ok\":[{"));
    for length in [(1 << 20) + 1, 5 << 20] {
        assert_eq!(
            replies(&lab, blank(length).as_bytes()),
            "{\"error\":\"a request is one line of at most 1048576 bytes\"}\n"
        );
    }
    // Half a line, and gone.
    let said = replies(&lab, b"{\"command\":\"add-serv");
    assert!(said.starts_with("{\"error\":\"not a request: EOF while parsing a string"), "{said}");
    assert_eq!(replies(&lab, b""), "");
    assert_eq!(replies(&lab, b"\n \n\n"), "");

    assert_eq!((rules(&lab), lab.show("services")), before);
    assert_serves(&lab);
}

#[test]
fn a_change_is_made_whole_or_not_at_all() {
    let lab = Lab::up("atomic", "nat4", &[]);
    let before = (rules(&lab), lab.show("services"));
    let new = |name: &str, servers: Value| {
        let service = json!({ "protocol": "tcp", "address": "10.0.0.101", "port": 80 });
        let mut service = service.as_object().expect("an object").clone();
        service.extend([("name".to_owned(), name.into()), ("servers".to_owned(), servers)]);
        Value::from(service)
    };
    let good = json!({ "address": "10.0.2.11", "port": 8080 });
    for (service, reason) in [
        (
            new("new", json!([good, { "address": "10.0.3.12", "port": 8080, "weight": -1 }])),
            "service.servers[1].weight: -1 is not a weight from 0 to 2147483647",
        ),
        (new("new", json!([good, good])), "service.servers[1]: "),
        (new("web", json!([good])), "another service is already called \"web\""),
    ] {
        let request = json!({ "command": "add-service", "service": service });
        let reply = ask(&mut BufReader::new(connect(&lab)), &request);
        assert!(reply["error"].as_str().unwrap().starts_with(reason), "{reply}");
        assert_eq!((rules(&lab), lab.show("services")), before, "{reply}");
    }
    lab.request(&json!({ "command": "add-service", "service": new("new", json!([good])) }));
    assert_eq!(lab.answers("c1", "http://10.0.0.101/", 2, &[]), each(&[("s1", 2)]));
}

#[test]
fn a_hundred_clients_at_once_are_all_answered() {
    let lab = Lab::up("clients", "nat4", &[]);
    let mode = fs::metadata(lab.file("nfvs.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = (rules(&lab), lab.show("services"));

    // One that asks and does not listen: its questions pile up in the socket until there is no room.
    let mut deaf = connect(&lab);
    deaf.set_nonblocking(true).unwrap();
    while deaf.write(b"{\"command\":\"show-services\"}\n").is_ok() {}

    std::thread::scope(|scope| {
        for client in 1..=100 {
            let lab = &lab;
            scope.spawn(move || {
                let mut stream = BufReader::new(connect(lab));
                let service =
                    json!({ "protocol": "udp", "address": format!("10.0.8.{client}"), "port": 1000 });
                let mut new = service.clone();
                new["servers"] = json!([{ "address": "10.0.2.11", "port": 53 }]);
                for _ in 0..5 {
                    for request in [
                        json!({ "command": "add-service", "service": new }),
                        json!({ "command": "show-services" }),
                        json!({ "command": "delete-service", "service": service }),
                    ] {
                        let reply = ask(&mut stream, &request);
                        assert!(reply.get("ok").is_some(), "{request}: {reply}");
                    }
                }
            });
        }
    });
    assert_eq!(lab.show("services"), before.1);
    assert_serves(&lab);
}

#[test]
fn idle_clients_are_bounded_and_do_not_keep_the_daemon_from_its_work() {
    const MAX: usize = 256;
    let lab = Lab::up("idle", "nat4", &[]);
    let mut idle: Vec<UnixStream> = (0..MAX - 1).map(|_| connect(&lab)).collect();
    assert_eq!(lab.show("services").as_array().unwrap().len(), 3);
    // The place of the client before is free only when the daemon has noticed that it left.
    wait_for("all places to be taken", || {
        idle.push(connect(&lab));
        let shown = lab.nfvs(&["show", "services"]);
        let is_refused = shown.status.code() == Some(1);
        assert!(!is_refused || text(&shown.stderr) == "nfvs: 256 clients are connected already; try again\n");
        is_refused
    });
    assert_serves(&lab);
    drop(idle);
    wait_for("places", || lab.nfvs(&["show", "services"]).status.success());
    lab.request(&json!({ "command": "set-timeouts", "timeouts": { "udp": 1 } }));
}
