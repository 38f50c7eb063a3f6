//! The AdamW step on a CUDA device has the CPU's bits.

mod common;

use common::device::*;
use common::*;
use proptest::prelude::*;
use qlora_kernels::{AdamW, Context, ops};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_step_has_the_cpus_bits(
        (rows, cols) in (0usize..5, 0usize..2000),
        dtypes in (any_dtype(), any_dtype()),
        gaps in (0usize..3, 0usize..3),
        (lr, weight_decay, grad_scale) in (1e-5f32..1e-1, 0f32..0.5, 0.01f32..4.0),
        (beta1, beta2) in (0f32..0.99, 0.5f32..0.9999),
        step in 1u64..2000,
        seed: u64,
        special in prop::collection::vec(any_number(), 0..6),
    ) {
        let hyper = AdamW { lr, beta1, beta2, eps: 1e-8, weight_decay, step, grad_scale };
        let n = rows * cols;
        let mut p = Matrix::new(dtypes.0, &numbers(n, seed, &special), rows, cols, gaps.0);
        let g = Matrix::new(dtypes.1, &numbers(n, seed ^ 1, &special), rows, cols, gaps.1);
        let (mut m, mut v) = (numbers(n, seed ^ 2, &[0.0]), numbers(n, seed ^ 3, &[0.0]));
        v.iter_mut().for_each(|v| *v *= *v);

        let gpu = Gpu::new();
        let (p_up, g_up) = (gpu.matrix(&p, 0), gpu.matrix(&g, 0));
        let (m_up, v_up) = (gpu.upload(&m), gpu.upload(&v));
        let (param, grad) = (p_up.tensor_mut(&gpu, &p), g_up.tensor(&gpu, &g));
        ops::adamw_step(&gpu.context, &hyper, param, grad, m_up.buffer_mut(&gpu), v_up.buffer_mut(&gpu)).unwrap();
        let mut p_back = p.clone();
        p_back.bytes_mut().copy_from_slice(&gpu.download::<u8>(&p_up));

        ops::adamw_step(&Context::cpu(), &hyper, p.view_mut(), g.view(), &mut m, &mut v).unwrap();
        prop_assert_eq!(same_bits(&p_back.values(), &p.values()), Ok(()));
        prop_assert_eq!(same_bits(&gpu.download::<f32>(&m_up), &m), Ok(()));
        prop_assert_eq!(same_bits(&gpu.download::<f32>(&v_up), &v), Ok(()));
    }
}
