//! The pages in docs/ say what the code does, as far as a program can tell.

use nfvs::daemon::api::Request;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The blocks of a page that begin with three backquotes and `language`.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().expect("a first part")).collect()
}

#[path = "../docs/schedulers/charts.rs"]
mod charts;
#[path = "../docs/schedulers/load_chart.rs"]
mod load_chart;
#[path = "../docs/schedulers/simulation.rs"]
mod simulation;

#[test]
fn charts_of_schedulers_are_what_the_simulation_gives() {
    let page = page("docs/schedulers.md");
    for (kind, chart) in charts::all(&self::page("docs/schedulers/cost.tsv")) {
        let committed = self::page(&format!("docs/schedulers/{kind}.svg"));
        assert!(committed == chart, "{kind}: renew it by: cargo run --example scheduler-charts");
        assert!(page.contains(&format!("\n### {kind}\n")), "{kind} has no section");
        assert!(page.contains(&format!("![{kind}](schedulers/{kind}.svg)")), "{kind}'s chart is not shown");
    }
}

#[test]
fn the_chart_of_reports_is_what_the_simulation_gives() {
    let committed = page("docs/schedulers/feedback-load.svg");
    assert!(committed == load_chart::draw(), "renew it by: cargo run --example scheduler-charts");
    assert!(page("docs/schedulers.md").contains("(schedulers/feedback-load.svg)"), "it is not shown");
}

#[test]
fn every_request_on_the_page_is_one_and_no_command_is_left_out() {
    let page = page("docs/control-socket.md");
    let mut shown = BTreeSet::new();
    for line in blocks(&page, "json").into_iter().flat_map(str::lines) {
        let request: Request = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let written = serde_json::to_value(&request).expect("a request is JSON");
        assert_eq!(
            written,
            serde_json::from_str::<serde_json::Value>(line).unwrap(),
            "part of it is ignored"
        );
        let command = written["command"].as_str().expect("a command").to_owned();
        assert!(page.contains(&format!("\n### {command}\n")), "{command} has no section");
        shown.insert(command);
    }
    // The error about a wrong command names all that there are.
    let error = serde_json::from_str::<Request>(r#"{"command":"no-such"}"#).unwrap_err().to_string();
    let known: BTreeSet<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert!(known.len() > 5, "{error}");
    assert_eq!(shown, known);
}

#[test]
fn the_first_configuration_is_right() {
    let page = page("README.md");
    let [example] = blocks(&page, "json")[..] else { panic!("README.md has one example") };
    if let Err(complaints) = nfvs::config::check("README.md", example) {
        panic!("{complaints}");
    }
}

/// Every reply on the page has the form of one; what was shortened by `...` is for people.
#[test]
fn every_whole_reply_on_the_page_is_one() {
    let page = page("docs/control-socket.md");
    let mut replies = 0;
    for line in page.lines().filter(|line| line.starts_with("{\"") && !line.contains("\"command\"")) {
        if line.ends_with('}')
            && !line.contains("...")
            && line.matches('{').count() == line.matches('}').count()
        {
            serde_json::from_str::<nfvs::daemon::api::Reply>(line)
                .unwrap_or_else(|error| panic!("{line}: {error}"));
            replies += 1;
        }
    }
    assert!(replies >= 10, "only {replies}");
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = page("Cargo.toml");
    let listed = manifest
        .split("[workspace.dependencies]\n")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .expect("the workspace has dependencies");
    let names: BTreeSet<&str> =
        listed.lines().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    assert!(names.len() > 20, "{names:?}");
    let page = page("docs/dependencies.md");
    let explained: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(explained, names);
}

/// The pages link to each other, and to places in each other, that exist.
#[test]
fn links_lead_somewhere() {
    let mut pages: Vec<PathBuf> = fs::read_dir(root().join("docs"))
        .expect("docs is there")
        .map(|entry| entry.expect("docs can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.extend(["README.md", "CHANGELOG.md"].map(|name| root().join(name)));
    let mut wrong = Vec::new();
    let mut links = 0;
    for path in &pages {
        let text = fs::read_to_string(path).expect("a page can be read");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            links += 1;
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name("").join(file) };
            let found =
                fs::read_to_string(&target).is_ok_and(|text| place.is_empty() || has_place(&text, place));
            if !found {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(links >= 20, "only {links}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether a heading of `text` is linked as `#place`.
fn has_place(text: &str, place: &str) -> bool {
    text.lines().filter(|line| line.starts_with('#')).any(|heading| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let anchor: String = words
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        anchor == place
    })
}

/// Tests that the matrix names exist, and the matrix has no empty cell.
#[test]
fn the_matrix_names_tests_that_exist() {
    let page = page("docs/matrix.md");
    let mut names = 0;
    for row in page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() == 3 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
        for name in cells[1..].iter().flat_map(|cell| cell.split('`').skip(1).step_by(2)) {
            let Some((file, test)) = name.split_once("::") else { continue };
            names += 1;
            assert!(has_test(file, test), "there is no test {name}");
        }
    }
    assert!(names > 20, "only {names}");
}

fn has_test(file: &str, test: &str) -> bool {
    ["tests", "tests/engine", "tests/lab_daemon", "nft-rules/tests"]
        .map(|folder| root().join(folder).join(format!("{file}.rs")))
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(|text| text.contains(&format!("fn {test}(")))
}
