//! Products with few rows on tensor cores, against f64; their traffic, counted. Run with `--nocapture` to see the counts.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::cases;
use common::device::*;
use common::device_products::check_kernel;
use common::products::*;
use proptest::prelude::*;
use ptx_sim::{Installed, Stats, counters, reset_counters};
use qlora_kernels::{Codebook, Constants, DType, QuantSpec};
use std::sync::{Mutex, MutexGuard};

const HALVES: &[DType] = &[DType::F16, DType::Bf16];

/// A simulated device of so many SMs, one at a time.
fn gpu(sm_count: u32) -> (MutexGuard<'static, ()>, Gpu) {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&ptx_sim::Config { sm_count, ..ptx_sim::config() });
    }
    (guard, Gpu::new())
}

/// Whether each launch of a kernel since the last reset was followed by the addition of parts; not known on a real device.
fn was_split(kernel: &str) -> bool {
    let Installed::Simulator = ptx_sim::install() else { return true };
    let launches = counters().launches;
    let mut pairs = launches.windows(2).filter(|pair| pair[0].kernel == kernel);
    pairs.all(|pair| pair[1].kernel == "split_sum") && launches.last().unwrap().kernel != kernel
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn forward(case in any_mma_case([64, 200, 9], HALVES)) {
        let (_guard, gpu) = gpu(2);
        check_kernel(&gpu, &case, "gemm_skinny", 1)?;
    }
}

proptest! {
    #![proptest_config(cases(4))]

    /// So few tiles that K is split over blocks.
    #[test]
    fn split_forward(case in any_mma_case([9, 40, 1], HALVES), chunks in 80usize..120) {
        let (_guard, gpu) = gpu(132);
        let case = Case { k: 64 * chunks, ..case };
        check_kernel(&gpu, &case, "gemm_skinny", 1)?;
        prop_assert!(was_split("gemm_skinny"));
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn backward(case in any_vectors_case([64, 4, 6], &[DType::Bf16])) {
        let (_guard, gpu) = gpu(2);
        check_kernel(&gpu, &case, "gemm_skinny_backward", 2)?;
    }
}

proptest! {
    #![proptest_config(cases(4))]

    /// So few tiles that N is split over blocks.
    #[test]
    fn split_backward(case in any_vectors_case([9, 1, 1], &[DType::Bf16]), chunks in 80usize..120) {
        let (_guard, gpu) = gpu(132);
        let case = Case { n: 64 * chunks + case.n, ..case };
        check_kernel(&gpu, &case, "gemm_skinny_backward", 2)?;
        prop_assert!(was_split("gemm_skinny_backward"));
    }
}

/// The sum may end anywhere in a piece and in a chunk of each number of pieces.
#[test]
fn backward_of_every_length() {
    let (_guard, gpu) = gpu(2);
    for vectors in 1..=9 {
        for m in [3, 64] {
            check_kernel(&gpu, &plain(m, 8 * vectors, 128), "gemm_skinny_backward", 2).unwrap();
        }
    }
}

/// NF4 in blocks of 64, bf16, no adapter.
fn plain(m: usize, n: usize, k: usize) -> Case {
    let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8);
    Case { m, n, k, rank: None, spec, dtypes: [DType::Bf16; 5], gap: 0, seed: 1, threads: 1 }
}

/// What a kernel's first launch did.
fn counted(gpu: &Gpu, case: &Case, kernel: &str) -> Option<Stats> {
    reset_counters();
    case.check(gpu).unwrap();
    gpu.stream.synchronize().unwrap();
    let Installed::Simulator = ptx_sim::install() else { return None };
    Some(counters().launches.into_iter().find(|launch| launch.kernel == kernel).unwrap().stats)
}

/// Nothing conflicts in shared memory, W's codes are read once, X once for each tile, all of it 16 bytes at a time.
#[test]
fn forward_traffic_is_as_planned() {
    let (_guard, gpu) = gpu(4);
    let (n, k) = (512, 1024);
    for (m, tiles) in [(1, 8), (4, 8), (16, 8), (64, 4)] {
        let Some(stats) = counted(&gpu, &plain(m, n, k), "gemm_skinny") else { return };
        report("forward", [m, n, k], 2 * m * k * tiles, &stats);
        let bias = 2 * 256 * tiles; // by each thread
        assert!(other_bytes(&stats) <= constants(n * k) + bias, "M = {m}");
    }
}

/// The same for the backward kernel.
#[test]
fn backward_traffic_is_as_planned() {
    let (_guard, gpu) = gpu(4);
    let (n, k) = (512, 1024);
    for (m, tiles) in [(1, 8), (4, 8), (16, 8), (64, 4)] {
        let Some(stats) = counted(&gpu, &plain(m, n, k), "gemm_skinny_backward") else { return };
        report("backward", [m, n, k], 2 * m * n * tiles, &stats);
        assert!(other_bytes(&stats) <= constants(n * k), "M = {m}");
    }
}

/// Bytes that are not loaded 16 at a time.
fn other_bytes(stats: &Stats) -> usize {
    (stats.global_loads.bytes - 16 * stats.global_loads.of_width(16)) as usize
}

/// Bytes for the constants: for each block a word with its code, and a scale; for each thread the offset, and its part of
/// the codebook's tables.
fn constants(elements: usize) -> usize {
    2 * 4 * elements / 64 + 4 * 4 * 256 * 8
}

/// Prints what was counted, and checks the wide loads: W's codes once, and `activations` bytes.
fn report(name: &str, [m, n, k]: [usize; 3], activations: usize, stats: &Stats) {
    let wide = 16 * stats.global_loads.of_width(16) as usize;
    println!(
        "{name}, M {m}, {n} x {k}: loads of 16 bytes: {wide} bytes, {} of codes; of others {}; stores {}; conflicts {}; thread \
         instructions a weight {:.2}",
        n * k / 2,
        other_bytes(stats),
        stats.global_stores.bytes,
        stats.bank_conflicts,
        stats.thread_instructions as f64 / (n * k) as f64
    );
    assert_eq!(wide, n * k / 2 + activations, "{name}, M = {m}");
    assert_eq!(stats.bank_conflicts, 0, "{name}, M = {m}");
}

/// The same bits every time, with one part of K or several.
#[test]
fn results_repeat() {
    let (_guard, gpu) = gpu(132);
    for (case, split) in [(plain(5, 300, 576), false), (plain(5, 40, 64 * 96), true)] {
        let (x, w, bias) = (case.matrix(0, case.m, case.k), case.weight(), case.matrix(2, 1, case.n));
        let run = || {
            let mut y = common::Matrix::zeros(DType::F32, case.m, case.n, 0);
            reset_counters();
            gpu.forward(&x, &w, &bias, None, &mut y);
            y.values()
        };
        let first = run();
        if let Installed::Simulator = ptx_sim::install() {
            assert_eq!(was_split("gemm_skinny"), split);
        }
        assert_eq!(first, run());
    }
}
