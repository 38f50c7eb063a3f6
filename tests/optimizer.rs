//! Optimizer steps against f64, against torch, and the same bits as the format on every code path.

mod common;

use common::optimizer_model::*;
use common::optimizers::*;
use common::*;
use proptest::prelude::*;
use qlora_kernels::view::BufferMut;
use qlora_kernels::{Context, DType, Hyper, Optimizer, Parameter, Rule, State, Tensor, TensorMut, ops};

fn step(context: &Context, optimizer: &Optimizer, parameters: &mut [Owned]) -> u64 {
    let mut views: Vec<_> = parameters.iter_mut().map(Owned::view).collect();
    let mut kept = vec![5u64];
    ops::optimizer_step(context, optimizer, &mut views, Some((&mut kept).into()), &mut [][..]).unwrap();
    kept[0] - 5 // it is added to
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn every_code_path_has_the_formats_bits(
        optimizer in any_optimizer(),
        shapes in prop::collection::vec(any_shape(3000), 0..5),
        special in prop::collection::vec(any_number(), 0..4),
        threads in 1usize..4,
        seed: u64,
    ) {
        let start: Vec<Owned> =
            (0..).zip(&shapes).map(|(i, shape)| Owned::new(optimizer.rule, shape, seed ^ (i << 32), &special)).collect();
        let mut expected = start.clone();
        let expected_kept = reference_step(&optimizer, &mut expected);
        for context in Context::cpu_variants() {
            context.set_threads(threads).unwrap();
            let mut parameters = start.clone();
            let kept = step(&context, &optimizer, &mut parameters);
            for (i, (parameter, expected)) in parameters.iter().zip(&expected).enumerate() {
                prop_assert_eq!(parameter.same(expected), Ok(()), "{} {}", context.instruction_set(), i);
            }
            prop_assert_eq!(kept, expected_kept);
        }
    }
}

/// The equations in their textbook order have no fewer roundings than half of those that the library's order has.
const OTHER_ORDER: f64 = 2.0;

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn a_step_is_within_its_bound(
        rule in any_rule(),
        hyper in any_hyper(),
        max_norm in prop::option::of(0.01f32..100.0),
        shape in any_shape(1000),
        seed: u64,
    ) {
        let shape = Shape { rows: shape.rows + 1, cols: shape.cols + 1, eight_bits: false, ..shape };
        let mut owned = [Owned::new(rule, &shape, seed, &[])];
        let dtype = owned[0].param.dtype();
        let start = owned[0].clone();
        let real = |values: Vec<f32>| values.iter().map(|&x| exact(f64::from(x))).collect::<Vec<_>>();
        let grad = start.grad.values();
        let mut states: Vec<_> = start.states.values(rule).into_iter().map(real).collect();
        let mut scale = exact(f64::from(hyper.grad_scale));
        if let Some(max_norm) = max_norm {
            let scaled: Vec<_> = grad.iter().map(|&g| exact(f64::from(g)) * scale).collect();
            let norm = norm(&scaled);
            let factor = exact(f64::from(max_norm)) / (norm + rounded(1e-6));
            // Where it is near 1, the minimum is near it, too.
            let factor = if factor.value < 1.0 { factor } else { Real { value: 1.0, error: U } };
            scale = scale * factor;
        }
        let expected = model(rule, &hyper, scale, &real(start.param.values()), &grad, &mut states);

        step(&Context::cpu(), &Optimizer { rule, hyper, max_norm, seed: None }, &mut owned);
        let (roundoff, tiny) = unit_roundoff(dtype);
        for (i, (found, expected)) in owned[0].param.values().into_iter().zip(expected).enumerate() {
            let error = OTHER_ORDER * expected.error;
            let bound = error + roundoff * (expected.value.abs() + error) + tiny;
            let distance = (f64::from(found) - expected.value).abs();
            prop_assert!(distance <= bound, "param[{}]: {} for {:?}", i, found, expected);
        }
        for (s, (found, expected)) in owned[0].states.values(rule).into_iter().zip(states).enumerate() {
            for (i, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                let distance = (f64::from(found) - expected.value).abs();
                prop_assert!(distance <= OTHER_ORDER * expected.error + TINY, "state {}[{}]: {} for {:?}", s, i, found, expected);
            }
        }
    }
}

/// Gradients and start of the trajectories: multiples of 2⁻¹⁶ from a linear congruential generator (Numerical Recipes'
/// constants), so that any program can make the same.
struct Sequence(u32);

impl Sequence {
    fn next(&mut self, len: usize) -> Vec<f32> {
        let mut one = || {
            self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (self.0 >> 15) as f32 / 65_536.0 - 1.0
        };
        (0..len).map(|_| one()).collect()
    }
}

const STEPS: u64 = 1000;
const LEN: usize = 64;

/// The hyperparameters of a trajectory: [`Hyper::of`], with a decay.
fn of_trajectory(rule: Rule) -> Hyper {
    Hyper { weight_decay: 0.01, ..Hyper::of(rule) }
}

/// The parameters after 1,000 steps.
fn trajectory(rule: Rule, eight_bits: bool) -> Vec<f32> {
    let (context, mut sequence) = (Context::cpu(), Sequence(1));
    let start = Matrix::new(DType::F32, &sequence.next(LEN), 1, LEN, 0);
    let states = Values::zeros(rule, LEN, eight_bits);
    let mut parameters = [Owned { param: start.clone(), grad: start, states }];
    for step_number in 1..=STEPS {
        parameters[0].grad.set(&sequence.next(LEN));
        let hyper = Hyper { step: step_number, ..of_trajectory(rule) };
        assert_eq!(step(&context, &Optimizer { hyper, ..Optimizer::new(rule) }, &mut parameters), 0);
    }
    parameters[0].param.values()
}

/// The same in f64.
fn trajectory64(rule: Rule) -> Vec<f64> {
    let mut sequence = Sequence(1);
    let real = |values: Vec<f64>| values.into_iter().map(exact).collect::<Vec<_>>();
    let mut p = real(sequence.next(LEN).into_iter().map(f64::from).collect());
    let mut states = vec![real(vec![0.0; LEN]); rule.states().len()];
    for step in 1..=STEPS {
        let hyper = Hyper { step, ..of_trajectory(rule) };
        let next = model(rule, &hyper, exact(1.0), &p, &sequence.next(LEN), &mut states);
        p = real(next.into_iter().map(|p| p.value).collect());
        states.iter_mut().flatten().for_each(|state| state.error = 0.0);
    }
    p.into_iter().map(|p| p.value).collect()
}

/// `‖a - b‖ / ‖b‖`
fn distance(a: &[f32], b: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let difference: f64 = a.iter().zip(b).map(|(&a, b)| square(f64::from(a) - b)).sum();
    (difference / b.iter().map(|&b| square(b)).sum::<f64>()).sqrt()
}

/// A step rounds the parameter twice, by a unit roundoff at most each. Independent roundings add up as their root; those of
/// Lion, whose steps are all of one size, do not cancel. Where weights decay by themselves, `1 - ηλ` is rounded to f32 once
/// for all steps, as torch does.
#[test]
fn a_thousand_steps_stay_near_f64() {
    for rule in Rule::ALL {
        let h = of_trajectory(rule);
        let (found, expected) = (trajectory(rule, false), trajectory64(rule));
        let keep = 1.0 - f64::from(h.lr) * f64::from(h.weight_decay);
        let decays = matches!(rule, Rule::AdamW | Rule::AdEmaMix | Rule::Lion);
        let drift = if decays { STEPS as f64 * (f64::from(keep as f32) - keep).abs() } else { 0.0 };
        let distance = distance(&found, &expected);
        println!("{rule:?}: {distance:.1e} from f64, of it by 1 - ηλ {drift:.1e}");
        let roundings = 2.0 * STEPS as f64;
        let sum = if rule == Rule::Lion { roundings } else { 2.0 * roundings.sqrt() };
        assert!(distance <= U * sum + drift, "{rule:?}: {distance:e}, drift {drift:e}");
    }
}

/// tests/python/torch_optimizers.py has written down where torch gets.
#[test]
fn a_thousand_steps_stay_near_torch() {
    let recorded = include_str!("python/torch_optimizers.txt");
    let mut compared = 0;
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let (name, bits) = line.split_once(' ').unwrap();
        let rule = Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == name).unwrap();
        let torch =
            bits.split(' ').map(|bits| f64::from(f32::from_bits(u32::from_str_radix(bits, 16).unwrap())));
        let distance = distance(&trajectory(rule, false), &torch.collect::<Vec<_>>());
        println!("{rule:?}: {distance:.1e} from torch");
        assert!(distance <= 1e-6, "{rule:?}: {distance:e}");
        compared += 1;
    }
    assert_eq!(compared, 6);
}

/// With states in 8 bits the way that the parameters go, against the way that they go with states in f32, is off by at most a
/// twentieth in 1,000 steps; with Lion, whose signs turn about, by a tenth.
#[test]
fn eight_bits_stay_near_32() {
    for rule in Rule::ALL {
        let start = Sequence(1).next(LEN);
        let way = |to: Vec<f32>| to.iter().zip(&start).map(|(to, from)| to - from).collect::<Vec<_>>();
        let wide: Vec<f64> = way(trajectory(rule, false)).into_iter().map(f64::from).collect();
        let distance = distance(&way(trajectory(rule, true)), &wide);
        println!("{rule:?}: {distance:.1e} from states in f32");
        let most = if rule == Rule::Lion { 0.1 } else { 0.05 };
        assert!(distance > 0.0 && distance <= most, "{rule:?}: {distance:e}");
    }
}

/// One call for thousands of parameters of all sizes does what as many calls do.
#[test]
fn thousands_of_parameters_are_one_call() {
    let optimizer = Optimizer::new(Rule::AdamW);
    let shape =
        |i: usize| Shape::row([0, 1, 70, 255, 256, 257, 5000][i % 7], DType::Bf16, i.is_multiple_of(2));
    let mut together: Vec<Owned> =
        (0..3000).map(|i| Owned::new(Rule::AdamW, &shape(i), i as u64, &[])).collect();
    let mut alone = together.clone();
    let context = Context::cpu();
    step(&context, &optimizer, &mut together);
    for (parameter, together) in alone.iter_mut().zip(&together) {
        step(&context, &optimizer, std::slice::from_mut(parameter));
        assert_eq!(parameter.same(together), Ok(()));
    }
}

/// bitsandbytes takes the first block of AdEMAMix's second moments for the last of its first ones where the size is no
/// multiple of 256: each state must have blocks of its own.
#[test]
fn states_of_any_size_have_their_own_blocks() {
    for len in [1, 255, 257, 700] {
        let mut parameters = [Owned::new(Rule::AdEmaMix, &Shape::row(len, DType::F32, true), 3, &[])];
        parameters[0].states = Values::zeros(Rule::AdEmaMix, len, true);
        step(&Context::cpu(), &Optimizer::new(Rule::AdEmaMix), &mut parameters);
        let Values::Blocks(states) = &parameters[0].states else { panic!() };
        // After one step from zero each state is the gradient, or its square, times 1 - β: so is each absmax. β₃ is nearest to
        // 1: rounded to f32 its 1 - β is off by 2⁻²⁴/10⁻⁴.
        let largest = |block: &[f32]| block.iter().fold(0f32, |m, g| m.max(g.abs()));
        for (b, block) in parameters[0].grad.values().chunks(256).enumerate() {
            for (state, factor, power) in [(0, 0.1, 1), (1, 1e-4, 1), (2, 1e-3, 2)] {
                let expected = factor * largest(block).powi(power);
                let found = states[state].absmax[b];
                assert!((found - expected).abs() <= 1e-3 * expected, "{len} {state} {b}: {found} {expected}");
            }
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_keeps_everything() {
    for eight_bits in [false, true] {
        let shapes = [300, 5000].map(|len| Shape::row(len, DType::F32, eight_bits));
        let mut parameters: Vec<Owned> =
            shapes.iter().map(|shape| Owned::new(Rule::AdamW, shape, 1, &[])).collect();
        let mut grad = parameters[1].grad.values();
        grad[4321] = f32::NAN;
        parameters[1].grad.set(&grad);
        let start = parameters.clone();
        let clipping = Optimizer { max_norm: Some(1.0), ..Optimizer::new(Rule::AdamW) };
        assert_eq!(step(&Context::cpu(), &clipping, &mut parameters), 5300);
        for (parameter, start) in parameters.iter().zip(&start) {
            assert_eq!(parameter.same(start), Ok(()));
        }
        assert_eq!(step(&Context::cpu(), &Optimizer::new(Rule::AdamW), &mut parameters), 1);
        let (after, before) = (parameters[1].param.values(), start[1].param.values());
        assert!(after[4321] == before[4321] && after[4320] != before[4320]);
    }
}

/// Blocks that vanish, or whose scale is negative, infinite or no number, and gradients whose squares are not finite: in whole
/// tiles and blocks, and in the pieces at the end.
#[test]
fn states_and_gradients_that_are_not_ordinary() {
    let (len, absmax) = (2900, [1.0, 0.0, -0.0, -0.5, 1e-39, f32::INFINITY, f32::NAN, 0.25]);
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -0.0, 1e-30];
    for (rule, first) in Rule::ALL.into_iter().flat_map(|rule| (0..absmax.len()).map(move |i| (rule, i))) {
        let mut start = Owned::new(rule, &Shape::row(len, DType::F32, true), 3, &[]);
        let Values::Blocks(states) = &mut start.states else { unreachable!("eight bits") };
        for (s, state) in states.iter_mut().enumerate() {
            let scales = absmax.iter().cycle().skip(first + 3 * s);
            state.absmax.iter_mut().zip(scales).for_each(|(absmax, &scale)| *absmax = scale);
        }
        let mut grad = start.grad.values();
        for (i, &odd) in (0..).zip(odd.iter().cycle().take(12)) {
            grad[17 + 240 * i] = odd;
        }
        start.grad.set(&grad);
        let optimizer = Optimizer::new(rule);
        let mut expected = [start.clone()];
        let expected_kept = reference_step(&optimizer, &mut expected);
        assert!(expected_kept > 0);
        for context in Context::cpu_variants() {
            let mut parameters = [start.clone()];
            let kept = step(&context, &optimizer, &mut parameters);
            let same = parameters[0].same(&expected[0]);
            assert_eq!((same, kept), (Ok(()), expected_kept), "{rule:?}, {}", context.instruction_set());
        }
    }
}

/// Steps of a hundredth of half a unit of the parameter: rounded to nearest nothing moves; at random the mean does.
#[test]
fn small_steps_move_the_mean_of_numbers_rounded_at_random() {
    let (len, lr) = (20_000, 2f32.powi(-9) / 100.0);
    let hyper = Hyper { lr, beta1: 0.0, weight_decay: 0.0, ..Hyper::of(Rule::Sgd) };
    let after = |seed| {
        let ones = Matrix::new(DType::Bf16, &vec![1.0; len], 1, len, 0);
        let states = Values::zeros(Rule::Sgd, len, false);
        let mut parameters = [Owned { param: ones.clone(), grad: ones, states }];
        for step_number in 1..=100 {
            let hyper = Hyper { step: step_number, ..hyper };
            step(&Context::cpu(), &Optimizer { hyper, seed, ..Optimizer::new(Rule::Sgd) }, &mut parameters);
        }
        let values = parameters[0].param.values();
        values.iter().map(|&v| f64::from(v)).sum::<f64>() / len as f64
    };
    assert_eq!(after(None), 1.0);
    // Below 1, numbers are 2⁻⁸ apart: each of the 100 steps goes down with probability p = 1/200.
    let (down, p) = ((1.0 - after(Some(9))) / 2f64.powi(-8), 1.0 / 200.0);
    let deviation = (100.0 * p * (1.0 - p) / len as f64).sqrt();
    assert!((down - 100.0 * p).abs() < 5.0 * deviation, "{down}");
}

#[test]
fn bad_arguments_are_named_and_nothing_is_written() {
    let context = Context::cpu();
    let rule = Rule::AdEmaMix;
    let good = Optimizer::new(rule);
    let start = [1, 2].map(|seed| Owned::new(rule, &Shape::row(300, DType::F32, seed == 2), seed, &[]));
    let refuse = |optimizer: Optimizer, change: &dyn Fn(&mut [Parameter<'_>]), message: &str| {
        let mut parameters = start.clone();
        let mut views: Vec<_> = parameters.iter_mut().map(Owned::view).collect();
        change(&mut views);
        let error = ops::optimizer_step(&context, &optimizer, &mut views, None, &mut [][..]).unwrap_err();
        assert!(error.message().contains(message), "{error}");
        for (parameter, start) in parameters.iter().zip(&start) {
            assert_eq!(parameter.same(start), Ok(()));
        }
    };
    type Change = fn(&mut Hyper);
    let bad: [(Change, &str); 11] = [
        (|h| h.lr = f32::NAN, "lr is NaN"),
        (|h| h.lr = -1.0, "lr is -1"),
        (|h| h.beta1 = 1.0, "beta1 is 1"),
        (|h| h.beta2 = -0.1, "beta2 is -0.1"),
        (|h| h.beta3 = 1.5, "beta3 is 1.5"),
        (|h| h.alpha = -1.0, "alpha is -1"),
        (|h| h.eps = f32::INFINITY, "eps is inf"),
        (|h| h.weight_decay = -1.0, "weight_decay is -1"),
        (|h| h.trust = -1.0, "trust is -1"),
        (|h| h.grad_scale = f32::NAN, "grad_scale is NaN"),
        (|h| h.step = 0, "step is 0"),
    ];
    for (change, message) in bad {
        let mut optimizer = good;
        change(&mut optimizer.hyper);
        refuse(optimizer, &|_| (), message);
    }
    refuse(Optimizer { max_norm: Some(0.0), ..good }, &|_| (), "max_norm is 0");
    let pop = |views: &mut [Parameter<'_>]| views[1].states.truncate(2);
    refuse(good, &pop, "parameters[1].states has 2 entries; AdEmaMix has 3 states");
    let swap = |views: &mut [Parameter<'_>]| {
        let [first, second] = views else { panic!() };
        std::mem::swap(&mut first.states[2], &mut second.states[2]);
    };
    refuse(good, &swap, "parameters[0].states are f32 and 8-bit ones");
}

/// What is written needs memory of its own; gradients may be shared.
#[test]
fn overlaps_are_named() {
    let mut memory = vec![0.5f32; 64];
    let at = memory.as_mut_ptr();
    let check =
        |[param, grad, state]: [usize; 3], [param1, grad1, state1]: [usize; 3], message: Option<&str>| {
            // SAFETY: the views lie inside the memory, and are used by a call that refuses them or finds them apart.
            let parameter = |param: usize, grad: usize, state: usize| unsafe {
                Parameter {
                    param: TensorMut::from_raw(at.add(param).cast(), DType::F32, 1, 4, 4).unwrap(),
                    grad: Tensor::from_raw(at.add(grad).cast(), DType::F32, 1, 4, 4).unwrap(),
                    states: vec![State::F32(BufferMut::from_raw(at.add(state), 4))],
                }
            };
            let mut parameters = [parameter(param, grad, state), parameter(param1, grad1, state1)];
            let result = ops::optimizer_step(
                &Context::cpu(),
                &Optimizer::new(Rule::Lion),
                &mut parameters,
                None,
                &mut [][..],
            );
            match message {
                None => result.unwrap(),
                Some(message) => assert!(result.unwrap_err().message().starts_with(message)),
            }
        };
    check([0, 8, 16], [4, 8, 20], None);
    check([0, 8, 16], [3, 8, 20], Some("parameters[1].param overlaps parameters[0].param"));
    check([0, 8, 16], [4, 8, 13], Some("parameters[0].states[0] overlaps parameters[1].states[0]"));
    check([0, 8, 16], [10, 32, 20], Some("parameters[1].param overlaps parameters[0].grad"));
    check([0, 40, 16], [44, 42, 20], Some("parameters[1].param overlaps parameters[1].grad"));
}
