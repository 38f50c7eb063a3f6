//! The operations for CPUs: SIMD chosen at run time, threads from one pool. Arguments arrive checked by `ops`, and all
//! memory is host memory.
//!
//! Work is cut so that the result does not depend on the number of threads: each output element is computed by one
//! thread in one order.

pub mod access;
pub mod blockwise8;
pub mod dequantize;
pub mod double_quantize;
pub mod file_blocks;
pub mod file_memory;
pub mod gemm;
pub mod lora_gradients;
pub mod optimizer;
pub mod quantize;
pub mod resident;
pub mod simd;
pub mod threads;

use simd::Simd;
use std::sync::{Arc, Mutex};
use threads::Threads;

/// The CPU as a device: an instruction set and a pool of threads.
pub struct Cpu {
    simd: &'static Simd,
    threads: Mutex<Arc<Threads>>,
}

impl Cpu {
    /// The widest instruction set and one thread a core.
    pub fn new() -> Self {
        Self::with_simd(Simd::best())
    }

    /// A given instruction set: tests hold each to the reference.
    pub fn with_simd(simd: &'static Simd) -> Self {
        Self { simd, threads: Mutex::new(Arc::new(Threads::new(threads::cores()))) }
    }

    /// The inner loops in use.
    pub fn simd(&self) -> &'static Simd {
        self.simd
    }

    /// The threads in use. An operation asks once, so that a change of the count does not reach into it.
    pub fn threads(&self) -> Arc<Threads> {
        let mut threads = self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if threads.are_of_a_parent() {
            *threads = Arc::new(Threads::new(threads.count()));
        }
        threads.clone()
    }

    /// Uses `count` threads from the next operation on.
    pub fn set_threads(&self, count: usize) {
        let threads = Arc::new(Threads::new(count));
        *self.threads.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = threads;
    }
}
