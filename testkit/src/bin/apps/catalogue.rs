//! The programs that are tried. One more is one more entry, and its package in `scripts/setup`.

mod databases;
mod files;
mod messages;
mod network;
mod web;

use crate::app::App;

/// All of them, in the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static App> {
    [databases::APPS, web::APPS, messages::APPS, files::APPS, network::APPS].into_iter().flatten()
}
