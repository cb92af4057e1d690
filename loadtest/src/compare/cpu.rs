//! CPU time of a server.

use anyhow::Context;
use nix::{time::ClockId, unistd::Pid};

/// The account of a whole process: all its tasks, the kernel's threads that work for it among them, and those that have
/// ended. The accounts by task in `/proc` vanish with the task, and the one of the process there counts in ticks.
#[derive(Debug, Clone, Copy)]
pub struct Account(ClockId);

impl Account {
    /// The account of process `pid`.
    ///
    /// # Errors
    /// It is not there.
    pub fn of(pid: u32) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(pid.try_into()?);
        Ok(Self(ClockId::pid_cpu_clock_id(pid).context("the CPU account of the server")?))
    }

    /// Nanoseconds that it has run so far.
    ///
    /// # Errors
    /// It is gone.
    pub fn ns(self) -> anyhow::Result<u64> {
        let time = self.0.now().context("the CPU account of the server")?;
        Ok(u64::try_from(time.tv_sec())? * 1_000_000_000 + u64::try_from(time.tv_nsec())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::thread_cpu;

    /// The kernel gives out smaller ones only.
    const PID_LIMIT: u32 = 1 << 22;

    fn work(ns: u128) {
        let begun = thread_cpu();
        while (thread_cpu() - begun).as_nanos() < ns {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn all_tasks_count_and_those_that_have_ended_too() {
        let account = Account::of(std::process::id()).unwrap();
        let begin = account.ns().unwrap();
        // Nobody looks while this one lives.
        std::thread::spawn(|| work(60_000_000)).join().unwrap();
        work(40_000_000);
        // Other tests may run beside it, so there is no upper bound.
        assert!(account.ns().unwrap() - begin >= 100_000_000);
    }

    #[test]
    fn a_process_that_does_not_exist_has_no_account() {
        assert!(Account::of(PID_LIMIT).and_then(Account::ns).is_err());
        assert!(Account::of(u32::MAX).is_err());
    }
}
