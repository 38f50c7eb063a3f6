//! Memory and streams of cust's: what lies in a `DeviceBuffer` is quantized and dequantized where it is, on the user's
//! stream. The program is linked with libcuda.so.1; .ci/run gives it the simulator under that name.

#![cfg(target_os = "linux")] // as the simulator is

use cust::context::{Context as CustContext, legacy};
use cust::memory::{CopyDestination, DeviceBuffer};
use cust::stream::{Stream, StreamFlags};
use half::{bf16, f16};
use qlora_kernels::interop::cust::StreamContext;
use qlora_kernels::view::{Buffer, BufferMut, ConstantsMut, ConstantsView};
use qlora_kernels::{
    Constants, Context, Element, Error, QuantSpec, Quantized, QuantizedMatrix, QuantizedMut, Status,
};
use qlora_kernels::{Tensor, TensorMut, ops};
use std::sync::{Arc, Mutex, MutexGuard};

const ROWS: usize = 33;
const COLS: usize = 129;
/// Elements between the starts of rows.
const STRIDE: usize = COLS + 3;

/// One test at a time: cust copies on the legacy default stream, which would break another test's capture.
static ALONE: Mutex<()> = Mutex::new(());

/// Device 0's primary context, current on this thread as long as it lives; and a stream of the user's.
fn device() -> ((CustContext, MutexGuard<'static, ()>), Arc<Stream>) {
    let alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let primary = cust::quick_init().unwrap();
    ((primary, alone), Arc::new(Stream::new(StreamFlags::DEFAULT, None).unwrap()))
}

fn on(stream: &Arc<Stream>) -> StreamContext {
    Context::cuda(0).unwrap().on_cust_stream(stream).unwrap()
}

fn zeros<T: cust::memory::DeviceCopy + Default>(len: usize) -> DeviceBuffer<T> {
    DeviceBuffer::from_slice(&vec![T::default(); len]).unwrap()
}

/// The processor's result for `x`: the matrix, and its dequantized values.
fn expected<T: Element + Default>(x: &[T], spec: &QuantSpec) -> (QuantizedMatrix, Vec<T>) {
    let cpu = Context::cpu();
    let x = Tensor::with_row_stride(x, ROWS, COLS, STRIDE).unwrap();
    let matrix = QuantizedMatrix::quantize(&cpu, x, spec).unwrap();
    let mut values = vec![T::default(); ROWS * COLS];
    matrix.dequantize(&cpu, TensorMut::new(&mut values, ROWS, COLS).unwrap()).unwrap();
    (matrix, values)
}

/// Quantizes and dequantizes numbers of type `T`, which cust keeps as its type `C`.
fn round_trip<T, C>(from_f32: fn(f32) -> T)
where
    T: Element + Default + bytemuck::Pod,
    C: cust::memory::DeviceCopy + Default + bytemuck::Pod,
    for<'a> Buffer<'a, T>: From<Buffer<'a, C>>,
    for<'a> BufferMut<'a, T>: From<BufferMut<'a, C>>,
{
    let spec = QuantSpec::default();
    let x: Vec<T> =
        (0..ROWS * STRIDE).map(|i| from_f32((i as f32 * 0.37).sin() * (1.0 + i as f32 / 1e3))).collect();
    let (matrix, values) = expected(&x, &spec);

    let (_primary, stream) = device();
    let context = on(&stream);
    let sizes = spec.sizes(ROWS as u64, COLS as u64).unwrap();
    let size = ops::quantize_workspace_size(&context, &spec, ROWS, COLS).unwrap();
    let input = DeviceBuffer::<C>::from_slice(bytemuck::cast_slice(&x)).unwrap();
    let mut output = zeros::<C>(ROWS * COLS);
    let mut workspace = zeros::<u8>(size);
    let mut codes = zeros::<u8>(sizes.code_bytes as usize);
    let mut absmax_codes = zeros::<u8>(sizes.absmax_codes_len as usize);
    let mut scales = zeros::<f32>(sizes.absmax_scales_len as usize);
    let mut offset = zeros::<f32>(1);
    // SAFETY: all views are used with their context, and its stream is synchronized before anything else.
    unsafe {
        let constants = ConstantsMut::Nested {
            codes: context.write(&mut absmax_codes).unwrap(),
            scales: context.write(&mut scales).unwrap(),
            offset: context.write(&mut offset).unwrap(),
        };
        let out =
            QuantizedMut::new(&spec, ROWS, COLS, context.write(&mut codes).unwrap(), constants).unwrap();
        let x = Tensor::from_buffer::<T>(context.read(&input).unwrap().into(), ROWS, COLS, STRIDE).unwrap();
        ops::quantize(&context, x, out, context.write(&mut workspace).unwrap()).unwrap();

        let constants = ConstantsView::Nested {
            codes: context.read(&absmax_codes).unwrap(),
            scales: context.read(&scales).unwrap(),
            offset: context.read(&offset).unwrap(),
        };
        let quantized = Quantized::new(&spec, ROWS, COLS, context.read(&codes).unwrap(), constants).unwrap();
        let output = context.write(&mut output).unwrap().into();
        ops::dequantize(&context, quantized, TensorMut::from_buffer::<T>(output, ROWS, COLS, COLS).unwrap())
            .unwrap();
    }
    stream.synchronize().unwrap();
    let nested = matrix.nested();
    assert!(
        bytemuck::cast_slice::<_, u8>(&output.as_host_vec().unwrap())
            == bytemuck::cast_slice::<_, u8>(&values)
    );
    assert!(codes.as_host_vec().unwrap() == matrix.codes(), "codes");
    assert!(absmax_codes.as_host_vec().unwrap() == nested.0, "absmax_codes");
    assert!(scales.as_host_vec().unwrap() == nested.1, "absmax_scales");
    assert!(offset.as_host_vec().unwrap() == nested.2, "absmax_offset");
}

#[test]
fn round_trips() {
    round_trip::<f32, f32>(|x| x);
    round_trip::<f16, u16>(f16::from_f32);
    round_trip::<bf16, u16>(bf16::from_f32);
}

/// Captured into a graph, the work shows on which stream it is.
#[test]
fn work_is_on_the_stream() {
    use cust::sys;
    let (_primary, stream) = device();
    let context = on(&stream);
    let spec = QuantSpec::default().with_constants(Constants::F32);
    let (codes, absmax, mut output) = (zeros::<u8>(32), zeros::<f32>(1), zeros::<f32>(64));
    let (mut graph, mut nodes) = (std::ptr::null_mut(), 0);
    let relaxed = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
    // SAFETY: as above; nothing of the graph is run.
    unsafe {
        let constants = ConstantsView::F32(context.read(&absmax).unwrap());
        let quantized = Quantized::new(&spec, 8, 8, context.read(&codes).unwrap(), constants).unwrap();
        let out = TensorMut::from_buffer(context.write(&mut output).unwrap(), 8, 8, 8).unwrap();
        assert_eq!(sys::cuStreamBeginCapture_v2(stream.as_inner(), relaxed) as u32, 0);
        ops::dequantize(&context, quantized, out).unwrap();
        assert_eq!(sys::cuStreamEndCapture(stream.as_inner(), &mut graph) as u32, 0);
        assert_eq!(sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut nodes) as u32, 0);
        assert_eq!(sys::cuGraphDestroy(graph) as u32, 0);
    }
    assert_eq!(nodes, 1, "one kernel");
}

/// A range of a buffer is lent as such: what is beside it stays.
#[test]
fn parts_of_buffers() {
    let (_primary, stream) = device();
    let context = on(&stream);
    let map = qlora_kernels::format::Map256::dynamic_signed();
    let input = DeviceBuffer::from_slice(&[0.5f32; 96]).unwrap();
    let codes = DeviceBuffer::from_slice(&[9u8; 40]).unwrap();
    let mut absmax = zeros::<f32>(1);
    let (third, mut middle) = (input.index(32..64), codes.index(4..36));
    // SAFETY: as above.
    unsafe {
        let x = Tensor::from_buffer(context.read(&third).unwrap(), 1, 32, 32).unwrap();
        let (codes, absmax) = (context.write(&mut middle).unwrap(), context.write(&mut absmax).unwrap());
        ops::quantize_8bit(&context, x, &map, 32, codes, absmax).unwrap();
    }
    stream.synchronize().unwrap();
    let mut host = [0u8; 40];
    codes.copy_to(&mut host).unwrap();
    assert!(host[..4] == [9; 4] && host[36..] == [9; 4]);
    assert!(host[4..36] == [255; 32], "{host:?}"); // every element is the largest of its block
    assert_eq!(absmax.as_host_vec().unwrap(), [0.5]);
}

fn refused<T>(result: Result<T, Error>, message: &str) {
    let error = result.err().expect("an error");
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.message().contains(message), "{error}");
}

#[test]
fn wrong_lengths() {
    let (_primary, stream) = device();
    let context = on(&stream);
    let spec = QuantSpec::default().with_constants(Constants::F32);
    let (mut short, mut codes) = (zeros::<f32>(99), zeros::<u8>(49));
    // SAFETY: nothing is done with the views.
    unsafe {
        let x = context.read(&short).unwrap();
        refused(Tensor::from_buffer(x, 10, 10, 10), "99 elements; rows 10 x cols 10");
        refused(Tensor::from_buffer(x, 9, 10, 12), "with row_stride 12 need 106");
        refused(TensorMut::from_buffer(context.write(&mut short).unwrap(), 10, 10, 10), "99 elements");
        let constants = ConstantsMut::F32(context.write(&mut short).unwrap());
        let codes = context.write(&mut codes).unwrap();
        refused(
            QuantizedMut::new(&spec, 10, 10, codes, constants),
            "codes has 49 elements; this matrix needs 50",
        );
    }
}

#[test]
fn wrong_contexts() {
    let (_primary, stream) = device();
    refused(Context::cpu().on_cust_stream(&stream), "the context is the processor's");
    let flags = legacy::ContextFlags::SCHED_AUTO;
    let other =
        legacy::Context::create_and_push(flags, cust::device::Device::get_device(0).unwrap()).unwrap();
    let elsewhere = Arc::new(Stream::new(StreamFlags::DEFAULT, None).unwrap());
    refused(
        Context::cuda(0).unwrap().on_cust_stream(&elsewhere),
        "the stream belongs to another CUDA context than the primary one of device 0",
    );
    drop((elsewhere, other));
}
