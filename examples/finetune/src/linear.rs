//! The linear layers: a frozen weight, quantized or not, and an adapter beside it (equation 5 of the
//! QLoRA paper): Y = X · doubleDequant(c₁, c₂, W)ᵀ + s · (X·Aᵀ)·Bᵀ, s = alpha / rank.

use std::sync::{Arc, OnceLock};

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp3, DType, Layout, Shape, Tensor, Var};
use qlora_kernels::{self as qk, Lora, QuantSpec, QuantizedMatrix, TensorMut, ops};

use crate::engine::{Engine, Memory, Weight};
use crate::host::{slice, values};

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
    Quantized(Arc<Weight>),
}

impl Base {
    /// Quantizes a weight, on the processor: every place gives the same bits, and the file's values are here. Or
    /// keeps it as it is without a `spec`.
    pub fn new(engine: &Engine, weight: Tensor, spec: Option<&QuantSpec>) -> Result<(Self, Footprint)> {
        let (rows, columns) = weight.dims2()?;
        let parameters = rows * columns;
        let Some(spec) = spec else {
            return Ok((Self::Dense(weight), Footprint { parameters, ..Footprint::default() }));
        };
        let plain = values(&weight)?;
        let view = qk::Tensor::new(&plain, rows, columns)?;
        let quantized = QuantizedMatrix::quantize(&engine.host, view, spec)?;
        let mut back = vec![0f32; parameters];
        quantized.dequantize(&engine.host, TensorMut::new(&mut back, rows, columns)?)?;
        let square = |x: f32| f64::from(x) * f64::from(x);
        let footprint = Footprint {
            parameters,
            code_bytes: quantized.code_bytes(),
            constant_bytes: quantized.constant_bytes(),
            squared_error: plain.iter().zip(&back).map(|(w, back)| square(w - back)).sum(),
            squared_norm: plain.iter().map(|w| square(*w)).sum(),
        };
        Ok((Self::Quantized(Arc::new(Weight::new(engine, &quantized)?)), footprint))
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
            (Base::Quantized(weight), None) => {
                let none = |rows, columns| Tensor::zeros((rows, columns), DType::F32, x.device());
                let (a, b) = (none(0, weight.columns)?, none(weight.rows, 0)?);
                x.apply_op3(&a, &b, QLora::new(&self.engine, weight, 0.0))
            }
            (Base::Quantized(weight), Some((a, b, scale))) => {
                x.apply_op3(&a, &b, QLora::new(&self.engine, weight, scale))
            }
        }
    }
}

/// The QLoRA layer: arguments X, A and B, of rank 0 where there is no adapter. The weight is dequantized by the
/// library as it multiplies, forward and backward.
struct QLora {
    engine: Arc<Engine>,
    weight: Arc<Weight>,
    scale: f32,
    /// The arguments' copies on a device, kept for the way back.
    copies: OnceLock<[Memory<'static, f32>; 3]>,
}

impl QLora {
    fn new(engine: &Arc<Engine>, weight: &Arc<Weight>, scale: f32) -> Self {
        Self { engine: engine.clone(), weight: weight.clone(), scale, copies: OnceLock::new() }
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
        let ((m, k), (n, rank)) = (x_layout.shape().dims2()?, b_layout.shape().dims2()?);
        let x = self.engine.put(slice(x, x_layout)?)?;
        let (a, b) = (self.engine.put(slice(a, a_layout)?)?, self.engine.put(slice(b, b_layout)?)?);
        let mut y = self.engine.zeros(m * n)?;
        self.engine.run([m, n, k, rank], |context, workspace| {
            let (x, a, b, mut y) = (x.read()?, a.read()?, b.read()?, y.write()?);
            let lora = Lora { a: a.matrix(rank, k)?, b: b.matrix(n, rank)?, scale: self.scale };
            let (x, y) = (x.matrix(m, k)?, y.matrix(m, n)?);
            self.weight.with_view(|w| ops::gemm_forward(context, x, w, None, Some(lora), y, workspace))
        })?;
        if let [Some(x), Some(a), Some(b)] = [x, a, b].map(Memory::on_device) {
            let _ = self.copies.set([x, a, b]);
        }
        Ok((CpuStorage::F32(y.into_vec()?), (m, n).into()))
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
        let (x_values, a_values, b_values, dy_values) = (values(x)?, values(a)?, values(b)?, values(&dy)?);
        let borrowed = [&*x_values, &*a_values, &*b_values].map(|values| Memory::Host(values.into()));
        let [x_memory, a_memory, b_memory] = self.copies.get().unwrap_or(&borrowed);
        let dy = self.engine.put(&*dy_values)?;
        let (mut dx, mut da, mut db) =
            (self.engine.zeros(m * k)?, self.engine.zeros(rank * k)?, self.engine.zeros(n * rank)?);
        self.engine.run([m, n, k, rank], |context, mut workspace| {
            let (x, a, b, dy) = (x_memory.read()?, a_memory.read()?, b_memory.read()?, dy.read()?);
            let (mut dx, mut da, mut db) = (dx.write()?, da.write()?, db.write()?);
            let (x, dy) = (x.matrix(m, k)?, dy.matrix(m, n)?);
            let lora = Lora { a: a.matrix(rank, k)?, b: b.matrix(n, rank)?, scale: self.scale };
            let (dx, da, db) = (dx.matrix(m, k)?, da.matrix(rank, k)?, db.matrix(n, rank)?);
            self.weight.with_view(|w| {
                ops::gemm_backward(context, dy, w, Some(lora), dx, false, workspace.reborrow())
            })?;
            ops::lora_gradients(context, x, dy, lora, da, db, false, workspace)
        })?;
        let tensor = |values: Memory<'_, f32>, like: &Tensor| {
            Tensor::from_vec(values.into_vec()?, like.shape(), like.device()).map(Some)
        };
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
    use crate::engine::Place;
    use crate::testing::{check_gradient, random};
    use qlora_kernels::{Codebook, Constants};

    fn linear(spec: Option<&QuantSpec>) -> Linear {
        let engine = Engine::new(Place::Cpu, 2).unwrap();
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
                Base::Quantized(weight) => x.apply_op3(a, b, QLora::new(&linear.engine, weight, scale)),
            };
            check_gradient(&a, |a| forward(a, &b));
            check_gradient(&b, |b| forward(&a, b));
        }
    }

    #[test]
    fn quantized_and_dense_layers_agree_on_the_dequantized_weight() {
        let mut layer = linear(Some(&nf4()));
        let Base::Quantized(weight) = &layer.base else { panic!("not quantized") };
        let mut back = vec![0f32; 5 * 64];
        let out = TensorMut::new(&mut back, 5, 64).unwrap();
        weight.with_view(|w| ops::dequantize(&layer.engine.host, w, out)).unwrap();
        let mut dense = linear(None);
        dense.base = Base::Dense(Tensor::from_vec(back, (5, 64), &candle_core::Device::Cpu).unwrap());
        let x = random((7, 64), 5);
        for (train, adapted) in [(true, true), (false, true), (false, false)] {
            if !adapted {
                (layer.adapter, dense.adapter) = (None, None);
            }
            let (y, z) = (layer.forward(&x, train).unwrap(), dense.forward(&x, train).unwrap());
            let off = (y - z).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
            assert!(off < 1e-4, "{off}");
        }
    }

    #[test]
    fn footprint_counts_bytes_and_errors() {
        let engine = Engine::new(Place::Cpu, 1).unwrap();
        let (_, plain) =
            Base::new(&engine, random((64, 64), 1), Some(&QuantSpec::new(Codebook::Nf4, 64))).unwrap();
        assert_eq!((plain.parameters, plain.code_bytes, plain.constant_bytes), (4096, 2048, 256));
        let (_, double) = Base::new(&engine, random((64, 64), 1), Some(&nf4())).unwrap();
        assert!(double.constant_bytes < plain.constant_bytes / 2);
        let error = (plain.squared_error / plain.squared_norm).sqrt();
        assert!((0.02..0.15).contains(&error), "{error}");
    }
}
