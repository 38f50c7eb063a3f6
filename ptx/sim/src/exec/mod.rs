//! Running kernels.

mod access;
mod async_copy;
mod async_shared;
mod atomic;
mod banks;
mod barrier;
mod bulk;
pub mod cluster;
mod collective;
mod cta;
mod global;
mod grid;
pub mod lanes;
mod matrix;
mod mbarrier;
mod mma;
mod place;
mod schedule;
mod shared;
mod step;
mod tensor;
mod warp;
mod wgmma;

pub use grid::{Checks, Launch, run};
pub use tensor::{Swizzle, TensorMap};
