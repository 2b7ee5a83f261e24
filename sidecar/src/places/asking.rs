//! Questions to the directory that others cause: one at a time, one for all who wait, and not too many.

use std::time::Duration;

use tokio::time::Instant;

/// When a question was asked last; held while it is.
#[derive(Debug, Default)]
pub(crate) struct Asking(tokio::sync::Mutex<Option<Instant>>);

impl Asking {
    /// Asks, unless somebody has since this call began. Questions are `pause` apart.
    pub(crate) async fn ask(&self, pause: Duration, question: impl Future<Output = ()>) {
        let began = Instant::now();
        let mut asked = self.0.lock().await;
        if let Some(at) = *asked {
            if at > began {
                return;
            }
            tokio::time::sleep_until(at + pause).await;
        }
        // Whoever gives up in the middle has asked nothing.
        let at = Instant::now();
        question.await;
        *asked = Some(at);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_question_serves_all_who_wait() {
        let (asking, asked) = (Arc::new(Asking::default()), Arc::new(AtomicUsize::new(0)));
        let pause = Duration::from_millis(20);
        let ask = |asking: Arc<Asking>, asked: Arc<AtomicUsize>| async move {
            let question = async {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            asking.ask(pause, question).await;
        };
        let began = Instant::now();
        ask(asking.clone(), asked.clone()).await;
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..50 {
            waiting.spawn(ask(asking.clone(), asked.clone()));
        }
        waiting.join_all().await;
        // The one under way when the others came may be older than what they ask about.
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert!(began.elapsed() >= pause);
    }
}
