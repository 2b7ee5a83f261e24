//! Noticing that the machine slept, or that this process stood still.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};

/// The two clocks that run apart while the machine sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// CLOCK_MONOTONIC: stands still while the machine sleeps.
    pub monotonic: Duration,
    /// CLOCK_BOOTTIME: goes on.
    pub boot: Duration,
}

impl Clocks {
    /// Reads both.
    #[must_use]
    pub fn read() -> Clocks {
        let read = |clock| {
            let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
            Duration::new(tv_sec.max(0).unsigned_abs(), u32::try_from(tv_nsec).unwrap_or(0))
        };
        // In this order, so that a pause between the two reads never looks like sleep.
        let boot = read(ClockId::Boottime);
        Clocks { boot, monotonic: read(ClockId::Monotonic) }
    }

    /// How long the machine slept since `before`.
    #[must_use]
    pub fn slept_since(&self, before: &Clocks) -> Duration {
        (self.boot.saturating_sub(before.boot))
            .saturating_sub(self.monotonic.saturating_sub(before.monotonic))
    }

    /// How long ago `before` was, without sleep.
    #[must_use]
    pub fn awake_since(&self, before: &Clocks) -> Duration {
        self.monotonic.saturating_sub(before.monotonic)
    }
}

/// A descriptor that becomes readable when the machine wakes, and when somebody sets its clock.
#[derive(Debug)]
pub struct Wakes {
    timer: OwnedFd,
}

/// When the timer would expire, seconds after 1970: never.
const NEVER_S: i64 = 1 << 40;

impl Wakes {
    /// Arms a timer of the wall clock that is cancelled by every jump of it; waking is one (timerfd_create(2),
    /// TFD_TIMER_CANCEL_ON_SET).
    ///
    /// # Errors
    /// The kernel gives no timer.
    pub fn listen() -> io::Result<Wakes> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        let wakes = Wakes { timer };
        wakes.arm()?;
        Ok(wakes)
    }

    fn arm(&self) -> io::Result<()> {
        let never = Timespec { tv_sec: NEVER_S, tv_nsec: 0 };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&self.timer, flags, &once)?;
        Ok(())
    }

    /// Takes the word that has come, and says whether there was any.
    ///
    /// # Errors
    /// The timer is broken.
    pub fn take(&self) -> io::Result<bool> {
        match rustix::io::read(&self.timer, &mut [0; 8]) {
            Err(Errno::CANCELED) | Ok(_) => {
                self.arm()?;
                Ok(true)
            }
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Wakes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(monotonic_ms: u64, boot_ms: u64) -> Clocks {
        let [monotonic, boot] = [monotonic_ms, boot_ms].map(Duration::from_millis);
        Clocks { monotonic, boot }
    }

    #[test]
    fn sleep_is_what_one_clock_saw_and_the_other_did_not() {
        let before = at(1_000, 5_000);
        assert_eq!(at(3_000, 7_000).slept_since(&before), Duration::ZERO);
        assert_eq!(at(3_000, 67_000).slept_since(&before), Duration::from_secs(60));
        assert_eq!(at(3_000, 67_000).awake_since(&before), Duration::from_secs(2));
        // Read a moment apart they may differ the other way round.
        assert_eq!(at(3_000, 6_999).slept_since(&before), Duration::ZERO);
    }

    #[test]
    fn the_clocks_of_a_machine_that_is_awake_run_together() {
        let before = Clocks::read();
        std::thread::sleep(Duration::from_millis(50));
        let after = Clocks::read();
        assert!(after.awake_since(&before) >= Duration::from_millis(50));
        assert!(after.slept_since(&before) < Duration::from_millis(50));
    }

    #[test]
    fn nothing_is_told_while_nothing_happens() {
        let wakes = Wakes::listen().expect("a timer");
        assert!(!wakes.take().expect("a timer that works"));
    }
}
