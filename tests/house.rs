//! The house rules a machine can check: the director does no I/O and imports nothing from the shells, `unsafe` stands
//! in two places, `sync-proto` and `nft-rules` depend on nothing of ours, no test is ignored, no work is left behind,
//! no file is too long.
//!
//! Sources are read as tokens, without comments and literals; `use` trees are spread out into single paths. Below
//! each checker stands a table of sources it must refuse.

use std::fs;
use std::path::{Path, PathBuf};

/// What code of the director may not reach.
const FORBIDDEN: &[&str] = &[
    "crate::cli",
    "crate::config",
    "crate::daemon",
    "nfvs",
    "std::env",
    "std::fs",
    "std::io",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::ToSocketAddrs",
    "std::net::UdpSocket",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "std::hash::RandomState",
    "fastrand::Rng::new",
    "libc",
    "nfq",
    "nft_rules",
    "nix",
    "rustix",
    "tokio",
    "tracing",
];

/// Macros that write to the outside.
const FORBIDDEN_MACROS: &[&str] = &["dbg", "eprint", "eprintln", "print", "println"];

/// Where `unsafe` may stand.
const UNSAFE_PLACES: &[&str] = &["src/daemon/queue/", "nft-rules/"];

#[test]
fn the_director_does_no_io_and_imports_nothing_from_the_shells() {
    complain(&sources(&["src/director"]), |_, source| reaches_outside(source));
}

#[test]
fn unsafe_stands_in_two_places() {
    complain(&rust_sources(), |path, source| {
        if UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) { vec![] } else { unsafe_code(source) }
    });
}

#[test]
fn no_test_is_ignored() {
    complain(&rust_sources(), |_, source| ignored_tests(source));
}

#[test]
fn no_code_is_left_to_be_written() {
    complain(&rust_sources(), |_, source| unfinished_code(source));
}

#[test]
fn no_work_is_left_behind_as_a_comment() {
    complain(&sources(&["."]), |_, source| unfinished_work(source));
}

#[test]
fn no_source_is_too_long() {
    complain(&rust_sources(), |_, source| too_long(source));
}

#[test]
fn sync_proto_depends_on_nothing_of_ours() {
    complain(&sources(&["sync-proto/Cargo.toml"]), |_, manifest| {
        own_dependencies(manifest, &["nfvs", "nft-rules"])
    });
}

#[test]
fn nft_rules_depends_on_nothing_of_ours() {
    complain(&sources(&["nft-rules/Cargo.toml"]), |_, manifest| {
        own_dependencies(manifest, &["nfvs", "sync-proto"])
    });
}

#[test]
fn sources_that_reach_outside_are_refused() {
    let refused = [
        ("a shell by its path", "use crate::daemon::Worker;"),
        ("a shell deep in a tree", "use crate::{director::Time, config::{Plan}};"),
        ("a shell in an expression", "fn f() { crate::cli::print() }"),
        ("a shell by way of super", "use super::super::daemon::clock;"),
        ("a shell through our own crate's name", "use nfvs::daemon;"),
        ("the whole crate under another name", "use crate as everything;"),
        ("everything of the crate", "use crate::*;"),
        ("a socket", "use std::net::{IpAddr, UdpSocket};"),
        ("a socket in a nested tree", "use std::{fmt, net::{TcpStream as Stream}};"),
        ("all of std::net", "use std::net::*;"),
        ("std::net as a module", "use std::{net};"),
        ("std under another name", "use std as s;"),
        ("std by an absolute path", "fn f() { ::std::fs::read(\"x\"); }"),
        ("a file in an expression", "fn f() { let _ = std::fs::read(\"x\"); }"),
        ("self in a tree", "use std::io::{self, Read};"),
        ("the clock", "fn f() -> std::time::Instant { std::time::Instant::now() }"),
        ("std::time as a module", "use std::time;\nfn f() { time::Instant::now(); }"),
        ("the calendar", "use std::time::{Duration, SystemTime};"),
        ("a thread", "fn f() { std::thread::yield_now() }"),
        ("the environment", "const X: &str = std::env::consts::OS;"),
        ("an external crate", "use tokio;"),
        ("an external crate, old style", "extern crate libc;"),
        ("an attribute of an external crate", "#[tracing::instrument] fn f() {}"),
        ("a macro of an external crate", "fn f() { tracing::debug!(\"x\") }"),
        ("raw identifiers", "use r#nix::sched;"),
        ("output", "fn f() { println!(\"x\"); }"),
        ("randomness", "fn f() { fastrand::u32(..); }"),
        ("randomness without a seed", "fn f() { fastrand::Rng::new(); }"),
        ("randomness by import", "use fastrand::*;"),
        ("unsafe", "fn f() { unsafe { g() } }"),
        ("code after a test module", "#[cfg(test)] mod tests { use std::fs; }\nuse std::env;"),
        ("code after a lifetime and a quote", "fn f<'a>(c: char) -> bool { c == '\"' }\nuse std::fs; // \""),
        ("code after a raw string", "const X: &str = r#\"a \" b\"#;\nuse std::fs;"),
        ("code between comments", "/* a /* b */ c */ use std::fs; /* d */"),
    ];
    for (what, source) in refused {
        assert!(!reaches_outside(source).is_empty(), "{what} passed: {source}");
    }
}

#[test]
fn sources_that_stay_inside_pass() {
    let passed = [
        (
            "words in comments",
            "//! no `unsafe`, no std::fs\n/// [`crate::daemon`]\n/* use std::io; */ fn f() {}",
        ),
        ("words in strings", "const X: &str = \"use std::fs; unsafe {\\\" tokio::spawn\";"),
        ("words in raw strings", "const X: &[u8] = br##\"\"# std::fs::read \"##;"),
        ("addresses", "use std::net::{IpAddr, Ipv4Addr, SocketAddr};"),
        ("durations", "use std::time::Duration;"),
        ("the director's own Instant", "use super::time::Instant; fn f(now: Instant) {}"),
        (
            "names that only resemble",
            "use crate::director::configuration; fn f(nfq: u8, io: u8) { nfq + io; }",
        ),
        ("our wire format", "use sync_proto::Message;"),
        ("a seeded generator", "fn f(seed: u64) { fastrand::Rng::with_seed(seed); }"),
        ("everything of the module above", "use super::*;"),
        ("the lint against unsafe", "#![forbid(unsafe_code)]"),
        ("visibility", "pub(crate) fn f() {} pub(in crate::director) fn g() {}"),
        ("a test that reads a file", "#[cfg(test)]\nmod tests { fn f() { let _ = std::fs::read(\"x\"); } }"),
        ("a lifetime named like a crate", "fn f<'nix>(x: &'nix u8) -> &'nix u8 { x }"),
    ];
    for (what, source) in passed {
        assert_eq!(reaches_outside(source), Vec::<String>::new(), "{what}: {source}");
    }
}

#[test]
fn unsafe_code_is_recognised() {
    for source in [
        "unsafe fn f() {}",
        "fn f() { unsafe { g() } }",
        "unsafe impl Send for X {}",
        "#[unsafe(no_mangle)] fn f() {}",
    ] {
        assert_eq!(unsafe_code(source).len(), 1, "{source}");
    }
    assert!(unsafe_code("#![deny(unsafe_code)] // unsafe\nconst X: &str = \"unsafe\";").is_empty());
}

#[test]
fn ignored_tests_are_recognised() {
    for source in [
        "#[ignore] fn f() {}",
        "#[test]\n#[ignore = \"slow\"] fn f() {}",
        "#[cfg_attr(unix, ignore)] fn f() {}",
    ] {
        assert_eq!(ignored_tests(source).len(), 1, "{source}");
    }
    assert!(ignored_tests("fn ignore() {} // #[ignore]\nfn f(xs: [u8; 1]) { ignore(xs[0]) }").is_empty());
}

#[test]
fn unfinished_work_is_recognised() {
    for word in MARKS_OF_UNFINISHED_WORK {
        assert_eq!(unfinished_work(&format!("a\n// {word}: more\n")).len(), 1, "{word}");
    }
    assert!(unfinished_work("fn to_do() {} // method, MASTODON\n").is_empty());
}

#[test]
fn unfinished_code_is_recognised() {
    let refused = [
        "fn f() { todo!() }",
        "fn f() { std::todo! [\"later\"] }",
        "fn f() -> u8 { unimplemented!(\"{}\", 1) }",
        "#[cfg(test)] mod tests { fn f() { todo!() } }",
    ];
    for source in refused {
        assert_eq!(unfinished_code(source).len(), 1, "{source}");
    }
    let passed =
        "// todo!()\nfn f(todo: bool) -> bool { let x = \"unimplemented!()\"; todo != x.is_empty() }";
    assert!(unfinished_code(passed).is_empty());
}

#[test]
fn long_sources_are_recognised() {
    assert!(too_long(&"\n".repeat(LINES_AT_MOST)).is_empty());
    assert_eq!(too_long(&"\n".repeat(LINES_AT_MOST + 1)).len(), 1);
}

#[test]
fn own_dependencies_are_recognised() {
    let refused = [
        "[dependencies]\nnft-rules.workspace = true",
        "[dependencies]\nnft-rules = { workspace = true }",
        "[dev-dependencies.nft-rules]\nworkspace = true",
        "[target.'cfg(unix)'.build-dependencies]\nrules = { path = \"../nft-rules\" }",
        "[dependencies]\nrules = { package = \"nft-rules\", version = \"1\" }",
    ];
    for manifest in refused {
        assert_eq!(own_dependencies(manifest, &["nft-rules"]).len(), 1, "{manifest}");
    }
    let passed =
        "[package]\nname = \"nft-rules\"\n[dependencies]\nserde.workspace = true\n[lints]\nworkspace = true";
    assert!(own_dependencies(passed, &["nft-rules"]).is_empty());
}

/// Everything a source of the director reaches that it may not, its own tests left out.
fn reaches_outside(source: &str) -> Vec<String> {
    let code = without_tests(&tokens(source));
    let mut found: Vec<String> = paths(&code).iter().filter_map(refuse).collect();
    found.extend(
        code.windows(2)
            .filter(|pair| pair[1] == "!" && FORBIDDEN_MACROS.contains(&pair[0].as_str()))
            .map(|pair| format!("{}! writes to the outside", pair[0])),
    );
    found.extend(code.iter().filter(|token| *token == "unsafe").cloned());
    found
}

/// A path as it stands in the source; `import` if a `use` brings its last segment into scope.
#[derive(Debug)]
struct CodePath {
    segments: Vec<String>,
    import: bool,
}

/// Why a path is refused, if it is.
fn refuse(path: &CodePath) -> Option<String> {
    let mut segments: Vec<&str> = path.segments.iter().map(String::as_str).collect();
    let written = segments.join("::");
    // A path that climbs and then names a shell means the crate's: the director has no modules of these names.
    let climbs = segments.iter().take_while(|segment| **segment == "super").count();
    if climbs > 0 {
        segments.splice(..climbs, ["crate"]);
    }
    // `core` has the same names where it has them; a glob or `self` brings the module itself.
    if segments[0] == "core" {
        segments[0] = "std";
    }
    let whole = path.import && matches!(segments.last(), Some(&"*" | &"self"));
    if whole {
        segments.pop();
    }
    if segments.is_empty() || (segments.len() == 1 && !path.import) {
        return None;
    }
    if segments[0] == "fastrand" && segments.get(1) != Some(&"Rng") {
        return Some(format!("{written}: randomness without a seed"));
    }
    for forbidden in FORBIDDEN {
        let forbidden: Vec<&str> = forbidden.split("::").collect();
        let below = segments.starts_with(&forbidden);
        // `super::*` is the module above and not the crate.
        let above = path.import && climbs == 0 && forbidden.starts_with(&segments);
        if below || above {
            return Some(format!("{written} reaches {}", forbidden.join("::")));
        }
    }
    None
}

/// Every path of the code, `use` trees spread out.
fn paths(code: &[String]) -> Vec<CodePath> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        match code[at].as_str() {
            "use" => at = use_tree(code, at + 1, &[], &mut found),
            "extern" if code.get(at + 1).is_some_and(|next| next == "crate") => {
                at = use_tree(code, at + 2, &[], &mut found);
            }
            token if is_name(token) => {
                let mut segments = vec![token.to_owned()];
                while code.get(at + 1).is_some_and(|t| t == "::")
                    && code.get(at + 2).is_some_and(|t| is_name(t))
                {
                    at += 2;
                    segments.push(code[at].clone());
                }
                found.push(CodePath { segments, import: false });
                at += 1;
            }
            _ => at += 1,
        }
    }
    found
}

/// Reads one `use` tree from `at` and returns where it ends.
fn use_tree(code: &[String], mut at: usize, prefix: &[String], found: &mut Vec<CodePath>) -> usize {
    let mut segments = prefix.to_vec();
    while at < code.len() {
        match code[at].as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while at < code.len() && code[at] != "}" {
                    if code[at] == "," {
                        at += 1;
                    } else {
                        at = use_tree(code, at, &segments, found);
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            token if token == "*" || is_name(token) => {
                segments.push(token.to_owned());
                at += 1;
            }
            // Anything else ends the tree; the opening parenthesis of a `use<'a>` bound does so at once.
            _ => break,
        }
    }
    if segments.len() > prefix.len() {
        found.push(CodePath { segments, import: true });
        return at;
    }
    at + 1
}

fn unsafe_code(source: &str) -> Vec<String> {
    tokens(source).into_iter().filter(|token| token == "unsafe").collect()
}

/// Attributes that keep a test from running.
fn ignored_tests(source: &str) -> Vec<String> {
    let code = tokens(source);
    let mut found = Vec::new();
    let mut at = 0;
    while at < code.len() {
        if code[at] == "#" && code.get(at + 1).is_some_and(|token| token == "[") {
            let end = matching(&code, at + 1);
            if code[at..end].iter().any(|token| token == "ignore") {
                found.push(code[at..end].concat());
            }
            at = end;
        } else {
            at += 1;
        }
    }
    found
}

/// Written in two parts, so that this file passes its own check.
const MARKS_OF_UNFINISHED_WORK: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

fn unfinished_work(source: &str) -> Vec<String> {
    let marked = |line: &&str| {
        line.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| MARKS_OF_UNFINISHED_WORK.contains(&word))
    };
    source.lines().filter(marked).map(|line| line.trim().to_owned()).collect()
}

/// Macros that stand for code to be written.
fn unfinished_code(source: &str) -> Vec<String> {
    let code = tokens(source);
    let stands_for_code = |at: &usize| {
        ["todo", "unimplemented"].contains(&code[*at].as_str())
            && code.get(at + 1).is_some_and(|mark| mark == "!")
            && code.get(at + 2).is_some_and(|open| ["(", "[", "{"].contains(&open.as_str()))
    };
    (0..code.len()).filter(stands_for_code).map(|at| format!("{}!", code[at])).collect()
}

/// Past this a source is about more than one thing.
const LINES_AT_MOST: usize = 800;

fn too_long(source: &str) -> Vec<String> {
    let lines = source.lines().count();
    if lines > LINES_AT_MOST { vec![format!("{lines} lines, at most {LINES_AT_MOST}")] } else { vec![] }
}

/// The lines of a manifest that make it depend on one of the named packages, or on anything by its path.
fn own_dependencies(manifest: &str, ours: &[&str]) -> Vec<String> {
    let names_ours = |text: &str| {
        text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'))
            .any(|word| ours.contains(&word) || word == "path")
    };
    let mut table_of_dependencies = false;
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            table_of_dependencies = line.contains("dependencies");
        }
        if table_of_dependencies && names_ours(line) {
            found.push(line.to_owned());
        }
    }
    found
}

/// The tokens of a source: names (raw ones without their `r#`), `::`, and single marks. Comments, literals and
/// lifetimes are left out.
fn tokens(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest) {
            length
        } else if first == '\'' {
            character_or_lifetime(rest)
        } else if rest.starts_with("::") {
            found.push("::".to_owned());
            2
        } else if first.is_alphanumeric() || first == '_' {
            let start = if rest.starts_with("r#") { 2 } else { 0 };
            let end = rest[start..]
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .map_or(rest.len(), |end| start + end);
            found.push(rest[start..end].to_owned());
            end
        } else {
            if !first.is_whitespace() {
                found.push(first.to_string());
            }
            first.len_utf8()
        };
        rest = &rest[length..];
    }
    found
}

/// The length of the block comment, which may contain others, that the text begins with.
fn block_comment(text: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of the string literal of any kind that the text begins with.
fn string(text: &str) -> Option<usize> {
    let prefix = ["", "b", "c", "r", "br", "cr"].into_iter().rev().find(|prefix| {
        let after = &text.as_bytes()[prefix.len().min(text.len())..];
        text.starts_with(prefix)
            && match prefix.ends_with('r') {
                true => after.iter().find(|byte| **byte != b'#') == Some(&b'"'),
                false => after.first() == Some(&b'"'),
            }
    })?;
    if prefix.ends_with('r') {
        let hashes = text[prefix.len()..].find('"')?;
        let start = prefix.len() + hashes + 1;
        let close = format!("\"{}", "#".repeat(hashes));
        return Some(text[start..].find(&close).map_or(text.len(), |end| start + end + close.len()));
    }
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(prefix.len() + 1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of the character literal or lifetime that the text, which begins with a quote, begins with.
fn character_or_lifetime(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        // The escaped character itself may be a quote.
        Some((_, '\\')) => text[3..].find('\'').map_or(text.len(), |end| 3 + end + 1),
        Some((_, _)) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => text[1..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(text.len(), |end| end + 1),
        },
        None => 1,
    }
}

/// Whether a token is a name or a keyword of a path.
fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_') && token != "as"
}

/// The code without its inline `#[cfg(test)]` modules.
fn without_tests(code: &[String]) -> Vec<String> {
    let attribute = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
    let mut kept = Vec::new();
    let mut at = 0;
    while at < code.len() {
        let is_tests = code[at..].iter().zip(attribute).filter(|(token, expected)| token == expected).count()
            == attribute.len();
        let body = at + attribute.len() + 1;
        if is_tests && code.get(body).is_some_and(|token| token == "{") {
            at = matching(code, body);
        } else {
            kept.push(code[at].clone());
            at += 1;
        }
    }
    kept
}

/// Where the group that opens at `open` ends: one past its closing mark.
fn matching(code: &[String], open: usize) -> usize {
    let mut depth = 0;
    for (at, token) in code.iter().enumerate().skip(open) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

/// Every Rust source of the repository.
fn rust_sources() -> Vec<(String, String)> {
    let mut files = sources(&["src", "nft-rules", "sync-proto", "tests", "benches", "fuzz", "packaging"]);
    files.retain(|(path, _)| path.ends_with(".rs"));
    files
}

/// The text files under these places of the repository, with their paths from its top; a place may be missing.
fn sources(places: &[&str]) -> Vec<(String, String)> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut waiting: Vec<PathBuf> =
        places.iter().map(|place| top.join(place)).filter(|path| path.exists()).collect();
    let mut found = Vec::new();
    while let Some(path) = waiting.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            waiting.extend(entries.map(|entry| entry.expect("a readable directory").path()));
            waiting.retain(|path| !path.ends_with("target") && !path.ends_with(".git"));
        } else if let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix(top).expect("a path below the top").display().to_string();
            found.push((name, text));
        }
    }
    found
}

/// Runs a check over files and fails with everything it found. Finding no file to check is a failure too.
fn complain(files: &[(String, String)], check: impl Fn(&str, &str) -> Vec<String>) {
    assert!(!files.is_empty(), "there is nothing to check");
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|(path, source)| {
            check(path, source).into_iter().map(move |found| format!("{path}: {found}"))
        })
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}
