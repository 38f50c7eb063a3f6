//! Element numbers beyond 2³¹ and 2³²: the last blocks of a grid over 2³³ elements, at addresses where a few thousand
//! elements lie. The other blocks are not run, so it takes the simulator.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::*;
use cudarc::driver::sys;
use ptx_sim::{Config, Installed};
use qlora_kernels::format::Codebook;
use qlora_kernels::kernels::constants::ConstantsSpec;
use qlora_kernels::kernels::dequantize::DequantizeSpec;
use qlora_kernels::kernels::quantize::QuantizeSpec;
use qlora_kernels::kernels::tensor::Layout;
use qlora_kernels::kernels::tile::{THREADS, Tile};
use qlora_kernels::kernels::{KernelSpec, Spec, table::bits};
use qlora_kernels::{DType, QuantSpec};

const ELEMENTS: u64 = (1 << 33) + 5000;
const COLS: u64 = 4096;

/// Launches a kernel over all elements; only blocks from `first` on are run.
fn launch(gpu: &Gpu, spec: KernelSpec, first: u64, args: &[u64]) {
    let written = spec.write(ptx_asm::Target::Sm80).unwrap();
    let (text, name) =
        [written.ptx.as_str(), written.name].map(|s| std::ffi::CString::new(s).unwrap()).into();
    let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
    let blocks = ELEMENTS.div_ceil(Tile::of(DType::Bf16).elements().into()) as u32;
    ptx_sim::configure(&Config { first_block: first as u32, ..ptx_sim::config() });
    let mut values = args.to_vec();
    let mut pointers: Vec<_> = values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
    unsafe {
        sys::cuModuleLoadData(&mut module, text.as_ptr().cast()).result().unwrap();
        sys::cuModuleGetFunction(&mut function, module, name.as_ptr()).result().unwrap();
        let (stream, params) = (gpu.stream.cu_stream(), pointers.as_mut_ptr());
        sys::cuLaunchKernel(function, blocks, 1, 1, THREADS, 1, 1, 0, stream, params, std::ptr::null_mut())
            .result()
            .unwrap();
    }
    gpu.stream.synchronize().unwrap();
    ptx_sim::configure(&Config { first_block: 0, ..ptx_sim::config() });
}

#[test]
fn far_elements_are_found() {
    let Installed::Simulator = ptx_sim::install() else { return };
    let gpu = Gpu::new();
    let tile = u64::from(Tile::of(DType::Bf16).elements());
    let first = ELEMENTS / tile - 1;
    let start = first * tile;
    let here = (ELEMENTS - start) as usize;
    let (table, spec) = (Codebook::Nf4.table().unwrap(), QuantSpec::new(Codebook::Nf4, 64));
    for layout in [Layout::Vectors, Layout::Elements, Layout::Strided] {
        // Rows as they would lie from row start / COLS on; the last one is not full.
        let stride = if layout == Layout::Strided { COLS + 3 } else { COLS };
        let rows = (here as u64).div_ceil(COLS) as usize;
        let mut values = numbers(here, 11, &[]);
        let expected =
            reference(&values.iter().map(|&v| round_to(DType::Bf16, v)).collect::<Vec<_>>(), &spec);
        values.resize(rows * COLS as usize, 0.0);
        let x = Matrix::new(DType::Bf16, &values, rows, COLS as usize, (stride - COLS) as usize);
        let input = gpu.matrix(&x, 0);
        let (codes, absmax) = (gpu.allocate(here.div_ceil(2), 0), gpu.allocate(4 * here.div_ceil(64), 0));
        // Where element 0 would be.
        let base = |memory: &Memory, before: u64| (memory.ptr(&gpu) as u64).wrapping_sub(before);
        let tensor = |memory: &Memory| {
            let mut args = vec![base(memory, start / COLS * stride * 2)];
            args.extend((layout == Layout::Strided).then_some([COLS, stride]).into_iter().flatten());
            args
        };
        let rest = [base(&codes, start / 2), base(&absmax, start / 64 * 4), ELEMENTS];
        let quantize = QuantizeSpec { dtype: DType::Bf16, layout, table: (&table).into(), block_size: 64 };
        launch(&gpu, quantize.into(), first, &[tensor(&input), rest.to_vec()].concat());
        assert_eq!(gpu.download::<u8>(&codes), expected.codes, "{layout:?}");
        same_bits(&gpu.download::<f32>(&absmax), &expected.absmax).unwrap();

        let mut out = Matrix::zeros(DType::Bf16, rows, COLS as usize, (stride - COLS) as usize);
        let output = gpu.matrix(&out, 0);
        let values = bits(table.values);
        let constants = ConstantsSpec::Plain;
        let dequantize = DequantizeSpec { dtype: DType::Bf16, layout, values, block_size: 64, constants };
        launch(&gpu, dequantize.into(), first, &[tensor(&output), rest.to_vec()].concat());
        out.bytes_mut().copy_from_slice(&gpu.download::<u8>(&output));
        let rounded: Vec<f32> = expected.values.iter().map(|&v| round_to(DType::Bf16, v)).collect();
        same_bits(&out.values()[..here], &rounded).unwrap();
    }
}
