//! Helpers of the tests.

use candle_core::{Device, Result, Shape, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Values between -1 and 1.
pub fn random(shape: impl Into<Shape>, seed: u64) -> Tensor {
    let shape = shape.into();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let values: Vec<f32> =
        (0..shape.elem_count()).map(|_| rng.next_u32() as f32 / 2f32.powi(31) - 1.0).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Compares the gradient of a random weighting of f(x) with central differences.
pub fn check_gradient(x: &Tensor, f: impl Fn(&Tensor) -> Result<Tensor>) {
    let weighted = |x: &Tensor| {
        let y = f(x)?;
        (&y * random(y.shape(), 99))?.sum_all()
    };
    let var = Var::from_tensor(x).unwrap();
    let grads = weighted(var.as_tensor()).unwrap().backward().unwrap();
    let gradient = grads.get(&var).expect("no gradient").flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let values = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (at, gradient) in gradient.iter().enumerate() {
        let moved = |step: f32| -> f64 {
            let mut values = values.clone();
            values[at] += step;
            let x = Tensor::from_vec(values, x.shape(), &Device::Cpu).unwrap();
            weighted(&x).unwrap().to_scalar::<f32>().unwrap().into()
        };
        let step = 1e-2;
        let expected = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        let off = (f64::from(*gradient) - expected).abs();
        assert!(
            off < 2e-3 + 0.01 * expected.abs(),
            "element {at}: gradient {gradient}, differences {expected}"
        );
    }
}
