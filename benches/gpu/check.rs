//! Results against the reference, bit for bit.

use super::Result;
use super::call::Call;
use super::cases::{Case, Part, Shape};
use super::device::Gpu;
use super::reference::Problem;
use qlora_kernels::DType;

/// Runs a case once and compares everything that it wrote, gaps between rows and what lies behind the memory included.
/// Returns the bytes compared.
pub fn check(gpu: &Gpu, case: &Case, shape: Shape, problem: &Problem) -> Result<usize> {
    let call = Call::new(gpu, case, shape, &problem.inputs)?;
    call.enqueue()?;
    let mut compared = 0;
    for ((part, memory), expected) in case.outputs(shape).iter().zip(&call.outputs).zip(&problem.expected) {
        compare(part, &gpu.download(memory)?, expected)?;
        compared += part.bytes;
    }
    Ok(compared)
}

/// Compares one part. All NaNs count as equal: no format says which one is stored.
pub fn compare(part: &Part, found: &[u8], expected: &[u8]) -> std::result::Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{} has {} bytes, not {}", part.name, found.len(), expected.len()));
    }
    if found == expected {
        return Ok(());
    }
    let size = part.dtype.map_or(1, DType::size);
    let differs = |(a, b): (&[u8], &[u8])| a != b && !(is_nan(part.dtype, a) && is_nan(part.dtype, b));
    let pairs = || found.chunks(size).zip(expected.chunks(size));
    let Some(first) = pairs().position(differs) else { return Ok(()) };
    let count = pairs().filter(|&pair| differs(pair)).count();
    let hex = |bytes: &[u8]| {
        bytes[first * size..][..size].iter().rev().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let (name, found, expected) = (part.name, hex(found), hex(expected));
    Err(format!("{name}[{first}] is {found}, not {expected} (hex); {count} of {} differ", pairs().len()))
}

/// Whether a little-endian number is a NaN.
fn is_nan(dtype: Option<DType>, bytes: &[u8]) -> bool {
    match (dtype, bytes) {
        (Some(DType::F32), &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]).is_nan(),
        (Some(DType::F16), &[a, b]) => half::f16::from_le_bytes([a, b]).is_nan(),
        (Some(DType::Bf16), &[a, b]) => half::bf16::from_le_bytes([a, b]).is_nan(),
        _ => false,
    }
}
