//! The adapter's own products on tensor cores, T, U and the gradients, against f64, on devices with one SM and with many: with
//! whole sums and split ones.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::products::*;
use common::*;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ptx_sim::{Config, Installed, Launch, counters, reset_counters};
use qlora_kernels::{Codebook, DType, QuantSpec};
use std::sync::Mutex;

/// Runs tests on a simulated H100 with this many SMs, which is the process's: one after the other. On a real device, on what
/// it has.
fn on(processors: u32, test: impl FnOnce(&Gpu)) {
    on_sm((9, 0), processors, test);
}

/// The same for any compute capability.
fn on_sm(compute_capability: (u32, u32), sm_count: u32, test: impl FnOnce(&Gpu)) {
    static MACHINE: Mutex<()> = Mutex::new(());
    let _only = MACHINE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&Config { compute_capability, sm_count, ..ptx_sim::config() });
    }
    test(&Gpu::new());
}

/// The launches of the kernel since the last reset; none on a real device.
fn launches(gpu: &Gpu) -> Vec<Launch> {
    gpu.stream.synchronize().unwrap();
    counters().launches.into_iter().filter(|launch| launch.kernel == "gemm_low_rank").collect()
}

/// 16-bit X and dY with rows of whole 16-byte pieces; any M, rank and adapter.
fn any_adapter_case(most: usize) -> impl Strategy<Value = Case> {
    let half = || prop::sample::select(vec![DType::F16, DType::Bf16]);
    let shape = (1..=most, 1..=most / 8, 1..=most / 8, 1usize..=100, 0usize..2);
    let dtypes = (half(), half(), any_dtype(), any_dtype(), any_dtype());
    (shape, dtypes, any::<u64>()).prop_map(|((m, n, k, rank, gap), (x, dy, out, a, b), seed)| {
        let spec = QuantSpec::new(Codebook::Nf4, 64);
        let (n, k, gap) = (8 * n, 8 * k, 8 * gap);
        Case { m, n, k, rank: Some(rank), spec, dtypes: [x, dy, out, a, b], gap, seed, threads: 1 }
    })
}

fn check_many(count: u32, processors: u32, most: usize) {
    on(processors, |gpu| {
        let mut runner = TestRunner::new(cases(count));
        let result = runner.run(&any_adapter_case(most), |case| {
            reset_counters();
            case.check_gradients(gpu, &case.inputs(1.0))?;
            if let Installed::Simulator = ptx_sim::install() {
                // U and dA, T and dB, written and added.
                prop_assert_eq!(launches(gpu).len(), 8);
            }
            Ok(())
        });
        result.unwrap();
    });
}

#[test]
fn small_gradients() {
    for processors in [1, 3, 132] {
        check_many(12, processors, 80);
    }
}

/// Several tiles and slices, more chunks than the ring has slots.
#[test]
fn larger_gradients() {
    for processors in [1, 8] {
        check_many(4, processors, 600);
    }
}

/// T and U in the fused products, whatever the adapter: nothing is left to the kernel without tensor cores.
#[test]
fn terms_of_fused_products() {
    for processors in [1, 132] {
        on(processors, |gpu| {
            let mut runner = TestRunner::new(cases(8));
            let result = runner.run(&any_adapter_case(200), |case| {
                let [n, k] = [case.n, case.k].map(|size| size.next_multiple_of(64));
                reset_counters();
                Case { n, k, ..case }.check(gpu)?;
                gpu.stream.synchronize().unwrap();
                if let Installed::Simulator = ptx_sim::install() {
                    prop_assert!(counters().launches.iter().all(|launch| launch.kernel != "gemm"));
                }
                Ok(())
            });
            result.unwrap();
        });
    }
}

/// bf16, on 4 SMs. The long matrix is read once for each 64 ranks, the narrow one once for each 128 elements across it, both
/// 16 bytes at a time and without bank conflicts; slices are written once.
#[test]
fn traffic_is_as_planned() {
    on(4, |gpu| {
        let Installed::Simulator = ptx_sim::install() else { return };
        for (rank, adapter) in [(64, DType::Bf16), (32, DType::F32), (72, DType::Bf16), (8, DType::Bf16)] {
            let (m, n, k) = (256, 512, 384);
            let dtypes = [DType::Bf16, DType::Bf16, DType::F32, adapter, adapter];
            let spec = QuantSpec::new(Codebook::Nf4, 64);
            let case = Case { m, n, k, rank: Some(rank), spec, dtypes, gap: 0, seed: 1, threads: 1 };
            reset_counters();
            case.check_gradients(gpu, &case.inputs(1.0)).unwrap();
            let launches = launches(gpu);
            let parts = if adapter == DType::F32 { 2 } else { 1 };
            // The long matrix's size across the sum and along it, and the narrow one's parts: U, dA, T, dB.
            let products = [(m, n, parts), (k, m, 2), (m, k, parts), (n, m, 2)];
            for (launch, (outer, inner, parts)) in launches.iter().zip(products.into_iter().cycle()) {
                let stats = &launch.stats;
                assert_eq!(stats.bank_conflicts, 0, "{launch:?}");
                let long = 2 * outer * inner * rank.div_ceil(64);
                let narrow = 2 * inner * rank * parts * outer.div_ceil(128);
                println!(
                    "rank {rank}, {outer} x {inner}: long {long}, narrow {narrow}, of {} bytes",
                    stats.global_loads.bytes
                );
                assert_eq!(stats.global_loads.bytes as usize, long + narrow);
                assert_eq!(16 * stats.global_loads.of_width(16) as usize, long + narrow);
                let slice = 4 * outer * rank;
                assert_eq!(stats.global_stores.bytes as usize % slice, 0);
                assert!(stats.global_stores.bytes as usize <= 4 * slice, "{launch:?}");
            }
            assert_eq!(launches.len(), 8);
        }
    });
}

/// Two blocks share an SM where each can bring two chunks ahead; where not, one has it for itself.
#[test]
fn rings_fit_the_device() {
    // KiB of a block with slots of 32 KiB, and of 24.
    for (sm, kib) in [((8, 0), [128, 72]), ((8, 6), [96, 96]), ((9, 0), [96, 96]), ((12, 0), [96, 96])] {
        on_sm(sm, 2, |gpu| {
            for (rank, kib) in [64, 32].into_iter().zip(kib) {
                let dtypes = [DType::Bf16, DType::Bf16, DType::F32, DType::F32, DType::F32];
                let spec = QuantSpec::new(Codebook::Nf4, 64);
                let (m, n, k) = (260, 136, 72);
                let case = Case { m, n, k, rank: Some(rank), spec, dtypes, gap: 0, seed: 3, threads: 1 };
                reset_counters();
                case.check_gradients(gpu, &case.inputs(1.0)).unwrap();
                let launches = launches(gpu);
                let Installed::Simulator = ptx_sim::install() else { continue };
                assert_eq!(launches.len(), 8);
                assert!(launches.iter().all(|launch| launch.shared == kib << 10), "{sm:?}: {launches:?}");
            }
        });
    }
}

/// Split sums are added in order: the same bits each time.
#[test]
fn gradients_repeat_bit_for_bit() {
    on(132, |gpu| {
        let dtypes = [DType::Bf16, DType::F16, DType::F32, DType::F32, DType::F32];
        let spec = QuantSpec::new(Codebook::Nf4, 64);
        let (m, n, k, rank) = (200, 128, 256, 20);
        let case = Case { m, n, k, rank: Some(rank), spec, dtypes, gap: 0, seed: 7, threads: 1 };
        let run = || {
            let [x, dy, a, b] = [(0, m, k), (1, m, n), (3, rank, k), (4, n, rank)]
                .map(|(which, rows, cols)| case.matrix(which, rows, cols));
            let mut out = [Matrix::zeros(DType::F32, rank, k, 0), Matrix::zeros(DType::F32, n, rank, 0)];
            gpu.gradients(&x, &dy, (&a, &b, 0.37), out.each_mut(), false);
            out.map(|m| m.values().into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let first = run();
        assert!(first.iter().flatten().any(|&bits| bits != 0));
        for _ in 0..3 {
            assert_eq!(run(), first);
        }
    });
}
