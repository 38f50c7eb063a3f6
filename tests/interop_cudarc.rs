//! Memory and streams of cudarc's: what lies in a `CudaSlice` is quantized and dequantized where it is, on the user's
//! stream, in order with cudarc's own work on other streams.

#![cfg(target_os = "linux")] // as the simulator is

use cudarc::driver::{CudaContext, CudaStream, DeviceRepr, ValidAsZeroBits};
use half::{bf16, f16};
use ptx_sim::{Config, Installed, StreamOrder};
use qlora_kernels::interop::cudarc::StreamContext;
use qlora_kernels::view::{ConstantsMut, ConstantsView};
use qlora_kernels::{
    Context, Element, QuantSpec, Quantized, QuantizedMatrix, QuantizedMut, Status, Tensor, TensorMut,
};
use qlora_kernels::{Error, ops};
use std::sync::{Arc, OnceLock};

const ROWS: usize = 33;
const COLS: usize = 129;
/// Elements between the starts of rows.
const STRIDE: usize = COLS + 3;

/// Two simulated devices, or the machine's own with `QLK_REAL_CUDA=1`. Devices are configured before the first context.
fn install() -> Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        let installed = ptx_sim::install();
        if installed == Installed::Simulator {
            ptx_sim::configure(&Config { device_count: 2, ..Config::default() });
        }
        installed
    })
}

fn new_stream() -> Arc<CudaStream> {
    install();
    CudaContext::new(0).unwrap().new_stream().unwrap()
}

fn on(stream: &Arc<CudaStream>) -> StreamContext {
    Context::cuda(0).unwrap().on_cudarc_stream(stream).unwrap()
}

fn numbers<T: Element>(from_f32: fn(f32) -> T) -> Vec<T> {
    (0..ROWS * STRIDE).map(|i| from_f32((i as f32 * 0.37).sin() * (1.0 + i as f32 / 1000.0))).collect()
}

/// Quantizes and dequantizes on a stream what cudarc writes on a second and reads on a third, with nobody waiting for
/// anything; the results are the processor's.
fn round_trip<T>(from_f32: fn(f32) -> T)
where
    T: Element + DeviceRepr + ValidAsZeroBits + Default + PartialEq,
{
    let spec = QuantSpec::default();
    let x = numbers(from_f32);
    let cpu = Context::cpu();
    let expected =
        QuantizedMatrix::quantize(&cpu, Tensor::with_row_stride(&x, ROWS, COLS, STRIDE).unwrap(), &spec)
            .unwrap();
    let mut values = vec![T::default(); ROWS * COLS];
    expected.dequantize(&cpu, TensorMut::new(&mut values, ROWS, COLS).unwrap()).unwrap();

    let stream = new_stream();
    let [first, last] = [(); 2].map(|()| stream.context().new_stream().unwrap());
    let context = on(&stream);
    let sizes = spec.sizes(ROWS as u64, COLS as u64).unwrap();
    let size = ops::quantize_workspace_size(&context, &spec, ROWS, COLS).unwrap();
    let input = first.clone_htod(&x).unwrap();
    let mut workspace = first.alloc_zeros::<u8>(size).unwrap();
    let mut codes = first.alloc_zeros::<u8>(sizes.code_bytes as usize).unwrap();
    let mut absmax_codes = first.alloc_zeros::<u8>(sizes.absmax_codes_len as usize).unwrap();
    let mut scales = first.alloc_zeros::<f32>(sizes.absmax_scales_len as usize).unwrap();
    // The offset is a part of a larger allocation.
    let mut more = first.alloc_zeros::<f32>(5).unwrap();
    let mut offset = more.slice_mut(2..3);
    // SAFETY: all views are used with their context.
    unsafe {
        let x = context.read(&input).unwrap();
        let (mut codes, mut absmax_codes) =
            (context.write(&mut codes).unwrap(), context.write(&mut absmax_codes).unwrap());
        let (mut scales, mut offset) =
            (context.write(&mut scales).unwrap(), context.write(&mut offset).unwrap());
        let constants = ConstantsMut::Nested {
            codes: absmax_codes.buffer(),
            scales: scales.buffer(),
            offset: offset.buffer(),
        };
        let out = QuantizedMut::new(&spec, ROWS, COLS, codes.buffer(), constants).unwrap();
        let x = Tensor::from_buffer(x.buffer(), ROWS, COLS, STRIDE).unwrap();
        ops::quantize(&context, x, out, context.write(&mut workspace).unwrap().buffer()).unwrap();
    }
    drop((input, workspace)); // freed on their own stream, after the quantization

    let mut output = first.alloc_zeros::<T>(ROWS * COLS).unwrap();
    // SAFETY: as above.
    unsafe {
        let offset = more.slice(2..3);
        let (codes, absmax_codes) = (context.read(&codes).unwrap(), context.read(&absmax_codes).unwrap());
        let (scales, offset) = (context.read(&scales).unwrap(), context.read(&offset).unwrap());
        let constants = ConstantsView::Nested {
            codes: absmax_codes.buffer(),
            scales: scales.buffer(),
            offset: offset.buffer(),
        };
        let matrix = Quantized::new(&spec, ROWS, COLS, codes.buffer(), constants).unwrap();
        let mut output = context.write(&mut output).unwrap();
        let out = TensorMut::from_buffer(output.buffer(), ROWS, COLS, COLS).unwrap();
        ops::dequantize(&context, matrix, out).unwrap();
    }
    let nested = expected.nested();
    assert!(last.clone_dtoh(&output).unwrap() == values, "values");
    assert!(last.clone_dtoh(&codes).unwrap() == expected.codes(), "codes");
    assert!(last.clone_dtoh(&absmax_codes).unwrap() == nested.0, "absmax_codes");
    assert!(last.clone_dtoh(&scales).unwrap() == nested.1, "absmax_scales");
    assert!(last.clone_dtoh(&more).unwrap()[2..3] == *nested.2, "absmax_offset");
    stream.context().synchronize().unwrap();
}

/// In every order of the streams' work that their dependencies allow: work that should wait comes too early in one, work
/// that should be waited for comes too late in another.
#[test]
fn round_trips() {
    let orders: &[StreamOrder] = match install() {
        Installed::Simulator => &[StreamOrder::Lazy, StreamOrder::OthersFirst, StreamOrder::Random(1)],
        Installed::RealDriver => &[StreamOrder::Lazy], // it has its own
    };
    for &stream_order in orders {
        if install() == Installed::Simulator {
            ptx_sim::configure(&Config { stream_order, ..ptx_sim::config() });
        }
        round_trip::<f32>(|x| x);
        round_trip::<f16>(f16::from_f32);
        round_trip::<bf16>(bf16::from_f32);
    }
}

/// The context keeps the stream, and so does its clone as a plain context.
#[test]
fn the_stream_outlives_its_handle() {
    let stream = new_stream();
    let weak = Arc::downgrade(&stream);
    let context = on(&stream);
    let plain: Context = (*context).clone();
    drop((stream, context));
    assert!(weak.upgrade().is_some());
    drop(plain);
    assert!(weak.upgrade().is_none());
}

fn refused<T>(result: Result<T, Error>, message: &str) {
    let error = result.err().expect("an error");
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.message().contains(message), "{error}");
}

#[test]
fn wrong_lengths() {
    let stream = new_stream();
    let context = on(&stream);
    let spec = QuantSpec::default().with_constants(qlora_kernels::Constants::F32);
    let mut short = stream.alloc_zeros::<f32>(99).unwrap();
    let mut codes = stream.alloc_zeros::<u8>(49).unwrap();
    // SAFETY: nothing is done with the views.
    unsafe {
        let x = context.read(&short).unwrap();
        refused(Tensor::from_buffer(x.buffer(), 10, 10, 10), "99 elements; rows 10 x cols 10");
        refused(Tensor::from_buffer(x.buffer(), 9, 10, 12), "with row_stride 12 need 106");
        refused(Tensor::from_buffer(x.buffer(), 9, 10, 9), "row_stride is 9");
        drop(x);
        let (mut absmax, mut codes) =
            (context.write(&mut short).unwrap(), context.write(&mut codes).unwrap());
        refused(TensorMut::from_buffer(absmax.buffer(), 10, 10, 10), "99 elements");
        let constants = ConstantsMut::F32(absmax.buffer());
        refused(
            QuantizedMut::new(&spec, 10, 10, codes.buffer(), constants),
            "codes has 49 elements; this matrix needs 50",
        );
    }
}

#[test]
fn wrong_contexts() {
    let stream = new_stream();
    refused(Context::cpu().on_cudarc_stream(&stream), "the context is the processor's");
    let first = Context::cuda(0).unwrap();
    let other = CudaContext::new_non_primary(0, 0).unwrap();
    refused(first.on_cudarc_stream(&other.default_stream()), "the stream belongs to another CUDA context");
    if CudaContext::device_count().unwrap() < 2 {
        return; // a real machine
    }
    let second = CudaContext::new(1).unwrap().new_stream().unwrap();
    refused(first.on_cudarc_stream(&second), "than the primary one of device 0");
    let elsewhere = second.clone_htod(&[1u8; 8]).unwrap();
    let context = on(&stream);
    // SAFETY: there is no view.
    refused(unsafe { context.read(&elsewhere) }, "the memory belongs to another CUDA context");
    assert!(Context::cuda(1).unwrap().on_cudarc_stream(&second).is_ok());
}
