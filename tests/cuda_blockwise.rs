//! The blockwise kernels have the reference's bits. They run as PTX text on the simulator, through the same driver calls
//! that a GPU would get; with `QLK_REAL_CUDA=1` on the machine's GPU.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::*;
use proptest::prelude::*;
use qlora_kernels::format::{Map256, double_quant};
use qlora_kernels::view::{ConstantsMut, ConstantsView};
use qlora_kernels::{Codebook, DType, QuantSpec, ops};

fn any_placement() -> impl Strategy<Value = Placement> {
    let odd = (0usize..3, 0usize..3, 0usize..5, 0usize..3);
    let odd = odd.prop_map(|(a, b, codes, tensors)| Placement { gaps: [a, b], codes, tensors });
    prop_oneof![Just(ALIGNED), odd]
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn small_matrices(
        codebook in any_codebook(),
        constants in any_constants(),
        block_size in any_block_size(),
        (dtype, out_dtype) in (any_dtype(), any_dtype()),
        (rows, cols) in (0usize..40, 0usize..300),
        at in any_placement(),
        seed: u64,
        special in prop::collection::vec(any_number(), 0..6),
    ) {
        let x = Matrix::new(dtype, &numbers(rows * cols, seed, &special), rows, cols, at.gaps[0]);
        check(&Gpu::new(), &x, &QuantSpec::new(codebook, block_size).with_constants(constants), out_dtype, at)?;
    }

    /// All numbers drawn one by one: mixed magnitudes, subnormals, NaN and infinities in most blocks.
    #[test]
    fn wild_numbers(
        codebook in any_codebook(),
        constants in any_constants(),
        (dtype, out_dtype) in (any_dtype(), any_dtype()),
        values in prop::collection::vec(any_number(), 1..500),
    ) {
        let x = Matrix::new(dtype, &values, 1, values.len(), 0);
        check(&Gpu::new(), &x, &QuantSpec::new(codebook, 32).with_constants(constants), out_dtype, ALIGNED)?;
    }

    #[test]
    fn eight_bits(
        signed: bool,
        (dtype, out_dtype) in (any_dtype(), any_dtype()),
        block_size in any_block_size(),
        (rows, cols) in (0usize..20, 0usize..300),
        at in any_placement(),
        seed: u64,
        special in prop::collection::vec(any_number(), 0..6),
    ) {
        let map = if signed { Map256::dynamic_signed() } else { Map256::dynamic_unsigned() };
        let x = Matrix::new(dtype, &numbers(rows * cols, seed, &special), rows, cols, at.gaps[0]);
        check_8bit(&Gpu::new(), &x, &map, block_size, out_dtype, at)?;
    }

    #[test]
    fn double_quantization_alone(
        constants in prop::sample::select(constants()[1..].to_vec()),
        absmax in prop::collection::vec(any_number(), 0..2000),
    ) {
        let gpu = Gpu::new();
        let encoding = encoding(&constants).unwrap();
        let expected = double_quant::quantize(&absmax, &encoding);
        let back = double_quant::dequantize(&expected, &encoding);
        let input = gpu.upload(&absmax);
        let [codes, scales, offset] =
            [absmax.len(), 4 * expected.scales.len(), 4].map(|bytes| gpu.allocate(bytes, 0));
        let size = ops::double_quantize_workspace_size(&gpu.context, absmax.len()).unwrap();
        let workspace = gpu.workspace(size);
        let out = ConstantsMut::Nested {
            codes: codes.buffer_mut(&gpu),
            scales: scales.buffer_mut(&gpu),
            offset: offset.buffer_mut(&gpu),
        };
        ops::double_quantize(&gpu.context, input.buffer(&gpu), &constants, out, workspace.buffer_mut::<u8>(&gpu)).unwrap();
        prop_assert_eq!(gpu.download::<u8>(&codes), expected.codes);
        prop_assert_eq!(same_bits(&gpu.download::<f32>(&scales), &expected.scales), Ok(()));
        prop_assert_eq!(same_bits(&gpu.download::<f32>(&offset), &[expected.offset]), Ok(()));

        let nested = ConstantsView::Nested {
            codes: codes.buffer(&gpu),
            scales: scales.buffer(&gpu),
            offset: offset.buffer(&gpu),
        };
        let read = gpu.allocate(4 * absmax.len(), 0);
        ops::double_dequantize(&gpu.context, nested, &constants, read.buffer_mut(&gpu)).unwrap();
        prop_assert_eq!(same_bits(&gpu.download::<f32>(&read), &back), Ok(()));
    }
}

/// Several tiles, whole and cut, for every block size and dtype: blocks inside a few lanes, a warp, several warps.
#[test]
fn large_matrices() {
    let gpu = Gpu::new();
    for block in 5..=12 {
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for constants in constants() {
                let len = 3 * 8192 + 517;
                let x = Matrix::new(dtype, &numbers(len, 7 + block, &[0.0, 3.0, -2.0]), 1, len, 0);
                let spec = QuantSpec::new(Codebook::Nf4, 1 << block).with_constants(constants);
                check(&gpu, &x, &spec, dtype, ALIGNED).unwrap();
            }
        }
    }
}

/// The levels of the mean: 257 and 65,537 constants need two and three.
#[test]
fn many_constants() {
    let gpu = Gpu::new();
    for blocks in [256, 257, 65_537] {
        let len = 32 * blocks - 5;
        let x = Matrix::new(DType::Bf16, &numbers(len, 3, &[5.0]), 1, len, 0);
        let spec = QuantSpec::new(Codebook::Nf4, 32).with_constants(qlora_kernels::Constants::Fp8);
        check(&gpu, &x, &spec, DType::Bf16, ALIGNED).unwrap();
    }
}

/// Every value of every 16-bit type: widening, and narrowing after dequantization.
#[test]
fn all_16_bit_values() {
    let gpu = Gpu::new();
    for dtype in [DType::F16, DType::Bf16] {
        let all: Vec<f32> = (0..=u16::MAX)
            .map(|bits| match dtype {
                DType::F16 => half::f16::from_bits(bits).to_f32(),
                _ => half::bf16::from_bits(bits).to_f32(),
            })
            .collect();
        let x = Matrix::new(dtype, &all, 256, 256, 0);
        for codebook in codebooks() {
            check(&gpu, &x, &QuantSpec::new(codebook, 32), dtype, ALIGNED).unwrap();
        }
    }
}
