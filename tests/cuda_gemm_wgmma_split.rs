//! Products by the warpgroups of Hopper whose sums are split over blocks, because there are few tiles for its many SMs.

mod common;

use common::device::*;
use common::products::*;
use proptest::prelude::*;
use ptx_sim::{Installed, counters, reset_counters};
use qlora_kernels::DType;

const HALVES: &[DType] = &[DType::F16, DType::Bf16];

/// Checks a case, and on the simulator that the split sum follows the product, `times` times.
fn check(case: &Case, kernel: &str, times: usize) -> Result<(), TestCaseError> {
    let gpu = Gpu::new();
    reset_counters();
    case.check(&gpu)?;
    gpu.stream.synchronize().unwrap();
    if let Installed::Simulator = ptx_sim::install() {
        let launches = counters().launches;
        let is_split = |pair: &&[ptx_sim::Launch]| pair[0].kernel == kernel && pair[1].kernel == "split_sum";
        prop_assert_eq!(launches.windows(2).filter(is_split).count(), times, "split products of {}", kernel);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4))]

    #[test]
    fn forward(case in any_mma_case([30, 150, 8], HALVES)) {
        check(&Case { m: 127 + case.m, k: case.k + 1024, ..case }, "gemm_wgmma", 1)?;
    }

    #[test]
    fn backward(case in any_backward_case([30, 8, 3], HALVES)) {
        check(&Case { m: 127 + case.m, n: case.n + 1024 - 8, ..case }, "gemm_wgmma_backward", 2)?;
    }
}
