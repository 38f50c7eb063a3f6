//! The AdamW step against f64, and the same bits on every code path.

mod common;

use common::*;
use proptest::prelude::*;
use qlora_kernels::{AdamW, Context, DType, ops};

/// One step in f64; returns (p, m, v).
fn step64(h: &AdamW, p: f64, g: f64, m: f64, v: f64) -> (f64, f64, f64) {
    let (b1, b2, t) = (f64::from(h.beta1), f64::from(h.beta2), h.step as i32);
    let g = g * f64::from(h.grad_scale);
    let m = b1 * m + (1.0 - b1) * g;
    let v = b2 * v + (1.0 - b2) * g * g;
    let m_hat = m / (1.0 - b1.powi(t));
    let v_hat = v / (1.0 - b2.powi(t));
    let lr = f64::from(h.lr);
    (p * (1.0 - lr * f64::from(h.weight_decay)) - lr * m_hat / (v_hat.sqrt() + f64::from(h.eps)), m, v)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Bounds, with u = 2⁻²⁴: m and v are sums of two terms of at most three factors each, so within 4u of the sum of
    /// the terms' magnitudes (v's terms are positive). √v halves v's relative error, then come a root, a product, a sum
    /// and the rounded scalar: within 7u of the denominator. The update m/denominator·step_size adds m's error and three
    /// more roundings, the decayed parameter two, the difference one, and the type of p one.
    #[test]
    fn a_step_is_within_its_bound(
        (rows, cols) in (1usize..5, 1usize..3000),
        (dtype, grad_dtype) in (any_dtype(), any_dtype()),
        (lr, weight_decay, grad_scale) in (1e-5f32..1e-1, 0f32..0.5, 0.01f32..4.0),
        (beta1, beta2) in (0f32..0.99, 0.5f32..0.9999),
        step in 1u64..2000,
        seed: u64,
    ) {
        let hyper = AdamW { lr, beta1, beta2, eps: 1e-8, weight_decay, step, grad_scale };
        let n = rows * cols;
        let start = Matrix::new(dtype, &numbers(n, seed, &[0.0]), rows, cols, 1);
        let grad = Matrix::new(grad_dtype, &numbers(n, seed ^ 1, &[0.0]), rows, cols, 2);
        let m0 = numbers(n, seed ^ 2, &[0.0]);
        let v0: Vec<f32> = numbers(n, seed ^ 3, &[0.0]).into_iter().map(|v| v * v).collect();
        let mut first: Option<(Vec<f32>, Vec<f32>, Vec<f32>)> = None;
        for context in Context::cpu_variants() {
            let (mut p, mut m, mut v) = (start.clone(), m0.clone(), v0.clone());
            ops::adamw_step(&context, &hyper, p.view_mut(), grad.view(), m.as_mut_slice(), v.as_mut_slice()).unwrap();
            let result = (p.values(), m, v);
            let Some(first) = &first else {
                first = Some(result);
                continue;
            };
            prop_assert_eq!(&result, first, "{}", context.instruction_set());
        }
        let (p, m, v) = first.unwrap();
        let u = 2f64.powi(-24);
        let (roundoff, tiny) = unit_roundoff(dtype);
        let (start, grad) = (start.values(), grad.values());
        for i in 0..n {
            let (p0, g) = (f64::from(start[i]), f64::from(grad[i]));
            let (pe, me, ve) = step64(&hyper, p0, g, f64::from(m0[i]), f64::from(v0[i]));
            let terms = (f64::from(beta1) * f64::from(m0[i])).abs() + ((1.0 - f64::from(beta1)) * g * f64::from(grad_scale)).abs();
            let m_bound = 4.1 * u * terms + 1e-44;
            prop_assert!((f64::from(m[i]) - me).abs() <= m_bound, "m");
            prop_assert!((f64::from(v[i]) - ve).abs() <= 5.1 * u * ve + 1e-44, "v");
            let denominator = (ve / (1.0 - f64::from(beta2).powi(step as i32))).sqrt() + 1e-8;
            let factor = f64::from(lr) / (1.0 - f64::from(beta1).powi(step as i32)) / denominator;
            let update = (factor * me).abs();
            let arithmetic = factor * m_bound + 11.1 * u * update + 3.1 * u * p0.abs() + u * pe.abs();
            let bound = arithmetic + roundoff * (pe.abs() + arithmetic) + tiny;
            prop_assert!((f64::from(p[i]) - pe).abs() <= bound, "p[{}]: {} for {}", i, p[i], pe);
        }
    }
}

#[test]
fn a_quadratic_is_minimized() {
    let context = Context::cpu();
    let target: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.1).sin()).collect();
    let mut p = Matrix::zeros(DType::F32, 10, 100, 0);
    let (mut m, mut v) = (vec![0.0; 1000], vec![0.0; 1000]);
    for step in 1..=500 {
        let gradient: Vec<f32> = p.values().iter().zip(&target).map(|(p, t)| p - t).collect();
        let grad = Matrix::new(DType::F32, &gradient, 10, 100, 0);
        let hyper = AdamW { lr: 0.02, weight_decay: 0.0, step, ..AdamW::default() };
        ops::adamw_step(&context, &hyper, p.view_mut(), grad.view(), m.as_mut_slice(), v.as_mut_slice())
            .unwrap();
    }
    let worst = p.values().iter().zip(&target).map(|(p, t)| (p - t).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-3, "{worst}");
}

#[test]
fn bad_hyperparameters_are_named() {
    let context = Context::cpu();
    let good = AdamW::default();
    let bad = [
        ("lr", AdamW { lr: f32::NAN, ..good }),
        ("lr", AdamW { lr: -1.0, ..good }),
        ("beta1", AdamW { beta1: 1.0, ..good }),
        ("beta2", AdamW { beta2: -0.1, ..good }),
        ("eps", AdamW { eps: f32::INFINITY, ..good }),
        ("weight_decay", AdamW { weight_decay: -1.0, ..good }),
        ("grad_scale", AdamW { grad_scale: f32::NAN, ..good }),
        ("step", AdamW { step: 0, ..good }),
    ];
    for (name, hyper) in bad {
        let (mut p, grad) = (Matrix::new(DType::F32, &[1.0], 1, 1, 0), Matrix::zeros(DType::F32, 1, 1, 0));
        let (mut m, mut v) = ([0f32], [0f32]);
        let error =
            ops::adamw_step(&context, &hyper, p.view_mut(), grad.view(), m.as_mut_slice(), v.as_mut_slice())
                .unwrap_err();
        assert!(error.message().starts_with(name), "{error}");
        assert_eq!(p.values(), [1.0]);
    }
}
