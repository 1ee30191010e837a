//! Waiting for an event with a deadline, and for nobody who wants to leave.

use std::{
    process::{Child, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

/// Waits that end early when somebody says stop.
#[derive(Clone, Default)]
pub struct Wait {
    stop: Option<Arc<AtomicBool>>,
}

impl Wait {
    /// Waits that end early once `stop` is set.
    pub fn new(stop: Option<Arc<AtomicBool>>) -> Self {
        Self { stop }
    }

    /// Whether everything is to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed))
    }

    /// Asks `question` until it has an answer.
    ///
    /// # Errors
    /// The question's own, and when there is no answer within `limit` or everything is to stop.
    pub fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut question: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            ensure!(!self.is_stopped(), "interrupted while waiting for {what}");
            if let Some(answer) = question()? {
                return Ok(answer);
            }
            ensure!(Instant::now() < deadline, "no {what} within {}s", limit.as_secs());
            thread::sleep(POLL);
        }
    }

    /// Waits for a child's end; one that takes too long is killed.
    ///
    /// # Errors
    /// When it does not end within `limit`, or everything is to stop.
    pub fn end_of(&self, what: &str, limit: Duration, child: &mut Child) -> Result<ExitStatus> {
        let ended = self.until(&format!("end of {what}"), limit, || Ok(child.try_wait()?));
        if let Err(error) = ended {
            let _ = child.kill();
            let _ = child.wait();
            bail!(error);
        }
        ended
    }
}

/// How often a question is asked.
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_the_wait() {
        let mut asked = 0;
        let answer = Wait::default().until("three", Duration::from_secs(5), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn a_deadline_and_a_stop_end_it_too() {
        let never =
            |wait: &Wait| wait.until("sign", Duration::ZERO, || Ok(None::<()>)).unwrap_err().to_string();
        assert_eq!(never(&Wait::default()), "no sign within 0s");
        let stopped = Wait::new(Some(Arc::new(AtomicBool::new(true))));
        assert_eq!(never(&stopped), "interrupted while waiting for sign");
    }
}
