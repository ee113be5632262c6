//! What IPVS does, statement by statement, and the tests that show what nfvs does: `tests/parity/*.txt`, of which
//! `docs/ipvs-parity.md` is made.
//!
//! A file is a section: `# TITLE` in its first line, then a block for each statement, with a blank line between them:
//!
//! ```text
//! The statement, in one line or several.
//! same
//! tests/engine/removal::a_test_of_that_file
//! src/director/protocol/tcp::a_table_driven_test | the row of it, as it stands there
//! ```
//!
//! The verdict is `same`, `different: PLACE`, a heading of `docs/differences.md` as links name it, or `not yet: WHY`,
//! which has no tests: it is not done, or no test shows it. Renew the page by `NFVS_UPDATE_PARITY=1 cargo test --test
//! parity the_page`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/ipvs-parity.md";
const RENEW: &str = "NFVS_UPDATE_PARITY=1 cargo test --test parity the_page";
/// The fewest statements there may be: none is lost without being missed.
const FEWEST: usize = 400;

struct Section {
    title: String,
    rows: Vec<Row>,
}

struct Row {
    /// The file and line it stands in.
    place: String,
    statement: String,
    verdict: Verdict,
    tests: Vec<Test>,
}

enum Verdict {
    Same,
    Different { place: String },
    NotYet { why: String },
}

/// A test, and the part of it that shows the statement, if that is one of many.
struct Test {
    file: String,
    name: String,
    case: Option<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sections() -> Vec<Section> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("tests/parity"))
        .expect("the statements are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .collect();
    files.sort();
    files.iter().map(|file| section(file)).collect()
}

fn section(file: &Path) -> Section {
    let name = file.file_name().expect("a file").to_string_lossy();
    let text = read(file);
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim())).peekable();
    let (_, first) = lines.next().expect("a title");
    let title = first.strip_prefix("# ").unwrap_or_else(|| panic!("{name}: no title in the first line"));
    let mut rows = Vec::new();
    while let Some(&(line, text)) = lines.peek() {
        if text.is_empty() {
            lines.next();
            continue;
        }
        let block = std::iter::from_fn(|| lines.next_if(|(_, text)| !text.is_empty()));
        rows.push(row(format!("{name}:{line}"), block.map(|(_, text)| text)));
    }
    Section { title: title.to_owned(), rows }
}

fn row<'a>(place: String, lines: impl Iterator<Item = &'a str>) -> Row {
    let mut words = Vec::new();
    let mut verdict = None;
    let mut tests = Vec::new();
    for line in lines {
        match (&verdict, verdict_of(line)) {
            (None, Some(found)) => verdict = Some(found),
            (None, None) => words.push(line),
            (Some(_), None) => tests.push(test(line).unwrap_or_else(|| panic!("{place}: no test: {line}"))),
            (Some(_), Some(_)) => panic!("{place}: a second verdict: {line}"),
        }
    }
    Row {
        statement: words.join(" "),
        verdict: verdict.unwrap_or_else(|| panic!("{place}: no verdict")),
        tests,
        place,
    }
}

fn verdict_of(line: &str) -> Option<Verdict> {
    match line.split_once(": ") {
        None if line == "same" => Some(Verdict::Same),
        Some(("different", place)) => Some(Verdict::Different { place: place.to_owned() }),
        Some(("not yet", why)) => Some(Verdict::NotYet { why: why.to_owned() }),
        _ => None,
    }
}

fn test(line: &str) -> Option<Test> {
    let (path, case) = match line.split_once(" | ") {
        Some((path, case)) => (path, Some(case.to_owned())),
        None => (line, None),
    };
    let (file, name) = path.split_once("::")?;
    Some(Test { file: format!("{file}.rs"), name: name.to_owned(), case })
}

/// The text of a test function, from its name to the brace that closes it.
fn body<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    let start = source.find(&format!("fn {name}("))?;
    let line = source[..start].rfind('\n').map_or(0, |end| end + 1);
    let above = source[..line].trim_end().lines().next_back()?.trim();
    // In `proptest!`, whose functions draw their arguments.
    let is_property = source[start..].split('{').next()?.contains(" in ");
    if !(above.ends_with("test]") || is_property) {
        return None;
    }
    let indent = &source[line..start];
    let end = source[start..].find(&format!("\n{indent}}}\n"))?;
    Some(&source[start..start + end])
}

#[test]
fn every_statement_has_what_its_verdict_needs() {
    let differences = read(&root().join("docs/differences.md"));
    let places: Vec<String> =
        differences.lines().filter_map(|line| line.strip_prefix("### ")).map(anchor).collect();
    let sections = sections();
    let rows: Vec<&Row> = sections.iter().flat_map(|section| &section.rows).collect();
    for Row { place, statement, verdict, tests } in &rows {
        assert!(statement.ends_with('.'), "{place}: not a sentence: {statement}");
        match verdict {
            Verdict::Same => assert!(!tests.is_empty(), "{place}: no test shows it"),
            Verdict::Different { place: heading } => {
                assert!(!tests.is_empty(), "{place}: no test shows it");
                assert!(places.contains(heading), "{place}: docs/differences.md has no #{heading}");
            }
            Verdict::NotYet { why } => {
                assert!(!why.is_empty() && tests.is_empty(), "{place}: a reason, and no tests");
            }
        }
    }
    assert!(rows.len() >= FEWEST, "only {}", rows.len());
}

#[test]
fn every_test_that_a_row_names_is_there_and_has_its_case() {
    let mut sources = BTreeMap::new();
    for row in sections().iter().flat_map(|section| &section.rows) {
        for Test { file, name, case } in &row.tests {
            let source = sources.entry(file.clone()).or_insert_with(|| read(&root().join(file)));
            let Some(body) = body(source, name) else { panic!("{}: {file} has no test {name}", row.place) };
            let has_case = case.as_ref().is_none_or(|case| body.contains(case.as_str()));
            assert!(has_case, "{}: {name} of {file} has no case {case:?}", row.place);
        }
    }
}

#[test]
fn the_page_is_made_of_the_statements() {
    let path = root().join(PAGE);
    let page = page(&sections());
    if std::env::var_os("NFVS_UPDATE_PARITY").is_some() {
        fs::write(&path, &page).expect("the page can be written");
    }
    assert!(read(&path) == page, "{PAGE} is not what tests/parity says; renew it by: {RENEW}");
}

fn page(sections: &[Section]) -> String {
    let rows = || sections.iter().flat_map(|section| &section.rows);
    let count = |of: fn(&Verdict) -> bool| rows().filter(|row| of(&row.verdict)).count();
    let mut page = format!(
        "# IPVS and nfvs, statement by statement\n\n\
         What IPVS (`net/netfilter/ipvs/` of Linux 6.12) does with services, packets and connections; whether nfvs does the \
         same; and which\ntest shows it. *Different* leads to the reason, *not yet* says what there is not, or that no test \
         shows it.\n\n\
         Of {} statements, {} are the same, {} different on purpose, {} not yet.\n\n\
         This page is made: its source is `tests/parity/`, and a test fails when it is not what that says. It is renewed by\n\
         `{RENEW}`.\n",
        rows().count(),
        count(|verdict| matches!(verdict, Verdict::Same)),
        count(|verdict| matches!(verdict, Verdict::Different { .. })),
        count(|verdict| matches!(verdict, Verdict::NotYet { .. })),
    );
    for (number, section) in (1..).zip(sections) {
        write!(page, "\n## {number}. {}\n\n", section.title).expect("a String takes everything");
        page.push_str("| | IPVS | nfvs | shown by |\n|---|---|---|---|\n");
        for (index, row) in (1..).zip(&section.rows) {
            let verdict = match &row.verdict {
                Verdict::Same => "same".to_owned(),
                Verdict::Different { place } => format!("[different](differences.md#{place})"),
                Verdict::NotYet { why } => format!("not yet: {why}"),
            };
            let tests: Vec<String> = row.tests.iter().map(shown).collect();
            let (statement, tests) = (&row.statement, tests.join(", "));
            writeln!(page, "| {number}.{index} | {statement} | {verdict} | {tests} |")
                .expect("a String takes everything");
        }
    }
    page
}

fn shown(test: &Test) -> String {
    let Test { file, name, case } = test;
    // A bar would end the cell.
    let case = case.as_ref().map_or(String::new(), |case| format!(" `{}`", case.replace('|', "\\|")));
    format!("[`{name}`](../{file}){case}")
}

/// How links name a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
}

#[test]
fn what_is_no_test_is_not_taken_for_one() {
    let source = "\
fn helper() {
    a();
}

#[test]
fn shows() {
    if b() {
        c();
    }
}

    #[tokio::test]
    async fn waits() {
        d();
    }
";
    assert_eq!(body(source, "helper"), None);
    assert_eq!(body(source, "show"), None);
    assert!(body(source, "shows").is_some_and(|body| body.contains("c();") && !body.contains("d();")));
}
