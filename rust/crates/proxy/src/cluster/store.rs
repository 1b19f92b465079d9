//! The store as a gateway sees it: one script a round, over one connection.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use egress_hello::name::Host;
use egress_policy::Store as Address;
use egress_shape::{Heard, LEASE, Told, Wants, told};
use redis::aio::MultiplexedConnection;
use redis::io::AsyncDNSResolver;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ErrorKind, IntoConnectionInfo,
    RedisConnectionInfo, RedisError, RedisFuture, Script, TlsCertificates,
};
use tokio::sync::Semaphore;

/// How long a connection, or a round, may take: the store is near, or of no use.
pub(super) const PATIENCE: Duration = Duration::from_millis(300);
/// Gateways of one group that are heard. The policy has fewer.
const MAX_GATEWAYS: usize = 1024;

/// Why a round came to nothing, in words for people.
pub(super) type Failure = String;

/// The system's resolver, one question at a time: it may take longer than anybody waits, and nothing is to pile up behind.
#[derive(Debug, Clone)]
pub(super) struct Names(Arc<Semaphore>);

impl Names {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }

    async fn look_up(&self, host: String, port: u16) -> io::Result<std::vec::IntoIter<SocketAddr>> {
        let turn = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            (host.as_str(), port).to_socket_addrs()
        });
        asked.await.map_err(io::Error::other)?
    }
}

impl AsyncDNSResolver for Names {
    fn resolve<'a, 'b: 'a>(
        &'a self,
        host: &'b str,
        port: u16,
    ) -> RedisFuture<'a, Box<dyn Iterator<Item = SocketAddr> + Send + 'a>> {
        Box::pin(async move {
            let found: Box<dyn Iterator<Item = SocketAddr> + Send> = match host.parse::<IpAddr>() {
                Ok(ip) => Box::new(std::iter::once(SocketAddr::new(ip, port))),
                Err(_) => Box::new(self.look_up(host.to_owned(), port).await?),
            };
            Ok(found)
        })
    }
}

/// A connection to the store, as one gateway of a group.
pub(super) struct Store {
    connection: MultiplexedConnection,
    script: Script,
    key: String,
    id: String,
}

fn failed(error: &RedisError) -> Failure {
    if error.is_timeout() {
        return late();
    }
    if error.kind() == ErrorKind::AuthenticationFailed {
        return "it does not take the user or the password".to_owned();
    }
    let text: String = error.to_string().chars().take(200).collect();
    text.replace(char::is_control, " ")
}

fn late() -> Failure {
    format!("no answer within {} ms", PATIENCE.as_millis())
}

fn client(address: &Address) -> redis::RedisResult<Client> {
    let host = match address.host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(ref name) => name.to_string(),
    };
    let mut login =
        RedisConnectionInfo::default().set_db(address.database.into()).set_skip_set_lib_name();
    if let Some(user) = &address.user {
        login = login.set_username(user);
    }
    if let Some(password) = &address.password {
        login = login.set_password(password.text());
    }
    let port = address.port;
    if !address.tls {
        let info = ConnectionAddr::Tcp(host, port).into_connection_info()?;
        return Client::open(info.set_redis_settings(login));
    }
    let tls = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
    let info = tls.into_connection_info()?.set_redis_settings(login);
    let root_cert = address.ca.as_ref().map(|ca| ca.bytes().to_vec());
    Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
}

impl Store {
    pub(super) async fn connect(
        address: &Address,
        group: &str,
        id: String,
        names: &Names,
    ) -> Result<Self, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_dns_resolver(names.clone());
        let client = client(address).map_err(|error| failed(&error))?;
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        let connection = tokio::time::timeout(PATIENCE, connecting)
            .await
            .map_err(|_| late())?
            .map_err(|error| failed(&error))?;
        let script = Script::new(include_str!("round.lua"));
        // The braces keep a script's keys in one slot where the server is a cluster itself.
        Ok(Self { connection, script, key: format!("egress:{{{group}}}:wants"), id })
    }

    /// Tells what is wanted here, and hears what is wanted elsewhere.
    pub(super) async fn round(&mut self, wants: &Wants) -> Result<Heard, Failure> {
        let told = told::write(wants);
        let mut round = self.script.prepare_invoke();
        round
            .key(&self.key)
            .arg(&self.id)
            .arg(&told)
            .arg(LEASE / 1_000_000)
            .arg(MAX_GATEWAYS)
            .arg(told::MAX_TOLD);
        let asked = round.invoke_async::<Vec<Vec<u8>>>(&mut self.connection);
        let answer = tokio::time::timeout(PATIENCE, asked).await.map_err(|_| late())?;
        let answer = answer.map_err(|error| failed(&error))?;
        heard(&told, &answer).ok_or_else(|| "the answer makes no sense".to_owned())
    }

    /// The others need not wait until this gateway is forgotten.
    pub(super) async fn leave(mut self) {
        let mut gone = redis::cmd("HDEL");
        gone.arg(&self.key).arg(&self.id);
        let left = gone.query_async::<()>(&mut self.connection);
        let _ = tokio::time::timeout(PATIENCE, left).await;
    }
}

/// What the script has answered: the round, whether this gateway was known, and of each other one its round and what it
/// has told. Whoever tells what cannot be read is no gateway of this version.
fn heard(told: &[u8], answer: &[Vec<u8>]) -> Option<Heard> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    let (head, others) = answer.split_first_chunk::<2>()?;
    let others = others.chunks_exact(2).take(MAX_GATEWAYS).filter_map(|other| {
        Some(Told { round: number(&other[0])?, wants: told::read(&other[1])? })
    });
    Some(Heard {
        round: number(&head[0])?,
        was_known: head[1] == b"1",
        others: others.collect(),
        // As others read it.
        mine: told::read(told)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_write_into_the_store_does_no_harm() {
        let mine = told::write(&Wants::new());
        let answer = |parts: &[&[u8]]| {
            let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
            heard(&mine, &parts)
        };
        assert!(answer(&[]).is_none());
        assert!(answer(&[b"7"]).is_none());
        assert!(answer(&[b"minus", b"1"]).is_none());
        let found = answer(&[
            b"7",
            b"1",
            b"5",
            &mine,
            b"6",
            b"junk",
            b"-1",
            &mine,
            b"99999999999999999999",
            &mine,
            b"\xff",
            &mine,
            b"4",
        ]);
        let found = found.unwrap();
        assert_eq!((found.round, found.was_known, found.others.len()), (7, true, 1));
        assert_eq!(found.others[0].round, 5);
    }
}
