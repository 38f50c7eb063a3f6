//! How well each data type keeps the weights of a model of any architecture: `--errors FILE`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device};
use indicatif::ProgressIterator;
use qlora_kernels::{Codebook, QuantSpec};

use crate::engine::Engine;
use crate::evaluate::progress;
use crate::linear::{Base, Footprint};

/// Prints ‖W - Ŵ‖ / ‖W‖ over all matrices of a safetensors file but the embeddings, for each data type.
pub fn print(engine: &Engine, path: &Path, mut formats: Vec<(&str, Option<QuantSpec>)>) -> Result<()> {
    formats.push(("FP4 bitsandbytes", Some(QuantSpec::new(Codebook::Fp4Bnb, 64))));
    let costs = costs(engine, path, &formats).with_context(|| format!("cannot use {}", path.display()))?;
    println!("{}: {} weights in blocks of 64", path.display(), costs[0].parameters);
    println!("{:<28}{:>12}{:>12}", "", "rel. error", "bits/param");
    for ((name, _), cost) in formats.iter().zip(&costs).filter(|(_, cost)| cost.code_bytes > 0) {
        println!("{name:<28}{:>12.4}{:>12.3}", cost.relative_error(), cost.bits_per_parameter());
    }
    Ok(())
}

fn costs(engine: &Engine, path: &Path, formats: &[(&str, Option<QuantSpec>)]) -> Result<Vec<Footprint>> {
    // SAFETY: the file must not change while it is mapped; nothing here writes to it.
    let file =
        unsafe { MmapedSafetensors::new(path) }.context("it is no safetensors file, or a damaged one")?;
    let mut names: Vec<String> = file
        .tensors()
        .into_iter()
        .filter(|(name, tensor)| is_weight(name, tensor.shape()))
        .map(|(name, _)| name)
        .collect();
    names.sort();
    ensure!(!names.is_empty(), "it has no matrix named *.weight");
    let mut costs = vec![Footprint::default(); formats.len()];
    let bar = progress(names.len(), "quantizing");
    for name in names.iter().progress_with(bar) {
        let weight = file.load(name, &Device::Cpu)?.to_dtype(DType::F32)?;
        for (cost, (_, spec)) in costs.iter_mut().zip(formats) {
            *cost += Base::new(engine, weight.clone(), spec.as_ref())?.1;
        }
    }
    Ok(costs)
}

/// Linear layers: matrices that are no look-up table of tokens, positions or types.
fn is_weight(name: &str, shape: &[usize]) -> bool {
    shape.len() == 2 && name.ends_with(".weight") && !name.contains("embed") && !name.contains("wte")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Place;
    use crate::testing::random;
    use std::collections::HashMap;

    #[test]
    fn matrices_are_measured_and_embeddings_are_not() {
        let path = std::env::temp_dir().join(format!("finetune-errors-{}.safetensors", std::process::id()));
        let tensors = HashMap::from([
            ("layer.dense.weight", random((64, 64), 1)),
            ("layer.norm.weight", random(64, 2)),
            ("embeddings.word_embeddings.weight", random((10, 64), 3)),
        ]);
        candle_core::safetensors::save(&tensors, &path).unwrap();
        let formats = [("NF4", Some(QuantSpec::new(Codebook::Nf4, 64)))];
        let engine = Engine::new(Place::Cpu, 1).unwrap();
        let costs = costs(&engine, &path, &formats);
        std::fs::write(&path, "text").unwrap();
        let damaged = super::costs(&engine, &path, &formats).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        let cost = costs.unwrap()[0];
        assert_eq!((cost.parameters, cost.bits_per_parameter()), (4096, 4.5));
        assert!((0.02..0.15).contains(&cost.relative_error()));
        assert!(damaged.contains("no safetensors file"), "{damaged}");
    }
}
