//! What the HTTP port says of the directory's health, and what it counts.

use std::time::{Duration, Instant};

use directory_api::ApiError;

use super::process::Directory;

#[tokio::test]
async fn a_directory_that_can_change_nothing_says_so_until_it_can() {
    let directory = Directory::start();
    let a = directory.host("a", 1).await;
    for (path, expected) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let page = directory.page(path);
        assert!(page.starts_with("HTTP/1.1 200") && page.ends_with(expected), "{page}");
    }
    directory.limit_files(Some(0));
    let refused = a.client.register("db".parse().unwrap(), "me".parse().unwrap()).await.unwrap_err();
    assert!(matches!(refused.refusal(), Some(ApiError::StoreFailed)), "{refused}");
    let page = directory.page("/readyz");
    assert!(page.starts_with("HTTP/1.1 503") && page.contains("the store failed: "), "{page}");
    assert!(directory.page("/healthz").starts_with("HTTP/1.1 200"), "it need not be started anew");
    assert!(directory.page("/metrics").contains("capsule_directory_store_failed 1"));
    // Without anybody wanting a change.
    directory.limit_files(None);
    let begin = Instant::now();
    while !directory.page("/readyz").starts_with("HTTP/1.1 200") {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", directory.page("/readyz"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    a.register("db").await;
    let told = directory.run(&["audit"]);
    assert!(String::from_utf8_lossy(&told.stdout).contains("directory  try store  mesh store"), "{told:?}");
}

#[tokio::test]
async fn leases_watches_and_signatures_are_counted() {
    let directory = Directory::start_with("lease_seconds = 1");
    let a = directory.host("a", 1).await;
    let mut watch = a.client.watch(0);
    watch.recv().await.unwrap();
    let begin = Instant::now();
    let counted = |page: &str| {
        [
            "capsule_directory_leases_renewed_total 1",
            "capsule_directory_leases_ended_total 1",
            "capsule_directory_watches 1",
            "capsule_directory_dns_keys 1",
            "capsule_directory_commit_failures_total 0",
            "capsule_directory_hosts{alive=\"false\"} 1",
        ]
        .iter()
        .all(|line| page.lines().any(|found| found == *line))
    };
    while !counted(&directory.page("/metrics")) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", directory.page("/metrics"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
