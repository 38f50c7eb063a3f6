//! Where states in unified memory are during steps: on the device when kernels use them, and never more of them than the budget.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::device_paged::*;
use common::optimizers::*;
use ptx_sim::log::{Location, Work};
use ptx_sim::{Counters, Installed, StreamOrder, counters, reset_counters};
use qlora_kernels::ops::{self, Advice};
use qlora_kernels::{DType, Optimizer, Pager, PagerKind, Rule};

const LEAST: u64 = 256 << 10;
/// What the simulator moves.
const PAGE: u64 = 4096;

fn start(optimizer: &Optimizer) -> Vec<Owned> {
    let shapes: Vec<Shape> = [30_000, 5000, 40_000].map(|len| Shape::row(len, DType::F32, false)).into();
    common::paged::training(optimizer, &shapes, 1, &[])
}

/// Bytes on the device at most, by prefetches and faults, from `before` on; and at the end.
fn most_on_device(counted: &Counters, before: u64) -> (u64, u64) {
    let mut entries: Vec<_> = counted.log.iter().collect();
    entries.sort_by_key(|entry| entry.executed);
    entries.iter().fold((before, before), |(most, now), entry| {
        let now = match entry.work {
            Work::Prefetch { to: Location::Host, moved, .. } => now - moved,
            Work::Prefetch { moved, .. } => now + moved,
            Work::Kernel { faults, .. } => now + faults,
            _ => now,
        };
        (most.max(now), now)
    })
}

/// A step with all its work done, and what was counted.
fn step(gpu: &Gpu, pager: &Pager, paged: &OnDevice, optimizer: &Optimizer, like: &[Owned]) -> Counters {
    let kept = gpu.upload(&[0u64]);
    gpu.stream.synchronize().unwrap();
    reset_counters();
    let _workspace = paged.step(gpu, pager, optimizer, like, &kept);
    gpu.stream.synchronize().unwrap();
    counters()
}

#[test]
fn states_are_on_the_device_when_they_are_used_within_the_budget() {
    for (rule, passes, order) in [
        (Rule::AdamW, 1, StreamOrder::Lazy),
        (Rule::Lamb, 2, StreamOrder::Lazy),
        (Rule::Lamb, 2, StreamOrder::OthersFirst),
    ] {
        let (gpu, _one) = gpu(order);
        let Installed::Simulator = ptx_sim::install() else { return };
        let (pager, mut optimizer) = (pager(&gpu, PagerKind::Managed, LEAST), Optimizer::new(rule));
        let parameters = start(&optimizer);
        let paged = OnDevice::new(&gpu, &pager, &parameters, 0, 0);
        let mut on_device = 0;
        for number in 0..4 {
            let before = pager.statistics();
            let counted = step(&gpu, &pager, &paged, &optimizer, &parameters);
            optimizer.hyper.step += 1;
            let after = pager.statistics();
            let passing = after.allocated_bytes - after.staying_bytes;
            let [brought, taken] = [after.bytes_in - before.bytes_in, after.bytes_out - before.bytes_out];
            assert_eq!(taken, passes * passing, "{rule:?}");
            // What stays comes with the first step, and with the one after it was evicted.
            let settles = if [0, 3].contains(&number) { after.staying_bytes } else { 0 };
            assert_eq!(brought, passes * passing + settles, "{rule:?}, step {number}");
            let (most, end) = most_on_device(&counted, on_device);
            // Each of the parts of a window, and of what stays, may share a page at either end.
            let slack = 4 * 2 * 2 * PAGE;
            assert!(most <= LEAST + slack, "{rule:?}, {order:?}, step {number}: {most} bytes on the device");
            let stays = after.staying_bytes;
            assert!(end.abs_diff(stays) <= slack, "{end} bytes stay on the device, not {stays}");
            on_device = end;
            let total = counted.total();
            // Neighbours share pages. What a window has taken home of what stays, comes back by a fault; what it has taken of the
            // next one, that one's kernel reaches where it is.
            assert!(total.managed_faults <= passes * 2 * PAGE, "{} bytes by faults", total.managed_faults);
            assert!(total.managed_remote <= PAGE * 2 * after.windows * passes, "{}", total.managed_remote);
            if number == 2 {
                reset_counters();
                pager.evict(&gpu.context, paged.states.address(), paged.states.bytes()).unwrap();
                gpu.stream.synchronize().unwrap();
                on_device = most_on_device(&counters(), on_device).1;
                assert_eq!(on_device, 0);
            }
        }
    }
}

/// What does not stay any more goes home, and prefers to be there: what is not prefetched is used where it is. What stays prefers the
/// device.
#[test]
fn what_does_not_stay_goes_home() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    let Installed::Simulator = ptx_sim::install() else { return };
    let (pager, optimizer) = (pager(&gpu, PagerKind::Managed, LEAST), Optimizer::new(Rule::Adam));
    let parameters = start(&optimizer);
    let paged = OnDevice::new(&gpu, &pager, &parameters, 0, 0);
    let slack = 8 * PAGE;
    // A step that knows of no pager, with all states at home.
    let faults = || {
        pager.evict(&gpu.context, paged.states.address(), paged.states.bytes()).unwrap();
        let mut views = paged.views(&gpu, &parameters);
        let size = ops::optimizer_workspace_size(&gpu.context, &optimizer, &views).unwrap();
        let workspace = gpu.workspace(size);
        gpu.stream.synchronize().unwrap();
        reset_counters();
        ops::optimizer_step(&gpu.context, &optimizer, &mut views, None, workspace.buffer_mut::<u8>(&gpu))
            .unwrap();
        pager.evict(&gpu.context, paged.states.address(), paged.states.bytes()).unwrap();
        gpu.stream.synchronize().unwrap();
        let total = counters().total();
        assert!(total.managed_faults + total.managed_remote > paged.states.bytes());
        total.managed_faults
    };
    let counted = step(&gpu, &pager, &paged, &optimizer, &parameters);
    let stays = pager.statistics().staying_bytes;
    assert!(most_on_device(&counted, 0).1.abs_diff(stays) <= slack && stays > LEAST / 2);
    assert!(faults().abs_diff(stays) <= slack);

    // Fewer parameters disturb nobody.
    let counted = step(&gpu, &pager, &paged, &optimizer, &parameters);
    let before = most_on_device(&counted, 0).1;
    let mut views = paged.views(&gpu, &parameters);
    let workspace = gpu.workspace(1 << 16);
    reset_counters();
    let buffer = workspace.buffer_mut::<u8>(&gpu);
    ops::optimizer_step_paged(&gpu.context, &pager, &optimizer, &mut views[1..2], None, buffer).unwrap();
    gpu.stream.synchronize().unwrap();
    assert_eq!(pager.statistics().staying_bytes, stays);
    assert!(most_on_device(&counters(), before).1 <= before + slack);

    pager.advise(paged.states.address(), paged.states.bytes(), Advice::Pass).unwrap();
    step(&gpu, &pager, &paged, &optimizer, &parameters);
    assert_eq!(pager.statistics().staying_bytes, 0);
    assert_eq!(faults(), 0);
}

/// Eviction on one stream and a step on another come one after the other.
#[test]
fn states_that_are_evicted_on_another_stream_come_back() {
    let (gpu, _one) = gpu(StreamOrder::Lazy);
    let Installed::Simulator = ptx_sim::install() else { return };
    let (pager, optimizer) = (pager(&gpu, PagerKind::Managed, LEAST), Optimizer::new(Rule::Adam));
    let parameters = start(&optimizer);
    let (paged, other) = (OnDevice::new(&gpu, &pager, &parameters, 0, 0), gpu.with_new_stream());
    let counted = step(&gpu, &pager, &paged, &optimizer, &parameters);
    let before = most_on_device(&counted, 0).1;
    let kept = gpu.upload(&[0u64]);
    reset_counters();
    pager.evict(&other.context, paged.states.address(), paged.states.bytes()).unwrap();
    let _workspace = paged.step(&gpu, &pager, &optimizer, &parameters, &kept);
    gpu.stream.synchronize().unwrap();
    other.stream.synchronize().unwrap();
    let end = most_on_device(&counters(), before).1;
    assert!(end.abs_diff(before) <= 4 * PAGE, "{end} for {before}");
}

#[test]
fn a_device_without_concurrent_access_gets_no_hints() {
    let (gpu, _one) = gpu_with(StreamOrder::Lazy, false);
    let (pager, optimizer) = (pager(&gpu, PagerKind::Managed, LEAST), Optimizer::new(Rule::Lion));
    let shapes = [Shape::row(90_000, DType::Bf16, false)];
    let mut parameters = common::paged::training(&optimizer, &shapes, 1, &[]);
    let (paged, kept) = (OnDevice::new(&gpu, &pager, &parameters, 0, 0), gpu.upload(&[0u64]));
    let _workspace = paged.step(&gpu, &pager, &optimizer, &parameters, &kept);
    let found = paged.read(&gpu, &pager, &parameters);
    step_on_cpu(&optimizer, &mut parameters, 1);
    found[0].same(&parameters[0]).unwrap();
}
