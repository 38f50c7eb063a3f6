//! The product on tensor cores, against f64.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::cases;
use common::device::*;
use common::device_products::check_kernel;
use common::products::*;
use common::special_values::{self, Shape};
use proptest::prelude::*;
use ptx_sim::{Config, Installed, counters, reset_counters};
use qlora_kernels::{DType, QuantSpec};
use std::sync::{Mutex, MutexGuard};

const HALVES: &[DType] = &[DType::F16, DType::Bf16];

/// A simulated B200, which has no `wgmma`, one at a time: with two SMs, for which small matrices have tiles enough, even the
/// largest ones, or with more, for which only smaller ones are.
fn gpu(sm_count: u32) -> (MutexGuard<'static, ()>, Gpu) {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&Config { compute_capability: (10, 0), sm_count, ..ptx_sim::config() });
    }
    (guard, Gpu::new())
}

/// More rows than the kernels for few rows take.
fn many(case: Case) -> Case {
    Case { m: case.m + 64, ..case }
}

proptest! {
    #![proptest_config(cases(32))]

    #[test]
    fn small_backward_shapes(case in any_backward_case([40, 3, 3], HALVES), sm_count in 2u32..12) {
        let (_guard, gpu) = gpu(sm_count);
        check_kernel(&gpu, &many(case), "gemm_mma_backward", 2)?;
    }

    #[test]
    fn small_shapes(case in any_mma_case([40, 140, 4], HALVES), sm_count in 2u32..12) {
        let (_guard, gpu) = gpu(sm_count);
        check_kernel(&gpu, &many(case), "gemm_mma", 1)?;
    }

    /// What the kernel for few rows leaves.
    #[test]
    fn few_rows_of_f16_backward(case in any_backward_case([64, 3, 3], &[DType::F16])) {
        let (_guard, gpu) = gpu(2);
        check_kernel(&gpu, &case, "gemm_mma_backward", 2)?;
    }
}

proptest! {
    #![proptest_config(cases(8))]

    /// Several tiles in both directions, of each number of rows.
    #[test]
    fn larger_shapes(case in any_mma_case([240, 300, 9], HALVES)) {
        let (_guard, gpu) = gpu(2);
        check_kernel(&gpu, &many(case), "gemm_mma", 1)?;
    }
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn larger_backward_shapes(case in any_backward_case([90, 9, 5], HALVES)) {
        let (_guard, gpu) = gpu(2);
        check_kernel(&gpu, &many(case), "gemm_mma_backward", 2)?;
    }
}

/// Both kernels, of either type.
const SPECIAL: &[Shape] = &[
    (100, DType::Bf16, ["gemm_mma", "gemm_mma_backward"]),
    (100, DType::F16, ["gemm_mma", "gemm_mma_backward"]),
];

#[test]
fn weights_of_any_magnitude() {
    let (_guard, gpu) = gpu(2);
    special_values::weights_of_any_magnitude(&gpu, SPECIAL);
}

#[test]
fn a_block_of_w_that_is_not_finite() {
    let (_guard, gpu) = gpu(2);
    special_values::a_block_of_w_that_is_not_finite(&gpu, SPECIAL);
}

#[test]
fn an_element_that_is_not_finite() {
    let (_guard, gpu) = gpu(2);
    special_values::an_element_that_is_not_finite(&gpu, SPECIAL);
}

/// The same for the backward kernel: nothing conflicts, dY is read once for each 128 columns and W once for each tile.
#[test]
fn backward_traffic_is_as_planned() {
    let (_guard, gpu) = gpu(2);
    let Installed::Simulator = ptx_sim::install() else { return };
    for (m, rows) in [(65, 64), (96, 128), (256, 128)] {
        let (n, k) = if m == 65 { (128, 128) } else { (256, 512) };
        let spec = QuantSpec::new(qlora_kernels::Codebook::Nf4, 64);
        let case = Case { m, n, k, rank: None, spec, dtypes: [DType::Bf16; 5], gap: 0, seed: 1, threads: 1 };
        reset_counters();
        case.check(&gpu).unwrap();
        gpu.stream.synchronize().unwrap();
        let launches = counters().launches;
        let stats = &launches.iter().find(|launch| launch.kernel == "gemm_mma_backward").unwrap().stats;
        assert_eq!(stats.bank_conflicts, 0, "M = {m}");
        let (dy, w) = (2 * m * n * k.div_ceil(128), n * k / 2 * m.div_ceil(rows));
        assert_eq!(stats.global_loads.of_width(16) as usize, (dy + w) / 16, "M = {m}");
        let constants = 4 * n * k / 64 * m.div_ceil(rows);
        let values = 4 * 16 * m.div_ceil(rows) * k.div_ceil(128); // once a block, of which there is one a tile
        assert_eq!(stats.global_loads.bytes as usize, dy + w + constants + values, "M = {m}");
    }
}

/// Counted on the simulator: nothing conflicts in shared memory, every load of X and W is 16 bytes wide, X is read once for
/// each 128 columns and W once for each tile of rows.
#[test]
fn traffic_is_as_planned() {
    let (_guard, gpu) = gpu(2);
    let Installed::Simulator = ptx_sim::install() else { return };
    for (m, rows) in [(65, 64), (96, 128), (256, 128)] {
        let (n, k) = if m == 65 { (128, 128) } else { (256, 512) };
        let spec = QuantSpec::new(qlora_kernels::Codebook::Nf4, 64);
        let dtypes = [DType::Bf16; 5];
        let case = Case { m, n, k, rank: None, spec, dtypes, gap: 0, seed: 1, threads: 1 };
        reset_counters();
        case.check(&gpu).unwrap();
        gpu.stream.synchronize().unwrap();
        let launches = counters().launches;
        let stats = &launches.iter().find(|launch| launch.kernel == "gemm_mma").unwrap().stats;
        assert_eq!(stats.bank_conflicts, 0, "M = {m}");
        let (x, w) = (2 * m * k * n.div_ceil(128), n * k / 2 * m.div_ceil(rows));
        assert_eq!(stats.global_loads.of_width(16) as usize, (x + w) / 16, "M = {m}");
        // The rest are the constants and, once a block, the bias.
        let rest = stats.global_loads.bytes as usize - x - w;
        let constants = 4 * n * k / 64 * m.div_ceil(rows);
        println!("M = {m}: X {x}, W {w}, constants {constants}, other {} bytes", rest - constants);
        assert!(rest - constants <= 2 * 2 * m * n, "M = {m}: {rest}");
    }
}
