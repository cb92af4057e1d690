//! CPU time of a server: all its tasks, those that end before the account is closed too.

use std::{collections::HashMap, fs, path::PathBuf};

use anyhow::Context;

/// Running time of a process, followed from a begin.
///
/// The exact account is kept by task and vanishes with it, the account of the whole process keeps what ended but in
/// ticks. So each task's last known time is kept, and where one is gone the whole's ticks count if they are more.
#[derive(Debug)]
pub struct Account {
    folder: PathBuf,
    tasks: HashMap<u32, Task>,
    ticks_at_begin: u64,
    ended: bool,
}

#[derive(Debug, Clone, Copy)]
struct Task {
    begin: u64,
    last: u64,
}

impl Account {
    /// Begins an account of process `pid`.
    ///
    /// # Errors
    /// It is not there, or the kernel keeps no account of it.
    pub fn open(pid: u32) -> anyhow::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let ticks_at_begin = ticks_ns(&folder)?;
        let begin = |(id, now)| (id, Task { begin: now, last: now });
        let tasks = tasks(&folder)?.into_iter().map(begin).collect();
        Ok(Self { folder, tasks, ticks_at_begin, ended: false })
    }

    /// Looks again, so that less is lost of a task that ends before the account is closed.
    ///
    /// # Errors
    /// The process is gone.
    pub fn look(&mut self) -> anyhow::Result<()> {
        let now = tasks(&self.folder)?;
        let seen = now.len();
        for (id, last) in now {
            self.tasks.entry(id).or_insert(Task { begin: 0, last }).last = last;
        }
        self.ended |= seen < self.tasks.len();
        Ok(())
    }

    /// Nanoseconds used since the begin.
    ///
    /// # Errors
    /// The process is gone.
    pub fn close(mut self) -> anyhow::Result<u64> {
        self.look()?;
        let ticks = ticks_ns(&self.folder)?.saturating_sub(self.ticks_at_begin);
        Ok(self.used(ticks))
    }

    fn used(&self, ticks_ns: u64) -> u64 {
        let exact = self.tasks.values().map(|task| task.last.saturating_sub(task.begin)).sum();
        if self.ended { ticks_ns.max(exact) } else { exact }
    }
}

fn tasks(folder: &PathBuf) -> anyhow::Result<Vec<(u32, u64)>> {
    let tasks = folder.join("task");
    let mut found = Vec::new();
    for entry in fs::read_dir(&tasks).with_context(|| tasks.display().to_string())? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // A task may end while it is looked at.
        let (Some(id), Ok(account)) = (id, fs::read_to_string(path.join("schedstat"))) else { continue };
        let ns = account.split_ascii_whitespace().next().and_then(|ns| ns.parse().ok());
        found.push((id, ns.context("the kernel keeps no schedstat")?));
    }
    anyhow::ensure!(!found.is_empty(), "the kernel keeps no account of {}", folder.display());
    Ok(found)
}

/// User and system time of the whole process, ended tasks included.
fn ticks_ns(folder: &PathBuf) -> anyhow::Result<u64> {
    let path = folder.join("stat");
    let stat = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let fields = || stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace());
    let field = |at| fields().and_then(|mut fields| fields.nth(at)).and_then(|field| field.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system);
    Ok(ticks.context("stat has another form")? * (1_000_000_000 / rustix::param::clock_ticks_per_second().max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(until_ns: u64) {
        let begun = crate::clock::thread_cpu();
        while ((crate::clock::thread_cpu() - begun).as_nanos() as u64) < until_ns {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn all_tasks_count_and_those_that_end_too() {
        let account = Account::open(std::process::id()).unwrap();
        std::thread::spawn(|| work(100_000_000)).join().unwrap();
        work(50_000_000);
        let used = account.close().unwrap();
        assert!(used >= 130_000_000, "{used} ns of 150 ms: ticks may round down once for each kind");
    }

    #[test]
    fn a_task_that_ended_is_made_up_for_by_the_account_of_the_whole() {
        let task = |begin, last| Task { begin, last };
        let tasks = HashMap::from([(1, task(100, 400)), (2, task(0, 50))]);
        let account = |ended| Account { folder: PathBuf::new(), tasks: tasks.clone(), ticks_at_begin: 0, ended };
        assert_eq!(account(false).used(10_000), 350, "exact while it can be");
        assert_eq!((account(true).used(10_000), account(true).used(200)), (10_000, 350));
    }
}
