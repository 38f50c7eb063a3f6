//! One of each kernel for each target that has its own: what `ptx/generated` shows and what ptxas must accept.

mod variants;

pub use variants::variants;

use super::blockwise8::{Dequantize8Spec, Quantize8Spec};
use super::cast::CastSpec;
use super::constants::{ConstantsSpec, NestedSpec};
use super::decode::Half;
use super::dequantize::DequantizeSpec;
use super::double_quantize::{DoubleDequantizeSpec, DoubleQuantizeSpec, SumSpec};
use super::gemm::{GemmSpec, OperandSpec, Storage};
use super::gemm_low_rank::{AdapterMatrix, GemmLowRankSpec};
use super::gemm_mma::GemmMmaSpec;
use super::gemm_mma_backward::GemmMmaBackwardSpec;
use super::gemm_skinny::{GemmSkinnySpec, most_blocks};
use super::gemm_skinny_backward::GemmSkinnyBackwardSpec;
use super::gemm_wgmma::GemmWgmmaSpec;
use super::gemm_wgmma_backward::GemmWgmmaBackwardSpec;
use super::optimizer::StepSpec;
use super::optimizer::norms::{ReduceSpec, SquaresSpec};
use super::optimizer::table::{Group, StateStorage, TableSpec};
use super::product::ProductSpec;
use super::quantize::QuantizeSpec;
use super::split_sum::SplitSumSpec;
use super::table;
use super::tensor::Layout;
use super::wgmma_block::Cut;
use super::{KernelSpec, Spec, Written};
use crate::format::optimizer::Rule;
use crate::format::{Codebook, CodebookTable, Map256};
use crate::view::DType;
use ptx_asm::{Error, Target};

/// The targets that modules are written for; each serves the GPUs from it up to the next.
pub const TARGETS: [Target; 2] = [Target::Sm75, Target::Sm80];

/// A kernel of the catalogue.
pub struct Entry {
    /// The target's folder and the file's name.
    pub target: Target,
    /// Without `.ptx`.
    pub file: String,
    spec: KernelSpec,
}

impl Entry {
    /// Writes the kernel.
    pub fn write(&self) -> Result<Written, Error> {
        self.spec.write(self.target)
    }
}

/// The whole catalogue.
pub fn catalogue() -> Vec<Entry> {
    TARGETS.into_iter().flat_map(of_target).chain(of_hopper()).collect()
}

/// The kernels that only Hopper runs.
fn of_hopper() -> Vec<Entry> {
    let constants = ConstantsSpec::Nested(NestedSpec::Fp8);
    let forward = product(Half::Bf16, constants, DType::Bf16, Some(DType::Bf16), true, false);
    let backward = ProductSpec { bias: None, ..forward.clone() };
    let entry = |name: &str, cut: Cut, spec: KernelSpec| {
        let parts = if cut.in_parts { "_parts" } else { "" };
        let file = format!("{name}_nf4_bf16_fp8_lora_{}{parts}", cut.tokens);
        Entry { target: Target::Sm90a, file, spec }
    };
    let kernels = |cut| {
        let (forward, backward) = (forward.clone(), backward.clone());
        let forward = GemmWgmmaSpec { cut, product: forward }.into();
        let backward = GemmWgmmaBackwardSpec { cut, product: backward }.into();
        [entry("gemm_wgmma", cut, forward), entry("gemm_wgmma_backward", cut, backward)]
    };
    let sum = Entry { target: Target::Sm90a, file: "split_sum_bf16_bias".into(), spec: split_sum(true) };
    let cuts = |tokens| [false, true].map(|in_parts| Cut { tokens, cluster: 2, in_parts });
    WGMMA_TOKENS.into_iter().flat_map(cuts).flat_map(kernels).chain([sum]).collect()
}

fn split_sum(overlaps: bool) -> KernelSpec {
    let bf16 = DType::Bf16;
    SplitSumSpec { out: bf16, bias: Some(bf16), accumulate: false, fours: true, overlaps }.into()
}

/// The tiles that the kernels by `wgmma` have.
const WGMMA_TOKENS: [u32; 3] = [64, 128, 256];

fn of_target(target: Target) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut add = |file: String, spec: KernelSpec| entries.push(Entry { target, file, spec });
    let nf4 = Codebook::Nf4.table().expect("a built-in table");
    let fp4 = Codebook::Fp4E2m1.table().expect("a built-in table");
    let values = |table: &CodebookTable| table::bits(table.values);
    let nested = |nested| ConstantsSpec::Nested(nested);
    let map = || Box::new(table::bits(Map256::dynamic_signed().values));
    for (dtype, name) in [(DType::F32, "f32"), (DType::F16, "f16"), (DType::Bf16, "bf16")] {
        let quantize = |table: &CodebookTable, block_size, layout| {
            KernelSpec::from(QuantizeSpec { dtype, layout, table: table.into(), block_size })
        };
        let dequantize = |table: &CodebookTable, constants, layout| {
            KernelSpec::from(DequantizeSpec {
                dtype,
                layout,
                values: values(table),
                block_size: 64,
                constants,
            })
        };
        add(format!("quantize_nf4_{name}_64"), quantize(&nf4, 64, Layout::Vectors));
        add(format!("dequantize_nf4_{name}_64"), dequantize(&nf4, ConstantsSpec::Plain, Layout::Vectors));
        let fp8 = nested(NestedSpec::Fp8);
        add(format!("dequantize_nf4_{name}_64_fp8"), dequantize(&nf4, fp8, Layout::Vectors));
        add(
            format!("quantize_8bit_{name}_256"),
            Quantize8Spec { dtype, layout: Layout::Vectors, map: map(), block_size: 256 }.into(),
        );
        add(
            format!("dequantize_8bit_{name}_256"),
            Dequantize8Spec { dtype, layout: Layout::Vectors, map: map(), block_size: 256 }.into(),
        );
        if dtype == DType::Bf16 {
            // The variants: codes out of order, blocks across warps, strided matrices, bitsandbytes' constants.
            add(format!("quantize_fp4_{name}_4096"), quantize(&fp4, 4096, Layout::Vectors));
            add(format!("quantize_nf4_{name}_64_strided"), quantize(&nf4, 64, Layout::Strided));
            let dynamic = nested(NestedSpec::Dynamic);
            add(format!("dequantize_fp4_{name}_64_map_strided"), dequantize(&fp4, dynamic, Layout::Strided));
        }
    }
    add("sum_constants".into(), SumSpec { first: true }.into());
    add("sum_sums".into(), SumSpec { first: false }.into());
    for (name, nested) in [("fp8", NestedSpec::Fp8), ("map", NestedSpec::Dynamic)] {
        add(format!("double_quantize_{name}"), DoubleQuantizeSpec { nested: nested.clone() }.into());
        add(format!("double_dequantize_{name}"), DoubleDequantizeSpec { nested }.into());
    }
    let weight = OperandSpec {
        storage: Storage::Quantized {
            values: values(&nf4),
            block_size: 64,
            constants: nested(NestedSpec::Fp8),
        },
        rows_are_inner: true,
    };
    let dense = |dtype| OperandSpec { storage: Storage::Dense(dtype), rows_are_inner: true };
    let (bf16, f32) = (DType::Bf16, DType::F32);
    let forward = vec![[dense(bf16), weight.clone()], [dense(f32), dense(bf16)]];
    let (bias, accumulate) = (Some(bf16), false);
    add(
        "gemm_forward_nf4_bf16_lora".into(),
        GemmSpec { products: forward, out: bf16, bias, accumulate }.into(),
    );
    let backward = vec![[dense(bf16), OperandSpec { rows_are_inner: false, ..weight }]];
    add(
        "gemm_backward_nf4_bf16".into(),
        GemmSpec { products: backward, out: bf16, bias: None, accumulate }.into(),
    );
    let halves = if target >= Target::Sm80 { [Half::Bf16].as_slice() } else { &[Half::F16] };
    for &half in halves {
        for &rows in tile_rows(target) {
            let (dtype, bias, low_rank) = (half.dtype(), Some(bf16), true);
            let spec = product(half, nested(NestedSpec::Fp8), dtype, bias, low_rank, false);
            let name = if half == Half::Bf16 { "bf16" } else { "f16" };
            add(
                format!("gemm_mma_nf4_{name}_fp8_lora_{rows}"),
                GemmMmaSpec { rows, product: spec.clone() }.into(),
            );
            let product = ProductSpec { bias: None, ..spec };
            let spec = GemmMmaBackwardSpec { rows, product };
            add(format!("gemm_mma_backward_nf4_{name}_fp8_lora_{rows}"), spec.into());
        }
    }
    if target >= Target::Sm80 {
        let spec = product(Half::Bf16, nested(NestedSpec::Fp8), bf16, Some(bf16), true, false);
        for (fragments, down) in SKINNY {
            let spec = GemmSkinnySpec {
                fragments,
                down,
                blocks: most_blocks(fragments),
                stages: 4,
                product: spec.clone(),
            };
            add(format!("gemm_skinny_nf4_bf16_fp8_lora_{}x{down}", 8 * fragments), spec.into());
        }
        let product = ProductSpec { bias: None, ..spec };
        for (fragments, down) in SKINNY_BACKWARD {
            let spec = GemmSkinnyBackwardSpec {
                fragments,
                down,
                blocks: most_blocks(fragments),
                stages: 4,
                product: product.clone(),
            };
            add(format!("gemm_skinny_backward_nf4_bf16_fp8_lora_{}x{down}", 8 * fragments), spec.into());
        }
    }
    add("split_sum_bf16_bias".into(), split_sum(false));
    // As on an H100 and on Turing.
    let low_rank = |matrix, halves, parts| {
        let spec = GemmLowRankSpec::new(matrix, halves, parts, 64);
        KernelSpec::from(match target {
            Target::Sm75 => spec,
            _ => GemmLowRankSpec { blocks: 2, stages: 5 - parts, ..spec },
        })
    };
    if target >= Target::Sm80 {
        let bf16 = [Half::Bf16; 2];
        for (name, matrix, parts) in [
            ("t", AdapterMatrix::T, 1),
            ("u", AdapterMatrix::U, 1),
            ("da", AdapterMatrix::GradientA, 2),
            ("db", AdapterMatrix::GradientB, 2),
        ] {
            add(format!("gemm_low_rank_{name}_bf16_64"), low_rank(matrix, bf16, parts));
        }
        // f16 beside an adapter in f32.
        let mixed = [Half::F16, Half::Bf16];
        add("gemm_low_rank_t_f16_f32_64".into(), low_rank(AdapterMatrix::T, mixed, 2));
        add("cast_f32_bf16".into(), CastSpec { from: f32, to: Half::Bf16, parts: 1 }.into());
        add("cast_f32_bf16_parts".into(), CastSpec { from: f32, to: Half::Bf16, parts: 2 }.into());
    } else {
        add("gemm_low_rank_t_f16_64".into(), low_rank(AdapterMatrix::T, [Half::F16; 2], 1));
        add("cast_f32_f16".into(), CastSpec { from: f32, to: Half::F16, parts: 1 }.into());
    }
    add("optimizer_table".into(), TableSpec.into());
    add("optimizer_norms_clip".into(), ReduceSpec::Clip.into());
    for (name, rule, storage, layout) in [
        ("adamw", Rule::AdamW, StateStorage::F32, Layout::Vectors),
        ("adamw_strided", Rule::AdamW, StateStorage::F32, Layout::Strided),
        ("adamw_8bit", Rule::AdamW, StateStorage::Blocks, Layout::Vectors),
        ("lion_8bit", Rule::Lion, StateStorage::Blocks, Layout::Vectors),
        ("lamb_8bit", Rule::Lamb, StateStorage::Blocks, Layout::Vectors),
    ] {
        let group = Group { dtypes: [bf16; 2], layout, storage, states: rule.states().len() };
        let spec = StepSpec { group, rule, clipped: true, stochastic: name == "adamw" };
        add(format!("optimizer_step_{name}"), spec.into());
        if rule.uses_norms() {
            let spec = SquaresSpec { group, rule: Some(rule), clipped: true };
            add(format!("optimizer_squares_{name}"), spec.into());
            add(format!("optimizer_norms_{name}"), ReduceSpec::Trust(group, rule).into());
        }
    }
    entries
}

/// Fragments and warps down of the kernels for few rows, from the least to the most registers.
const SKINNY: [(u32, u32); 4] = [(1, 1), (2, 2), (4, 8), (8, 8)];
/// The same for the backward kernel.
const SKINNY_BACKWARD: [(u32, u32); 4] = [(1, 8), (2, 4), (4, 2), (8, 2)];

/// The tiles that the kernels on tensor cores have for a target.
fn tile_rows(target: Target) -> &'static [u32] {
    if target >= Target::Sm80 { &[32, 64, 128] } else { &[32, 64] }
}

/// NF4 in blocks of 64.
fn product(
    half: Half,
    constants: ConstantsSpec,
    out: DType,
    bias: Option<DType>,
    low_rank: bool,
    accumulate: bool,
) -> ProductSpec {
    let values = table::bits(Codebook::Nf4.table().expect("a built-in table").values);
    ProductSpec { half, values, block_size: 64, constants, out, bias, low_rank, accumulate }
}

/// The adapter's own products, of every pair of types, rank narrow or wide, even or odd; and what is cast for them.
fn low_rank(target: Target) -> Vec<KernelSpec> {
    use AdapterMatrix::*;
    let (f16, bf16) = (Half::F16, Half::Bf16);
    let all = [[f16, f16], [f16, bf16], [bf16, bf16]];
    let pairs = if target >= Target::Sm80 { all.as_slice() } else { &all[..1] };
    let mut specs = Vec::new();
    for &[long, narrow] in pairs {
        for parts in if narrow == f16 { 1..=1 } else { 1..=2 } {
            for from in [DType::F32, DType::F16, DType::Bf16] {
                specs.push(CastSpec { from, to: narrow, parts }.into());
            }
            for matrix in [T, U, GradientA, GradientB] {
                for rank in [9, 64] {
                    let spec = GemmLowRankSpec::new(matrix, [long, narrow], parts, rank);
                    if target >= Target::Sm80 {
                        specs.push(GemmLowRankSpec { blocks: 2, stages: 3, ..spec.clone() }.into());
                        specs.push(GemmLowRankSpec { stages: 4, ..spec }.into());
                    } else {
                        specs.push(spec.into());
                    }
                }
            }
        }
    }
    specs
}
