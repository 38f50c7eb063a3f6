//! Saved states continue with the same bits, wherever they were and wherever they are restored.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::cases;
use common::device::*;
use common::device_optimizers::Uploaded;
use common::device_paged::*;
use common::optimizers::*;
use common::paged::*;
use proptest::prelude::*;
use qlora_kernels::ops::{self, optimizer_states_restore, optimizer_states_save, optimizer_states_size};
use qlora_kernels::{
    Context, DType, Error, Optimizer, Pager, PagerKind, PagerOptions, Parameter, Rule, Status,
};

const LEAST: u64 = 256 << 10;

/// Where states live.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Cpu,
    File,
    Cuda,
    Streamed,
    Managed,
}
const PLACES: [Place; 5] = [Place::Cpu, Place::File, Place::Cuda, Place::Streamed, Place::Managed];

/// Parameters whose states live somewhere.
struct Home<'g> {
    /// Steps go to a stream of their own: what else is done with the states of a pager is ordered after them all the same.
    gpus: Option<[&'g Gpu; 2]>,
    pager: Option<Pager>,
    memory: Memory,
    like: Vec<Owned>,
}

enum Memory {
    Host,
    File(PagedStates),
    Device(Vec<Uploaded>),
    OnDevice(OnDevice),
}

impl<'g> Home<'g> {
    /// `unpaged`: those whose number it divides have their states in memory without a pager.
    fn new([gpu, other]: [&'g Gpu; 2], place: Place, like: Vec<Owned>, unpaged: usize) -> Self {
        let on_gpu = |kind| Some(pager(gpu, kind, LEAST));
        let pager = match place {
            Place::Cpu | Place::Cuda => None,
            Place::File => {
                let options = PagerOptions { kind: PagerKind::File, budget: LEAST, folder: None };
                Some(Pager::new(&Context::cpu(), &options).unwrap())
            }
            Place::Streamed => on_gpu(PagerKind::Streamed),
            Place::Managed => on_gpu(PagerKind::Managed),
        };
        let (gpus, memory) = match (&pager, place) {
            (None, Place::Cuda) => {
                (Some([gpu, gpu]), Memory::Device(like.iter().map(|o| Uploaded::new(gpu, o, 0)).collect()))
            }
            (None, _) => (None, Memory::Host),
            (Some(pager), Place::File) => (None, Memory::File(PagedStates::new(pager, &like, 1))),
            (Some(pager), _) => {
                (Some([gpu, other]), Memory::OnDevice(OnDevice::new(gpu, pager, &like, 1, unpaged)))
            }
        };
        Self { gpus, pager, memory, like }
    }

    /// Calls `work` with the parameters, on the stream of steps or on the other one.
    fn with<T>(
        &mut self,
        stepping: bool,
        work: impl FnOnce(&Context, Option<&Pager>, &mut [Parameter<'_>]) -> T,
    ) -> T {
        let gpu = self.gpus.map(|gpus| gpus[usize::from(stepping)]);
        let cpu = Context::cpu();
        let mut views = match (&self.memory, gpu) {
            (Memory::File(states), _) => states.views(&mut self.like, 0),
            (Memory::Device(all), Some(gpu)) => {
                all.iter().zip(&self.like).map(|(uploaded, like)| uploaded.view(gpu, like)).collect()
            }
            (Memory::OnDevice(all), Some(gpu)) => all.views(gpu, &self.like),
            _ => self.like.iter_mut().map(Owned::view).collect(),
        };
        work(gpu.map_or(&cpu, |gpu| &gpu.context), self.pager.as_ref(), &mut views)
    }

    fn step(&mut self, optimizer: &Optimizer) {
        let gpu = self.gpus.map(|[_, gpu]| gpu);
        self.with(true, |context, pager, views| {
            let size = ops::optimizer_workspace_size(context, optimizer, views);
            let workspace = gpu.map(|gpu| (gpu.workspace(size.unwrap()), gpu));
            let buffer = match &workspace {
                Some((memory, gpu)) => memory.buffer_mut::<u8>(gpu),
                None => (&mut [][..]).into(),
            };
            match pager {
                Some(pager) => ops::optimizer_step_paged(context, pager, optimizer, views, None, buffer),
                None => ops::optimizer_step(context, optimizer, views, None, buffer),
            }
            .unwrap();
        });
    }

    fn save(&mut self, optimizer: &Optimizer) -> Vec<u8> {
        self.with(false, |context, pager, views| {
            let mut bytes = vec![0x5a; optimizer_states_size(optimizer, views).unwrap() as usize];
            optimizer_states_save(context, pager, optimizer, views, &mut bytes).unwrap();
            bytes
        })
    }

    fn restore(&mut self, optimizer: &mut Optimizer, bytes: &[u8]) -> Result<(), Error> {
        self.with(false, |context, pager, views| {
            optimizer_states_restore(context, pager, optimizer, views, bytes)
        })
    }

    fn read(&self) -> Vec<Owned> {
        let mut found = self.like.clone();
        match (&self.memory, self.gpus) {
            (Memory::File(states), _) => {
                found.iter_mut().enumerate().for_each(|(i, owned)| states.read(i, owned));
            }
            (Memory::Device(all), Some([gpu, _])) => {
                found = all.iter().zip(&self.like).map(|(up, like)| up.download(gpu, like)).collect();
            }
            (Memory::OnDevice(all), Some([gpu, _])) => {
                found = all.read(gpu, self.pager.as_ref().expect("a pager"), &self.like);
            }
            _ => {}
        }
        found
    }
}

fn same(found: &[Owned], expected: &[Owned]) -> Result<(), TestCaseError> {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        prop_assert_eq!(found.same(expected), Ok(()), "parameter {}", i);
    }
    Ok(())
}

/// The same parameters with other states.
fn with_other_states(optimizer: &Optimizer, shapes: &[Shape], parameters: &[Owned]) -> Vec<Owned> {
    let others = training(optimizer, shapes, 77, &[]);
    parameters.iter().zip(others).map(|(own, other)| Owned { states: other.states, ..own.clone() }).collect()
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn saved_states_continue_anywhere(
        optimizer in any_optimizer(),
        shapes in prop::collection::vec(any_shape(15_000), 0..5),
        order in any_order(),
        from in prop::sample::select(PLACES.to_vec()),
        to in prop::sample::select(PLACES.to_vec()),
        unpaged in prop::sample::select(vec![0usize, 3]),
        seed: u64,
    ) {
        let (gpu, _one) = gpu(order);
        let gpus = [&gpu, &gpu.with_new_stream()];
        let mut expected = training(&optimizer, &shapes, seed, &[]);
        let mut home = Home::new(gpus, from, expected.clone(), unpaged);
        home.step(&optimizer);
        let bytes = home.save(&optimizer);
        step_on_cpu(&optimizer, &mut expected, 1);
        let reference = Home::new(gpus, Place::Cpu, expected.clone(), 0).save(&optimizer);
        prop_assert!(bytes == reference, "the bytes depend on the place");
        // Saving changes nothing.
        let found = home.read();
        same(&found, &expected)?;

        let mut home = Home::new(gpus, to, with_other_states(&optimizer, &shapes, &found), unpaged);
        let mut next = optimizer;
        next.hyper.step = 4711;
        home.restore(&mut next, &bytes).unwrap();
        prop_assert_eq!(next, optimizer);
        for _ in 0..2 {
            next.hyper.step += 1;
            home.step(&next);
        }
        next.hyper.step = optimizer.hyper.step + 1;
        step_on_cpu(&next, &mut expected, 2);
        same(&home.read(), &expected)?;
    }
}

/// Going back to what was saved, in the place where it was saved; and saving leaves what stays on a device there.
#[test]
fn a_run_goes_back_to_what_it_saved() {
    let (gpu, _one) = gpu(ptx_sim::StreamOrder::Lazy);
    let gpus = [&gpu, &gpu.with_new_stream()];
    let optimizer = Optimizer::new(Rule::AdamW);
    let shapes = [Shape::row(50_000, DType::F32, false), Shape::row(3000, DType::F32, true)];
    for place in PLACES {
        let start = training(&optimizer, &shapes, 2, &[]);
        let mut home = Home::new(gpus, place, start.clone(), 0);
        home.step(&optimizer);
        let saved = home.save(&optimizer);
        let moved = |home: &Home<'_>| home.pager.as_ref().map(|pager| pager.statistics());
        let before = moved(&home);
        home.step(&optimizer);
        if let (Some(before), Some(after)) = (before, moved(&home)) {
            // Nothing had to come back.
            assert!(
                after.windows > 0 && after.bytes_in - before.bytes_in == after.bytes_out - before.bytes_out
            );
        }
        let mut again = optimizer;
        home.restore(&mut again, &saved).unwrap();
        assert_eq!(home.save(&again), saved, "{place:?}");
        home.step(&optimizer);
        home.restore(&mut again, &saved).unwrap();
        // Parameters were not saved: three steps of theirs, the last with the states after the first.
        let mut expected = start;
        step_on_cpu(&optimizer, &mut expected, 1);
        let states: Vec<_> = expected.iter().map(|owned| owned.states.clone()).collect();
        let back = |owned: &mut [Owned]| {
            owned.iter_mut().zip(&states).for_each(|(owned, states)| owned.states = states.clone());
        };
        step_on_cpu(&optimizer, &mut expected, 1);
        back(&mut expected);
        step_on_cpu(&optimizer, &mut expected, 1);
        back(&mut expected);
        same(&home.read(), &expected).unwrap();
    }
}

#[test]
fn what_does_not_match_or_is_damaged_is_refused_and_changes_nothing() {
    let (gpu, _one) = gpu(ptx_sim::StreamOrder::Lazy);
    let gpus = [&gpu, &gpu.with_new_stream()];
    let optimizer = Optimizer::new(Rule::AdamW);
    let shapes = [Shape::row(700, DType::F32, false), Shape::row(600, DType::Bf16, true)];
    let start = training(&optimizer, &shapes, 2, &[]);
    let saved_by = |optimizer: &Optimizer, shapes: &[Shape]| {
        Home::new(gpus, Place::Cpu, training(optimizer, shapes, 2, &[]), 0).save(optimizer)
    };
    let bytes = saved_by(&optimizer, &shapes);
    let mut refused: Vec<(Vec<u8>, &str)> = vec![
        (saved_by(&Optimizer::new(Rule::Adam), &shapes), "buffer has states of Adam; rule is AdamW"),
        (saved_by(&optimizer, &shapes[..1]), "buffer has states of 1 parameters; count is 2"),
        (
            saved_by(&optimizer, &[shapes[0].clone(), Shape::row(601, DType::Bf16, true)]),
            "parameters[1] has 600 elements with states of 8 bits; it was saved with 601 elements with states of 8 bits",
        ),
        (
            saved_by(&optimizer, &[Shape::row(700, DType::F32, true), shapes[1].clone()]),
            "parameters[0] has 700 elements with states of 32 bits; it was saved with 700 elements with states of 8 bits",
        ),
        (Vec::new(), "buffer has 0 bytes, which are no saved states"),
        (bytes[..47].to_vec(), "buffer has 47 bytes, which are no saved states"),
        (bytes[..bytes.len() - 1].to_vec(), "were saved"),
        ([&bytes[..], &[0]].concat(), "were saved"),
    ];
    for (at, message) in [(0, "no saved states"), (8, "buffer is of version 0; this library reads version 1")]
    {
        let mut other = bytes.clone();
        other[at] ^= 1;
        refused.push((other, message));
    }
    // Rule, step, sizes, checksum, values of each state.
    for at in [12, 16, 41, 50, 100, 3000, 5700, 6200, 6900, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        refused.push((damaged, "buffer is damaged: its checksum is another"));
    }
    for place in PLACES {
        let mut home = Home::new(gpus, place, start.clone(), 0);
        home.step(&optimizer);
        let before = home.save(&optimizer);
        for (bytes, message) in &refused {
            let mut own =
                Optimizer { hyper: qlora_kernels::Hyper { step: 9, ..optimizer.hyper }, ..optimizer };
            let error = home.restore(&mut own, bytes).unwrap_err();
            assert_eq!(error.status(), Status::InvalidArgument, "{error}");
            assert!(error.message().contains(message), "{error}, not {message}");
            assert_eq!(own.hyper.step, 9);
            assert!(home.save(&optimizer) == before, "{place:?}: {message}");
        }
        // The length is exact when saving, too, and nothing is written.
        for len in [before.len() - 1, before.len() + 1] {
            let mut buffer = vec![7; len];
            let error = home.with(false, |context, pager, views| {
                optimizer_states_save(context, pager, &optimizer, views, &mut buffer).unwrap_err()
            });
            assert_eq!(error.message(), format!("size is {len}; these states take {} bytes", before.len()));
            assert!(buffer.iter().all(|&byte| byte == 7));
        }
    }
}
