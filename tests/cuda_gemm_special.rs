//! Weights of any magnitude, NaNs and infinities in the products on a Hopper, by each of the kernels. What depends on a value
//! that is not finite is not finite either, and nothing else.

mod common;

use common::device::*;
use common::products::*;
use proptest::test_runner::TestCaseError;
use ptx_sim::{Config, Installed, counters, reset_counters};
use qlora_kernels::{Codebook, Constants, DType, QuantSpec};

/// Forward and backward kernels take rows of activations, up to 64, less than 128 and more, of types as these.
const SHAPES: [(usize, DType, [&str; 2]); 9] = [
    (3, DType::Bf16, ["gemm_skinny", "gemm_skinny_backward"]),
    (3, DType::F16, ["gemm_skinny", "gemm_mma_backward"]),
    (40, DType::Bf16, ["gemm_skinny", "gemm_skinny_backward"]),
    (40, DType::F16, ["gemm_skinny", "gemm_mma_backward"]),
    (40, DType::F32, ["gemm", "gemm"]),
    (100, DType::Bf16, ["gemm_mma", "gemm_mma_backward"]),
    (100, DType::F16, ["gemm_mma", "gemm_mma_backward"]),
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

/// Several tiles each way; `wgmma` takes a last chunk of N that is not whole.
fn case(m: usize, activations: DType, rank: Option<usize>) -> Case {
    let dtypes = [activations, activations, DType::F32, DType::F32, DType::F32];
    let spec = QuantSpec::new(Codebook::Nf4, 64);
    let n = if m < 128 { 192 } else { 136 };
    Case { m, n, k: 192, rank, spec, dtypes, gap: 0, seed: 5, threads: 1 }
}

/// Checks forward and backward products, and on the simulator whose they are.
fn check(gpu: &Gpu, case: &Case, inputs: &Inputs, kernels: [&str; 2]) -> Result<(), TestCaseError> {
    reset_counters();
    case.check_products(gpu, inputs)?;
    gpu.stream.synchronize().unwrap();
    if let Installed::Simulator = ptx_sim::install() {
        let launches = counters().launches;
        assert!(kernels.iter().all(|kernel| launches.iter().any(|launch| launch.kernel == *kernel)));
    }
    Ok(())
}

/// In f16, `wgmma` is given W as cuBLAS would be, in a type that ends at 65504: there, only what it holds. All others take what
/// f32 holds.
#[test]
fn weights_of_any_magnitude() {
    let gpu = gpu();
    for (m, activations, kernels) in SHAPES {
        for (i, magnitude) in
            [1e-30, 2f32.powi(-20), 2f32.powi(-8), 256.0, 32768.0, 1e6].into_iter().enumerate()
        {
            if m >= 128 && activations == DType::F16 && !(0.001..1000.0).contains(&magnitude) {
                continue;
            }
            let constants = [Constants::F32, Constants::Fp8][i % 2].clone();
            let case = case(m, activations, None);
            let case = Case { spec: case.spec.clone().with_constants(constants), ..case };
            check(&gpu, &case, &case.inputs(magnitude), kernels)
                .unwrap_or_else(|e| panic!("{kernels:?}, {activations:?}, M = {m}, {magnitude:e}: {e}"));
        }
    }
}

/// The block's constant is not finite, so that no value of the block is.
#[test]
fn a_block_of_w_that_is_not_finite() {
    let gpu = gpu();
    for (m, activations, kernels) in SHAPES {
        let case = case(m, activations, None);
        let [middle, last] = [70 * case.k + 64, case.n * case.k - 1];
        for (place, special, constants) in [
            (middle, f32::NAN, Constants::Fp8),
            (middle, f32::INFINITY, Constants::F32),
            (last, f32::NAN, Constants::F32),
            (last, f32::INFINITY, Constants::Fp8),
        ] {
            let case = Case { spec: case.spec.clone().with_constants(constants), ..case.clone() };
            let mut inputs = case.inputs(1.0);
            inputs.w[place] = special;
            check(&gpu, &case, &inputs, kernels).unwrap_or_else(|e| {
                panic!("{kernels:?}, {activations:?}, M = {m}, {special} at {place}: {e}")
            });
        }
    }
}

/// A NaN or an infinity in one element of X or dY, of A, of B.
#[test]
fn an_element_that_is_not_finite() {
    let gpu = gpu();
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    for (m, activations, kernels) in SHAPES {
        let case = case(m, activations, Some(20));
        let Case { n, k, .. } = case;
        let finite = || case.inputs(1.0);
        let in_x = Inputs { x: finite().x.with([m - 1, 70], nan), ..finite() };
        let in_dy = Inputs { dy: finite().dy.with([1, n - 1], infinity), ..finite() };
        let in_both = Inputs { x: in_x.x.clone(), dy: in_dy.dy.clone(), ..finite() };
        let in_a = Inputs { a: finite().a.with([19, k - 1], infinity), ..finite() };
        let in_b = Inputs { b: finite().b.with([n - 1, 3], nan), ..finite() };
        let named = |what: &str, result: Result<(), TestCaseError>| {
            result.unwrap_or_else(|e| panic!("{kernels:?}, {activations:?}, M = {m}, {what}: {e}"));
        };
        for (what, inputs) in [("X and dY", &in_both), ("A", &in_a), ("B", &in_b)] {
            named(what, check(&gpu, &case, inputs, kernels));
        }
        for (what, inputs) in [("X", &in_x), ("dY", &in_dy), ("A", &in_a), ("B", &in_b)] {
            named(what, case.check_gradients(&gpu, inputs));
        }
    }
}
