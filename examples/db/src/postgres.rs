//! A PostgreSQL client on a socket that stays visible, so that its addresses can be asked for.

use std::net::{SocketAddr, TcpStream};

use anyhow::{Context, Result, bail};
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls, Statement};

use crate::load::Database;

const DEFAULT_PORT: u16 = 5432;

pub(crate) struct Connection {
    runtime: Runtime,
    client: Client,
    insert: Statement,
    table: String,
    transaction: bool,
    /// The same socket as the client's, for its addresses only.
    socket: TcpStream,
}

impl Connection {
    pub(crate) fn open(url: &str, name: &str, transaction: bool) -> Result<Connection> {
        let config: Config = url.parse().with_context(|| format!("{url} is no PostgreSQL URL"))?;
        let stream = connect(&config)?;
        let socket = stream.try_clone()?;
        let table = format!("db_client_{name}");
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (client, insert) = runtime.block_on(async {
            stream.set_nonblocking(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let (client, connection) =
                config.connect_raw(stream, NoTls).await.context("PostgreSQL's greeting")?;
            // Its error reaches every query that waits.
            tokio::spawn(connection);
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {table} (number bigserial PRIMARY KEY, \
                 written timestamptz NOT NULL DEFAULT clock_timestamp())"
            );
            client.batch_execute(&create).await.context("making the table")?;
            let insert =
                client.prepare(&format!("INSERT INTO {table} DEFAULT VALUES RETURNING number")).await?;
            if transaction {
                client.batch_execute("BEGIN").await?;
            }
            anyhow::Ok((client, insert))
        })?;
        Ok(Connection { runtime, client, insert, table, transaction, socket })
    }
}

fn connect(config: &Config) -> Result<TcpStream> {
    let Some(Host::Tcp(host)) = config.get_hosts().first() else {
        bail!("the URL names no host that has an address")
    };
    let port = config.get_ports().first().copied().unwrap_or(DEFAULT_PORT);
    let stream = TcpStream::connect((host.as_str(), port))
        .with_context(|| format!("connecting to postgres at {host}:{port}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Database for Connection {
    fn next(&mut self) -> Result<u64> {
        let row = self.runtime.block_on(self.client.query_one(&self.insert, &[]))?;
        Ok(row.get::<_, i64>(0).try_into()?)
    }

    /// Counts after the commit, as any other client would see it.
    fn finish(&mut self, first: u64, last: u64) -> Result<u64> {
        let count = format!("SELECT count(*) FROM {} WHERE number BETWEEN $1 AND $2", self.table);
        self.runtime.block_on(async {
            if self.transaction {
                self.client.batch_execute("COMMIT").await.context("committing")?;
            }
            let row = self.client.query_one(&count, &[&i64::try_from(first)?, &i64::try_from(last)?]).await?;
            Ok(row.get::<_, i64>(0).try_into()?)
        })
    }

    fn addresses(&self) -> Result<(SocketAddr, SocketAddr)> {
        Ok((self.socket.local_addr()?, self.socket.peer_addr()?))
    }
}
