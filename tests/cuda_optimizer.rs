//! Optimizer steps on a CUDA device have the CPU's bits, and move each byte once.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::device_optimizers::Uploaded;
use common::optimizers::*;
use common::*;
use proptest::prelude::*;
use ptx_sim::{Installed, counters, reset_counters};
use qlora_kernels::view::BufferMut;
use qlora_kernels::{Context, DType, Optimizer, Parameter, Rule, State, Tensor, TensorMut, ops};

/// A small device, so that blocks stride over several chunks.
fn small_gpu() -> Gpu {
    static SMALL: std::sync::Once = std::sync::Once::new();
    if let Installed::Simulator = ptx_sim::install() {
        SMALL.call_once(|| ptx_sim::configure(&ptx_sim::Config { sm_count: 2, ..ptx_sim::config() }));
    }
    Gpu::new()
}

/// Uploads, steps and downloads; how many elements were kept.
fn step(gpu: &Gpu, optimizer: &Optimizer, parameters: &[Owned], offset: usize) -> (Vec<Owned>, u64) {
    let uploaded: Vec<_> = parameters.iter().map(|owned| Uploaded::new(gpu, owned, offset)).collect();
    let mut views: Vec<_> = uploaded.iter().zip(parameters).map(|(up, owned)| up.view(gpu, owned)).collect();
    let kept = gpu.upload(&[7u64]);
    let size = ops::optimizer_workspace_size(&gpu.context, optimizer, &views).unwrap();
    let workspace = gpu.workspace(size);
    let counter = Some(kept.buffer_mut::<u64>(gpu));
    ops::optimizer_step(&gpu.context, optimizer, &mut views, counter, workspace.buffer_mut::<u8>(gpu))
        .unwrap();
    drop(views);
    let found = uploaded.iter().zip(parameters).map(|(up, owned)| up.download(gpu, owned)).collect();
    (found, gpu.download::<u64>(&kept)[0] - 7)
}

fn check(gpu: &Gpu, optimizer: &Optimizer, start: &[Owned], offset: usize) -> Result<(), TestCaseError> {
    let (found, kept) = step(gpu, optimizer, start, offset);
    let mut expected = start.to_vec();
    let mut views: Vec<_> = expected.iter_mut().map(Owned::view).collect();
    let mut count = vec![0u64];
    let counter = Some((&mut count).into());
    ops::optimizer_step(&Context::cpu(), optimizer, &mut views, counter, &mut [][..]).unwrap();
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        prop_assert_eq!(found.same(expected), Ok(()), "parameter {}", i);
    }
    prop_assert_eq!(kept, count[0]);
    Ok(())
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn a_step_has_the_cpus_bits(
        optimizer in any_optimizer(),
        shapes in prop::collection::vec(any_shape(1500), 0..5),
        special in prop::collection::vec(any_number(), 0..4),
        offset in prop::sample::select(vec![0usize, 0, 1]),
        seed: u64,
    ) {
        let start: Vec<Owned> = (0..)
            .zip(&shapes)
            .map(|(i, shape)| Owned::new(optimizer.rule, shape, seed ^ (i << 32), &special))
            .collect();
        check(&small_gpu(), &optimizer, &start, offset)?;
    }
}

/// Whole runs, short ones and tails; so many parameters that the table takes several launches.
#[test]
fn many_parameters_are_one_launch() {
    let gpu = small_gpu();
    for (rule, eight_bits, max_norm) in [
        (Rule::AdamW, false, None),
        (Rule::AdamW, true, Some(0.5)),
        (Rule::Lamb, true, Some(0.5)),
        (Rule::Lars, false, None),
    ] {
        let shape = |i: usize| Shape::row([1, 70, 256, 2048, 5000][i % 5], DType::Bf16, eight_bits);
        let start: Vec<Owned> = (0..150).map(|i| Owned::new(rule, &shape(i), i as u64, &[])).collect();
        gpu.stream.synchronize().unwrap();
        reset_counters();
        check(&gpu, &Optimizer { max_norm, seed: Some(5), ..Optimizer::new(rule) }, &start, 0).unwrap();
        if let Installed::Simulator = ptx_sim::install() {
            let launches = counters().launches;
            let of = |name: &str| launches.iter().filter(|launch| launch.kernel == name).count();
            assert_eq!(of("optimizer_step"), 1);
            let passes = [max_norm.is_some(), rule.uses_norms()].map(usize::from);
            assert_eq!([of("optimizer_squares"), of("optimizer_norms")], [passes.iter().sum(); 2]);
            // 8 to 11 words an entry, 510 a launch.
            assert!((3..=4).contains(&of("optimizer_table")), "{}", of("optimizer_table"));
        }
    }
}

/// A norm of a parameter with so many chunks that their sums take two levels, one of them a whole one.
#[test]
fn norms_have_levels() {
    let gpu = small_gpu();
    for len in [256 * 2048, 256 * 2048 + 1] {
        let shape = Shape::row(len, DType::F32, false);
        let start = [Owned::new(Rule::Lars, &shape, 1, &[]), Owned::new(Rule::Lars, &shape, 2, &[])];
        check(&gpu, &Optimizer { max_norm: Some(0.5), ..Optimizer::new(Rule::Lars) }, &start, 0).unwrap();
    }
}

#[test]
fn a_norm_that_is_not_finite_keeps_everything() {
    let gpu = small_gpu();
    for eight_bits in [false, true] {
        let shape = Shape::row(5000, DType::Bf16, eight_bits);
        let start = [Owned::new(Rule::Adam, &shape, 1, &[]), Owned::new(Rule::Adam, &shape, 2, &[f32::NAN])];
        let (found, kept) =
            step(&gpu, &Optimizer { max_norm: Some(0.5), ..Optimizer::new(Rule::Adam) }, &start, 0);
        assert_eq!(kept, 10_000);
        found.iter().zip(&start).for_each(|(found, start)| found.same(start).unwrap());
    }
}

/// AdamW of bf16: 22 bytes an element, or 10 and 16/256 with states in 8 bits; and for each run of 256 elements the words of
/// its parameter's entry, a sector each as the simulator counts, though all warps find them in the caches.
#[test]
fn each_byte_is_moved_once() {
    let gpu = small_gpu();
    let Installed::Simulator = ptx_sim::install() else { return };
    let (runs, rule) = (1024, Rule::AdamW);
    for (eight_bits, bytes, words) in [(false, 22 * 256, 8), (true, 10 * 256 + 16, 10)] {
        let start = [Owned::new(rule, &Shape::row(256 * runs, DType::Bf16, eight_bits), 1, &[])];
        reset_counters();
        step(&gpu, &Optimizer::new(rule), &start, 0);
        let launches = counters().launches;
        let launch = launches.iter().find(|launch| launch.kernel == "optimizer_step").unwrap();
        let (stats, blocks) = (&launch.stats, launch.grid[0] as usize);
        let sectors = (stats.global_loads.sectors + stats.global_stores.sectors) as usize;
        // An absmax has a sector to itself, read and written; a block reads two tables for each of two maps.
        let (absmax, tables) = if eight_bits { (2 * (2 * 32 - 8), 4 * 1024) } else { (0, 0) };
        println!(
            "8 bits {eight_bits}: {:.2} bytes an element; {:.1} instructions and {:.1} bank conflicts for 32",
            32.0 * sectors as f64 / (256 * runs) as f64,
            stats.warp_instructions as f64 / (8 * runs) as f64,
            stats.bank_conflicts as f64 / (8 * runs) as f64,
        );
        assert_eq!(32 * sectors, runs * (bytes + absmax + 32 * words) + blocks * tables);
    }
}

/// The driver is asked twice an allocation, however many areas lie in it. What is not the device's is refused by its name.
#[test]
fn memory_is_looked_up_once_an_allocation() {
    let gpu = small_gpu();
    let Installed::Simulator = ptx_sim::install() else { return };
    const COUNT: usize = 300;
    const LEN: usize = 20;
    let pool = gpu.upload(&vec![0.5f32; 4 * COUNT * LEN]);
    let at = |area: usize| pool.ptr(&gpu).wrapping_add(4 * LEN * area);
    let buffer = |area: *mut u8| State::F32(unsafe { BufferMut::from_raw(area.cast(), LEN) });
    let parameters = || -> Vec<Parameter<'_>> {
        let parameter = |i: usize| Parameter {
            param: unsafe { TensorMut::from_raw(at(4 * i), DType::F32, 1, LEN, LEN).unwrap() },
            grad: unsafe { Tensor::from_raw(at(4 * i + 1), DType::F32, 1, LEN, LEN).unwrap() },
            states: vec![buffer(at(4 * i + 2)), buffer(at(4 * i + 3))],
        };
        (0..COUNT).map(parameter).collect()
    };
    let optimizer = Optimizer::new(Rule::AdamW);
    let size = ops::optimizer_workspace_size(&gpu.context, &optimizer, &parameters()).unwrap();
    let workspace = gpu.workspace(size);
    let step = |mut parameters: Vec<Parameter<'_>>| {
        reset_counters();
        let workspace = workspace.buffer_mut::<u8>(&gpu);
        let result = ops::optimizer_step(&gpu.context, &optimizer, &mut parameters, None, workspace);
        gpu.stream.synchronize().unwrap();
        let counters = counters();
        let calls = ["cuPointerGetAttribute", "cuMemGetAddressRange_v2"]
            .map(|name| counters.calls.get(name).copied().unwrap_or(0));
        (result.map_err(|error| error.message().to_owned()), calls, counters.launches.len())
    };

    // The pool and the workspace.
    let (result, calls, launches) = step(parameters());
    assert_eq!((result, calls), (Ok(()), [2, 2]));
    assert!(launches >= 2, "{launches}");

    let (host, mut slice) = (vec![0f32; LEN], vec![0f32; LEN]);
    let behind = at(4 * COUNT);
    for (what, state) in [
        ("which is no memory of the device", buffer(host.as_ptr().cast::<u8>().cast_mut())),
        ("which is no memory of the device", buffer(behind.wrapping_add(16))),
        ("a Rust slice", State::from(&mut slice)),
    ] {
        let mut parameters = parameters();
        parameters[COUNT - 2].states[1] = state;
        let (result, _, launches) = step(parameters);
        let (message, name) = (result.unwrap_err(), format!("parameters[{}].states[1] is at 0x", COUNT - 2));
        assert!(message.starts_with(&name) && message.contains(what), "{message}");
        assert_eq!(launches, 0);
    }

    // Allocations of their own: parameter, gradient, two states; and the workspace.
    let owned = [1, 2, 3].map(|seed| Owned::new(Rule::AdamW, &Shape::row(LEN, DType::F32, false), seed, &[]));
    let uploaded = owned.each_ref().map(|owned| Uploaded::new(&gpu, owned, 0));
    let views = uploaded.iter().zip(&owned).map(|(uploaded, owned)| uploaded.view(&gpu, owned));
    let (result, calls, _) = step(views.collect());
    assert_eq!((result, calls), (Ok(()), [3 * 4 + 1; 2]));
}
