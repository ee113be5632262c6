//! The tables in a kernel: installed, replaced, updated and removed, all or nothing.

mod common;

use common::{Node, TCP, both_services, elements, endpoint, steering};
use nft_rules::{
    Elements, Endpoint, Error, QueuePlan, QueueTarget, Steering, Tables, probe, remove_leftover,
};

/// Another program's table, with a set and a chain of the names that ours have.
const FOREIGN: &str = "table ip other {
    set services { type ipv4_addr; elements = { 192.0.2.1 }; }
    chain prerouting { type filter hook prerouting priority raw; policy accept; ip daddr @services counter; }
}
table inet nfvs {
    chain input { type filter hook input priority 0; policy accept; }
}
";

fn foreign(node: &Node) -> String {
    node.must("nft list table ip other") + &node.must("nft list table inet nfvs")
}

#[test]
fn install_and_remove_touch_nothing_else() {
    let node = Node::new();
    node.nft(FOREIGN);
    let before = node.ruleset();
    node.run(|| {
        let mut tables = Tables::install(&steering(2), elements(both_services())).unwrap();
        assert!(!tables.replaced_leftover(), "inet nfvs is not ours");
        let ruleset = node.ruleset();
        for (class, index, number) in (QueuePlan { base: 0, count: 2 }).all() {
            // nft has two ways to say it, one for each kind of rule.
            let said = [format!(" queue num {number} bypass"), format!(" queue flags bypass to {number}")];
            let is_there = |line: &str| said.iter().any(|words| line.ends_with(words));
            assert!(ruleset.lines().any(is_there), "{class} {index}: {ruleset}");
        }
        for element in [
            "10.0.0.100 . tcp . 80",
            "fd00:2::11 . udp . 8080",
            "0x00040000 : fd00::100",
            "fd00::100 : 0x00030000",
        ] {
            assert!(ruleset.contains(element), "{element}: {ruleset}");
        }
        assert_eq!(foreign(&node), before);
        tables.remove().unwrap();
        assert_eq!(node.ruleset(), before);
        tables.remove().unwrap();
    });
}

#[test]
fn base_chains_stand_where_the_design_says() {
    let node = Node::new();
    node.run(|| Tables::install(&steering(1), Elements::default())).unwrap();
    for family in ["ip", "ip6"] {
        let table = node.must(&format!("nft -y list table {family} nfvs"));
        let base: Vec<_> = table
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("type") && line.contains("hook"))
            .collect();
        assert_eq!(
            base,
            [
                "type filter hook prerouting priority -300; policy accept;",
                "type filter hook prerouting priority -299; policy accept;",
                "type route hook output priority -300; policy accept;",
                "type route hook output priority -299; policy accept;",
                "type filter hook input priority -150; policy accept;",
                "type filter hook postrouting priority -150; policy accept;",
                "type filter hook forward priority 300; policy accept;",
            ]
        );
    }
}

/// What a kernel without `dup` gets.
#[test]
fn tables_without_direct_routing_have_no_chain_in_the_firewalls_way() {
    let node = Node::new();
    let without = Steering { direct_routing: false, ..steering(1) };
    node.run(|| Tables::install(&without, elements(both_services()))).unwrap();
    let ruleset = node.ruleset();
    assert!(!ruleset.contains("dup to") && !ruleset.contains("hook forward"), "{ruleset}");
}

#[test]
fn remove_leaves_an_empty_ruleset() {
    let node = Node::new();
    let mut tables = node.run(|| Tables::install(&steering(1), elements(both_services()))).unwrap();
    assert!(!node.ruleset().is_empty());
    node.run(|| tables.remove()).unwrap();
    assert_eq!(node.ruleset(), "");
}

#[test]
fn a_leftover_is_recognised_and_replaced() {
    let node = Node::new();
    node.run(|| {
        assert!(!remove_leftover().unwrap());
        let killed = Tables::install(&steering(2), elements(both_services())).unwrap();
        std::mem::forget(killed);
        let tables = Tables::install(&steering(1), Elements::default()).unwrap();
        assert!(tables.replaced_leftover());
    });
    let ruleset = node.ruleset();
    assert!(!ruleset.contains("10.0.0.100") && !ruleset.contains("jhash"), "{ruleset}");
    assert_eq!(ruleset.matches("chain prerouting {").count(), 2);
    assert!(node.run(remove_leftover).unwrap());
    assert_eq!(node.ruleset(), "");
}

#[test]
fn a_leftover_in_one_family_is_one() {
    let node = Node::new();
    node.nft("table ip6 nfvs {\n chain whatever {\n accept\n }\n}\n");
    let tables = node.run(|| Tables::install(&steering(1), Elements::default())).unwrap();
    assert!(tables.replaced_leftover());
    assert!(!node.ruleset().contains("whatever"));
}

#[test]
fn an_install_without_the_native_expression_fails_and_leaves_what_was_there() {
    let node = Node::new();
    node.run(|| Tables::install(&steering(1), elements(both_services()))).unwrap();
    let before = node.ruleset();
    let native = Steering { target: QueueTarget::Native, ..steering(1) };
    let outcome = node.run(|| Tables::install(&native, elements(both_services())));
    if node.run(probe).unwrap() == QueueTarget::Native {
        outcome.unwrap();
    } else {
        assert_eq!(
            outcome.unwrap_err().to_string(),
            "chain icmp_errors of table ip nfvs: rule `counter queue num 0 bypass` was refused; \
             the kernel lacks one of CONFIG_NFT_QUEUE"
        );
    }
    assert_eq!(node.ruleset(), before);
}

#[test]
fn a_probe_leaves_nothing() {
    let node = Node::new();
    node.run(probe).unwrap();
    assert_eq!(node.ruleset(), "");
}

#[test]
fn queue_numbers_are_checked_before_the_kernel_is_asked() {
    let node = Node::new();
    let wrong = Steering { queues: QueuePlan { base: 65_534, count: 1 }, ..steering(1) };
    let error = node.run(|| Tables::install(&wrong, Elements::default())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "queues: 1 queues in each of 7 classes from number 65534: at least one, and none above 65535"
    );
}

#[test]
fn elements_come_and_go_without_the_rules() {
    let node = Node::new();
    let web = endpoint(TCP, "10.0.0.100", Some(80), 1, ("10.0.2.11", Some(8080)));
    let all = endpoint(TCP, "10.0.0.101", None, 2, ("10.0.2.12", None));
    let mut tables = node.run(|| Tables::install(&steering(1), elements(vec![web.clone()]))).unwrap();
    let handles = |node: &Node| {
        let table = node.must("nft -a list table ip nfvs");
        table.lines().filter(|line| line.contains("# handle")).map(str::to_owned).collect::<Vec<_>>()
    };
    let (before, rules) = (node.ruleset(), handles(&node));

    let changes = node.run(|| tables.update(elements(vec![web.clone(), all]))).unwrap();
    assert_eq!((changes.added.len(), changes.removed.len()), (8, 0));
    let both = node.ruleset();
    for element in ["10.0.0.101 . tcp", "10.0.2.12 . tcp", "0x00020000 : 10.0.0.101", "10.0.2.12"] {
        assert!(both.contains(element), "{element}: {both}");
    }
    assert!(!before.contains("10.0.0.101"));

    node.run(|| tables.update(elements(vec![web.clone()]))).unwrap();
    assert_eq!(node.ruleset(), before);
    assert_eq!(handles(&node), rules, "chains and rules are those installed");
    assert!(node.run(|| tables.update(elements(vec![web]))).unwrap().is_empty());
}

#[test]
fn a_map_key_takes_another_value_in_one_step() {
    let node = Node::new();
    let service = |vip, port| elements(vec![endpoint(TCP, vip, Some(port), 9, ("10.0.2.11", Some(8080)))]);
    let mut tables = node.run(|| Tables::install(&steering(1), service("10.0.0.100", 80))).unwrap();
    node.run(|| tables.update(service("10.0.0.200", 443))).unwrap();
    assert!(
        node.must("nft list map ip nfvs reply_address").contains("elements = { 0x00090000 : 10.0.0.200 }")
    );
    assert!(node.must("nft -n list map ip nfvs reply_port").contains("elements = { 0x00090000 : 443 }"));
}

#[test]
fn an_update_that_fails_changes_nothing() {
    let node = Node::new();
    let mut tables = node.run(|| Tables::install(&steering(1), elements(both_services()))).unwrap();
    node.must("nft add element ip6 nfvs vips { fd00::200 }");
    let (before, held) = (node.ruleset(), tables.elements().clone());

    let wanted = vec![
        endpoint(TCP, "10.0.0.201", Some(80), 7, ("10.0.2.11", Some(8080))),
        endpoint(TCP, "fd00::200", Some(80), 8, ("fd00:2::11", Some(8080))),
    ];
    let error = node.run(|| tables.update(elements(wanted.clone()))).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "elements of set vips of table ip6 nfvs was refused: another program has changed the table"
    );
    assert_eq!(node.ruleset(), before);
    assert_eq!(*tables.elements(), held);

    node.must("nft delete element ip6 nfvs vips { fd00::200 }");
    node.run(|| tables.update(elements(wanted))).unwrap();
}

#[test]
fn a_flushed_ruleset_is_named_as_such() {
    let node = Node::new();
    let mut tables = node.run(|| Tables::install(&steering(1), Elements::default())).unwrap();
    node.must("nft flush ruleset");
    let error = node.run(|| tables.update(elements(both_services()))).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    assert_eq!(node.ruleset(), "");
    node.run(|| tables.remove()).unwrap();
}

#[test]
fn a_flushed_ruleset_is_repaired_with_all_that_it_held() {
    let node = Node::new();
    node.run(|| {
        let mut tables = Tables::install(&steering(2), elements(both_services())).unwrap();
        let whole = node.ruleset();
        assert!(!tables.repair().unwrap(), "nothing was missing");
        for loss in ["nft flush ruleset", "nft delete table ip nfvs", "nft delete table ip6 nfvs"] {
            node.must(loss);
            assert!(tables.repair().unwrap(), "{loss}");
            assert_eq!(sorted(&node.ruleset()), sorted(&whole), "{loss}");
        }
        tables.remove().unwrap();
    });
}

/// Elements of a set come in no particular order.
fn sorted(ruleset: &str) -> Vec<char> {
    let mut all: Vec<char> = ruleset.chars().filter(|letter| !letter.is_whitespace()).collect();
    all.sort_unstable();
    all
}

#[test]
fn without_the_capability_the_error_names_it() {
    let node = Node::new();
    let error = node.run(|| {
        // Capabilities are a thread's; the effective ones alone are dropped, and this thread ends with the test.
        drop_effective_capabilities();
        let queues = QueuePlan { base: 0, count: 1 };
        let steering = Steering { queues, target: QueueTarget::Xtables, direct_routing: true };
        Tables::install(&steering, Elements::default()).unwrap_err()
    });
    assert!(matches!(error, Error::Permission), "{error}");
    let error = node.run(|| {
        drop_effective_capabilities();
        probe().unwrap_err()
    });
    assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
}

/// capset(2) with no effective and all permitted capabilities left as they are.
fn drop_effective_capabilities() {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut sets = [[0u32; 3]; 2];
    // SAFETY: the header names version 3, whose data are two structs of three u32; pid 0 is this thread.
    unsafe {
        assert_eq!(libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()), 0);
        for [effective, _, _] in &mut sets {
            *effective = 0;
        }
        assert_eq!(libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()), 0);
    }
}

#[test]
fn ten_thousand_services_are_one_transaction() {
    const SERVICES: u16 = 10_000;
    let many = |first: u16| -> Vec<Endpoint> {
        (first..first + SERVICES)
            .map(|n| {
                let [high, low] = n.to_be_bytes();
                let (vip, server) = (format!("10.1.{high}.{low}"), format!("10.2.{high}.{low}"));
                endpoint(TCP, &vip, Some(80), n, (&server, Some(8080)))
            })
            .chain((first..first + SERVICES).map(|n| {
                let server = format!("fd00:2::{n:x}");
                endpoint(TCP, &format!("fd00:1::{n:x}"), Some(80), 30_000 + n, (&server, Some(8080)))
            }))
            .collect()
    };
    let node = Node::new();
    let count = |set: &str| node.must(&format!("nft list {set}")).matches("80").count();
    let services = |node: &Node, family: &str| {
        node.must(&format!("nft -n list set {family} nfvs services")).matches(" . 6 . 80").count()
    };
    let mut tables = node.run(|| Tables::install(&steering(2), elements(many(1)))).unwrap();
    assert_eq!(services(&node, "ip"), usize::from(SERVICES));
    assert_eq!(services(&node, "ip6"), usize::from(SERVICES));

    // Half of them change: 5,000 go and 5,000 come, in both families, eight elements each and the mark of the VIP.
    let changes = node.run(|| tables.update(elements(many(5_001)))).unwrap();
    assert_eq!(changes.added.len(), changes.removed.len());
    assert_eq!(changes.added.len(), 2 * 5_000 * 9);
    assert_eq!(services(&node, "ip"), usize::from(SERVICES));
    assert!(count("set ip nfvs services") > 0);
    node.run(|| tables.update(Elements::default())).unwrap();
    assert_eq!(services(&node, "ip6"), 0);
}
