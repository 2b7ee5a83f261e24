//! By which files etcd and a directory know each other: certificates, and the password of a user.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use serde::{Deserialize, Serialize};

use super::StoreAddress;

/// The files, as settings or flags name them. With a CA etcd is asked over TLS, without one in the clear.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
pub struct StoreAccess {
    /// Ask etcd over TLS, and trust certificates of this CA
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_ca: Option<PathBuf>,
    /// The certificate to show to etcd
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_cert: Option<PathBuf>,
    /// The key of that certificate
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_key: Option<PathBuf>,
    /// The password of the user in etcd://USER@…, on this file's first line
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store_password_file: Option<PathBuf>,
}

impl StoreAccess {
    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same with full paths: they are noted for commands that are run elsewhere.
    ///
    /// # Errors
    /// When the working directory is gone.
    pub fn absolute(&self) -> Result<Self> {
        let full = |path: &Option<PathBuf>| path.as_deref().map(std::path::absolute).transpose();
        Ok(Self {
            store_ca: full(&self.store_ca)?,
            store_cert: full(&self.store_cert)?,
            store_key: full(&self.store_key)?,
            store_password_file: full(&self.store_password_file)?,
        })
    }

    /// What a connection to the store needs, read from the files.
    ///
    /// # Errors
    /// When they do not fit the address or each other, or one is unreadable; each begins with the setting's name.
    pub fn options(&self, address: &StoreAddress) -> Result<ConnectOptions> {
        let user = match address {
            StoreAddress::Embedded => None,
            StoreAddress::Etcd(address) => address.user.as_deref(),
        };
        let mut options = ConnectOptions::new();
        let is_etcd = *address != StoreAddress::Embedded;
        ensure!(is_etcd || self.is_empty(), "store_ca: the embedded store is a file, and asked by nobody");
        ensure!(
            self.store_ca.is_some() || (self.store_cert.is_none() && user.is_none()),
            "store_ca: it is needed; neither a certificate nor a password is sent to whoever answers"
        );
        if let Some(ca) = &self.store_ca {
            let ca = read("store_ca", ca)?;
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
            match (&self.store_cert, &self.store_key) {
                (Some(cert), Some(key)) => {
                    let pair = Identity::from_pem(read("store_cert", cert)?, read("store_key", key)?);
                    tls = tls.identity(pair);
                }
                (None, None) => {}
                (Some(_), None) => anyhow::bail!("store_key: the key of store_cert is needed"),
                (None, Some(_)) => anyhow::bail!("store_cert: the certificate of store_key is needed"),
            }
            options = options.with_tls(tls);
        }
        match (user, &self.store_password_file) {
            (Some(user), Some(file)) => {
                let text = read("store_password_file", file)?;
                let password = text.lines().next().unwrap_or_default();
                ensure!(!password.is_empty(), "store_password_file: the first line is empty");
                // Its tokens are good for minutes, and for no longer than etcd runs.
                Ok(options.with_user(user, password).with_auto_token_refresh(true))
            }
            (Some(_), None) => anyhow::bail!("store_password_file: the password of the user is needed"),
            (None, Some(_)) => anyhow::bail!("store_password_file: whose? etcd://USER@HOST:PORT"),
            (None, None) => Ok(options),
        }
    }
}

fn read(setting: &str, file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("{setting}: cannot read {}", file.display()))
}
