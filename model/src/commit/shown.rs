//! States and paths for people.

use std::fmt::{self, Write};

use super::Action;
use super::state::{HOSTS, Offer, Record, State, host_name};

/// A path: what happened, and how things stood after it.
pub fn show(path: &stateright::Path<State, Action>) -> String {
    let mut text = String::new();
    let mut happened = "begin".to_owned();
    for (state, action) in path.clone().into_vec() {
        let _ = writeln!(text, "{happened}\n        {state}");
        happened = action.map(|action| format!("{action:?}")).unwrap_or_default();
    }
    text
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { host, generation, running, offer, outcome } = self.record;
        write!(f, "directory: at {} gen {generation}", host_name(host))?;
        write!(f, "{}", if running { " running" } else { " moving" })?;
        if let Some(open) = offer {
            write!(f, ", offer {} open", open.id)?;
        }
        if let Some(outcome) = outcome {
            write!(f, ", {:?} {}", outcome.id, outcome.kind)?;
        }
        for host in HOSTS {
            let here = &self.hosts[usize::from(host)];
            let up = if here.up { "" } else { " DOWN" };
            write!(f, "\n        {}{up}: {:?}, gen {}", host_name(host), here.copy, here.disk.generation)?;
            write!(f, ", {:?}, {:?}", here.disk.journal, here.phase)?;
            if let Some(answer) = here.answer {
                write!(f, ", answer {answer:?}")?;
            }
            if let Some(offer) = here.withdraw {
                write!(f, ", withdraws {offer}")?;
            }
            if here.declared_gone {
                write!(f, ", declared gone")?;
            }
        }
        if let Some(talk) = self.talk {
            let broken = if talk.broken { " (broken)" } else { "" };
            write!(f, "\n        talk{broken}: {:?} {:?}", talk.open, talk.lanes)?;
        }
        Ok(())
    }
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.number, if self.back { "back" } else { "" })
    }
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "offer {self}")
    }
}
