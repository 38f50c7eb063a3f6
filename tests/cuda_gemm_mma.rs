//! The product on tensor cores, against f64.

mod common;

use common::device::*;
use common::products::*;
use common::*;
use proptest::prelude::*;
use ptx_sim::{Installed, counters, reset_counters};
use qlora_kernels::{DType, QuantSpec};

/// Shapes that the kernel takes: whole chunks of K, whole steps of rank, B of X's type; any M and N.
fn any_mma_case(most: [usize; 3]) -> impl Strategy<Value = Case> {
    let half = prop::sample::select(vec![DType::F16, DType::Bf16]);
    let shape = (1..=most[0], 1..=most[1], 1..=most[2], prop::option::of(1usize..=4));
    let rest = (any_codebook(), any_constants(), 6u32..=12, half, any_dtype(), any_dtype(), any::<u64>());
    (shape, rest).prop_map(|((m, n, chunks, steps), (codebook, constants, log, half, out, a, seed))| {
        let spec = QuantSpec::new(codebook, 1 << log).with_constants(constants);
        // X, dY, bias and Y, A and dX, B.
        let dtypes = [half, out, out, a, half];
        Case { m, n, k: 64 * chunks, rank: steps.map(|s| 16 * s), spec, dtypes, gap: 0, seed, threads: 1 }
    })
}

/// Shapes that the backward kernel takes: whole chunks of N, whole spans of K, A of dY's type; any M.
fn any_backward_case(most: [usize; 3]) -> impl Strategy<Value = Case> {
    let shape = (1..=most[0], 1..=most[1], 1..=most[2], prop::option::of(1usize..=4));
    let rest = (any_codebook(), any_constants(), 6u32..=12, any_dtype(), any_dtype(), any::<u64>());
    (shape, rest).prop_map(|((m, chunks, spans, steps), (codebook, constants, log, dx, other, seed))| {
        let spec = QuantSpec::new(codebook, 1 << log).with_constants(constants);
        let (n, k, rank) = (64 * chunks, 64 * spans, steps.map(|s| 16 * s));
        // X, dY, bias and Y, A and dX, B.
        let dtypes = [other, DType::Bf16, other, if rank.is_some() { DType::Bf16 } else { dx }, other];
        Case { m, n, k, rank, spec, dtypes, gap: 0, seed, threads: 1 }
    })
}

fn check(case: &Case, kernel: &str, times: usize) -> Result<(), TestCaseError> {
    let gpu = Gpu::new();
    reset_counters();
    case.check(&gpu)?;
    gpu.stream.synchronize().unwrap();
    if let Installed::Simulator = ptx_sim::install() {
        let used = counters().launches.iter().filter(|launch| launch.kernel == kernel).count();
        prop_assert_eq!(used, times, "launches of {}", kernel);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn small_backward_shapes(case in any_backward_case([40, 3, 3])) {
        check(&case, "gemm_mma_backward", 2)?;
    }

    #[test]
    fn small_shapes(case in any_mma_case([40, 140, 4])) {
        check(&case, "gemm_mma", 1)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Several tiles in both directions, of each number of rows.
    #[test]
    fn larger_shapes(case in any_mma_case([300, 300, 9])) {
        check(&case, "gemm_mma", 1)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn larger_backward_shapes(case in any_backward_case([150, 9, 5])) {
        check(&case, "gemm_mma_backward", 2)?;
    }
}

/// The same for the backward kernel: nothing conflicts, dY is read once for each 128 columns and W once for each tile.
#[test]
fn backward_traffic_is_as_planned() {
    let gpu = Gpu::new();
    let Installed::Simulator = ptx_sim::install() else { return };
    for (m, rows) in [(32, 32), (64, 64), (96, 32)] {
        let (n, k) = (256, 1024);
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
    let gpu = Gpu::new();
    let Installed::Simulator = ptx_sim::install() else { return };
    for (m, rows) in [(32, 32), (64, 64), (96, 32)] {
        let (n, k) = (256, 1024);
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
