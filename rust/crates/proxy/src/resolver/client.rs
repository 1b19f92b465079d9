//! The client that asks name servers, as the settings want it.

use std::net::SocketAddr;

use egress_policy::Resolver as Settings;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};

/// The DNS client; `None` when the system's configuration cannot be read, and then every name fails.
pub(super) fn build(settings: &Settings) -> Option<TokioResolver> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if settings.servers.is_empty() {
        match Resolver::builder(provider) {
            Ok(builder) => builder,
            Err(error) => {
                crate::log::error(&format!(
                    "the system's name servers cannot be read: {error}; set resolver.servers"
                ));
                return None;
            }
        }
    } else {
        let servers = settings.servers.iter().map(server).collect();
        Resolver::builder_with_config(
            ResolverConfig::from_parts(None, Vec::new(), servers),
            provider,
        )
    };
    let options = builder.options_mut();
    options.timeout = settings.timeout;
    options.attempts = settings.attempts as usize;
    // Answers are kept here, once, with staleness; the library's own cache would only delay a change.
    options.cache_size = 0;
    options.use_hosts_file =
        if settings.servers.is_empty() { ResolveHosts::Auto } else { ResolveHosts::Never };
    builder
        .build()
        .inspect_err(|error| crate::log::error(&format!("the resolver cannot start: {error}")))
        .ok()
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut config = NameServerConfig::udp_and_tcp(address.ip());
    let with_port = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    config.connections =
        vec![with_port(ConnectionConfig::udp()), with_port(ConnectionConfig::tcp())];
    config
}
