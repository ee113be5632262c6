//! Serves one queue for ever, for `benches/run`, which fills the queue while this process is stopped and reads its
//! CPU time from outside.
//!
//! `drain BACKEND echo|nat QUEUE LENGTH VIP SERVER`: `echo` writes every packet back as it came (the backend
//! alone), `nat` lets the director rewrite it from `VIP` to `SERVER` (both `ADDRESS:PORT`, UDP).

use nfvs::daemon::queue::{self, Action, Backend, Decision, QueueConfig, QueuedPacket};
use nfvs::director::packet::Transport;
use nfvs::director::scheduler::SchedulerKind;
use nfvs::director::service::{ForwardMethod, ServiceKey, ServiceSettings, Weight};
use nfvs::director::{Command, Director, Limits, ServerSpec, ServiceSpec, Time, Verdict};
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [backend, work, number, length, vip, server] = arguments.as_slice() else {
        return Err("usage: drain BACKEND echo|nat QUEUE LENGTH VIP SERVER".into());
    };
    let settings = QueueConfig { max_len: length.parse()?, ..QueueConfig::new(number.parse()?) };
    let mut queue = queue::open(backend.parse::<Backend>()?, &settings)?;
    let director = director(vip.parse()?, server.parse()?)?;
    let decide: &mut dyn FnMut(QueuedPacket<'_>) -> Decision = match work.as_str() {
        "echo" => &mut |_| WRITTEN_BACK,
        "nat" => &mut |packet| {
            let verdict = director.handle_packet(Time::ZERO, &packet.meta, packet.payload);
            assert!(matches!(verdict, Verdict::Forward { rewritten: Some(_), .. }), "{verdict:?}");
            WRITTEN_BACK
        },
        _ => return Err("the work is \"echo\" or \"nat\"".into()),
    };
    loop {
        queue.serve(Duration::from_millis(100), decide)?;
    }
}

const WRITTEN_BACK: Decision = Decision { action: Action::AcceptRewritten, mark: None };

fn director(vip: SocketAddr, server: SocketAddr) -> Result<Director, Box<dyn Error>> {
    let director = Director::new(Limits::default(), 1);
    director.apply(&[Command::AddService(ServiceSpec {
        key: ServiceKey::Endpoint { transport: Transport::Udp, address: vip.ip(), port: vip.port() },
        name: "drain".to_owned(),
        scheduler: SchedulerKind::Wlc,
        settings: ServiceSettings::default(),
        servers: vec![ServerSpec {
            address: server,
            weight: Weight::new(1).unwrap(),
            forward: ForwardMethod::Nat,
            tunnel: Default::default(),
            thresholds: Default::default(),
        }],
    })])?;
    Ok(director)
}
