//! Products and adapter gradients, on whatever device, against f64 within a derived bound.
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
//!
//! Where operands are rounded to 16 bits before they are multiplied, an [`Allowance`] comes on top. Rounding to a type of
//! unit roundoff u and smallest normal number f is off by at most `u·(|v| + f)`, subnormals included. So with B and T
//! rounded their term is off by at most `(|T| + f)·(|B| + f)ᵀ` times `u` for one of them, `2u + u²` for both.
//!
//! In T, U and the gradients, f32 is taken as the sum of two bf16 numbers: the second leaves out at most u of what the first
//! does, which is at most u of the whole, where `u = 2⁻⁸`. If the other matrix is f16, it is such a sum, too, exact; but the
//! product of both second ones, at most `u·u(1+u)` of the whole, is left out.

use super::exact::{M64, low_rank, within};
use super::*;
use qlora_kernels::{Context, Lora, QuantizedMatrix, ops};

/// An adapter: A, B and the scale.
pub type Adapter<'a> = (&'a Matrix, &'a Matrix, f32);

/// What a product may be off beyond sums in f32.
#[derive(Clone, Copy)]
pub struct Allowance {
    /// Of the terms with W, relative to their magnitude.
    pub base: f64,
    /// Weights smaller than this round as if they were this.
    pub base_floor: f64,
    /// Of the adapter's terms.
    pub adapter: f64,
    /// Their operands likewise: the smallest normal number of the type.
    pub adapter_floor: f64,
    /// Unit roundoffs of one addition, in units of f32's.
    pub additions: usize,
}

impl Allowance {
    /// Nothing is rounded before it is multiplied.
    pub const NONE: Self =
        Self { base: 0.0, base_floor: 0.0, adapter: 0.0, adapter_floor: 0.0, additions: 1 };

    /// Where a processor multiplies bf16, W is rounded to it beside a left side of it, and smaller weights are taken for zero.
    /// Nothing else is: an adapter's matrix is multiplied so only if it is bf16 itself, and products of bf16 are exact in f32.
    fn of_processor(context: &Context, left: DType) -> Self {
        let pairs = context.instruction_set() == "avx512_bf16" && left == DType::Bf16;
        let (unit_roundoff, least) = (2f64.powi(-8), 2f64.powi(-126));
        if pairs {
            Self { base: unit_roundoff, base_floor: least / unit_roundoff, ..Self::NONE }
        } else {
            Self::NONE
        }
    }
}

/// Something that can do what is tested. Outputs are replaced, or added to.
pub trait Products {
    /// For the forward product.
    fn forward_allowance(&self, _case: &Case) -> Allowance {
        Allowance::NONE
    }
    /// For the backward product with a W of this magnitude.
    fn backward_allowance(&self, _case: &Case, _magnitude: f32) -> Allowance {
        Allowance::NONE
    }
    /// For dA and dB.
    fn gradient_allowance(&self, _case: &Case) -> [Allowance; 2] {
        [Allowance::NONE; 2]
    }
    fn forward(
        &self,
        x: &Matrix,
        w: &QuantizedMatrix,
        bias: &Matrix,
        lora: Option<Adapter<'_>>,
        y: &mut Matrix,
    );
    fn backward(
        &self,
        dy: &Matrix,
        w: &QuantizedMatrix,
        lora: Option<Adapter<'_>>,
        dx: &mut Matrix,
        accumulate: bool,
    );
    fn gradients(&self, x: &Matrix, dy: &Matrix, lora: Adapter<'_>, out: [&mut Matrix; 2], accumulate: bool);
}

fn lora<'a>((a, b, scale): Adapter<'a>) -> Lora<'a> {
    Lora { a: a.view(), b: b.view(), scale }
}

/// On host memory, with a workspace full of garbage that would show (NaNs), at an odd address.
impl Products for Context {
    fn forward_allowance(&self, case: &Case) -> Allowance {
        Allowance::of_processor(self, case.dtypes[0])
    }

    fn backward_allowance(&self, case: &Case, _magnitude: f32) -> Allowance {
        Allowance::of_processor(self, case.dtypes[1])
    }

    fn forward(
        &self,
        x: &Matrix,
        w: &QuantizedMatrix,
        bias: &Matrix,
        adapter: Option<Adapter<'_>>,
        y: &mut Matrix,
    ) {
        let workspace = &mut workspace(self, x.rows, w, adapter)[3..];
        let lora = adapter.map(lora);
        ops::gemm_forward(self, x.view(), w.view(), Some(bias.view()), lora, y.view_mut(), workspace)
            .unwrap();
    }

    fn backward(
        &self,
        dy: &Matrix,
        w: &QuantizedMatrix,
        adapter: Option<Adapter<'_>>,
        dx: &mut Matrix,
        accumulate: bool,
    ) {
        let workspace = &mut workspace(self, dy.rows, w, adapter)[3..];
        let (lora, dx) = (adapter.map(lora), dx.view_mut());
        ops::gemm_backward(self, dy.view(), w.view(), lora, dx, accumulate, workspace).unwrap();
    }

    fn gradients(
        &self,
        x: &Matrix,
        dy: &Matrix,
        adapter: Adapter<'_>,
        [da, db]: [&mut Matrix; 2],
        accumulate: bool,
    ) {
        let bytes = ops::gemm_workspace_size(self, x.rows, dy.cols, x.cols, adapter.0.rows).unwrap();
        let workspace = &mut vec![0xff; bytes + 3][3..];
        let (da, db) = (da.view_mut(), db.view_mut());
        ops::lora_gradients(self, x.view(), dy.view(), lora(adapter), da, db, accumulate, workspace).unwrap();
    }
}

fn workspace(context: &Context, m: usize, w: &QuantizedMatrix, adapter: Option<Adapter<'_>>) -> Vec<u8> {
    let rank = adapter.map_or(0, |(a, ..)| a.rows);
    vec![0xff; ops::gemm_workspace_size(context, m, w.rows(), w.cols(), rank).unwrap() + 3]
}

#[derive(Clone, Debug)]
pub struct Case {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub rank: Option<usize>,
    pub spec: QuantSpec,
    pub dtypes: [DType; 5],
    pub gap: usize,
    pub seed: u64,
    pub threads: usize,
}

pub fn any_case(limit: usize) -> impl Strategy<Value = Case> {
    let dtypes = [any_dtype(), any_dtype(), any_dtype(), any_dtype(), any_dtype()];
    let shape = (1..=limit, 1..=limit, 1..=limit, prop::option::of(1usize..20));
    (shape, any_codebook(), any_constants(), any_block_size(), dtypes, 0usize..3, any::<u64>(), 1usize..4)
        .prop_map(|((m, n, k, rank), codebook, constants, block_size, dtypes, gap, seed, threads)| {
            let spec = QuantSpec::new(codebook, block_size).with_constants(constants);
            Case { m, n, k, rank, spec, dtypes, gap, seed, threads }
        })
}

/// No adapter, or one of any rank, whole steps of 16 among them.
fn any_rank() -> impl Strategy<Value = Option<usize>> {
    prop_oneof![Just(None), (1usize..=4).prop_map(|steps| Some(16 * steps)), (1usize..=70).prop_map(Some)]
}

/// Shapes that the forward kernels on tensor cores take: whole chunks of K; any M, N and rank, and any adapter.
pub fn any_mma_case(most: [usize; 3], halves: &'static [DType]) -> impl Strategy<Value = Case> {
    let types = (prop::sample::select(halves), any_dtype(), any_dtype(), any_dtype());
    let shape = (1..=most[0], 1..=most[1], 1..=most[2], any_rank());
    let rest = (any_codebook(), any_constants(), 6u32..=12, types, any::<u64>());
    (shape, rest).prop_map(|((m, n, chunks, rank), (codebook, constants, log, types, seed))| {
        let spec = QuantSpec::new(codebook, 1 << log).with_constants(constants);
        let (half, out, a, b) = types;
        // X, dY, bias and Y, A and dX, B.
        let dtypes = [half, out, out, a, b];
        Case { m, n, k: 64 * chunks, rank, spec, dtypes, gap: 0, seed, threads: 1 }
    })
}

/// Shapes that the backward kernels on tensor cores take: 16-bit dY, whole chunks of N, whole spans of K; any M and rank,
/// and any adapter.
pub fn any_backward_case(most: [usize; 3], halves: &'static [DType]) -> impl Strategy<Value = Case> {
    let shape = (1..=most[0], 1..=most[1], 1..=most[2], any_rank());
    let types = (prop::sample::select(halves), any_dtype(), any_dtype());
    let rest = (any_codebook(), any_constants(), 6u32..=12, types, any::<u64>());
    (shape, rest).prop_map(|((m, chunks, spans, rank), (codebook, constants, log, types, seed))| {
        let spec = QuantSpec::new(codebook, 1 << log).with_constants(constants);
        let (half, a, other) = types;
        // X, dY, bias and Y, A and dX, B.
        let dtypes = [other, half, other, a, other];
        Case { m, n: 64 * chunks, k: 64 * spans, rank, spec, dtypes, gap: 0, seed, threads: 1 }
    })
}

/// Those of them that take N in whole vectors of 16 bytes.
pub fn any_vectors_case(most: [usize; 3], halves: &'static [DType]) -> impl Strategy<Value = Case> {
    let case = (any_backward_case(most, halves), 0usize..8);
    case.prop_map(|(case, fewer)| Case { n: case.n - 8 * fewer, ..case })
}

/// What a case multiplies.
pub struct Inputs {
    pub x: Matrix,
    pub dy: Matrix,
    pub bias: Matrix,
    pub a: Matrix,
    pub b: Matrix,
    /// To be quantized.
    pub w: Vec<f32>,
    /// No number of W is larger.
    pub magnitude: f32,
}

impl Case {
    /// Whether the forward product is one for tensor cores: whole chunks of K, blocks that do not end inside one, and X's
    /// rows aligned.
    pub fn tensor_cores(&self) -> bool {
        self.is_aligned(0) && self.k.is_multiple_of(64) && self.spec.block_size >= 64
    }

    /// Whether the backward product is one: rows of W in whole spans, blocks no shorter, dY's rows aligned, and
    /// of N whole chunks, in bf16 of few rows whole vectors, by `wgmma` anything.
    pub fn tensor_cores_backward(&self, wgmma: bool) -> bool {
        let few = self.dtypes[1] == DType::Bf16 && self.m <= 64;
        let whole = if few { 8 } else { 64 };
        self.is_aligned(1)
            && (wgmma || self.n.is_multiple_of(whole))
            && self.k.is_multiple_of(64)
            && self.spec.block_size >= 64
    }

    /// Whether X (0) or dY (1) is one for tensor cores in the adapter's own products: aligned rows of whole 16-byte pieces.
    pub fn is_long(&self, which: usize) -> bool {
        self.is_aligned(which) && self.gap.is_multiple_of(8)
    }

    /// Whether X (0) or dY (1) has 16 bits and rows that start at multiples of 16 bytes.
    fn is_aligned(&self, which: usize) -> bool {
        let cols = [self.k, self.n][which];
        self.dtypes[which] != DType::F32 && (cols + self.gap).is_multiple_of(8)
    }

    /// X, dY, bias, A or B.
    pub fn matrix(&self, which: usize, rows: usize, cols: usize) -> Matrix {
        self.scaled(which, rows, cols, 1.0)
    }

    fn scaled(&self, which: usize, rows: usize, cols: usize, magnitude: f32) -> Matrix {
        let values = numbers(rows * cols, self.seed.wrapping_add(which as u64 * 977), &[]);
        let values: Vec<_> = values.into_iter().map(|v| magnitude * v).collect();
        Matrix::new(self.dtypes[which % 5], &values, rows, cols, self.gap)
    }

    /// W.
    pub fn weight(&self) -> QuantizedMatrix {
        self.quantize(&self.inputs(1.0).w)
    }

    fn quantize(&self, weight: &[f32]) -> QuantizedMatrix {
        let weight = Tensor::new(weight, self.n, self.k).unwrap();
        QuantizedMatrix::quantize(&Context::cpu(), weight, &self.spec).unwrap()
    }

    /// What is multiplied: numbers in [-1, 1), those of W and the bias times `magnitude`.
    pub fn inputs(&self, magnitude: f32) -> Inputs {
        let Case { m, n, k, .. } = *self;
        let rank = self.rank.unwrap_or(0);
        let w = numbers(n * k, self.seed ^ 5, &[]).into_iter().map(|v| magnitude * v).collect();
        Inputs {
            x: self.matrix(0, m, k),
            dy: self.matrix(1, m, n),
            bias: self.scaled(2, 1, n, magnitude),
            a: self.matrix(3, rank, k),
            b: self.matrix(4, n, rank),
            w,
            magnitude,
        }
    }

    /// Forward, backward and gradients.
    pub fn check(&self, device: &impl Products) -> Result<(), TestCaseError> {
        let inputs = self.inputs(1.0);
        self.check_products(device, &inputs)?;
        self.check_gradients(device, &inputs)
    }

    /// Forward and backward.
    pub fn check_products(&self, device: &impl Products, inputs: &Inputs) -> Result<(), TestCaseError> {
        let Case { m, n, k, .. } = *self;
        let Inputs { x, dy, bias, a, b, magnitude: size, .. } = inputs;
        let (rank, cpu, q) = (self.rank.unwrap_or(0), Context::cpu(), self.quantize(&inputs.w));
        let mut w = vec![0f32; n * k];
        q.dequantize(&cpu, TensorMut::new(&mut w, n, k).unwrap()).unwrap();
        let w = M64::new(&w, n, k);
        let [x64, dy64, a64, b64] = [x, dy, a, b].map(M64::of);
        let adapter = self.rank.map(|_| (a, b, SCALE));
        let ones = M64 { rows: m, cols: 1, data: vec![1.0; m] };
        let depth = |inner: usize| inner + if rank > 0 { inner + rank + 4 } else { 4 };
        let rounding = |allowance: Allowance, base: &M64, left: &M64, right: &M64| {
            let [left, right] = [left, right].map(|m| m.map(|v| v.abs() + allowance.adapter_floor));
            let adapter = left.mul(&right).map(|v| v * allowance.adapter);
            base.map(|v| v * allowance.base).add(&adapter)
        };

        let mut y = Matrix::zeros(self.dtypes[2], m, n, self.gap);
        device.forward(x, &q, bias, adapter, &mut y);
        let (low, low_abs) = low_rank(&x64, &a64.t(), SCALE);
        let exact = x64.mul(&w.t()).add(&low.mul(&b64.t())).add(&ones.mul(&M64::of(bias)));
        let allowance = device.forward_allowance(self);
        let base = x64.abs().mul(&w.map(|v| v.abs() + allowance.base_floor).t());
        let terms = base.add(&low_abs.mul(&b64.abs().t())).add(&ones.mul(&M64::of(bias).abs()));
        let rounding_y = rounding(allowance, &base, &low_abs, &b64.t());
        within(&y, &exact, &terms, allowance.additions * depth(k), &rounding_y)?;

        let (up, up_abs) = low_rank(&dy64, &b64, SCALE);
        let exact = dy64.mul(&w).add(&up.mul(&a64));
        let allowance = device.backward_allowance(self, *size);
        let base = dy64.abs().mul(&w.map(|v| v.abs() + allowance.base_floor));
        let magnitude = base.add(&up_abs.mul(&a64.abs()));
        let rounding_dx = rounding(allowance, &base, &up_abs, &a64);
        for accumulate in [false, true] {
            let mut dx = self.scaled(3, m, k, *size);
            let old = M64::of(&dx).map(|v| if accumulate { v } else { 0.0 });
            device.backward(dy, &q, adapter, &mut dx, accumulate);
            let (exact, magnitude) = (exact.add(&old), magnitude.add(&old.abs()));
            within(&dx, &exact, &magnitude, allowance.additions * depth(n), &rounding_dx)?;
        }
        Ok(())
    }

    /// The adapter's gradients, if there is one.
    pub fn check_gradients(&self, device: &impl Products, inputs: &Inputs) -> Result<(), TestCaseError> {
        let Case { m, n, k, .. } = *self;
        let Some(rank) = self.rank else { return Ok(()) };
        let Inputs { x, dy, a, b, .. } = inputs;
        let (x64, dy64) = (M64::of(x), M64::of(dy));
        let (low, low_abs) = low_rank(&x64, &M64::of(a).t(), SCALE);
        let (up, up_abs) = low_rank(&dy64, &M64::of(b), SCALE);
        let exact = [up.t().mul(&x64), dy64.t().mul(&low)];
        let magnitudes = [up_abs.t().mul(&x64.abs()), dy64.abs().t().mul(&low_abs)];
        let allowances = device.gradient_allowance(self);
        for accumulate in [false, true] {
            let mut out = [self.matrix(4, rank, k), self.matrix(0, n, rank)];
            let old = out.each_ref().map(|m| M64::of(m).map(|v| if accumulate { v } else { 0.0 }));
            device.gradients(x, dy, (a, b, SCALE), out.each_mut(), accumulate);
            for i in 0..2 {
                let Allowance { adapter, additions, .. } = allowances[i];
                let (exact, magnitude) = (exact[i].add(&old[i]), magnitudes[i].add(&old[i].abs()));
                let depth = [n, k][i] + m + 4;
                let rounding = magnitudes[i].map(|v| v * adapter);
                within(&out[i], &exact, &magnitude, additions * depth, &rounding)?;
            }
        }
        Ok(())
    }
}

/// The scale of the adapters.
const SCALE: f32 = 0.37;
