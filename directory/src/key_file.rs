//! Files with a secret that this directory shares with others for TSIG: the secret alone in base64, or the form that
//! `nsupdate -k`, `dig -k` and `knsupdate -k` read.
//!
//! ```text
//!  key "NAME" {
//!          algorithm hmac-sha256;
//!          secret "BASE64";
//!  };
//! ```

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::limits::SECRET_BYTES_MIN;

/// The only algorithm that is spoken, as key files name it.
const ALGORITHM: &str = "hmac-sha256";

/// Reads the secret of that name.
pub fn read(path: &Path, name: &str) -> Result<Vec<u8>> {
    let file = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {file}"))?;
    let base64 = match text.trim_start().starts_with("key") && text.contains('{') {
        true => statement(&text, name).with_context(|| file.to_string())?,
        false => text.trim(),
    };
    let secret = data_encoding::BASE64
        .decode(base64.as_bytes())
        .with_context(|| format!("the secret in {file} is not base64"))?;
    if secret.len() < SECRET_BYTES_MIN {
        bail!("the secret in {file} is shorter than {SECRET_BYTES_MIN} bytes");
    }
    Ok(secret)
}

/// The text of a file with this secret.
pub fn show(name: &str, secret: &[u8]) -> String {
    let secret = data_encoding::BASE64.encode(secret);
    format!("key \"{name}\" {{\n\talgorithm {ALGORITHM};\n\tsecret \"{secret}\";\n}};\n")
}

fn statement<'t>(text: &'t str, name: &str) -> Result<&'t str> {
    let (head, rest) = text.split_once('{').context("there is no `{`")?;
    let (body, _) = rest.split_once('}').context("there is no `}`")?;
    let found = unquoted(head.trim_start().trim_start_matches("key"));
    let same = found.trim_end_matches('.').eq_ignore_ascii_case(name.trim_end_matches('.'));
    if !same {
        bail!("it is of the key `{found}`, not of `{name}`");
    }
    let value = |wanted: &str| {
        let mut parts = body.split(';').filter_map(|part| part.trim().split_once(char::is_whitespace));
        parts.find(|(key, _)| *key == wanted).map(|(_, value)| unquoted(value))
    };
    match value("algorithm") {
        Some(ALGORITHM) => value("secret").context("it has no secret"),
        Some(other) => bail!("its algorithm is {other}; only {ALGORITHM} is known"),
        None => bail!("it names no algorithm"),
    }
}

fn unquoted(text: &str) -> &str {
    text.trim().trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Scratch;

    #[test]
    fn either_form_is_read_and_what_is_wrong_is_said() {
        let folder = Scratch::new("key-file");
        let path = folder.path().join("key");
        let secret = [7; 32];
        let base64 = data_encoding::BASE64.encode(&secret);
        let statement = show("ann", &secret);
        for good in [
            format!("{base64}\n"),
            statement.clone(),
            format!("key ann. {{ algorithm hmac-sha256; secret {base64}; }};"),
        ] {
            std::fs::write(&path, &good).unwrap();
            assert_eq!(read(&path, "Ann").unwrap(), secret, "{good}");
        }
        for (bad, expected) in [
            (show("bob", &secret), "`bob`"),
            (statement.replace("sha256", "md5"), "hmac-md5"),
            (statement.replace("algorithm", "x"), "no algorithm"),
            (show("ann", &[7; 8]), "shorter than 16"),
            ("?".into(), "base64"),
        ] {
            std::fs::write(&path, &bad).unwrap();
            let error = format!("{:#}", read(&path, "ann").unwrap_err());
            assert!(error.contains(expected) && error.contains("key"), "{bad}: {error}");
        }
    }
}
