//! Every dtype, layout, block size, data type and kind of constants: what ptxas must accept without spills.

use super::{Entry, TARGETS, WGMMA_TOKENS, low_rank, product, tile_rows};
use crate::format::optimizer::Rule;
use crate::format::{Codebook, Map256};
use crate::kernels::blockwise8::{Dequantize8Spec, Quantize8Spec};
use crate::kernels::constants::{ConstantsSpec, NestedSpec};
use crate::kernels::decode::Half;
use crate::kernels::dequantize::DequantizeSpec;
use crate::kernels::gemm_mma::GemmMmaSpec;
use crate::kernels::gemm_mma_backward::GemmMmaBackwardSpec;
use crate::kernels::gemm_skinny::{GemmSkinnySpec, most_blocks};
use crate::kernels::gemm_skinny_backward::GemmSkinnyBackwardSpec;
use crate::kernels::gemm_wgmma::GemmWgmmaSpec;
use crate::kernels::gemm_wgmma_backward::GemmWgmmaBackwardSpec;
use crate::kernels::optimizer::StepSpec;
use crate::kernels::optimizer::norms::SquaresSpec;
use crate::kernels::optimizer::table::{Group, StateStorage};
use crate::kernels::product::ProductSpec;
use crate::kernels::quantize::QuantizeSpec;
use crate::kernels::split_sum::SplitSumSpec;
use crate::kernels::tensor::Layout;
use crate::kernels::wgmma_block::Cut;
use crate::kernels::{KernelSpec, table};
use crate::view::DType;
use ptx_asm::Target;

/// The kernels in all their variants, for every target.
pub fn variants() -> Vec<Entry> {
    let mut entries = Vec::new();
    for target in TARGETS {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for layout in [Layout::Vectors, Layout::Elements, Layout::Strided] {
                for block_size in [32, 64, 1024, 4096] {
                    let specs = streaming(dtype, layout, block_size);
                    entries.extend(specs.into_iter().map(|spec| Entry {
                        target,
                        file: format!("{spec:?}"),
                        spec,
                    }));
                }
            }
        }
    }
    let mut add = |target, spec: KernelSpec| {
        entries.push(Entry { target, file: format!("{spec:?}"), spec });
    };
    for product in products() {
        for tokens in WGMMA_TOKENS {
            // Such a kernel stores whole tiles, too.
            let cut = Cut { tokens, cluster: 1, in_parts: true };
            let accumulate = product.bias.is_some();
            let product = ProductSpec { accumulate, ..product.clone() };
            let backward = ProductSpec { bias: None, ..product.clone() };
            add(Target::Sm90a, GemmWgmmaSpec { cut, product }.into());
            add(Target::Sm90a, GemmWgmmaBackwardSpec { cut, product: backward }.into());
        }
    }
    for target in TARGETS.into_iter().chain([Target::Sm90a]) {
        for out in [DType::F32, DType::F16, DType::Bf16] {
            for (bias, accumulate) in [(None, true), (Some(DType::F16), false)] {
                let overlaps = target == Target::Sm90a;
                for fours in [false, true] {
                    add(target, SplitSumSpec { out, bias, accumulate, fours, overlaps }.into());
                }
            }
        }
    }
    for target in TARGETS {
        for spec in low_rank(target) {
            add(target, spec);
        }
        optimizers().into_iter().for_each(|spec| add(target, spec));
        for product in products() {
            if product.half == Half::Bf16 && target < Target::Sm80 {
                continue;
            }
            for &rows in tile_rows(target) {
                add(target, GemmMmaSpec { rows, product: product.clone() }.into());
                let product =
                    ProductSpec { bias: None, accumulate: product.bias.is_some(), ..product.clone() };
                add(target, GemmMmaBackwardSpec { rows, product }.into());
            }
        }
    }
    for entry in skinny_variants() {
        add(Target::Sm80, entry);
    }
    entries
}

/// Every rule, type and storage of optimizers, with everything that a step may have.
fn optimizers() -> Vec<KernelSpec> {
    let mut specs = Vec::new();
    for rule in Rule::ALL {
        for storage in [StateStorage::F32, StateStorage::Blocks] {
            for dtype in [DType::F32, DType::F16, DType::Bf16] {
                for layout in [Layout::Vectors, Layout::Strided] {
                    let group = Group { dtypes: [dtype; 2], layout, storage, states: rule.states().len() };
                    let stochastic = dtype == DType::Bf16;
                    specs.push(StepSpec { group, rule, clipped: true, stochastic }.into());
                    if rule.uses_norms() {
                        specs.push(SquaresSpec { group, rule: Some(rule), clipped: true }.into());
                    }
                }
            }
        }
    }
    specs
}

/// The kernels for few rows, of every cut, with everything in the pass.
fn skinny_variants() -> Vec<KernelSpec> {
    let dynamic = || ConstantsSpec::Nested(NestedSpec::Dynamic);
    let forward = product(Half::Bf16, dynamic(), DType::F32, Some(DType::F32), true, false);
    let backward = product(Half::Bf16, dynamic(), DType::F32, None, true, true);
    let mut specs = Vec::new();
    for fragments in [1, 2, 4, 8] {
        for down in [1, 2, 4, 8] {
            for blocks in 1..=most_blocks(fragments) {
                let (stages, product) = (4, forward.clone());
                if fragments <= 2 * down {
                    specs.push(GemmSkinnySpec { fragments, down, blocks, stages, product }.into());
                }
                let product = backward.clone();
                if fragments * down <= 32 {
                    specs.push(GemmSkinnyBackwardSpec { fragments, down, blocks, stages, product }.into());
                }
            }
        }
    }
    specs
}

/// Every type, kind of constants and of output; with everything in the pass, or nothing.
fn products() -> Vec<ProductSpec> {
    let mut products = Vec::new();
    for half in [Half::F16, Half::Bf16] {
        for constants in [ConstantsSpec::Plain, ConstantsSpec::Nested(NestedSpec::Dynamic)] {
            for out in [DType::F32, DType::F16, DType::Bf16] {
                for (bias, low_rank) in [(None, false), (Some(DType::F32), true)] {
                    products.push(product(half, constants.clone(), out, bias, low_rank, false));
                }
            }
        }
    }
    products
}

fn streaming(dtype: DType, layout: Layout, block_size: u32) -> Vec<KernelSpec> {
    let map = Box::new(table::bits(Map256::dynamic_signed().values));
    let mut specs: Vec<KernelSpec> = vec![
        Quantize8Spec { dtype, layout, map: map.clone(), block_size }.into(),
        Dequantize8Spec { dtype, layout, map, block_size }.into(),
    ];
    // One whose codes ascend with their values, one whose do not.
    for codebook in [Codebook::Nf4, Codebook::Fp4Bnb] {
        let table = codebook.table().expect("a built-in table");
        specs.push(QuantizeSpec { dtype, layout, table: (&table).into(), block_size }.into());
        for nested in [None, Some(NestedSpec::Fp8), Some(NestedSpec::Dynamic)] {
            let constants = nested.map_or(ConstantsSpec::Plain, ConstantsSpec::Nested);
            let values = table::bits(table.values);
            specs.push(DequantizeSpec { dtype, layout, values, block_size, constants }.into());
        }
    }
    specs
}
