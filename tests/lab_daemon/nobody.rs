//! A daemon without root: the user nobody, with the one capability that it needs.

use super::common::lab::{Lab, text};
use super::{Daemon, NFVS};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use tempfile::TempDir;

/// User and group.
const NOBODY: u32 = 65_534;

/// The group's name.
pub(super) const GROUP: &str = "nogroup";

/// A daemon that runs as nobody in a lab's director.
pub(super) struct Nobody {
    /// Where nobody may write: the lab's files are root's.
    home: TempDir,
    pub(super) daemon: Daemon,
}

impl Nobody {
    /// Starts a daemon with the lab's configuration.
    #[track_caller]
    pub(super) fn start(lab: &Lab) -> Nobody {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        chown(home.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        fs::copy(NFVS, path("nfvs")).unwrap();
        fs::copy(lab.file("nfvs.json"), path("nfvs.json")).unwrap();
        fs::set_permissions(path("nfvs.json"), fs::Permissions::from_mode(0o644)).unwrap();

        let become_nobody = [
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--bounding-set=-all,+net_admin",
            "--inh-caps=-all,+net_admin",
            "--ambient-caps=-all,+net_admin",
            "--no-new-privs",
        ];
        let (program, config, socket) = (path("nfvs"), path("nfvs.json"), path("nfvs.sock"));
        let director = lab.namespace("director");
        let arguments =
            [program.as_str(), "run", "--config", &config, "--socket", &socket, "--netns", &director];
        let log = fs::File::create(lab.file("log/daemon")).unwrap();
        let daemon = Daemon::start_words(lab, &[&become_nobody[..], &arguments].concat(), log.into());
        Nobody { home, daemon }
    }

    /// What `nfvs show queues` prints.
    #[track_caller]
    pub(super) fn show_queues(&self, arguments: &[&str]) -> String {
        let output = Command::new(NFVS)
            .args(["show", "queues"])
            .args(arguments)
            .arg("--socket")
            .arg(self.home.path().join("nfvs.sock"))
            .output()
            .unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
        text(&output.stdout)
    }

    /// The same as JSON.
    #[track_caller]
    pub(super) fn queues(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.show_queues(&["--json"])).unwrap()
    }

    /// Asks the daemon to end, which it has to do in good order.
    #[track_caller]
    pub(super) fn end(self) {
        let Nobody { home, daemon } = self;
        assert_eq!(daemon.end(Signal::TERM).code(), Some(0));
        assert!(!home.path().join("nfvs.sock").exists(), "the control socket's file is left");
    }
}
