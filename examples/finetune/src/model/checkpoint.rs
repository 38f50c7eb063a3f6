//! A model on disk: a GGUF file or a folder of safetensors, read tensor by tensor.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use tokenizers::Tokenizer;

use super::gguf::Gguf;
use super::safetensors::Safetensors;

/// The shape of a Llama model.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub vocabulary: usize,
    pub context: usize,
    pub rope_theta: f64,
    pub eps: f32,
}

impl Config {
    fn check(&self) -> Result<()> {
        let sizes =
            [self.layers, self.width, self.heads, self.kv_heads, self.head_dim, self.ffn, self.vocabulary];
        ensure!(sizes.iter().all(|size| *size > 0), "a size of the model is zero: {self:?}");
        ensure!(
            self.heads.is_multiple_of(self.kv_heads),
            "{} attention heads cannot share {} key/value heads",
            self.heads,
            self.kv_heads
        );
        ensure!(
            self.head_dim.is_multiple_of(2),
            "rotary embedding needs an even head, not {}",
            self.head_dim
        );
        Ok(())
    }
}

enum Store {
    Gguf(Gguf),
    Safetensors(Safetensors),
}

/// An opened model. Tensors are named as in safetensors files, for example
/// `model.layers.0.self_attn.q_proj.weight`.
pub struct Checkpoint {
    pub config: Config,
    store: Store,
}

impl Checkpoint {
    pub fn open(path: &Path) -> Result<Self> {
        if !path.exists() {
            bail!("the model {} does not exist", path.display());
        }
        let open = || -> Result<Self> {
            let (store, config) = if path.is_dir() {
                let (files, config) = Safetensors::open(path)?;
                (Store::Safetensors(files), config)
            } else {
                let (file, config) = Gguf::open(path)?;
                (Store::Gguf(file), config)
            };
            config.check()?;
            Ok(Self { config, store })
        };
        open().with_context(|| format!("cannot use the model {}", path.display()))
    }

    pub fn tokenizer(&self) -> Result<Tokenizer> {
        match &self.store {
            Store::Gguf(file) => file.tokenizer(),
            Store::Safetensors(files) => files.tokenizer(),
        }
    }

    /// A tensor as float32; it is an error if it does not have this shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let tensor = match &self.store {
            Store::Gguf(file) => file.tensor(name, &self.config),
            Store::Safetensors(files) => files.tensor(name),
        }?;
        ensure!(tensor.dims() == shape, "the tensor {name} has shape {:?}, not {shape:?}", tensor.dims());
        Ok(tensor)
    }

    /// Whether the model has a head of its own; else the embedding's matrix serves as head too.
    pub fn has_head(&self) -> bool {
        match &self.store {
            Store::Gguf(file) => file.has("lm_head.weight"),
            Store::Safetensors(files) => !files.tied,
        }
    }

    /// The type that the first linear layer is stored in, such as `Q4_1` or `BF16`.
    pub fn stored_as(&self) -> String {
        let name = "model.layers.0.self_attn.q_proj.weight";
        match &self.store {
            Store::Gguf(file) => file.stored_as(name),
            Store::Safetensors(files) => files.stored_as(name),
        }
    }
}
