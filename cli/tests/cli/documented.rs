//! `docs/cli.md` names every field and every verb there is.

use admin_api::{
    ErrorView,
    result::{
        CheckView, HostView, InspectResult, LinkView, LogsResult, MoveResult, PreflightResult, ResolveResult,
        RmResult, RunResult, StopResult,
    },
};
use serde_json::{Value, json};

use crate::fake::{capsule, ended, text};

fn fields<T: Default + serde::Serialize>() -> Vec<String> {
    let Value::Object(fields) = json!(T::default()) else { panic!("an object") };
    fields.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn every_field_is_documented() {
    let page = include_str!("../../../docs/cli.md");
    let all = [
        fields::<InspectResult>(),
        fields::<RunResult>(),
        fields::<StopResult>(),
        fields::<RmResult>(),
        fields::<LogsResult>(),
        fields::<MoveResult>(),
        fields::<HostView>(),
        fields::<LinkView>(),
        fields::<ResolveResult>(),
        fields::<PreflightResult>(),
        fields::<CheckView>(),
    ];
    for field in all.concat() {
        assert!(page.contains(&format!("`{field}`")), "{field} is not in docs/cli.md");
    }
    for field in fields::<ErrorView>() {
        assert!(page.contains(&format!("\"{field}\"")), "{field} is not in docs/cli.md");
    }
}

#[tokio::test]
async fn every_verb_is_documented() {
    let page = include_str!("../../../docs/cli.md");
    let help = ended(capsule(&["--help"]).spawn().unwrap()).await;
    let (_, verbs) = text(&help.stdout).split_once("Commands:").unwrap();
    let (verbs, _) = verbs.split_once("Options:").unwrap();
    let verbs: Vec<_> = verbs.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).collect();
    assert!(verbs.contains(&"move"), "{verbs:?}");
    for verb in verbs.into_iter().filter(|verb| !verb.is_empty()) {
        assert!(page.contains(&format!("capsule {verb}")), "{verb} is not in docs/cli.md");
    }
}
