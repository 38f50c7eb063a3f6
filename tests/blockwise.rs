//! Quantize, dequantize and double quantization have the reference's bits on every code path of this machine.

mod common;

use common::*;
use proptest::prelude::*;
use qlora_kernels::format::{Map256, blockwise8, double_quant};
use qlora_kernels::view::{Buffer, ConstantsMut};
use qlora_kernels::{Codebook, Context, DType, QuantSpec, QuantizedMatrix, ops};

fn check(x: &Matrix, spec: &QuantSpec, out_dtype: DType, gap: usize) -> Result<(), TestCaseError> {
    let expected = reference(&x.values(), spec);
    let rounded: Vec<f32> = expected.values.iter().map(|&v| round_to(out_dtype, v)).collect();
    for context in Context::cpu_variants() {
        let isa = context.instruction_set();
        let q = QuantizedMatrix::quantize(&context, x.view(), spec).unwrap();
        prop_assert!(q.codes() == expected.codes, "{isa}: codes");
        let same = |what: &str, a: &[f32], b: &[f32]| {
            same_bits(a, b).map_err(|e| TestCaseError::fail(format!("{isa}, {what}: {e}")))
        };
        same("absmax", q.absmax(), &expected.absmax)?;
        let (codes, scales, offset) = q.nested();
        prop_assert!(codes == expected.nested.0, "{isa}: absmax codes");
        same("absmax scales", scales, &expected.nested.1)?;
        same("absmax offset", offset, &expected.nested.2)?;

        let mut out = Matrix::zeros(out_dtype, x.rows, x.cols, gap);
        q.dequantize(&context, out.view_mut()).unwrap();
        same("values", &out.values(), &rounded)?;
    }
    Ok(())
}

/// A dynamic map, one that differs from it in a single number, or another.
fn any_map() -> impl Strategy<Value = Map256> {
    let dynamic = prop::bool::ANY.prop_map(|signed| match signed {
        true => Map256::dynamic_signed(),
        false => Map256::dynamic_unsigned(),
    });
    let negative_zero = Map256::dynamic_signed().values.map(|v| if v == 0.0 { -0.0 } else { v });
    let lower_end = Map256::dynamic_unsigned().values.map(|v| if v == 1.0 { 0.9999 } else { v });
    let linear = std::array::from_fn(|code| code as f32 / 127.5 - 1.0);
    let others = prop::sample::select(vec![negative_zero, lower_end, linear]);
    prop_oneof![dynamic, others.prop_map(|values| Map256::new(&values).unwrap())]
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn every_path_has_the_reference_bits(
        codebook in any_codebook(),
        constants in any_constants(),
        block_size in any_block_size(),
        (dtype, out_dtype) in (any_dtype(), any_dtype()),
        (rows, cols) in (0usize..40, 0usize..300),
        (gap, out_gap) in (0usize..3, 0usize..3),
        seed: u64,
        special in prop::collection::vec(any_number(), 0..6),
    ) {
        let x = Matrix::new(dtype, &numbers(rows * cols, seed, &special), rows, cols, gap);
        let spec = QuantSpec::new(codebook, block_size).with_constants(constants);
        check(&x, &spec, out_dtype, out_gap)?;
    }

    /// All numbers drawn one by one: mixed magnitudes, subnormals, NaN and infinities in most blocks.
    #[test]
    fn wild_numbers_have_the_reference_bits(
        codebook in any_codebook(),
        constants in any_constants(),
        out_dtype in any_dtype(),
        values in prop::collection::vec(any_number(), 1..500),
    ) {
        let x = Matrix::new(DType::F32, &values, 1, values.len(), 0);
        check(&x, &QuantSpec::new(codebook, 32).with_constants(constants), out_dtype, 0)?;
    }

    #[test]
    fn eight_bits_have_the_reference_bits(
        map in any_map(),
        (dtype, out_dtype) in (any_dtype(), any_dtype()),
        (gap, out_gap) in (0usize..2, 0usize..3),
        block_size in any_block_size(),
        (rows, cols) in (0usize..20, 0usize..300),
        seed: u64,
        special in prop::collection::vec(any_number(), 0..6),
    ) {
        let x = Matrix::new(dtype, &numbers(rows * cols, seed, &special), rows, cols, gap);
        let (codes, absmax) = blockwise8::quantize(&x.values(), &map, block_size as usize);
        let values = blockwise8::dequantize(&codes, &absmax, &map, block_size as usize);
        for context in Context::cpu_variants() {
            let (mut c, mut a) = (vec![0; codes.len()], vec![0.0; absmax.len()]);
            ops::quantize_8bit(&context, x.view(), &map, block_size, c.as_mut_slice().into(), a.as_mut_slice().into()).unwrap();
            prop_assert_eq!(&c, &codes);
            prop_assert_eq!(same_bits(&a, &absmax), Ok(()));
            let mut out = Matrix::zeros(out_dtype, rows, cols, out_gap);
            ops::dequantize_8bit(&context, c.as_slice().into(), a.as_slice().into(), &map, block_size, out.view_mut()).unwrap();
            let expected = Matrix::new(out_dtype, &values, rows, cols, out_gap);
            prop_assert_eq!(same_bits(&out.values(), &expected.values()), Ok(()));
        }
    }

    #[test]
    fn double_quantization_alone_has_the_reference_bits(
        constants in prop::sample::select(constants()[1..].to_vec()),
        absmax in prop::collection::vec(any_number().prop_map(f32::abs), 0..2000),
    ) {
        let encoding = encoding(&constants).unwrap();
        let expected = double_quant::quantize(&absmax, &encoding);
        let back = double_quant::dequantize(&expected, &encoding);
        let context = Context::cpu();
        let (mut codes, mut scales, mut offset) = (vec![0; absmax.len()], vec![0.0; expected.scales.len()], [0.0]);
        let out = ConstantsMut::Nested {
            codes: codes.as_mut_slice().into(),
            scales: scales.as_mut_slice().into(),
            offset: offset.as_mut_slice().into(),
        };
        ops::double_quantize(&context, Buffer::from(absmax.as_slice()), &constants, out, &mut vec![]).unwrap();
        prop_assert_eq!(&codes, &expected.codes);
        prop_assert_eq!(same_bits(&scales, &expected.scales), Ok(()));
        prop_assert_eq!(same_bits(&offset, &[expected.offset]), Ok(()));
        let nested = qlora_kernels::view::ConstantsView::Nested {
            codes: codes.as_slice().into(),
            scales: scales.as_slice().into(),
            offset: offset.as_slice().into(),
        };
        let mut read = vec![0.0; absmax.len()];
        ops::double_dequantize(&context, nested, &constants, read.as_mut_slice().into()).unwrap();
        prop_assert_eq!(same_bits(&read, &back), Ok(()));
    }
}

/// Large enough that all threads take part, with a short last block and an odd end.
#[test]
fn large_matrices_have_the_reference_bits() {
    for (rows, cols) in [(1023, 1025), (1, 1_000_003)] {
        let x = Matrix::new(DType::Bf16, &numbers(rows * cols, 7, &[0.0, 3.0]), rows, cols, 0);
        for constants in constants() {
            for out_dtype in [DType::F32, DType::F16, DType::Bf16] {
                let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(constants.clone());
                check(&x, &spec, out_dtype, 0).unwrap();
            }
        }
    }
}

/// Scales of every exponent, so that products are subnormal, overflow and round up to the next power in every type.
#[test]
fn all_scales_have_the_reference_bits() {
    let spec = QuantSpec::new(Codebook::Nf4, 32);
    for (rows, cols) in [(255, 32), (120, 67)] {
        // 1/absmax overflows below 2^-128.
        let magnitude = |i: usize| f32::from_bits((((i / 32) as u32 % 255) << 23) | 0x2a_aaaa);
        let values: Vec<f32> =
            (0..rows * cols).map(|i| magnitude(i) * ((i * 37 % 64) as f32 / 32.0 - 1.0)).collect();
        let x = Matrix::new(DType::F32, &values, rows, cols, 0);
        for (out_dtype, gap) in [DType::F32, DType::F16, DType::Bf16].map(|t| [(t, 0), (t, 3)]).concat() {
            check(&x, &spec, out_dtype, gap).unwrap();
        }
    }
}

/// Every value of every 16-bit type through every code path: widening, and narrowing after dequantization.
#[test]
fn all_16_bit_values() {
    for dtype in [DType::F16, DType::Bf16] {
        let all: Vec<f32> = (0..=u16::MAX)
            .map(|bits| match dtype {
                DType::F16 => half::f16::from_bits(bits).to_f32(),
                _ => half::bf16::from_bits(bits).to_f32(),
            })
            .collect();
        let x = Matrix::new(dtype, &all, 256, 256, 0);
        for codebook in codebooks() {
            check(&x, &QuantSpec::new(codebook, 32), dtype, 0).unwrap();
        }
    }
}
