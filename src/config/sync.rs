//! The synchronisation with other directors: as it is written, and the rules between its values.

use super::complaint::Findings;
use super::file::Object;
use super::model::{self, SyncSettings};
use super::number::number;
use super::read::{self, Read};
use super::text;
use super::tunables::{SyncVersion, Tunables};
use jsonc_parser::ast::Value;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// How connections are synchronised with other directors, those of the kernel's IPVS among them
/// (ipvsadm --start-daemon). Both sides may run at once.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sync {
    /// Tell others of the connections here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SyncDaemon")]
    pub master: Option<SyncDaemon>,
    /// Take over what others tell of theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SyncDaemon")]
    pub backup: Option<SyncDaemon>,
    /// The version of the protocol that the master speaks; the backup understands both. The same as the tunable
    /// sync_version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SyncVersion")]
    pub version: Option<SyncVersion>,
    /// How directors know that messages are from each other. Kernels cannot, and ignore it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Authentication")]
    pub authentication: Option<Authentication>,
    /// A backup that begins, or has lost messages, asks for the whole table. Kernels cannot, and are not disturbed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Resync")]
    pub resync: Option<Resync>,
    /// A director that comes to be master, and no backup, tells the neighbours that the virtual addresses of its services
    /// are here.
    pub announce: bool,
    /// How many messages with records the master sends in a second, at most. Default: as many as there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SyncRate")]
    pub rate: Option<SyncRate>,
}

impl Object for Sync {
    const REQUIRED: &'static [&'static str] = &[];
}

/// How directors know that messages are from each other.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Authentication {
    /// The file with the keys, one a line, each of 64 hexadecimal digits: messages are made with the first one, and taken
    /// with either of two. An absolute path.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, with = "KeyFile")]
    pub keys: Option<KeyFile>,
    /// Whether the backup refuses messages that are made with no key, such as a kernel's.
    #[serde(default = "yes")]
    pub required: bool,
}

impl Object for Authentication {
    const REQUIRED: &'static [&'static str] = &["keys"];
}

/// Whole tables, between nfvs directors.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resync {
    /// The TCP port at which the master can be asked, by the interface of the synchronisation. A backup asks at the port
    /// that the master names.
    #[serde(default)]
    pub port: SyncPort,
}

impl Object for Resync {
    const REQUIRED: &'static [&'static str] = &[];
}

const fn yes() -> bool {
    true
}

/// One side of the synchronisation.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyncDaemon {
    /// The interface that messages leave by, or come in by (--mcast-interface).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(required, with = "Interface")]
    pub interface: Option<Interface>,
    /// Tells groups of directors apart (--syncid). A backup with 0 takes the messages of every group.
    #[serde(default)]
    pub syncid: SyncId,
    /// The multicast group (--mcast-group).
    #[serde(default)]
    pub group: Group,
    /// The UDP port (--mcast-port); with the tunable sync_ports above 1, the first of so many.
    #[serde(default)]
    pub port: SyncPort,
    /// How many routers a message passes at most, and one (--mcast-ttl).
    #[serde(default)]
    pub ttl: Ttl,
    /// The longest message, in bytes of UDP payload (--sync-maxlen). Default: of a master 1472, or 1452 with an IPv6
    /// group; a backup takes what comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "MaxLen")]
    pub maxlen: Option<MaxLen>,
}

impl Object for SyncDaemon {
    const REQUIRED: &'static [&'static str] = &["interface"];
    const WITHOUT_DEFAULT: &'static [&'static str] = &["interface", "maxlen"];
}

number! {
    /// The syncid.
    SyncId(u8): "a syncid", 0 to 255; default 0
}

number! {
    /// The first UDP port, or the TCP port.
    SyncPort(u16): "a port", 1 to 65535; default 8848
}

number! {
    /// Messages a second.
    SyncRate(u32): "a number of messages a second", 1 to 1000000
}

number! {
    /// The time to live of messages.
    Ttl(u8): "a time to live", 1 to 255; default 1
}

number! {
    /// The longest message.
    MaxLen(u16): "a length", 1 to 65507, "bytes"
}

/// The name of a network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface(String);

impl Interface {
    /// The name, if the kernel would take it (`dev_valid_name`).
    pub fn new(name: &str) -> Option<Interface> {
        let is_allowed = |char: char| char.is_ascii_graphic() && char != '/' && char != ':';
        let is_name = (1..16).contains(&name.len()) && name.chars().all(is_allowed);
        (is_name && name != "." && name != "..").then(|| Interface(name.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Interface {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Interface, D::Error> {
        let expected = "the name of a network interface, such as \"eth1\"";
        text::deserialize(deserializer, expected, Interface::new)
    }
}

impl JsonSchema for Interface {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Interface".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[!-.0-9;-~]{1,15}$" })
    }
}

/// Where the keys are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    /// The path, if it means the same wherever the daemon was started.
    pub fn new(path: &str) -> Option<KeyFile> {
        (path.starts_with('/') && !path.contains('\0')).then(|| KeyFile(path.into()))
    }
}

impl<'de> Deserialize<'de> for KeyFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyFile, D::Error> {
        let expected = "the absolute path of a file, such as \"/etc/nfvs/sync.keys\"";
        text::deserialize(deserializer, expected, KeyFile::new)
    }
}

impl JsonSchema for KeyFile {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "KeyFile".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^/" })
    }
}

/// A multicast group of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Group(IpAddr);

impl Group {
    /// The group, if the address is one.
    pub fn new(address: IpAddr) -> Option<Group> {
        address.is_multicast().then_some(Group(address))
    }
}

impl Default for Group {
    fn default() -> Group {
        Group(IpAddr::from([224, 0, 0, 81]))
    }
}

impl<'de> Deserialize<'de> for Group {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Group, D::Error> {
        let expected = "the address of a multicast group, such as \"224.0.0.81\" or \"ff02::81\"";
        text::deserialize(deserializer, expected, |text| text.parse().ok().and_then(Group::new))
    }
}

impl JsonSchema for Group {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Group".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "anyOf": [{ "format": "ipv4" }, { "format": "ipv6" }] })
    }
}

/// The synchronisation, as `root` has it, and the tunables with the version that is written there.
pub(super) fn sync(
    root: &Value<'_>,
    tunables: Option<&Read<'_, Tunables>>,
    findings: &mut Findings<'_>,
) -> (SyncSettings, Tunables) {
    let mut written = tunables.map(|read| read.written).unwrap_or_default();
    let Some(sync) = read::value_of(root, "sync") else { return (SyncSettings::default(), written) };
    let read = read::part::<Sync>(root, "", "sync", findings);
    if let Some((read, version)) = read.as_ref().and_then(|read| Some((read, read.written.version?))) {
        let tunable = tunables.filter(|read| read.has("sync_version")).map(|read| read.written.sync_version);
        if let Some(other) = tunable.filter(|tunable| *tunable != version) {
            let message = format!("tunables.sync_version is {}; write the same, or keep one", other.get());
            read.complain(findings, "version", message);
        }
        written.sync_version = version;
    }
    let announce = read.as_ref().is_some_and(|read| read.written.announce);
    if let Some(read) = read.as_ref().filter(|read| announce && read.has("master") && read.has("backup")) {
        let message = "with both sides in the file, nothing says whether this director is in charge; write one side, or \
                       leave the key out";
        read.complain(findings, "announce", message.to_owned());
    }
    let mut side =
        |key| read::part::<SyncDaemon>(sync, "sync", key, findings).map(|read| daemon(&read, findings));
    let (master, backup) = (side("master"), side("backup"));
    let authentication = read::part::<Authentication>(sync, "sync", "authentication", findings);
    let authentication =
        authentication.and_then(|Read { written: Authentication { keys, required }, .. }| {
            Some(model::Authentication { keys: keys?.0, required })
        });
    let resync = read::part::<Resync>(sync, "sync", "resync", findings);
    let resync = resync.map(|read| model::Resync { port: read.written.port.get() });
    let rate = read.and_then(|read| NonZeroU32::new(read.written.rate?.get()));
    (SyncSettings { master, backup, authentication, resync, announce, rate }, written)
}

fn daemon(read: &Read<'_, SyncDaemon>, findings: &mut Findings<'_>) -> model::SyncDaemon {
    let SyncDaemon { interface, syncid, group, port, ttl, maxlen } = &read.written;
    let settings = model::SyncDaemon {
        // Without one, that has been complained of.
        interface: interface.as_ref().map(|interface| interface.0.clone()).unwrap_or_default(),
        syncid: syncid.get(),
        group: group.0,
        port: port.get(),
        ttl: ttl.get(),
        maxlen: maxlen.map(MaxLen::get),
    };
    let longest = settings.longest_message();
    if let Some(maxlen) = maxlen.filter(|maxlen| maxlen.get() > longest) {
        let message = format!(
            "{} is too long for a message to an IPv6 group; allowed here: 1 to {longest} bytes",
            maxlen.get()
        );
        read.complain(findings, "maxlen", message);
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_names_that_the_kernel_takes() {
        for (name, is_allowed) in [
            ("eth1", true),
            ("bond0.100", true),
            ("a23456789012345", true),
            ("a234567890123456", false),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("eth0:1", false),
        ] {
            assert_eq!(Interface::new(name).is_some(), is_allowed, "{name}");
        }
    }
}
