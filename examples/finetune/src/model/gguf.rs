//! Models in GGUF files (llama.cpp's format).

use std::cell::RefCell;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail, ensure};
use candle_core::quantized::gguf_file::{Content, Value};
use candle_core::{Device, Tensor};
use tokenizers::Tokenizer;

use super::checkpoint::Config;

pub struct Gguf {
    content: Content,
    file: RefCell<BufReader<File>>,
}

impl Gguf {
    pub fn open(path: &Path) -> Result<(Self, Config)> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut file = BufReader::new(file);
        let content =
            Content::read(&mut file).context("it is no GGUF file, or a damaged or truncated one")?;
        for (name, info) in &content.tensor_infos {
            let blocks = info.shape.elem_count().div_ceil(info.ggml_dtype.block_size());
            let bytes = (blocks * info.ggml_dtype.type_size()) as u64;
            let end = content.tensor_data_offset.saturating_add(info.offset).saturating_add(bytes);
            ensure!(end <= size, "the file is truncated: it ends at byte {size}, within the tensor {name}");
        }
        let config = config(&content)?;
        Ok((Self { content, file: RefCell::new(file) }, config))
    }

    pub fn tokenizer(&self) -> Result<Tokenizer> {
        crate::tokenizer::from_gguf(&self.content)
    }

    pub fn has(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(&gguf_name(name))
    }

    pub fn stored_as(&self, name: &str) -> String {
        let info = self.content.tensor_infos.get(&gguf_name(name));
        info.map_or("unknown".to_owned(), |info| format!("{:?}", info.ggml_dtype).replacen("Q41", "Q4_1", 1))
    }

    pub fn tensor(&self, name: &str, config: &Config) -> Result<Tensor> {
        let stored = gguf_name(name);
        let file = &mut *self.file.borrow_mut();
        let tensor = self.content.tensor(file, &stored, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        let heads = match stored.rsplit('.').nth(1) {
            Some("attn_q") => config.heads,
            Some("attn_k") => config.kv_heads,
            _ => return Ok(tensor),
        };
        halves_of_pairs(&tensor, heads).with_context(|| format!("the tensor {stored} has a wrong shape"))
    }
}

/// llama.cpp turns neighbouring rows of a head together, (2i, 2i + 1); everyone else (i, i + half).
/// Its converter has put the rows in that order, and this puts them back.
fn halves_of_pairs(weight: &Tensor, heads: usize) -> Result<Tensor> {
    let (rows, columns) = weight.dims2()?;
    let pairs = weight.reshape((heads, rows / heads / 2, 2, columns))?;
    Ok(pairs.transpose(1, 2)?.contiguous()?.reshape((rows, columns))?)
}

pub fn gguf_name(name: &str) -> String {
    let name = match name {
        "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "model.norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        layer => layer.replacen("model.layers.", "blk.", 1),
    };
    let parts = [
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
    ];
    parts.iter().fold(name, |name, (from, to)| name.replacen(from, to, 1))
}

fn config(content: &Content) -> Result<Config> {
    let number = |key: &str| content.metadata.get(&format!("llama.{key}"));
    let architecture = match content.metadata.get("general.architecture") {
        Some(Value::String(name)) => name.as_str(),
        _ => bail!("the file does not name its architecture"),
    };
    ensure!(
        architecture == "llama",
        "the architecture {architecture:?} is not supported (only \"llama\" is)"
    );
    let size = |key: &str| -> Result<usize> {
        let value = number(key).ok_or_else(|| anyhow!("the file has no llama.{key}"))?;
        Ok(value.to_u64().with_context(|| format!("llama.{key} is not a number"))? as usize)
    };
    let float = |key: &str, default: Option<f64>| -> Result<f64> {
        match (number(key), default) {
            (Some(value), _) => Ok(f64::from(value.to_f32()?)),
            (None, Some(default)) => Ok(default),
            (None, None) => bail!("the file has no llama.{key}"),
        }
    };
    let scaling = match number("rope.scaling.type") {
        Some(Value::String(kind)) => kind.as_str(),
        _ => "none",
    };
    let has = |name: &str| content.tensor_infos.contains_key(name);
    ensure!(scaling == "none" && !has("rope_freqs.weight"), "rope scaling is not supported");
    if let Some(bias) = content.tensor_infos.keys().find(|name| name.ends_with(".bias")) {
        bail!("biases are not supported ({bias})");
    }
    ensure!(
        number("expert_count").is_none_or(|n| n.to_u64().is_ok_and(|n| n == 0)),
        "experts are not supported"
    );

    let (width, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_dim = match number("attention.key_length") {
        Some(_) => size("attention.key_length")?,
        None => width / heads.max(1),
    };
    if number("rope.dimension_count").is_some() && size("rope.dimension_count")? != head_dim {
        bail!("rotary embedding of a part of each head is not supported");
    }
    let embedding =
        content.tensor_infos.get("token_embd.weight").context("the file has no token_embd.weight")?;
    Ok(Config {
        layers: size("block_count")?,
        width,
        heads,
        kv_heads: number("attention.head_count_kv").map_or(Ok(heads), |_| size("attention.head_count_kv"))?,
        head_dim,
        ffn: size("feed_forward_length")?,
        vocabulary: embedding.shape.dims()[0],
        context: size("context_length")?,
        rope_theta: float("rope.freq_base", Some(10_000.0))?,
        eps: float("attention.layer_norm_rms_epsilon", None)? as f32,
    })
}
