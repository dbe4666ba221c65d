//! The engine that keeps a queue: Redis from 6.2 on, Valkey, or what speaks as they do. One
//! connection, made when it is needed and again after each failure; the caller decides what a failure
//! means.

use crate::error::{Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, Script,
    TlsCertificates,
};
use std::fmt;
use std::time::Duration;
use tokio::sync::Mutex;

/// How long a connection may take to be made, and an answer to come. A script takes well below a
/// millisecond, so a longer silence means that no server is there.
const DEADLINE: Duration = Duration::from_secs(5);

/// Where an engine is, and how to be let in.
#[derive(Clone, Default)]
pub struct EngineAddress {
    /// `redis://[user@]host[:port][/database]`, `rediss://…` with TLS, or
    /// `redis+sentinel://host[:port],host[:port]/NAME[/database]` (`rediss+sentinel://`).
    pub url: String,
    /// The password of the user. It belongs into no URL: everybody on the host can read those.
    pub password: Option<String>,
    /// PEM certificates to trust in place of the system's.
    pub authorities: Option<Vec<u8>>,
}

impl fmt::Debug for EngineAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineAddress").field("url", &self.url).finish_non_exhaustive()
    }
}

enum Server {
    One(Box<Client>),
    /// Several that agree which one is the primary.
    Sentinel(Box<Mutex<SentinelClient>>),
}

/// A connection to an engine.
pub struct Engine {
    server: Server,
    connection: Mutex<Option<MultiplexedConnection>>,
    /// As people know it, without user and password.
    name: String,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("name", &self.name).finish_non_exhaustive()
    }
}

fn usage(what: String) -> Error {
    Error::new(ErrorKind::Usage, what).with_hint(
        "an engine's address is redis://host:6379, rediss://host:6379 with TLS, or redis+sentinel://host:26379,host:26379/NAME; \
         user@ may stand before the host, the password goes into TARLIKE_QUEUE_PASSWORD or --queue-password-file",
    )
}

impl Engine {
    /// An engine at `address`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] if the address means nothing.
    pub fn new(address: &EngineAddress) -> Result<Self> {
        let (scheme, rest) = address.url.split_once("://").ok_or_else(|| {
            let host = address.url.rsplit('@').next().unwrap_or_default();
            usage(format!("the address of the queue does not begin with redis://, as redis://{host} does"))
        })?;
        if rest
            .split('/')
            .next()
            .unwrap_or_default()
            .rsplit_once('@')
            .is_some_and(|(user, _)| user.contains(':'))
        {
            return Err(usage("the address of the queue must have no password".into()));
        }
        let name = format!("{scheme}://{}", rest.rsplit('@').next().unwrap_or(rest));
        let server = match scheme {
            "redis" | "rediss" => Server::One(Box::new(one(address, &address.url)?)),
            "redis+sentinel" | "rediss+sentinel" => {
                Server::Sentinel(Box::new(Mutex::new(sentinel(address, scheme.starts_with("rediss"), rest)?)))
            }
            _ => return Err(usage(format!("{scheme}:// is no engine for a queue"))),
        };
        Ok(Self { server, connection: Mutex::new(None), name })
    }

    /// Its address, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a script.
    ///
    /// # Errors
    /// [`ErrorKind::Unreachable`] if the engine does not answer, [`ErrorKind::Unauthorized`] or
    /// [`ErrorKind::Usage`] if it never will.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        script: &Script,
        keys: &[String],
        arguments: &[String],
    ) -> Result<T> {
        let mut connection = self.connect().await?;
        let mut call = script.prepare_invoke();
        keys.iter().for_each(|key| {
            call.key(key);
        });
        arguments.iter().for_each(|argument| {
            call.arg(argument);
        });
        let answer = call.invoke_async(&mut connection).await;
        self.judge(answer).await
    }

    /// Runs a command.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub(super) async fn command<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T> {
        let mut connection = self.connect().await?;
        let answer = command.query_async(&mut connection).await;
        self.judge(answer).await
    }

    async fn judge<T>(&self, answer: redis::RedisResult<T>) -> Result<T> {
        if answer.is_err() {
            // Also where a former primary answers: the next call looks for the present one.
            *self.connection.lock().await = None;
        }
        answer.map_err(|e| self.failed(e))
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        let mut connection = self.connection.lock().await;
        if let Some(connection) = &*connection {
            return Ok(connection.clone());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let opened = async {
            match &self.server {
                Server::One(client) => client.get_multiplexed_async_connection_with_config(&config).await,
                Server::Sentinel(client) => {
                    client.lock().await.get_async_connection_with_config(&config).await
                }
            }
        };
        let opened = tokio::time::timeout(DEADLINE * 2, opened).await.map_err(|_| {
            Error::new(ErrorKind::Unreachable, format!("the queue {} does not answer", self.name))
        })?;
        let mut opened = opened.map_err(|e| self.failed(e))?;
        // A server that wants a password says so to a short command; a long one is malformed to it.
        redis::cmd("PING").exec_async(&mut opened).await.map_err(|e| self.failed(e))?;
        Ok(connection.insert(opened).clone())
    }

    fn failed(&self, e: redis::RedisError) -> Error {
        use redis::{ErrorKind as Kind, ServerErrorKind as Server};
        let name = &self.name;
        match e.kind() {
            Kind::AuthenticationFailed => Error::new(ErrorKind::Unauthorized, format!("the queue {name} refuses user or password"))
                .with_source(e)
                .with_hint("the user stands in the address (redis://user@host), the password in TARLIKE_QUEUE_PASSWORD or --queue-password-file"),
            Kind::Server(Server::NoPerm) => Error::new(ErrorKind::Unauthorized, format!("the queue {name} does not let this user do what is needed"))
                .with_source(e)
                .with_hint("allow it the keys ~tl:* and the commands +@hash +@sortedset +@scripting +@keyspace +time +ping"),
            Kind::Extension if e.code() == Some("NOAUTH") => Error::new(ErrorKind::Unauthorized, format!("the queue {name} wants a password"))
                .with_source(e)
                .with_hint("give it in TARLIKE_QUEUE_PASSWORD or --queue-password-file"),
            Kind::Io if e.to_string().contains("certificate") => Error::new(ErrorKind::Untrusted, format!("the certificate of the queue {name} is not valid"))
                .with_source(e)
                .with_hint("trust its CA with --queue-ca-file FILE; the address must have a name that is in the certificate"),
            _ => Error::new(ErrorKind::Unreachable, format!("the queue {name} does not answer as it should"))
                .with_source(e),
        }
    }
}

fn invalid(url: &str, e: redis::RedisError) -> Error {
    usage(format!("{url} is no address of a queue")).with_source(e)
}

fn certificates(address: &EngineAddress) -> TlsCertificates {
    TlsCertificates { client_tls: None, root_cert: address.authorities.clone() }
}

fn one(address: &EngineAddress, url: &str) -> Result<Client> {
    let mut info = url.into_connection_info().map_err(|e| invalid(url, e))?;
    if let Some(password) = &address.password {
        let settings = info.redis_settings().clone().set_password(password);
        info = info.set_redis_settings(settings);
    }
    let client = match info.addr() {
        ConnectionAddr::TcpTls { .. } => Client::build_with_tls(info, certificates(address)),
        _ => Client::open(info),
    };
    client.map_err(|e| invalid(url, e))
}

fn sentinel(address: &EngineAddress, tls: bool, rest: &str) -> Result<SentinelClient> {
    let (user, rest) = rest.split_once('@').map_or((None, rest), |(user, rest)| (Some(user), rest));
    let mut parts = rest.trim_end_matches('/').split('/');
    let (hosts, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if hosts.is_empty() || name.is_empty() {
        return Err(usage("the address names no sentinel, or not which group of servers".into()));
    }
    let address_of = |text: &str| {
        let (host, port) = text.rsplit_once(':').unwrap_or((text, "26379"));
        let port = port.parse().map_err(|_| usage(format!("{text} has no port that is a number")))?;
        let host = host.to_owned();
        Ok(match tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        })
    };
    let hosts = hosts.split(',').map(address_of).collect::<Result<Vec<_>>>()?;
    let mut builder = SentinelClientBuilder::new(hosts, name, SentinelServerType::Master)
        .map_err(|e| invalid(&address.url, e))?;
    if let Some(user) = user {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = &address.password {
        builder = builder.set_client_to_redis_password(password.as_str());
    }
    if let Some(database) = parts.next() {
        let database =
            database.parse().map_err(|_| usage(format!("{database} is no number of a database")))?;
        builder = builder.set_client_to_redis_db(database);
    }
    if tls {
        builder = builder
            .set_client_to_redis_tls_mode(redis::TlsMode::Secure)
            .set_client_to_redis_certificates(certificates(address))
            .set_client_to_sentinel_certificates(certificates(address));
    }
    builder.build().map_err(|e| invalid(&address.url, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_its_scheme_is_named_with_it() {
        for given in ["127.0.0.1:6379", "user:secret@127.0.0.1:6379"] {
            let address = EngineAddress { url: given.to_string(), ..EngineAddress::default() };
            let error = Engine::new(&address).err().unwrap();
            assert!(error.to_string().contains("redis://127.0.0.1:6379"), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
