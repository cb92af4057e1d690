//! What the operating system knows of the hub's process: its CPU time and its memory.

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context, anyhow};

/// One look at a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sample {
    /// User and system time of all threads that ever were, in the kernel's ticks as nanoseconds.
    pub cpu_ticks_ns: u64,
    /// Running time by thread in exact nanoseconds, with the thread's name; empty where the kernel does not tell.
    pub threads: BTreeMap<u32, (String, u64)>,
    /// Resident memory in bytes.
    pub rss: u64,
}

/// CPU time between two looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// Nanoseconds of all threads.
    pub ns: u64,
    /// Whether they come from the scheduler's own accounts; else they are whole ticks.
    pub exact: bool,
    /// By thread name, largest first; threads of one name (but for a number at its end) together.
    pub by_thread: Vec<(String, u64)>,
}

impl Used {
    /// Both together.
    pub fn and(&self, other: &Self) -> Self {
        let mut by_thread = self.by_thread.clone();
        for (name, ns) in &other.by_thread {
            match by_thread.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += ns,
                None => by_thread.push((name.clone(), *ns)),
            }
        }
        Self { ns: self.ns + other.ns, exact: self.exact && other.exact, by_thread }
    }
}

impl Sample {
    /// Looks at the process `pid`.
    ///
    /// # Errors
    /// It does not exist, or its accounts may not be read.
    pub fn take(pid: u32) -> anyhow::Result<Self> {
        // The rollup is exact; status is kept per CPU by newer kernels and may be off by some pages.
        Self::read(pid, true)
    }

    /// The same once a second: the rollup walks all pages of the process, so memory comes from its status.
    ///
    /// # Errors
    /// It does not exist, or its accounts may not be read.
    pub fn light(pid: u32) -> anyhow::Result<Self> {
        Self::read(pid, false)
    }

    fn read(pid: u32, exact: bool) -> anyhow::Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let read = |name: &str| -> anyhow::Result<String> {
            let path = folder.join(name);
            fs::read_to_string(&path).with_context(|| format!("process {pid}: {}", path.display()))
        };
        let tick_ns = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
        let ticks = cpu_ticks(&read("stat")?).ok_or_else(|| anyhow!("process {pid}: its stat has another form"))?;
        let rollup = if exact { read("smaps_rollup").ok() } else { None };
        let rss = match rollup.and_then(|text| kilobytes(&text, "Rss:")) {
            Some(rss) => rss,
            None => kilobytes(&read("status")?, "VmRSS:").with_context(|| format!("process {pid} has no memory"))?,
        };
        Ok(Self { cpu_ticks_ns: ticks * tick_ns, threads: threads(&folder)?, rss })
    }

    /// CPU time from `earlier` to this.
    pub fn used_since(&self, earlier: &Self) -> Used {
        let mut by_name: BTreeMap<&str, u64> = BTreeMap::new();
        for (id, (name, now)) in &self.threads {
            let before = earlier.threads.get(id).map_or(0, |(_, before)| *before);
            *by_name.entry(name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-')).or_default() +=
                now.saturating_sub(before);
        }
        // A thread that ended in between has taken its own account along, but not its part of the whole.
        let ended = earlier.threads.keys().any(|id| !self.threads.contains_key(id));
        let exact = !self.threads.is_empty() && !ended;
        let ticks = self.cpu_ticks_ns.saturating_sub(earlier.cpu_ticks_ns);
        let ns = if exact { by_name.values().sum() } else { ticks };
        let mut by_thread: Vec<(String, u64)> =
            by_name.into_iter().filter(|(_, ns)| *ns > 0).map(|(name, ns)| (name.to_owned(), ns)).collect();
        by_thread.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
        Used { ns, exact, by_thread }
    }
}

/// Running time of each thread, where the kernel keeps it.
fn threads(folder: &Path) -> io::Result<BTreeMap<u32, (String, u64)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder.join("task"))? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // A thread may end while it is looked at.
        let (Some(id), Ok(name), Ok(account)) =
            (id, fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("schedstat")))
        else {
            continue;
        };
        if let Some(ns) = account.split_ascii_whitespace().next().and_then(|first| first.parse().ok()) {
            found.insert(id, (name.trim_end().to_owned(), ns));
        }
    }
    Ok(found)
}

/// `utime` + `stime` of a `stat` line. The name in parentheses may hold anything, so counting starts after it.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The bytes behind `key` in a table of kilobytes.
fn kilobytes(table: &str, key: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(key))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read_whatever_the_process_is_called() {
        let stat = "42 (a) b (c)) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (x"), None);
        assert_eq!(kilobytes("x\nRss:      1756 kB\nPss: 1 kB\n", "Rss:"), Some(1756 * 1024));
        assert_eq!(kilobytes("x", "Rss:"), None);
    }

    #[test]
    fn this_process_has_memory_and_uses_time() {
        let pid = std::process::id();
        let before = Sample::take(pid).unwrap();
        let mut spent = 0_u64;
        while Sample::take(pid).unwrap().used_since(&before).ns == 0 {
            spent = (0..100_000_u64).fold(spent, |sum, at| sum.wrapping_mul(31).wrapping_add(at));
        }
        assert!(before.rss > 100_000);
        assert!(Sample::take(u32::MAX).is_err());
    }

    #[test]
    fn threads_of_one_kind_are_summed_and_an_ended_one_falls_back_to_ticks() {
        let sample = |ticks, threads: &[(u32, &str, u64)]| Sample {
            cpu_ticks_ns: ticks,
            threads: threads.iter().map(|(id, name, ns)| (*id, ((*name).to_owned(), *ns))).collect(),
            rss: 0,
        };
        let before = sample(1_000, &[(1, "main", 10), (2, "worker-0", 100), (3, "worker-1", 100)]);
        let after = sample(9_000, &[(1, "main", 15), (2, "worker-0", 400), (3, "worker-1", 200), (4, "late", 7)]);
        let used = after.used_since(&before);
        assert_eq!((used.ns, used.exact), (412, true));
        assert_eq!(used.by_thread[0], ("worker".to_owned(), 400));
        let ended = sample(9_000, &[(1, "main", 15)]).used_since(&before);
        assert_eq!((ended.ns, ended.exact), (8_000, false));
    }
}
