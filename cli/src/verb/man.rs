//! `capsule man`

use std::{fs, path::PathBuf};

use clap::{Args, CommandFactory};
use serde::Serialize;

use crate::{args::Arguments, context::Context, failure::Failure};

/// Write the man pages, one a verb, into a directory
#[derive(Args, Debug)]
pub(crate) struct Man {
    /// The directory; made if it is not there
    dir: PathBuf,
}

#[derive(Serialize)]
struct Document {
    directory: String,
}

impl Man {
    pub(crate) fn run(self, context: &Context) -> Result<i32, Failure> {
        let directory = self.dir.display().to_string();
        fs::create_dir_all(&self.dir)
            .and_then(|()| clap_mangen::generate_to(Arguments::command(), &self.dir))
            .map_err(|error| Failure::local("man/failed", format!("can't write to {directory}"), error))?;
        context.answer(&Document { directory }, |document, stream| {
            stream.clean(&format!("man pages written to {}", document.directory)) + "\n"
        })?;
        Ok(0)
    }
}
