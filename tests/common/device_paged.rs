//! Parameters of an optimizer in device memory, with their states in a pager's; and devices to step them on.

use super::device::*;
use super::device_optimizers::Uploaded;
use super::optimizers::*;
use super::paged::*;
use super::*;
use ptx_sim::{Config, Installed, StreamOrder};
use qlora_kernels::{Context, Optimizer, Pager, PagerKind, PagerOptions, Parameter, ops};
use std::sync::{Mutex, MutexGuard};

/// A small device that does its streams' work in this order, and may have concurrent access to unified memory; for one test at
/// a time, as there is one simulator.
pub fn gpu_with(
    stream_order: StreamOrder,
    concurrent_managed_access: bool,
) -> (Gpu, MutexGuard<'static, ()>) {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Installed::Simulator = ptx_sim::install() {
        let config = ptx_sim::config();
        ptx_sim::configure(&Config { sm_count: 4, stream_order, concurrent_managed_access, ..config });
    }
    (Gpu::new(), guard)
}

pub fn gpu(stream_order: StreamOrder) -> (Gpu, MutexGuard<'static, ()>) {
    gpu_with(stream_order, true)
}

pub fn pager(gpu: &Gpu, kind: PagerKind, budget: u64) -> Pager {
    Pager::new(&gpu.context, &PagerOptions { kind, budget, folder: None }).unwrap()
}

/// Parameters and gradients in device memory, states in a pager's; those of parameters whose number `unpaged` divides in device
/// memory, too.
pub struct OnDevice {
    uploaded: Vec<Uploaded>,
    pub states: PagedStates,
    unpaged: usize,
}

impl OnDevice {
    pub fn new(gpu: &Gpu, pager: &Pager, parameters: &[Owned], gap: usize, unpaged: usize) -> Self {
        let uploaded = parameters.iter().map(|owned| Uploaded::new(gpu, owned, 0)).collect();
        Self { uploaded, states: PagedStates::new(pager, parameters, gap), unpaged }
    }

    fn is_paged(&self, i: usize) -> bool {
        self.unpaged == 0 || !i.is_multiple_of(self.unpaged)
    }

    pub fn views<'a>(&'a self, gpu: &Gpu, like: &'a [Owned]) -> Vec<Parameter<'a>> {
        let view = |(i, (uploaded, like)): (usize, (&'a Uploaded, &'a Owned))| {
            let own = uploaded.view(gpu, like);
            if self.is_paged(i) { Parameter { states: self.states.states(i, like), ..own } } else { own }
        };
        self.uploaded.iter().zip(like).enumerate().map(view).collect()
    }

    /// Enqueues a step; the workspace that it uses.
    pub fn step(
        &self,
        gpu: &Gpu,
        pager: &Pager,
        optimizer: &Optimizer,
        like: &[Owned],
        kept: &Memory,
    ) -> Memory {
        let mut views = self.views(gpu, like);
        let size = ops::optimizer_workspace_size(&gpu.context, optimizer, &views).unwrap();
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
        workspace
    }

    /// Evicts all states, waits for the stream and reads everything.
    pub fn read(&self, gpu: &Gpu, pager: &Pager, like: &[Owned]) -> Vec<Owned> {
        if self.states.bytes() > 0 {
            pager.evict(&gpu.context, self.states.address(), self.states.bytes()).unwrap();
        }
        gpu.stream.synchronize().unwrap();
        let mut found: Vec<Owned> =
            self.uploaded.iter().zip(like).map(|(up, like)| up.download(gpu, like)).collect();
        for (i, owned) in found.iter_mut().enumerate().filter(|(i, _)| self.is_paged(*i)) {
            self.states.read(i, owned);
        }
        found
    }
}

/// Steps on the CPU; how many elements were kept.
pub fn step_on_cpu(optimizer: &Optimizer, parameters: &mut [Owned], steps: u64) -> u64 {
    let (mut optimizer, mut count) = (*optimizer, vec![0u64]);
    for _ in 0..steps {
        let mut views: Vec<_> = parameters.iter_mut().map(Owned::view).collect();
        ops::optimizer_step(&Context::cpu(), &optimizer, &mut views, Some((&mut count).into()), &mut [][..])
            .unwrap();
        optimizer.hyper.step += 1;
    }
    count[0]
}

pub fn any_order() -> impl Strategy<Value = StreamOrder> {
    prop_oneof![
        Just(StreamOrder::Lazy),
        Just(StreamOrder::Immediate),
        Just(StreamOrder::OthersFirst),
        any::<u64>().prop_map(StreamOrder::Random),
        (0u32..9).prop_map(StreamOrder::First)
    ]
}
