//! Order through memory: release and acquire patterns (PTX ISA §8.8).
//!
//! A location that strong operations write becomes a synchronization variable. It keeps a log of what each release made
//! known; who acquires it knows the log up to that point. So an acquire costs nothing, however many blocks have released:
//! the log is asked only when two accesses conflict.
//!
//! Taken coarser than the memory model has it, on the side of silence: a read is held to see all earlier releases of the
//! location, not only the chain that wrote the value it got.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::epoch::{Epoch, Known};

/// A location that orders accesses.
#[derive(Default)]
pub struct SyncVariable {
    log: Mutex<Log>,
}

/// A release: its place in the log, and what it made known of its block's warps.
type Release = (usize, Box<[Known]>);

#[derive(Default)]
struct Log {
    len: usize,
    by_block: HashMap<u32, Vec<Release>>,
    /// What releasers knew of other variables.
    inherited: Vec<(usize, Foreign)>,
}

/// Logs known up to some length.
#[derive(Clone, Default)]
pub struct Foreign {
    logs: Vec<(Arc<SyncVariable>, usize)>,
}

impl SyncVariable {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(super) fn release(&self, block: u32, known: &[Known], foreign: &Foreign) {
        let mut log = self.log();
        let at = log.len;
        log.len += 1;
        let of_block = log.by_block.entry(block).or_default();
        match of_block.last() {
            Some((_, last)) if **last == *known => {}
            _ => of_block.push((at, known.into())),
        }
        let others: Vec<_> =
            foreign.logs.iter().filter(|(v, _)| !std::ptr::eq(&**v, self)).cloned().collect();
        if !others.is_empty() {
            log.inherited.push((at, Foreign { logs: others }));
        }
    }

    fn covers(&self, len: usize, e: Epoch, visited: &mut Vec<*const Self>) -> bool {
        if visited.contains(&std::ptr::from_ref(self)) {
            return false;
        }
        visited.push(self);
        let log = self.log();
        let own = log.by_block.get(&e.block()).is_some_and(|releases| {
            releases
                .iter()
                .take_while(|(at, _)| *at < len)
                .any(|(_, known)| known[e.warp() as usize].covers(e))
        });
        if own {
            return true;
        }
        let inherited: Vec<Foreign> = log
            .inherited
            .iter()
            .take_while(|(at, _)| *at < len)
            .map(|(_, foreign)| foreign.clone())
            .collect();
        drop(log);
        inherited.iter().flat_map(|f| &f.logs).any(|(variable, len)| variable.covers(*len, e, visited))
    }
}

impl Foreign {
    pub(super) fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    pub(super) fn add(&mut self, variable: &Arc<SyncVariable>) {
        let len = variable.log().len;
        if len > 0 {
            self.insert(variable, len);
        }
    }

    fn insert(&mut self, variable: &Arc<SyncVariable>, len: usize) {
        match self.logs.iter_mut().find(|(v, _)| Arc::ptr_eq(v, variable)) {
            Some((_, known)) => *known = len.max(*known),
            None => self.logs.push((Arc::clone(variable), len)),
        }
    }

    pub(super) fn join(&mut self, other: &Self) {
        for (variable, len) in &other.logs {
            self.insert(variable, *len);
        }
    }

    pub(super) fn covers(&self, e: Epoch) -> bool {
        let mut visited = Vec::new();
        self.logs.iter().any(|(variable, len)| variable.covers(*len, e, &mut visited))
    }
}

/// The synchronization variables of a launch (global memory) or a block (shared memory), by address.
#[derive(Default)]
pub struct SyncTable {
    used: AtomicBool,
    variables: Mutex<HashMap<u64, Arc<SyncVariable>>>,
}

impl SyncTable {
    /// The variable at an address, if it is one already.
    pub fn get(&self, address: u64) -> Option<Arc<SyncVariable>> {
        if !self.used.load(Ordering::Acquire) {
            return None;
        }
        self.variables.lock().unwrap_or_else(|e| e.into_inner()).get(&address).cloned()
    }

    /// The variable at an address.
    pub fn make(&self, address: u64) -> Arc<SyncVariable> {
        self.used.store(true, Ordering::Release);
        Arc::clone(self.variables.lock().unwrap_or_else(|e| e.into_inner()).entry(address).or_default())
    }
}
