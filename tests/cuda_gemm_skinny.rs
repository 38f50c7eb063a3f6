//! Products with few rows on tensor cores, against f64; their traffic, counted.

mod common;

use common::device::*;
use common::products::*;
use common::*;
use proptest::prelude::*;
use ptx_sim::{Installed, counters, reset_counters};
use qlora_kernels::{Codebook, Constants, DType, QuantSpec};

const HALVES: &[DType] = &[DType::F16, DType::Bf16];

/// A simulated device of so many SMs.
fn gpu(sm_count: u32) -> Gpu {
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&ptx_sim::Config { sm_count, ..ptx_sim::config() });
    }
    Gpu::new()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn forward(case in any_mma_case([64, 300, 12], HALVES)) {
        check_kernel(&gpu(2), &case, "gemm_skinny", 1)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// K is split over blocks.
    #[test]
    fn split_forward(case in any_mma_case([20, 40, 1], HALVES), chunks in 200usize..300) {
        let case = Case { k: 64 * chunks, ..case };
        check_kernel(&gpu(132), &case, "split_sum", 1)?;
    }
}
