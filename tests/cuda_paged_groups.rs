//! A pager whose parameters are stepped in several calls: by groups, by layers, or with some left out.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::cases;
use common::device::*;
use common::device_paged::*;
use common::optimizers::*;
use common::paged::*;
use cudarc::driver::sys;
use proptest::prelude::*;
use ptx_sim::StreamOrder;
use qlora_kernels::ops::{self, Advice};
use qlora_kernels::{DType, Optimizer, Pager, PagerKind, Rule, Status};

const LEAST: u64 = 256 << 10;

fn shapes(lens: &[usize], eight_bits: bool) -> Vec<Shape> {
    lens.iter().map(|&len| Shape::row(len, DType::Bf16, eight_bits)).collect()
}

/// A step of some of the parameters.
fn step_some(
    gpu: &Gpu,
    pager: &Pager,
    paged: &OnDevice,
    optimizer: &Optimizer,
    like: &[Owned],
    some: &[usize],
) {
    let mut views: Vec<_> = paged.views(gpu, like).into_iter().map(Some).collect();
    let mut views: Vec<_> = some.iter().map(|&i| views[i].take().unwrap()).collect();
    let size = ops::optimizer_workspace_size(&gpu.context, optimizer, &views).unwrap();
    let workspace = gpu.workspace(size);
    let buffer = workspace.buffer_mut::<u8>(gpu);
    ops::optimizer_step_paged(&gpu.context, pager, optimizer, &mut views, None, buffer).unwrap();
}

fn step_some_on_cpu(optimizer: &Optimizer, parameters: &mut [Owned], some: &[usize]) {
    let mut chosen: Vec<Owned> = some.iter().map(|&i| parameters[i].clone()).collect();
    step_on_cpu(optimizer, &mut chosen, 1);
    some.iter().zip(chosen).for_each(|(&i, chosen)| parameters[i] = chosen);
}

proptest! {
    #![proptest_config(cases(24))]

    /// Whatever is stepped when, and freed, advised and evicted in between.
    #[test]
    fn calls_in_any_order_have_the_cpus_bits(
        (rule, eight_bits) in (any_rule(), any::<bool>()),
        lens in prop::collection::vec(1usize..12_000, 2..7),
        kind in prop::sample::select(vec![PagerKind::Streamed, PagerKind::Managed]),
        calls in prop::collection::vec((any::<u8>(), 0u8..8), 1..9),
        order in prop_oneof![
            Just(StreamOrder::Lazy),
            Just(StreamOrder::OthersFirst),
            any::<u64>().prop_map(StreamOrder::Random)
        ],
        gap in 0usize..2,
        seed: u64,
    ) {
        let (gpu, _one) = gpu(order);
        let pager = pager(&gpu, kind, LEAST);
        let mut optimizer = Optimizer::new(rule);
        let start = training(&optimizer, &shapes(&lens, eight_bits), seed, &[]);
        let mut expected = start.clone();
        let paged = OnDevice::new(&gpu, &pager, &start, gap, 0);
        let (address, bytes) = (paged.states.address(), paged.states.bytes());
        for (mask, then) in calls {
            let some: Vec<usize> = (0..start.len()).filter(|i| mask >> i & 1 == 1).collect();
            step_some(&gpu, &pager, &paged, &optimizer, &start, &some);
            step_some_on_cpu(&optimizer, &mut expected, &some);
            match then {
                0 => pager.advise(address, bytes / 3 + 1, Advice::Stay).unwrap(),
                1 => pager.advise(address + bytes as usize / 2, bytes / 2, Advice::Pass).unwrap(),
                2 => pager.advise(address, bytes, Advice::Normal).unwrap(),
                3 => pager.evict(&gpu.context, address + bytes as usize / 4, bytes / 4 + 1).unwrap(),
                4 => pager.prefetch(&gpu.context, address, bytes).unwrap(),
                _ => {}
            }
            optimizer.hyper.step += 1;
        }
        let found = paged.read(&gpu, &pager, &start);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            prop_assert_eq!(found.same(expected), Ok(()), "parameter {}", i);
        }
    }
}

/// Groups that fit together move nothing after the first round; those that do not move what passes, and nothing else.
#[test]
fn groups_share_the_budget() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    for (lens, fits) in [([40_000, 60_000, 20_000], true), ([40_000, 120_000, 20_000], false)] {
        let (pager, optimizer) = (pager(&gpu, PagerKind::Streamed, 1 << 20), Optimizer::new(Rule::AdamW));
        let start = training(&optimizer, &shapes(&lens, false), 1, &[]);
        let paged = OnDevice::new(&gpu, &pager, &start, 0, 0);
        let mut of_rounds = Vec::new();
        for _ in 0..4 {
            let before = pager.statistics();
            for group in [&[0][..], &[1], &[2]] {
                step_some(&gpu, &pager, &paged, &optimizer, &start, group);
            }
            let after = pager.statistics();
            of_rounds.push([after.bytes_in - before.bytes_in, after.bytes_out - before.bytes_out]);
        }
        let now = pager.statistics();
        let passing = now.allocated_bytes - now.staying_bytes;
        assert_eq!(passing == 0, fits);
        assert_eq!(of_rounds[2..], [[passing; 2]; 2], "{of_rounds:?}");
        gpu.stream.synchronize().unwrap();
    }
}

/// The slots' memory is what stays' again when nothing passes any more, though some of what stayed beside them stays where it is.
#[test]
fn slots_make_way_for_what_stays() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    let (pager, optimizer) = (pager(&gpu, PagerKind::Streamed, LEAST), Optimizer::new(Rule::AdamW));
    let start = training(&optimizer, &shapes(&[1000, 40_000, 28_000], false), 1, &[]);
    let mut expected = start.clone();
    let paged = OnDevice::new(&gpu, &pager, &start, 0, 0);
    let mut step = |some: &[usize], windows: bool| {
        step_some(&gpu, &pager, &paged, &optimizer, &start, some);
        step_some_on_cpu(&optimizer, &mut expected, some);
        assert_eq!(pager.statistics().windows > 0, windows);
    };
    step(&[0, 1], true);
    pager.advise(paged.states.address(), paged.states.bytes(), Advice::Normal).unwrap();
    step(&[0, 2], false);
    assert_eq!(pager.statistics().staying_bytes, 8 * 29_000);
    step(&[0, 1], true);
    let found = paged.read(&gpu, &pager, &start);
    found.iter().zip(&expected).for_each(|(found, expected)| found.same(expected).unwrap());
}

/// Saving brings home what stays, once, and leaves it where it is; evicting a parameter evicts no other.
#[test]
fn what_stays_is_copied_once_when_it_is_read() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    let (pager, optimizer) = (pager(&gpu, PagerKind::Streamed, 1 << 20), Optimizer::new(Rule::AdamW));
    let start = training(&optimizer, &shapes(&[1000; 40], false), 1, &[]);
    let paged = OnDevice::new(&gpu, &pager, &start, 0, 0);
    let all: Vec<usize> = (0..40).collect();
    step_some(&gpu, &pager, &paged, &optimizer, &start, &all);
    let before = pager.statistics();
    assert_eq!(before.staying_bytes, 40 * 8000);
    let views = paged.views(&gpu, &start);
    let mut saved = vec![0; ops::optimizer_states_size(&optimizer, &views).unwrap() as usize];
    ops::optimizer_states_save(&gpu.context, Some(&pager), &optimizer, &views, &mut saved).unwrap();
    drop(views);
    assert_eq!(pager.statistics().bytes_out - before.bytes_out, 40 * 8000);
    step_some(&gpu, &pager, &paged, &optimizer, &start, &all);
    assert_eq!(pager.statistics().bytes_in, before.bytes_in);
    pager.evict(&gpu.context, paged.states.address() + 3 * 8000, 8000).unwrap();
    step_some(&gpu, &pager, &paged, &optimizer, &start, &all);
    assert_eq!(pager.statistics().bytes_in - before.bytes_in, 8000);
    gpu.stream.synchronize().unwrap();
}

/// A step on a captured stream is refused, and forgets nothing: who was to leave before it leaves with the next one.
#[test]
fn a_captured_step_is_refused() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    for kind in [PagerKind::Streamed, PagerKind::Managed] {
        let (pager, optimizer) = (pager(&gpu, kind, LEAST), Optimizer::new(Rule::AdamW));
        let start = training(&optimizer, &shapes(&[5000; 2], false), 1, &[]);
        let mut expected = start.clone();
        let paged = OnDevice::new(&gpu, &pager, &start, 0, 0);
        step_some(&gpu, &pager, &paged, &optimizer, &start, &[0, 1]);
        step_some_on_cpu(&optimizer, &mut expected, &[0, 1]);
        pager.advise(paged.states.address(), paged.states.bytes(), Advice::Normal).unwrap();

        // Views and workspace before the capture: asking cudarc for a pointer makes the stream wait for events.
        let mut views = paged.views(&gpu, &start).split_off(1);
        let size = ops::optimizer_workspace_size(&gpu.context, &optimizer, &views).unwrap();
        let workspace = gpu.workspace(size);
        let buffer = workspace.buffer_mut::<u8>(&gpu);
        gpu.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
        let refused = ops::optimizer_step_paged(&gpu.context, &pager, &optimizer, &mut views, None, buffer)
            .unwrap_err();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let _ = gpu.stream.end_capture(flags);
        drop(views);
        assert_eq!(refused.status(), Status::Unsupported);
        assert!(refused.message().starts_with("stream is being captured"), "{refused}");

        let before = pager.statistics();
        assert_eq!(before.steps, 1);
        step_some(&gpu, &pager, &paged, &optimizer, &start, &[1]);
        step_some_on_cpu(&optimizer, &mut expected, &[1]);
        assert_eq!(pager.statistics().bytes_out - before.bytes_out, 8 * 5000, "{kind:?}");
        let found = paged.read(&gpu, &pager, &start);
        found.iter().zip(&expected).for_each(|(found, expected)| found.same(expected).unwrap());
    }
}
