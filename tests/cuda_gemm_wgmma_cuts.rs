//! Every way in which products by the warpgroups of Hopper are cut: tiles of 64, 128 and 256 rows, by one block or by two in
//! a cluster, the sum whole, split, or split for the last tiles alone. One test: a simulated machine is the process's.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::products::*;
use ptx_sim::{Config, Installed, counters, reset_counters};
use qlora_kernels::wgmma_plan::{Decoding, Plan};
use qlora_kernels::{Codebook, Constants, DType, QuantSpec};

/// Which tiles are made in parts.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Split {
    Whole,
    All,
    Last,
}
use Split::{All, Last, Whole};

/// Rows of a tile, whether by two blocks, what is split; the SMs and a small shape (M, features, inner) that is cut so.
type Cut = (u32, bool, Split, u32, [usize; 3]);

const FORWARD: &[Cut] = &[
    (64, false, Whole, 2, [127, 64, 64]),
    (64, false, All, 20, [65, 64, 512]),
    (64, true, Whole, 4, [96, 64, 64]),
    (64, true, All, 32, [65, 128, 512]),
    (128, false, Whole, 2, [130, 64, 64]),
    (128, false, All, 3, [65, 64, 1280]),
    (128, true, Whole, 2, [96, 192, 64]),
    (128, true, All, 6, [65, 192, 1280]),
    (256, false, Whole, 2, [260, 64, 64]),
    (256, false, All, 3, [200, 64, 1536]),
    (256, true, Whole, 2, [130, 192, 64]),
    (256, true, All, 6, [200, 192, 3072]),
    (128, false, Last, 3, [65, 832, 512]),
    (128, true, Last, 8, [130, 1088, 768]),
];

const BACKWARD: &[Cut] = &[
    (64, false, Whole, 2, [65, 64, 64]),
    (64, false, All, 12, [96, 64, 512]),
    (64, true, Whole, 4, [127, 64, 64]),
    (64, true, All, 12, [127, 192, 768]),
    (128, false, Whole, 2, [130, 64, 64]),
    (128, false, All, 5, [65, 64, 1280]),
    (128, true, Whole, 2, [65, 192, 64]),
    (128, true, All, 8, [65, 192, 1024]),
    (256, false, Whole, 2, [260, 64, 64]),
    (256, false, All, 3, [200, 64, 1536]),
    (256, true, Whole, 2, [130, 192, 64]),
    (256, true, All, 6, [200, 192, 3072]),
    (128, false, Last, 3, [65, 832, 512]),
    (128, true, Last, 4, [65, 576, 768]),
];

#[test]
fn every_cut_is_right() {
    let Installed::Simulator = ptx_sim::install() else { return };
    for (i, &(rows, paired, split, sm_count, [m, features, inner])) in FORWARD.iter().enumerate() {
        check(i, "gemm_wgmma", [m, features, inner], (rows, paired, split, sm_count));
    }
    for (i, &(rows, paired, split, sm_count, [m, features, inner])) in BACKWARD.iter().enumerate() {
        check(i, "gemm_wgmma_backward", [m, inner, features], (rows, paired, split, sm_count));
    }
    repeats();
}

/// The same bits every time, from a cut whose last tiles are in parts.
fn repeats() {
    ptx_sim::configure(&Config { compute_capability: (9, 0), sm_count: 3, ..ptx_sim::config() });
    let (gpu, [m, n, k]) = (Gpu::new(), [65, 832, 512]);
    assert!(matches!(Plan::new(3, [n, m, k].map(|len| len as u64), Decoding::Forward).whole, 1..7));
    let spec = QuantSpec::new(Codebook::Nf4, 64);
    let case = Case { m, n, k, rank: None, spec, dtypes: [DType::Bf16; 5], gap: 0, seed: 3, threads: 1 };
    let (x, w, bias) = (case.matrix(0, m, k), case.weight(), case.matrix(2, 1, n));
    let run = || {
        let mut y = common::Matrix::zeros(DType::F32, m, n, 0);
        gpu.forward(&x, &w, &bias, None, &mut y);
        y.values()
    };
    assert_eq!(run(), run());
}

/// With everything in the pass: an adapter of an odd rank, bias or what is there, constants that are quantized.
fn check(i: usize, kernel: &str, [m, n, k]: [usize; 3], cut: (u32, bool, Split, u32)) {
    let (rows, paired, split, sm_count) = cut;
    // Graphs of the older driver know nothing of launches that overlap.
    let driver_version = [12_020, 12_030][i / 2 % 2];
    ptx_sim::configure(&Config { compute_capability: (9, 0), sm_count, driver_version, ..ptx_sim::config() });
    let gpu = Gpu::new();
    let half = [DType::Bf16, DType::F16][i % 2];
    let out = [DType::Bf16, DType::F32, DType::F16][i % 3];
    let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8);
    let dtypes = [half, half, out, out, half];
    let case = Case { m, n, k, rank: Some(20), spec, dtypes, gap: 0, seed: i as u64, threads: 1 };
    reset_counters();
    let what = format!("{kernel}, {cut:?}, {case:?}");
    case.check(&gpu).unwrap_or_else(|error| panic!("{what}: {error}"));
    gpu.stream.synchronize().unwrap();
    let launches = counters().launches;
    let at = launches.iter().position(|launch| launch.kernel == kernel).expect("it was used");
    let uses = |part: &str| launches[at].stats.by_opcode.keys().any(|opcode| opcode.contains(part));
    assert!(uses(&format!("m64n{rows}k16")), "{what}: tiles of other rows");
    assert_eq!(uses("multicast"), paired, "{what}: clusters");
    let (features, inner, decoding) = match kernel {
        "gemm_wgmma" => (n, k, Decoding::Forward),
        _ => (k, n, Decoding::Backward),
    };
    let plan = Plan::new(sm_count.into(), [features, m, inner].map(|len| len as u64), decoding);
    let is = match (plan.splits, plan.first) {
        (1, _) => Whole,
        (_, 0) => All,
        _ => Last,
    };
    assert_eq!(is, split, "{what}: {plan:?}");
    // Whole tiles are written once and for all, parts as f32, to be added up.
    let stored = |launch: usize| launches[launch].stats.global_stores.bytes;
    let (in_parts, size) = (features as u64 - plan.first, out.size() as u64);
    let parts = if split == Whole { 0 } else { 4 * plan.splits * in_parts };
    assert_eq!(stored(at), m as u64 * (size * plan.first + parts), "{what}: {plan:?}");
    let next = &launches[at + 1];
    assert_eq!(next.kernel == "split_sum", split != Whole, "{what}: followed by {}", next.kernel);
    assert_eq!(next.overlaps, split != Whole && driver_version >= 12_030, "{what}");
    if split != Whole {
        assert_eq!(stored(at + 1), m as u64 * size * in_parts, "{what}: {plan:?}");
    }
}
