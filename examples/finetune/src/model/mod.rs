//! Llama, forward; candle keeps the way back.

mod checkpoint;
mod gguf;
mod safetensors;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor, Var};
use qlora_kernels::QuantSpec;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};

pub use checkpoint::{Checkpoint, Config};

use crate::engine::Engine;
use crate::host::values;
use crate::linear::{Adapter, Base, Footprint, Linear};
use crate::loss;
use crate::ops::{CausalSoftmax, RmsNorm, Rope, SwiGlu};
use crate::text::Batch;

/// The adapters of a model: rank, alpha and the seed they start from.
#[derive(Clone, Copy)]
pub struct LoraSpec {
    pub rank: usize,
    pub alpha: f32,
    pub seed: u64,
}

struct Layer {
    attention_norm: RmsNorm,
    q: Linear,
    k: Linear,
    v: Linear,
    o: Linear,
    ffn_norm: RmsNorm,
    gate: Linear,
    up: Linear,
    down: Linear,
}

pub struct Llama {
    config: Config,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Tensor,
    /// All linear layers together.
    pub footprint: Footprint,
}

impl Llama {
    /// Reads a model; its linear layers are quantized by `spec`, if any, and get adapters by `lora`, if
    /// any. Embedding, norms and head stay float32, as in the paper.
    pub fn load(
        engine: &Arc<Engine>,
        checkpoint: &Checkpoint,
        spec: Option<&QuantSpec>,
        lora: Option<LoraSpec>,
    ) -> Result<Self> {
        let config = checkpoint.config.clone();
        let mut footprint = Footprint::default();
        let mut rng = lora.map(|lora| (lora, ChaCha8Rng::seed_from_u64(lora.seed)));
        let norm = |name: String| -> Result<RmsNorm> {
            let weight = checkpoint.tensor(&name, &[config.width])?;
            Ok(RmsNorm { weight: values(&weight)?[..].into(), eps: config.eps })
        };
        let mut linear = |name: String, out: usize, input: usize| -> Result<Linear> {
            let weight = checkpoint.tensor(&name, &[out, input])?;
            let (base, cost) =
                Base::new(engine, weight, spec).with_context(|| format!("cannot quantize {name}"))?;
            footprint += cost;
            let adapter = rng.as_mut().map(|(lora, rng)| adapter(lora, rng, out, input)).transpose()?;
            Ok(Linear { engine: engine.clone(), base, adapter })
        };
        let (width, ffn) = (config.width, config.ffn);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let name = |part: &str| format!("model.layers.{index}.{part}.weight");
            layers.push(Layer {
                attention_norm: norm(name("input_layernorm"))?,
                q: linear(name("self_attn.q_proj"), queries, width)?,
                k: linear(name("self_attn.k_proj"), keys, width)?,
                v: linear(name("self_attn.v_proj"), keys, width)?,
                o: linear(name("self_attn.o_proj"), width, queries)?,
                ffn_norm: norm(name("post_attention_layernorm"))?,
                gate: linear(name("mlp.gate_proj"), ffn, width)?,
                up: linear(name("mlp.up_proj"), ffn, width)?,
                down: linear(name("mlp.down_proj"), width, ffn)?,
            });
        }
        let matrix = |name: &str| checkpoint.tensor(name, &[config.vocabulary, width]);
        let embedding = matrix("model.embed_tokens.weight")?;
        let head = if checkpoint.has_head() { matrix("lm_head.weight")? } else { embedding.clone() };
        let norm = norm("model.norm.weight".to_owned())?;
        Ok(Self { config, embedding, layers, norm, head, footprint })
    }

    /// Mean cross-entropy of a batch, with gradients for the adapters.
    pub fn loss(&self, batch: &Batch) -> Result<Tensor> {
        Ok(loss::mean(&self.hidden(batch, true)?, &self.head, &batch.targets)?)
    }

    /// Sum of the cross-entropies of a batch.
    pub fn total_loss(&self, batch: &Batch) -> Result<f64> {
        Ok(loss::total(&self.hidden(batch, false)?, &self.head, &batch.targets)?)
    }

    /// The last layer's normed output, [tokens, width].
    fn hidden(&self, batch: &Batch, train: bool) -> candle_core::Result<Tensor> {
        let tokens = Tensor::from_slice(&batch.inputs, batch.inputs.len(), &Device::Cpu)?;
        let rope = Rope::new(self.config.rope_theta, self.config.head_dim, batch.seq);
        let mut x = self.embedding.index_select(&tokens, 0)?;
        for layer in &self.layers {
            let normed = x.apply_op1(layer.attention_norm.clone())?;
            x = (&x + self.attention(layer, &normed, &rope, batch.seq, train)?)?;
            let normed = x.apply_op1(layer.ffn_norm.clone())?;
            let gated =
                layer.gate.forward(&normed, train)?.apply_op2(&layer.up.forward(&normed, train)?, SwiGlu)?;
            x = (&x + layer.down.forward(&gated, train)?)?;
        }
        x.apply_op1(self.norm.clone())
    }

    fn attention(
        &self,
        layer: &Layer,
        x: &Tensor,
        rope: &Rope,
        seq: usize,
        train: bool,
    ) -> candle_core::Result<Tensor> {
        let Config { heads, kv_heads, head_dim, .. } = self.config;
        let (tokens, shared) = (x.dim(0)?, heads / kv_heads);
        let batch = tokens / seq;
        let q = layer.q.forward(x, train)?.apply_op1(rope.clone())?;
        let k = layer.k.forward(x, train)?.apply_op1(rope.clone())?;
        let v = layer.v.forward(x, train)?;
        // [batch, seq, kv_heads, shared, head_dim]: the heads that share a key head become more queries of it.
        let q = q.reshape((batch, seq, kv_heads, shared, head_dim))?.permute((0, 2, 3, 1, 4))?;
        let q = q.contiguous()?.reshape((batch * kv_heads, shared * seq, head_dim))?;
        let per_head = |x: Tensor| {
            let x = x.reshape((batch, seq, kv_heads, head_dim))?.transpose(1, 2)?.contiguous()?;
            x.reshape((batch * kv_heads, seq, head_dim))
        };
        let (k, v) = (per_head(k)?, per_head(v)?);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let weights = q.matmul(&k.t()?)?.apply_op1(CausalSoftmax { scale, keys: seq })?;
        let mixed = weights.matmul(&v)?.reshape((batch, kv_heads, shared, seq, head_dim))?;
        let mixed = mixed.permute((0, 3, 1, 2, 4))?.contiguous()?.reshape((tokens, heads * head_dim))?;
        layer.o.forward(&mixed, train)
    }

    fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.layers.iter().flat_map(|l| [&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down])
    }

    /// A and B of every linear layer, in a fixed order.
    pub fn trained(&self) -> impl Iterator<Item = &Var> {
        self.linears()
            .filter_map(|linear| linear.adapter.as_ref())
            .flat_map(|adapter| [&adapter.a, &adapter.b])
    }

    /// Bytes of embedding, norms and a head of its own.
    pub fn rest_bytes(&self) -> usize {
        let norms = (2 * self.layers.len() + 1) * self.config.width;
        let head = if self.head.id() == self.embedding.id() { 0 } else { self.head.elem_count() };
        (self.embedding.elem_count() + head + norms) * size_of::<f32>()
    }

    /// SHA-256 of the adapters' bits.
    pub fn fingerprint(&self) -> Result<String> {
        let mut hash = Sha256::new();
        for var in self.trained() {
            for value in values(var)?.iter() {
                hash.update(value.to_le_bytes());
            }
        }
        Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// A is random, within ±1/√in as in `torch.nn.Linear`, and B is 0, so training starts from the base model.
fn adapter(lora: &LoraSpec, rng: &mut ChaCha8Rng, out: usize, input: usize) -> candle_core::Result<Adapter> {
    let bound = 1.0 / (input as f32).sqrt();
    let mut uniform = || (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0; // [-1, 1)
    let a: Vec<f32> = (0..lora.rank * input).map(|_| uniform() * bound).collect();
    let a = Tensor::from_vec(a, (lora.rank, input), &Device::Cpu)?;
    let b = Tensor::zeros((out, lora.rank), candle_core::DType::F32, &Device::Cpu)?;
    let scale = lora.alpha / lora.rank as f32;
    Ok(Adapter { a: Var::from_tensor(&a)?, b: Var::from_tensor(&b)?, scale })
}
