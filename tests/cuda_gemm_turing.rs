//! Tensor cores before sm_80: f16 by m16n8k8, chunks brought through registers. A simulated T4.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::cases;
use common::device::*;
use common::device_products::check_kernel;
use common::products::*;
use proptest::prelude::*;
use ptx_sim::{Config, Installed};
use qlora_kernels::DType;

/// None on a real device, which is what it is.
fn turing() -> Option<Gpu> {
    let Installed::Simulator = ptx_sim::install() else { return None };
    ptx_sim::configure(&Config { compute_capability: (7, 5), sm_count: 2, ..ptx_sim::config() });
    Some(Gpu::new())
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn forward(case in any_mma_case([140, 140, 4], &[DType::F16])) {
        if let Some(gpu) = turing() {
            check_kernel(&gpu, &case, "gemm_mma", 1)?;
        }
    }

    #[test]
    fn backward(case in any_backward_case([140, 3, 3], &[DType::F16])) {
        if let Some(gpu) = turing() {
            check_kernel(&gpu, &case, "gemm_mma_backward", 2)?;
        }
    }
}
