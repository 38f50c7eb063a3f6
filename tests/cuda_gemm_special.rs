//! Values that are large, small or not finite in the products on a Hopper, by each of its kernels.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::special_values::{self, Shape};
use ptx_sim::{Config, Installed};
use qlora_kernels::DType;

/// Up to 64 rows and more.
const SHAPES: &[Shape] = &[
    (3, DType::Bf16, ["gemm_skinny", "gemm_skinny_backward"]),
    (3, DType::F16, ["gemm_skinny", "gemm_mma_backward"]),
    (40, DType::Bf16, ["gemm_skinny", "gemm_skinny_backward"]),
    (40, DType::F16, ["gemm_skinny", "gemm_mma_backward"]),
    (40, DType::F32, ["gemm", "gemm"]),
    (100, DType::Bf16, ["gemm_wgmma", "gemm_wgmma_backward"]),
    (100, DType::F16, ["gemm_wgmma", "gemm_wgmma_backward"]),
    (130, DType::Bf16, ["gemm_wgmma", "gemm_wgmma_backward"]),
    (130, DType::F16, ["gemm_wgmma", "gemm_wgmma_backward"]),
];

/// A simulated Hopper with few SMs, or the machine's own GPU.
fn gpu() -> Gpu {
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&Config { compute_capability: (9, 0), sm_count: 2, ..ptx_sim::config() });
    }
    Gpu::new()
}

#[test]
fn weights_of_any_magnitude() {
    special_values::weights_of_any_magnitude(&gpu(), SHAPES);
}

#[test]
fn a_block_of_w_that_is_not_finite() {
    special_values::a_block_of_w_that_is_not_finite(&gpu(), SHAPES);
}

#[test]
fn an_element_that_is_not_finite() {
    special_values::an_element_that_is_not_finite(&gpu(), SHAPES);
}
