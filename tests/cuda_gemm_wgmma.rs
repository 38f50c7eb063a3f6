//! The products by the warpgroups of Hopper, against f64.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::cases;
use common::device::*;
use common::device_products::{check_kernel, check_kernels};
use common::products::*;
use proptest::prelude::*;
use ptx_sim::{Config, Installed, Stats, counters, reset_counters};
use qlora_kernels::{Codebook, Constants, DType, QuantSpec};

const HALVES: &[DType] = &[DType::F16, DType::Bf16];

/// A simulated Hopper with so few SMs that a block makes several tiles, one after the other; or the machine's own GPU.
fn gpu(sm_count: u32) -> Gpu {
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&Config { compute_capability: (9, 0), sm_count, ..ptx_sim::config() });
    }
    Gpu::new()
}

/// More rows than the kernels for few rows take.
fn many(case: Case) -> Case {
    Case { m: 64 + case.m, ..case }
}

proptest! {
    #![proptest_config(cases(12))]

    #[test]
    fn forward(case in any_mma_case([240, 300, 5], HALVES)) {
        check_kernel(&gpu(2), &many(case), "gemm_wgmma", 1)?;
    }

    #[test]
    fn backward(case in any_vectors_case([240, 5, 5], HALVES)) {
        check_kernel(&gpu(2), &many(case), "gemm_wgmma_backward", 2)?;
    }
}

/// The fewest rows, half a tile more, and one short of the next: with adapter, bias, written and added.
#[test]
fn fewer_rows_than_a_tile() {
    for (m, half) in [65, 96, 127].into_iter().flat_map(|m| HALVES.iter().map(move |&half| (m, half))) {
        let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8);
        let dtypes = [half, half, half, DType::F32, half];
        let case = Case { m, n: 136, k: 192, rank: Some(20), spec, dtypes, gap: 0, seed: 7, threads: 1 };
        check_kernels(&gpu(2), &case, &[("gemm_wgmma", 1), ("gemm_wgmma_backward", 2)])
            .unwrap_or_else(|e| panic!("{half:?}, M = {m}: {e}"));
    }
}

/// What a kernel did for bf16 matrices of this shape, NF4 in blocks of 64; `None` on a real device, which does not count.
fn counted(kernel: &str, [m, n, k]: [usize; 3]) -> Option<Stats> {
    let gpu = gpu(2);
    let Installed::Simulator = ptx_sim::install() else { return None };
    let spec = QuantSpec::new(Codebook::Nf4, 64);
    let case = Case { m, n, k, rank: None, spec, dtypes: [DType::Bf16; 5], gap: 0, seed: 1, threads: 1 };
    reset_counters();
    case.check(&gpu).unwrap();
    gpu.stream.synchronize().unwrap();
    Some(
        counters().launches.iter().find(|launch| launch.kernel == kernel).expect("it was used").stats.clone(),
    )
}

/// What both kernels must do, of `activations`, `codes`, `constants` and `other` bytes of global memory read, for an output of
/// `features` by M.
fn check_counts(name: &str, stats: &Stats, shape: [usize; 3], [rows, cluster]: [usize; 2], other: usize) {
    let [m, features, inner] = shape;
    let tiles = m.div_ceil(rows);
    let activations = 2 * m * inner * features.div_ceil(128 * cluster);
    let values = features.next_multiple_of(128 * cluster) * inner * tiles;
    let (codes, constants) = (values / 2, 4 * values / 64);
    println!("{name}: activations {activations}, codes {codes}, constants {constants}, other {other} bytes");
    assert_eq!(stats.global_loads.bytes as usize, activations + codes + constants + other, "{name}");
    assert_eq!(stats.global_loads.of_width(16) as usize, codes / 16, "{name}");
    assert_eq!(stats.global_stores.bytes as usize, 2 * m * features, "{name}");
    assert_eq!(stats.global_stores.of_width(16) as usize, 2 * m * features / 16, "{name}");
    assert_eq!(stats.bank_conflicts, 0, "{name}");
    // Four warps at a product of 64 x rows x 16.
    assert_eq!(stats.count("wgmma.mma_async") as usize, values / 256, "{name}");
    let of = |count: u64| count as f64 * 32.0 / values as f64;
    let shared = stats.count("ld.shared") + stats.count("st.shared");
    println!(
        "  lane instructions a decoded value: {:.2}, prmt {:.2}, of shared memory {:.2}",
        of(stats.warp_instructions),
        of(stats.count("prmt")),
        of(shared)
    );
}

/// Counted on the simulator: activations are read once for each 128 features, or 256 by clusters of two blocks, W and its constants
/// once for each tile of rows, codes by 16 bytes; results are written by 16 bytes; nothing conflicts in shared memory.
#[test]
fn traffic_is_as_planned() {
    let cases = [
        ([128, 256, 512], [[128, 2]; 2]),
        ([96, 256, 512], [[128, 2]; 2]),
        ([200, 384, 256], [[256, 2]; 2]),
        ([128, 128, 128], [[64, 1]; 2]),
        ([512, 256, 512], [[256, 2]; 2]),
    ];
    for ([m, n, k], [forward, backward]) in cases {
        let name = format!("M = {m}, N = {n}, K = {k}");
        let Some(stats) = counted("gemm_wgmma", [m, n, k]) else { return };
        let bias = 2 * n * 4 * m.div_ceil(forward[0]); // by each lane for itself
        check_counts(&format!("forward, {name}"), &stats, [m, n, k], forward, bias);
        let Some(stats) = counted("gemm_wgmma_backward", [m, n, k]) else { return };
        check_counts(&format!("backward, {name}"), &stats, [m, k, n], backward, 0);
    }
}
