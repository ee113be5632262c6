use super::super::api::ServiceStatus;
use super::super::control::service_status;
use super::*;
use crate::director::defence::DefenceMode;
use crate::director::service::{Family, Fwmark, SyncThreshold, Tunables};
use crate::director::{Director, Limits, Time};

const START: &str = r#"{ "services": [
    { "protocol": "tcp", "address": "10.0.0.100", "port": 80, "scheduler": "rr", "persistence": { "timeout": 60 },
      "timeouts": { "tcp": 100 }, "servers": [ { "address": "10.0.2.11", "weight": 3, "upper_threshold": 9 } ] },
    { "protocol": "udp", "address": "10.0.0.100", "port": 53, "servers": [] },
    { "fwmark": 5, "persistence": {}, "servers": [ { "address": "10.0.2.11" } ] },
    { "fwmark": 6, "family": "ipv6" }
] }"#;

fn started() -> Director {
    let director = Director::new(Limits::default(), 7);
    let config = config::check("start", START).expect("a right configuration");
    director.apply(&config_commands(&config)).expect("a configuration that is possible");
    director
}

/// Does what a request asks for.
fn ask(director: &Director, request: Value) -> anyhow::Result<()> {
    let request: Request = serde_json::from_value(request)?;
    Ok(director.apply(&commands(&request, &director.services())?)?)
}

/// A service as it is shown.
fn shown(director: &Director, name: &str) -> Value {
    let services = director.services();
    let service = services.iter().find(|service| service.name == name).expect("a service of that name");
    json!(service_status(service, Time::ZERO))
}

#[test]
fn an_edit_changes_what_it_names_and_leaves_the_rest() {
    let web = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 });
    let default = json!({ "netmask": "255.255.255.255", "timeout": 360 });
    for (change, key, expected) in [
        (json!({ "scheduler": "wlc" }), "scheduler", json!("wlc")),
        (
            json!({ "scheduler": "wlc" }),
            "persistence",
            json!({ "netmask": "255.255.255.255", "timeout": 60 }),
        ),
        (json!({ "scheduler": "wlc" }), "timeouts", json!({ "tcp": 100 })),
        (json!({ "persistence": {} }), "persistence", default),
        (json!({ "persistence": null }), "persistence", Value::Null),
        (json!({ "persistence": null }), "scheduler", json!("rr")),
        (json!({ "timeouts": { "tcp_fin": 7 } }), "timeouts", json!({ "tcp_fin": 7 })),
        (json!({ "on_remove": "reset" }), "on_remove", json!("reset")),
    ] {
        let director = started();
        let edit = json!({ "command": "edit-service", "service": over_with_nulls(&web, &change) });
        ask(&director, edit).unwrap_or_else(|error| panic!("{change}: {error}"));
        assert_eq!(shown(&director, "tcp-10.0.0.100-80")[key], expected, "{change}: {key}");
    }
}

/// `value` with the keys of `more`, `null` among their values.
fn over_with_nulls(value: &Value, more: &Value) -> Value {
    let mut value = value.clone();
    for (key, more) in more.as_object().unwrap() {
        value[key] = more.clone();
    }
    value
}

#[test]
fn a_server_keeps_what_its_edit_does_not_name() {
    let director = started();
    let web = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 });
    let edit = |change: Value| {
        let server = over_with_nulls(&json!({ "address": "10.0.2.11" }), &change);
        ask(&director, json!({ "command": "edit-server", "service": web, "server": server })).unwrap();
        let server = shown(&director, "tcp-10.0.0.100-80")["servers"][0].clone();
        ["weight", "forward", "upper_threshold", "lower_threshold"].map(|key| server[key].clone())
    };
    let values = |weight, forward, upper, lower| [json!(weight), json!(forward), json!(upper), json!(lower)];
    assert_eq!(edit(json!({ "weight": 0 })), values(0, "nat", 9, 0));
    assert_eq!(edit(json!({ "lower_threshold": 4 })), values(0, "nat", 9, 4));
    assert_eq!(edit(json!({ "forward": "dr" })), values(0, "dr", 9, 4));
    assert_eq!(edit(json!({ "upper_threshold": 4 })), values(0, "dr", 4, 4));
    assert_eq!(
        edit(json!({ "upper_threshold": 0, "lower_threshold": 0, "weight": 2, "forward": "nat" })),
        values(2, "nat", 0, 0)
    );
}

#[test]
fn a_service_keeps_its_persistence_engine_when_something_else_is_changed() {
    let director = started();
    let dns = json!({ "protocol": "udp", "address": "10.0.0.100", "port": 53 });
    let engine = |change: Value| {
        let service = over(dns.clone(), &change);
        ask(&director, json!({ "command": "edit-service", "service": service })).unwrap();
        shown(&director, "udp-10.0.0.100-53")["persistence"]["engine"].clone()
    };
    assert_eq!(engine(json!({ "persistence": { "engine": "sip" } })), "sip");
    assert_eq!(engine(json!({ "scheduler": "rr" })), "sip");
    assert_eq!(engine(json!({ "persistence": { "timeout": 60 } })), Value::Null);
}

#[test]
fn feedback_stays_with_its_scheduler_and_goes_with_it() {
    let director = started();
    let web = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 });
    let edit = |change: Value| {
        let service = over_with_nulls(&web, &change);
        ask(&director, json!({ "command": "edit-service", "service": service }))?;
        anyhow::Ok(shown(&director, "tcp-10.0.0.100-80"))
    };
    let shown_in = |service: Value| {
        ["scheduler", "feedback"].map(|key| service[key].clone()).into_iter().collect::<Vec<_>>()
    };
    let http = json!({ "http": { "path": "/load", "timeout": 1 }, "interval": 1 });
    let service = edit(json!({ "scheduler": "feedback", "feedback": { "http": {} } })).unwrap();
    let server = &service["servers"][0];
    assert_eq!(shown_in(service.clone()), [json!("feedback"), http.clone()]);
    assert_eq!(json!(serde_json::from_value::<ServiceStatus>(service.clone()).unwrap()), service);
    assert_eq!((&server["load"], &server["effective_weight"]), (&Value::Null, &json!(3.0)));
    assert_eq!((&server["reports"], &server["missed_reports"]), (&json!(0), &json!(0)));
    assert_eq!(shown_in(edit(json!({ "one_packet": null })).unwrap()), [json!("feedback"), http]);
    let file = json!({ "file": "/run/load/{address}", "interval": 5 });
    assert_eq!(shown_in(edit(json!({ "feedback": file })).unwrap()), [json!("feedback"), file.clone()]);
    let all = json!({ "http": { "path": "/", "port": 81, "host": "a", "timeout": 2 }, "interval": 2 });
    assert_eq!(shown_in(edit(json!({ "feedback": all })).unwrap()), [json!("feedback"), all]);
    let service = edit(json!({ "scheduler": "wlc" })).unwrap();
    assert_eq!(shown_in(service.clone()), [json!("wlc"), Value::Null]);
    assert_eq!(service["servers"][0].get("load"), None);
    assert_eq!(json!(serde_json::from_value::<ServiceStatus>(service.clone()).unwrap()), service);
    for (change, refusal) in [
        (
            json!({ "scheduler": "feedback" }),
            "service.scheduler: \"feedback\" has to know where the servers' reports are; write also",
        ),
        (json!({ "feedback": file }), "service.feedback: only the scheduler \"feedback\" goes by reports"),
    ] {
        let error = edit(change).unwrap_err().to_string();
        assert!(error.starts_with(refusal), "{error}");
    }
}

#[test]
fn a_server_whose_reports_could_not_be_asked_for_is_refused() {
    let director = started();
    let edit = json!({ "fwmark": 6, "family": "ipv4", "scheduler": "feedback", "feedback": { "http": {} } });
    let add = |server: Value| {
        let service = json!({ "fwmark": 6, "family": "ipv4" });
        ask(&director, json!({ "command": "add-server", "service": service, "server": server }))
    };
    ask(&director, json!({ "command": "add-service", "service": edit })).unwrap();
    let error = add(json!({ "address": "10.0.2.11" })).unwrap_err().to_string();
    assert!(error.starts_with("server: the server has no port of its own"), "{error}");
    add(json!({ "address": "10.0.2.11", "port": 80 })).unwrap();
}

#[test]
fn flags_stay_with_their_scheduler_and_go_with_it() {
    let director = started();
    let web = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 });
    let edit = |change: Value| {
        let service = over_with_nulls(&web, &change);
        ask(&director, json!({ "command": "edit-service", "service": service }))?;
        let service = shown(&director, "tcp-10.0.0.100-80");
        anyhow::Ok((service["scheduler"].clone(), service["scheduler_flags"].clone()))
    };
    for (change, scheduler, flags) in [
        (json!({ "scheduler": "sh", "scheduler_flags": ["sh-port"] }), "sh", json!(["sh-port"])),
        (json!({ "on_remove": "reset" }), "sh", json!(["sh-port"])),
        (json!({ "scheduler": "sh" }), "sh", json!(["sh-port"])),
        (json!({ "scheduler_flags": ["sh-port", "sh-fallback"] }), "sh", json!(["sh-fallback", "sh-port"])),
        (json!({ "scheduler": "mh" }), "mh", Value::Null),
        (json!({ "scheduler_flags": ["mh-port"] }), "mh", json!(["mh-port"])),
        (json!({ "scheduler_flags": null }), "mh", Value::Null),
        (json!({ "scheduler_flags": ["mh-port"] }), "mh", json!(["mh-port"])),
        (json!({ "scheduler": null }), "wlc", Value::Null),
    ] {
        assert_eq!(edit(change.clone()).unwrap(), (json!(scheduler), flags), "{change}");
    }
    let refused = edit(json!({ "scheduler_flags": ["sh-port"] })).unwrap_err().to_string();
    let why = "service.scheduler_flags[0]: \"sh-port\" is for the scheduler \"sh\", and this is \"wlc\"; leave it out";
    assert_eq!(refused, why);
}

#[test]
fn a_server_has_a_tunnel_for_as_long_as_packets_take_one() {
    let director = started();
    let web = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 });
    let add =
        json!({ "address": "fd00:2::12", "port": 80, "forward": "tunnel", "tunnel": { "type": "gre" } });
    ask(&director, json!({ "command": "add-server", "service": web, "server": add })).unwrap();
    let edit = |change: Value| {
        let server = over_with_nulls(&json!({ "address": "fd00:2::12" }), &change);
        ask(&director, json!({ "command": "edit-server", "service": web, "server": server }))?;
        let server = shown(&director, "tcp-10.0.0.100-80")["servers"][0].clone();
        anyhow::Ok(server["tunnel"].clone())
    };
    assert_eq!(edit(json!({ "weight": 0 })).unwrap(), json!({ "type": "gre", "checksum": "none" }));
    let gue = json!({ "type": "gue", "port": 6080, "checksum": "full" });
    assert_eq!(edit(json!({ "tunnel": gue })).unwrap(), gue);
    let error = edit(json!({ "forward": "nat" })).unwrap_err().to_string();
    assert!(error.contains("of another family"), "{error}");
    assert_eq!(edit(json!({ "tunnel": null })).unwrap(), json!({ "type": "ipip", "checksum": "none" }));

    let named = json!({ "address": "fd00:2::12", "port": 80 });
    ask(&director, json!({ "command": "delete-server", "service": web, "server": named })).unwrap();

    let own = json!({ "address": "10.0.2.12", "port": 80, "forward": "tunnel", "tunnel": gue });
    ask(&director, json!({ "command": "add-server", "service": web, "server": own })).unwrap();
    for (forward, tunnel) in [("nat", Value::Null), ("tunnel", json!({ "type": "ipip", "checksum": "none" }))]
    {
        let server = json!({ "address": "10.0.2.12", "forward": forward });
        ask(&director, json!({ "command": "edit-server", "service": web, "server": server })).unwrap();
        assert_eq!(shown(&director, "tcp-10.0.0.100-80")["servers"][0]["tunnel"], tunnel, "{forward}");
    }
}

#[test]
fn services_by_mark_are_changed_by_their_mark() {
    let director = started();
    for request in [
        json!({ "command": "add-server", "service": { "fwmark": 6 }, "server": { "address": "fd00:2::11" } }),
        json!({ "command": "edit-server", "service": { "fwmark": 6 }, "server": { "address": "fd00:2::11", "weight": 5 } }),
        json!({ "command": "edit-service", "service": { "fwmark": 6, "family": "ipv6", "one_packet": true } }),
        json!({ "command": "add-service", "service": { "fwmark": 7, "servers": [ { "address": "10.0.2.11" } ] } }),
        json!({ "command": "delete-server", "service": { "fwmark": 5 }, "server": { "address": "10.0.2.11" } }),
        json!({ "command": "delete-service", "service": { "fwmark": 5, "family": "ipv4" } }),
    ] {
        ask(&director, request.clone()).unwrap_or_else(|error| panic!("{request}: {error}"));
    }
    let marked = shown(&director, "fwmark-6-ipv6");
    assert_eq!((&marked["fwmark"], &marked["family"]), (&json!(6), &json!("ipv6")));
    assert_eq!((&marked["one_packet"], &marked["servers"][0]["weight"]), (&json!(true), &json!(5)));
    assert_eq!(shown(&director, "fwmark-7-ipv4")["servers"][0]["address"], "10.0.2.11");
    let key = ServiceKey::Mark { mark: Fwmark::new(5).unwrap(), family: Family::V4 };
    assert!(director.services().get(&key).is_none());
}

#[test]
fn tunables_keep_what_is_not_named() {
    let director = started();
    let set =
        |tunables: Value| ask(&director, json!({ "command": "set-tunables", "tunables": tunables })).unwrap();
    set(json!({ "conn_reuse_mode": 3 }));
    set(json!({ "expire_nodest_conn": 1 }));
    set(json!({ "secure_tcp": 2 }));
    set(json!({ "sync_threshold": [1, 0] }));
    let expected = Tunables {
        conn_reuse_mode: 3,
        expire_nodest_conn: true,
        secure_tcp: DefenceMode::Automatic,
        sync_threshold: SyncThreshold { packet: 1, period: 0 },
        ..Tunables::default()
    };
    assert_eq!(director.services().tunables, expected);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let director = started();
    let web = json!({ "protocol": "tcp", "address": "10.0.0.100", "port": 80 });
    let dns = json!({ "protocol": "udp", "address": "10.0.0.100", "port": 53 });
    let edit = |service: Value| json!({ "command": "edit-service", "service": service });
    let server = |command: &str, service: &Value, server: Value| json!({ "command": command, "service": service, "server": server });
    for (request, message) in [
        (
            edit(web.clone()),
            "service: nothing to change; give one of: scheduler, scheduler_flags, feedback, persistence, one_packet, on_remove, timeouts",
        ),
        (
            edit(over(web.clone(), &json!({ "one_packet": true }))),
            "service.one_packet: only datagrams can be scheduled each for itself; leave the key out, or write \"udp\" \
             for the protocol",
        ),
        (
            edit(over(web.clone(), &json!({ "persistence": { "netmask": 64 } }))),
            "service.persistence.netmask: an IPv4 address has 32 bits; write a mask such as \"255.255.255.0\", or 1 \
             to 32",
        ),
        (
            edit(over(web.clone(), &json!({ "servers": [] }))),
            "service.servers: of no use here; allowed: protocol, address, port, fwmark, family, scheduler, scheduler_flags, \
             feedback, persistence, one_packet, on_remove, timeouts",
        ),
        (edit(json!({ "fwmark": 9, "family": "ipv4", "scheduler": "rr" })), "no such service: fwmark 9 ipv4"),
        (
            json!({ "command": "delete-service", "service": { "fwmark": 5 } }),
            "service.fwmark: no server tells the address family; write \"family\": \"ipv4\" or \"ipv6\"",
        ),
        (
            server("edit-server", &web, json!({ "address": "10.0.2.11" })),
            "server: nothing to change; give one of: weight, forward, tunnel, upper_threshold, lower_threshold",
        ),
        (
            server("edit-server", &web, json!({ "address": "10.0.2.11", "lower_threshold": 10 })),
            "server.lower_threshold: 10 is above the upper_threshold; allowed here: 0 to 9",
        ),
        (
            server(
                "edit-server",
                &json!({ "fwmark": 5 }),
                json!({ "address": "10.0.2.11", "forward": "dr" }),
            ),
            "server.forward: \"dr\" cannot be: a route leads from the service's address, and a service by fwmark has \
             none; use \"nat\", or give the service an address",
        ),
        (
            server("edit-server", &dns, json!({ "address": "10.0.2.11", "weight": 1 })),
            "service udp 10.0.0.100:53 has no server 10.0.2.11:53",
        ),
        (
            server("add-server", &json!({ "fwmark": 5 }), json!({ "address": "10.0.2.12", "port": 80 })),
            "server.port: 80 cannot be: a persistent service by fwmark keeps the port the client asked for; leave the \
             key out",
        ),
        (
            json!({ "command": "set-tunables", "tunables": { "sync_threshold": 3 } }),
            "tunables.sync_threshold: 3 is not two numbers from 0 to 2147483647 in [ ], the first below the second or \
             the second 0",
        ),
    ] {
        let error = ask(&director, request.clone()).expect_err("it cannot be").to_string();
        assert_eq!(error, message, "{request}");
    }
}
