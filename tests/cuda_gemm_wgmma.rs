//! The products by the warpgroups of Hopper, against f64.

mod common;

use common::device::*;
use common::products::*;
use proptest::prelude::*;
use ptx_sim::{Config, Installed, Stats, counters, reset_counters};
use qlora_kernels::{Codebook, DType, QuantSpec};

const HALVES: &[DType] = &[DType::F16, DType::Bf16];

/// A simulated Hopper with so few SMs that a block makes several tiles, one after the other; or the machine's own GPU.
fn gpu(sm_count: u32) -> Gpu {
    if let Installed::Simulator = ptx_sim::install() {
        ptx_sim::configure(&Config { compute_capability: (9, 0), sm_count, ..ptx_sim::config() });
    }
    Gpu::new()
}

/// Shapes that the forward kernel takes: 128 rows or more, whole chunks of K, any N.
fn any_forward_case(most: [usize; 3]) -> impl Strategy<Value = Case> {
    let rank = prop::option::of(1usize..=12);
    (any_mma_case(most, HALVES), rank).prop_map(|(case, rank)| Case {
        m: 127 + case.m,
        rank: rank.map(|r| 8 * r),
        ..case
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn forward(case in any_forward_case([200, 300, 5])) {
        check_kernel(&gpu(2), &case, "gemm_wgmma", 1)?;
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

/// Counted on the simulator: X is read once for each 128 rows of W, W and its constants once for each tile of rows of X, codes
/// by 16 bytes; nothing conflicts in shared memory.
#[test]
fn traffic_is_as_planned() {
    for (m, n, k, tokens) in [(128, 256, 512, 128), (200, 384, 256, 128), (512, 256, 512, 256)] {
        let Some(stats) = counted("gemm_wgmma", [m, n, k]) else { return };
        let (x, codes) = (2 * m * k * n / 128, n * k / 2 * m.div_ceil(tokens));
        let constants = 4 * n * k / 64 * m.div_ceil(tokens);
        let bias = 2 * n * 4 * m.div_ceil(tokens); // each lane its own
        println!("{m} x {n} x {k}: X {x}, codes {codes}, constants {constants}, bias {bias} bytes");
        assert_eq!(stats.global_loads.bytes as usize, x + codes + constants + bias, "M = {m}");
        assert_eq!(stats.global_loads.of_width(16) as usize, codes / 16, "M = {m}");
        assert_eq!(stats.global_stores.bytes as usize, 2 * m * n, "M = {m}");
        assert_eq!(stats.global_stores.of_width(16) as usize, 2 * m * n / 16, "M = {m}");
        assert_eq!(stats.bank_conflicts, 0, "M = {m}");
        let products = stats.count("wgmma.mma_async");
        assert_eq!(products as usize, n / 16 * m.div_ceil(tokens) * k / 16, "M = {m}");
        let values = (n * k * m.div_ceil(tokens)) as f64;
        let total = stats.warp_instructions as f64 * 32.0 / values;
        let of = |opcode: &str| stats.count(opcode) as f64 * 32.0 / values;
        println!(
            "  lane instructions a decoded value: {total:.2}, prmt {:.2}, of shared memory {:.2}",
            of("prmt"),
            of("ld.shared") + of("st.shared")
        );
    }
}
