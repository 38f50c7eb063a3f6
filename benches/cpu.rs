//! CPU speed, as ratios: `cargo bench --bench cpu`, or a part of it: `-- streams`, `-- optimizers`, `-- paged`,
//! `-- products`.
//!
//! Streams are compared with a copy of as many bytes in the same run, products with the dense f32 product of the `gemm`
//! crate (which candle uses) on the dequantized weight, with as many threads. A line is the best of several runs, since
//! other work on the machine only ever adds time.

use half::bf16;
use qlora_kernels::format::optimizer::blocks::{BLOCK, Blocks};
use qlora_kernels::view::BufferMut;
use qlora_kernels::{
    Constants, Context, Lora, Optimizer, Pager, PagerKind, PagerOptions, Parameter, QuantSpec,
    QuantizedMatrix, Rule, State, ops,
};
use qlora_kernels::{Tensor, TensorMut};
use std::time::Instant;

/// Seconds of the fastest of the runs that fit a fifth of a second, at least three.
fn time(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || start.elapsed().as_secs_f64() < 0.2 {
        let begun = Instant::now();
        run();
        best = best.min(begun.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn noise(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let step = |s: &mut u32| *s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
    (0..len)
        .map(|_| {
            step(&mut state);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn streams(context: &Context) {
    let (rows, cols) = (4096, 4096);
    let len = rows * cols;
    let x = noise(len);
    let half: Vec<bf16> = x.iter().map(|&v| bf16::from_f32(v)).collect();
    let mut out = vec![0f32; len];
    // Reading 4 bytes and writing 4, on one thread a core through the same pool would be; one thread here.
    let copy = 8.0 * len as f64 / time(|| out.copy_from_slice(&x));
    println!("copy, one thread: {:.1} GB/s", copy / 1e9);
    println!("{:<38} {:>9} {:>9} {:>14}", "4096 x 4096", "ms", "GB/s", "to copy's GB/s");
    let row = |name: &str, bytes: f64, seconds: f64| {
        println!(
            "{name:<38} {:9.2} {:9.1} {:14.2}",
            seconds * 1e3,
            bytes / seconds / 1e9,
            bytes / seconds / copy
        );
    };
    for constants in [Constants::F32, Constants::Fp8] {
        let name = format!("{constants:?}").to_lowercase();
        let spec = QuantSpec::default().with_constants(constants);
        let mut q = QuantizedMatrix::quantize(context, Tensor::new(&x, rows, cols).unwrap(), &spec).unwrap();
        let packed = (q.code_bytes() + q.constant_bytes()) as f64;
        let mut workspace = vec![0; ops::quantize_workspace_size(context, &spec, rows, cols).unwrap()];
        let seconds = time(|| {
            ops::quantize(context, Tensor::new(&x, rows, cols).unwrap(), q.view_mut(), &mut workspace)
                .unwrap();
        });
        row(&format!("quantize nf4/{name} from f32"), packed + 4.0 * len as f64, seconds);
        let seconds = time(|| {
            ops::quantize(context, Tensor::new(&half, rows, cols).unwrap(), q.view_mut(), &mut workspace)
                .unwrap();
        });
        row(&format!("quantize nf4/{name} from bf16"), packed + 2.0 * len as f64, seconds);
        let seconds = time(|| q.dequantize(context, TensorMut::new(&mut out, rows, cols).unwrap()).unwrap());
        row(&format!("dequantize nf4/{name} to f32"), packed + 4.0 * len as f64, seconds);
        let mut half = half.clone();
        let seconds = time(|| q.dequantize(context, TensorMut::new(&mut half, rows, cols).unwrap()).unwrap());
        row(&format!("dequantize nf4/{name} to bf16"), packed + 2.0 * len as f64, seconds);
    }
}

/// A step of AdamW on parameters and gradients in f32, with states in 32 and in 8 bits, against a copy of as many numbers.
fn optimizers(context: &Context) {
    println!("{:<38} {:>9} {:>9} {:>14}", "millions of f32 parameters", "ms", "GB/s", "to copy's GB/s");
    for millions in [16, 64] {
        let len = millions << 20;
        let (grad, mut param) = (noise(len), noise(len));
        let copy = 8.0 * len as f64 / time(|| param.copy_from_slice(&grad));
        for eight_bits in [false, true] {
            let [mut m, mut v] = [(); 2].map(|()| vec![0f32; if eight_bits { 0 } else { len }]);
            let mut codes = [true, false].map(|signed| match eight_bits {
                true => Blocks::zeros(len, signed),
                false => Blocks::zeros(0, signed),
            });
            let seconds = time(|| {
                let states = if eight_bits {
                    codes.each_mut().map(State::from).into()
                } else {
                    vec![(&mut m).into(), (&mut v).into()]
                };
                let param = TensorMut::new(&mut param, 1, len).unwrap();
                let mut parameters = [Parameter { param, grad: Tensor::new(&grad, 1, len).unwrap(), states }];
                let adamw = Optimizer::new(Rule::AdamW);
                ops::optimizer_step(context, &adamw, &mut parameters, None, &mut [][..]).unwrap();
            });
            let (name, each) = if eight_bits { ("8-bit", 16.0 + 16.0 / 256.0) } else { ("f32", 28.0) };
            let rate = each * len as f64 / seconds;
            let name = format!("{millions:<3} adamw, {name} states");
            println!("{name:<38} {:9.2} {:9.1} {:14.2}", seconds * 1e3, rate / 1e9, rate / copy);
        }
    }
}

/// Steps of each kind, of which the first is not timed.
const ROUNDS: usize = 12;
/// More than the bytes that a plan reckons for the ends of pieces; a page.
const ROOM: usize = 4096;

/// One of two states of `len` elements, a multiple of a block, which follow each other: values, or codes and their scales.
///
/// # Safety
/// The memory is there, and lent to nobody else for as long.
unsafe fn state_at<'a>(start: *mut u8, number: usize, len: usize, f32: bool) -> State<'a> {
    let blocks = len / BLOCK;
    // SAFETY: as promised by the caller.
    unsafe {
        if f32 {
            return State::F32(BufferMut::from_raw(start.cast::<f32>().add(number * len), len));
        }
        let codes = start.add(number * (len + 4 * blocks));
        State::Blocks {
            codes: BufferMut::from_raw(codes, len),
            absmax: BufferMut::from_raw(codes.add(len).cast(), blocks),
        }
    }
}

/// A step of AdamW with its states in a file, most of which come and go or all of which stay, against the same step with states in
/// memory. They take turns, so that what else the machine does slows all of them.
fn paged(context: &Context) {
    let (millions, adamw) = (64, Optimizer::new(Rule::AdamW));
    let len = millions << 20;
    let (grad, mut param) = (noise(len), noise(len));
    let copy = 8.0 * len as f64 / time(|| param.copy_from_slice(&grad));
    println!("copy, one thread: {:.1} GB/s", copy / 1e9);
    println!("{:<47} {:>9} {:>9} {:>14}", "millions of f32 parameters", "ms", "GB/s", "to in memory");
    for f32 in [true, false] {
        let (name, bytes, each) =
            if f32 { ("f32", 8 * len, 28.0) } else { ("8-bit", 2 * len + 8 * len / BLOCK, 16.0625) };
        let mut memory = vec![0u8; bytes + ROOM];
        // As files are mapped: vectors that straddle cache lines would cost more.
        let aligned = memory.as_ptr().align_offset(ROOM);
        let memory = &mut memory[aligned..];
        let file = |budget: usize| {
            let options = PagerOptions { kind: PagerKind::File, budget: budget as u64, folder: None };
            let pager = Pager::new(context, &options).unwrap();
            let states = pager.buffer::<u32>(bytes / 4).unwrap();
            (pager, states)
        };
        let files = [file(bytes / 4), file(bytes + ROOM)];
        let mut step = |start: *mut u8, pager: Option<&Pager>| {
            // SAFETY: memory of as many bytes, that nothing else uses meanwhile.
            let states = (0..2).map(|state| unsafe { state_at(start, state, len, f32) }).collect();
            let param = TensorMut::new(&mut param, 1, len).unwrap();
            let mut parameters = [Parameter { param, grad: Tensor::new(&grad, 1, len).unwrap(), states }];
            let begun = Instant::now();
            match pager {
                None => ops::optimizer_step(context, &adamw, &mut parameters, None, &mut [][..]),
                Some(pager) => {
                    ops::optimizer_step_paged(context, pager, &adamw, &mut parameters, None, &mut [][..])
                }
            }
            .unwrap();
            begun.elapsed().as_secs_f64()
        };
        let mut best = [f64::INFINITY; 3];
        for round in 0..ROUNDS {
            let [quarter, all] = files.each_ref().map(|(pager, states)| {
                step(std::ptr::with_exposed_provenance_mut(states.address()), Some(pager))
            });
            let seconds = [step(memory.as_mut_ptr(), None), quarter, all];
            if round > 0 {
                best.iter_mut().zip(seconds).for_each(|(best, seconds)| *best = best.min(seconds));
            }
        }
        for (place, seconds) in
            ["in memory", "in a file, budget a quarter", "in a file, budget all"].iter().zip(best)
        {
            let name = format!("{millions:<3} adamw, {name} {place}");
            let rate = each * len as f64 / seconds / 1e9;
            println!("{name:<47} {:9.2} {rate:9.1} {:14.2}", seconds * 1e3, best[0] / seconds);
        }
    }
}

/// Forward, backward and adapter gradients of activations of both types, against the dense f32 product.
fn products(context: &Context) {
    let (n, k, rank) = (4096, 4096, 16);
    println!(
        "{:<38} {:>9} {:>9} {:>14}",
        format!("N {n}, K {k}, rank {rank}"),
        "ms",
        "GFLOP/s",
        "to dense in f32"
    );
    let (weight, a, b) = (noise(n * k), noise(rank * k), noise(n * rank));
    let q = QuantizedMatrix::quantize(context, Tensor::new(&weight, n, k).unwrap(), &QuantSpec::default())
        .unwrap();
    for m in [1, 4, 16, 64, 256, 1024] {
        let x = noise(m * k);
        let dense = dense(context, [m, n, k], &x, &weight);
        let row = |name: &str, flops: f64, seconds: f64| {
            let name = format!("M {m:<5} {name}");
            let (milliseconds, rate) = (seconds * 1e3, flops / seconds / 1e9);
            println!("{name:<38} {milliseconds:9.3} {rate:9.1} {:14.2}", dense / seconds);
        };
        let flops = 2.0 * (m * n * k) as f64;
        row("dense f32 (gemm crate)", flops, dense);
        let lora =
            Lora { a: Tensor::new(&a, rank, k).unwrap(), b: Tensor::new(&b, n, rank).unwrap(), scale: 1.0 };
        let mut workspace = vec![0; ops::gemm_workspace_size(context, m, n, k, rank).unwrap()];
        let (x16, dy) = (x.iter().map(|&v| bf16::from_f32(v)).collect::<Vec<_>>(), noise(m * n));
        let dy16: Vec<_> = dy.iter().map(|&v| bf16::from_f32(v)).collect();
        let (mut y, mut dx) = (vec![0f32; m * n], vec![0f32; m * k]);
        let (mut da, mut db) = (vec![0f32; rank * k], vec![0f32; n * rank]);
        for (name, x, dy) in [
            ("f32", Tensor::new(&x, m, k).unwrap(), Tensor::new(&dy, m, n).unwrap()),
            ("bf16", Tensor::new(&x16, m, k).unwrap(), Tensor::new(&dy16, m, n).unwrap()),
        ] {
            for (what, lora) in [("forward", None), ("forward + LoRA", Some(lora))] {
                let seconds = time(|| {
                    let y = TensorMut::new(&mut y, m, n).unwrap();
                    ops::gemm_forward(context, x, q.view(), None, lora, y, &mut workspace).unwrap();
                });
                row(&format!("{what}, {name}"), flops, seconds);
            }
            let seconds = time(|| {
                let dx = TensorMut::new(&mut dx, m, k).unwrap();
                ops::gemm_backward(context, dy, q.view(), Some(lora), dx, false, &mut workspace).unwrap();
            });
            row(&format!("backward + LoRA, {name}"), flops, seconds);
            let seconds = time(|| {
                let (da, db) =
                    (TensorMut::new(&mut da, rank, k).unwrap(), TensorMut::new(&mut db, n, rank).unwrap());
                ops::lora_gradients(context, x, dy, lora, da, db, false, &mut workspace).unwrap();
            });
            row(&format!("LoRA gradients, {name}"), 4.0 * (m * rank * (n + k)) as f64, seconds);
        }
    }
}

/// Seconds of `x[m, k] · weight[n, k]ᵀ` in f32 by the `gemm` crate.
fn dense(context: &Context, [m, n, k]: [usize; 3], x: &[f32], weight: &[f32]) -> f64 {
    let parallel = match context.threads() {
        1 => gemm::Parallelism::None,
        count => gemm::Parallelism::Rayon(count),
    };
    let mut y = vec![0f32; m * n];
    // Strides: column, row.
    let (ni, ki, weight, x) = (n as isize, k as isize, weight.as_ptr(), x.as_ptr());
    // SAFETY: the matrices are as long as these shapes and strides say.
    time(|| unsafe {
        let (y, zero, one) = (y.as_mut_ptr(), 0.0, 1.0);
        gemm::gemm(
            m, n, k, y, 1, ni, false, x, 1, ki, weight, ki, 1, zero, one, false, false, false, parallel,
        );
    })
}

fn main() {
    // `cargo bench` says so; `cargo test --benches` says nothing and wants no measurement.
    if !std::env::args().any(|argument| argument == "--bench") {
        return println!("nothing measured: run it by `cargo bench --bench cpu`, or with --bench");
    }
    let only = std::env::args()
        .find(|argument| ["streams", "optimizers", "paged", "products"].contains(&argument.as_str()));
    let wants = |part: &str| only.as_deref().is_none_or(|only| only == part);
    for context in Context::cpu_variants() {
        println!("== {}, {} threads", context.instruction_set(), context.threads());
        if wants("streams") {
            streams(&context);
        }
        if wants("optimizers") {
            optimizers(&context);
        }
        if wants("paged") {
            paged(&context);
        }
        if wants("products") {
            products(&context);
        }
    }
}
