//! Models in a folder of safetensors files (Hugging Face's layout).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use tokenizers::Tokenizer;

use super::checkpoint::Config;

pub struct Safetensors {
    tensors: MmapedSafetensors,
    folder: PathBuf,
    pub tied: bool,
}

/// The part of config.json that matters here.
#[derive(Deserialize)]
struct File {
    model_type: String,
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<RopeParameters>,
    hidden_act: Option<String>,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

/// Where newer files have the rotary embedding's settings.
#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

impl Safetensors {
    pub fn open(folder: &Path) -> Result<(Self, Config)> {
        let text = std::fs::read_to_string(folder.join("config.json")).context("cannot read config.json")?;
        let file: File = serde_json::from_str(&text).context("cannot understand config.json")?;
        let config = config(&file)?;
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                paths.push(path);
            }
        }
        ensure!(!paths.is_empty(), "it has no *.safetensors file");
        paths.sort();
        // SAFETY: the files must not change while they are mapped; nothing here writes to them.
        let tensors = unsafe { MmapedSafetensors::multi(&paths) }
            .context("a *.safetensors file is damaged or truncated")?;
        Ok((Self { tensors, folder: folder.to_owned(), tied: file.tie_word_embeddings }, config))
    }

    pub fn tokenizer(&self) -> Result<Tokenizer> {
        let path = self.folder.join("tokenizer.json");
        ensure!(path.exists(), "{} has no tokenizer.json", self.folder.display());
        let mut tokenizer = Tokenizer::from_file(&path)
            .map_err(|error| anyhow!("cannot understand {}: {error}", path.display()))?;
        tokenizer.with_truncation(None).map_err(anyhow::Error::msg)?;
        tokenizer.with_padding(None);
        Ok(tokenizer)
    }

    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        Ok(self.tensors.load(name, &Device::Cpu)?.to_dtype(DType::F32)?)
    }

    pub fn stored_as(&self, name: &str) -> String {
        self.tensors.get(name).map_or("unknown".to_owned(), |tensor| format!("{:?}", tensor.dtype()))
    }
}

fn config(file: &File) -> Result<Config> {
    let kind = &file.model_type;
    ensure!(kind == "llama", "the architecture {kind:?} is not supported (only \"llama\" is)");
    if let Some(activation) = file.hidden_act.as_deref().filter(|name| *name != "silu") {
        bail!("the activation {activation:?} is not supported (only \"silu\" is)");
    }
    ensure!(!file.attention_bias && !file.mlp_bias, "biases are not supported");
    let plain = |kind: &Option<String>| kind.as_deref().is_none_or(|kind| kind == "default");
    let parameters = file.rope_parameters.as_ref();
    ensure!(
        file.rope_scaling.is_none() && parameters.is_none_or(|rope| plain(&rope.rope_type)),
        "rope scaling is not supported"
    );
    Ok(Config {
        layers: file.num_hidden_layers,
        width: file.hidden_size,
        heads: file.num_attention_heads,
        kv_heads: file.num_key_value_heads.unwrap_or(file.num_attention_heads),
        head_dim: file.head_dim.unwrap_or(file.hidden_size / file.num_attention_heads.max(1)),
        ffn: file.intermediate_size,
        vocabulary: file.vocab_size,
        context: file.max_position_embeddings,
        rope_theta: file.rope_theta.or(parameters.and_then(|rope| rope.rope_theta)).unwrap_or(10_000.0),
        eps: file.rms_norm_eps,
    })
}
