//! A program that has the processor round upwards gets the same bits: alone in its process, since tables that the library
//! computes once must not be those of the first caller's modes.
#![cfg(all(not(miri), any(target_arch = "x86_64", target_arch = "aarch64")))]

mod common;

use common::optimizers::*;
use common::*;
use qlora_kernels::format::{Map256, blockwise8, double_quant};
use qlora_kernels::view::ConstantsMut;
use qlora_kernels::{
    Codebook, Context, DType, Optimizer, QuantSpec, QuantizedMatrix, Rule, Tensor, TensorMut, ops,
};
use std::arch::asm;
use std::hint::black_box;

/// What `body` makes of it while the processor rounds towards infinity: MXCSR (Intel SDM, volume 1, section 10.2.3.1) or FPCR (Arm
/// Architecture Reference Manual, section C5.2.8).
fn rounding_up<T>(body: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    let (standard, up) = (0x1f80, 0x1f80 | 0x4000);
    #[cfg(target_arch = "aarch64")]
    let (standard, up) = (0, 1 << 22);
    let set = |modes: u64| {
        // SAFETY: valid modes, exceptions masked.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            asm!("ldmxcsr [{}]", in(reg) &modes, options(nostack));
            #[cfg(target_arch = "aarch64")]
            asm!("msr fpcr, {}", in(reg) modes, options(nostack, preserves_flags));
        }
    };
    set(up);
    let rounds_up = || black_box(black_box(1f32) + black_box(1e-30)) > 1.0;
    let before = rounds_up();
    let result = body();
    let after = rounds_up();
    set(standard);
    assert!(before && after, "the caller's modes come back");
    result
}

#[test]
fn a_program_that_rounds_up_gets_the_same_bits() {
    let map = Map256::dynamic_signed();
    let x = Matrix::new(DType::F32, &numbers(5000, 1, &[]), 1, 5000, 0);
    let specs: Vec<_> = codebooks()
        .into_iter()
        .flat_map(|codebook| {
            constants().into_iter().map(move |kind| QuantSpec::new(codebook, 64).with_constants(kind))
        })
        .collect();
    let optimizer = Optimizer { max_norm: Some(1.0), ..Optimizer::new(Rule::AdamW) };
    let start = Owned::new(Rule::AdamW, &Shape::row(5000, DType::F32, true), 2, &[]);
    let dynamic = &constants()[2];
    // The values of this type are sevenths, which no rounding leaves alone.
    let int4 = QuantizedMatrix::quantize(
        &Context::cpu(),
        Tensor::new(&x.values(), 50, 100).unwrap(),
        &QuantSpec::new(Codebook::Int4, 32),
    )
    .unwrap();
    let rows = numbers(300, 3, &[]);
    let products = |context: &Context| {
        let (mut y, mut dx) = (vec![0f32; 150], vec![0f32; 600]);
        let mut workspace = vec![0; ops::gemm_workspace_size(context, 6, 50, 100, 0).unwrap()];
        let x = Tensor::new(&rows, 3, 100).unwrap();
        let out = TensorMut::new(&mut y, 3, 50).unwrap();
        ops::gemm_forward(context, x, int4.view(), None, None, out, &mut workspace).unwrap();
        let dy = Tensor::new(&rows, 6, 50).unwrap();
        let out = TensorMut::new(&mut dx, 6, 100).unwrap();
        ops::gemm_backward(context, dy, int4.view(), None, out, false, &mut workspace).unwrap();
        (y, dx)
    };

    let context = Context::cpu();
    let (mut codes, mut absmax) = (vec![0u8; 5000], vec![0f32; 20]);
    let (mut eight_bits, mut matrix, mut parameter) = (vec![0f32; 5000], vec![], start.clone());
    let (mut nested, mut scales, mut offset) = (vec![0u8; 5000], vec![0f32; 20], [0f32]);
    let upwards = rounding_up(|| {
        let (codes, absmax) = (&mut codes[..], &mut absmax[..]);
        ops::quantize_8bit(&context, x.view(), &map, 256, (&mut *codes).into(), (&mut *absmax).into())
            .unwrap();
        let out = TensorMut::new(&mut eight_bits, 1, 5000).unwrap();
        ops::dequantize_8bit(&context, (&*codes).into(), (&*absmax).into(), &map, 256, out).unwrap();
        for spec in &specs {
            let q = QuantizedMatrix::quantize(&context, x.view(), spec).unwrap();
            let mut values = vec![0f32; 5000];
            q.dequantize(&context, TensorMut::new(&mut values, 1, 5000).unwrap()).unwrap();
            matrix.push((q.codes().to_vec(), values));
        }
        ops::optimizer_step(&context, &optimizer, &mut [parameter.view()], None, &mut [][..]).unwrap();
        let (codes, scales) = (nested.as_mut_slice().into(), scales.as_mut_slice().into());
        let out = ConstantsMut::Nested { codes, scales, offset: offset.as_mut_slice().into() };
        ops::double_quantize(&context, x.values().as_slice().into(), dynamic, out, &mut [][..]).unwrap();
        products(&context)
    });

    let expected = blockwise8::quantize(&x.values(), &map, 256);
    assert!(codes == expected.0 && absmax == expected.1);
    assert_eq!(same_bits(&eight_bits, &blockwise8::dequantize(&codes, &absmax, &map, 256)), Ok(()));
    for (spec, (codes, values)) in specs.iter().zip(matrix) {
        let expected = reference(&x.values(), spec);
        assert!(codes == expected.codes, "{spec:?}");
        assert_eq!(same_bits(&values, &expected.values), Ok(()), "{spec:?}");
    }
    let expected = double_quant::quantize(&x.values(), &encoding(dynamic).unwrap());
    assert!(nested == expected.codes && scales == expected.scales && offset == [expected.offset]);
    assert!(upwards == products(&context));
    let mut expected = [start];
    reference_step(&optimizer, &mut expected);
    assert_eq!(parameter.same(&expected[0]), Ok(()));
}
