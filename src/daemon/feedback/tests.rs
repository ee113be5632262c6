use super::*;
use crate::config;
use crate::daemon::difference;
use crate::director::Limits;
use serde_json::{Value, json};
use std::io::Write;
use std::net::TcpListener;
use std::thread::{self, JoinHandle};

/// A web server for one connection: what it says to the request, which is returned, before it closes.
fn web_server(says: impl Into<Vec<u8>>) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let says = says.into();
    let thread = thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() == 1 {
            request.push(byte[0]);
        }
        // The client may have heard enough before the end.
        let _ = client.write_all(&says);
        String::from_utf8(request).unwrap()
    });
    (address, thread)
}

fn ask_now(page: &Page, timeout: Duration) -> Result<f64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(ask(page, &Semaphore::new(1), timeout));
    answer.map(Load::get).map_err(|error| format!("{error:#}"))
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_web_page_says_the_load() {
    for (says, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n0.25".to_owned(), Ok(0.25)),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n0.\r\n2\r\n5\n\r\n0\r\n\r\n"
                .to_owned(),
            Ok(0.5),
        ),
        ("HTTP/1.0 200 OK\r\n\r\n1.5\nmore".to_owned(), Ok(1.5)),
        // Nobody waits for the end of it.
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n0.75\n{}", "x".repeat(1_000)), Ok(0.75)),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\n0".to_owned(),
            Err("answers with 404 Not Found"),
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 1\r\n\r\n0".to_owned(),
            Err("answers with 302 Found"),
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad".to_owned(), Err("\"bad\" is not a load")),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n0.5".to_owned(),
            Err("end of file before message length reached"),
        ),
        (format!("HTTP/1.1 200 OK\r\n\r\n{}", "0".repeat(100_000)), Ok(0.0)),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), Err("invalid HTTP version parsed")),
        (String::new(), Err("connection closed before message completed")),
    ] {
        let (address, server) = web_server(says.clone());
        let page = Page { address, path: "/load?a=b".to_owned(), host: None };
        match (ask_now(&page, PATIENCE), expected) {
            (Ok(load), Ok(expected)) => assert_eq!(load, expected, "{says:?}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{error}, for {says:?}"),
            (answer, _) => panic!("{answer:?}, for {says:?}"),
        }
        let request = server.join().unwrap();
        assert!(request.starts_with("GET /load?a=b HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&format!("\r\nhost: {address}\r\n")), "{request}");
    }
}

#[test]
fn a_name_may_be_asked_for() {
    let (address, server) = web_server("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n1");
    let page = Page { address, path: "/".to_owned(), host: Some("www.example.org".to_owned()) };
    assert_eq!(ask_now(&page, PATIENCE), Ok(1.0));
    assert!(server.join().unwrap().contains("\r\nhost: www.example.org\r\n"));
}

#[test]
fn who_does_not_answer_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let page = Page { address, path: "/".to_owned(), host: None };
    let timeout = Duration::from_millis(50);
    assert_eq!(
        ask_now(&page, timeout),
        Err(format!("{address} has not answered within 50ms: deadline has elapsed"))
    );
    drop(listener);
    let error = ask_now(&page, PATIENCE).unwrap_err();
    assert!(error.starts_with(&format!("cannot connect to {address}: Connection refused")), "{error}");
}

#[test]
fn a_file_says_the_load() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let read = |name: &str| read_report(&path(name)).map(Load::get).map_err(|error| format!("{error:#}"));
    fs::write(path("one"), "0.5\n").unwrap();
    fs::write(path("long"), format!("0.25\n{}", "x".repeat(10_000))).unwrap();
    fs::write(path("empty"), "").unwrap();
    assert_eq!((read("one"), read("long")), (Ok(0.5), Ok(0.25)));
    assert!(read("empty").unwrap_err().starts_with("\"\" is not a load"));
    assert_eq!(
        read("none").unwrap_err(),
        format!("cannot read {}: No such file or directory (os error 2)", path("none"))
    );
    assert_eq!(read("").unwrap_err(), format!("{} is no regular file", path("")));
}

/// A service with these servers, which report in files of the folder.
fn by_files(folder: &std::path::Path, interval: u32, servers: &[&str]) -> Value {
    let file = format!("{}/{{address}}", folder.display());
    let servers: Vec<Value> = servers.iter().map(|address| json!({ "address": address })).collect();
    json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80, "scheduler": "feedback",
            "feedback": { "file": file, "interval": interval }, "servers": servers })
}

/// Brings the director, and then the tasks, to a configuration with these services.
fn settle(reporters: &mut Reporters, services: &[Value]) {
    let config = config::check("test", &json!({ "services": services }).to_string()).unwrap();
    let commands = difference::commands(&reporters.director.services(), &config);
    reporters.director.apply(&commands).unwrap();
    reporters.follow();
}

/// How many reports have come from each server of the only service, and how many have not.
fn counts(reporters: &Reporters) -> Vec<(String, (u64, u64))> {
    let services = reporters.director.services();
    let servers = services.iter().flat_map(|service| &service.servers);
    servers.map(|server| (server.address.to_string(), server.reported.counts())).collect()
}

/// Waits, which the tasks use, until all of these servers have reported more often than before.
async fn until_more(reporters: &Reporters, servers: &[&str]) {
    let received = |address: &str| {
        counts(reporters).into_iter().find(|(server, _)| server == address).map(|(_, (received, _))| received)
    };
    let before: Vec<_> = servers.iter().map(|server| received(server)).collect();
    let more = async {
        while servers.iter().zip(&before).any(|(server, before)| received(server) <= *before) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, more).await.expect("reports in time");
}

#[test]
fn tasks_follow_services_and_servers() {
    let folder = tempfile::tempdir().unwrap();
    for (name, load) in [("10.0.2.11", "0.9"), ("10.0.2.12", "0.1")] {
        fs::write(folder.path().join(name), load).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let director = Arc::new(Director::new(Limits::default(), 7));
        let mut reporters = Reporters::new(director, Clock::start());
        reporters.follow();
        assert_eq!(reporters.running.len(), 0);

        settle(&mut reporters, &[by_files(folder.path(), 1, &["10.0.2.11", "10.0.2.13"])]);
        until_more(&reporters, &["10.0.2.11"]).await;
        let counted = counts(&reporters);
        assert!(counted[0].1.0 == 0 && counted[0].1.1 > 0, "nobody writes for 10.0.2.13: {counted:?}");

        // A server more: the same task.
        let task = |reporters: &Reporters| reporters.running.values().next().unwrap().task.id();
        let before = task(&reporters);
        settle(&mut reporters, &[by_files(folder.path(), 1, &["10.0.2.11", "10.0.2.12"])]);
        assert_eq!(task(&reporters), before);
        until_more(&reporters, &["10.0.2.11", "10.0.2.12"]).await;
        let services = reporters.director.services();
        let service = services.iter().next().unwrap();
        let now = reporters.clock.now();
        let loads: Vec<_> = service.servers.iter().map(|server| server.reported.smoothed(now)).collect();
        assert_eq!(loads, [Some(0.1), Some(0.9)]);

        // Another interval: another task, and the first has ended.
        settle(&mut reporters, &[by_files(folder.path(), 2, &["10.0.2.11"])]);
        assert_ne!(task(&reporters), before);
        until_more(&reporters, &["10.0.2.11"]).await;
        let ended = reporters.running.values().next().unwrap().task.clone();
        let mut wlc = by_files(folder.path(), 2, &["10.0.2.11"]);
        wlc["scheduler"] = json!("wlc");
        wlc.as_object_mut().unwrap().remove("feedback");
        settle(&mut reporters, &[wlc]);
        assert_eq!(reporters.running.len(), 0);
        while !ended.is_finished() {
            tokio::task::yield_now().await;
        }
        settle(&mut reporters, &[by_files(folder.path(), 1, &["10.0.2.11"])]);
        assert_eq!(reporters.running.len(), 1);
        settle(&mut reporters, &[]);
        assert_eq!(reporters.running.len(), 0);
    });
}
