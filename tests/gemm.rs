//! Forward, backward and adapter gradients against f64, within a derived bound.
//!
//! The bound. Let `u = 2⁻²⁴` and `γ(n) = n·u / (1 - n·u)`. A dot product of length `n` in f32, in any order, fused or
//! not, is off by at most `γ(n)·Σ|a·b|` (Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., section
//! 3.1). The library computes, from f32 values that both sides share exactly,
//!
//! - `T = fl(s · fl(X·Aᵀ))`: off by at most `γ(K + 1)·|s|·|X|·|A|ᵀ` (the product, and the scaling's rounding);
//! - `Y` = sum of `K + r` products `[X, T]·[W, B]ᵀ`, plus bias (1 addition), plus old value (1 addition): off by
//!   `γ(K + r + 2)` times the sum of magnitudes, plus `T`'s error carried through `|B|`;
//! - one rounding to the output's type: its unit roundoff times `|Y|` plus that error, and half its smallest subnormal.
//!
//! With `T`'s magnitudes bounded by `|s|·|X|·|A|ᵀ`, both adapter terms together are within
//! `γ(2K + r + 4)·|s|·|X|·|A|ᵀ·|B|ᵀ`, since `(1+γ(a))(1+γ(b)) ≤ 1 + γ(a+b)` (Lemma 3.3). Nothing else enters: the
//! inputs are normal numbers whose products do not underflow by more than the subnormal term, which is added once a
//! product.

mod common;

use common::*;
use proptest::prelude::*;
use qlora_kernels::{Constants, Context, DType, Lora, QuantSpec, QuantizedMatrix, TensorMut, ops};

/// A matrix of f64, to compute with.
#[derive(Clone)]
struct M64 {
    rows: usize,
    cols: usize,
    data: Vec<f64>,
}

impl M64 {
    fn new(values: &[f32], rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: values.iter().map(|&v| f64::from(v)).collect() }
    }
    fn of(m: &Matrix) -> Self {
        Self::new(&m.values(), m.rows, m.cols)
    }
    fn t(&self) -> Self {
        let data = (0..self.cols).flat_map(|c| (0..self.rows).map(move |r| self.data[r * self.cols + c]));
        Self { rows: self.cols, cols: self.rows, data: data.collect() }
    }
    fn mul(&self, other: &Self) -> Self {
        assert_eq!(self.cols, other.rows);
        let mut data = vec![0.0; self.rows * other.cols];
        for (row, out) in self.data.chunks(self.cols.max(1)).zip(data.chunks_mut(other.cols.max(1))) {
            for (a, b) in row.iter().zip(other.data.chunks(other.cols.max(1))) {
                out.iter_mut().zip(b).for_each(|(o, b)| *o += a * b);
            }
        }
        Self { rows: self.rows, cols: other.cols, data }
    }
    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self { data: self.data.iter().map(|&v| f(v)).collect(), ..*self }
    }
    fn abs(&self) -> Self {
        self.map(f64::abs)
    }
    fn add(&self, other: &Self) -> Self {
        assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        Self { data: self.data.iter().zip(&other.data).map(|(a, b)| a + b).collect(), ..*self }
    }
}

fn gamma(n: usize) -> f64 {
    let nu = n as f64 * 2f64.powi(-24);
    nu / (1.0 - nu)
}

/// Holds `actual` to `exact`, where f32 arithmetic of depth `depth` on terms of total `magnitude` is allowed.
fn within(actual: &Matrix, exact: &M64, magnitude: &M64, depth: usize) -> Result<(), TestCaseError> {
    let (roundoff, tiny) = unit_roundoff(actual.view().dtype());
    for (i, &value) in actual.values().iter().enumerate() {
        let arithmetic = gamma(depth) * magnitude.data[i] + depth as f64 * 2f64.powi(-149);
        let bound = arithmetic + roundoff * (exact.data[i].abs() + arithmetic) + tiny;
        let error = (f64::from(value) - exact.data[i]).abs();
        prop_assert!(
            error <= bound,
            "element {i}: {value} for {}, off by {error:e} > {bound:e}",
            exact.data[i]
        );
    }
    Ok(())
}

#[derive(Clone, Debug)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    rank: Option<usize>,
    spec: QuantSpec,
    dtypes: [DType; 5],
    gap: usize,
    seed: u64,
    threads: usize,
}

fn any_case(limit: usize) -> impl Strategy<Value = Case> {
    let dtypes = [any_dtype(), any_dtype(), any_dtype(), any_dtype(), any_dtype()];
    let shape = (1..=limit, 1..=limit, 1..=limit, prop::option::of(1usize..20));
    (shape, any_codebook(), any_constants(), any_block_size(), dtypes, 0usize..3, any::<u64>(), 1usize..4)
        .prop_map(|((m, n, k, rank), codebook, constants, block_size, dtypes, gap, seed, threads)| {
            let spec = QuantSpec::new(codebook, block_size).with_constants(constants);
            Case { m, n, k, rank, spec, dtypes, gap, seed, threads }
        })
}

impl Case {
    fn matrix(&self, which: usize, rows: usize, cols: usize) -> Matrix {
        let values = numbers(rows * cols, self.seed.wrapping_add(which as u64 * 977), &[]);
        Matrix::new(self.dtypes[which % 5], &values, rows, cols, self.gap)
    }

    /// Forward, backward and gradients on one context.
    fn check(&self, context: &Context) -> Result<(), TestCaseError> {
        let Case { m, n, k, .. } = *self;
        context.set_threads(self.threads).unwrap();
        let rank = self.rank.unwrap_or(0);
        let scale = 0.37f32;
        let weight = numbers(n * k, self.seed ^ 5, &[]);
        let q = QuantizedMatrix::quantize(
            context,
            qlora_kernels::Tensor::new(&weight, n, k).unwrap(),
            &self.spec,
        )
        .unwrap();
        let mut w = vec![0f32; n * k];
        q.dequantize(context, TensorMut::new(&mut w, n, k).unwrap()).unwrap();
        let w = M64::new(&w, n, k);
        let (x, dy, bias) = (self.matrix(0, m, k), self.matrix(1, m, n), self.matrix(2, 1, n));
        let (a, b) = (self.matrix(3, rank, k), self.matrix(4, n, rank));
        let (x64, dy64, a64, b64) = (M64::of(&x), M64::of(&dy), M64::of(&a), M64::of(&b));
        let s = f64::from(scale);
        let lora = self.rank.map(|_| Lora { a: a.view(), b: b.view(), scale });
        let bytes = ops::gemm_workspace_size(context, m, n, k, rank).unwrap();
        // Garbage that would show: NaNs.
        let workspace = &mut vec![0xff; bytes + 3][3..];
        let ones = M64 { rows: m, cols: 1, data: vec![1.0; m] };
        let depth = |inner: usize| inner + if rank > 0 { inner + rank + 4 } else { 4 };

        let mut y = Matrix::zeros(self.dtypes[2], m, n, self.gap);
        ops::gemm_forward(
            context,
            x.view(),
            q.view(),
            Some(bias.view()),
            lora,
            y.view_mut(),
            &mut *workspace,
        )
        .unwrap();
        let low = x64.mul(&a64.t()).map(|v| v * s);
        let exact = x64.mul(&w.t()).add(&low.mul(&b64.t())).add(&ones.mul(&M64::of(&bias)));
        let low_abs = x64.abs().mul(&a64.abs().t()).map(|v| v * s);
        let magnitude = x64
            .abs()
            .mul(&w.abs().t())
            .add(&low_abs.mul(&b64.abs().t()))
            .add(&ones.mul(&M64::of(&bias).abs()));
        within(&y, &exact, &magnitude, depth(k))?;

        let mut dx = Matrix::zeros(self.dtypes[3], m, k, self.gap);
        ops::gemm_backward(context, dy.view(), q.view(), lora, dx.view_mut(), &mut *workspace).unwrap();
        let up = dy64.mul(&b64).map(|v| v * s);
        let up_abs = dy64.abs().mul(&b64.abs()).map(|v| v * s);
        let exact = dy64.mul(&w).add(&up.mul(&a64));
        let magnitude = dy64.abs().mul(&w.abs()).add(&up_abs.mul(&a64.abs()));
        within(&dx, &exact, &magnitude, depth(n))?;

        if let Some(lora) = lora {
            for accumulate in [false, true] {
                let (mut da, mut db) = (self.matrix(4, rank, k), self.matrix(0, n, rank));
                let old = if accumulate { 1.0 } else { 0.0 };
                let (old_a, old_b) = (M64::of(&da).map(|v| v * old), M64::of(&db).map(|v| v * old));
                let (da_view, db_view) = (da.view_mut(), db.view_mut());
                ops::lora_gradients(
                    context,
                    x.view(),
                    dy.view(),
                    lora,
                    da_view,
                    db_view,
                    accumulate,
                    &mut *workspace,
                )
                .unwrap();
                let magnitude = up_abs.t().mul(&x64.abs()).add(&old_a.abs());
                within(&da, &up.t().mul(&x64).add(&old_a), &magnitude, n + m + 4)?;
                let magnitude = dy64.abs().t().mul(&low_abs).add(&old_b.abs());
                within(&db, &dy64.t().mul(&low).add(&old_b), &magnitude, k + m + 4)?;
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn small_shapes(case in any_case(70)) {
        for context in Context::cpu_variants() {
            case.check(&context)?;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Long enough for several blocks of the engine in every direction.
    #[test]
    fn larger_shapes(case in any_case(600)) {
        for context in Context::cpu_variants() {
            case.check(&context)?;
        }
    }
}

/// The number of threads, and calls at the same time, change no bit.
#[test]
fn threads_change_no_bit() {
    let (m, n, k, r) = (67, 520, 391, 5);
    for context in Context::cpu_variants() {
        let weight = numbers(n * k, 3, &[]);
        let spec = QuantSpec::default().with_constants(Constants::Dynamic);
        let q =
            QuantizedMatrix::quantize(&context, qlora_kernels::Tensor::new(&weight, n, k).unwrap(), &spec)
                .unwrap();
        let x = Matrix::new(DType::Bf16, &numbers(m * k, 4, &[]), m, k, 0);
        let (a, b) = (
            Matrix::new(DType::F32, &numbers(r * k, 5, &[]), r, k, 0),
            Matrix::new(DType::F32, &numbers(n * r, 6, &[]), n, r, 0),
        );
        let run = || {
            let lora = Lora { a: a.view(), b: b.view(), scale: 2.0 };
            let mut workspace = vec![0; ops::gemm_workspace_size(&context, m, n, k, r).unwrap()];
            let mut y = Matrix::zeros(DType::F32, m, n, 0);
            let (mut da, mut db) = (Matrix::zeros(DType::F32, r, k, 0), Matrix::zeros(DType::F32, n, r, 0));
            ops::gemm_forward(&context, x.view(), q.view(), None, Some(lora), y.view_mut(), &mut workspace)
                .unwrap();
            let dy = y.view();
            ops::lora_gradients(
                &context,
                x.view(),
                dy,
                lora,
                da.view_mut(),
                db.view_mut(),
                false,
                &mut workspace,
            )
            .unwrap();
            (y.values(), da.values(), db.values())
        };
        context.set_threads(1).unwrap();
        let alone = run();
        for threads in [2, 3, 8] {
            context.set_threads(threads).unwrap();
            assert!(run() == alone, "{threads} threads, {}", context.instruction_set());
        }
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            for call in calls {
                assert!(call.join().unwrap() == alone, "calls at once, {}", context.instruction_set());
            }
        });
    }
}

#[test]
fn empty_shapes() {
    let context = Context::cpu();
    let spec = QuantSpec::default();
    for (m, n, k) in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)] {
        let q =
            QuantizedMatrix::quantize(&context, Matrix::zeros(DType::F32, n, k, 0).view(), &spec).unwrap();
        let (x, dy) = (Matrix::zeros(DType::F32, m, k, 0), Matrix::zeros(DType::F32, m, n, 0));
        let bias = Matrix::new(DType::F32, &vec![1.5; n], 1, n, 0);
        let (a, b) = (Matrix::zeros(DType::F32, 2, k, 0), Matrix::zeros(DType::F32, n, 2, 0));
        let lora = Lora { a: a.view(), b: b.view(), scale: 1.0 };
        let mut workspace = vec![0; ops::gemm_workspace_size(&context, m, n, k, 2).unwrap()];
        let mut y = Matrix::zeros(DType::F32, m, n, 0);
        ops::gemm_forward(
            &context,
            x.view(),
            q.view(),
            Some(bias.view()),
            Some(lora),
            y.view_mut(),
            &mut workspace,
        )
        .unwrap();
        assert!(y.values().iter().all(|&v| v == 1.5));
        let mut dx = Matrix::new(DType::F32, &vec![7.0; m * k], m, k, 0);
        ops::gemm_backward(&context, dy.view(), q.view(), Some(lora), dx.view_mut(), &mut workspace).unwrap();
        assert!(dx.values().iter().all(|&v| v == 0.0));
        let (mut da, mut db) = (Matrix::zeros(DType::F32, 2, k, 0), Matrix::zeros(DType::F32, n, 2, 0));
        ops::lora_gradients(
            &context,
            x.view(),
            dy.view(),
            lora,
            da.view_mut(),
            db.view_mut(),
            false,
            &mut workspace,
        )
        .unwrap();
    }
}
