//! The process's peak resident memory (Linux; elsewhere it is simply not reported).

/// Hands freed memory back to the system and starts a new peak. Returns whether a new peak could be
/// started; without it a later `peak` would speak of the whole life of the process.
pub fn reset_peak() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim only returns unused pages of the heap to the system.
    unsafe {
        libc::malloc_trim(0);
    }
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Bytes of the highest resident set since `reset_peak`.
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_peak_is_reported() {
        assert!(super::peak().unwrap() > 100_000);
    }
}
