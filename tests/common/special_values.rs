//! Weights of any magnitude, NaNs and infinities in the products. What depends on a value that is not finite is not finite
//! either, and nothing else.

use super::device::*;
use super::device_products::wgmma;
use super::products::*;
use super::*;
use proptest::test_runner::TestCaseError;
use ptx_sim::{Installed, counters, reset_counters};

/// So many rows of activations of a type, and the kernels that take them forward and backward.
pub type Shape = (usize, DType, [&'static str; 2]);

/// Several tiles each way; `wgmma` takes a last chunk of N that is not whole.
fn case(gpu: &Gpu, (m, activations, _): Shape, rank: Option<usize>) -> Case {
    let dtypes = [activations, activations, DType::F32, DType::F32, DType::F32];
    let spec = QuantSpec::new(Codebook::Nf4, 64);
    let case = Case { m, n: 192, k: 192, rank, spec, dtypes, gap: 0, seed: 5, threads: 1 };
    if wgmma(gpu, &case) { Case { n: 136, ..case } } else { case }
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
pub fn weights_of_any_magnitude(gpu: &Gpu, shapes: &[Shape]) {
    for &shape in shapes {
        let (m, activations, kernels) = shape;
        for (i, magnitude) in
            [1e-30, 2f32.powi(-20), 2f32.powi(-8), 256.0, 32768.0, 1e6].into_iter().enumerate()
        {
            let constants = [Constants::F32, Constants::Fp8][i % 2].clone();
            let case = case(gpu, shape, None);
            let case = Case { spec: case.spec.clone().with_constants(constants), ..case };
            let ends = wgmma(gpu, &case) && activations == DType::F16;
            if ends && !(0.001..1000.0).contains(&magnitude) {
                continue;
            }
            check(gpu, &case, &case.inputs(magnitude), kernels)
                .unwrap_or_else(|e| panic!("{kernels:?}, {activations:?}, M = {m}, {magnitude:e}: {e}"));
        }
    }
}

/// The block's constant is not finite, so that no value of the block is.
pub fn a_block_of_w_that_is_not_finite(gpu: &Gpu, shapes: &[Shape]) {
    for &shape in shapes {
        let (m, activations, kernels) = shape;
        let case = case(gpu, shape, None);
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
            check(gpu, &case, &inputs, kernels).unwrap_or_else(|e| {
                panic!("{kernels:?}, {activations:?}, M = {m}, {special} at {place}: {e}")
            });
        }
    }
}

/// A NaN or an infinity in one element of X or dY, of A, of B.
pub fn an_element_that_is_not_finite(gpu: &Gpu, shapes: &[Shape]) {
    let (nan, infinity) = (f32::NAN, f32::INFINITY);
    for &shape in shapes {
        let (m, activations, kernels) = shape;
        let case = case(gpu, shape, Some(20));
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
            named(what, check(gpu, &case, inputs, kernels));
        }
        for (what, inputs) in [("X", &in_x), ("dY", &in_dy), ("A", &in_a), ("B", &in_b)] {
            named(what, case.check_gradients(gpu, inputs));
        }
    }
}
