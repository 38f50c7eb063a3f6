//! From C's pointers to views: null, alignment, struct_size, enum values and sizes are checked here.

use super::types::*;
use crate::error::{Error, Result, Status, ensure};
use crate::format::{Codebook, Constants, QuantSpec};
use crate::ops::{Context, Lora};
use crate::view::{self, Buffer, BufferMut, ConstantsMut, ConstantsView, DType, Quantized, QuantizedMut};
use crate::view::{Tensor, TensorMut};
use std::ffi::c_void;

/// A struct of the ABI: it starts with its size.
pub trait Struct: Copy {}
impl Struct for qlk_tensor {}
impl Struct for qlk_quant_spec {}
impl Struct for qlk_quantized {}
impl Struct for qlk_sizes {}
impl Struct for qlk_lora {}
impl Struct for qlk_optimizer {}
impl Struct for qlk_parameter {}
impl Struct for qlk_pager_options {}
impl Struct for qlk_pager_statistics {}
impl Struct for qlk_device_info {}

/// Refuses null and misaligned pointers.
pub fn check_pointer<T>(ptr: *const T, name: &str) -> Result<()> {
    ensure!(
        !ptr.is_null(),
        "{name} is null; it must point to {}",
        std::any::type_name::<T>().rsplit("::").next().unwrap()
    );
    ensure!(ptr.is_aligned(), "{name} is {ptr:p}; it must be aligned to {} bytes", align_of::<T>());
    Ok(())
}

/// Checks a pointer to a struct, and the size that the struct says it has.
///
/// # Safety
/// `ptr` is null, or points to a struct whose first field is its `struct_size`.
unsafe fn check_struct<T: Struct>(ptr: *const T, name: &str) -> Result<()> {
    check_pointer(ptr, name)?;
    // SAFETY: every struct of the ABI starts with a u32.
    let (given, known) = (unsafe { *ptr.cast::<u32>() } as usize, size_of::<T>());
    ensure!(given >= known, "{name}.struct_size is {given}; it must be {known}");
    if given > known {
        let message =
            format!("{name}.struct_size is {given}; this library knows {known}: it is older than the header");
        return Err(Error::new(Status::Unsupported, message));
    }
    Ok(())
}

/// A reserved field may get a meaning later: until then it must be 0.
pub fn check_reserved(value: u32, name: &str) -> Result<()> {
    ensure!(value == 0, "{name}.reserved is {value}; it must be 0");
    Ok(())
}

/// Reads a struct.
///
/// # Safety
/// As for [`check_struct`].
pub unsafe fn read<T: Struct>(ptr: *const T, name: &str) -> Result<T> {
    unsafe {
        check_struct(ptr, name)?;
        Ok(*ptr)
    }
}

/// A struct to be written.
///
/// # Safety
/// As for [`check_struct`]; nothing else uses it meanwhile.
pub unsafe fn out_struct<'a, T: Struct>(ptr: *mut T, name: &str) -> Result<&'a mut T> {
    unsafe {
        check_struct(ptr, name)?;
        Ok(&mut *ptr)
    }
}

/// A value to be written.
///
/// # Safety
/// `ptr` is null or valid for writes of a T; nothing else uses it meanwhile.
pub unsafe fn out<'a, T>(ptr: *mut T, name: &str) -> Result<&'a mut T> {
    check_pointer(ptr, name)?;
    Ok(unsafe { &mut *ptr })
}

/// # Safety
/// `context` is null or from qlk_context_create, and not destroyed.
pub unsafe fn context<'a>(context: *const qlk_context) -> Result<&'a Context> {
    check_pointer(context, "context")?;
    Ok(&unsafe { &*context }.inner)
}

/// The context of a call on a stream. CPU contexts have no streams: a call is done when it returns.
///
/// # Safety
/// As for [`context`]; a CUDA context's stream belongs to its device, and lives as long as the call's work.
pub unsafe fn context_on_stream(ptr: *const qlk_context, stream: *mut c_void) -> Result<Context> {
    Ok(unsafe { context(ptr)?.on_stream(stream) })
}

pub fn size(value: u64, name: &str) -> Result<usize> {
    let fits = usize::try_from(value).ok();
    fits.ok_or_else(|| Error::too_large(format!("{name} is {value}; it does not fit the address space")))
}

fn dtype(value: qlk_dtype) -> Result<DType> {
    Ok(match value {
        QLK_DTYPE_F32 => DType::F32,
        QLK_DTYPE_F16 => DType::F16,
        QLK_DTYPE_BF16 => DType::Bf16,
        _ => return Err(Error::invalid(format!("dtype is {value}; it must be a QLK_DTYPE_* value, 0 to 2"))),
    })
}

/// The fields of a tensor, checked but for its memory.
struct Parts {
    dtype: DType,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

fn parts(t: &qlk_tensor) -> Result<Parts> {
    let row_stride = if t.row_stride == 0 { t.cols } else { t.row_stride };
    Ok(Parts {
        dtype: dtype(t.dtype)?,
        rows: size(t.rows, "rows")?,
        cols: size(t.cols, "cols")?,
        row_stride: size(row_stride, "row_stride")?,
    })
}

/// # Safety
/// `ptr` is null or a tensor whose elements may be read for `'a`.
pub unsafe fn tensor<'a>(ptr: *const qlk_tensor, name: &str) -> Result<Tensor<'a>> {
    let t = unsafe { read(ptr, name)? };
    let view = parts(&t)
        .and_then(|p| unsafe { Tensor::from_raw(t.data.cast(), p.dtype, p.rows, p.cols, p.row_stride) });
    view.map_err(|error| error.of(name))
}

/// # Safety
/// `ptr` is null or a tensor whose elements may be read for `'a`.
pub unsafe fn optional_tensor<'a>(ptr: *const qlk_tensor, name: &str) -> Result<Option<Tensor<'a>>> {
    if ptr.is_null() { Ok(None) } else { unsafe { tensor(ptr, name) }.map(Some) }
}

/// # Safety
/// `ptr` is null or a tensor whose elements may be written for `'a`, and nothing else uses them.
pub unsafe fn tensor_mut<'a>(ptr: *const qlk_tensor, name: &str) -> Result<TensorMut<'a>> {
    let t = unsafe { read(ptr, name)? };
    let view = parts(&t)
        .and_then(|p| unsafe { TensorMut::from_raw(t.data.cast(), p.dtype, p.rows, p.cols, p.row_stride) });
    view.map_err(|error| error.of(name))
}

/// # Safety
/// `ptr` is null or an adapter whose tensors may be read for `'a`.
pub unsafe fn lora<'a>(ptr: *const qlk_lora) -> Result<Lora<'a>> {
    unsafe {
        let lora = read(ptr, "lora")?;
        Ok(Lora { a: tensor(lora.a, "lora.a")?, b: tensor(lora.b, "lora.b")?, scale: lora.scale })
    }
}

/// # Safety
/// `ptr` is null or a spec whose tables may be read.
pub unsafe fn spec(ptr: *const qlk_quant_spec, name: &str) -> Result<QuantSpec> {
    let spec = unsafe { read(ptr, name)? };
    let codebook = match spec.codebook {
        QLK_CODEBOOK_NF4 => Codebook::Nf4,
        QLK_CODEBOOK_FP4_E2M1 => Codebook::Fp4E2m1,
        QLK_CODEBOOK_FP4_E3M0 => Codebook::Fp4E3m0,
        QLK_CODEBOOK_FP4_BNB => Codebook::Fp4Bnb,
        QLK_CODEBOOK_INT4 => Codebook::Int4,
        QLK_CODEBOOK_USER => {
            check_pointer(spec.codebook_values, &format!("{name}.codebook_values"))?;
            // SAFETY: the caller gives 16 values.
            Codebook::User(unsafe { *spec.codebook_values.cast() })
        }
        other => {
            let message = format!("{name}.codebook is {other}; it must be a QLK_CODEBOOK_* value, 0 to 5");
            return Err(Error::invalid(message));
        }
    };
    let constants = match spec.constants {
        QLK_CONSTANTS_F32 => Constants::F32,
        QLK_CONSTANTS_FP8 => Constants::Fp8,
        QLK_CONSTANTS_MAP if spec.constants_map.is_null() => Constants::Dynamic,
        QLK_CONSTANTS_MAP => {
            check_pointer(spec.constants_map, &format!("{name}.constants_map"))?;
            // SAFETY: the caller gives 256 values.
            Constants::Map(Box::new(unsafe { *spec.constants_map.cast() }))
        }
        other => {
            let message = format!("{name}.constants is {other}; it must be a QLK_CONSTANTS_* value, 0 to 2");
            return Err(Error::invalid(message));
        }
    };
    Ok(QuantSpec { codebook, block_size: spec.block_size, constants })
}

/// # Safety
/// `ptr` is valid for reads of `len` values for `'a` where it is not null.
pub unsafe fn buffer<'a, T>(ptr: *const T, len: u64, name: &str) -> Result<Buffer<'a, T>> {
    if len != 0 {
        check_pointer(ptr, name)?;
    }
    Ok(unsafe { Buffer::from_raw(ptr, size(len, name)?) })
}

/// # Safety
/// `ptr` is valid for reads and writes of `len` values for `'a` where it is not null, and nothing else uses them.
pub unsafe fn buffer_mut<'a, T>(ptr: *mut T, len: u64, name: &str) -> Result<BufferMut<'a, T>> {
    if len != 0 {
        check_pointer(ptr, name)?;
    }
    Ok(unsafe { BufferMut::from_raw(ptr, size(len, name)?) })
}

/// # Safety
/// `ptr` is valid for reads and writes of `len` bytes for `'a` where it is not null, and nothing else uses them.
pub unsafe fn workspace<'a>(ptr: *mut c_void, len: u64) -> Result<BufferMut<'a, u8>> {
    if len == 0 {
        return Ok((&mut [][..]).into());
    }
    ensure!(!ptr.is_null(), "workspace is null; workspace_size is {len}");
    let len = size(len, "workspace_size")?;
    ensure!(isize::try_from(len).is_ok(), "workspace_size is {len}; it does not fit the address space");
    Ok(unsafe { BufferMut::from_raw(ptr.cast(), len) })
}

/// A `qlk_quantized` whose spec has been read, so that views can borrow it.
pub struct QuantizedArg {
    raw: qlk_quantized,
    pub spec: QuantSpec,
    name: &'static str,
}

impl QuantizedArg {
    /// # Safety
    /// `ptr` is null or a quantized matrix.
    pub unsafe fn read(ptr: *const qlk_quantized, name: &'static str) -> Result<Self> {
        unsafe {
            let raw = read(ptr, name)?;
            check_reserved(raw.reserved, name)?;
            Ok(Self { raw, spec: spec(raw.spec, &format!("{name}.spec"))?, name })
        }
    }

    fn field(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn shape(&self) -> Result<(usize, usize, crate::format::Sizes)> {
        let (rows, cols) =
            (size(self.raw.rows, &self.field("rows"))?, size(self.raw.cols, &self.field("cols"))?);
        Ok((rows, cols, view::sizes(&self.spec, rows, cols).map_err(|error| error.of(self.name))?))
    }

    /// # Safety
    /// The memory of the matrix may be read for `'a`.
    pub unsafe fn view(&self) -> Result<Quantized<'_>> {
        let (rows, cols, sizes) = self.shape()?;
        unsafe {
            let codes = buffer(self.raw.codes, sizes.code_bytes, &self.field("codes"))?;
            Quantized::new(&self.spec, rows, cols, codes, self.constants(&sizes)?)
        }
    }

    /// # Safety
    /// The memory of the constants may be read for `'a`.
    pub unsafe fn constants(&self, sizes: &crate::format::Sizes) -> Result<ConstantsView<'_>> {
        let raw = &self.raw;
        unsafe {
            Ok(match self.spec.is_double_quantized() {
                false => ConstantsView::F32(buffer(raw.absmax, sizes.absmax_len, &self.field("absmax"))?),
                true => ConstantsView::Nested {
                    codes: buffer(raw.absmax_codes, sizes.absmax_codes_len, &self.field("absmax_codes"))?,
                    scales: buffer(raw.absmax_scales, sizes.absmax_scales_len, &self.field("absmax_scales"))?,
                    offset: buffer(raw.absmax_offset, 1, &self.field("absmax_offset"))?,
                },
            })
        }
    }

    /// # Safety
    /// The memory of the matrix may be written for `'a`, and nothing else uses it.
    pub unsafe fn view_mut(&self) -> Result<QuantizedMut<'_>> {
        let (rows, cols, sizes) = self.shape()?;
        unsafe {
            let codes = buffer_mut(self.raw.codes, sizes.code_bytes, &self.field("codes"))?;
            QuantizedMut::new(&self.spec, rows, cols, codes, self.constants_mut(&sizes)?)
        }
    }

    /// # Safety
    /// The memory of the constants may be written for `'a`, and nothing else uses it.
    pub unsafe fn constants_mut(&self, sizes: &crate::format::Sizes) -> Result<ConstantsMut<'_>> {
        let raw = &self.raw;
        unsafe {
            Ok(match self.spec.is_double_quantized() {
                false => ConstantsMut::F32(buffer_mut(raw.absmax, sizes.absmax_len, &self.field("absmax"))?),
                true => ConstantsMut::Nested {
                    codes: buffer_mut(raw.absmax_codes, sizes.absmax_codes_len, &self.field("absmax_codes"))?,
                    scales: buffer_mut(
                        raw.absmax_scales,
                        sizes.absmax_scales_len,
                        &self.field("absmax_scales"),
                    )?,
                    offset: buffer_mut(raw.absmax_offset, 1, &self.field("absmax_offset"))?,
                },
            })
        }
    }

    /// The sizes of the matrix.
    pub fn sizes(&self) -> Result<crate::format::Sizes> {
        self.shape().map(|(_, _, sizes)| sizes)
    }
}
