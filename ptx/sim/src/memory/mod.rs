//! Simulated memory: where it lies, what is allocated, which bytes have been written.

mod arena;
mod registry;
mod residence;

pub use arena::{Arena, PAGE, PageGuard, State, all_at_least, copy_small};
pub use registry::{Allocation, Kind, memory};
pub use residence::{ACCESSED_BY_DEVICE, PREFERS_DEVICE, PREFERS_HOST};

/// Generic addresses of shared memory: this plus the offset. No user-space address looks like it.
pub const SHARED_WINDOW: u64 = 1 << 62;
/// Generic addresses of local memory: this plus the offset.
pub const LOCAL_WINDOW: u64 = 1 << 62 | 1 << 61;
/// Generic addresses of kernel parameters: this plus the offset.
pub const PARAM_WINDOW: u64 = 1 << 62 | 1 << 60;
/// Bytes of each window.
pub const WINDOW_SIZE: u64 = 1 << 32;
/// Shared addresses of a cluster's blocks, as `mapa` has them: that of rank r begins at `r + 1` times this. Below are a block's own.
pub const CLUSTER_WINDOW: u64 = 1 << 24;
