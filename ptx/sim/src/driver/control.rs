//! What tests ask the stand-in driver, across the border between a test's own copy of this crate (the rlib) and the loaded
//! one (the cdylib). Both come from one compilation, so Rust types look the same on both sides.

use std::ffi::c_void;

use super::state::{current_stack, this_thread};
use super::{Driver, lock};
use crate::config::Config;
use crate::counters::Counters;
use crate::fault::Fault;

/// The functions of the border.
#[derive(Clone, Copy)]
pub struct Control {
    /// Sets the configuration; `false` if contexts exist.
    pub configure: fn(&Config) -> bool,
    /// Reads the configuration.
    pub config: fn() -> Config,
    /// Calls back with the counters of the calling thread.
    pub counters: fn(*mut c_void, fn(*mut c_void, &Counters)),
    /// Forgets the counters of the calling thread.
    pub reset_counters: fn(),
    /// Calls back with the last fault of the calling thread, if there is one.
    pub last_fault: fn(*mut c_void, fn(*mut c_void, &Fault)),
    /// Forgets the last fault of the calling thread, and lets the contexts live on that it ended.
    pub clear_faults: fn(),
    /// Forgets everything.
    pub reset: fn(),
}

/// Fills a [`Control`]: the one symbol that `install` looks up.
#[unsafe(no_mangle)]
unsafe extern "C" fn ptx_sim_control(into: *mut c_void) {
    let control = Control { configure, config, counters, reset_counters, last_fault, clear_faults, reset };
    // SAFETY: `install` gives the address of a `Control`.
    unsafe { into.cast::<Control>().write(control) };
}

fn configure(config: &Config) -> bool {
    let mut driver = lock();
    let machine = |c: &Config| (c.compute_capability, c.sm_count, c.memory, c.device_count, c.driver_version);
    // What a context has seen of its device must not change; checks and orders may.
    if !driver.contexts.is_empty() && machine(&driver.config) != machine(config) {
        return false;
    }
    driver.config = *config;
    true
}

fn config() -> Config {
    lock().config
}

fn counters(into: *mut c_void, f: fn(*mut c_void, &Counters)) {
    f(into, lock().counters());
}

fn reset_counters() {
    *lock().counters() = Counters::default();
}

fn last_fault(into: *mut c_void, f: fn(*mut c_void, &Fault)) {
    if let Some(fault) = lock().faults.get(&this_thread()) {
        f(into, fault);
    }
}

fn clear_faults() {
    let mut driver = lock();
    driver.faults.remove(&this_thread());
    for context in driver.contexts.values_mut() {
        context.poisoned = None;
    }
}

fn reset() {
    let mut driver = lock();
    let contexts: Vec<usize> = driver.contexts.keys().copied().collect();
    for context in contexts {
        driver.drop_context(context);
    }
    *driver = Driver::default();
    current_stack(Vec::clear);
}
