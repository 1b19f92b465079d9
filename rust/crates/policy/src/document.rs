//! The normalised policy document: what the control plane writes after it has read the user's files
//! and filled in every default. Strings are checked later, so that each gets a problem of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::budgets::Budget;
use crate::cluster;
use crate::connections;
use crate::on_deny::OnDeny;
use crate::proxied::{Reads, Sends};
use crate::shaping::{Bandwidth, LinkBandwidth};

/// The version of the document that this crate reads.
pub(crate) const VERSION: u32 = 1;
/// A rule's `dial` that stands for the captured address.
pub(crate) const ORIGINAL: &str = "original";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    pub v: u32,
    pub settings: Settings,
    pub default: Fallback,
    #[serde(default)]
    pub groups: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub lists: BTreeMap<String, ListFile>,
    /// Who may log in.
    pub users: Option<ListFile>,
    #[serde(default)]
    pub links: BTreeMap<String, LinkBandwidth>,
    #[serde(default)]
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub workers: u32,
    pub max_flows: u32,
    pub low_latency: bool,
    pub listeners: Vec<Listener>,
    pub timeouts: Timeouts,
    pub resolver: Resolver,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budgets: Option<Budgets>,
    /// Who shares what has `scope: cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<cluster::Given>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listener {
    pub name: String,
    pub bind: String,
    pub accept: Vec<String>,
    pub port: Option<u32>,
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    #[serde(default)]
    pub proxy_protocol: Reads,
    #[serde(default)]
    pub proxy_trusted: Vec<String>,
    /// A word, or the number of its type.
    pub proxy_tlv: Option<String>,
    #[serde(default)]
    pub send_proxy: Sends,
    #[serde(default)]
    pub login: Login,
}

/// TLS to the proxy itself. The contents of the files, not their paths: what was checked is what is served.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// The certificate, then those that lead to its root.
    pub certificate: Pem,
    pub key: Pem,
    /// Roots of the clients' certificates; without them no client is asked for one.
    pub client_ca: Option<Pem>,
    /// A client without a certificate is turned away.
    pub client_required: bool,
}

/// Text that no log may show: it may be a private key, or a password.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Pem(String);

impl Pem {
    /// The bytes, for whoever reads the certificates and keys in them.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    pub fn text(&self) -> &str {
        &self.0
    }
}

impl From<String> for Pem {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pem(..)")
    }
}

/// Whether clients of a listener may, or must, say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Login {
    #[default]
    Off,
    Optional,
    Required,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Timeouts {
    pub first_bytes_ms: u64,
    pub server_first_ms: u64,
    pub connect_ms: u64,
    pub idle_ms: u64,
    pub drain_ms: u64,
    pub grace_ms: u64,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resolver {
    pub servers: Vec<String>,
    pub hosts: BTreeMap<String, Vec<String>>,
    pub min_ttl_ms: u64,
    pub max_ttl_ms: u64,
    pub negative_ttl_ms: u64,
    pub stale_ms: u64,
    pub timeout_ms: u64,
    pub attempts: u32,
    pub cache_names: u32,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Budgets {
    /// Absolute path of a file.
    pub store: String,
    /// A name of the tz database.
    pub time_zone: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Action {
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Enforce,
    Audit,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Fallback {
    pub action: Action,
    pub mode: Mode,
    pub message: String,
    pub private_addresses: Action,
    pub no_name: Action,
    #[serde(default)]
    pub on_deny: OnDeny,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListFile {
    /// Absolute path of a file of lines.
    pub file: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rule {
    pub name: String,
    #[serde(default)]
    pub file: String,
    #[serde(default)]
    pub line: u32,
    /// Empty: any source.
    #[serde(default)]
    pub from: Vec<Source>,
    /// The least evidence of the source; `None`: an address will do.
    pub evidence: Option<String>,
    #[serde(default)]
    pub to: Vec<To>,
    #[serde(default)]
    pub anywhere: bool,
    #[serde(default)]
    pub deny: bool,
    pub mode: Option<Mode>,
    pub message: Option<String>,
    pub on_deny: Option<OnDeny>,
    pub owner: Option<String>,
    pub why: Option<String>,
    /// Unix seconds from which on the rule no longer applies.
    pub until: Option<u64>,
    #[serde(default)]
    pub connections: connections::Given,
    /// `host:port`, or [`ORIGINAL`].
    pub dial: Option<String>,
    #[serde(default)]
    pub sni: Sni,
    /// `None`: as the listener says.
    pub send_proxy: Option<Sends>,
    pub bandwidth: Option<Bandwidth>,
    pub budget: Option<Budget>,
}

/// All keys that are given must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub cidr: Option<String>,
    pub user: Option<String>,
    pub spiffe: Option<String>,
    pub tlv: Option<String>,
}

/// Either `pattern`, or `name` with the `addresses` that it may resolve to.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct To {
    pub pattern: Option<String>,
    pub name: Option<String>,
    pub addresses: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Sni {
    #[default]
    Agree,
    Any,
}
