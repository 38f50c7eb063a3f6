//! The products on devices between Turing and Hopper and after it, whose blocks have 163 KB of shared memory or 99 KB: what
//! does not fit is not launched.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::products::*;
use ptx_sim::{Config, Installed, counters, reset_counters};
use qlora_kernels::{Codebook, Constants, DType, QuantSpec};

/// The device is the process's and cannot change while a context exists: one test, one device after the other.
#[test]
fn each_kernel_fits_each_device() {
    let Installed::Simulator = ptx_sim::install() else { return };
    for compute_capability in [(8, 0), (8, 6), (12, 0)] {
        for sm_count in [2, 100] {
            ptx_sim::configure(&Config { compute_capability, sm_count, ..ptx_sim::config() });
            let gpu = Gpu::new();
            for half in [DType::Bf16, DType::F16] {
                for m in [5, 30, 50, 150] {
                    let name = format!("{compute_capability:?}, {sm_count} SMs, {half:?}, M = {m}");
                    let used = products(&gpu, m, half).unwrap_or_else(|e| panic!("{name}: {e}"));
                    let forward = if m <= 64 { "gemm_skinny" } else { "gemm_mma" };
                    // Of more than 32 rows, the sums of all warps need more than 99 KB.
                    let most = if compute_capability == (8, 0) { 64 } else { 32 };
                    let is_few = m <= most && half == DType::Bf16;
                    let backward = if is_few { "gemm_skinny_backward" } else { "gemm_mma_backward" };
                    // Each twice backward and for the gradients, written and added; T and U for each product, too.
                    let expected =
                        [(forward, 1), (backward, 2), ("gemm_low_rank", 1 + 2 + 2 * 4), ("gemm", 0)];
                    for (kernel, times) in expected {
                        let count = used.iter().filter(|name| *name == kernel).count();
                        assert_eq!(count, times, "{name}: {kernel} of {used:?}");
                    }
                }
            }
        }
    }
}

/// Checks products of several tiles with an adapter, and says which kernels were launched.
fn products(gpu: &Gpu, m: usize, half: DType) -> Result<Vec<String>, proptest::test_runner::TestCaseError> {
    let dtypes = [half, half, DType::F32, half, DType::F32];
    let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8);
    let case = Case { m, n: 192, k: 320, rank: Some(24), spec, dtypes, gap: 0, seed: 3, threads: 1 };
    reset_counters();
    case.check(gpu)?;
    gpu.stream.synchronize().unwrap();
    Ok(counters().launches.into_iter().map(|launch| launch.kernel).collect())
}
