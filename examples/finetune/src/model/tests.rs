//! A tiny Llama with random weights, written as safetensors and as GGUF.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use qlora_kernels::{Codebook, Constants, Pager, PagerKind, PagerOptions};

use super::*;
use crate::engine::Place;
use crate::optimizer::{Choice, Optimizer};
use crate::testing::random;
use crate::tokenizer::tests::array_of;

#[cfg(target_os = "linux")] // as the simulator is
mod curves;

const LAYERS: usize = 2;
const WIDTH: usize = 64;
const FFN: usize = 96;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const VOCABULARY: usize = 11;

/// A folder that is removed with its value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("finetune-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// All tensors by their safetensors names; the head is the embedding.
fn tensors() -> Vec<(String, Tensor)> {
    let mut shapes = vec![("model.embed_tokens".to_owned(), vec![VOCABULARY, WIDTH])];
    for layer in 0..LAYERS {
        for (part, out, input) in [
            ("self_attn.q_proj", HEADS * HEAD_DIM, WIDTH),
            ("self_attn.k_proj", KV_HEADS * HEAD_DIM, WIDTH),
            ("self_attn.v_proj", KV_HEADS * HEAD_DIM, WIDTH),
            ("self_attn.o_proj", WIDTH, HEADS * HEAD_DIM),
            ("mlp.gate_proj", FFN, WIDTH),
            ("mlp.up_proj", FFN, WIDTH),
            ("mlp.down_proj", WIDTH, FFN),
        ] {
            shapes.push((format!("model.layers.{layer}.{part}"), vec![out, input]));
        }
        for part in ["input_layernorm", "post_attention_layernorm"] {
            shapes.push((format!("model.layers.{layer}.{part}"), vec![WIDTH]));
        }
    }
    shapes.push(("model.norm".to_owned(), vec![WIDTH]));
    let named = shapes.into_iter().zip(0..);
    named.map(|((name, shape), seed)| (name + ".weight", (random(shape, seed) * 0.4).unwrap())).collect()
}

fn write_safetensors(folder: &Path, change: impl Fn(&mut serde_json::Value)) {
    let mut config = serde_json::json!({
        "model_type": "llama", "hidden_act": "silu", "num_hidden_layers": LAYERS, "hidden_size": WIDTH,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "intermediate_size": FFN,
        "vocab_size": VOCABULARY, "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 1000.0,
        "rope_scaling": null, "tie_word_embeddings": true,
    });
    change(&mut config);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    // In two files, as large models are.
    let (one, two): (Vec<_>, Vec<_>) = tensors().into_iter().partition(|(name, _)| name.contains("layers.0"));
    for (index, part) in [one, two].into_iter().enumerate() {
        let part: HashMap<String, Tensor> = part.into_iter().collect();
        candle_core::safetensors::save(&part, folder.join(format!("model-{index}.safetensors"))).unwrap();
    }
}

/// The opposite of `halves_of_pairs`: rows (i, i + half) of a head become neighbours.
fn pairs_of_halves(weight: &Tensor, heads: usize) -> Tensor {
    let (rows, columns) = weight.dims2().unwrap();
    let halves = weight.reshape((heads, 2, rows / heads / 2, columns)).unwrap();
    halves.transpose(1, 2).unwrap().contiguous().unwrap().reshape((rows, columns)).unwrap()
}

fn write_gguf(path: &Path, architecture: &str, dtype: GgmlDType) {
    let number = |value: usize| Value::U32(value as u32);
    let metadata = [
        ("general.architecture", Value::String(architecture.to_owned())),
        ("llama.block_count", number(LAYERS)),
        ("llama.context_length", number(32)),
        ("llama.embedding_length", number(WIDTH)),
        ("llama.feed_forward_length", number(FFN)),
        ("llama.attention.head_count", number(HEADS)),
        ("llama.attention.head_count_kv", number(KV_HEADS)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.freq_base", Value::F32(1000.0)),
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("smollm".to_owned())),
        ("tokenizer.ggml.tokens", array_of(&["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "ab"])),
        ("tokenizer.ggml.merges", array_of(&["a b"])),
    ];
    let stored: Vec<(String, QTensor)> = tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let tensor = match () {
                () if name.contains("q_proj") => pairs_of_halves(&tensor, HEADS),
                () if name.contains("k_proj") => pairs_of_halves(&tensor, KV_HEADS),
                () => tensor,
            };
            let dtype = if tensor.rank() == 2 { dtype } else { GgmlDType::F32 };
            (gguf::gguf_name(&name), QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let stored: Vec<_> = stored.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &stored).unwrap();
}

fn batch() -> Batch {
    // Two sequences of six tokens.
    let inputs = vec![3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8];
    let targets = vec![1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 10];
    Batch { inputs, targets, seq: 6 }
}

fn nf4() -> QuantSpec {
    QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8)
}

const LORA: LoraSpec = LoraSpec { rank: 4, alpha: 8.0, seed: 1 };

#[test]
fn gguf_and_safetensors_are_the_same_model() {
    let folder = Folder::new("same");
    write_safetensors(&folder.0, |_| ());
    let path = folder.0.join("tiny.gguf");
    write_gguf(&path, "llama", GgmlDType::F32);
    let engine = Engine::new(Place::Cpu, 2).unwrap();
    let loss = |path: &Path| {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.stored_as(), "F32");
        Llama::load(&engine, &checkpoint, None, None).unwrap().total_loss(&batch()).unwrap()
    };
    let (one, other) = (loss(&folder.0), loss(&path));
    assert!((one - other).abs() < 1e-5, "{one} {other}");
    let tokens = Checkpoint::open(&path).unwrap().tokenizer().unwrap().encode_fast("abc", false).unwrap();
    assert_eq!(tokens.get_ids(), [10, 2]);
    write_gguf(&path, "llama", GgmlDType::Q4_1);
    assert_eq!(Checkpoint::open(&path).unwrap().stored_as(), "Q4_1");
}

#[test]
fn the_past_does_not_see_the_future() {
    let folder = Folder::new("causal");
    write_safetensors(&folder.0, |_| ());
    let engine = Engine::new(Place::Cpu, 1).unwrap();
    let model = Llama::load(&engine, &Checkpoint::open(&folder.0).unwrap(), Some(&nf4()), None).unwrap();
    let rows = |batch: &Batch| model.hidden(batch, false).unwrap().to_vec2::<f32>().unwrap();
    let mut changed = batch();
    changed.inputs[4] = 7;
    let (before, after) = (rows(&batch()), rows(&changed));
    assert_eq!(before[..4], after[..4]);
    assert!(before[4] != after[4] && before[5] != after[5]);
    assert_eq!(before[6..], after[6..]);
}

#[test]
fn training_lowers_the_loss_and_is_repeatable() {
    let folder = Folder::new("train");
    write_safetensors(&folder.0, |_| ());
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let engine = Engine::new(Place::Cpu, 2).unwrap();
    for spec in [None, Some(&nf4())] {
        let train = || {
            let model = Llama::load(&engine, &checkpoint, spec, Some(LORA)).unwrap();
            let mut optimizer = Optimizer::new(&model, Choice::AdamW, 1e-2, None).unwrap();
            let losses: Vec<f32> = (0..20)
                .map(|_| {
                    let loss = model.loss(&batch()).unwrap();
                    optimizer.step(&engine, &model, &loss.backward().unwrap()).unwrap();
                    loss.to_scalar().unwrap()
                })
                .collect();
            (losses, model.fingerprint().unwrap())
        };
        let (losses, adapters) = train();
        assert!(losses[19] < 0.7 * losses[0], "{losses:?}");
        assert_eq!(train(), (losses.clone(), adapters));
        // Fresh adapters change nothing.
        let plain = Llama::load(&engine, &checkpoint, spec, None).unwrap().total_loss(&batch()).unwrap();
        assert!((plain / 12.0 - f64::from(losses[0])).abs() < 1e-4);
    }
}

#[test]
fn paged_states_change_nothing() {
    let folder = Folder::new("paged");
    write_safetensors(&folder.0, |_| ());
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let engine = Engine::new(Place::Cpu, 2).unwrap();
    for choice in [Choice::AdamW, Choice::AdamW8bit, Choice::AdEmaMix8bit, Choice::Lion, Choice::Sgd] {
        let train = |pager| {
            // So many numbers that not all states fit the least budget.
            let lora = LoraSpec { rank: 64, ..LORA };
            let model = Llama::load(&engine, &checkpoint, Some(&nf4()), Some(lora)).unwrap();
            let mut optimizer = Optimizer::new(&model, choice, 1e-3, pager).unwrap();
            for _ in 0..3 {
                let loss = model.loss(&batch()).unwrap();
                optimizer.step(&engine, &model, &loss.backward().unwrap()).unwrap();
            }
            (model.fingerprint().unwrap(), optimizer.paged())
        };
        let options = PagerOptions { kind: PagerKind::File, budget: 1 << 18, folder: Some(folder.0.clone()) };
        let (paged, statistics) = train(Some(Pager::new(&engine.host, &options).unwrap()));
        assert_eq!(paged, train(None).0, "{choice:?}");
        let statistics = statistics.unwrap();
        assert_eq!(statistics.steps, 3);
        assert!(statistics.windows > 0 || statistics.allocated_bytes <= 1 << 18, "{choice:?} {statistics:?}");
        if choice == Choice::AdamW {
            assert!(statistics.windows > 0, "{statistics:?}");
        }
    }
}

#[test]
fn errors_name_the_cause() {
    let folder = Folder::new("errors");
    let refusal = |path: &Path| format!("{:#}", Checkpoint::open(path).err().expect("it was accepted"));
    let refused_config = |change: &dyn Fn(&mut serde_json::Value)| {
        write_safetensors(&folder.0, change);
        refusal(&folder.0)
    };
    assert!(refusal(Path::new("no/model")).contains("no/model does not exist"));
    assert!(refusal(&folder.0).contains("cannot read config.json"));
    let other = refused_config(&|config| config["model_type"] = "gpt2".into());
    assert!(other.contains("the architecture \"gpt2\" is not supported"), "{other}");
    let scaled = refused_config(&|config| config["rope_scaling"] = serde_json::json!({"type": "linear"}));
    assert!(scaled.contains("rope scaling is not supported"), "{scaled}");
    assert!(refused_config(&|config| config["attention_bias"] = true.into()).contains("biases"));
    let heads = refused_config(&|config| config["num_key_value_heads"] = 3.into());
    assert!(heads.contains("4 attention heads cannot share 3"), "{heads}");

    write_safetensors(&folder.0, |config| config["intermediate_size"] = 100.into());
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let engine = Engine::new(Place::Cpu, 1).unwrap();
    let shape = Llama::load(&engine, &checkpoint, None, None).err().unwrap().to_string();
    assert!(shape.contains("mlp.gate_proj.weight has shape [96, 64], not [100, 64]"), "{shape}");
    assert!(checkpoint.tokenizer().unwrap_err().to_string().contains("no tokenizer.json"));

    let path = folder.0.join("tiny.gguf");
    write_gguf(&path, "gpt2", GgmlDType::F32);
    assert!(refusal(&path).contains("the architecture \"gpt2\" is not supported"));
    write_gguf(&path, "llama", GgmlDType::F32);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 1000]).unwrap();
    assert!(refusal(&path).contains("the file is truncated"));
    std::fs::write(&path, &whole[..100]).unwrap();
    assert!(refusal(&path).contains("no GGUF file, or a damaged or truncated one"));
    std::fs::write(&path, "text").unwrap();
    assert!(refusal(&path).contains("no GGUF file"));
}
