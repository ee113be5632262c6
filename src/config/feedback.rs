//! Where reports of load come from, for the scheduler "feedback": as it is written, and the rules between its values.

use super::complaint::Findings;
use super::file::{self, Object};
use super::number::number;
use super::read::{self, Read};
use super::text;
use crate::director::scheduler::SchedulerKind;
use crate::director::service as director;
use jsonc_parser::ast::Value;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// Where the servers' reports of load come from: "http" or "file". Needed for the scheduler "feedback".
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [{ "required": ["http"] }, { "required": ["file"] }]))]
pub struct Feedback {
    /// A web page at each server's own address.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HttpReport")]
    pub http: Option<HttpReport>,
    /// A file for each server: an absolute path in which {address} and {port} stand for the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FileTemplate")]
    pub file: Option<FileTemplate>,
    /// The time between a server's reports, in seconds.
    pub interval: Interval,
}

impl Object for Feedback {
    const REQUIRED: &'static [&'static str] = &[];
    const WITHOUT_DEFAULT: &'static [&'static str] = &["http", "file"];
}

/// Where a server's web page with its load is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpReport {
    /// The path, with a query if there is one.
    pub path: HttpPath,
    /// The TCP port. Default: the server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HttpPort")]
    pub port: Option<HttpPort>,
    /// The name that is asked for. Default: the server's address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "HttpHost")]
    pub host: Option<HttpHost>,
    /// How long an answer may take, in seconds; not longer than the interval.
    pub timeout: HttpTimeout,
}

impl Object for HttpReport {
    const REQUIRED: &'static [&'static str] = &[];
}

number! {
    /// The time between reports.
    Interval(u32): "an interval", 1 to 60, "seconds"; default 1
}

number! {
    /// How long an answer may take.
    HttpTimeout(u32): "a time", 1 to 60, "seconds"; default 1
}

number! {
    /// The TCP port of a web server.
    HttpPort(u16): "a port", 1 to 65535
}

/// A text that has to be of some form, which is also in its schema and in the message about any other.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident: $what:literal, $pattern:literal, $is_right:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize)]
        pub struct $name(String);

        impl $name {
            /// The text, if it is allowed.
            pub fn new(text: &str) -> Option<$name> {
                let is_right: fn(&str) -> bool = $is_right;
                is_right(text).then(|| $name(text.to_owned()))
            }

            /// The text.
            pub fn into_string(self) -> String {
                self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                text::deserialize(deserializer, $what, $name::new)
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}

/// What a text may be long, in bytes.
const LONGEST: usize = 1024;

text! {
    /// The path of a URL, with a query if there is one (RFC 3986).
    HttpPath: "a path such as \"/load\": it begins with /, and has letters and digits of ASCII and \
               - . _ ~ ! $ & ' ( ) * + , ; = : @ / ? % in it",
    r"^/[A-Za-z0-9._~!$&'()*+,;=:@/?%-]*$",
    |path| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
        path.len() <= LONGEST && path.starts_with('/') && path.bytes().all(is_allowed)
    }
}

impl Default for HttpPath {
    fn default() -> HttpPath {
        HttpPath("/load".to_owned())
    }
}

text! {
    /// What is asked for in the header `Host`.
    HttpHost: "a host name, with a port if one is needed, such as \"www.example.org:8080\"",
    r"^[A-Za-z0-9._:\[\]-]{1,255}$",
    |host| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:[]-".contains(&byte);
        (1..=255).contains(&host.len()) && host.bytes().all(is_allowed)
    }
}

text! {
    /// The path of a server's file.
    FileTemplate: "an absolute path with {address} in it, and {port} if need be, such as \
                   \"/run/nfvs/load/{address}-{port}\"",
    r"^/[^{}]*(\{(address|port)\}[^{}]*)*$",
    |path| {
        let rest = path.replace("{address}", "").replace("{port}", "");
        let has_address = path.contains("{address}");
        path.len() <= LONGEST && path.starts_with('/') && has_address && !rest.contains(['{', '}', '\0'])
    }
}

/// Where reports come from, for the service that is `value` and was read as `read`.
pub(super) fn feedback(
    value: &Value<'_>,
    read: &Read<'_, file::Service>,
    findings: &mut Findings<'_>,
) -> Option<director::Feedback> {
    let scheduler = SchedulerKind::from(read.written.scheduler);
    let written = read::part::<Feedback>(value, &read.path, "feedback", findings);
    let http = read::value_of(value, "feedback").and_then(|value| {
        read::part::<HttpReport>(value, &format!("{}.feedback", read.path), "http", findings)
    });
    if scheduler != SchedulerKind::Feedback {
        if read.has("feedback") && read.is_right("scheduler") {
            let message = format!(
                "only the scheduler \"feedback\" goes by reports, and this is \"{scheduler}\"; leave the key out, or \
                 write \"feedback\" for the scheduler"
            );
            read.complain(findings, "feedback", message);
        }
        return None;
    }
    if !read.has("feedback") {
        let message = "\"feedback\" has to know where the servers' reports are; write also \"feedback\": \
                       { \"http\": { \"path\": \"/load\" } }, or \"feedback\": { \"file\": \
                       \"/run/nfvs/load/{address}-{port}\" }";
        read.complain(findings, "scheduler", message.to_owned());
    }
    let written = written?;
    let interval = written.written.interval.get();
    let source = match (written.has("http"), written.has("file")) {
        (true, true) => {
            let message = "reports come from one place; leave out this key, or \"http\"";
            written.complain(findings, "file", message.to_owned());
            return None;
        }
        (false, false) => {
            let message = "one of the keys \"http\" and \"file\" is missing: where reports come from";
            findings.add(written.offset(), written.path.clone(), message);
            return None;
        }
        (true, false) => page(&http?, &written, findings),
        (false, true) => director::LoadSource::File(written.written.file?.into_string()),
    };
    Some(director::Feedback { source, interval: Duration::from_secs(interval.into()) })
}

fn page(
    http: &Read<'_, HttpReport>,
    feedback: &Read<'_, Feedback>,
    findings: &mut Findings<'_>,
) -> director::LoadSource {
    let HttpReport { path, port, host, timeout } = http.written.clone();
    let interval = feedback.written.interval;
    let is_right = http.is_right("timeout") && feedback.is_right("interval");
    if timeout.get() > interval.get() && is_right {
        let message = format!(
            "{} seconds are longer than the interval between reports; allowed here: 1 to {}",
            timeout.get(),
            interval.get()
        );
        http.complain(findings, "timeout", message);
    }
    director::LoadSource::Http {
        path: path.into_string(),
        port: port.map(HttpPort::get),
        host: host.map(HttpHost::into_string),
        timeout: Duration::from_secs(timeout.get().into()),
    }
}

/// Why reports of a server with this port could not be asked for.
pub(super) fn no_port(port: u16, feedback: Option<&director::Feedback>) -> Option<String> {
    let source = feedback.map(|feedback| &feedback.source)?;
    let is_needed = port == 0 && matches!(source, director::LoadSource::Http { port: None, .. });
    is_needed.then(|| {
        "the server has no port of its own, at which its reports could be asked for; write a \"port\" in the service's \
         feedback.http"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_what_their_names_say() {
        for (path, is_right) in
            [("/", true), ("/a/b?c=d&e", true), ("/%20", true), ("", false), ("load", false)]
        {
            assert_eq!(HttpPath::new(path).is_some(), is_right, "{path:?}");
        }
        for path in ["/a b", "/a#b", "/{address}", "/\r\n", "/\u{e4}"] {
            assert_eq!(HttpPath::new(path), None, "{path:?}");
        }
        assert_eq!(HttpPath::new(&"/".repeat(LONGEST + 1)), None);
        for (host, is_right) in [
            ("www.example.org", true),
            ("[fd00::1]:80", true),
            ("", false),
            ("a b", false),
            ("a\r\nb", false),
        ] {
            assert_eq!(HttpHost::new(host).is_some(), is_right, "{host:?}");
        }
        for (file, is_right) in [
            ("/run/{address}", true),
            ("/run/{address}-{port}.load", true),
            ("/{port}/{address}/{address}", true),
            ("/run/load", false),
            ("/run/{port}", false),
            ("run/{address}", false),
            ("/run/{address}/{name}", false),
            ("/run/{address}}", false),
        ] {
            assert_eq!(FileTemplate::new(file).is_some(), is_right, "{file:?}");
        }
    }
}
