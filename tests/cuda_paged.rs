//! Optimizer steps with paged states on a CUDA device, whatever the budget and the order of streams, have the CPU's bits.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device_paged::*;
use common::optimizers::*;
use common::paged::*;
use common::*;
use proptest::prelude::*;
use ptx_sim::log::{Entry, Way, Work};
use ptx_sim::{Installed, StreamOrder, counters, reset_counters};
use qlora_kernels::ops::{self, Advice};
use qlora_kernels::{Context, DType, Optimizer, Pager, PagerKind, PagerOptions, Rule, Status};

const LEAST: u64 = 256 << 10;

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn paged_steps_have_the_cpus_bits(
        optimizer in any_optimizer(),
        shapes in prop::collection::vec(any_shape(20_000), 0..5),
        special in prop::collection::vec(any_number(), 0..3),
        kind in prop::sample::select(vec![PagerKind::Streamed, PagerKind::Managed]),
        budget in LEAST..3 * LEAST,
        (gap, unpaged) in (0usize..3, prop::sample::select(vec![0usize, 3])),
        order in any_order(),
        advised in prop::option::of((any::<bool>(), 0.0f64..1.0)),
        evicted: bool,
        seed: u64,
    ) {
        let (gpu, _one) = gpu(order);
        let pager = pager(&gpu, kind, budget);
        let mut parameters = training(&optimizer, &shapes, seed, &special);
        let paged = OnDevice::new(&gpu, &pager, &parameters, gap, unpaged);
        if let Some((stay, share)) = advised.filter(|_| paged.states.bytes() > 0) {
            let bytes = (paged.states.bytes() as f64 * share) as u64 + 1;
            pager.advise(paged.states.address(), bytes, if stay { Advice::Stay } else { Advice::Pass }).unwrap();
        }
        let (mut next, kept) = (optimizer, gpu.upload(&[7u64]));
        // The steps of one pager are ordered, on whatever streams.
        let streams = [gpu.with_new_stream(), gpu.with_new_stream()];
        let mut workspaces = Vec::new();
        for gpu in [&streams[0], &streams[1], &streams[0]] {
            workspaces.push(paged.step(gpu, &pager, &next, &parameters, &kept));
            if evicted && paged.states.bytes() > 0 {
                pager.evict(&gpu.context, paged.states.address(), paged.states.bytes() / 2 + 1).unwrap();
                pager.prefetch(&streams[1].context, paged.states.address(), paged.states.bytes()).unwrap();
            }
            next.hyper.step += 1;
        }
        let found = paged.read(&gpu, &pager, &parameters);
        let count = step_on_cpu(&optimizer, &mut parameters, 3);
        for (i, (found, expected)) in found.iter().zip(&parameters).enumerate() {
            prop_assert_eq!(found.same(expected), Ok(()), "parameter {}", i);
        }
        prop_assert_eq!(gpu.download::<u64>(&kept)[0] - 7, count);
    }
}

/// A missing wait between two operations shows when the stream of the wrong one does all it can before the others: every stream is
/// that one once. Windows enough that each slot is used several times, in two passes, and by steps on two streams that nothing else
/// orders; what stays is evicted, and fetched by hand, between steps.
#[test]
fn no_order_of_streams_changes_a_bit() {
    let orders = (0..7).map(StreamOrder::First).chain([StreamOrder::Lazy, StreamOrder::OthersFirst]);
    for (rule, kind) in [
        (Rule::AdamW, PagerKind::Streamed),
        (Rule::Lamb, PagerKind::Streamed),
        (Rule::Lamb, PagerKind::Managed),
    ] {
        let optimizer = Optimizer::new(rule);
        let shapes: Vec<Shape> =
            [2000, 3000, 46_000, 3000].map(|len| Shape::row(len, DType::F32, false)).into();
        let start = training(&optimizer, &shapes, 5, &[]);
        let mut expected = start.clone();
        step_on_cpu(&optimizer, &mut expected, 4);
        for order in orders.clone() {
            let (gpu, _one) = gpu(order);
            let pager = pager(&gpu, kind, LEAST);
            let paged = OnDevice::new(&gpu, &pager, &start, 0, 3);
            let streams = [gpu.with_new_stream(), gpu.with_new_stream()];
            let (mut next, mut workspaces) = (optimizer, Vec::new());
            let kept = gpu.upload(&[0u64]);
            for step in 0..4 {
                let [this, other] = [&streams[step % 2], &streams[(step + 1) % 2]];
                workspaces.push(paged.step(this, &pager, &next, &start, &kept));
                next.hyper.step += 1;
                let (address, bytes) = (paged.states.address(), paged.states.bytes());
                match step {
                    0 => {}
                    1 => pager.evict(&this.context, address, bytes).unwrap(),
                    _ => {
                        pager.evict(&other.context, address, bytes / 2).unwrap();
                        pager.prefetch(&this.context, address, bytes).unwrap();
                    }
                }
            }
            assert!(pager.statistics().windows >= 7, "{:?}", pager.statistics());
            let found = paged.read(&gpu, &pager, &start);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_eq!(found.same(expected), Ok(()), "{rule:?} {kind:?} {order:?}: parameter {i}");
            }
        }
    }
}

/// What passes crosses the link once in each direction, what stays only once at all; nothing is allocated and nothing waits.
#[test]
fn a_step_moves_what_does_not_fit() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    let Installed::Simulator = ptx_sim::install() else { return };
    for (rule, passes) in [(Rule::AdamW, 1), (Rule::Lamb, 2)] {
        let (pager, optimizer) = (pager(&gpu, PagerKind::Streamed, 1 << 20), Optimizer::new(rule));
        let shapes: Vec<Shape> = (0..3).map(|_| Shape::row(100_000, DType::Bf16, false)).collect();
        let parameters = training(&optimizer, &shapes, 1, &[]);
        let (paged, kept) = (OnDevice::new(&gpu, &pager, &parameters, 0, 0), gpu.upload(&[0u64]));
        paged.step(&gpu, &pager, &optimizer, &parameters, &kept);
        let first = pager.statistics();
        let passing = first.allocated_bytes - first.staying_bytes;
        assert!(first.staying_bytes > (1 << 20) / 2);
        assert_eq!(first.bytes_in, first.staying_bytes + passes * passing);
        assert_eq!(first.bytes_out, passing);

        let mut views = paged.views(&gpu, &parameters);
        let size = ops::optimizer_workspace_size(&gpu.context, &optimizer, &views).unwrap();
        let workspace = gpu.workspace(size);
        gpu.stream.synchronize().unwrap();
        reset_counters();
        let buffer = workspace.buffer_mut::<u8>(&gpu);
        ops::optimizer_step_paged(&gpu.context, &pager, &optimizer, &mut views, None, buffer).unwrap();
        let counted = counters();
        assert_eq!((counted.allocations, counted.frees, counted.synchronizations), (0, 0, 0));
        assert_eq!((counted.bytes_to_device, counted.bytes_to_host), (passes * passing, passing));
        gpu.stream.synchronize().unwrap();
    }
}

/// Memory that a pager frees, or that goes with it, is free when work on it is done, and what stays of others is not lost by it.
#[test]
fn memory_is_freed_when_work_on_it_is_done() {
    for (kind, order) in [PagerKind::Streamed, PagerKind::Managed]
        .into_iter()
        .flat_map(|kind| [StreamOrder::Lazy, StreamOrder::OthersFirst].map(|order| (kind, order)))
    {
        let (gpu, _one) = gpu(order);
        let (pager, optimizer) = (pager(&gpu, kind, LEAST), Optimizer::new(Rule::AdamW));
        let start = training(&optimizer, &[Shape::row(5000, DType::F32, false)], 3, &[]);
        let others = training(&optimizer, &[Shape::row(60_000, DType::F32, false)], 4, &[]);
        let (paged, more) =
            (OnDevice::new(&gpu, &pager, &start, 0, 0), OnDevice::new(&gpu, &pager, &others, 0, 0));
        let kept = gpu.upload(&[0u64]);
        let all = [paged.views(&gpu, &start), more.views(&gpu, &others)];
        let mut all: Vec<_> = all.into_iter().flatten().collect();
        let size = ops::optimizer_workspace_size(&gpu.context, &optimizer, &all).unwrap();
        let workspace = gpu.workspace(size);
        ops::optimizer_step_paged(
            &gpu.context,
            &pager,
            &optimizer,
            &mut all,
            None,
            workspace.buffer_mut::<u8>(&gpu),
        )
        .unwrap();
        drop(all);
        assert_eq!(pager.statistics().allocations, 2);
        let simulated = ptx_sim::install() == Installed::Simulator;
        if simulated {
            reset_counters();
        }
        drop(more);
        assert_eq!(pager.statistics().allocations, 1);
        // The simulator's frees wait for the whole context, as those of drivers may, but need not.
        assert!(!simulated || counters().calls["cuEventSynchronize"] == 1);
        let mut next = optimizer;
        next.hyper.step += 1;
        let workspace = paged.step(&gpu, &pager, &next, &start, &kept);
        let (mut expected, found) = (start.clone(), paged.read(&gpu, &pager, &start));
        step_on_cpu(&optimizer, &mut expected, 2);
        found[0].same(&expected[0]).unwrap();
        paged.step(&gpu, &pager, &next, &start, &kept);
        drop((paged, pager, workspace)); // with work under way
        gpu.stream.synchronize().unwrap();
    }
}

/// What others write to memory that was evicted is what the next step uses.
#[test]
fn what_is_written_to_evicted_memory_counts() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    for kind in [PagerKind::Streamed, PagerKind::Managed] {
        let (pager, optimizer) = (pager(&gpu, kind, LEAST), Optimizer::new(Rule::AdamW));
        let shape = [Shape::row(40_000, DType::F32, false)];
        let start = training(&optimizer, &shape, 3, &[]);
        let mut paged = OnDevice::new(&gpu, &pager, &start, 0, 0);
        let kept = gpu.upload(&[0u64]);
        paged.step(&gpu, &pager, &optimizer, &start, &kept);
        let mut other = paged.read(&gpu, &pager, &start);
        other[0].states = training(&optimizer, &shape, 4, &[])[0].states.clone();
        paged.states.write(0, &other[0]);
        paged.step(&gpu, &pager, &optimizer, &start, &kept);
        let found = paged.read(&gpu, &pager, &start);
        step_on_cpu(&optimizer, &mut other, 1);
        found[0].same(&other[0]).unwrap();
    }
}

/// Thousands of small parameters in one pool: parts that follow each other are copied as one.
#[test]
fn small_parameters_are_copied_together() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    for eight_bits in [false, true] {
        let mut optimizer = Optimizer::new(Rule::AdamW);
        // Codes in multiples of 4 bytes, so that no scales need gaps before them.
        let len = |i: usize| if eight_bits { i % 97 * 4 } else { i % 97 };
        let shapes: Vec<Shape> = (0..3000).map(|i| Shape::row(len(i), DType::Bf16, eight_bits)).collect();
        let mut parameters = training(&optimizer, &shapes, 9, &[]);
        let pager = pager(&gpu, PagerKind::Streamed, LEAST);
        let paged = OnDevice::new(&gpu, &pager, &parameters, 0, 0);
        let kept = gpu.upload(&[0u64]);
        paged.step(&gpu, &pager, &optimizer, &parameters, &kept); // what stays is there from now on
        optimizer.hyper.step += 1;
        let simulated = ptx_sim::install() == Installed::Simulator;
        if simulated {
            reset_counters();
        }
        paged.step(&gpu, &pager, &optimizer, &parameters, &kept);
        if simulated {
            let counted = counters();
            let windows = pager.statistics().windows;
            assert!(windows > 10);
            for way in [Way::ToDevice, Way::ToHost] {
                let is = |entry: &&Entry| matches!(entry.work, Work::Copy { way: its, .. } if its == way);
                let copies = counted.log.iter().filter(is).count() as u64;
                // What is small enough for what is left of the budget stays, and leaves gaps.
                assert!((windows..windows + 5).contains(&copies), "{copies} {way:?}, {windows} windows");
            }
        }
        let found = paged.read(&gpu, &pager, &parameters);
        step_on_cpu(&Optimizer::new(Rule::AdamW), &mut parameters, 2);
        for (i, (found, expected)) in found.iter().zip(&parameters).enumerate() {
            assert_eq!(found.same(expected), Ok(()), "parameter {i}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_nothing_is_lost() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    let refused = |kind, budget, folder: Option<&str>| {
        let options = PagerOptions { kind, budget, folder: folder.map(Into::into) };
        Pager::new(&gpu.context, &options).map(drop).unwrap_err()
    };
    let huge = refused(PagerKind::Streamed, 1 << 50, None);
    assert_eq!(huge.status(), Status::OutOfResources);
    assert_eq!(huge.message(), "budget is 1125899906842624 bytes; cuMemAlloc finds no memory for them");
    let file = refused(PagerKind::File, LEAST, None);
    assert_eq!(file.message(), "kind is File; on a GPU it must be Auto, Managed or Streamed");
    let folder = refused(PagerKind::Auto, LEAST, Some("/tmp"));
    assert_eq!(folder.message(), "folder is given; only pagers of files have one, and this one is Streamed");

    let (pager, optimizer) = (pager(&gpu, PagerKind::Auto, LEAST), Optimizer::new(Rule::Adam));
    let cpu = pager.prefetch(&Context::cpu(), 0, 1).unwrap_err();
    assert!(cpu.message().contains("must lie in one allocation"), "{cpu}");
    let parameters = training(&optimizer, &[Shape::row(5000, DType::F32, true)], 3, &[]);
    let paged = OnDevice::new(&gpu, &pager, &parameters, 0, 0);
    let cpu = pager.evict(&Context::cpu(), paged.states.address(), 1).unwrap_err();
    assert_eq!(cpu.message(), "context is of another device than the pager");
    let mut views = paged.views(&gpu, &parameters);
    let workspace = gpu.workspace(8);
    let buffer = workspace.buffer_mut::<u8>(&gpu);
    let small =
        ops::optimizer_step_paged(&gpu.context, &pager, &optimizer, &mut views, None, buffer).unwrap_err();
    assert_eq!(small.status(), Status::WorkspaceTooSmall);
    drop(views);
    let found = paged.read(&gpu, &pager, &parameters);
    found[0].same(&parameters[0]).unwrap();
}
