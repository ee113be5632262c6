//! What an installation consists of besides the program: units, manual pages, completions, examples. The units are read
//! by systemd's own tools, in a tree that looks like an installed system.

#[path = "../packaging/manual/pages.rs"]
mod pages;

use clap::Command as CommandLine;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Instances that differ: a namespace of its own, the host's, and the unit that makes a namespace.
const INSTANCES: [&str; 3] = ["nfvs@blue.service", "nfvs@default.service", "nfvs-netns@blue.service"];
const UNITS: &str = "usr/lib/systemd/system";

/// A system with the units and the program installed, and the targets of systemd that they name.
struct Installed {
    root: TempDir,
}

impl Installed {
    fn new() -> Installed {
        let root = tempfile::tempdir().expect("a temporary folder");
        // systemd refuses its test mode to root, and looks at this as another user.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("our own folder");
        let installed = fs::read_to_string(top().join("packaging/debian/nfvs.install")).expect("its list");
        for line in installed.lines() {
            let (from, to) = line.split_once(' ').expect("FROM TO");
            let to = root.path().join(to).join(Path::new(from).file_name().expect("a file"));
            if top().join(from).exists() {
                copy(&top().join(from), &to);
            } else {
                // What a build makes: the program, whose being there is enough, and what units do not name.
                fs::create_dir_all(to.parent().expect("a folder")).expect("our own folder");
                fs::write(&to, "").expect("our own folder");
                fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("our own file");
            }
        }
        for target in fs::read_dir("/lib/systemd/system").expect("the package systemd is installed") {
            let target = target.expect("a readable folder").path();
            if target.extension().is_some_and(|extension| extension == "target") && target.is_file() {
                copy(&target, &root.path().join(UNITS).join(target.file_name().expect("a file")));
            }
        }
        Installed { root }
    }

    fn analyze(&self, arguments: &[&str]) -> Output {
        let root = format!("--root={}", self.root.path().display());
        Command::new("systemd-analyze")
            .args(arguments)
            .arg(root)
            .output()
            .expect("the package systemd is installed")
    }

    /// A unit as systemd has understood it, drop-ins included: one setting a line.
    fn loaded(&self, unit: &str) -> Vec<String> {
        let systemd = "/lib/systemd/systemd";
        let mut command = match rustix::process::geteuid().is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", systemd]);
                command
            }
            false => Command::new(systemd),
        };
        let output = command
            .args(["--test", "--system", &format!("--unit={unit}")])
            .env("SYSTEMD_UNIT_PATH", self.root.path().join(UNITS))
            .env("HOME", "/")
            .output()
            .expect("the package systemd is installed");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let begin = format!("-> Unit {unit}:");
        let lines: Vec<String> = said
            .lines()
            .map(str::trim)
            .skip_while(|line| *line != begin)
            .skip(1)
            .take_while(|line| !line.starts_with("-> Unit "))
            .map(str::to_owned)
            .collect();
        assert!(
            !lines.is_empty(),
            "{unit} was not loaded: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        lines
    }
}

/// The values of a setting in a unit that was loaded.
fn values<'a>(unit: &'a [String], setting: &str) -> Vec<&'a str> {
    unit.iter().filter_map(|line| line.strip_prefix(setting)?.strip_prefix(": ")).collect()
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Copies a file or a folder, and makes the folders above its new place.
fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        for entry in fs::read_dir(from).expect("a readable folder") {
            let entry = entry.expect("a readable folder");
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::create_dir_all(to.parent().expect("a folder")).expect("our own folder");
        fs::copy(from, to).expect("a copy");
    }
}

#[test]
fn systemd_has_no_complaint_about_the_units() {
    let installed = Installed::new();
    for unit in INSTANCES {
        let output = installed.analyze(&["verify", "--man=no", unit]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{unit}: {said}");
    }
}

#[test]
fn the_daemon_is_exposed_at_most_2_0() {
    let installed = Installed::new();
    for unit in &INSTANCES[..2] {
        let output = installed.analyze(&["security", "--offline=true", "--threshold=20", "--no-pager", unit]);
        assert!(output.status.success(), "{unit}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn the_instance_default_is_that_of_the_hosts_own_namespace() {
    let installed = Installed::new();
    let blue = installed.loaded("nfvs@blue.service");
    assert_eq!(values(&blue, "NetworkNamespacePath"), ["/run/netns/blue"]);

    let default = installed.loaded("nfvs@default.service");
    assert!(values(&default, "NetworkNamespacePath").is_empty());
    // The same commands, but for the namespace and the sysctls.
    let plain: Vec<String> = values(&blue, "Command Line")
        .into_iter()
        .map(|command| command.replace(" --netns blue", "").replace("blue.json", "default.json"))
        .collect();
    let default: Vec<String> = values(&default, "Command Line")
        .into_iter()
        .map(|command| command.replace(" --no-sysctls", ""))
        .collect();
    assert!(plain.len() >= 4, "{plain:?}");
    assert_eq!(default, plain);
}

#[test]
fn the_program_knows_the_commands_of_the_units() {
    let installed = Installed::new();
    for unit in &INSTANCES[..2] {
        for command in values(&installed.loaded(unit), "Command Line") {
            let words = command.split(' ');
            if let Err(error) = nfvs::cli::command().try_get_matches_from(words) {
                panic!("{unit}: {command}: {error}");
            }
        }
    }
}

#[test]
fn the_examples_are_right() {
    let mut examples = 0;
    for file in files("packaging/examples", "json") {
        let output = Command::new(env!("CARGO_BIN_EXE_nfvs")).arg("check").arg(&file).output().expect("nfvs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        examples += 1;
    }
    assert!(examples > 0);
}

/// The files of a folder of the repository whose names end in `.EXTENSION`.
fn files(folder: &str, extension: &str) -> Vec<PathBuf> {
    fs::read_dir(top().join(folder))
        .expect("a folder")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

#[test]
fn each_command_has_its_manual_page_with_all_its_options() {
    let pages = pages::pages("2026-11-21");
    let text = |name: &str| {
        let page = pages.iter().find(|page| page.file_name == format!("{name}.1"));
        // Hyphens of words are written `\-`.
        page.unwrap_or_else(|| panic!("{name} has no page")).text.replace("\\-", "-")
    };
    let nfvs = nfvs::cli::command();
    let overview = text("nfvs");
    for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
        assert!(overview.contains(&format!("\n.SH {section}\n")), "nfvs(1) has no {section}");
    }
    let commands: Vec<&CommandLine> = nfvs.get_subcommands().collect();
    // Those of a command refer to it, and are referred to by it.
    let below =
        commands.iter().flat_map(|above| above.get_subcommands().map(|command| (Some(*above), command)));
    let all: Vec<_> = commands.iter().map(|command| (None, *command)).chain(below).collect();
    assert!(all.len() > commands.len());
    assert_eq!(pages.len(), all.len() + 1);
    for (above, command) in all {
        let above = above.map_or("nfvs".to_owned(), |above| format!("nfvs-{}", above.get_name()));
        let name = format!("{above}-{}", command.get_name());
        let refers = |page: &str, other: &str| page.contains(&format!(".BR {other} (1)"));
        let page = text(&name);
        assert!(refers(&text(&above), &name), "{above}(1) does not refer to {name}(1)");
        assert!(refers(&page, &above), "{name}(1) does not refer to {above}(1)");
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("--{option}")), "{name}(1) lacks --{option}");
        }
    }
}
