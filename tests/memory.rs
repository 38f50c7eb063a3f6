//! How much memory the formats take: from real buffers, and for the models of the paper.

mod common;

use common::*;
use qlora_kernels::{Codebook, Constants, Context, DType, QuantSpec, QuantizedMatrix};

#[test]
fn bits_a_parameter_of_real_buffers() {
    let context = Context::cpu();
    let (rows, cols) = (2048, 2048);
    let x = Matrix::new(DType::F32, &numbers(rows * cols, 1, &[]), rows, cols, 0);
    // Section 3 of the paper: 4 + 32/64, and 4 + 8/64 + 32/(64·256) = 4.127.
    for (constants, expected) in [(Constants::F32, 4.5), (Constants::Fp8, 4.127), (Constants::Dynamic, 4.127)]
    {
        let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(constants);
        let q = QuantizedMatrix::quantize(&context, x.view(), &spec).unwrap();
        let bytes = q.code_bytes() + q.constant_bytes();
        let bits = bytes as f64 * 8.0 / (rows * cols) as f64;
        println!("{:?}: {bytes} bytes, {bits:.4} bits a parameter", spec.constants);
        assert!((bits - expected).abs() < 5e-4, "{bits}");
        assert_eq!(bytes as u64, spec.sizes(rows as u64, cols as u64).unwrap().total_bytes);
    }
}

/// LLaMA (arXiv 2302.13971, table 2): width, layers, feed-forward width; vocabulary 32,000.
const LLAMA: [(&str, u64, u64, u64); 4] =
    [("7B", 4096, 32, 11008), ("13B", 5120, 40, 13824), ("33B", 6656, 60, 17920), ("65B", 8192, 80, 22016)];

/// What finetuning takes beside activations, in bytes: linear layers quantized as `spec` says, embedding, head and
/// norms in 16 bits, adapters of rank 64 on all linear layers in 16 bits with 16-bit gradients and 32-bit AdamW states.
struct Needs {
    parameters: u64,
    base: u64,
    adapters: u64,
}

fn needs(width: u64, layers: u64, ffn: u64, spec: &QuantSpec) -> Needs {
    let linear = [(width, width, 4), (ffn, width, 2), (width, ffn, 1)];
    let (mut parameters, mut base, mut adapters) = (0, 0, 0);
    for (rows, cols, count) in linear {
        parameters += layers * count * rows * cols;
        base += layers * count * spec.sizes(rows, cols).unwrap().total_bytes;
        adapters += layers * count * 64 * (rows + cols) * (2 + 2 + 8);
    }
    let rest = 2 * 32_000 * width + (2 * layers + 1) * width;
    Needs { parameters: parameters + rest, base: base + 2 * rest, adapters }
}

/// Run with `--nocapture` to see the table. The paper: double quantization saves 0.373 bits a parameter, some 3 GB for
/// 65B; the 4-bit base model of 7B "consumes 5,048 MB" (as it is allocated on a GPU, with the embeddings); 65B finetunes
/// on a 48 GB GPU.
#[test]
fn the_llama_models() {
    let plain = QuantSpec::new(Codebook::Nf4, 64);
    println!(
        "model | parameters | 16 bit | NF4 | NF4+DQ | adapters r=64 with states | in all (MB = 10^6 bytes)"
    );
    let mb = |bytes: u64| bytes as f64 / 1e6;
    let mut last = None;
    for (name, width, layers, ffn) in LLAMA {
        let (single, double) =
            (needs(width, layers, ffn, &plain), needs(width, layers, ffn, &QuantSpec::default()));
        let total = double.base + double.adapters;
        println!(
            "{name} | {:.2}e9 | {:.0} | {:.0} | {:.0} | {:.0} | {:.0}",
            double.parameters as f64 / 1e9,
            mb(double.parameters * 2),
            mb(single.base),
            mb(double.base),
            mb(double.adapters),
            mb(total)
        );
        let saved = (single.base - double.base) as f64 * 8.0 / double.parameters as f64;
        assert!((0.34..0.374).contains(&saved), "{name}: double quantization saves {saved} bits a parameter");
        if name == "7B" {
            assert!(mb(double.base) < 5048.0, "{}", mb(double.base));
        }
        last = Some((single.base - double.base, total));
    }
    println!("paper: 7B 5,048 MB; 65B under 48 GB; double quantization saves about 3 GB for 65B");
    let (saved, total) = last.unwrap();
    assert!((2.8e9..3.1e9).contains(&(saved as f64)), "{saved}");
    assert!(total < 48_000_000_000);
}
