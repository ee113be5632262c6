use super::*;
use crate::config;
use crate::daemon::steering::SteeringWishes;
use crate::director::scheduler::{SchedulerFlag, SchedulerKind};
use crate::director::service::{ForwardMethod, ServiceSettings, Thresholds};
use crate::director::{Director, Limits};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn config(document: &Value) -> Config {
    config::check("test", &document.to_string()).unwrap_or_else(|complaints| panic!("{complaints}"))
}

fn started(config: &Config) -> Director {
    let director = Director::new(Limits::default(), 7);
    director.apply(&translate::config_commands(config)).expect("a checked configuration can be had");
    director
}

/// What can be seen of services, but for the order of servers: see [`commands`].
type Visible = BTreeMap<ServiceKey, (String, String, ServiceSettings, BTreeSet<VisibleServer>)>;

/// Address, weight, thresholds and method of a server.
type VisibleServer = (SocketAddr, u32, (u32, u32), String);

fn visible(director: &Director) -> Visible {
    let services = director.services();
    let seen = services.iter().map(|service| {
        let servers = service
            .servers
            .iter()
            .map(|s| {
                let Thresholds { upper, lower } = s.thresholds();
                let address = SocketAddr::new(s.address, s.port);
                (address, s.weight().get(), (upper, lower), s.forwarding().method.to_string())
            })
            .collect();
        let scheduler = service.core.with_scheduler(|scheduler| scheduler.name().to_owned());
        assert_eq!(scheduler, service.scheduler.name());
        (service.key(), (service.name.clone(), scheduler, service.settings.clone(), servers))
    });
    seen.collect()
}

/// The servers of the only service, in the order schedulers walk them.
fn order(director: &Director) -> Vec<String> {
    let services = director.services();
    let service = services.iter().next().expect("a service");
    service.servers.iter().map(|server| server.address.to_string()).collect()
}

#[test]
fn each_difference_has_its_command() {
    let server = |n: u8, weight: u32| json!({ "address": format!("10.0.2.{n}"), "weight": weight });
    let service = |name: &str, port: u16, scheduler: &str, servers: &[Value]| {
        json!({ "name": name, "protocol": "tcp", "address": "10.0.0.100", "port": port,
                "scheduler": scheduler, "servers": servers })
    };
    let file = |services: &[Value]| json!({ "services": services });
    let before =
        [service("a", 80, "rr", &[server(1, 1), server(2, 1)]), service("b", 81, "rr", &[server(1, 1)])];
    let b = before[1].clone();
    let mut timeouts = file(&before);
    timeouts["timeouts"] = json!({ "udp": 10 });
    let mut tuned = file(&before);
    tuned["tunables"] = json!({ "conn_reuse_mode": 3 });
    let mut persistent = before[0].clone();
    persistent["persistence"] = json!({});
    let mut limited = server(2, 1);
    limited["upper_threshold"] = json!(9);
    let mut lower = server(2, 1);
    lower["upper_threshold"] = json!(9);
    lower["lower_threshold"] = json!(2);
    let mut routed = server(2, 1);
    routed["forward"] = json!("dr");
    let mut pingless = file(&before);
    pingless["answer_ping"] = json!(false);
    let mut beside = pingless.clone();
    beside["peers"] = json!(["02:00:00:00:00:09"]);

    for (what, after, expected, told) in [
        ("nothing", file(&before), "", "nothing to change"),
        ("the order of services", file(&[b.clone(), before[0].clone()]), "", "nothing to change"),
        (
            "the order of servers",
            file(&[service("a", 80, "rr", &[server(2, 1), server(1, 1)]), b.clone()]),
            "",
            "nothing to change",
        ),
        (
            "a weight",
            file(&[service("a", 80, "rr", &[server(1, 1), server(2, 0)]), b.clone()]),
            "edit 80 10.0.2.2:80 0",
            "0 services added, 0 removed, 1 changed",
        ),
        (
            "a server for another",
            file(&[service("a", 80, "rr", &[server(1, 1), server(3, 4)]), b.clone()]),
            "delete 80 10.0.2.2:80, add 80 10.0.2.3:80 4",
            "0 services added, 0 removed, 1 changed",
        ),
        (
            "a scheduler and a name",
            file(&[service("c", 80, "wlc", &[server(1, 1), server(2, 1)]), b.clone()]),
            "rename 80=c, schedule 80 wlc",
            "0 services added, 0 removed, 1 changed",
        ),
        (
            "two names",
            file(&[
                service("b", 80, "rr", &[server(1, 1), server(2, 1)]),
                service("a", 81, "rr", &[server(1, 1)]),
            ]),
            "rename 80=b 81=a",
            "0 services added, 0 removed, 2 changed",
        ),
        (
            "a service for another of its name",
            file(&[b.clone(), service("a", 82, "rr", &[server(1, 1)])]),
            "delete 80, add 82",
            "1 service added, 1 removed, 0 changed",
        ),
        ("everything", file(&[]), "delete 80, delete 81", "0 services added, 2 removed, 0 changed"),
        ("timeouts", timeouts, "timeouts 900 120 10", "timeouts changed"),
        (
            "a setting",
            file(&[persistent, b.clone()]),
            "schedule 80 rr persistent",
            "0 services added, 0 removed, 1 changed",
        ),
        (
            "a threshold",
            file(&[service("a", 80, "rr", &[server(1, 1), limited]), b.clone()]),
            "edit 80 10.0.2.2:80 1 below 9",
            "0 services added, 0 removed, 1 changed",
        ),
        (
            "both thresholds",
            file(&[service("a", 80, "rr", &[server(1, 1), lower]), b.clone()]),
            "edit 80 10.0.2.2:80 1 below 9 from 2",
            "0 services added, 0 removed, 1 changed",
        ),
        (
            "a method",
            file(&[service("a", 80, "rr", &[server(1, 1), routed]), b.clone()]),
            "edit 80 10.0.2.2:80 1 dr",
            "0 services added, 0 removed, 1 changed",
        ),
        ("tunables", tuned, "tunables 3", "tunables changed"),
        ("pings", pingless, "", "answer_ping changed"),
        ("peers", beside, "", "answer_ping, peers changed"),
    ] {
        let (before, after) = (config(&file(&before)), config(&after));
        let commands = commands(&started(&before).services(), &after);
        let said: Vec<String> = commands.iter().map(say).collect();
        assert_eq!(said.join(", "), expected, "{what}");
        let summary =
            summary(&commands, &SteeringWishes::from(&before).changes(&SteeringWishes::from(&after)));
        assert_eq!(summary.to_string(), told, "{what}");
    }
}

/// A command in few words.
fn say(command: &Command) -> String {
    match command {
        Command::AddService(spec) => format!("add {}", spec.key.port()),
        Command::EditService { service, scheduler, settings } => {
            let persistent = if settings.persistence.is_some() { " persistent" } else { "" };
            let feedback = settings.feedback.as_ref().map_or("", |_| " by reports");
            format!("schedule {} {scheduler}{persistent}{feedback}", service.port())
        }
        Command::RenameServices(names) => {
            let names: Vec<String> =
                names.iter().map(|(key, name)| format!("{}={name}", key.port())).collect();
            format!("rename {}", names.join(" "))
        }
        Command::DeleteService(key) => format!("delete {}", key.port()),
        Command::AddServer(key, server) => {
            format!("add {} {} {}", key.port(), server.address, server.weight.get())
        }
        Command::EditServer(key, server) => {
            let below = match server.thresholds {
                Thresholds { upper: 0, .. } => String::new(),
                Thresholds { upper, lower: 0 } => format!(" below {upper}"),
                Thresholds { upper, lower } => format!(" below {upper} from {lower}"),
            };
            let method = if server.forward == ForwardMethod::Nat { "" } else { " dr" };
            format!("edit {} {} {}{below}{method}", key.port(), server.address, server.weight.get())
        }
        Command::DeleteServer(key, server) => format!("delete {} {server}", key.port()),
        Command::SetTunables(tunables) => format!("tunables {}", tunables.conn_reuse_mode),
        Command::SetTimeouts(timeouts) => {
            let [tcp, tcp_fin, udp] = [timeouts.tcp, timeouts.tcp_fin, timeouts.udp].map(|t| t.as_secs());
            format!("timeouts {tcp} {tcp_fin} {udp}")
        }
    }
}

#[test]
fn servers_that_stay_keep_their_places_and_new_ones_come_in_front() {
    let file = |servers: &[u8]| {
        let servers: Vec<Value> =
            servers.iter().map(|n| json!({ "address": format!("10.0.2.{n}") })).collect();
        config(&json!({ "services": [
            { "protocol": "udp", "address": "10.0.0.100", "port": 53, "servers": servers }
        ] }))
    };
    let director = started(&file(&[1, 2, 3]));
    let core = Arc::clone(&director.services().iter().next().unwrap().core);
    director.apply(&commands(&director.services(), &file(&[4, 3, 5, 1]))).unwrap();
    assert_eq!(order(&director), ["10.0.2.5", "10.0.2.4", "10.0.2.3", "10.0.2.1"]);
    assert_eq!(order(&started(&file(&[4, 3, 5, 1]))), ["10.0.2.1", "10.0.2.5", "10.0.2.3", "10.0.2.4"]);
    assert!(Arc::ptr_eq(&core, &director.services().iter().next().unwrap().core));
}

/// A configuration out of few services, servers, names and weights, so that two of them have much in common.
fn any_config() -> impl Strategy<Value = Config> {
    let server = |n: u8| (any::<bool>(), 0_u32..3).prop_map(move |(there, weight)| (there, n, weight));
    let service = |n: usize| {
        let servers = (server(1), server(2), server(3)).prop_map(|(a, b, c)| [a, b, c]);
        let servers = servers.prop_shuffle();
        let scheduler = prop::sample::select(SchedulerKind::ALL);
        (any::<bool>(), scheduler, any::<bool>(), servers).prop_map(
            move |(there, scheduler, with_flags, servers)| {
                let servers: Vec<Value> = servers
                    .into_iter()
                    .filter(|(there, ..)| *there)
                    .map(|(_, n, weight)| {
                        json!({ "address": format!("10.0.2.{n}"), "weight": weight,
                                "upper_threshold": weight * 7 % 3, "lower_threshold": weight * 7 % 3 / 2,
                                "forward": if weight == 1 { "dr" } else { "nat" } })
                    })
                    .collect();
                let (protocol, port) = [("tcp", 80), ("udp", 80), ("tcp", 0), ("udp", 53)][n];
                let flags = SchedulerFlag::ALL.iter().filter(|flag| with_flags && flag.scheduler() == scheduler);
                let flags: Vec<&str> = flags.map(|flag| flag.name()).collect();
                let mut service = json!({ "protocol": protocol, "address": "10.0.0.100", "port": port,
                                          "scheduler": scheduler.name(), "scheduler_flags": flags, "servers": servers });
                if scheduler == SchedulerKind::Feedback {
                    let by_page = json!({ "http": { "port": 8081 } });
                    let by_file = json!({ "file": "/run/load/{address}", "interval": 2 });
                    service["feedback"] = if with_flags { by_page } else { by_file };
                }
                there.then_some(service)
            },
        )
    };
    let services = (service(0), service(1), service(2), service(3)).prop_map(|(a, b, c, d)| [a, b, c, d]);
    let names = Just(["a", "b", "c", "d"]).prop_shuffle();
    (services.prop_shuffle(), names, any::<bool>(), 1_u32..4).prop_map(|(services, names, named, udp)| {
        let services: Vec<Value> = services
            .into_iter()
            .flatten()
            .zip(names)
            .map(|(mut service, name)| {
                if named {
                    service["name"] = json!(name);
                }
                if udp == 2 && name < "c" {
                    service["persistence"] = json!({ "netmask": 24 });
                    service["on_remove"] = json!("reset");
                }
                service
            })
            .collect();
        config(&json!({ "services": services, "timeouts": { "udp": udp }, "tunables": { "expire_nodest_conn": udp % 2 } }))
    })
}

proptest! {
    #[test]
    fn a_reload_leads_where_a_start_leads(before in any_config(), after in any_config()) {
        let director = started(&before);
        let running = director.services();
        let between = commands(&running, &after);
        director.apply(&between).expect("every difference can be made up");
        director.check_invariants();

        let fresh = started(&after);
        prop_assert_eq!(visible(&director), visible(&fresh));
        prop_assert_eq!(director.services().timeouts, fresh.services().timeouts);
        prop_assert_eq!(director.services().tunables, fresh.services().tunables);
        prop_assert_eq!(commands(&director.services(), &after), []);
        // What was there is the same, not its like.
        for service in director.services().iter() {
            let Some(old) = running.get(&service.key()) else { continue };
            prop_assert!(Arc::ptr_eq(&old.core, &service.core));
            for server in &service.servers {
                let same = |old: &&Arc<_>| Arc::ptr_eq(old, server);
                let position = old.position(SocketAddr::new(server.address, server.port));
                prop_assert_eq!(position.is_some(), old.servers.iter().find(same).is_some());
            }
        }
    }
}
