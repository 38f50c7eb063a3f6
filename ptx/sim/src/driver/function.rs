//! Kernels as the driver hands them out: attributes and occupancy.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{Driver, Handle, Outcome, Status, api, put};
use crate::isa::Kernel;

/// A kernel in a context.
pub struct Function {
    /// The context of its module: it runs in streams of no other.
    pub context: usize,
    pub kernel: Kernel,
    pub version: (u32, u32),
    /// The attribute MAX_DYNAMIC_SHARED_SIZE_BYTES, as far as it was raised.
    pub max_dynamic_shared: AtomicU32,
}

/// Shared memory that a block may have without asking.
pub const DEFAULT_SHARED: u32 = 48 << 10;

impl Function {
    /// Dynamic shared memory that a launch may ask for.
    pub fn dynamic_shared_limit(&self) -> u32 {
        let default = DEFAULT_SHARED.saturating_sub(self.kernel.static_shared);
        self.max_dynamic_shared.load(Ordering::Relaxed).max(default)
    }

    /// Threads that a block may have.
    pub fn max_threads(&self) -> u32 {
        let limits = &self.kernel.limits;
        limits.reqntid.or(limits.maxntid).map_or(1024, |n| n.iter().product())
    }
}

const MAX_DYNAMIC_SHARED: c_uint = 8;

impl Driver {
    pub fn function(&self, handle: Handle) -> Outcome<Arc<Function>> {
        self.current()?;
        self.functions.get(&(handle as usize)).cloned().ok_or(Status::INVALID_HANDLE)
    }

    /// Blocks of a function that one multiprocessor holds at once.
    pub fn occupancy(&self, function: &Function, threads: u32, dynamic_shared: u32) -> u32 {
        let cc = self.config.compute_capability;
        let (max_threads, max_blocks) = match cc {
            (7, 5) => (1024, 16),
            (8, 0) | (9..=10, _) => (2048, 32),
            _ => (1536, 24),
        };
        // An SM has 1 KB more than a block can have, and each block takes 1 KB for itself.
        let reserved = if cc.0 >= 8 { 1024 } else { 0 };
        let shared = function.kernel.static_shared + dynamic_shared + reserved;
        let by_shared = (self.config.max_shared_optin() + reserved).checked_div(shared).unwrap_or(max_blocks);
        let by_threads = max_threads / threads.next_multiple_of(32).max(32);
        by_shared.min(by_threads).min(max_blocks)
    }
}

api! {
    fn cuFuncGetAttribute(d, into: *mut c_int, attribute: c_uint, function: Handle) {
        let f = d.function(function)?;
        let (major, minor) = d.config.compute_capability;
        let value = match attribute {
            0 => f.max_threads(),
            1 => f.kernel.static_shared,
            2 => 0,
            3 => f.kernel.local_size,
            // Registers are ptxas's to count: this is what the limits allow.
            4 => f.kernel.limits.maxnreg.unwrap_or((65536 / f.max_threads()).min(255)),
            5 => f.version.0 * 10 + f.version.1,
            6 => major * 10 + minor,
            7 => 0,
            MAX_DYNAMIC_SHARED => f.dynamic_shared_limit(),
            9 => u32::MAX,
            10..=15 => 0,
            _ => return Err(Status::INVALID_VALUE),
        };
        put(into, value as c_int)
    }

    fn cuFuncSetAttribute(d, function: Handle, attribute: c_uint, value: c_int) {
        let f = d.function(function)?;
        match attribute {
            MAX_DYNAMIC_SHARED => {
                let most = d.config.max_shared_optin() - f.kernel.static_shared;
                if value < 0 || value as u32 > most {
                    return Err(Status::INVALID_VALUE);
                }
                f.max_dynamic_shared.store(value as u32, Ordering::Relaxed);
                Ok(())
            }
            9..=15 => Ok(()),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    fn cuFuncSetCacheConfig(d, function: Handle, _config: c_uint) {
        d.function(function).map(drop)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(d, into: *mut c_int, function: Handle, threads: c_int, shared: usize) {
        let f = d.function(function)?;
        put(into, d.occupancy(&f, threads as u32, shared as u32) as c_int)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        d, into: *mut c_int, function: Handle, threads: c_int, shared: usize, _flags: c_uint,
    ) {
        let f = d.function(function)?;
        put(into, d.occupancy(&f, threads as u32, shared as u32) as c_int)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        d, grid: *mut c_int, block: *mut c_int, function: Handle, _shared_of_block: *const c_void, shared: usize,
        limit: c_int,
    ) {
        let f = d.function(function)?;
        let most = if limit > 0 { f.max_threads().min(limit as u32) } else { f.max_threads() };
        put(block, most as c_int)?;
        put(grid, (d.occupancy(&f, most, shared as u32) * d.config.sm_count) as c_int)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(d, into: *mut usize, function: Handle, blocks: c_int, _threads: c_int) {
        let f = d.function(function)?;
        let each = (d.config.max_shared_optin() + 1024) / blocks.max(1) as u32;
        put(into, each.saturating_sub(1024 + f.kernel.static_shared) as usize)
    }
}
