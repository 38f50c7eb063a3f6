//! cuBLAS, found at run time: dense products to compare with. (cuBLAS Library, NVIDIA: `cublasGemmEx`,
//! `cublasSetWorkspace`.)

use super::Result;
use super::device::{Gpu, Memory};
use libloading::Library;
use qlora_kernels::DType;
use std::error::Error;
use std::ffi::{OsStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names that work, the newest first.
const NAMES: [&str; 3] = ["libcublas.so.13", "libcublas.so.12", "libcublas.so.11"];
/// What NVIDIA recommends for Hopper; older devices need less. With a workspace of the caller's, a captured graph neither
/// allocates nor shares one with other graphs.
const WORKSPACE: usize = 32 << 20;

const SUCCESS: c_int = 0;
const OP_N: c_int = 0;
const OP_T: c_int = 1;
/// `CUBLAS_COMPUTE_32F`: sums in f32; f32 operands as they are.
const COMPUTE_32F: c_int = 68;
const GEMM_DEFAULT: c_int = -1;

type Handle = *mut c_void;
type Destroy = unsafe extern "C" fn(Handle) -> c_int;
type GemmEx = unsafe extern "C" fn(
    handle: Handle,
    transa: c_int,
    transb: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: *const c_void,
    a: *const c_void,
    a_type: c_int,
    lda: c_int,
    b: *const c_void,
    b_type: c_int,
    ldb: c_int,
    beta: *const c_void,
    c: *mut c_void,
    c_type: c_int,
    ldc: c_int,
    compute: c_int,
    algorithm: c_int,
) -> c_int;

/// The library with a handle on the GPU's stream.
pub struct Cublas {
    handle: Handle,
    gemm: GemmEx,
    destroy: Destroy,
    _workspace: Memory,
    _library: Library,
    /// Where it was found, and its version.
    pub description: String,
}

/// A row-major matrix as a factor.
#[derive(Clone, Copy)]
pub struct Factor {
    address: *mut u8,
    cols: usize,
    is_transposed: bool,
}

impl Factor {
    /// A matrix with rows of `cols` elements, one right after the other.
    pub fn new(address: *mut u8, cols: usize) -> Self {
        Self { address, cols, is_transposed: false }
    }

    pub fn transposed(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }
}

/// `alpha · left·right + beta · out`.
#[derive(Clone, Copy)]
pub struct Scales {
    alpha: f32,
    beta: f32,
}

impl Scales {
    /// Replaces what is there.
    pub fn new(alpha: f32) -> Self {
        Self { alpha, beta: 0.0 }
    }

    /// Adds to it.
    pub fn accumulating(self) -> Self {
        Self { beta: 1.0, ..self }
    }
}

impl Cublas {
    /// The library at `path`, a file or a folder; without one, the first that is found where the system, CUDA and Python's
    /// packages keep it, if any.
    pub fn find(gpu: &Gpu, path: Option<&Path>) -> Result<Option<Self>> {
        let candidates = match path {
            Some(path) if path.is_dir() => NAMES.map(|name| path.join(name)).to_vec(),
            Some(path) => vec![path.to_owned()],
            None => everywhere(),
        };
        let mut errors = Vec::new();
        for candidate in &candidates {
            // SAFETY: cuBLAS's constructors ask nothing of us.
            match unsafe { Library::new(candidate) } {
                Ok(library) => return Self::open(gpu, library, candidate).map(Some),
                Err(error) => errors.push(reason(error)),
            }
        }
        match path {
            Some(_) => Err(format!("--cublas: {}", errors.join("; ")).into()),
            None => Ok(None),
        }
    }

    fn open(gpu: &Gpu, library: Library, path: &Path) -> Result<Self> {
        let workspace = gpu.allocate(WORKSPACE)?;
        let (mut handle, mut version): (Handle, c_int) = (std::ptr::null_mut(), 0);
        // SAFETY: the signatures are those of cublas_api.h; the context is current on this thread; the pointers are valid;
        // the workspace is aligned as allocations are, to 256 bytes, and lives as long as the handle.
        unsafe {
            type Create = unsafe extern "C" fn(*mut Handle) -> c_int;
            type SetStream = unsafe extern "C" fn(Handle, *mut c_void) -> c_int;
            type SetWorkspace = unsafe extern "C" fn(Handle, *mut c_void, usize) -> c_int;
            type GetVersion = unsafe extern "C" fn(Handle, *mut c_int) -> c_int;
            let create = symbol::<Create>(&library, "cublasCreate_v2")?;
            let set_stream = symbol::<SetStream>(&library, "cublasSetStream_v2")?;
            let set_workspace = symbol::<SetWorkspace>(&library, "cublasSetWorkspace_v2")?;
            let get_version = symbol::<GetVersion>(&library, "cublasGetVersion_v2")?;
            let gemm = symbol::<GemmEx>(&library, "cublasGemmEx")?;
            let destroy = symbol::<Destroy>(&library, "cublasDestroy_v2")?;
            check("cublasCreate", create(&mut handle))?;
            let description = path.display().to_string();
            let mut cublas =
                Self { handle, gemm, destroy, _workspace: workspace, _library: library, description };
            check("cublasGetVersion", get_version(handle, &mut version))?;
            cublas.description += &format!(", version {version}");
            // A new stream takes the workspace away, so it comes first.
            check("cublasSetStream", set_stream(handle, gpu.stream.cu_stream().cast()))?;
            let address = cublas._workspace.address(gpu).cast();
            check("cublasSetWorkspace", set_workspace(handle, address, WORKSPACE))?;
            Ok(cublas)
        }
    }

    /// Puts `out[rows, cols] = alpha · left·right + beta · out` over an inner length into the stream; all row-major.
    ///
    /// cuBLAS's matrices are column-major: a row-major one is its transpose to it. So it is asked for
    /// `outᵀ = rightᵀ·leftᵀ`, for which it need not transpose what we do not.
    pub fn multiply(
        &self,
        dtype: DType,
        out: *mut u8,
        [rows, cols, inner]: [usize; 3],
        left: Factor,
        right: Factor,
        Scales { alpha, beta }: Scales,
    ) -> Result<()> {
        let dtype = match dtype {
            DType::F32 => 0,   // CUDA_R_32F
            DType::F16 => 2,   // CUDA_R_16F
            DType::Bf16 => 14, // CUDA_R_16BF
        };
        let int = |size: usize| c_int::try_from(size).map_err(|_| format!("{size} is too large for cuBLAS"));
        let op = |factor: Factor| if factor.is_transposed { OP_T } else { OP_N };
        // SAFETY: the caller's matrices are of these sizes; the scales are on the host, which is the handle's mode.
        let status = unsafe {
            (self.gemm)(
                self.handle,
                op(right),
                op(left),
                int(cols)?,
                int(rows)?,
                int(inner)?,
                (&raw const alpha).cast(),
                right.address.cast(),
                dtype,
                int(right.cols)?,
                left.address.cast(),
                dtype,
                int(left.cols)?,
                (&raw const beta).cast(),
                out.cast(),
                dtype,
                int(cols)?,
                COMPUTE_32F,
                GEMM_DEFAULT,
            )
        };
        check("cublasGemmEx", status)
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // SAFETY: the handle is valid, and nobody else has it.
        unsafe { (self.destroy)(self.handle) };
    }
}

/// # Safety
/// The symbol, if it is there, is a function of type `F`.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F> {
    // SAFETY: as promised by the caller.
    Ok(*unsafe { library.get::<F>(name) }.map_err(reason)?)
}

/// The loader's own words.
fn reason(error: libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), |source| source.to_string())
}

fn check(what: &str, status: c_int) -> Result<()> {
    if status == SUCCESS { Ok(()) } else { Err(format!("{what}: status {status}").into()) }
}

/// Where it may lie: where the loader looks; CUDA's folders; those of the wheels that PyTorch comes with.
fn everywhere() -> Vec<PathBuf> {
    let mut candidates: Vec<PathBuf> = NAMES.map(PathBuf::from).to_vec();
    let mut add = |folder: PathBuf| candidates.extend(NAMES.map(|name| folder.join(name)));
    let variables = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os);
    for root in variables.chain([OsStr::new("/usr/local/cuda").to_owned()]) {
        add(Path::new(&root).join("lib64"));
    }
    for packages in python_path() {
        ["cu13", "cublas"].into_iter().for_each(|of| add(packages.join("nvidia").join(of).join("lib")));
    }
    candidates.retain(|path| path.parent() == Some(Path::new("")) || path.exists());
    candidates
}

/// The folders of Python's packages, if there is Python.
fn python_path() -> Vec<PathBuf> {
    let output = Command::new("python3").args(["-c", "import sys; print(*sys.path, sep='\\n')"]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(PathBuf::from).collect()
}
