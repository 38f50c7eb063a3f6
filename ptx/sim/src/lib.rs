//! Runs PTX text on the CPU.
#![warn(missing_docs)]
mod config;
mod counters;
#[allow(missing_docs)]
mod exec;
mod fault;
#[allow(missing_docs)]
mod isa;
#[allow(missing_docs)]
mod memory;
#[allow(missing_docs)]
mod parse;
#[allow(missing_docs)]
mod race;
