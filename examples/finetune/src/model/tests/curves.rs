//! A tiny model, trained on the processor and on a device: the simulator, or with `QLK_REAL_CUDA=1` the machine's own.

use ptx_sim::Installed;

use super::*;

const STEPS: usize = 5;
const SEQ: usize = 16;
const TOKENS: usize = 2 * SEQ;

fn long_batch() -> Batch {
    let tokens: Vec<u32> = (0..=TOKENS).map(|at| ((at * at + 3 * at) % VOCABULARY) as u32).collect();
    Batch { inputs: tokens[..TOKENS].to_vec(), targets: tokens[1..].to_vec(), seq: SEQ }
}

/// The loss of each step.
fn train(engine: &Engine, model: &Llama) -> Vec<f32> {
    let mut optimizer = Optimizer::new(model, Choice::AdamW, 1e-2, None).unwrap();
    let step = |_| {
        let loss = model.loss(&long_batch()).unwrap();
        optimizer.step(engine, model, &loss.backward().unwrap()).unwrap();
        loss.to_scalar().unwrap()
    };
    (0..STEPS).map(step).collect()
}

/// Moves each value that leaves a layer's norms by the part `by`, up or down.
fn move_activations(model: &mut Llama, by: f32, seed: u64) {
    let norms = model.layers.iter_mut().flat_map(|layer| [&mut layer.attention_norm, &mut layer.ffn_norm]);
    for (norm, at) in norms.zip(1..) {
        let signs = random(WIDTH, 100 * seed + at).to_vec1::<f32>().unwrap();
        norm.weight = norm.weight.iter().zip(signs).map(|(w, sign)| w * (1.0 + by.copysign(sign))).collect();
    }
}

/// Where two curves are furthest apart.
fn distance(one: &[f32], other: &[f32]) -> f32 {
    one.iter().zip(other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max)
}

/// Both places sum the same f32 products of the same weights, each in its own order. A sum of n products of x and w is, in
/// any order, the exact sum for values of x that are moved by at most the part γ = n·u each, u = 2⁻²⁴ (Higham, Accuracy
/// and Stability of Numerical Algorithms, section 3.1). So the two curves may be as far apart as two of one place whose
/// activations differ by 2γ. That difference is made here, all at the limit and the same for every token, where
/// roundings are smaller and mostly cancel.
#[test]
fn a_device_has_the_processors_loss_curve() {
    let installed = ptx_sim::install();
    let folder = Folder::new("curves");
    write_safetensors(&folder.0, |_| ());
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let host = Engine::new(Place::Cpu, 2).unwrap();
    let device = Engine::new(Place::Auto, 2).unwrap();
    assert!(device.name.starts_with("CUDA device 0"), "{}", device.name);
    let gamma = (FFN + LORA.rank) as f32 * f32::EPSILON / 2.0;

    for spec in [nf4(), QuantSpec::new(Codebook::Nf4, 32)] {
        let load = |engine, lora| Llama::load(engine, &checkpoint, Some(&spec), lora).unwrap();
        let expected = train(&host, &load(&host, Some(LORA)));
        let apart = [1, 2, 3].map(|seed| {
            let mut moved = load(&host, Some(LORA));
            move_activations(&mut moved, 2.0 * gamma, seed);
            distance(&train(&host, &moved), &expected)
        });
        let bound = apart.into_iter().fold(0.0, f32::max);
        let learnt = expected[0] - expected[STEPS - 1];
        assert!(learnt > 1000.0 * bound, "a thousandth of what is learnt must show: {expected:?}, {bound:e}");

        reset_counters(installed);
        let model = load(&device, Some(LORA));
        let cost = &model.footprint;
        check_counters(installed, [0, cost.code_bytes + cost.constant_bytes, 0]);
        let curve = train(&device, &model);
        check_counters(installed, traffic(&model).map(|of_a_step| STEPS * of_a_step));
        let off = distance(&curve, &expected);
        assert!(off <= bound, "{curve:?} on the device, {expected:?} on the processor: {off:e} of {bound:e}");

        // Fresh adapters add zeros, so without any the loss has the same bits.
        let plain = load(&device, None).total_loss(&long_batch()).unwrap();
        assert_eq!((plain / TOKENS as f64) as f32, curve[0]);
    }
}

/// What a step does: the least launches, one for each of a layer's three operations; bytes to the device; bytes back.
///
/// X, A and B go up on the way there and dY on the way back; Y comes down, then dX, dA and dB. The weights stay where
/// they are.
fn traffic(model: &Llama) -> [usize; 3] {
    let of_a_layer = |layer: &Linear| {
        let Base::Quantized(weight) = &layer.base else { panic!("not quantized") };
        let bytes = size_of::<f32>() * (TOKENS + LORA.rank) * (weight.rows + weight.columns);
        [3, bytes, bytes]
    };
    model.linears().map(of_a_layer).fold([0; 3], |sum, layer| std::array::from_fn(|i| sum[i] + layer[i]))
}

fn reset_counters(installed: Installed) {
    if installed == Installed::Simulator {
        ptx_sim::reset_counters();
    }
}

/// Holds what the simulator has counted since the last call to this.
fn check_counters(installed: Installed, expected: [usize; 3]) {
    if installed == Installed::Simulator {
        let counted = ptx_sim::counters();
        let moved = [counted.bytes_to_device, counted.bytes_to_host].map(|bytes| bytes as usize);
        assert!(counted.launches.len() >= expected[0], "{} launches of {expected:?}", counted.launches.len());
        assert_eq!(moved, expected[1..], "bytes to the device, bytes back");
        ptx_sim::reset_counters();
    }
}
