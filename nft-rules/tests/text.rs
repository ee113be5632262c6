//! The rules as text, and that the text and the kernel's rules are the same rules.

mod common;

use common::{Node, both_services, elements, routed_services, steering};
use nft_rules::{QueuePlan, QueueTarget, Steering, Tables};

fn native(count: u16) -> Steering {
    Steering { queues: QueuePlan { base: 100, count }, target: QueueTarget::Native, direct_routing: true }
}

#[test]
fn one_queue_per_class() {
    insta::assert_snapshot!(native(1));
}

#[test]
fn two_queues_per_class() {
    insta::assert_snapshot!(native(2));
}

#[test]
fn the_other_target_says_so_and_differs_in_nothing_else() {
    let xtables = Steering { target: QueueTarget::Xtables, ..native(2) };
    assert_eq!(
        xtables.to_string(),
        format!("# queue: xtables NFQUEUE target through nft_compat\n{}", native(2))
    );
}

#[test]
fn without_direct_routing_the_rules_that_send_copies_are_missing_and_no_other() {
    let whole = native(1).to_string();
    let without = Steering { direct_routing: false, ..native(1) }.to_string();
    let missing: Vec<_> = whole.lines().filter(|line| !without.contains(line)).map(str::trim).collect();
    assert_eq!(
        missing,
        [
            "ip frag-off 0x0000 ip frag-off set 0x8000",
            "dup to ip daddr drop",
            "ip daddr set ip daddr . (meta mark & 0xffff0000) map @route_servers goto route_send",
            "chain forward {",
            "type filter hook forward priority 300; policy accept;",
            "ct state untracked meta mark & 0xffff0000 != 0 ip daddr . (meta mark & 0xffff0000) @routed \
             goto route_send",
            "dup to ip6 daddr drop",
            "ip6 daddr set ip6 daddr . (meta mark & 0xffff0000) map @route_servers goto route_send",
            "chain forward {",
            "type filter hook forward priority 300; policy accept;",
            "ct state untracked meta mark & 0xffff0000 != 0 ip6 daddr . (meta mark & 0xffff0000) @routed \
             goto route_send",
        ]
    );
}

/// nft compiles the text; the crate compiles the same description. The kernel's listing of both, down to
/// registers and checksum offsets, must be one. Queues are left out where the kernel has no `queue` expression.
#[test]
fn nft_makes_the_same_expressions_of_the_text() {
    for count in [1, 3] {
        let (ours, theirs) = (Node::new(), Node::new());
        let installed = ours.run(|| steering(count));
        let held = elements([both_services(), routed_services()].concat())
            .with_peers([[0x02, 0, 0, 0xab, 0, 9]])
            .ignoring_tunnels()
            .silent_alone();
        ours.run(|| Tables::install(&installed, held.clone())).unwrap();
        theirs.nft(&without_queues(&format!("{installed}{held}")));
        for family in ["ip", "ip6"] {
            let (ours, theirs) = (expressions(&ours, family), expressions(&theirs, family));
            assert!(ours.lines().count() > 200, "{ours}");
            similar_asserts(&ours, &theirs);
        }
    }
}

/// The text as it is, where the kernel has all of it.
#[test]
fn nft_accepts_every_statement_but_those_the_kernel_lacks() {
    let node = Node::new();
    let text = native(2).to_string();
    let target = node.run(|| steering(1)).target;
    let loaded = if target == QueueTarget::Native { text } else { without_queues(&text) };
    node.nft(&loaded);
    assert_eq!(node.ruleset().matches("table ip").count(), 2);
}

fn without_queues(text: &str) -> String {
    text.lines()
        .map(|line| line.split(" queue num").next().unwrap_or(line))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The kernel's rules as nft's debug listing has them: chain after chain, without handles, sets, queues.
fn expressions(node: &Node, family: &str) -> String {
    let listing = node.must(&format!("nft --debug=netlink list table {family} nfvs"));
    listing
        .lines()
        .filter(|line| line.starts_with(&format!("{family} nfvs ")) || line.starts_with("  ["))
        .filter(|line| !line.contains("[ target ") && !line.contains("[ queue "))
        .map(|line| match line.strip_prefix(&format!("{family} nfvs ")) {
            // "chain handle position"
            Some(chain) => format!("{}\n", chain.split(' ').next().unwrap_or(chain)),
            None => format!("{line}\n"),
        })
        .collect()
}

fn similar_asserts(ours: &str, theirs: &str) {
    for (index, (ours, theirs)) in ours.lines().zip(theirs.lines()).enumerate() {
        assert_eq!(ours, theirs, "line {index}");
    }
    assert_eq!(ours.lines().count(), theirs.lines().count());
}
