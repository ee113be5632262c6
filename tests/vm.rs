//! The quick scenarios of the virtual machine: nfvs on a stock Debian kernel, with systemd. `netns-lab/lab vm` runs
//! them, after it has built what they need.

use std::process::Command;

/// Runs `lab vm ARGUMENT`, which has to succeed, and returns what it printed.
#[track_caller]
fn lab_vm(argument: &str) -> String {
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/netns-lab/lab"))
        .args(["vm", argument])
        .output()
        .expect("the lab's script");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "lab vm {argument}: {}", output.status);
    said
}

#[test]
fn the_kernels_ipvs_and_nfvs_answer_alike() {
    lab_vm("ipvs");
}

#[test]
fn labs_answer_under_the_unit_of_the_package() {
    lab_vm("labs");
}

#[test]
fn the_package_serves_namespaces_through_what_happens_to_units() {
    lab_vm("systemd");
}

#[test]
fn two_hundred_random_steps_come_out_alike_with_the_kernels_ipvs() {
    lab_vm("differential-quick");
}

#[test]
fn schedulers_choose_live_as_the_kernels_do() {
    lab_vm("schedulers-quick");
}

#[test]
fn every_quick_scenario_has_a_test_here() {
    let list = lab_vm("list");
    let quick: Vec<&str> = list
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            (words.next() == Some("quick")).then_some(name)
        })
        .collect();
    assert!(!quick.is_empty(), "{list}");
    for scenario in quick {
        assert!(include_str!("vm.rs").contains(&format!("lab_vm(\"{scenario}\");")), "{scenario} has none");
    }
}
