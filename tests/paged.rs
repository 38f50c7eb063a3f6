//! Optimizer steps with states in a file, whatever the budget, have the bits of those in memory.

mod common;

use common::optimizers::*;
use common::paged::*;
use common::*;
use proptest::prelude::*;
use qlora_kernels::ops::{Advice, optimizer_step, optimizer_step_paged};
use qlora_kernels::{Context, DType, Optimizer, Pager, PagerKind, PagerOptions, Rule, Status};

fn pager(budget: u64) -> Pager {
    let options = PagerOptions { kind: PagerKind::Auto, budget, folder: None };
    Pager::new(&Context::cpu(), &options).unwrap()
}

const LEAST: u64 = 256 << 10;

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn paged_steps_have_the_same_bits(
        optimizer in any_optimizer(),
        shapes in prop::collection::vec(any_shape(30_000), 0..6),
        special in prop::collection::vec(any_number(), 0..3),
        budget in LEAST..4 * LEAST,
        (gap, unpaged) in (0usize..3, prop::sample::select(vec![0usize, 3])),
        advised in prop::option::of((any::<bool>(), 0.0f64..1.0)),
        seed: u64,
    ) {
        let context = Context::cpu();
        let pager = pager(budget);
        let mut found = training(&optimizer, &shapes, seed, &special);
        let mut expected = found.clone();
        let states = PagedStates::new(&pager, &found, gap);
        if let Some((stay, share)) = advised.filter(|_| states.bytes() > 0) {
            let bytes = (states.bytes() as f64 * share) as u64 + 1;
            pager.advise(states.address(), bytes, if stay { Advice::Stay } else { Advice::Pass }).unwrap();
        }
        let mut optimizer = optimizer;
        for _ in 0..2 {
            let (mut count, mut expected_count) = (vec![0u64], vec![0u64]);
            let mut views = states.views(&mut found, unpaged);
            optimizer_step_paged(&context, &pager, &optimizer, &mut views, Some((&mut count).into()), &mut [][..])
                .unwrap();
            let mut views: Vec<_> = expected.iter_mut().map(Owned::view).collect();
            optimizer_step(&context, &optimizer, &mut views, Some((&mut expected_count).into()), &mut [][..]).unwrap();
            prop_assert_eq!(count, expected_count);
            optimizer.hyper.step += 1;
        }
        for (i, (found, expected)) in found.iter_mut().zip(&expected).enumerate() {
            if unpaged == 0 || !i.is_multiple_of(unpaged) {
                states.read(i, found);
            }
            prop_assert_eq!(found.same(expected), Ok(()), "parameter {}", i);
        }
    }
}

#[test]
fn what_fits_the_budget_stays_and_the_rest_passes() {
    let (context, pager, optimizer) = (Context::cpu(), pager(1 << 20), Optimizer::new(Rule::AdamW));
    let shapes: Vec<Shape> = (0..4).map(|_| Shape::row(100_000, DType::F32, false)).collect();
    let mut parameters = training(&optimizer, &shapes, 1, &[]);
    let states = PagedStates::new(&pager, &parameters, 0);
    let step = |parameters: &mut [Owned]| {
        let mut views = states.views(parameters, 0);
        optimizer_step_paged(&context, &pager, &optimizer, &mut views, None, &mut [][..]).unwrap();
    };
    step(&mut parameters);
    let first = pager.statistics();
    assert_eq!((first.allocations, first.allocated_bytes, first.steps), (1, 3_200_000, 1));
    // Three eighths of the budget are for what passes, in windows of an eighth.
    assert!(first.staying_bytes <= (1 << 20) / 8 * 5 && first.staying_bytes > (1 << 20) / 2, "{first:?}");
    let passing = first.allocated_bytes - first.staying_bytes;
    assert_eq!((first.bytes_in, first.bytes_out), (passing, passing));
    assert!(first.windows >= passing.div_ceil((1 << 20) / 8));
    step(&mut parameters);
    assert_eq!(pager.statistics().bytes_in, 2 * passing);
    // What passes makes room.
    pager.advise(states.address(), states.bytes(), Advice::Pass).unwrap();
    step(&mut parameters);
    assert_eq!(pager.statistics().staying_bytes, 0);
    drop(states);
    let end = pager.statistics();
    assert_eq!((end.allocations, end.allocated_bytes), (0, 0));
}

#[test]
fn thousands_of_small_parameters() {
    for eight_bits in [false, true] {
        let (context, pager, optimizer) = (Context::cpu(), pager(LEAST), Optimizer::new(Rule::Lamb));
        let shapes: Vec<Shape> = (0..3000).map(|i| Shape::row(i % 197, DType::Bf16, eight_bits)).collect();
        let mut found = training(&optimizer, &shapes, 1, &[]);
        let mut expected = found.clone();
        let states = PagedStates::new(&pager, &found, 0);
        let mut views = states.views(&mut found, 5);
        optimizer_step_paged(&context, &pager, &optimizer, &mut views, None, &mut [][..]).unwrap();
        assert!(pager.statistics().windows > 10);
        let mut views: Vec<_> = expected.iter_mut().map(Owned::view).collect();
        optimizer_step(&context, &optimizer, &mut views, None, &mut [][..]).unwrap();
        for (i, (found, expected)) in found.iter_mut().zip(&expected).enumerate() {
            if !i.is_multiple_of(5) {
                states.read(i, found);
            }
            assert_eq!(found.same(expected), Ok(()), "parameter {i}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_lost() {
    let context = Context::cpu();
    let with = |kind, budget, folder: Option<&str>| {
        let options = PagerOptions { kind, budget, folder: folder.map(Into::into) };
        Pager::new(&context, &options).map(drop).unwrap_err()
    };
    let small = with(PagerKind::Auto, LEAST - 1, None);
    assert_eq!(small.message(), "budget is 262143 bytes; it must be at least 262144");
    let streamed = with(PagerKind::Streamed, LEAST, None);
    assert_eq!(streamed.message(), "kind is Streamed; on a CPU it must be Auto or File");
    let nowhere = with(PagerKind::File, LEAST, Some("/nowhere/at/all"));
    assert_eq!(nowhere.status(), Status::InvalidArgument);
    assert!(
        nowhere.message().starts_with("folder is /nowhere/at/all; no file can be made there: "),
        "{nowhere}"
    );

    let pager = pager(LEAST);
    assert_eq!(pager.alloc(0).unwrap_err().message(), "bytes is 0; it must be at least 1");
    let optimizer = Optimizer::new(Rule::Adam);
    let mut parameters = training(&optimizer, &[Shape::row(5000, DType::F32, true)], 3, &[]);
    let states = PagedStates::new(&pager, &parameters, 0);
    // No disk has an exabyte.
    let full = pager.alloc(1 << 60).unwrap_err();
    assert_eq!(full.status(), Status::OutOfResources);
    assert!(full.message().starts_with("bytes is 1152921504606846976; the file of "), "{full}");
    let elsewhere = pager.advise(states.address(), states.bytes() + 4, Advice::Stay).unwrap_err();
    assert!(elsewhere.message().contains("must lie in one allocation of this pager"), "{elsewhere}");
    // SAFETY: nothing is freed.
    let freed = unsafe { pager.free(states.address() + 4) }.unwrap_err();
    assert!(freed.message().ends_with("which is no allocation of this pager"), "{freed}");
    let before = parameters.clone();
    let mut bad = optimizer;
    bad.hyper.lr = f32::NAN;
    let mut views = states.views(&mut parameters, 0);
    optimizer_step_paged(&context, &pager, &bad, &mut views, None, &mut [][..]).unwrap_err();
    states.read(0, &mut parameters[0]);
    parameters[0].same(&before[0]).unwrap();
}
