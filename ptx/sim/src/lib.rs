//! Runs PTX text on the CPU.
#![warn(missing_docs)]
mod config;
mod counters;
#[allow(missing_docs)]
mod driver;
#[allow(missing_docs)]
mod exec;
mod fault;
mod install;
#[allow(missing_docs)]
mod isa;
#[allow(missing_docs)]
mod memory;
#[allow(missing_docs)]
mod parse;
#[allow(missing_docs)]
mod race;
pub use config::{Config, StreamOrder};
pub use counters::{Counters, Launch, Stats, Traffic};
pub use fault::{Fault, FaultKind};
pub use install::{
    Installed, clear_faults, config, configure, counters, install, last_fault, reset, reset_counters,
};
