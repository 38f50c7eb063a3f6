//! Running kernels.

mod access;
mod atomic;
mod barrier;
mod collective;
mod cta;
mod global;
mod grid;
pub mod lanes;
mod shared;
mod warp;

pub use grid::{Checks, Launch, run};
