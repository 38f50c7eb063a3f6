//! The linear layers: a frozen weight, quantized or not, and an adapter beside it (equation 5 of the
//! QLoRA paper): Y = X · doubleDequant(c₁, c₂, W)ᵀ + s · (X·Aᵀ)·Bᵀ, s = alpha / rank.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, CustomOp3, Error, Layout, Shape, Tensor, Var};
use qlora_kernels::{self as qk, Lora, QuantSpec, QuantizedMatrix, TensorMut, ops};

use crate::host::{slice, values};

/// The library's context and one workspace for all layers.
pub struct Engine {
    pub context: qk::Context,
    workspace: Mutex<Vec<u8>>,
}

impl Engine {
    pub fn new(threads: Option<usize>) -> Result<Arc<Self>> {
        let context = qk::Context::cpu();
        if let Some(threads) = threads {
            context.set_threads(threads)?;
        }
        Ok(Arc::new(Self { context, workspace: Mutex::default() }))
    }

    /// Runs an operation on X[m,k] and W[n,k] with a workspace that is large enough.
    fn with_workspace(
        &self,
        [m, n, k, rank]: [usize; 4],
        run: impl FnOnce(&mut [u8]) -> qk::Result<()>,
    ) -> candle_core::Result<()> {
        let bytes = ops::gemm_workspace_size(&self.context, m, n, k, rank).map_err(Error::wrap)?;
        let mut workspace = self.workspace.lock().unwrap();
        if workspace.len() < bytes {
            workspace.resize(bytes, 0);
        }
        run(&mut workspace).map_err(Error::wrap)
    }
}

/// What quantizing cost: storage and accuracy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footprint {
    pub parameters: usize,
    pub code_bytes: usize,
    pub constant_bytes: usize,
    /// Sums of (W - Ŵ)² and of W².
    pub squared_error: f64,
    pub squared_norm: f64,
}

impl Footprint {
    /// ‖W - Ŵ‖ / ‖W‖.
    pub fn relative_error(&self) -> f64 {
        (self.squared_error / self.squared_norm.max(f64::MIN_POSITIVE)).sqrt()
    }

    /// An unquantized weight counts as 16 bits a parameter, its usual form.
    pub fn weight_bytes(&self) -> usize {
        if self.code_bytes == 0 { 2 * self.parameters } else { self.code_bytes }
    }

    pub fn bits_per_parameter(&self) -> f64 {
        8.0 * (self.weight_bytes() + self.constant_bytes) as f64 / self.parameters as f64
    }
}

impl std::ops::AddAssign for Footprint {
    fn add_assign(&mut self, other: Self) {
        self.parameters += other.parameters;
        self.code_bytes += other.code_bytes;
        self.constant_bytes += other.constant_bytes;
        self.squared_error += other.squared_error;
        self.squared_norm += other.squared_norm;
    }
}

/// A frozen weight [out, in].
pub enum Base {
    Dense(Tensor),
    Quantized(Arc<QuantizedMatrix>),
}

impl Base {
    /// Quantizes a weight, or keeps it as it is without a `spec`.
    pub fn new(engine: &Engine, weight: Tensor, spec: Option<&QuantSpec>) -> Result<(Self, Footprint)> {
        let (rows, columns) = weight.dims2()?;
        let parameters = rows * columns;
        let Some(spec) = spec else {
            return Ok((Self::Dense(weight), Footprint { parameters, ..Footprint::default() }));
        };
        let plain = values(&weight)?;
        let view = qk::Tensor::new(&plain, rows, columns)?;
        let quantized = QuantizedMatrix::quantize(&engine.context, view, spec)?;
        let mut back = vec![0f32; parameters];
        quantized.dequantize(&engine.context, TensorMut::new(&mut back, rows, columns)?)?;
        let square = |x: f32| f64::from(x) * f64::from(x);
        let footprint = Footprint {
            parameters,
            code_bytes: quantized.code_bytes(),
            constant_bytes: quantized.constant_bytes(),
            squared_error: plain.iter().zip(&back).map(|(w, back)| square(w - back)).sum(),
            squared_norm: plain.iter().map(|w| square(*w)).sum(),
        };
        Ok((Self::Quantized(Arc::new(quantized)), footprint))
    }
}

/// The trained matrices A[rank, in] and B[out, rank].
pub struct Adapter {
    pub a: Var,
    pub b: Var,
    pub scale: f32,
}

pub struct Linear {
    pub engine: Arc<Engine>,
    pub base: Base,
    pub adapter: Option<Adapter>,
}

impl Linear {
    /// X[tokens, in] to Y[tokens, out]. Gradients flow to X, and with `train` also to A and B.
    pub fn forward(&self, x: &Tensor, train: bool) -> candle_core::Result<Tensor> {
        let adapter = self.adapter.as_ref().map(|adapter| {
            let (a, b) = (adapter.a.as_tensor(), adapter.b.as_tensor());
            if train {
                (a.clone(), b.clone(), adapter.scale)
            } else {
                (a.detach(), b.detach(), adapter.scale)
            }
        });
        match (&self.base, adapter) {
            // Without adapters nothing is trained, so candle keeps nothing for a way back.
            (Base::Dense(weight), None) => x.matmul(&weight.t()?),
            (Base::Dense(weight), Some((a, b, scale))) => {
                x.apply_op3(&a, &b, DenseLora { weight: weight.clone(), scale: f64::from(scale) })
            }
            (Base::Quantized(weight), None) => x.apply_op1(Quantized(self.engine.clone(), weight.clone())),
            (Base::Quantized(weight), Some((a, b, scale))) => {
                x.apply_op3(&a, &b, QLora { engine: self.engine.clone(), weight: weight.clone(), scale })
            }
        }
    }
}

/// X·Wᵀ with a quantized W, for measuring only.
struct Quantized(Arc<Engine>, Arc<QuantizedMatrix>);

impl CustomOp1 for Quantized {
    fn name(&self) -> &'static str {
        "quantized-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let Self(engine, weight) = self;
        let ((m, k), n) = (layout.shape().dims2()?, weight.rows());
        let mut y = vec![0f32; m * n];
        let x = slice(x, layout)?;
        engine.with_workspace([m, n, k, 0], |workspace| {
            let (x, y) = (qk::Tensor::new(x, m, k)?, TensorMut::new(&mut y, m, n)?);
            ops::gemm_forward(&engine.context, x, weight.view(), None, None, y, &mut *workspace)
        })?;
        Ok((CpuStorage::F32(y), (m, n).into()))
    }
}

/// The QLoRA layer: arguments X, A and B; the weight is dequantized by the library as it multiplies,
/// forward and backward.
struct QLora {
    engine: Arc<Engine>,
    weight: Arc<QuantizedMatrix>,
    scale: f32,
}

impl QLora {
    fn lora<'a>(&self, a: &'a [f32], b: &'a [f32], rank: usize) -> qk::Result<Lora<'a>> {
        let (n, k) = (self.weight.rows(), self.weight.cols());
        Ok(Lora { a: qk::Tensor::new(a, rank, k)?, b: qk::Tensor::new(b, n, rank)?, scale: self.scale })
    }
}

impl CustomOp3 for QLora {
    fn name(&self) -> &'static str {
        "qlora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((m, k), n) = (x_layout.shape().dims2()?, self.weight.rows());
        let rank = a_layout.dims()[0];
        let (x, a, b) = (slice(x, x_layout)?, slice(a, a_layout)?, slice(b, b_layout)?);
        let mut y = vec![0f32; m * n];
        self.engine.with_workspace([m, n, k, rank], |workspace| {
            let (x, y) = (qk::Tensor::new(x, m, k)?, TensorMut::new(&mut y, m, n)?);
            let lora = Some(self.lora(a, b, rank)?);
            ops::gemm_forward(&self.engine.context, x, self.weight.view(), None, lora, y, &mut *workspace)
        })?;
        Ok((CpuStorage::F32(y), (m, n).into()))
    }

    /// dX = dY·Ŵ + s·(dY·B)·A, dA = s·(dY·B)ᵀ·X, dB = s·dYᵀ·(X·Aᵀ): gradients only for the adapter and
    /// the layer's input, none for the frozen weight.
    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let ((m, k), (n, rank)) = (x.dims2()?, b.dims2()?);
        let dy = dy.contiguous()?;
        let (xs, a_values, b_values, dy) = (values(x)?, values(a)?, values(b)?, values(&dy)?);
        let (mut dx, mut da, mut db) = (vec![0f32; m * k], vec![0f32; rank * k], vec![0f32; n * rank]);
        self.engine.with_workspace([m, n, k, rank], |workspace| {
            let (context, lora) = (&self.engine.context, || self.lora(&a_values, &b_values, rank));
            let out = TensorMut::new(&mut dx, m, k)?;
            let grad = || qk::Tensor::new(&dy, m, n);
            ops::gemm_backward(
                context,
                grad()?,
                self.weight.view(),
                Some(lora()?),
                out,
                false,
                &mut *workspace,
            )?;
            let (da, db) = (TensorMut::new(&mut da, rank, k)?, TensorMut::new(&mut db, n, rank)?);
            let x = qk::Tensor::new(&xs, m, k)?;
            ops::lora_gradients(context, x, grad()?, lora()?, da, db, false, &mut *workspace)
        })?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((tensor(dx, x)?, tensor(da, a)?, tensor(db, b)?))
    }
}

/// The same layer on an unquantized weight, by candle's products alone. Left to itself, candle would
/// compute the frozen weight's gradient as well.
struct DenseLora {
    weight: Tensor,
    scale: f64,
}

impl CustomOp3 for DenseLora {
    fn name(&self) -> &'static str {
        "lora-linear"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let tensor = |storage, layout: &Layout| {
            Tensor::from_slice(slice(storage, layout)?, layout.shape(), self.weight.device())
        };
        let (x, a, b) = (tensor(x, x_layout)?, tensor(a, a_layout)?, tensor(b, b_layout)?);
        let update = (x.matmul(&a.t()?)? * self.scale)?.matmul(&b.t()?)?;
        let y = (x.matmul(&self.weight.t()?)? + update)?;
        Ok((CpuStorage::F32(values(&y)?.to_vec()), y.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        // Detached: else the gradients would keep a graph of their own, and with it all of its tensors.
        let (x, a, b) = (x.detach(), a.detach(), b.detach());
        let through_b = (dy.matmul(&b)? * self.scale)?;
        let dx = (dy.matmul(&self.weight)? + through_b.matmul(&a)?)?;
        let da = through_b.t()?.matmul(&x)?;
        let db = (dy.t()?.matmul(&x.matmul(&a.t()?)?)? * self.scale)?;
        Ok((Some(dx), Some(da), Some(db)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check_gradient, random};
    use qlora_kernels::{Codebook, Constants};

    fn linear(spec: Option<&QuantSpec>) -> Linear {
        let engine = Engine::new(Some(2)).unwrap();
        let (base, _) = Base::new(&engine, random((5, 64), 1), spec).unwrap();
        let var = |tensor| Var::from_tensor(&tensor).unwrap();
        let adapter = Adapter { a: var(random((3, 64), 2)), b: var(random((5, 3), 3)), scale: 0.5 };
        Linear { engine, base, adapter: Some(adapter) }
    }

    fn nf4() -> QuantSpec {
        QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8)
    }

    #[test]
    fn gradients_match_finite_differences() {
        for spec in [None, Some(&nf4())] {
            let x = random((4, 64), 4);
            let mut linear = linear(spec);
            check_gradient(&x, |x| linear.forward(x, true));
            let Adapter { a, b, scale } = linear.adapter.take().unwrap();
            // The same layer, once as a function of A and once of B.
            let forward = |a: &Tensor, b: &Tensor| match &linear.base {
                Base::Dense(weight) => {
                    x.apply_op3(a, b, DenseLora { weight: weight.clone(), scale: f64::from(scale) })
                }
                Base::Quantized(weight) => {
                    x.apply_op3(a, b, QLora { engine: linear.engine.clone(), weight: weight.clone(), scale })
                }
            };
            check_gradient(&a, |a| forward(a, &b));
            check_gradient(&b, |b| forward(&a, b));
        }
    }

    #[test]
    fn quantized_and_dense_layers_agree_on_the_dequantized_weight() {
        let layer = linear(Some(&nf4()));
        let Base::Quantized(weight) = &layer.base else { panic!("not quantized") };
        let mut back = vec![0f32; 5 * 64];
        weight.dequantize(&layer.engine.context, TensorMut::new(&mut back, 5, 64).unwrap()).unwrap();
        let mut dense = linear(None);
        dense.base = Base::Dense(Tensor::from_vec(back, (5, 64), &candle_core::Device::Cpu).unwrap());
        let x = random((7, 64), 5);
        for train in [true, false] {
            let (y, z) = (layer.forward(&x, train).unwrap(), dense.forward(&x, train).unwrap());
            let off = (y - z).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-4, "{off}");
        }
    }

    #[test]
    fn footprint_counts_bytes_and_errors() {
        let engine = Engine::new(Some(1)).unwrap();
        let (_, plain) =
            Base::new(&engine, random((64, 64), 1), Some(&QuantSpec::new(Codebook::Nf4, 64))).unwrap();
        assert_eq!((plain.parameters, plain.code_bytes, plain.constant_bytes), (4096, 2048, 256));
        let (_, double) = Base::new(&engine, random((64, 64), 1), Some(&nf4())).unwrap();
        assert!(double.constant_bytes < plain.constant_bytes / 2);
        let error = (plain.squared_error / plain.squared_norm).sqrt();
        assert!((0.02..0.15).contains(&error), "{error}");
    }
}
