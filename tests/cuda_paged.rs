//! Optimizer steps with paged states on a CUDA device, whatever the budget and the order of streams, have the CPU's bits.

mod common;

use common::device::*;
use common::optimizers::*;
use common::paged::*;
use common::*;
use proptest::prelude::*;
use ptx_sim::{Config, Installed, StreamOrder, counters, reset_counters};
use qlora_kernels::ops::{self, Advice};
use qlora_kernels::{Context, DType, Optimizer, Pager, PagerKind, PagerOptions, Parameter, Rule, Status};
use std::sync::{Mutex, MutexGuard};

const LEAST: u64 = 256 << 10;

/// A small device that does its streams' work in this order, and may have concurrent access to unified memory; for one test at
/// a time, as there is one simulator.
fn gpu_with(stream_order: StreamOrder, concurrent_managed_access: bool) -> (Gpu, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Installed::Simulator = ptx_sim::install() {
        let config = ptx_sim::config();
        ptx_sim::configure(&Config { sm_count: 4, stream_order, concurrent_managed_access, ..config });
    }
    (Gpu::new(), guard)
}

fn gpu(stream_order: StreamOrder) -> (Gpu, MutexGuard<'static, ()>) {
    gpu_with(stream_order, true)
}

fn pager(gpu: &Gpu, kind: PagerKind, budget: u64) -> Pager {
    Pager::new(&gpu.context, &PagerOptions { kind, budget, folder: None }).unwrap()
}

/// Parameters and gradients in device memory, states in a pager's.
struct Paged {
    matrices: Vec<[Memory; 2]>,
    states: PagedStates,
}

impl Paged {
    fn new(gpu: &Gpu, pager: &Pager, parameters: &[Owned], gap: usize) -> Self {
        let matrices = parameters.iter().map(|o| [gpu.matrix(&o.param, 0), gpu.matrix(&o.grad, 0)]).collect();
        Self { matrices, states: PagedStates::new(pager, parameters, gap) }
    }

    fn views<'a>(&'a self, gpu: &Gpu, like: &'a [Owned]) -> Vec<Parameter<'a>> {
        let view = |(i, ([param, grad], like)): (usize, (&'a [Memory; 2], &'a Owned))| Parameter {
            param: param.tensor_mut(gpu, &like.param),
            grad: grad.tensor(gpu, &like.grad),
            states: self.states.states(i, like),
        };
        self.matrices.iter().zip(like).enumerate().map(view).collect()
    }

    fn step(&self, gpu: &Gpu, pager: &Pager, optimizer: &Optimizer, like: &[Owned], kept: &Memory) {
        let mut views = self.views(gpu, like);
        let size = ops::optimizer_workspace_size_paged(&gpu.context, pager, optimizer, &views).unwrap();
        let workspace = gpu.workspace(size);
        ops::optimizer_step_paged(
            &gpu.context,
            pager,
            optimizer,
            &mut views,
            Some(kept.buffer_mut(gpu)),
            workspace.buffer_mut::<u8>(gpu),
        )
        .unwrap();
    }

    fn read(&self, gpu: &Gpu, pager: &Pager, like: &[Owned]) -> Vec<Owned> {
        if self.states.bytes() > 0 {
            pager.evict(&gpu.context, self.states.address(), self.states.bytes()).unwrap();
        }
        gpu.stream.synchronize().unwrap();
        let mut found = like.to_vec();
        for (i, (owned, [param, _])) in found.iter_mut().zip(&self.matrices).enumerate() {
            owned.param.bytes_mut().copy_from_slice(&gpu.download::<u8>(param));
            self.states.read(i, owned);
        }
        found
    }
}

/// Two steps on the CPU; how many elements were kept.
fn expected(optimizer: &Optimizer, parameters: &mut [Owned], steps: u64) -> u64 {
    let (mut optimizer, mut count) = (*optimizer, vec![0u64]);
    for _ in 0..steps {
        let mut views: Vec<_> = parameters.iter_mut().map(Owned::view).collect();
        ops::optimizer_step(&Context::cpu(), &optimizer, &mut views, Some((&mut count).into()), &mut [][..])
            .unwrap();
        optimizer.hyper.step += 1;
    }
    count[0]
}

fn any_order() -> impl Strategy<Value = StreamOrder> {
    prop_oneof![
        Just(StreamOrder::Lazy),
        Just(StreamOrder::Immediate),
        Just(StreamOrder::OthersFirst),
        any::<u64>().prop_map(StreamOrder::Random),
        (0u32..9).prop_map(StreamOrder::First)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn paged_steps_have_the_cpus_bits(
        optimizer in any_optimizer(),
        shapes in prop::collection::vec(any_shape(20_000), 0..5),
        special in prop::collection::vec(any_number(), 0..3),
        kind in prop::sample::select(vec![PagerKind::Streamed, PagerKind::Managed]),
        budget in LEAST..3 * LEAST,
        gap in 0usize..3,
        order in any_order(),
        advised in prop::option::of((any::<bool>(), 0.0f64..1.0)),
        evicted: bool,
        seed: u64,
    ) {
        let (gpu, _one) = gpu(order);
        let pager = pager(&gpu, kind, budget);
        let mut parameters = training(&optimizer, &shapes, seed, &special);
        let paged = Paged::new(&gpu, &pager, &parameters, gap);
        if let Some((stay, share)) = advised.filter(|_| paged.states.bytes() > 0) {
            let bytes = (paged.states.bytes() as f64 * share) as u64 + 1;
            pager.advise(paged.states.address(), bytes, if stay { Advice::Stay } else { Advice::Pass }).unwrap();
        }
        let (mut next, kept) = (optimizer, gpu.upload(&[7u64]));
        for step in 0..3 {
            // The steps of one pager are ordered, on whatever stream.
            let other = if step == 1 { gpu.with_new_stream() } else { Gpu { stream: gpu.stream.clone(), context: gpu.context.clone() } };
            if step == 1 {
                gpu.stream.synchronize().unwrap();
            }
            paged.step(&other, &pager, &next, &parameters, &kept);
            if evicted && paged.states.bytes() > 0 {
                pager.evict(&other.context, paged.states.address(), paged.states.bytes() / 2 + 1).unwrap();
                pager.prefetch(&other.context, paged.states.address(), paged.states.bytes()).unwrap();
            }
            other.stream.synchronize().unwrap();
            next.hyper.step += 1;
        }
        let found = paged.read(&gpu, &pager, &parameters);
        let count = expected(&optimizer, &mut parameters, 3);
        for (i, (found, expected)) in found.iter().zip(&parameters).enumerate() {
            prop_assert_eq!(found.same(expected), Ok(()), "parameter {}", i);
        }
        prop_assert_eq!(gpu.download::<u64>(&kept)[0] - 7, count);
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
        let (paged, kept) = (Paged::new(&gpu, &pager, &parameters, 0), gpu.upload(&[0u64]));
        paged.step(&gpu, &pager, &optimizer, &parameters, &kept);
        let first = pager.statistics();
        let passing = first.allocated_bytes - first.staying_bytes;
        assert!(first.staying_bytes > (1 << 20) / 2);
        assert_eq!(first.bytes_in, first.staying_bytes + passes * passing);
        assert_eq!(first.bytes_out, passing);

        let mut views = paged.views(&gpu, &parameters);
        let size = ops::optimizer_workspace_size_paged(&gpu.context, &pager, &optimizer, &views).unwrap();
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

#[test]
fn a_device_without_concurrent_access_gets_no_hints() {
    let (gpu, _one) = gpu_with(StreamOrder::Lazy, false);
    let (pager, optimizer) = (pager(&gpu, PagerKind::Managed, LEAST), Optimizer::new(Rule::Lion));
    let mut parameters = training(&optimizer, &[Shape::row(90_000, DType::Bf16, false)], 1, &[]);
    let (paged, kept) = (Paged::new(&gpu, &pager, &parameters, 0), gpu.upload(&[0u64]));
    paged.step(&gpu, &pager, &optimizer, &parameters, &kept);
    let found = paged.read(&gpu, &pager, &parameters);
    expected(&optimizer, &mut parameters, 1);
    found[0].same(&parameters[0]).unwrap();
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
    let paged = Paged::new(&gpu, &pager, &parameters, 0);
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
