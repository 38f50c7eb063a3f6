//! Forward, backward and adapter gradients on every code path of the CPU, against f64.

mod common;

use common::products::*;
use common::*;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use qlora_kernels::{Codebook, Constants, Context, DType, Lora, QuantSpec, QuantizedMatrix, ops};

proptest! {
    #![proptest_config(cases(160))]

    #[test]
    fn small_shapes(case in any_case(70)) {
        for context in Context::cpu_variants() {
            context.set_threads(case.threads).unwrap();
            case.check(&context)?;
        }
    }
}

proptest! {
    #![proptest_config(cases(12))]

    /// Long enough for several blocks of the engine in every direction.
    #[test]
    fn larger_shapes(case in any_case(600)) {
        for context in Context::cpu_variants() {
            context.set_threads(case.threads).unwrap();
            case.check(&context)?;
        }
    }
}

/// Rows of W that start with blocks, as those of models do: a few rows of activations have functions of their own then, and more
/// of them decode W to columns.
fn any_case_of_whole_rows() -> impl Strategy<Value = Case> {
    let rows = prop_oneof![1usize..=17, 1usize..=70];
    (any_case(300), rows, 5u32..=12, 1usize..=5).prop_map(|(case, m, log, blocks)| {
        let spec = QuantSpec::new(case.spec.codebook, 1 << log).with_constants(case.spec.constants.clone());
        // Several pieces of K, or several blocks in one.
        let blocks = if log < 8 { blocks * blocks } else { blocks.min(2) };
        Case { m, k: blocks << log, spec, ..case }
    })
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn whole_rows(case in any_case_of_whole_rows()) {
        for context in Context::cpu_variants() {
            context.set_threads(case.threads).unwrap();
            case.check(&context)?;
        }
    }
}

/// A weight of more rows than are taken at a time, and of blocks longer than the output's: few rows of dY, in one pass and in two.
#[test]
fn many_rows_of_a_weight() {
    for (m, block_size, constants) in [
        (1, 64, Constants::F32),
        (3, 512, Constants::F32),
        (6, 512, Constants::Fp8),
        (13, 32, Constants::Dynamic),
    ] {
        for dtype in [DType::F32, DType::Bf16] {
            let dtypes = [dtype, dtype, DType::F32, DType::F32, DType::F32];
            let spec = QuantSpec::new(Codebook::Nf4, block_size).with_constants(constants.clone());
            let case = Case { m, n: 2051, k: 512, rank: None, spec, dtypes, gap: 0, seed: 9, threads: 2 };
            for context in Context::cpu_variants() {
                context.set_threads(case.threads).unwrap();
                case.check_products(&context, &case.inputs(1.0)).unwrap();
            }
        }
    }
}

/// Values that are large, small or not finite: what depends on one that is not finite is not finite either, and nothing else.
#[test]
fn special_values() {
    for (context, m, activations) in Context::cpu_variants().into_iter().flat_map(|context| {
        [(1, DType::Bf16), (6, DType::Bf16), (6, DType::F32), (20, DType::Bf16)]
            .map(|(m, t)| (context.clone(), m, t))
    }) {
        let dtypes = [activations, activations, DType::F32, DType::F32, DType::F32];
        let spec = QuantSpec::new(Codebook::Nf4, 64);
        let case = Case { m, n: 40, k: 192, rank: None, spec, dtypes, gap: 0, seed: 5, threads: 1 };
        let named = |what: &str, result: Result<(), TestCaseError>| {
            result.unwrap_or_else(|e| {
                panic!("{}, {activations:?}, M = {m}, {what}: {e}", context.instruction_set())
            });
        };
        for magnitude in [1e-30, 2f32.powi(-20), 32768.0, 1e30] {
            named(&format!("{magnitude:e}"), case.check_products(&context, &case.inputs(magnitude)));
        }
        for special in [f32::NAN, f32::INFINITY] {
            let mut inputs = case.inputs(1.0);
            inputs.w[17 * case.k + 70] = special;
            named("W", case.check_products(&context, &inputs));
            let inputs = case.inputs(1.0);
            let inputs = Inputs { x: inputs.x.with([m - 1, 71], special), ..inputs };
            named("X", case.check_products(&context, &inputs));
        }
    }
}

/// The number of threads, and calls at the same time, change no bit.
#[test]
fn threads_change_no_bit() {
    for (m, k) in [(67, 391), (67, 384), (25, 768), (5, 384)] {
        threads_change_no_bit_of(m, k);
    }
}

fn threads_change_no_bit_of(m: usize, k: usize) {
    let (n, r) = (520, 5);
    for context in Context::cpu_variants() {
        let weight = numbers(n * k, 3, &[]);
        let spec = QuantSpec::default().with_constants(Constants::Dynamic);
        let q =
            QuantizedMatrix::quantize(&context, qlora_kernels::Tensor::new(&weight, n, k).unwrap(), &spec)
                .unwrap();
        let x = Matrix::new(DType::Bf16, &numbers(m * k, 4, &[]), m, k, 0);
        let (a, b) = (
            Matrix::new(DType::F32, &numbers(r * k, 5, &[]), r, k, 0),
            Matrix::new(DType::F32, &numbers(n * r, 6, &[]), n, r, 0),
        );
        let run = || {
            let lora = Lora { a: a.view(), b: b.view(), scale: 2.0 };
            let mut workspace = vec![0; ops::gemm_workspace_size(&context, m, n, k, r).unwrap()];
            let mut y = Matrix::zeros(DType::F32, m, n, 0);
            let (mut da, mut db) = (Matrix::zeros(DType::F32, r, k, 0), Matrix::zeros(DType::F32, n, r, 0));
            let mut dx = Matrix::zeros(DType::F32, m, k, 0);
            ops::gemm_forward(&context, x.view(), q.view(), None, Some(lora), y.view_mut(), &mut workspace)
                .unwrap();
            let dy = y.view();
            ops::lora_gradients(
                &context,
                x.view(),
                dy,
                lora,
                da.view_mut(),
                db.view_mut(),
                false,
                &mut workspace,
            )
            .unwrap();
            ops::gemm_backward(&context, dy, q.view(), Some(lora), dx.view_mut(), false, &mut workspace)
                .unwrap();
            (y.values(), da.values(), db.values(), dx.values())
        };
        context.set_threads(1).unwrap();
        let alone = run();
        for threads in [2, 3, 8] {
            context.set_threads(threads).unwrap();
            assert!(run() == alone, "{threads} threads, {}", context.instruction_set());
        }
        std::thread::scope(|scope| {
            let calls: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
            for call in calls {
                assert!(call.join().unwrap() == alone, "calls at once, {}", context.instruction_set());
            }
        });
    }
}

#[test]
fn empty_shapes() {
    let types = [DType::F32, DType::Bf16];
    for (context, dtype) in Context::cpu_variants().into_iter().flat_map(|c| types.map(|t| (c.clone(), t))) {
        empty_shapes_of(&context, dtype);
    }
}

fn empty_shapes_of(context: &Context, dtype: DType) {
    let spec = QuantSpec::default();
    for (m, n, k) in [(0, 3, 4), (3, 0, 4), (3, 4, 0), (20, 4, 0), (0, 0, 0)] {
        let q = QuantizedMatrix::quantize(context, Matrix::zeros(DType::F32, n, k, 0).view(), &spec).unwrap();
        let (x, dy) = (Matrix::zeros(dtype, m, k, 0), Matrix::zeros(dtype, m, n, 0));
        let bias = Matrix::new(DType::F32, &vec![1.5; n], 1, n, 0);
        let (a, b) = (Matrix::zeros(DType::F32, 2, k, 0), Matrix::zeros(DType::F32, n, 2, 0));
        let lora = Lora { a: a.view(), b: b.view(), scale: 1.0 };
        // NaNs would show.
        let mut workspace = vec![0xff; ops::gemm_workspace_size(context, m, n, k, 2).unwrap()];
        let mut y = Matrix::zeros(DType::F32, m, n, 0);
        ops::gemm_forward(
            context,
            x.view(),
            q.view(),
            Some(bias.view()),
            Some(lora),
            y.view_mut(),
            &mut workspace,
        )
        .unwrap();
        assert!(y.values().iter().all(|&v| v == 1.5));
        let mut dx = Matrix::new(DType::F32, &vec![7.0; m * k], m, k, 0);
        ops::gemm_backward(context, dy.view(), q.view(), Some(lora), dx.view_mut(), false, &mut workspace)
            .unwrap();
        assert!(dx.values().iter().all(|&v| v == 0.0));
        let (mut da, mut db) = (Matrix::zeros(DType::F32, 2, k, 0), Matrix::zeros(DType::F32, n, 2, 0));
        ops::lora_gradients(
            context,
            x.view(),
            dy.view(),
            lora,
            da.view_mut(),
            db.view_mut(),
            false,
            &mut workspace,
        )
        .unwrap();
    }
}
